"""scripts/deploy.sh: its refusals before and after it asks CloudFormation, and its messages about failures."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from botocore.exceptions import ClientError

from scripts.commands.common.console import nobody_to_ask
from scripts.commands.deploy import command as deploy
from tests.scripts.deploy.change_sets import ACCOUNT, CHANGES, Change, ChangeSets, existing, parameters

# Refusals


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
    """Let Lake Formation rule new objects; `what` is Database, Table or both."""
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


# Change sets


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
    cloudformation.refusal = ClientError(error, "CreateChangeSet")
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


# Failures on the way


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
