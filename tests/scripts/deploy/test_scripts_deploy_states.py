"""scripts/deploy.sh on a stack in each of its states, and beside another deployment."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.factories import session_in
from tests.fake_cloudformation import Stack
from tests.scripts.deploy.change_sets import ChangeSets, existing


def create(cloudformation: ChangeSets, code: int, err: str) -> None:
    assert (code, cloudformation.deleted) == (0, [])
    assert [request["ChangeSetType"] for request in cloudformation.requests] == ["CREATE"]


def update(cloudformation: ChangeSets, code: int, err: str) -> None:
    assert (code, cloudformation.rolled_back) == (0, [])
    assert [request["ChangeSetType"] for request in cloudformation.requests] == ["UPDATE"]


def remove_and_create(cloudformation: ChangeSets, code: int, err: str) -> None:
    assert (code, cloudformation.deleted) == (0, ["sluice"])
    assert [request["ChangeSetType"] for request in cloudformation.requests] == ["CREATE"]


def roll_back_and_update(operation: str) -> Callable[[ChangeSets, int, str], None]:
    def check(cloudformation: ChangeSets, code: int, err: str) -> None:
        assert (code, cloudformation.rolled_back, cloudformation.deleted) == (0, [operation], [])
        assert [request["ChangeSetType"] for request in cloudformation.requests] == ["UPDATE"]

    return check


def leave_alone(words: str) -> Callable[[ChangeSets, int, str], None]:
    def check(cloudformation: ChangeSets, code: int, err: str) -> None:
        assert (code, cloudformation.requests, cloudformation.deleted, cloudformation.rolled_back) == (1, [], [], [])
        assert words in err

    return check


STATUSES = session_in("eu-west-1").get_service_model("cloudformation").shape_for("StackStatus").enum
IN_WORK = {status for status in STATUSES if status.endswith("_IN_PROGRESS")} - {"REVIEW_IN_PROGRESS"}
ANSWERS: dict[str, Callable[[ChangeSets, int, str], None]] = {
    **{
        status: leave_alone(f"error: another deployment or deletion of stack 'sluice' is running ({status}): wait")
        for status in IN_WORK
    },
    **dict.fromkeys(("REVIEW_IN_PROGRESS", "DELETE_COMPLETE"), create),
    **dict.fromkeys(("CREATE_COMPLETE", "UPDATE_COMPLETE", "UPDATE_ROLLBACK_COMPLETE"), update),
    **dict.fromkeys(("IMPORT_COMPLETE", "IMPORT_ROLLBACK_COMPLETE"), update),
    **dict.fromkeys(("CREATE_FAILED", "ROLLBACK_COMPLETE", "ROLLBACK_FAILED", "DELETE_FAILED"), remove_and_create),
    "UPDATE_ROLLBACK_FAILED": roll_back_and_update("continue_update_rollback"),
    "UPDATE_FAILED": roll_back_and_update("rollback_stack"),
    "IMPORT_ROLLBACK_FAILED": leave_alone("is IMPORT_ROLLBACK_FAILED, which no script can repair: read its events"),
}


@pytest.mark.parametrize("status", STATUSES)
def test_a_stack_in_any_state_gets_an_answer(run: Any, status: str) -> None:
    stack = existing(status)
    stack.deletion = [("StoreBucket", "DELETE_SKIPPED", "")]
    cloudformation = ChangeSets(stack)
    code, _, err = run(cloudformation, "--yes")
    ANSWERS[status](cloudformation, code, err)


def half_updated() -> Stack:
    """A stack whose update failed in the core and in a nested stack, and so did the rollback."""
    stack = existing("UPDATE_ROLLBACK_FAILED")
    stack.resources = [
        ("StreamRole", "AWS::IAM::Role", "a-role", "UPDATE_FAILED"),
        ("TransformFunction", "AWS::Lambda::Function", "a-function", "UPDATE_FAILED"),
        ("RefineStack", "AWS::CloudFormation::Stack", nested_half_updated().id, "UPDATE_FAILED"),
    ]
    stack.reasons = {"StreamRole": "it is attached elsewhere", "TransformFunction": "Resource update cancelled"}
    return stack


def nested_half_updated() -> Stack:
    nested = Stack("sluice-RefineStack-1", status="UPDATE_ROLLBACK_FAILED")
    nested.resources = [("RunTable", "AWS::DynamoDB::Table", "a-table", "UPDATE_FAILED")]
    nested.reasons = {"RunTable": "the table is gone"}
    return nested


def test_a_rollback_that_failed_is_continued_once_its_reasons_were_shown_and_somebody_agreed(run: Any) -> None:
    cloudformation = ChangeSets(half_updated(), nested_half_updated())
    code, _, err = run(cloudformation, typed="n\n")
    assert (code, cloudformation.rolled_back, cloudformation.requests) == (1, [], [])
    reasons, question = err.partition("Roll it back to what it was before that update, and then deploy? [y/N]")[:2]
    assert question
    assert "An update of stack 'sluice' has failed halfway (UPDATE_ROLLBACK_FAILED):" in reasons
    assert "  StreamRole (AWS::IAM::Role): it is attached elsewhere" in reasons
    assert "  sluice-RefineStack-1.RunTable (AWS::DynamoDB::Table): the table is gone" in reasons
    assert "TransformFunction" not in reasons
    assert run(cloudformation, "--yes")[0] == 0
    assert (cloudformation.rolled_back, len(cloudformation.executed)) == (["continue_update_rollback"], 1)


def test_a_rollback_that_fails_again_names_what_has_to_be_repaired_or_skipped(run: Any) -> None:
    cloudformation = ChangeSets(half_updated(), nested_half_updated())
    cloudformation.rolls_back_as = "UPDATE_ROLLBACK_FAILED"
    code, _, err = run(cloudformation, "--yes")
    assert (code, cloudformation.requests) == (1, [])
    last = err.splitlines()[-1]
    assert "the rollback failed (UPDATE_ROLLBACK_FAILED): StreamRole (AWS::IAM::Role): it is attached elsewhere" in last
    assert last.endswith(
        "aws cloudformation continue-update-rollback --stack-name sluice "
        "--resources-to-skip StreamRole sluice-RefineStack-1.RunTable"
    )


def test_an_update_whose_rollback_fails_says_that_the_next_deployment_continues_it(run: Any) -> None:
    cloudformation = ChangeSets(existing())
    cloudformation.events = [("TransformFunction", "UPDATE_FAILED", "it is attached elsewhere")]
    cloudformation.ends_as = "UPDATE_ROLLBACK_FAILED"
    last = run(cloudformation, "--yes")[2].splitlines()[-1]
    assert last.endswith("is now UPDATE_ROLLBACK_FAILED: run this again to continue the rollback")


def test_what_was_left_is_removed_only_if_somebody_agrees(run: Any) -> None:
    cloudformation = ChangeSets(existing("ROLLBACK_COMPLETE"))
    code, _, err = run(cloudformation, typed="n\n")
    assert (code, cloudformation.deleted, err.splitlines()[-1]) == (1, [], "error: nothing was changed")
    assert run(cloudformation, typed="y\ny\n")[0] == 0


RUNNING = "error: another deployment or deletion of stack 'sluice' is running (UPDATE_IN_PROGRESS): wait"
CHANGED = "error: another deployment has changed stack 'sluice' in the meantime: run this again to see what is left"


@pytest.mark.parametrize(
    ("operation", "error", "status", "words"),
    [
        ("CreateChangeSet", "ValidationError", "UPDATE_IN_PROGRESS", RUNNING),
        ("DescribeChangeSet", "ChangeSetNotFound", "UPDATE_IN_PROGRESS", RUNNING),
        ("DescribeChangeSet", "ChangeSetNotFound", "UPDATE_COMPLETE", CHANGED),
        ("ExecuteChangeSet", "InvalidChangeSetStatus", "UPDATE_IN_PROGRESS", RUNNING),
        ("ExecuteChangeSet", "InvalidChangeSetStatus", "UPDATE_COMPLETE", CHANGED),
        ("ExecuteChangeSet", "ChangeSetNotFound", "CREATE_COMPLETE", CHANGED),
    ],
)
def test_another_deployment_at_the_same_time_is_told_for_what_it_is(
    run: Any, operation: str, error: str, status: str, words: str
) -> None:
    cloudformation = ChangeSets(existing())
    cloudformation.overtaken = (operation, error, status)
    code, _, err = run(cloudformation, "--yes")
    assert (code, cloudformation.executed, cloudformation.deleted) == (1, [], [])
    assert err.splitlines()[-1].startswith(words)


@pytest.mark.parametrize("error", ["ValidationError", "AlreadyExistsException"])
def test_a_stack_that_somebody_else_has_made_meanwhile_is_told(run: Any, error: str) -> None:
    cloudformation = ChangeSets()
    cloudformation.overtaken = ("CreateChangeSet", error, "CREATE_COMPLETE")
    code, _, err = run(cloudformation, "--yes")
    assert (code, err.splitlines()[-1]) == (1, CHANGED)


def test_the_shell_into_which_somebody_else_has_deployed_is_not_deleted(run: Any) -> None:
    """Two first deployments share the shell of their stack. One of them is declined when the other is done."""
    cloudformation = ChangeSets()
    cloudformation.overtaken = ("ExecuteChangeSet", "ChangeSetNotFound", "CREATE_COMPLETE")
    code, _, err = run(cloudformation, "--yes")
    assert (code, cloudformation.deleted, err.splitlines()[-1]) == (1, [], CHANGED)


def test_the_shell_that_somebody_else_has_removed_meanwhile_is_told(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    cloudformation = ChangeSets()

    def execute_change_set(**_: Any) -> None:
        cloudformation.stacks[0].status = "DELETE_COMPLETE"
        cloudformation.stack("sluice")

    monkeypatch.setattr(cloudformation, "execute_change_set", execute_change_set)
    code, _, err = run(cloudformation, "--yes")
    assert (code, err.splitlines()[-1]) == (1, CHANGED)
