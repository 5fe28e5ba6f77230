"""scripts/deploy.sh: its uploads, and its requests to CloudFormation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError

from scripts.commands.deploy import command as deploy
from tests.fake_cloudformation import Stack
from tests.scripts.deploy.change_sets import ACCOUNT, BUCKET, CHANGES, NO_CHANGES, ChangeSets, existing, parameters

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


# Deployed parts


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
