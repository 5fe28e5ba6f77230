"""A scripted CloudFormation with change sets."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from botocore.exceptions import ClientError

from tests.fake_cloudformation import FakeCloudFormation, Stack

ACCOUNT = "123456789012"
BUCKET = f"sluice-artifacts-{ACCOUNT}-eu-west-1"
NO_CHANGES = "The submitted information didn't contain changes. Submit different information to create a change set."
Event = tuple[str, str, str]
Change = tuple[str, str, str, str]


CHANGES: list[Change] = [
    ("Add", "StoreBucket", "AWS::S3::Bucket", ""),
    ("Add", "TransformFunction", "AWS::Lambda::Function", ""),
    ("Modify", "IngestStage", "AWS::ApiGateway::Stage", "False"),
]
CREATION: list[Event] = [
    ("StoreBucket", "CREATE_IN_PROGRESS", ""),
    ("StoreBucket", "CREATE_COMPLETE", ""),
    ("TransformFunction", "CREATE_COMPLETE", ""),
]


class Created(Stack):
    """A stack made by a change set; CloudFormation gives each stack an id of its own."""

    @property
    def id(self) -> str:
        return super().id.replace("1b1ad1f0", "2c2be2f1")


class ChangeSets(FakeCloudFormation):
    """Makes and executes change sets; `events` has the resulting events, `ends_as` the stack's last status."""

    def __init__(self, *stacks: Stack) -> None:
        super().__init__(*stacks)
        self.changes = CHANGES
        self.events = [*CREATION]
        self.ends_as = ""
        self.rolls_back_as = "UPDATE_ROLLBACK_COMPLETE"
        self.reason = ""  # of a failed change set
        self.refusal: ClientError | None = None
        # Another deployment meanwhile: the call it overtakes, the error, and the status it leaves.
        self.overtaken: tuple[str, str, str] | None = None
        self.rolled_back: list[str] = []
        self.on_describe: Callable[[], None] = lambda: None
        self.requests: list[dict[str, Any]] = []
        self.open: dict[str, list[str]] = {}  # statuses to come, by change set
        self.executed: list[str] = []
        self.protected: dict[str, bool] = {}

    def update_termination_protection(self, StackName: str, EnableTerminationProtection: bool) -> None:
        self.protected[StackName] = EnableTerminationProtection

    def stack(self, name: str) -> Stack:
        return self._find(name, "DescribeStacks")

    def overtake(self, operation: str) -> None:
        if self.overtaken and self.overtaken[0] == operation:
            _, code, status = self.overtaken
            if not self.stacks:
                self.stacks = (Created("sluice"),)
            self.stack("sluice").status = status
            error: Any = {"Error": {"Code": code, "Message": "it was overtaken"}}
            raise ClientError(error, operation)

    def continue_update_rollback(self, StackName: str) -> None:
        self._roll_back("continue_update_rollback", StackName)

    def rollback_stack(self, StackName: str) -> None:
        self._roll_back("rollback_stack", StackName)

    def _roll_back(self, operation: str, name: str) -> None:
        self.rolled_back.append(operation)
        self.stack(name).status = "UPDATE_ROLLBACK_IN_PROGRESS"
        self.stack(name).tell(name.split("/")[1], "UPDATE_ROLLBACK_IN_PROGRESS")

    def create_change_set(self, **request: Any) -> dict[str, str]:
        self.requests.append(request)
        self.overtake("CreateChangeSet")
        if self.refusal:
            raise self.refusal
        name = request["StackName"]
        if request["ChangeSetType"] == "CREATE":
            self.stacks = (*self.stacks, Created(name, status="REVIEW_IN_PROGRESS"))
        identifier = f"arn:changeSet/{request['ChangeSetName']}"
        self.open[identifier] = ["CREATE_PENDING", "CREATE_IN_PROGRESS", "FAILED" if self.reason else "CREATE_COMPLETE"]
        return {"Id": identifier, "StackId": self.stack(name).id}

    def describe_change_set(self, ChangeSetName: str, StackName: str, NextToken: str = "0") -> dict[str, Any]:
        self.overtake("DescribeChangeSet")
        statuses = self.open[ChangeSetName]
        status = statuses.pop(0) if len(statuses) > 1 else statuses[0]
        names = ("Action", "LogicalResourceId", "ResourceType", "Replacement")
        changes = [
            {"Type": "Resource", "ResourceChange": {key: value for key, value in zip(names, one, strict=True) if value}}
            for one in self.changes
        ]
        start = int(NextToken)
        page: dict[str, Any] = {"Status": status, "StatusReason": self.reason, "Changes": changes[start : start + 2]}
        return {**page, "NextToken": str(start + 2)} if start + 2 < len(changes) else page

    def delete_change_set(self, ChangeSetName: str, StackName: str) -> None:
        del self.open[ChangeSetName]

    def execute_change_set(self, ChangeSetName: str, StackName: str, RetainExceptOnCreate: bool) -> None:
        self.overtake("ExecuteChangeSet")
        assert RetainExceptOnCreate, "a failed first deployment would leave an empty bucket"
        del self.open[ChangeSetName]
        self.executed.append(ChangeSetName)
        stack = self.stack(StackName)
        is_new = stack.status == "REVIEW_IN_PROGRESS"
        stack.resources = [(name, kind, f"{name}-id", "") for _, name, kind, _ in self.changes]
        stack.status = "CREATE_IN_PROGRESS" if is_new else "UPDATE_IN_PROGRESS"
        self.ends_as = self.ends_as or ("CREATE_COMPLETE" if is_new else "UPDATE_COMPLETE")
        stack.outputs = {"TrackURL": "https://x.example/prod/track", "BucketName": "the-data"}

    def describe_stacks(self, StackName: str) -> dict[str, Any]:
        stack = self.stack(StackName)
        if stack.status == "UPDATE_ROLLBACK_IN_PROGRESS" and self.rolled_back:
            stack.status = self.rolls_back_as
            stack.tell(stack.name, stack.status)
        if stack.status in ("CREATE_IN_PROGRESS", "UPDATE_IN_PROGRESS") and self.executed:
            self.on_describe()
            if self.events:
                stack.tell(*self.events.pop(0))
            else:
                stack.status = self.ends_as
                stack.tell(stack.name, stack.status)
        return super().describe_stacks(StackName)

    def delete_stack(self, StackName: str) -> None:
        stack = self.stack(StackName)
        is_shell = stack.status == "REVIEW_IN_PROGRESS"
        super().delete_stack(StackName)
        if is_shell:
            stack.status = "DELETE_COMPLETE"


def existing(status: str = "CREATE_COMPLETE", **parameters: str) -> Stack:
    stack = Stack("sluice", status=status, parameters=parameters, outputs={"BucketName": "the-data"})
    stack.tell("StoreBucket", "CREATE_FAILED", "an old story")
    return stack


def parameters(request: dict[str, Any]) -> dict[str, str]:
    return {item["ParameterKey"]: item["ParameterValue"] for item in request["Parameters"]}
