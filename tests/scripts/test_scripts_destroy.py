"""scripts/destroy.sh: a scripted CloudFormation, and buckets in moto."""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError
from fake_cloudformation import FakeAws, FakeCloudFormation, Stack
from moto import mock_aws
from moto.core import DEFAULT_ACCOUNT_ID
from moto.s3.models import s3_backends

from scripts.commands import destroy
from scripts.commands.common.console import CommandError, guarded
from scripts.commands.lake.bucket import Bucket
from tests.factories import session_in, stand_in


def a_stack() -> Stack:
    stack = Stack(
        "sluice",
        parameters={"ArtifactBucket": "sluice-artifacts-1"},
        resources=[
            ("Store", "AWS::S3::Bucket", "the-data", "CREATE_COMPLETE"),
            ("Stream", "AWS::KinesisFirehose::DeliveryStream", "stream-id", "CREATE_COMPLETE"),
            ("Transform", "AWS::Lambda::Function", "function-id", "CREATE_COMPLETE"),
            ("Requeue", "AWS::Lambda::Function", "function-2", "CREATE_COMPLETE"),
        ],
        deletion=[
            ("Stream", "DELETE_COMPLETE", ""),
            ("Transform", "DELETE_COMPLETE", ""),
            ("Requeue", "DELETE_COMPLETE", ""),
            ("Store", "DELETE_SKIPPED", ""),
        ],
    )
    stack.tell("Store", "CREATE_COMPLETE", "an old story")
    return stack


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
    with mock_aws():
        client = boto3.client("s3", region_name="eu-west-1")
        client.create_bucket(Bucket="the-data", CreateBucketConfiguration={"LocationConstraint": "eu-west-1"})
        client.put_object(Bucket="the-data", Key="events/dt=2026-01-01/a.parquet", Body=b"x")
        yield client


@pytest.fixture
def stack() -> Stack:
    return a_stack()


@pytest.fixture
def cloudformation(stack: Stack) -> FakeCloudFormation:
    return FakeCloudFormation(stack)


@pytest.fixture
def run(
    s3: Any, cloudformation: FakeCloudFormation, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., Any]:
    """Run the command with this typed: (exit code, stdout, stderr)."""
    monkeypatch.setattr(destroy, "session", lambda local: FakeAws(cloudformation=cloudformation))
    monkeypatch.setattr("scripts.commands.common.stack.time", stand_in(time, sleep=lambda seconds: None))

    def command(*arguments: str, typed: str = "") -> tuple[int, str, str]:
        monkeypatch.setattr("sys.stdin", io.StringIO(typed))
        code = guarded(destroy.destroy, [*arguments])
        return code, *capsys.readouterr()

    return command


def buckets(s3: Any) -> list[str]:
    return [bucket["Name"] for bucket in s3.list_buckets()["Buckets"]]


def test_the_stack_goes_and_its_data_stays(run: Any, s3: Any, cloudformation: FakeCloudFormation) -> None:
    code, out, err = run(typed="sluice\n")
    assert (code, out) == (0, "")
    assert cloudformation.deleted == ["sluice"]
    assert s3.get_object(Bucket="the-data", Key="events/dt=2026-01-01/a.parquet")["Body"].read() == b"x"
    assert "Your data is still in s3://the-data" in err


def test_it_shows_what_goes_and_what_stays_before_it_asks(run: Any) -> None:
    _, _, err = run(typed="sluice\n")
    shown, _, followed = err.partition("Type the stack's name to delete it (sluice):")
    assert "2 AWS::Lambda::Function" in shown
    assert "1 AWS::KinesisFirehose::DeliveryStream" in shown
    assert "Events still buffered in Firehose are lost" in shown
    goes, _, stays = shown.partition("What stays:")
    assert "the-data" not in goes and "s3://the-data, your data" in stays
    assert "s3://sluice-artifacts-1" in stays
    assert "DELETE" not in shown and "DELETE_SKIPPED" in followed


def test_a_protected_stack_is_not_deleted_and_the_way_out_is_told(run: Any, stack: Stack, cloudformation: Any) -> None:
    stack.is_protected = True
    code, out, err = run("--yes")
    assert (code, out, cloudformation.deleted) == (1, "", [])
    assert "stack 'sluice' is protected from deletion" in err
    assert "update-termination-protection --stack-name sluice --no-enable-termination-protection" in err


def test_the_events_of_the_deletion_are_told_and_no_older_ones(run: Any) -> None:
    _, _, err = run("--yes")
    told = [line.split()[:2] for line in err.splitlines() if line.startswith("DELETE_")]
    assert told == [
        ["DELETE_IN_PROGRESS", "sluice"],
        ["DELETE_COMPLETE", "Stream"],
        ["DELETE_COMPLETE", "Transform"],
        ["DELETE_COMPLETE", "Requeue"],
        ["DELETE_SKIPPED", "Store"],
        ["DELETE_COMPLETE", "sluice"],
    ]
    assert "an old story" not in err


@pytest.mark.parametrize(
    ("typed", "complaint"),
    [
        pytest.param("yes\n", "error: 'yes' is not 'sluice': nothing is deleted", id="something else"),
        pytest.param("\n", "error: '' is not 'sluice': nothing is deleted", id="return"),
    ],
)
def test_without_the_stacks_name_nothing_is_deleted(
    run: Any, s3: Any, cloudformation: FakeCloudFormation, typed: str, complaint: str
) -> None:
    code, _, err = run("--delete-data", typed=typed)
    assert code == 1
    assert err.splitlines()[-1] == complaint
    assert cloudformation.deleted == []
    assert buckets(s3) == ["the-data"]


def test_where_nobody_can_be_asked_nothing_is_deleted(run: Any, cloudformation: FakeCloudFormation) -> None:
    code, _, err = run("--delete-data")
    assert code == 2
    assert err.splitlines()[-1].endswith("stdin is not a terminal to ask at: add --yes to go on without a question")
    assert cloudformation.deleted == []


def test_the_data_is_deleted_when_asked_for_with_every_version(run: Any, s3: Any) -> None:
    s3.put_bucket_versioning(Bucket="the-data", VersioningConfiguration={"Status": "Enabled"})
    for number in range(3):
        s3.put_object(Bucket="the-data", Key="again", Body=str(number).encode())
    s3.delete_object(Bucket="the-data", Key="again")  # leaves a delete marker
    code, _, err = run("--yes", "--delete-data")
    assert code == 0
    assert buckets(s3) == []
    assert "s3://the-data, with every version of every object in it: this cannot be undone" in err
    assert "The bucket the-data is deleted, with 5 objects." in err
    assert "What stays:\n      s3://sluice-artifacts-1" in err


def test_more_objects_than_one_page_holds_are_deleted(s3: Any) -> None:
    kept = s3_backends[DEFAULT_ACCOUNT_ID]["aws"]  # here a thousand take no requests
    for number in range(1005):
        kept.put_object("the-data", f"raw/{number}", b"")
    assert destroy.empty_bucket(Bucket(s3, "the-data")) == 1006
    assert "Contents" not in s3.list_objects_v2(Bucket="the-data")


def test_a_failed_deletion_tells_the_resource_and_its_reason_and_keeps_the_data(
    run: Any, s3: Any, stack: Stack
) -> None:
    stack.deletion = [("Stream", "DELETE_COMPLETE", ""), ("Transform", "DELETE_FAILED", "it is in use")]
    stack.ends_as = "DELETE_FAILED"
    code, _, err = run("--yes", "--delete-data")
    assert code == 1
    assert err.splitlines()[-1] == (
        "error: Transform (AWS::Lambda::Function) could not be deleted: it is in use. "
        "Stack 'sluice' is now DELETE_FAILED: fix that and run this again"
    )
    assert buckets(s3) == ["the-data"]


def test_an_object_that_s3_will_not_delete_is_named() -> None:
    class Refusing:
        def get_paginator(self, operation: str) -> Any:
            assert operation == "list_object_versions"
            return SimpleNamespace(paginate=lambda **_: [{"Versions": [{"Key": "a", "VersionId": "1"}]}])

        def delete_objects(self, **_: Any) -> dict[str, Any]:
            return {"Errors": [{"Key": "a", "Code": "AccessDenied", "Message": "locked"}]}

    with pytest.raises(CommandError, match="s3://b/a cannot be deleted: AccessDenied: locked"):
        destroy.empty_bucket(Bucket(Refusing(), "b"))


def test_a_bucket_that_went_with_the_stack_is_not_looked_for(run: Any, s3: Any, cloudformation: Any) -> None:
    class Thorough(FakeCloudFormation):
        def delete_stack(self, StackName: str) -> None:
            s3.delete_object(Bucket="the-data", Key="events/dt=2026-01-01/a.parquet")
            s3.delete_bucket(Bucket="the-data")
            super().delete_stack(StackName)

    cloudformation.__class__ = Thorough
    code, _, err = run("--yes", "--delete-data")
    assert code == 0
    assert "The bucket the-data went with the stack." in err


def test_a_stack_whose_deletion_failed_before_can_be_deleted_again(
    run: Any, s3: Any, stack: Stack, cloudformation: FakeCloudFormation
) -> None:
    stack.status = "DELETE_FAILED"
    s3.delete_object(Bucket="the-data", Key="events/dt=2026-01-01/a.parquet")
    s3.delete_bucket(Bucket="the-data")
    assert run("--yes")[0] == 0
    assert cloudformation.deleted == ["sluice"]


STATUSES = session_in("eu-west-1").get_service_model("cloudformation").shape_for("StackStatus").enum
BUSY = {status for status in STATUSES if status.endswith("_IN_PROGRESS")}
# A creation may be stopped, and a deletion is followed to its end.
BUSY -= {"CREATE_IN_PROGRESS", "DELETE_IN_PROGRESS", "REVIEW_IN_PROGRESS"}


@pytest.mark.parametrize("status", [status for status in STATUSES if status != "DELETE_COMPLETE"])
def test_a_stack_in_any_state_is_deleted_or_left_until_its_update_has_ended(
    run: Any, stack: Stack, cloudformation: FakeCloudFormation, status: str
) -> None:
    stack.status = status
    code, _, err = run("--yes")
    assert (code, cloudformation.deleted) == ((1, []) if status in BUSY else (0, ["sluice"]))
    assert (f"error: stack 'sluice' is being changed ({status})" in err) == (status in BUSY)


def test_a_stack_that_does_not_exist_is_named_and_nothing_is_asked(run: Any, cloudformation: Any) -> None:
    assert run("--stack-name", "other") == (
        2,
        "",
        "error: stack 'other' does not exist in eu-west-1: deploy it with scripts/deploy.sh --stack-name other\n",
    )
    assert cloudformation.deleted == []


def test_a_bucket_that_may_not_be_looked_at_stops_it_before_anything_is_deleted(
    run: Any, cloudformation: FakeCloudFormation, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Denying:
        def head_bucket(self, Bucket: str) -> None:
            raise ClientError({"Error": {"Code": "403", "Message": "Forbidden"}}, "HeadBucket")

    aws = FakeAws(cloudformation=cloudformation, s3=Denying())
    monkeypatch.setattr(destroy, "session", lambda local: aws)
    code, _, err = run("--yes")
    assert code == 1
    assert err.startswith("error: HeadBucket is not allowed: it takes s3:ListBucket: ask for that permission")
    assert cloudformation.deleted == []


def test_ctrl_c_while_it_is_deleted_says_that_it_goes_on(
    run: Any, stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(_seconds: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("scripts.commands.common.stack.time", stand_in(time, sleep=interrupt))
    code, _, err = run("--yes")
    assert code == 130
    assert "The deletion goes on without this script; see how it ends with scripts/destroy.sh" in err
