"""People with only the analyst's policy, on the local AWS: they ask, and can do nothing else.

Ada and Bob are sessions of one role, as IAM Identity Center makes them; Eve is a user of IAM, in a group.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from botocore.exceptions import ClientError

from scripts.commands import query
from scripts.commands.common import athena as athena_queries
from scripts.commands.common.console import CommandError, guarded
from scripts.commands.common.stack import Aws, Stack
from scripts.commands.deploy import nested
from tests.factories import session_in
from tests.granted import Action, RecordingProcess, of_stack
from tests.local_process import ACCOUNT, eventually, post

pytestmark = pytest.mark.slow

(ANALYST,) = (stack for stack in nested.read() if stack.name == "analyst")
GRANTED = set(of_stack(ANALYST))
# Actions needed by AWS, or on another day, but never seen here, with the reason.
_REFINED = "for tables of refinement, whose partitions stand in the catalog"
_MULTIPART = "Athena uploads large results in parts; the local one writes each object at once"
REASONS: dict[Action, str] = {
    **{
        ("analyst", "AnalystManagedPolicy", "ReadSchema", f"glue:{action}"): _REFINED
        for action in ("GetPartition", "GetPartitions", "BatchGetPartition")
    },
    ("analyst", "AnalystManagedPolicy", "KeepOwnResults", "s3:AbortMultipartUpload"): _MULTIPART,
    ("analyst", "AnalystManagedPolicy", "KeepOwnResults", "s3:ListMultipartUploadParts"): _MULTIPART,
}

TRUST = {"Effect": "Allow", "Principal": {"AWS": f"arn:aws:iam::{ACCOUNT}:root"}, "Action": "sts:AssumeRole"}


class Desk:
    """A stack with two events, one of them rejected, and the analysts at it."""

    def __init__(self, local: RecordingProcess) -> None:
        self.local = local
        self.outputs = local.deploy("AnalystPolicy=EVENTS", "FirehoseBufferingInterval=0", f"KmsKeyArn={local.key()}")
        iam, document = local.client("iam"), json.dumps({"Version": "2012-10-17", "Statement": [TRUST]})
        role = iam.create_role(RoleName="analyst", AssumeRolePolicyDocument=document)["Role"]["Arn"]
        iam.attach_role_policy(RoleName="analyst", PolicyArn=self.outputs["AnalystPolicyArn"])
        iam.create_user(UserName="eve")
        iam.create_group(GroupName="analysts")
        iam.attach_group_policy(GroupName="analysts", PolicyArn=self.outputs["AnalystPolicyArn"])
        iam.add_user_to_group(GroupName="analysts", UserName="eve")
        self.people = {name: self.session(role, name) for name in ("ada", "bob")}
        keys = iam.create_access_key(UserName="eve")["AccessKey"]
        self.people["eve"] = self.person(keys["AccessKeyId"], keys["SecretAccessKey"])
        self.aws = self.people["ada"]
        for value in (100, "abc"):
            post(self.outputs["TrackURL"], json.dumps({"name": "John", "action": "charge", "value": value}).encode())
        bucket = local.bucket(self.outputs["BucketName"])
        self.rejected = eventually(lambda: [*bucket.files("rejected/")])[0].relative_to(bucket.path)
        self.event = eventually(lambda: [*bucket.files("events/")])[0].relative_to(bucket.path)

    def session(self, role: str, name: str) -> Aws:
        taken = self.local.client("sts").assume_role(RoleArn=role, RoleSessionName=name)["Credentials"]
        return self.person(taken["AccessKeyId"], taken["SecretAccessKey"], taken["SessionToken"])

    def person(self, *keys: str) -> Aws:
        return Aws(session_in("us-east-1", *keys), "us-east-1", self.local.endpoint)

    def call(self, service: str, operation: str, **arguments: Any) -> Any:
        """Make a call as Ada; `{BucketName}` and the like are replaced by the stack's outputs."""
        known = {**self.outputs, "rejected": self.rejected, "event": self.event, "own": folder(self.aws)}
        filled = {key: value.format(**known) if isinstance(value, str) else value for key, value in arguments.items()}
        return getattr(self.aws.client(service), operation)(**filled)

    def answer(self, person: str) -> str:
        """The id of an answered query of this person."""
        stack = Stack(self.people[person], "sluice")
        vars(stack)["outputs"] = self.outputs  # a person of this stack may not ask CloudFormation
        where = athena_queries.place(stack)
        sql = f"SELECT name FROM {self.outputs['TableName']}"
        athena = self.people[person].client("athena")
        return str(athena_queries.run(athena, where, self.outputs["DatabaseName"], sql, [])["QueryExecutionId"])


def folder(person: Aws) -> str:
    """Where somebody's results lie."""
    return f"athena-results/{person.client('sts').get_caller_identity()['UserId']}/"


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


# Calls of Athena's console and of BI drivers before somebody types a query.
BROWSING: list[tuple[str, str, dict[str, Any]]] = [
    ("athena", "list_work_groups", {}),
    ("athena", "get_work_group", {"WorkGroup": "{WorkGroupName}"}),
    ("athena", "get_work_group", {"WorkGroup": "{AnalystWorkGroupName}"}),
    ("athena", "list_named_queries", {"WorkGroup": "{AnalystWorkGroupName}"}),
    ("athena", "batch_get_named_query", {"NamedQueryIds": [""]}),
    ("athena", "list_data_catalogs", {}),
    ("athena", "get_data_catalog", {"Name": "AwsDataCatalog"}),
    ("athena", "list_databases", {"CatalogName": "AwsDataCatalog"}),
    ("athena", "get_database", {"CatalogName": "AwsDataCatalog", "DatabaseName": "{DatabaseName}"}),
    ("athena", "list_table_metadata", {"CatalogName": "AwsDataCatalog", "DatabaseName": "{DatabaseName}"}),
    (
        "athena",
        "get_table_metadata",
        {"CatalogName": "AwsDataCatalog", "DatabaseName": "{DatabaseName}", "TableName": "{TableName}"},
    ),
    ("glue", "get_databases", {}),
    ("glue", "get_tables", {"DatabaseName": "{DatabaseName}"}),
    ("s3", "get_bucket_location", {"Bucket": "{BucketName}"}),
    ("s3", "list_objects_v2", {"Bucket": "{BucketName}", "Prefix": "events/"}),
    ("s3", "list_objects_v2", {"Bucket": "{BucketName}", "Prefix": "{own}"}),
]


def browse(desk: Desk) -> None:
    """Make all those calls. Calls missing in the local Athena are allowed, then answered as not implemented."""
    (saved, *_) = desk.call("athena", "list_named_queries", WorkGroup="{WorkGroupName}")["NamedQueryIds"]
    for service, operation, arguments in BROWSING:
        filled = {key: [saved] if key == "NamedQueryIds" else value for key, value in arguments.items()}
        try:
            desk.call(service, operation, **filled)
        except ClientError as error:
            assert "does not implement" in str(error), (operation, arguments)


def test_an_analyst_may_do_what_this_has_seen_used_or_has_its_reason(ask: Any, desk: Desk) -> None:
    assert ask("latest-events")[0] == 0
    browse(desk)
    run = desk.call("athena", "start_query_execution", QueryString="SELECT 1", WorkGroup="{AnalystWorkGroupName}")
    desk.call("athena", "stop_query_execution", QueryExecutionId=run["QueryExecutionId"])
    used = desk.local.used("Analyst", "AnalystManagedPolicy", "analyst")
    assert sorted(GRANTED - used) == sorted(REASONS)


@pytest.mark.parametrize("owner", ["ada", "eve"], ids=["a session of their role", "a user of IAM"])
@pytest.mark.parametrize("reader", ["bob", "eve", "ada"])
def test_each_analyst_reads_their_own_results_and_no_other(desk: Desk, owner: str, reader: str) -> None:
    answered, people = desk.answer(owner), desk.people
    athena, s3, bucket = people[reader].client("athena"), people[reader].client("s3"), desk.outputs["BucketName"]
    key = f"{folder(people[owner])}{answered}.csv"
    assert people[owner].client("s3").get_object(Bucket=bucket, Key=key)["Body"].read() == b'"name"\n"John"\n'
    calls: list[Any] = [
        lambda: athena.get_query_results(QueryExecutionId=answered),
        lambda: s3.get_object(Bucket=bucket, Key=key),
        lambda: s3.put_object(Bucket=bucket, Key=key, Body=b""),
        lambda: s3.list_objects_v2(Bucket=bucket, Prefix=folder(people[owner])),
    ]
    for call in calls:
        if reader == owner:
            call()
        else:
            with pytest.raises(ClientError, match=r"not authorized|AccessDenied"):
                call()


@pytest.mark.parametrize("place", ["athena-results/", "{another}", "events/"])
@pytest.mark.parametrize("person", ["ada", "eve"])
def test_a_query_leaves_its_result_nowhere_but_in_the_folder_of_who_asks(desk: Desk, person: str, place: str) -> None:
    chosen = place.format(another=folder(desk.people["bob"]))
    where = {
        "WorkGroup": desk.outputs["AnalystWorkGroupName"],
        "ResultConfiguration": {"OutputLocation": f"s3://{desk.outputs['BucketName']}/{chosen}"},
    }
    with pytest.raises(CommandError, match="not authorized to perform: s3:PutObject"):
        athena_queries.run(
            desk.people[person].client("athena"), where, desk.outputs["DatabaseName"], "SELECT 1 AS one", []
        )


def test_a_query_without_a_folder_fails_and_shares_nothing(desk: Desk) -> None:
    where = {"WorkGroup": desk.outputs["AnalystWorkGroupName"]}
    with pytest.raises(CommandError, match="not authorized to perform: s3:PutObject"):
        athena_queries.run(desk.aws.client("athena"), where, desk.outputs["DatabaseName"], "SELECT 1 AS one", [])


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
    """Otherwise a misspelled call would count as denied."""
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
        ("s3", "list_objects_v2", {"Bucket": "{BucketName}"}),
        *(
            ("s3", "list_objects_v2", {"Bucket": "{BucketName}", "Prefix": prefix})
            for prefix in ("rejected/", "errors/", "raw/", "athena-results/")
        ),
        ("s3", "list_object_versions", {"Bucket": "{BucketName}", "Prefix": "events/"}),
        ("s3", "put_bucket_policy", {"Bucket": "{BucketName}", "Policy": "{{}}"}),
        ("s3", "list_buckets", {}),
        ("s3", "list_objects_v2", {"Bucket": f"sluice-artifacts-{ACCOUNT}-us-east-1"}),
        ("firehose", "put_record", {"DeliveryStreamName": "{StreamName}", "Record": {"Data": b"{}"}}),
        ("lambda", "invoke", {"FunctionName": "{FunctionName}"}),
        ("lambda", "get_function_configuration", {"FunctionName": "{FunctionName}"}),
        ("glue", "update_table", {"DatabaseName": "{DatabaseName}", "TableInput": {"Name": "records"}}),
        ("glue", "delete_table", {"DatabaseName": "{DatabaseName}", "Name": "{TableName}"}),
        ("athena", "start_query_execution", {"QueryString": "SELECT 1", "WorkGroup": "primary"}),
        ("athena", "start_query_execution", {"QueryString": "SELECT 1", "WorkGroup": "{WorkGroupName}"}),
        ("athena", "list_query_executions", {"WorkGroup": "{AnalystWorkGroupName}"}),
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
