"""How to make a stack fit for deployment, from each of CloudFormation's states.

docs/operating.md#states-of-a-stack tells the same to a person.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime

from botocore.exceptions import ClientError

from scripts.commands.common.cloudformation import StackDescription
from scripts.commands.common.console import CommandError, is_agreed, say
from scripts.commands.common.stack import (
    Aws,
    delete_stack,
    describe_stack,
    is_being_changed,
    is_failure,
    newest_event,
    resources,
    stack_status,
    watch,
)

# A change set was made and never executed, or the stack is gone.
NO_STACK = {"REVIEW_IN_PROGRESS", "DELETE_COMPLETE"}
UPDATABLE = {
    *("CREATE_COMPLETE", "UPDATE_COMPLETE", "UPDATE_ROLLBACK_COMPLETE"),
    *("IMPORT_COMPLETE", "IMPORT_ROLLBACK_COMPLETE"),
}
# CloudFormation only deletes these.
LEFT_OVERS = {"CREATE_FAILED", "ROLLBACK_COMPLETE", "ROLLBACK_FAILED", "DELETE_FAILED"}
# States after an update that failed halfway, each with the call to restore the earlier state.
ROLLBACKS = {"UPDATE_ROLLBACK_FAILED": "continue_update_rollback", "UPDATE_FAILED": "rollback_stack"}
# A call's error codes where somebody else has changed the stack since.
_OVERTAKEN = {"ValidationError", "AlreadyExistsException", "InvalidChangeSetStatus", "ChangeSetNotFound"}
_NEVER: frozenset[str] = frozenset()


def make_updatable(aws: Aws, name: str, *, ask: bool) -> StackDescription | None:
    """Return describe_stack's result once the stack can be updated, or None where it has to be created.

    Removes the remains of a failed creation or deletion, and rolls back a half-failed update; asks before, if it may.

    Raises:
        CommandError: somebody else is changing the stack, the answer was no, or there is no way out from here.
    """
    stack = describe_stack(aws, name)
    if stack is None or stack["StackStatus"] in NO_STACK:
        return None
    status, stack_id = stack["StackStatus"], stack["StackId"]
    if status in UPDATABLE:
        return stack
    if is_being_changed(stack):
        raise _running(aws, name, stack)
    if status in LEFT_OVERS:
        say(f"Stack '{name}' is what a failed deployment or deletion has left ({status}).")
        _confirm("Remove it, and deploy anew?", ask=ask)
        delete_stack(aws, name, stack_id, len(resources(aws, stack_id)))
        return None
    if status in ROLLBACKS:
        _roll_back(aws, name, stack, ask=ask)
        return describe_stack(aws, stack_id)
    raise CommandError(
        f"stack '{name}' is {status}, which no script can repair: read its events in the console of CloudFormation"
    )


@contextmanager
def alone(aws: Aws, name: str, before: StackDescription | None) -> Iterator[None]:
    """Tell it by its name when a call fails because somebody else has changed the stack since it was `before`."""
    try:
        yield
    except ClientError as error:
        if error.response["Error"]["Code"] not in _OVERTAKEN:
            raise
        now = describe_stack(aws, name)
        if now is not None and is_being_changed(now):
            raise _running(aws, name, now) from error
        # The change set is gone, or the shell of a new stack.
        is_gone = error.response["Error"]["Code"] == "ChangeSetNotFound" or "does not exist" in str(error)
        if is_gone or _version(now) != _version(before):
            raise CommandError(
                f"another deployment has changed stack '{name}' in the meantime: run this again to see what is left"
            ) from error
        raise


def _roll_back(aws: Aws, name: str, stack: StackDescription, *, ask: bool) -> None:
    status, stack_id = stack["StackStatus"], stack["StackId"]
    say(f"An update of stack '{name}' has failed halfway ({status}):")
    for reason in _failed(aws, stack_id, "").values():
        say(f"  {reason}")
    _confirm("Roll it back to what it was before that update, and then deploy?", ask=ask)
    newest = newest_event(aws, stack_id)
    getattr(aws.client("cloudformation"), ROLLBACKS[status])(StackName=stack_id)
    for _ in watch(aws, stack_id, newest, (f"Rolling back '{name}'", len(resources(aws, stack_id))), _NEVER):
        pass
    status = stack_status(aws, stack_id)
    if status not in UPDATABLE:
        failed = _failed(aws, stack_id, "")
        raise CommandError(
            f"the rollback failed ({status}): {'; '.join(failed.values()) or 'see its events'}. Remove the cause and "
            f"run this again, or leave these resources as they are with aws cloudformation continue-update-rollback "
            f"--stack-name {name} --resources-to-skip {' '.join(failed)}"
        )


def _failed(aws: Aws, stack_id: str, prefix: str) -> dict[str, str]:
    """The reason for each failed resource of a stack, by its name for continue-update-rollback."""
    found: dict[str, str] = {}
    for part in resources(aws, stack_id):
        if not is_failure(part):
            continue
        name, inner_id = f"{prefix}{part['LogicalResourceId']}", part["PhysicalResourceId"]
        inner: dict[str, str] = {}
        if part["ResourceType"] == "AWS::CloudFormation::Stack":
            inner = _failed(aws, inner_id, f"{inner_id.split('/')[1]}.")
        reason = f"{name} ({part['ResourceType']}): {part.get('ResourceStatusReason', 'no reason given')}"
        found.update(inner or {name: reason})
    return found


def _running(aws: Aws, name: str, stack: StackDescription) -> CommandError:
    # The local AWS forgets what it was doing when it is killed; AWS does not.
    way = ", or start anew with scripts/local.sh reset" if aws.is_local else ""
    return CommandError(
        f"another deployment or deletion of stack '{name}' is running ({stack['StackStatus']}): wait until it has "
        f"ended, and run this again{way}"
    )


def _version(stack: StackDescription | None) -> tuple[str | datetime | None, ...] | None:
    """A value unique to each version of a stack; None for a stack in review, gone or deleted."""
    if stack is None or stack["StackStatus"] in NO_STACK:
        return None
    return stack["StackId"], stack["StackStatus"], stack.get("LastUpdatedTime")


def _confirm(question: str, *, ask: bool) -> None:
    if ask and not is_agreed(question):
        raise CommandError("nothing was changed")
