"""CloudFormation's structures, with the keys that the commands read.

https://docs.aws.amazon.com/AWSCloudFormation/latest/APIReference/API_Types.html
"""

from __future__ import annotations

from datetime import datetime
from typing import NotRequired, TypedDict


class Output(TypedDict):
    """What a stack tells of itself."""

    OutputKey: str
    OutputValue: str


class Parameter(TypedDict):
    """A value that a stack was given."""

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
    """What events and resources of a stack have in common."""

    LogicalResourceId: str
    PhysicalResourceId: NotRequired[str]
    ResourceType: str
    ResourceStatus: str
    ResourceStatusReason: NotRequired[str]


class StackEvent(Happening):
    """One line of a stack's history."""

    EventId: str


class StackResource(TypedDict):
    """A resource that exists: the API's StackResourceSummary."""

    LogicalResourceId: str
    PhysicalResourceId: str
    ResourceType: str
    ResourceStatus: str
    ResourceStatusReason: NotRequired[str]


class ResourceChange(TypedDict):
    """What a change set does to one resource."""

    Action: str
    LogicalResourceId: str
    ResourceType: str
    Replacement: NotRequired[str]
