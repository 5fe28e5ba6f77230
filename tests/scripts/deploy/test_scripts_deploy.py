"""scripts/deploy.sh: a scripted CloudFormation that makes change sets; S3 and STS are moto's."""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError
from fake_cloudformation import FakeAws, FakeCloudFormation, Stack
from moto import mock_aws

from scripts.commands.common import stack
from scripts.commands.common.console import guarded, nobody_to_ask
from scripts.commands.deploy import command as deploy
from tests.factories import stand_in

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
    """A stack that a change set made; CloudFormation gives each stack an id of its own."""

    @property
    def id(self) -> str:
        return super().id.replace("1b1ad1f0", "2c2be2f1")


class ChangeSets(FakeCloudFormation):
    """Makes and executes change sets; `events` is what happens then, `ends_as` the stack's last status."""

    def __init__(self, *stacks: Stack) -> None:
        super().__init__(*stacks)
        self.changes = CHANGES
        self.events = [*CREATION]
        self.ends_as = ""
        self.rolls_back_as = "UPDATE_ROLLBACK_COMPLETE"
        self.reason = ""  # of a change set that fails
        self.refusal: ClientError | None = None
        # What another deployment does meanwhile: the call that it overtakes, the error, and the status it leaves.
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


@pytest.fixture(scope="module")
def clients() -> dict[str, Any]:
    """Made once, as that takes longer than a test; each test has a moto of its own."""
    session = boto3.Session("testing", "testing", region_name="eu-west-1")
    # Whatever other tests have set AWS_ENDPOINT_URL to.
    config = Config(ignore_configured_endpoint_urls=True)
    return {service: session.client(service, config=config) for service in ("s3", "sts", "kms", "lakeformation")}


@pytest.fixture
def s3(clients: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Any]:
    archive = tmp_path / "lambda-python3.13-arm64-0123.zip"
    archive.write_bytes(b"code")
    monkeypatch.setattr(deploy.build, "BUILD", tmp_path)
    monkeypatch.setattr(deploy.build, "build", lambda target: archive)
    with mock_aws():
        yield clients["s3"]


@pytest.fixture
def run(
    s3: Any, clients: dict[str, Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., Any]:
    """Run the command against this CloudFormation, with this typed (None: no terminal): (exit code, stdout, stderr)."""
    for module in (deploy, stack):
        monkeypatch.setattr(module, "time", stand_in(time, sleep=lambda seconds: None))

    def command(
        cloudformation: ChangeSets, *arguments: str, typed: str | None = None, **others: Any
    ) -> tuple[int, str, str]:
        stdin = io.StringIO(typed or "")
        monkeypatch.setattr(stdin, "isatty", lambda: typed is not None)
        monkeypatch.setattr("sys.stdin", stdin)
        aws = FakeAws(**{**clients, "cloudformation": cloudformation, **others})
        monkeypatch.setattr(deploy, "session", lambda local: aws)
        code = guarded(deploy.deploy, [*arguments])
        return code, *capsys.readouterr()

    return command


def parameters(request: dict[str, Any]) -> dict[str, str]:
    return {item["ParameterKey"]: item["ParameterValue"] for item in request["Parameters"]}


# The bucket for code


def test_the_artifact_bucket_is_made_once_private_and_in_the_stacks_region(run: Any, s3: Any) -> None:
    assert "Making the bucket" in run(ChangeSets(), "--yes")[2]
    assert s3.get_bucket_location(Bucket=BUCKET)["LocationConstraint"] == "eu-west-1"
    assert all(s3.get_public_access_block(Bucket=BUCKET)["PublicAccessBlockConfiguration"].values())
    assert "Making the bucket" not in run(ChangeSets(), "--yes")[2]


def test_a_bucket_of_somebody_else_is_not_used(run: Any) -> None:
    class Theirs:
        def head_bucket(self, Bucket: str, ExpectedBucketOwner: str) -> None:
            assert (Bucket, ExpectedBucketOwner) == (BUCKET, ACCOUNT)
            raise ClientError({"Error": {"Code": "403", "Message": "Forbidden"}}, "HeadBucket")

    cloudformation = ChangeSets()
    code, _, err = run(cloudformation, "--yes", s3=Theirs())
    assert code == 1
    assert f"error: bucket '{BUCKET}' cannot be used (403): it must belong to account {ACCOUNT}" in err
    assert cloudformation.requests == []


def test_the_same_code_is_uploaded_once(run: Any, s3: Any) -> None:
    first = ChangeSets()
    run(first, "--yes")
    key = parameters(first.requests[0])["TransformCodeKey"]
    assert s3.get_object(Bucket=BUCKET, Key=key)["Body"].read() == b"code"
    s3.put_object(Bucket=BUCKET, Key=key, Body=b"already there")
    run(ChangeSets(), "--yes")
    assert s3.get_object(Bucket=BUCKET, Key=key)["Body"].read() == b"already there"


def test_the_template_reaches_cloudformation_by_its_url_with_the_deployment_renamed(run: Any, s3: Any) -> None:
    cloudformation = ChangeSets()
    run(cloudformation, "--yes")
    url = cloudformation.requests[0]["TemplateURL"]
    assert url.startswith(f"https://{BUCKET}.s3.eu-west-1.amazonaws.com/template-")
    text = s3.get_object(Bucket=BUCKET, Key=url.rpartition("/")[2])["Body"].read().decode()
    assert "IngestDeployment:" not in text and "  IngestDeployment" in text


def test_a_deployment_parses_the_template_once(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    parsed, load = [], deploy.template.load
    monkeypatch.setattr(deploy.template, "load", lambda text: parsed.append(text) or load(text))
    for cloudformation in (ChangeSets(), ChangeSets(existing())):
        parsed.clear()
        assert run(cloudformation, "--yes")[0] == 0
        assert sum("  IngestApi:" in text for text in parsed) == 1


# What is deployed


def test_a_new_stack_is_made_and_its_outputs_alone_are_on_stdout(run: Any) -> None:
    cloudformation = ChangeSets()
    code, out, err = run(cloudformation, "--yes")
    assert (code, out) == (0, "TrackURL\thttps://x.example/prod/track\nBucketName\tthe-data\n")
    assert cloudformation.requests[0]["ChangeSetType"] == "CREATE"
    assert len(cloudformation.executed) == 1 and cloudformation.open == {}
    assert all(name in err for _, name, _, _ in CHANGES)
    told = [line.split()[:2] for line in err.splitlines() if line.startswith("CREATE_")]
    complete = "CREATE_COMPLETE"
    assert told == [[complete, "StoreBucket"], [complete, "TransformFunction"], [complete, "sluice"]]


def test_an_update_keeps_what_was_set_before_and_forgets_what_the_template_no_longer_has(run: Any) -> None:
    cloudformation = ChangeSets(existing(ThrottleRateLimit="7", LambdaTimeout="99", GoneParameter="x"))
    code, _, err = run(cloudformation, "--yes", "--parameter", "LambdaTimeout=30")
    (request,) = cloudformation.requests
    assert (code, request["ChangeSetType"]) == (0, "UPDATE")
    sent = parameters(request)
    assert (sent["ThrottleRateLimit"], sent["LambdaTimeout"], sent["ThrottleBurstLimit"]) == ("7", "30", "200")
    assert "GoneParameter" not in sent
    assert "an old story" not in err


def test_the_first_stack_has_the_default_database_and_another_one_of_its_own(run: Any) -> None:
    first, second, chosen = ChangeSets(), ChangeSets(), ChangeSets()
    run(first, "--yes")
    run(second, "--yes", "--stack-name", "My-Shop")
    run(chosen, "--yes", "--stack-name", "My-Shop", "--parameter", "AthenaDatabaseName=mine")
    names = [parameters(one.requests[0])["AthenaDatabaseName"] for one in (first, second, chosen)]
    assert names == ["serverless_data_pipeline", "my_shop", "mine"]


def test_an_update_leaves_the_database_of_a_second_stack_as_it_is(run: Any) -> None:
    stack = Stack("other", parameters={"AthenaDatabaseName": "mine"}, outputs={"BucketName": "b"})
    cloudformation = ChangeSets(stack)
    assert run(cloudformation, "--yes", "--stack-name", "other")[0] == 0
    assert parameters(cloudformation.requests[0])["AthenaDatabaseName"] == "mine"


@pytest.mark.parametrize("reason", [NO_CHANGES, "No updates are to be performed."])
def test_nothing_to_change_is_not_a_failure(run: Any, reason: str) -> None:
    cloudformation = ChangeSets(existing())
    cloudformation.reason = reason
    code, out, err = run(cloudformation, "--yes")
    assert (code, out) == (0, "BucketName\tthe-data\n")
    assert "Nothing to change: stack 'sluice' in eu-west-1 is up to date." in err
    assert (cloudformation.open, cloudformation.executed, cloudformation.deleted) == ({}, [], [])


def test_what_a_failed_deployment_left_is_removed_first(run: Any) -> None:
    stack = existing("ROLLBACK_COMPLETE", LambdaTimeout="99")
    cloudformation = ChangeSets(stack)
    code, _, err = run(cloudformation, "--yes")
    assert (code, cloudformation.deleted, stack.status) == (0, ["sluice"], "DELETE_COMPLETE")
    assert "Stack 'sluice' is what a failed deployment or deletion has left (ROLLBACK_COMPLETE)." in err
    (request,) = cloudformation.requests
    assert (request["ChangeSetType"], parameters(request)["LambdaTimeout"]) == ("CREATE", "60")


def test_what_cannot_be_removed_is_said(run: Any) -> None:
    stack = existing("ROLLBACK_COMPLETE")
    stack.resources = [("Role", "AWS::IAM::Role", "a-role", "")]
    stack.deletion, stack.ends_as = [("Role", "DELETE_FAILED", "Cannot delete entity")], "DELETE_FAILED"
    cloudformation = ChangeSets(stack)
    code, _, err = run(cloudformation, "--yes")
    assert code == 1 and "Role (AWS::IAM::Role) could not be deleted: Cannot delete entity" in err
    assert cloudformation.requests == []


# In which state the stack is


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


STATUSES = boto3.client("cloudformation", region_name="eu-west-1").meta.service_model.shape_for("StackStatus").enum
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


# Environments, folders and more saved queries


def test_an_environment_names_the_stack_sets_its_parameters_and_protects_it(run: Any) -> None:
    cloudformation = ChangeSets()
    given = ["--parameter", "ThrottleRateLimit=9"]
    assert run(cloudformation, "--yes", "--environment", "dev", *given)[0] == 0
    (request,) = cloudformation.requests
    sent = parameters(request)
    assert (request["StackName"], sent["AthenaDatabaseName"]) == ("sluice-dev", "sluice_dev")
    assert (sent["ThrottleRateLimit"], sent["LogRetentionInDays"]) == ("9", "7")
    assert cloudformation.protected == {"sluice-dev": False}


def test_prod_without_anybody_to_tell_is_refused_before_anything_is_made(run: Any) -> None:
    cloudformation = ChangeSets()
    code, _, err = run(cloudformation, "--yes", "--environment", "prod")
    assert (code, cloudformation.requests) == (2, [])
    assert "error: environment prod needs ObserveEmail or ObserveTopicArn" in err


def test_an_environment_keeps_what_its_stack_was_given_once(run: Any) -> None:
    email = "oncall@example.com"
    stack = Stack("sluice-prod", parameters={"ObserveEmail": email}, outputs={"BucketName": "b"})
    cloudformation = ChangeSets(stack)
    assert run(cloudformation, "--yes", "--environment", "prod")[0] == 0
    assert parameters(cloudformation.requests[0])["ObserveEmail"] == email
    assert cloudformation.protected == {"sluice-prod": True}


def test_a_folder_becomes_an_artifact_that_its_parameter_names_until_it_is_switched_off(
    run: Any, s3: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("stacks.refine.folder.compile_folder", lambda path: f'"{path.name}"'.encode())
    sent = []
    for arguments in (["--refine", str(tmp_path / "files")], [], ["--refine", "off"]):
        cloudformation = ChangeSets(existing(RefineFilesKey="before.json"))
        assert run(cloudformation, "--yes", *arguments)[0] == 0
        sent.append(parameters(cloudformation.requests[0])["RefineFilesKey"])
    assert s3.get_object(Bucket=BUCKET, Key=sent[0])["Body"].read() == b'"files"'
    assert sent[1:] == ["before.json", ""]


def test_queries_of_another_file_are_saved_beside_those_of_the_project(run: Any, s3: Any, tmp_path: Path) -> None:
    file = tmp_path / "mine.sql"
    file.write_text("-- my-question: How many?\nSELECT count(*) FROM t\n")
    cloudformation = ChangeSets()
    run(cloudformation, "--yes", "--queries", str(file))
    key = cloudformation.requests[0]["TemplateURL"].rpartition("/")[2]
    text = s3.get_object(Bucket=BUCKET, Key=key)["Body"].read().decode()
    assert "QueryMyQuestion:" in text and "QueryLatestEvents:" in text


def test_a_query_of_another_file_may_be_delivered(run: Any, tmp_path: Path) -> None:
    file = tmp_path / "mine.sql"
    file.write_text("-- my-question: How many?\nSELECT count(*) FROM t\n")
    cloudformation = ChangeSets()
    delivery = ("--parameter", "DeliverUrl=https://example.com", "--parameter", "DeliverQuery=my-question")
    code, _, _ = run(cloudformation, "--yes", *delivery, "--queries", str(file))
    assert code == 0 and parameters(cloudformation.requests[0])["DeliverQuery"] == "my-question"


@pytest.mark.parametrize("is_new", [True, False], ids=["given now", "given once"])
def test_a_query_that_does_not_exist_is_not_delivered(run: Any, s3: Any, is_new: bool) -> None:
    given = {"DeliverUrl": "https://example.com", "DeliverQuery": "my-question"}
    cloudformation = ChangeSets() if is_new else ChangeSets(existing(**given))
    options = [f"--parameter={key}={value}" for key, value in given.items()] if is_new else []

    code, out, err = run(cloudformation, "--yes", *options)

    assert (code, out, cloudformation.requests) == (2, "", [])
    assert "DeliverQuery must be the name of a saved query (got 'my-question'): there are " in err
    assert " latest-events, " in err and err.count("\n") == 1
    assert "--queries" in err and s3.list_buckets()["Buckets"] == []


@pytest.mark.parametrize("is_switched_off", [True, False])
def test_the_query_of_a_delivery_that_is_off_is_not_looked_for(run: Any, is_switched_off: bool) -> None:
    before = {"DeliverUrl": "https://example.com" if is_switched_off else "", "DeliverQuery": "my-question"}
    code, _, _ = run(ChangeSets(existing(**before)), "--yes", "--parameter", "DeliverUrl=")
    assert code == 0


# What is refused


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        pytest.param(["--parameter", "LambdaTimeout"], "'LambdaTimeout' is not of the form Key=Value", id="no value"),
        pytest.param(["--parameter", "=3"], "'=3' is not of the form Key=Value", id="no key"),
        pytest.param(["--parameter"], "expected one argument", id="nothing"),
        pytest.param(["--parameter", "Typo=3"], "the template has no parameter 'Typo'", id="unknown parameter"),
        pytest.param(
            ["--parameter", "LambdaTimeout=3w"], "LambdaTimeout must be 10 to 300 seconds (got '3w')", id="bad value"
        ),
        pytest.param(
            ["--parameter", "ArtifactBucket=mine"],
            "ArtifactBucket is filled in by this script: leave 'mine' out",
            id="the bucket",
        ),
        pytest.param(
            ["--parameter", "TransformCodeKey=a.zip"],
            "TransformCodeKey is filled in by this script: leave 'a.zip' out",
            id="the code",
        ),
        pytest.param(["--environment", "prd"], "there is no environment 'prd'", id="unknown environment"),
        pytest.param(["--queries", "no.sql"], "there is no file 'no.sql' with saved queries", id="no such queries"),
        pytest.param(["--queries", "queries.sql"], "has a query 'totals-by-name-and-action', as", id="queries twice"),
        pytest.param(["--stack-name", "a_b"], "'a_b' is not a stack name", id="stack name"),
        pytest.param(["sluice"], "unrecognized arguments: sluice", id="no option"),
    ],
)
def test_wrong_arguments_are_refused_before_the_first_call(run: Any, arguments: list[str], words: str) -> None:
    class NoAws:
        def __getattr__(self, name: str) -> Any:
            raise AssertionError(f"called {name}")

    code, out, err = run(NoAws(), "--yes", *arguments)
    assert (code, out) == (2, "")
    assert err.startswith("error: ") and words in err and err.count("\n") == 1


def test_without_a_terminal_nobody_is_asked_and_nothing_begun(run: Any, s3: Any) -> None:
    cloudformation = ChangeSets()
    code, _, err = run(cloudformation)
    assert (code, err) == (2, f"error: {nobody_to_ask()}\n")
    assert cloudformation.requests == [] and s3.list_buckets()["Buckets"] == []


@pytest.mark.parametrize("parameter", deploy.FIXED_PARAMETERS)
def test_a_parameter_that_decides_where_data_is_does_not_change(
    run: Any, s3: Any, clients: dict[str, Any], parameter: str
) -> None:
    values = {
        "FirehoseS3Prefix": ("a/", "b/"),
        "OutputFormat": ("PARQUET", "JSON"),
        "RawBackup": ("ENABLED", "DISABLED"),
        "KmsKeyArn": (clients["kms"].create_key()["KeyMetadata"]["Arn"], ""),
    }
    before, after = values.get(parameter, ("a", "b"))
    cloudformation = ChangeSets(existing(**{parameter: before}))
    code, _, err = run(cloudformation, "--yes", "--parameter", f"{parameter}={after}")
    assert code == 1
    assert f"{parameter} cannot change from '{before}' to '{after}' on stack 'sluice'" in err
    assert "Deploy a second stack beside it with --stack-name" in err
    assert cloudformation.requests == [] and s3.list_buckets()["Buckets"] == []
    assert run(cloudformation, "--yes", "--parameter", f"{parameter}={before}")[0] == 0


def test_a_key_may_be_given_later_and_stays(run: Any, clients: dict[str, Any]) -> None:
    key = clients["kms"].create_key()["KeyMetadata"]["Arn"]
    cloudformation = ChangeSets(existing(KmsKeyArn=""))
    assert run(cloudformation, "--yes", "--parameter", f"KmsKeyArn={key}")[0] == 0
    assert parameters(cloudformation.requests[0])["KmsKeyArn"] == key


UNUSABLE_KEYS: dict[str, tuple[Callable[[Any, str], str], str]] = {
    "of another region": (lambda _, key: key.replace("eu-west-1", "eu-west-2"), f"of account {ACCOUNT} in eu-west-1"),
    "of another account": (lambda _, key: key.replace(ACCOUNT, "210987654321"), f"of account {ACCOUNT} in eu-west-1"),
    "that does not exist": (lambda _, key: f"{key[:-1]}x", "cannot be used (NotFoundException): it must exist"),
    "that is disabled": (
        lambda kms, key: kms.disable_key(KeyId=key.split("/")[1]) and key,
        "its KeyState is Disabled and must be Enabled",
    ),
    "for signatures": (
        lambda kms, _: kms.create_key(KeySpec="RSA_2048", KeyUsage="SIGN_VERIFY")["KeyMetadata"]["Arn"],
        "its KeySpec is RSA_2048 and must be SYMMETRIC_DEFAULT",
    ),
}


@pytest.mark.parametrize(("spoil", "words"), UNUSABLE_KEYS.values(), ids=UNUSABLE_KEYS)
def test_a_key_that_aws_would_not_use_is_refused_before_anything_is_made(
    run: Any, s3: Any, clients: dict[str, Any], spoil: Callable[[Any, str], str], words: str
) -> None:
    cloudformation, key = ChangeSets(), clients["kms"].create_key()["KeyMetadata"]["Arn"]
    unusable = spoil(clients["kms"], key)
    code, _, err = run(cloudformation, "--yes", "--parameter", f"KmsKeyArn={unusable}")
    assert code == 1
    assert words in err and unusable in err
    assert cloudformation.requests == [] and s3.list_buckets()["Buckets"] == []


# Lake Formation


def rule_new(clients: dict[str, Any], *what: str) -> None:
    """Let Lake Formation rule what is new: Database, Table or both."""
    settings = clients["lakeformation"].get_data_lake_settings()["DataLakeSettings"]
    closed: dict[str, list[Any]] = {f"Create{one}DefaultPermissions": [] for one in what}
    clients["lakeformation"].put_data_lake_settings(DataLakeSettings={**settings, **closed})


@pytest.mark.parametrize("what", [("Database",), ("Table",), ("Database", "Table")], ids="+".join)
def test_where_iam_alone_does_not_rule_nothing_is_made_and_the_way_on_is_told(
    run: Any, s3: Any, clients: dict[str, Any], what: tuple[str, ...]
) -> None:
    rule_new(clients, *what)
    cloudformation = ChangeSets()
    code, _, err = run(cloudformation, "--yes")
    assert (code, cloudformation.requests, s3.list_buckets()["Buckets"]) == (1, [], [])
    assert "error: Lake Formation rules new tables in eu-west-1, so Firehose may not read the table" in err
    assert "tick both 'Use only IAM access control'" in err and "--parameter OutputFormat=JSON" in err


def test_where_iam_alone_does_not_rule_a_stream_without_conversion_is_made(run: Any, clients: dict[str, Any]) -> None:
    rule_new(clients, "Database", "Table")
    code, _, err = run(ChangeSets(), "--yes", "--parameter", "OutputFormat=JSON")
    assert code == 0
    assert "Lake Formation rules new tables in eu-west-1: who queries them needs its grants" in err


def test_where_iam_alone_does_not_rule_a_stack_that_exists_is_updated(run: Any, clients: dict[str, Any]) -> None:
    rule_new(clients, "Database", "Table")
    code, _, err = run(ChangeSets(existing()), "--yes")
    assert code == 0 and "Lake Formation" not in err


def test_who_may_not_ask_lake_formation_deploys_all_the_same(run: Any) -> None:
    class Denying:
        def get_data_lake_settings(self) -> None:
            error: Any = {"Error": {"Code": "AccessDeniedException", "Message": "no"}}
            raise ClientError(error, "GetDataLakeSettings")

    code, _, err = run(ChangeSets(), "--yes", lakeformation=Denying())
    assert code == 0 and "Whether Lake Formation rules new tables is not known" in err


LOSSES = [
    pytest.param(("Modify", "StoreBucket", "AWS::S3::Bucket", "True"), id="another bucket"),
    pytest.param(("Remove", "CatalogEventsTable", "AWS::Glue::Table", ""), id="no table"),
    pytest.param(("Modify", "StreamDelivery", "AWS::KinesisFirehose::DeliveryStream", "True"), id="another stream"),
    pytest.param(("Remove", "CatalogDatabase", "AWS::Glue::Database", ""), id="no database"),
]


@pytest.mark.parametrize("loss", LOSSES)
def test_a_change_set_that_loses_stored_data_is_refused_and_removed(run: Any, loss: Change) -> None:
    cloudformation = ChangeSets(existing())
    cloudformation.changes = [*CHANGES, loss]  # on the second page
    code, out, err = run(cloudformation, "--yes")
    assert (code, out) == (1, "")
    assert f"error: {loss[1]} ({loss[2]}) would be replaced or removed" in err
    assert (cloudformation.open, cloudformation.executed, cloudformation.deleted) == ({}, [], [])


@pytest.mark.parametrize(
    "harmless",
    [
        pytest.param(("Modify", "StoreBucket", "AWS::S3::Bucket", "False"), id="a bucket that stays"),
        pytest.param(("Modify", "StoreBucket", "AWS::S3::Bucket", "Conditional"), id="a bucket that may stay"),
        pytest.param(("Remove", "OldQuery", "AWS::Athena::NamedQuery", ""), id="no data"),
    ],
)
def test_a_change_set_that_loses_no_data_is_executed(run: Any, harmless: Change) -> None:
    cloudformation = ChangeSets(existing())
    cloudformation.changes = [harmless]
    assert run(cloudformation, "--yes")[0] == 0


def test_a_refused_change_set_of_a_new_stack_leaves_no_shell_behind(run: Any) -> None:
    cloudformation = ChangeSets()
    cloudformation.changes = [("Remove", "StoreBucket", "AWS::S3::Bucket", "")]
    assert run(cloudformation, "--yes")[0] == 1
    assert (cloudformation.open, cloudformation.deleted) == ({}, ["sluice"])


def test_what_cloudformation_refuses_is_told_and_leaves_nothing(run: Any) -> None:
    cloudformation = ChangeSets()
    cloudformation.reason = "Parameter validation failed"
    code, _, err = run(cloudformation, "--yes")
    assert (code, err.splitlines()[-1]) == (1, "error: CloudFormation refuses this: Parameter validation failed")
    assert (cloudformation.open, cloudformation.deleted) == ({}, ["sluice"])


@pytest.mark.parametrize(
    ("code", "words"),
    [
        pytest.param("ValidationError", "error: CloudFormation refuses this: a rule does not hold", id="a rule"),
        pytest.param("AccessDenied", "error: CreateChangeSet is not allowed: a rule does not hold", id="no permission"),
    ],
)
def test_a_refused_call_is_told_for_what_it_is(run: Any, code: str, words: str) -> None:
    cloudformation = ChangeSets(existing())
    error = {"Error": {"Code": code, "Message": "a rule does not hold"}}
    cloudformation.refusal = ClientError(error, "CreateChangeSet")  # type: ignore[arg-type]
    exit_code, _, err = run(cloudformation, "--yes")
    assert exit_code == 1 and words in err.splitlines()[-1]


@pytest.mark.parametrize("answer", ["n\n", "\n", "", "yesterday\n"], ids=["no", "enter", "Ctrl-D", "something else"])
def test_a_declined_deployment_leaves_nothing(run: Any, answer: str) -> None:
    new, old = ChangeSets(), ChangeSets(existing())
    for cloudformation in (new, old):
        code, out, err = run(cloudformation, typed=answer)
        assert (code, out, err.splitlines()[-1]) == (1, "", "error: nothing was changed")
        assert (cloudformation.open, cloudformation.executed) == ({}, [])
    assert (new.deleted, old.deleted) == (["sluice"], [])


@pytest.mark.parametrize("answer", ["y\n", "YES\n"])
def test_an_agreed_deployment_is_executed_after_the_changes_were_shown(run: Any, answer: str) -> None:
    cloudformation = ChangeSets()
    code, _, err = run(cloudformation, typed=answer)
    shown, _, followed = err.partition("Deploy these changes to 'sluice'? [y/N]")
    assert code == 0 and "TransformFunction" in shown and "CREATE_COMPLETE" not in shown and followed


# What fails on the way


def test_a_failure_is_told_with_the_resource_that_failed_first(run: Any) -> None:
    cloudformation = ChangeSets()
    cloudformation.events = [
        ("IngestStage", "CREATE_FAILED", "Resource creation cancelled"),
        ("TransformFunction", "CREATE_FAILED", "The role cannot be assumed"),
        ("StoreBucket", "CREATE_FAILED", "Another reason"),
        ("sluice", "ROLLBACK_IN_PROGRESS", "The following resource(s) failed to create: [TransformFunction]"),
    ]
    cloudformation.ends_as = "ROLLBACK_COMPLETE"
    code, out, err = run(cloudformation, "--yes")
    assert (code, out) == (1, "")
    assert err.splitlines()[-1] == (
        "error: TransformFunction (AWS::Lambda::Function): The role cannot be assumed. "
        "Stack 'sluice' is now ROLLBACK_COMPLETE"
    )


def test_ctrl_c_while_cloudformation_works_says_that_it_goes_on(run: Any) -> None:
    cloudformation = ChangeSets(existing())

    def interrupt() -> None:
        raise KeyboardInterrupt

    cloudformation.on_describe = interrupt
    code, _, err = run(cloudformation, "--yes")
    assert code == 130 and len(cloudformation.executed) == 1
    assert "goes on without this script; see how it ends with scripts/deploy.sh --stack-name sluice" in err


def test_ctrl_c_before_that_leaves_nothing(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    cloudformation = ChangeSets()

    def interrupt(**request: str) -> dict[str, Any]:
        raise KeyboardInterrupt

    monkeypatch.setattr(cloudformation, "describe_change_set", interrupt)
    code, _, err = run(cloudformation, "--yes")
    assert code == 130 and "goes on" not in err
    assert (cloudformation.open, cloudformation.deleted) == ({}, ["sluice"])
