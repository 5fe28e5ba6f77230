"""Differences of MiniStack's queues, functions, nested stacks and change sets from AWS, and our corrections of them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import pytest

from local.ministack import Emulator
from local.ministack.corrections import named_errors, whole_batches, without_leftovers

Json = dict[str, Any]


@pytest.mark.parametrize(
    ("operation", "action"),
    [
        ("SendMessageBatch", "sqs:SendMessage"),
        ("DeleteMessageBatch", "sqs:DeleteMessage"),
        ("ChangeMessageVisibilityBatch", "sqs:ChangeMessageVisibility"),
        ("SendMessage", "sqs:SendMessage"),
    ],
)
def test_a_batch_needs_the_permission_of_the_single_call(emulator: Emulator, operation: str, action: str) -> None:
    from ministack.core import iam_actions

    headers = {"x-amz-target": f"AmazonSQS.{operation}", "content-type": "application/x-amz-json-1.0"}

    assert iam_actions.extract_iam_action("sqs", "POST", "/", headers, b"{}", {}) == action


def test_no_other_service_has_its_batches_renamed(emulator: Emulator) -> None:
    from ministack.core import iam_actions

    headers = {"x-amz-target": "Firehose_20150804.PutRecordBatch"}

    assert iam_actions.extract_iam_action("firehose", "POST", "/", headers, b"{}", {}) == "firehose:PutRecordBatch"


@pytest.mark.parametrize(("there", "most", "got"), [(25, 100, 25), (250, 100, 100), (5, 10, 5), (0, 10, 0)])
def test_an_event_source_mapping_gets_as_many_messages_as_it_asks_for(there: int, most: int, got: int) -> None:
    messages: Iterator[dict[str, Any]] = iter([{"id": number} for number in range(there)])

    def ten_at_most(url: str, most: int) -> list[dict[str, Any]]:
        return [message for _, message in zip(range(min(most, 10)), messages, strict=False)]

    assert len(whole_batches(ten_at_most)("queue", most)) == got


LARGEST = 1_048_576


def attributes(**texts: str) -> Json:
    return {name: {"DataType": "String", "StringValue": text} for name, text in texts.items()}


@pytest.mark.parametrize(
    ("body", "more", "is_taken"),
    [
        ("x" * LARGEST, {}, True),
        ("x" * (LARGEST - 10), attributes(why="x"), True),  # three for the name, six for its type
        ("x" * (LARGEST - 9), attributes(why="x"), False),
        ("x" * (LARGEST - 11), attributes(why="\xe9"), True),
        ("x" * (LARGEST - 10), attributes(why="\xe9"), False),
        ("x" * (LARGEST - 12), {"why": {"DataType": "Binary", "BinaryValue": "AAAA"}}, True),
        ("x" * (LARGEST - 11), {"why": {"DataType": "Binary", "BinaryValue": "AAAA"}}, False),
    ],
    ids=["full", "fits", "one over", "two bytes fit", "two bytes over", "binary fits", "binary over"],
)
def test_a_message_has_the_size_of_its_body_and_attributes(
    emulator: Emulator, body: str, more: Json, is_taken: bool
) -> None:
    def call(operation: str, request: Json) -> tuple[int, Json]:
        headers = {"content-type": "application/x-amz-json-1.0"}
        target, body = f"AmazonSQS.{operation}", json.dumps(request).encode()
        status, _, answer = asyncio.run(emulator.call("sqs", "POST", "/", body, target=target, more_headers=headers))
        return status, json.loads(answer or b"{}")

    _, made = call("CreateQueue", {"QueueName": "sizes"})
    message = {"MessageBody": body, "MessageAttributes": more}
    status, answer = call("SendMessage", {**made, **message})
    batch_status, batch = call("SendMessageBatch", {**made, "Entries": [{"Id": "1", **message}]})
    call("DeleteQueue", made)

    assert (status, batch_status) == ((200, 200) if is_taken else (400, 400))
    if not is_taken:
        assert answer["message"].endswith(f"Reason: Message must be shorter than {LARGEST} bytes.")
        assert batch["__type"].endswith("BatchRequestTooLong")


def test_what_did_not_change_in_a_nested_stack_keeps_its_attributes(emulator: Emulator) -> None:
    from ministack.services.cloudformation import _stacks, provisioners

    attributes = {"QueueName": "dead-letters"}
    _stacks["child"] = {"_resources": {"Queue": {"Attributes": attributes}}}
    try:
        same = {"DelaySeconds": 1}
        assert provisioners._update_resource("AWS::SQS::Queue", "url", same, same, "child", "Queue") == (
            "url",
            attributes,
        )
    finally:
        del _stacks["child"]


@pytest.mark.parametrize(
    ("before", "after", "changes"),
    [
        (None, "NONE", [("Add", "Always")]),
        (None, "API_KEY", [("Add", "Always"), ("Add", "Key")]),
        ("NONE", "API_KEY", [("Add", "Key")]),
        ("API_KEY", "NONE", [("Remove", "Key")]),
        ("NONE", "NONE", []),
    ],
)
def test_a_change_set_has_what_is_made_and_removed_by_its_condition(
    emulator: Emulator, before: str | None, after: str, changes: list[tuple[str, str]]
) -> None:
    from ministack.services.cloudformation import changesets

    template = {
        "Conditions": {"UseKey": {"Fn::Equals": [{"Ref": "Auth"}, "API_KEY"]}},
        "Resources": {"Always": {"Type": "AWS::SQS::Queue"}, "Key": {"Type": "AWS::SQS::Queue", "Condition": "UseKey"}},
    }

    def resolved(auth: str | None) -> Json:
        given = {"Auth": {"Value": auth}} if auth else {}
        found: Json = changesets._resolve_props_for_diff(template if auth else {}, given, "stack", "id")
        return found

    found = [change["ResourceChange"] for change in changesets._diff_resources(resolved(before), resolved(after))]
    assert [(change["Action"], change["LogicalResourceId"]) for change in found] == changes


TRACEBACK = 'Traceback (most recent call last):\n  File "handler.py", line 1, in handler\n'


@pytest.mark.parametrize(
    ("log", "name"),
    [
        (f"{TRACEBACK}shared.web.Unreachable: api.example", "Unreachable"),
        (f"{TRACEBACK}KeyError: 'a'\n\nDuring handling, another:\n\n{TRACEBACK}Retry: later\nat once", "Retry"),
        (f"{TRACEBACK}StopIteration", "StopIteration"),
        ("no traceback", "Runtime.HandlerError"),
    ],
    ids=["of a module", "the last of two", "without a message", "unknown"],
)
def test_an_error_of_a_function_has_the_name_of_its_exception(log: str, name: str) -> None:
    answer = {"error": True, "log": log, "body": {"errorType": "Runtime.HandlerError"}}
    assert named_errors(lambda event: answer)("event")["body"]["errorType"] == name


class Stacks(dict[str, Json]):
    """Stacks as MiniStack keeps them, with its handlers of a nested one."""

    def create(self, logical_id: str, properties: Json, parent: str) -> tuple[str, Json]:
        name, fails = f"{parent}-{logical_id}-1", properties["Fails"]
        status = "CREATE_FAILED" if fails else "CREATE_COMPLETE"
        self[name] = {"StackStatus": status, "_parent_stack_name": parent}
        if fails:
            raise ValueError("no role")
        return name, {}

    def remove(self, name: str, properties: Json) -> None:
        self[name]["StackStatus"] = "DELETE_COMPLETE"


def test_a_nested_stack_that_fails_leaves_nothing_behind_and_no_other_is_touched() -> None:
    stacks = Stacks()
    create = without_leftovers(stacks.create, stacks.remove, stacks)
    assert create("Pull", {"Fails": False}, "sluice") == ("sluice-Pull-1", {})
    with pytest.raises(ValueError, match="no role"):
        stacks.create("Deliver", {"Fails": True}, "another")
    with pytest.raises(ValueError, match="no role"):
        create("Deliver", {"Fails": True}, "sluice")
    assert {name: stack["StackStatus"] for name, stack in stacks.items()} == {
        "sluice-Pull-1": "CREATE_COMPLETE",
        "another-Deliver-1": "CREATE_FAILED",
        "sluice-Deliver-1": "DELETE_COMPLETE",
    }


@pytest.mark.parametrize("operation", ["CreateChangeSet", "ExecuteChangeSet"])
@pytest.mark.parametrize(
    ("status", "is_refused"),
    [
        ("UPDATE_IN_PROGRESS", True),
        ("CREATE_IN_PROGRESS", True),
        ("UPDATE_COMPLETE", False),
        ("REVIEW_IN_PROGRESS", False),
    ],
)
def test_a_stack_that_is_being_changed_takes_no_other_change(
    emulator: Emulator, operation: str, status: str, is_refused: bool
) -> None:
    from ministack.services.cloudformation import _stacks

    _stacks["busy"] = {"StackName": "busy", "StackId": "arn:busy", "StackStatus": status, "_resources": {}}
    try:
        body = f"Action={operation}&StackName=busy&ChangeSetName=mine".encode()
        _, _, answer = asyncio.run(emulator.call("cloudformation", "POST", "/", body))
    finally:
        del _stacks["busy"]
    refusal = f"Stack:arn:busy is in {status} state and can not be updated."
    assert (refusal in answer.decode()) == is_refused
