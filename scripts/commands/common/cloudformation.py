"""CloudFormation's structures, with the keys read by the commands.

https://docs.aws.amazon.com/AWSCloudFormation/latest/APIReference/API_Types.html
"""

from __future__ import annotations

from datetime import datetime
from typing import NotRequired, TypedDict


class Output(TypedDict):
    """An output of a stack."""

    OutputKey: str
    OutputValue: str


class Parameter(TypedDict):
    """The value of one of a stack's parameters."""

    ParameterKey: str
    ParameterValue: NotRequired[str]


class StackDescription(TypedDict):
    """A stack, as DescribeStacks has it: the API's Stack."""

    StackName: str
    StackId: str
    StackStatus: str
    StackStatusReason: NotRequired[str]
    CreationTime: datetime
    LastUpdatedTime: NotRequired[datetime]
    EnableTerminationProtection: NotRequired[bool]
    Outputs: NotRequired[list[Output]]
    Parameters: NotRequired[list[Parameter]]


class Happening(TypedDict):
    """The keys shared by a stack's events and resources."""

    LogicalResourceId: str
    PhysicalResourceId: NotRequired[str]
    ResourceType: str
    ResourceStatus: str
    ResourceStatusReason: NotRequired[str]


class StackEvent(Happening):
    """One line of a stack's history."""

    EventId: str


class StackResource(TypedDict):
    """An existing resource: the API's StackResourceSummary."""

    LogicalResourceId: str
    PhysicalResourceId: str
    ResourceType: str
    ResourceStatus: str
    ResourceStatusReason: NotRequired[str]


class ResourceChange(TypedDict):
    """A change set's effect on one resource."""

    Action: str
    LogicalResourceId: str
    ResourceType: str
    Replacement: NotRequired[str]
