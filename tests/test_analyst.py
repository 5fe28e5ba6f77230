"""Somebody who has the analyst's policy and nothing else, on the local AWS: asks, and can do nothing else."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError

from scripts.commands import nested, query
from scripts.commands.console import guarded
from scripts.commands.stack import Aws
from tests.granted import Action, RecordingProcess, of_stack
from tests.local_process import ACCOUNT, eventually, post

pytestmark = pytest.mark.slow

(ANALYST,) = (stack for stack in nested.read() if stack.name == "analyst")
GRANTED = set(of_stack(ANALYST))
# What AWS needs, or another day, and nothing here can see, with the reason.
_REFINED = "for tables of refinement, whose partitions stand in the catalog"
_MULTIPART = "Athena uploads large results in parts; the local one writes each object at once"
REASONS: dict[Action, str] = {
    **{
        ("analyst", "AnalystManagedPolicy", "ReadSchema", f"glue:{action}"): _REFINED
        for action in ("GetPartition", "GetPartitions", "BatchGetPartition")
    },
    ("analyst", "AnalystManagedPolicy", "KeepResults", "s3:AbortMultipartUpload"): _MULTIPART,
    ("analyst", "AnalystManagedPolicy", "KeepResults", "s3:ListMultipartUploadParts"): _MULTIPART,
    ("analyst", "AnalystManagedPolicy", "KeepResults", "s3:GetObject"): (
        "on AWS GetQueryResults reads the result's object as the one who calls it"
    ),
}

TRUST = {"Effect": "Allow", "Principal": {"AWS": f"arn:aws:iam::{ACCOUNT}:root"}, "Action": "sts:AssumeRole"}


class Desk:
    """A stack with two events, one of them rejected, and the analyst at it."""

    def __init__(self, local: RecordingProcess) -> None:
        self.local = local
        self.outputs = local.deploy("AnalystPolicy=EVENTS", "FirehoseBufferingInterval=0", f"KmsKeyArn={local.key()}")
        iam, document = local.client("iam"), json.dumps({"Version": "2012-10-17", "Statement": [TRUST]})
        role = iam.create_role(RoleName="analyst", AssumeRolePolicyDocument=document)["Role"]["Arn"]
        iam.attach_role_policy(RoleName="analyst", PolicyArn=self.outputs["AnalystPolicyArn"])
        taken = local.client("sts").assume_role(RoleArn=role, RoleSessionName="ada")["Credentials"]
        keys = (taken["AccessKeyId"], taken["SecretAccessKey"], taken["SessionToken"])
        self.aws = Aws(boto3.Session(*keys, region_name="us-east-1"), "us-east-1", local.endpoint)
        for value in (100, "abc"):
            post(self.outputs["TrackURL"], json.dumps({"name": "John", "action": "charge", "value": value}).encode())
        bucket = local.bucket(self.outputs["BucketName"])
        self.rejected = eventually(lambda: [*bucket.files("rejected/")])[0].relative_to(bucket.path)
        self.event = eventually(lambda: [*bucket.files("events/")])[0].relative_to(bucket.path)

    def call(self, service: str, operation: str, **arguments: Any) -> Any:
        """A call as the analyst; `{BucketName}` and other outputs of the stack stand for their values."""
        known = {**self.outputs, "rejected": self.rejected, "event": self.event}
        filled = {key: value.format(**known) if isinstance(value, str) else value for key, value in arguments.items()}
        return getattr(self.aws.client(service), operation)(**filled)


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    local = RecordingProcess(tmp_path_factory.mktemp("analyst"))
    local.start()
    try:
        yield Desk(local)
    finally:
        local.stop()


@pytest.fixture
def ask(desk: Desk, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    """scripts/query.sh as the analyst."""
    monkeypatch.setattr(query, "session", lambda _local: desk.aws)

    def run(*arguments: str) -> tuple[int, str, str]:
        code = guarded(query.query, [*arguments])
        return code, *capsys.readouterr()

    return run


def test_an_analyst_runs_saved_queries_and_sql_of_their_own(ask: Any) -> None:
    code, out, err = ask("totals-by-name-and-action", "--format", "csv")
    assert (code, out) == (0, "name,action,events,total_value\nJohn,charge,1,100.0\n"), err
    code, out, _ = ask("--sql", "SELECT count(*) AS n FROM ${AthenaTableName}", "--format", "csv")
    assert (code, out) == (0, "n\n1\n")
    code, out, _ = ask("--list")
    assert code == 0
    assert "latest-events" in out


def test_an_analyst_may_do_what_this_has_seen_used_or_has_its_reason(ask: Any, desk: Desk) -> None:
    assert ask("latest-events")[0] == 0
    run = desk.call("athena", "start_query_execution", QueryString="SELECT 1", WorkGroup="{WorkGroupName}")
    desk.call("athena", "stop_query_execution", QueryExecutionId=run["QueryExecutionId"])
    used = desk.local.used("Analyst", "AnalystManagedPolicy", "analyst")
    assert sorted(GRANTED - used) == sorted(REASONS)


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT count(*) FROM ${AthenaTableName}_rejected",
        "CREATE TABLE mine WITH (format = 'PARQUET', write_compression = 'SNAPPY') AS "
        "SELECT name FROM ${AthenaTableName}",
    ],
    ids=["read what was rejected", "make a table"],
)
def test_a_query_does_no_more_than_the_analyst_may(ask: Any, sql: str) -> None:
    code, out, err = ask("--sql", sql)
    assert (code, out) == (1, "")
    assert "ada is not authorized to perform" in err


def test_what_the_denials_are_about_is_there(desk: Desk) -> None:
    """Or else a call that is spelled wrongly would count as denied."""
    assert desk.call("s3", "get_object", Bucket="{BucketName}", Key="{event}")["ContentLength"] > 0


@pytest.mark.parametrize(
    ("service", "operation", "arguments"),
    [
        ("s3", "get_object", {"Bucket": "{BucketName}", "Key": "{rejected}"}),
        ("s3", "get_object", {"Bucket": "{BucketName}", "Key": "raw/x"}),
        ("s3", "get_object", {"Bucket": "{BucketName}", "Key": "errors/x"}),
        ("s3", "put_object", {"Bucket": "{BucketName}", "Key": "events/x", "Body": b""}),
        ("s3", "delete_object", {"Bucket": "{BucketName}", "Key": "{event}"}),
        ("s3", "delete_object", {"Bucket": "{BucketName}", "Key": "athena-results/x"}),
        ("s3", "put_bucket_policy", {"Bucket": "{BucketName}", "Policy": "{{}}"}),
        ("s3", "list_buckets", {}),
        ("s3", "list_objects_v2", {"Bucket": f"sluice-artifacts-{ACCOUNT}-us-east-1"}),
        ("firehose", "put_record", {"DeliveryStreamName": "{StreamName}", "Record": {"Data": b"{}"}}),
        ("lambda", "invoke", {"FunctionName": "{FunctionName}"}),
        ("lambda", "get_function_configuration", {"FunctionName": "{FunctionName}"}),
        ("glue", "update_table", {"DatabaseName": "{DatabaseName}", "TableInput": {"Name": "records"}}),
        ("glue", "delete_table", {"DatabaseName": "{DatabaseName}", "Name": "{TableName}"}),
        ("athena", "start_query_execution", {"QueryString": "SELECT 1", "WorkGroup": "primary"}),
        ("athena", "update_work_group", {"WorkGroup": "{WorkGroupName}", "ConfigurationUpdates": {}}),
        ("cloudformation", "delete_stack", {"StackName": "{WorkGroupName}"}),
        ("cloudformation", "describe_stacks", {"StackName": "another"}),
        ("cloudformation", "describe_stacks", {}),
        ("apigateway", "get_api_keys", {"includeValues": True}),
        (
            "iam",
            "attach_role_policy",
            {"RoleName": "analyst", "PolicyArn": "arn:aws:iam::aws:policy/AdministratorAccess"},
        ),
        ("sts", "assume_role", {"RoleArn": f"arn:aws:iam::{ACCOUNT}:role/other", "RoleSessionName": "ada"}),
        ("logs", "filter_log_events", {"logGroupName": "x"}),
        ("secretsmanager", "list_secrets", {}),
    ],
    ids=lambda value: value if isinstance(value, str) else ",".join(map(str, value.values()))[:40],
)
def test_an_analyst_can_do_nothing_else(desk: Desk, service: str, operation: str, arguments: dict[str, Any]) -> None:
    with pytest.raises(ClientError) as denied:
        desk.call(service, operation, **arguments)
    assert denied.value.response["Error"]["Code"] in ("AccessDenied", "AccessDeniedException")


def test_an_analyst_of_all_reads_what_was_rejected_too(desk: Desk, ask: Any) -> None:
    """The last test, as it changes the stack."""
    assert ask("rejections")[0] == 1
    desk.local.deploy("AnalystPolicy=ALL")
    code, out, err = ask("rejections", "--format", "csv")
    assert code == 0, err
    assert "not_a_number,1," in out
    with pytest.raises(ClientError, match="not authorized"):
        desk.call("s3", "get_object", Bucket="{BucketName}", Key="raw/x")
