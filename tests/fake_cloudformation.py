"""A CloudFormation of unchanging stacks, or stacks deleted step by step; the rest of AWS is moto's."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from botocore.exceptions import ClientError

from scripts.commands.common.stack import Aws
from tests.factories import session_in

PIPELINE = [
    ("StreamDelivery", "AWS::KinesisFirehose::DeliveryStream", "events-stream", "CREATE_COMPLETE"),
    ("StreamRejects", "AWS::KinesisFirehose::DeliveryStream", "rejects-stream", "CREATE_COMPLETE"),
    ("StreamLogGroup", "AWS::Logs::LogGroup", "stream-log", "CREATE_COMPLETE"),
    ("TransformFunction", "AWS::Lambda::Function", "transform", "CREATE_COMPLETE"),
    ("TransformLogGroup", "AWS::Logs::LogGroup", "transform-log", "CREATE_COMPLETE"),
    ("StoreBucket", "AWS::S3::Bucket", "the-data", "CREATE_COMPLETE"),
]
"""The resources of a core stack used by commands."""


@dataclass
class Stack:
    """One stack. `deletion` is the course of its deletion: events, and at the end the stack's last status."""

    name: str
    status: str = "CREATE_COMPLETE"
    outputs: dict[str, str] = field(default_factory=dict)
    parameters: dict[str, str] = field(default_factory=dict)
    resources: list[tuple[str, str, str | None, str]] = field(default_factory=list)  # logical id, type, id, status
    reasons: dict[str, str] = field(default_factory=dict)  # of the resources' statuses, by logical id
    events: list[dict[str, Any]] = field(default_factory=list)
    deletion: list[tuple[str, str, str]] = field(default_factory=list)  # logical id, status, reason
    ends_as: str = "DELETE_COMPLETE"
    is_protected: bool = False

    @property
    def id(self) -> str:
        return f"arn:aws:cloudformation:eu-west-1:123456789012:stack/{self.name}/1b1ad1f0"

    def tell(self, resource: str, status: str, reason: str = "") -> None:
        kinds = {logical_id: kind for logical_id, kind, _, _ in self.resources}
        self.events.append(
            {
                "EventId": f"{len(self.events)}",
                "LogicalResourceId": resource,
                "PhysicalResourceId": self.id if resource == self.name else f"{resource}-id",
                "ResourceType": kinds.get(resource, "AWS::CloudFormation::Stack"),
                "ResourceStatus": status,
                **({"ResourceStatusReason": reason} if reason else {}),
            }
        )


class FakeCloudFormation:
    """The scripts' calls, as CloudFormation answers them."""

    def __init__(self, *stacks: Stack, page_size: int = 2) -> None:
        self.stacks = stacks
        self.page_size = page_size
        self.deleted: list[str] = []
        self.asked: list[str] = []  # one operation for each page

    def describe_stacks(self, StackName: str) -> dict[str, Any]:
        stack = self._find(StackName, "DescribeStacks")
        if stack.status == "DELETE_IN_PROGRESS":
            if stack.deletion:
                stack.tell(*stack.deletion.pop(0))
            else:
                stack.status = stack.ends_as
                stack.tell(stack.name, stack.status)
        parameters = [{"ParameterKey": key, "ParameterValue": value} for key, value in stack.parameters.items()]
        described: dict[str, Any] = {"StackId": stack.id, "StackName": stack.name, "StackStatus": stack.status}
        if stack.outputs:
            described["Outputs"] = [{"OutputKey": key, "OutputValue": value} for key, value in stack.outputs.items()]
        described["EnableTerminationProtection"] = stack.is_protected
        return {"Stacks": [{**described, "Parameters": parameters}]}

    def delete_stack(self, StackName: str) -> None:
        stack = self._find(StackName, "DeleteStack")
        self.deleted.append(stack.name)
        stack.status = "DELETE_IN_PROGRESS"
        stack.tell(stack.name, "DELETE_IN_PROGRESS", "User Initiated")

    def get_paginator(self, operation: str) -> _Paginator:
        return _Paginator(self, operation)

    def pages(self, operation: str, name: str) -> Iterator[dict[str, Any]]:
        if operation == "describe_stack_events":
            key, items = "StackEvents", self._find(name, "DescribeStackEvents").events[::-1]
        else:
            key, items = "StackResourceSummaries", self._summaries(self._find(name, "ListStackResources"))
        for start in range(0, max(len(items), 1), self.page_size):
            self.asked.append(operation)
            yield {key: items[start : start + self.page_size]}

    def _summaries(self, stack: Stack) -> list[dict[str, Any]]:
        return [
            {
                "LogicalResourceId": logical_id,
                "ResourceType": kind,
                "ResourceStatus": status,
                **({"PhysicalResourceId": physical_id} if physical_id else {}),
                **({"ResourceStatusReason": stack.reasons[logical_id]} if logical_id in stack.reasons else {}),
            }
            for logical_id, kind, physical_id, status in stack.resources
        ]

    def _find(self, name: str, operation: str) -> Stack:
        for stack in self.stacks:
            # A deleted stack is found by its id only.
            if name == stack.id or (name == stack.name and stack.status != "DELETE_COMPLETE"):
                return stack
        message = f"Stack with id {name} does not exist"
        raise ClientError({"Error": {"Code": "ValidationError", "Message": message}}, operation)


@dataclass
class _Paginator:
    cloudformation: FakeCloudFormation
    operation: str

    def paginate(self, StackName: str) -> Iterator[dict[str, Any]]:
        return self.cloudformation.pages(self.operation, StackName)


class FakeAws(Aws):
    """eu-west-1 with these clients; every other client is botocore's own, for moto."""

    def __init__(self, **clients: Any) -> None:
        super().__init__(session_in("eu-west-1"), "eu-west-1")
        object.__setattr__(self, "_clients", clients)

    def client(self, service: str) -> Any:
        clients: dict[str, Any] = getattr(self, "_clients")  # noqa: B009 - a frozen dataclass declares no such field
        return clients[service] if service in clients else super().client(service)
