"""Functions of MiniStack that do otherwise than AWS, or change something unheard: each wrapped by one of ours."""

from __future__ import annotations

import re
from collections.abc import Callable, MutableMapping
from contextlib import suppress
from typing import Any

from local.emulator.access import AccessDenied
from local.emulator.process import ACCOUNT, REGION, Json

Function = Callable[..., Any]


def correct(on_change: Callable[[str], None], authorize: Callable[[str, str, str, str], None]) -> None:
    """Wrap them, once a process; `on_change` gets the name of a service that a thread of MiniStack's has changed, and
    `authorize` is that of `Access`."""
    from ministack.core import iam_actions
    from ministack.services import cloudformation, lambda_svc, s3, sqs, stepfunctions
    from ministack.services.cloudformation import changesets, provisioners

    # Saving follows the calls that come in, and these two go on without one.
    lambda_svc._run_sqs_batch = noting(lambda_svc._run_sqs_batch, lambda: on_change("sqs"))
    stepfunctions._add_event = noting(stepfunctions._add_event, lambda: on_change("stepfunctions"))
    iam_actions.extract_iam_action = single_calls(iam_actions.extract_iam_action)
    sqs._receive_messages_for_esm = whole_batches(sqs._receive_messages_for_esm)
    lambda_svc._execute_function_warm = named_errors(lambda_svc._execute_function_warm)
    changesets._resolve_props_for_diff = conditional(
        changesets._resolve_props_for_diff, changesets._evaluate_conditions
    )
    lambda_svc._emit_lambda_logs = permitted_logs(lambda_svc._emit_lambda_logs, authorize)
    provisioners._update_resource = remembering(provisioners._update_resource, cloudformation._stacks)
    # Of the properties of a bucket, MiniStack's CloudFormation leaves this one out.
    provisioners._S3_BUCKET_CONFIGURATIONS += (
        ("BucketEncryption", encryption_xml, s3._put_bucket_encryption, s3._delete_bucket_encryption),
    )
    nested = provisioners._RESOURCE_HANDLERS["AWS::CloudFormation::Stack"]
    nested["create"] = without_leftovers(nested["create"], nested["delete"], cloudformation._stacks)


def noting(change: Function, note: Callable[[], None]) -> Function:
    """A function that says when it has changed something."""

    def change_and_note(*arguments: Any) -> Any:
        result = change(*arguments)
        note()
        return result

    return change_and_note


def encryption_xml(properties: Json) -> bytes:
    """A bucket's default encryption as PutBucketEncryption takes it."""
    (rule,) = properties["ServerSideEncryptionConfiguration"]
    default = "".join(f"<{name}>{value}</{name}>" for name, value in rule["ServerSideEncryptionByDefault"].items())
    enabled = str(rule.get("BucketKeyEnabled", False)).lower()
    return (
        "<ServerSideEncryptionConfiguration><Rule>"
        f"<ApplyServerSideEncryptionByDefault>{default}</ApplyServerSideEncryptionByDefault>"
        f"<BucketKeyEnabled>{enabled}</BucketKeyEnabled></Rule></ServerSideEncryptionConfiguration>"
    ).encode()


def single_calls(action_of: Function) -> Function:
    """A batch of SQS needs the permission of the single call; MiniStack asks for one that AWS does not know."""
    return lambda *call: re.sub("^(sqs:.+)Batch$", r"\1", action_of(*call) or "") or None


def whole_batches(receive: Callable[[str, int], list[Json]]) -> Callable[[str, int], list[Json]]:
    """An event source mapping gets as many messages as it asks for; MiniStack's gets ten at most."""

    def receive_all(url: str, most: int) -> list[Json]:
        received: list[Json] = []
        while len(received) < int(most) and (more := receive(url, int(most) - len(received))):
            received += more
        return received

    return receive_all


def named_errors(execute: Callable[..., Json]) -> Callable[..., Json]:
    """The type of a function's error is the class of its exception, which the last line of the traceback in its log
    names; MiniStack's is always Runtime.HandlerError."""

    def execute_and_name(*arguments: Any) -> Json:
        answer = execute(*arguments)
        if answer.get("error") and answer["body"].get("errorType") == "Runtime.HandlerError":
            trace = (answer.get("log") or "").rpartition("Traceback (most recent call last):")[2]
            named = re.findall(r"^(?:\w+\.)*(\w+)(?:: |$)", trace, re.MULTILINE)
            answer["body"]["errorType"] = named[0] if named else "Runtime.HandlerError"
        return answer

    return execute_and_name


def conditional(resolve: Callable[..., Json], evaluate: Callable[..., Json]) -> Callable[..., Json]:
    """The template that a change set compares has no resource whose condition is false; MiniStack's has them all."""

    def resolve_those_made(template: Json, parameters: Json, *stack: str) -> Json:
        resolved = resolve(template, parameters, *stack)
        conditions = evaluate(template, parameters)
        made = {
            name: resource
            for name, resource in resolved.get("Resources", {}).items()
            if conditions.get(resource.get("Condition"), True)
        }
        return {**resolved, "Resources": made}

    return resolve_those_made


def permitted_logs(write: Function, authorize: Callable[[str, str, str, str], None]) -> Function:
    """Lambda writes a function's log with the function's role. One that may not is lost, with the metrics that stand
    in it; the function runs on, and nobody is told.

    https://docs.aws.amazon.com/lambda/latest/dg/monitoring-cloudwatchlogs.html
    """

    def write_permitted(function: Json, *more: Any, **named: Any) -> None:
        configuration = function.get("config") or function
        name = configuration["FunctionName"]
        group = (configuration.get("LoggingConfig") or {}).get("LogGroup") or f"/aws/lambda/{name}"
        resource = f"arn:aws:logs:{REGION}:{ACCOUNT}:log-group:{group}:log-stream:*"
        with suppress(AccessDenied):
            for action in ("CreateLogStream", "PutLogEvents"):
                authorize(configuration["Role"], "lambda.amazonaws.com", f"logs:{action}", resource)
            write(function, *more, **named)

    return write_permitted


def remembering(update: Function, stacks: Any) -> Function:
    """A resource that an update leaves as it is keeps its attributes; for one of a nested stack MiniStack leaves out
    what they were."""

    def update_remembering(*arguments: Any) -> Any:
        if len(arguments) == 6:
            stack, logical_id = arguments[4:]
            known: Json = stacks.get_scoped(ACCOUNT, REGION, stack) or {}
            arguments += (known.get("_resources", {}).get(logical_id, {}).get("Attributes"),)
        return update(*arguments)

    return update_remembering


def without_leftovers(create: Function, delete: Function, stacks: MutableMapping[str, Json]) -> Function:
    """A nested stack that cannot be made takes back what it has made so far, since its parent is rolled back;
    MiniStack forgets it there."""

    def create_or_nothing(logical_id: str, properties: Json, parent: str) -> Any:
        try:
            return create(logical_id, properties, parent)
        except Exception:
            for name, stack in list(stacks.items()):
                is_nested = stack.get("_parent_stack_name") == parent and name.startswith(f"{parent}-{logical_id}-")
                if is_nested and stack["StackStatus"] == "CREATE_FAILED":
                    delete(name, {})
            raise

    return create_or_nothing
