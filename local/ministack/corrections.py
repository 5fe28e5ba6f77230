"""Wrappers of MiniStack's functions where they differ from AWS, or change something without notice."""

from __future__ import annotations

import asyncio
import re
from base64 import b64decode
from collections.abc import Callable, Coroutine, MutableMapping
from contextlib import suppress
from dataclasses import replace
from typing import Any

import yaml

from local.ministack.access import AccessDenied
from local.ministack.process import ACCOUNT, REGION, Json

Function = Callable[..., Any]

COUNT_CALLS = "    _ms_install_invoke_depth()\n"
"""The line of MiniStack's script for functions in Python with an import of botocore: each call of a client tells how
deep its function is in a loop of functions."""
COUNT_CALLS_OF_CLIENTS = """
    class Watch:
        def find_spec(self, name, *_):
            if name == "botocore.session":
                sys.meta_path.remove(self)
                _ms_install_invoke_depth()
    sys.meta_path.insert(0, Watch())
    sys.modules["awscrt"] = None
"""
"""Does so at a function's own import of botocore: without one, it starts in a third of the time. Without awscrt, which
is for scripts on AWS, botocore is imported in two thirds of the time."""

MESSAGE_BYTES = 1_048_576
"""SQS's limit for one message, and for all messages of one batch."""


def correct(on_change: Callable[[str], None], authorize: Callable[[str, str, str, str], None]) -> None:
    """Wrap them, once a process; `on_change` gets the name of a service changed by a thread of MiniStack's, and
    `authorize` is `Access.authorize`."""
    from ministack.core import iam_actions, iam_evaluator, lambda_runtime
    from ministack.services import cloudformation, lambda_svc, s3, sqs, stepfunctions
    from ministack.services.cloudformation import changesets, engine, handlers, helpers, provisioners, stacks

    script = lambda_runtime._PYTHON_WORKER_SCRIPT
    lambda_runtime._PYTHON_WORKER_SCRIPT = script.replace(COUNT_CALLS, COUNT_CALLS_OF_CLIENTS)
    engine.CfnLoader = with_libyaml(engine.CfnLoader)
    # Saving follows incoming calls, and these two go on without one.
    lambda_svc._run_sqs_batch = noting(lambda_svc._run_sqs_batch, lambda: on_change("sqs"))
    stepfunctions._add_event = noting(stepfunctions._add_event, lambda: on_change("stepfunctions"))
    iam_actions.extract_iam_action = single_calls(iam_actions.extract_iam_action)
    iam_evaluator._first_match = with_variables(iam_evaluator._first_match, iam_evaluator._resolve_condition_key)
    sqs._receive_messages_for_esm = whole_batches(sqs._receive_messages_for_esm)
    for operation, send in (
        ("SendMessage", sized(sqs._act_send_message, too_long(sqs._get_q, sqs._Err))),
        ("SendMessageBatch", sized(sqs._act_send_message_batch, batch_too_long(sqs._Err))),
    ):
        sqs._HANDLERS[operation] = send
    sqs._act_send_message = sqs._HANDLERS["SendMessage"]  # Step Functions and batches call it by this name
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
    for operation in ("CreateChangeSet", "ExecuteChangeSet"):
        handlers._ACTION_HANDLERS[operation] = one_at_a_time(
            handlers._ACTION_HANDLERS[operation],
            lambda call: handlers._resolve_stack(helpers._p(call, "StackName")) or {},
            lambda message: helpers._error("ValidationError", message),
        )
    nested = provisioners._RESOURCE_HANDLERS["AWS::CloudFormation::Stack"]
    nested["delete"] = deleted_as_a_stack(cloudformation._stacks, stacks._delete_stack_async)
    logs = provisioners._RESOURCE_HANDLERS["AWS::Logs::LogGroup"]
    logs["create"] = named_by_stack(logs["create"], provisioners._physical_name)
    logs["update"] = keeping_name(logs["update"])
    nested["create"] = without_leftovers(nested["create"], nested["delete"], cloudformation._stacks)


def with_libyaml(loader: type[yaml.SafeLoader]) -> type:
    """The loader of templates on libyaml, in a tenth of the time, if PyYAML comes with it."""
    if not yaml.__with_libyaml__:
        return loader
    return type(loader.__name__, (yaml.CSafeLoader,), {"yaml_constructors": loader.yaml_constructors})


def noting(change: Function, note: Callable[[], None]) -> Function:
    """The function, with a call of `note` after it."""

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
    """A batch of SQS needs the permission of the single call; MiniStack asks for one unknown to AWS."""
    return lambda *call: re.sub("^(sqs:.+)Batch$", r"\1", action_of(*call) or "") or None


def with_variables(first_match: Function, value_of: Callable[[str, Any], Any]) -> Function:
    """Policy variables, such as `${aws:userid}`, are replaced by their values; MiniStack takes them for plain text.

    See https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_policies_variables.html. One without a value stays as
    it is, and so matches nothing.
    """

    def first_match_filled(context: Any, statements: list[Any], effect: str) -> Any:
        def fill(node: Any) -> Any:
            if isinstance(node, str):
                return re.sub(r"\$\{([^}]+)\}", lambda found: str(value_of(found[1], context) or found[0]), node)
            if isinstance(node, dict):
                return {key: fill(value) for key, value in node.items()}
            return [*map(fill, node)] if isinstance(node, list) else node

        names = ("resources", "not_resources", "conditions")
        filled = [replace(one, **{name: fill(getattr(one, name)) for name in names}) for one in statements]
        return first_match(context, filled, effect)

    return first_match_filled


def whole_batches(receive: Callable[[str, int], list[Json]]) -> Callable[[str, int], list[Json]]:
    """An event source mapping gets as many messages as it asks for; MiniStack's gets ten at most."""

    def receive_all(url: str, most: int) -> list[Json]:
        received: list[Json] = []
        while len(received) < int(most) and (more := receive(url, int(most) - len(received))):
            received += more
        return received

    return receive_all


def sized(send: Function, check: Callable[[str, int], None]) -> Function:
    """A message has the size of its body and of its attributes' names, types and values; MiniStack's has its body's.

    `check` gets the queue's URL and the bytes of all messages of the call. See
    https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/sqs-message-metadata.html
    """

    def size(message: Json) -> int:
        texts = [message.get("MessageBody") or ""]
        binaries = 0
        for name, value in (message.get("MessageAttributes") or {}).items():
            texts += [name, value.get("DataType", ""), value.get("StringValue") or ""]
            binaries += len(b64decode(value.get("BinaryValue") or ""))
        return binaries + sum(len(text.encode()) for text in texts)

    def send_sized(call: Json, url: str) -> Any:
        check(call.get("QueueUrl", url), sum(map(size, call.get("Entries", [call]))))
        return send(call, url)

    return send_sized


def too_long(queue_of: Function, error: Function) -> Callable[[str, int], None]:
    """Refuses a message of more bytes than its queue takes."""

    def check(url: str, size: int) -> None:
        most = int(queue_of(url, "sqs:SendMessage")["attributes"].get("MaximumMessageSize", MESSAGE_BYTES))
        if size > most:
            reason = f"Message must be shorter than {most} bytes."
            raise error("InvalidParameterValue", f"One or more parameters are invalid. Reason: {reason}")

    return check


def batch_too_long(error: Function) -> Callable[[str, int], None]:
    """Refuses a batch of more bytes than SQS takes."""

    def check(url: str, size: int) -> None:
        if size > MESSAGE_BYTES:
            most = f"Batch requests cannot be longer than {MESSAGE_BYTES} bytes."
            raise error("BatchRequestTooLong", f"{most} You have sent {size} bytes.")

    return check


def named_errors(execute: Callable[..., Json]) -> Callable[..., Json]:
    """The type of a function's error is the class of its exception, named in the last line of the traceback in its
    log; MiniStack's is always Runtime.HandlerError."""

    def execute_and_name(*arguments: Any) -> Json:
        answer = execute(*arguments)
        if answer.get("error") and answer["body"].get("errorType") == "Runtime.HandlerError":
            trace = (answer.get("log") or "").rpartition("Traceback (most recent call last):")[2]
            named = re.findall(r"^(?:\w+\.)*(\w+)(?:: |$)", trace, re.MULTILINE)
            answer["body"]["errorType"] = named[0] if named else "Runtime.HandlerError"
        return answer

    return execute_and_name


def conditional(resolve: Callable[..., Json], evaluate: Callable[..., Json]) -> Callable[..., Json]:
    """A change set leaves out resources whose condition is false; MiniStack compares them all."""

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
    """Lambda writes a function's log with the function's role. Without the permission the log is lost, with the
    metrics in it; the function runs on, and nobody is told.

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
    """A resource unchanged by an update keeps its attributes; for one of a nested stack MiniStack leaves them out."""

    def update_remembering(*arguments: Any) -> Any:
        if len(arguments) == 6:
            stack, logical_id = arguments[4:]
            known: Json = stacks.get_scoped(ACCOUNT, REGION, stack) or {}
            arguments += (known.get("_resources", {}).get(logical_id, {}).get("Attributes"),)
        return update(*arguments)

    return update_remembering


def deleted_as_a_stack(
    stacks: MutableMapping[str, Json], delete: Callable[[str, str], Coroutine[Any, Any, None]]
) -> Function:
    """A nested stack is deleted as any stack is, and stays as long as one of its resources does; MiniStack's is gone,
    whatever could not be deleted."""

    def delete_nested(physical_id: str, _properties: Json) -> None:
        for name, stack in list(stacks.items()):
            if physical_id in (name, stack["StackId"]) and stack["StackStatus"] != "DELETE_COMPLETE":
                asyncio.run(delete(name, stack["StackId"]))
                if stack["StackStatus"] != "DELETE_COMPLETE":
                    reason = stack["StackStatusReason"]
                    raise ValueError(f"Embedded stack {stack['StackId']} was not successfully deleted: {reason}")

    return delete_nested


def without_leftovers(create: Function, delete: Function, stacks: MutableMapping[str, Json]) -> Function:
    """A failed nested stack deletes its resources, since its parent is rolled back; MiniStack forgets it there."""

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


def named_by_stack(create: Function, name_of: Callable[[str, str], str]) -> Function:
    """A log group without a name is named as everything else is: stack, logical id, suffix. MiniStack names it
    /aws/cloudformation/..., outside the policies for deployers of stacks with given names."""

    def create_named(logical_id: str, properties: Json, stack: str) -> Any:
        return create(logical_id, {"LogGroupName": name_of(stack, logical_id), **properties}, stack)

    return create_named


def keeping_name(update: Function) -> Function:
    """A log group without a name in its template keeps the one it has, be it of an older version of this."""

    def update_named(physical_id: str, before: Json, properties: Json, *more: str) -> Any:
        return update(physical_id, before, {"LogGroupName": physical_id, **properties}, *more)

    return update_named


def one_at_a_time(change: Function, stack_of: Callable[[Any], Json], refuse: Callable[[str], Any]) -> Function:
    """A stack takes no other change during a change; MiniStack would carry out both at the same time."""

    def change_or_refuse(call: Any) -> Any:
        stack = stack_of(call)
        status = stack.get("StackStatus", "")
        if status.endswith("_IN_PROGRESS") and status != "REVIEW_IN_PROGRESS":
            return refuse(f"Stack:{stack['StackId']} is in {status} state and can not be updated.")
        return change(call)

    return change_or_refuse
