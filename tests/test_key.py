"""A customer's KMS key: every store of data uses it, and every user of data may use it; without one, none is named."""

from __future__ import annotations

import json
from typing import Any

import pytest

from scripts.commands.deploy import template as templates
from tests.conftest import ROOT
from tests.local_process import LocalProcess, eventually, post
from tests.test_template import RESOURCES, documents, of_type

Json = dict[str, Any]

KEY = "arn:aws:kms:us-east-1:000000000000:key/one"
NOTHING = {"Ref": "AWS::NoValue"}
# By type of resource: where it names the key, and its text there and beside it without one.
KEYED: dict[str, tuple[str, Json]] = {
    "AWS::S3::Bucket": (
        "BucketEncryption.ServerSideEncryptionConfiguration.0.ServerSideEncryptionByDefault.KMSMasterKeyID",
        {"SSEAlgorithm": "AES256"},
    ),
    "AWS::KinesisFirehose::DeliveryStream": (
        "DeliveryStreamEncryptionConfigurationInput.KeyARN",
        {"KeyType": "AWS_OWNED_CMK"},
    ),
    "AWS::Athena::WorkGroup": (
        "WorkGroupConfiguration.ResultConfiguration.EncryptionConfiguration.KmsKey",
        {"EncryptionOption": "SSE_S3"},
    ),
    "AWS::Logs::LogGroup": ("KmsKeyId", {}),
    "AWS::SecretsManager::Secret": ("KmsKeyId", {}),
    "AWS::SNS::Topic": ("KmsMasterKeyId", {}),
    "AWS::SQS::Queue": ("KmsMasterKeyId", {}),
}
# Stores of data without a key: docs/security.md says why, under these words.
WITHOUT_A_KEY = {
    "AWS::DynamoDB::Table": "tables of checkpoints",
    "AWS::Lambda::Function": "Code and settings of the functions",
    "AWS::Scheduler::Schedule": "Schedules",
    "AWS::StepFunctions::StateMachine": "state machines",
}
STORES_NOTHING = (
    *("AWS::ApiGateway::", "AWS::Athena::NamedQuery", "AWS::CloudWatch::", "AWS::Glue::", "AWS::IAM::"),
    *("AWS::Lambda::EventSourceMapping", "AWS::Logs::LogStream", "AWS::S3::BucketPolicy", "AWS::SNS::Subscription"),
)
# Each of these reads or writes data under the key.
TOUCHES = {
    *("athena:GetQueryResults", "athena:StartQueryExecution", "firehose:PutRecord", "firehose:PutRecordBatch"),
    *("logs:PutLogEvents", "s3:GetObject", "s3:PutObject", "secretsmanager:GetSecretValue"),
    *("sqs:ReceiveMessage", "sqs:SendMessage"),
}
IDENTITIES = of_type("AWS::IAM::Role", "AWS::IAM::ManagedPolicy")


def resolved(node: Any, key: str) -> Any:
    """A part of a template with this key, or without one where it is empty; every other condition stays as it is."""
    if isinstance(node, list):
        return [item for item in (resolved(item, key) for item in node) if item != NOTHING]
    if not isinstance(node, dict):
        return node
    if node == {"Ref": "KmsKeyArn"}:
        return key
    if node.get("Fn::If", [""])[0] == "HasKmsKeyArn":
        return resolved(node["Fn::If"][1 if key else 2], key)
    found = {name: resolved(value, key) for name, value in node.items()}
    return {name: value for name, value in found.items() if value != NOTHING}


def follow(node: Any, path: str) -> Any:
    for name in path.split("."):
        node = node[int(name)] if isinstance(node, list) else node.get(name, {})
    return node


@pytest.mark.parametrize("name", of_type(*KEYED))
def test_with_a_key_all_that_stores_data_uses_it(name: str) -> None:
    path, beside = KEYED[RESOURCES[name]["Type"]]
    found = resolved(RESOURCES[name]["Properties"], KEY)
    assert follow(found, path) == KEY, f"give {name} {path}: !If [HasKmsKeyArn, !Ref KmsKeyArn, ...], as others have"
    place = follow(found, path.rpartition(".")[0]) if "." in path else found
    assert all(place[setting] != value for setting, value in beside.items()), "AWS refuses a key beside its own"
    assert place.get("SqsManagedSseEnabled") in (None, False)


def test_with_a_key_a_bucket_asks_for_it_seldom() -> None:
    found = resolved(RESOURCES["StoreBucket"]["Properties"], KEY)
    assert follow(found, "BucketEncryption.ServerSideEncryptionConfiguration.0.BucketKeyEnabled") is True


@pytest.mark.parametrize("name", of_type(*KEYED))
def test_without_a_key_the_keys_are_those_of_aws(name: str) -> None:
    path, beside = KEYED[RESOURCES[name]["Type"]]
    found = resolved(RESOURCES[name]["Properties"], "")
    before, _, last = path.rpartition(".")
    place = follow(found, before) if before else found
    assert place.get(last) in (None, "alias/aws/sqs")
    assert place == beside if before else "KmsKeyArn" not in json.dumps(place)


@pytest.mark.parametrize("name", RESOURCES)
def test_without_a_key_no_resource_says_anything_of_one(name: str) -> None:
    text = json.dumps(resolved(RESOURCES[name], ""))
    assert "kms:" not in text and "KmsKeyArn" not in text and "BucketKeyEnabled" not in text


@pytest.mark.parametrize("kind", sorted({resource["Type"] for resource in RESOURCES.values()} - {*KEYED}))
def test_what_has_no_key_stores_no_data_or_stands_in_the_docs(kind: str) -> None:
    assert "KmsKeyArn" not in json.dumps([RESOURCES[name].get("Properties") for name in of_type(kind)]) or (
        kind.startswith("AWS::IAM::")
    )
    if not kind.startswith(STORES_NOTHING):
        assert kind in WITHOUT_A_KEY, f"add {kind} to KEYED, STORES_NOTHING or WITHOUT_A_KEY in this file"
        named = WITHOUT_A_KEY[kind]
        assert named in (ROOT / "docs" / "security.md").read_text(), f"name the {named} in docs/security.md"


@pytest.mark.parametrize("name", IDENTITIES)
def test_who_touches_data_may_use_that_key_and_no_other(name: str) -> None:
    actions: set[str] = set()
    of_keys = []
    for document in documents(resolved(RESOURCES[name]["Properties"], KEY)):
        for one in document["Statement"]:
            one = one["Fn::If"][1] if "Fn::If" in one else one
            granted = one["Action"] if isinstance(one["Action"], list) else [one["Action"]]
            actions |= {*granted} if one["Effect"] == "Allow" else set()
            of_keys += [one] if any(action.startswith("kms:") for action in granted) else []
    use = {"Sid": "UseKey", "Effect": "Allow", "Action": ["kms:Decrypt", "kms:GenerateDataKey"], "Resource": KEY}
    assert of_keys == ([use] if actions & TOUCHES else []), f"{name}: a statement UseKey, if it touches data"


def test_the_key_of_the_example_is_kept_turned_over_and_lent_to_nobody_else() -> None:
    key = templates.load((ROOT / "examples" / "key.yaml").read_text())["Resources"]["SluiceKey"]
    assert key["DeletionPolicy"] == key["UpdateReplacePolicy"] == "Retain"
    assert key["Properties"]["EnableKeyRotation"] is True
    root, logs, alarms = key["Properties"]["KeyPolicy"]["Statement"]
    assert root["Principal"] == {"AWS": {"Fn::Sub": "arn:${AWS::Partition}:iam::${AWS::AccountId}:root"}}
    assert logs["Principal"] == {"Service": {"Fn::Sub": "logs.${AWS::Region}.${AWS::URLSuffix}"}}
    group = {"Fn::Sub": "arn:${AWS::Partition}:logs:${AWS::Region}:${AWS::AccountId}:log-group:*"}
    assert logs["Condition"] == {"ArnLike": {"kms:EncryptionContext:aws:logs:arn": group}}
    assert alarms["Principal"] == {"Service": "cloudwatch.amazonaws.com"}
    assert alarms["Condition"] == {"StringEquals": {"aws:SourceAccount": {"Ref": "AWS::AccountId"}}}


@pytest.mark.slow
def test_under_a_key_of_the_example_an_event_becomes_a_row(tmp_path: Any) -> None:
    with LocalProcess(tmp_path) as local:
        key = local.key()
        outputs = local.deploy(f"KmsKeyArn={key}", "FirehoseBufferingInterval=0")
        assert post(outputs["TrackURL"], b'{"event_id": "under-a-key", "name": "x"}')[0] == 202
        bucket = local.bucket(outputs["BucketName"])
        eventually(lambda: "under-a-key" in bucket.event_ids())
        (row,) = bucket.files("events/")
        found = local.client("s3").head_object(
            Bucket=outputs["BucketName"], Key=row.relative_to(bucket.path).as_posix()
        )
        assert (found["ServerSideEncryption"], found["SSEKMSKeyId"]) == ("aws:kms", key)
