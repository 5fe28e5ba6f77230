"""Where MiniStack's queues and nested stacks differ from AWS, and what the emulator does about it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from local.emulator import Emulator, whole_batches


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
    headers = {"x-amz-target": f"AmazonSQS.{operation}", "content-type": "application/x-amz-json-1.0"}

    assert emulator._iam_actions.extract_iam_action("sqs", "POST", "/", headers, b"{}", {}) == action


def test_no_other_service_has_its_batches_renamed(emulator: Emulator) -> None:
    headers = {"x-amz-target": "Firehose_20150804.PutRecordBatch"}

    assert emulator._iam_actions.extract_iam_action("firehose", "POST", "/", headers, b"{}", {}) == (
        "firehose:PutRecordBatch"
    )


@pytest.mark.parametrize(("there", "most", "got"), [(25, 100, 25), (250, 100, 100), (5, 10, 5), (0, 10, 0)])
def test_an_event_source_mapping_gets_as_many_messages_as_it_asks_for(there: int, most: int, got: int) -> None:
    messages: Iterator[dict[str, Any]] = iter([{"id": number} for number in range(there)])

    def ten_at_most(url: str, most: int) -> list[dict[str, Any]]:
        return [message for _, message in zip(range(min(most, 10)), messages, strict=False)]

    assert len(whole_batches(ten_at_most)("queue", most)) == got


def test_what_did_not_change_in_a_nested_stack_keeps_its_attributes(emulator: Emulator) -> None:
    from ministack.services.cloudformation import provisioners

    attributes = {"QueueName": "dead-letters"}
    emulator._stacks["child"] = {"_resources": {"Queue": {"Attributes": attributes}}}
    try:
        same = {"DelaySeconds": 1}
        assert provisioners._update_resource("AWS::SQS::Queue", "url", same, same, "child", "Queue") == (
            "url",
            attributes,
        )
    finally:
        del emulator._stacks["child"]
