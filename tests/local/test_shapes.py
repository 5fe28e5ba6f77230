"""Each property of our templates has a place in the call of AWS behind it, and a valid value for the call.

One table says where every property lands. The calls are checked against botocore's models, and the resolved templates
against the registry's schemas in cfn-lint. The body of the API has a test of its own.
"""

from __future__ import annotations

import contextlib
import copy
import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
from cfnlint.config import ConfigMixIn
from cfnlint.decode.decode import decode_str
from cfnlint.runner import Runner

from local.firehose.configuration import IMPLEMENTED
from local.shapes import conform, input_of
from scripts.commands.deploy import nested
from scripts.commands.deploy import template as templates
from scripts.commands.deploy.deployed import deployed
from tests.conftest import ROOT
from tests.resolved import Resolver

Json = dict[str, Any]

# Property -> call and member. The rest of a path is the same in both, whatever its case. An empty property stands for
# all others, `[]` for each item of a list, and `=` at the end for JSON as text. A call with `[]` is made for each item.
# A property without a place in a call has a reason instead.
PLACES: dict[str, dict[str, str]] = {
    "AWS::ApiGateway::ApiKey": {"": "apigateway.CreateApiKey"},
    "AWS::ApiGateway::Deployment": {"": "apigateway.CreateDeployment"},
    "AWS::ApiGateway::RestApi": {
        "": "apigateway.CreateRestApi",
        "Body": "apigateway.PutRestApi body=",
    },
    "AWS::ApiGateway::Stage": {
        "": "apigateway.CreateStage",
        "MethodSettings": "- patches of UpdateStage, whose paths and values are texts",
    },
    "AWS::ApiGateway::UsagePlan": {"": "apigateway.CreateUsagePlan"},
    "AWS::ApiGateway::UsagePlanKey": {"": "apigateway.CreateUsagePlanKey"},
    "AWS::Athena::NamedQuery": {"": "athena.CreateNamedQuery"},
    "AWS::Athena::WorkGroup": {
        "": "athena.CreateWorkGroup",
        "WorkGroupConfiguration": "athena.CreateWorkGroup Configuration",
        "RecursiveDeleteOption": "athena.DeleteWorkGroup RecursiveDeleteOption",
    },
    "AWS::CloudFormation::Stack": {
        "": "cloudformation.CreateStack",
        "Parameters": "- a map of names and values, which CreateStack takes as pairs",
    },
    "AWS::CloudWatch::Alarm": {"": "cloudwatch.PutMetricAlarm"},
    "AWS::CloudWatch::Dashboard": {"": "cloudwatch.PutDashboard"},
    "AWS::DynamoDB::Table": {
        "": "dynamodb.CreateTable",
        "PointInTimeRecoverySpecification": "dynamodb.UpdateContinuousBackups PointInTimeRecoverySpecification",
        "TimeToLiveSpecification": "dynamodb.UpdateTimeToLive TimeToLiveSpecification",
    },
    "AWS::Glue::Database": {"": "glue.CreateDatabase"},
    "AWS::Glue::Table": {"": "glue.CreateTable"},
    "AWS::IAM::ManagedPolicy": {"": "iam.CreatePolicy", "PolicyDocument": "iam.CreatePolicy PolicyDocument="},
    "AWS::IAM::Policy": {
        "": "iam.PutRolePolicy",
        "PolicyDocument": "iam.PutRolePolicy PolicyDocument=",
        "Roles[]": "iam.PutRolePolicy RoleName",
    },
    "AWS::IAM::Role": {
        "": "iam.CreateRole",
        "AssumeRolePolicyDocument": "iam.CreateRole AssumeRolePolicyDocument=",
        "Policies[]": "iam.PutRolePolicy[]",
        "Policies[].PolicyDocument": "iam.PutRolePolicy[] PolicyDocument=",
    },
    "AWS::KMS::Key": {
        "": "kms.CreateKey",
        "EnableKeyRotation": "- a call that takes nothing but the key",
        "KeyPolicy": "kms.CreateKey Policy=",
    },
    "AWS::KinesisFirehose::DeliveryStream": {"": "firehose.CreateDeliveryStream"},
    "AWS::Lambda::EventSourceMapping": {"": "lambda.CreateEventSourceMapping"},
    "AWS::Lambda::Function": {"": "lambda.CreateFunction"},
    "AWS::Logs::LogGroup": {"": "logs.CreateLogGroup", "RetentionInDays": "logs.PutRetentionPolicy RetentionInDays"},
    "AWS::Logs::LogStream": {"": "logs.CreateLogStream"},
    "AWS::S3::Bucket": {
        "": "s3.CreateBucket",
        **{
            f"BucketEncryption.ServerSideEncryptionConfiguration{end}": (
                f"s3.PutBucketEncryption ServerSideEncryptionConfiguration.Rules{member}"
            )
            for end, member in (
                ("[]", "[]"),
                ("[].ServerSideEncryptionByDefault", "[].ApplyServerSideEncryptionByDefault"),
            )
        },
        "LifecycleConfiguration": "s3.PutBucketLifecycleConfiguration LifecycleConfiguration",
        **{
            f"LifecycleConfiguration.Rules[].{name}": (
                f"s3.PutBucketLifecycleConfiguration LifecycleConfiguration.Rules[].{member}"
            )
            for name, member in (
                ("ExpirationInDays", "Expiration.Days"),
                ("Transitions[].TransitionInDays", "Transitions[].Days"),
            )
        },
        "OwnershipControls": "s3.PutBucketOwnershipControls OwnershipControls",
        "PublicAccessBlockConfiguration": "s3.PutPublicAccessBlock PublicAccessBlockConfiguration",
        "VersioningConfiguration": "s3.PutBucketVersioning VersioningConfiguration",
    },
    "AWS::S3::BucketPolicy": {"": "s3.PutBucketPolicy", "PolicyDocument": "s3.PutBucketPolicy Policy="},
    "AWS::SNS::Subscription": {"": "sns.Subscribe"},
    "AWS::SNS::Topic": {
        "DisplayName": "sns.CreateTopic Attributes.DisplayName",
        "KmsMasterKeyId": "sns.CreateTopic Attributes.KmsMasterKeyId",
    },
    "AWS::SQS::Queue": {
        "": "sqs.CreateQueue Attributes",
        "RedrivePolicy": "sqs.CreateQueue Attributes.RedrivePolicy=",
    },
    "AWS::Scheduler::Schedule": {"": "scheduler.CreateSchedule"},
    "AWS::SecretsManager::Secret": {"": "secretsmanager.CreateSecret"},
    "AWS::StepFunctions::StateMachine": {
        "": "stepfunctions.CreateStateMachine",
        "Definition": "stepfunctions.CreateStateMachine definition=",
    },
}
# Where properties land when a stream is changed, not made anew.
CHANGED = {
    "DeliveryStreamType": "- a change of it makes another stream",
    "DeliveryStreamEncryptionConfigurationInput": "firehose.StartDeliveryStreamEncryption "
    "DeliveryStreamEncryptionConfigurationInput",
    "ExtendedS3DestinationConfiguration": "firehose.UpdateDestination ExtendedS3DestinationUpdate",
    "ExtendedS3DestinationConfiguration.S3BackupConfiguration": "firehose.UpdateDestination "
    "ExtendedS3DestinationUpdate.S3BackupUpdate",
}
# Names that no template gives: CloudFormation makes them up.
MADE_UP = {
    "athena.DeleteWorkGroup": ["WorkGroup"],
    "apigateway.CreateUsagePlan": ["name"],
    "apigateway.PutRestApi": ["restApiId"],
    "cloudformation.CreateStack": ["StackName"],
    "cloudwatch.PutMetricAlarm": ["AlarmName"],
    "dynamodb.CreateTable": ["TableName"],
    "dynamodb.UpdateContinuousBackups": ["TableName"],
    "dynamodb.UpdateTimeToLive": ["TableName"],
    "firehose.CreateDeliveryStream": ["DeliveryStreamName"],
    "firehose.StartDeliveryStreamEncryption": ["DeliveryStreamName"],
    "firehose.UpdateDestination": ["DeliveryStreamName", "DestinationId", "CurrentDeliveryStreamVersionId"],
    "iam.CreatePolicy": ["PolicyName"],
    "iam.CreateRole": ["RoleName"],
    "iam.PutRolePolicy": ["RoleName"],
    "lambda.CreateFunction": ["FunctionName"],
    "logs.CreateLogGroup": ["logGroupName"],
    "logs.CreateLogStream": ["logStreamName"],
    "logs.PutRetentionPolicy": ["logGroupName"],
    "scheduler.CreateSchedule": ["Name"],
    "secretsmanager.CreateSecret": ["Name"],
    "sns.CreateTopic": ["Name"],
    "sqs.CreateQueue": ["QueueName"],
    "stepfunctions.CreateStateMachine": ["name"],
    **{
        f"s3.{operation}": ["Bucket"]
        for operation in (
            "PutBucketEncryption",
            "PutBucketLifecycleConfiguration",
            "PutBucketOwnershipControls",
            "PutBucketVersioning",
            "PutPublicAccessBlock",
        )
    },
}

ACCOUNT = "123456789012"
ARNS = {
    "AWS::DynamoDB::Table": f"arn:aws:dynamodb:us-east-1:{ACCOUNT}:table/{{}}",
    "AWS::IAM::ManagedPolicy": f"arn:aws:iam::{ACCOUNT}:policy/{{}}",
    "AWS::IAM::Role": f"arn:aws:iam::{ACCOUNT}:role/{{}}",
    "AWS::KMS::Key": f"arn:aws:kms:us-east-1:{ACCOUNT}:key/{{}}",
    "AWS::KinesisFirehose::DeliveryStream": f"arn:aws:firehose:us-east-1:{ACCOUNT}:deliverystream/{{}}",
    "AWS::Lambda::Function": f"arn:aws:lambda:us-east-1:{ACCOUNT}:function:{{}}",
    "AWS::Logs::LogGroup": f"arn:aws:logs:us-east-1:{ACCOUNT}:log-group:{{}}:*",
    "AWS::S3::Bucket": "arn:aws:s3:::{}",
    "AWS::SNS::Topic": f"arn:aws:sns:us-east-1:{ACCOUNT}:{{}}",
    "AWS::SQS::Queue": f"arn:aws:sqs:us-east-1:{ACCOUNT}:{{}}",
    "AWS::SecretsManager::Secret": f"arn:aws:secretsmanager:us-east-1:{ACCOUNT}:secret:{{}}-AbCdEf",
    "AWS::StepFunctions::StateMachine": f"arn:aws:states:us-east-1:{ACCOUNT}:stateMachine:{{}}",
}
# The types whose Ref is not a name.
REFERENCES = {
    **{
        kind: ARNS[kind]
        for kind in (
            "AWS::IAM::ManagedPolicy",
            "AWS::SNS::Topic",
            "AWS::SecretsManager::Secret",
            "AWS::StepFunctions::StateMachine",
        )
    },
    "AWS::SQS::Queue": f"https://sqs.us-east-1.amazonaws.com/{ACCOUNT}/{{}}",
}
PSEUDO = {
    "AWS::AccountId": ACCOUNT,
    "AWS::Partition": "aws",
    "AWS::Region": "us-east-1",
    "AWS::StackName": "sluice",
    "AWS::URLSuffix": "amazonaws.com",
}
# Values for parameters without a default, or with a condition on them.
GIVEN = {
    "ArtifactBucket": "artifacts",
    "TransformCodeKey": "lambda.zip",
    "CodeBucket": "artifacts",
    "CodeKey": "lambda.zip",
}
EVERYTHING = {
    "AnalystPolicy": "ALL",
    "ApiAuth": "API_KEY",
    "DeliverQuery": "latest-events",
    "DeliverSchedule": "rate(5 minutes)",
    "DeliverUrl": "https://example.com/events",
    "EventsRetentionInDays": "400",
    "EventsTiering": "INFREQUENT_90_ARCHIVE_365",
    "KmsKeyArn": ARNS["AWS::KMS::Key"].format("01234567-89ab-cdef-0123-456789abcdef"),
    "ObserveEmail": "ops@example.com",
    "ObserveSilenceInMinutes": "1440",
    "PullSchedule": "rate(5 minutes)",
    "PullSourcesKey": "sources.json",
    "RawBackup": "ENABLED",
    "RefineFilesKey": "refine.json",
    "RefineSchedule": "cron(15 2 * * ? *)",
}
TOPIC, MACHINE = (ARNS[kind].format("one") for kind in ("AWS::SNS::Topic", "AWS::StepFunctions::StateMachine"))
VARIANTS: dict[str, dict[str, str]] = {
    "defaults": {},
    "everything": {**EVERYTHING, "AlarmTopicArn": TOPIC, "RefineMachineArn": MACHINE},
    "JSON in Snappy, IAM, a topic of one's own": {
        "ApiAuth": "AWS_IAM",
        "FirehoseBufferingInterval": "0",
        "FirehoseCompressionFormat": "SNAPPY",
        "ObserveTopicArn": TOPIC,
        "OutputFormat": "JSON",
    },
    "JSON in gzip": {"OutputFormat": "JSON", "FirehoseBufferingInterval": "900"},
    "plain Parquet": {"FirehoseCompressionFormat": "UNCOMPRESSED"},
}
CORE = templates.load(deployed())
TEMPLATES: dict[str, Json] = {
    "core": CORE,
    **{stack.name: stack.template for stack in nested.read()},
    "probe": templates.load((ROOT / "tests/aws/probe.yaml").read_text()),
    "key": templates.load((ROOT / "examples" / "key.yaml").read_text()),
}
SOURCES = {stack.name: stack.from_core for stack in nested.read()}


def resolver(name: str, variant: str) -> Resolver:
    """A template with example values: parameters as given, from the core, or by default."""
    template = TEMPLATES[name]
    kinds = {logical_id: one["Type"] for logical_id, one in template["Resources"].items()}

    def attribute(logical_id: str, attribute_name: str) -> str:
        pattern = ARNS.get(kinds[logical_id], "{}") if attribute_name in ("Arn", "Id") else "{}"
        return pattern.format(logical_id.lower())

    values = {**PSEUDO, **{name: REFERENCES.get(kind, "{}").format(name.lower()) for name, kind in kinds.items()}}
    given = {**GIVEN, **VARIANTS[variant]}
    core = resolver("core", variant) if name in SOURCES else None
    for parameter, definition in template.get("Parameters", {}).items():
        source = SOURCES.get(name, {}).get(parameter, "")
        if core and source and "Outputs." not in source:
            part, _, detail = source.partition(".")
            values[parameter] = core.attribute(part, detail) if detail else core.values[part]
        else:
            values[parameter] = str(given.get(parameter, definition.get("Default", "")))
    return Resolver(template, values, attribute)


CASES = [
    pytest.param(logical_id, one, id=f"{name}.{logical_id}, {variant}")
    for name in TEMPLATES
    for variant in VARIANTS
    for logical_id, one in resolver(name, variant).resources().items()
]


ITEM = "[]"
Target = tuple[str, ...]  # The call, then the members down to a value.


def place(
    places: dict[str, str], node: Any, where: str = "", target: Target = (), numbers: tuple[int, ...] = ()
) -> Iterator[tuple[list[str | int], Any]]:
    """Each value below a property, with where it lands: the call, its number if it is made for each item, members."""
    given = places.get(where, "")
    if given.startswith("- "):
        return
    if given:
        target = tuple(re.findall(r"\[\]|[\w.]+(?= )|^[\w.]+|\w+", given.removesuffix("=")))
    if isinstance(node, dict) and node and not given.endswith("="):
        for name, part in node.items():
            yield from place(places, part, f"{where}.{name}".lstrip("."), (*target, name) if target else (), numbers)
    elif isinstance(node, list) and node and not given.endswith("="):
        for number, part in enumerate(node):
            yield from place(places, part, where + ITEM, (*target, ITEM), (*numbers, number))
    elif where:
        assert target, f"{where} has no place in any call"
        counted = iter(numbers)
        yield (
            [next(counted) if part == ITEM else part for part in target],
            json.dumps(node) if given[-1:] == "=" else node,
        )


def calls(places: dict[str, str], properties: Json) -> Iterator[tuple[str, Json]]:
    """The calls behind a resource, each with its input."""
    made: Json = {}
    for path, value in place(places, properties):
        node: Any = made
        for part in path[:-1]:
            node = node.setdefault(part, {})
        node[path[-1]] = value
    for call, given in made.items():
        for one in given.values() if 0 in given else [given]:
            yield call, as_lists(one)


def as_lists(node: Any) -> Any:
    if isinstance(node, dict) and 0 in node:
        return [as_lists(part) for part in node.values()]
    return {key: as_lists(part) for key, part in node.items()} if isinstance(node, dict) else node


def in_case(node: Any, shape: Any) -> Any:
    """An input whose members are written as the call has them: `roleArn` for CloudFormation's `RoleArn`."""
    if shape.type_name == "structure" and isinstance(node, dict):
        names = {name.lower(): name for name in shape.members}
        known = {names.get(name.lower(), name): part for name, part in node.items()}
        return {
            name: in_case(part, shape.members[name]) if name in shape.members else part for name, part in known.items()
        }
    if shape.type_name == "list" and isinstance(node, list):
        return [in_case(part, shape.member) for part in node]
    return node


def places_of(kind: str) -> dict[str, str]:
    assert kind in PLACES, f"add {kind} to PLACES in this file: the place of each property in a call"
    return PLACES[kind]


def check(places: dict[str, str], properties: Json) -> None:
    """Raise ValueError or AssertionError if a property has no place in the resource's calls, or does not fit it."""
    for call, given in calls(places, properties):
        shape = input_of(*call.split("."))
        made_up = {name: "1" if name.endswith("VersionId") else "made-up" for name in MADE_UP.get(call, [])}
        try:
            conform({**made_up, **in_case(given, shape)}, shape)
        except ValueError as error:
            raise ValueError(f"{call}: {error}") from None


@pytest.mark.parametrize(("logical_id", "resource"), CASES)
def test_every_property_has_a_place_in_a_call_that_takes_its_value(logical_id: str, resource: Json) -> None:
    check(places_of(resource["Type"]), resource["Properties"])


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("logical_id", ["StreamDelivery", "StreamRejects"])
def test_every_change_of_a_stream_has_a_place_too(logical_id: str, variant: str) -> None:
    properties = resolver("core", variant).resources()[logical_id]["Properties"]
    check(CHANGED, properties)
    properties["ExtendedS3DestinationConfiguration"]["Unheard-of"] = "x"
    with pytest.raises(ValueError, match="Unheard-of"):
        check(CHANGED, properties)


def test_the_table_has_the_types_of_our_templates_and_no_others() -> None:
    types = {one["Type"] for template in TEMPLATES.values() for one in template["Resources"].values()}
    assert types == PLACES.keys(), "add to PLACES in this file the new types, and take out those that are gone"


# Maps with free names, and JSON that services read by rules of their own.
FREE = re.compile(
    r"(AWS::Lambda::Function:Environment\.|AWS::ApiGateway::Stage:)Variables"
    r"|AWS::Glue::Table:TableInput\.Parameters|AWS::(ApiGateway::Stage:MethodSettings|CloudFormation::Stack:Parameters).*"
    r"|.*(Body|Definition|PolicyDocument|KeyPolicy|RedrivePolicy)(\..*)?"
)


def objects(node: Any, path: str) -> Iterator[tuple[str, Json]]:
    """Every object below, the node itself included, with its path."""
    if isinstance(node, dict):
        yield path, node
        for name, part in node.items():
            yield from objects(part, f"{path}{'' if path[-1] == ':' else '.'}{name}")
    elif isinstance(node, list):
        for part in node:
            yield from objects(part, path)


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_property_that_no_call_takes_is_found_wherever_it_is(name: str) -> None:
    tried, passed = 0, []
    for logical_id, resource in resolver(name, "everything").resources().items():
        kind = resource["Type"]
        places = places_of(kind)
        for index, (path, _) in enumerate(objects(resource["Properties"], f"{kind}:")):
            wrong = copy.deepcopy(resource["Properties"])
            [*objects(wrong, ":")][index][1]["Unheard-of"] = "x"
            if FREE.fullmatch(path):
                continue
            tried += 1
            with contextlib.suppress(ValueError, AssertionError):
                check(places, wrong)
                passed.append(f"{logical_id} {path}")
    assert tried and not passed, passed


@pytest.mark.parametrize(
    ("call", "given", "problem"),
    [
        ("glue.CreateDatabase", {"DatabaseInput": {}}, "DatabaseInput.Name is required"),
        ("glue.CreateDatabase", {"DatabaseInput": {"Name": ""}}, "Name must have 1 to 255 characters (got 0)"),
        ("glue.CreateDatabase", {"DatabaseInput": {"Name": "a\nb"}}, "Name must match "),
        ("glue.CreateDatabase", {"DatabaseInput": "x"}, "DatabaseInput must be an object (got 'x')"),
        ("lambda.CreateFunction", {"Timeout": "0"}, "Timeout must be a whole number from 1 to "),
        ("lambda.CreateFunction", {"MemorySize": "1.5"}, "MemorySize must be a whole number from 128 to "),
        ("lambda.CreateFunction", {"Publish": "yes"}, "Publish must be true or false (got 'yes')"),
        ("lambda.CreateFunction", {"Architectures": "arm64"}, "Architectures must be a list (got 'arm64')"),
        ("lambda.CreateFunction", {"Architectures": ["arm"]}, "Architectures[0] must be x86_64 or arm64 (got 'arm')"),
        ("lambda.CreateFunction", {"Architectures": []}, "Architectures must have 1 to 1 items (got 0)"),
        ("lambda.CreateFunction", {"Environment": {"Variables": {"1": "x"}}}, "Variables, key 1 must match "),
        ("lambda.CreateFunction", {"Description": {}}, "Description must be a string (got {})"),
        (
            "sqs.CreateQueue",
            {"QueueName": "q", "Attributes": {"Colour": "red"}},
            "Attributes, key Colour must be All or ",
        ),
    ],
)
def test_a_value_that_the_call_refuses_is_named_with_what_it_takes(call: str, given: Json, problem: str) -> None:
    with pytest.raises(ValueError, match=re.escape(problem)):
        conform(given, input_of(*call.split(".")))


def test_text_becomes_what_the_call_takes() -> None:
    given = {"Timeout": "60", "Publish": "true", "MemorySize": 512, "Description": True}
    needed = {"FunctionName": "f", "Role": ARNS["AWS::IAM::Role"].format("r"), "Code": {"S3Key": "k"}}
    found = conform({**needed, **given}, input_of("lambda", "CreateFunction"))
    assert found == {**needed, "Timeout": 60, "Publish": True, "MemorySize": 512, "Description": "true"}


def test_the_local_firehose_implements_nothing_that_aws_does_not_take() -> None:
    def compare(implemented: Any, shape: Any) -> None:
        if isinstance(implemented, dict):
            for name, part in implemented.items():
                assert name.rstrip("!") in shape.members
                assert not (name.endswith("!") and name[:-1] in shape.required_members), "AWS itself requires it"
                compare(part, shape.members[name.rstrip("!")])
        elif isinstance(implemented, list):
            compare(implemented[0], shape.member)
        elif implemented:
            assert set(implemented.split("|")) < set(shape.enum)

    compare(IMPLEMENTED, input_of("firehose", "CreateDeliveryStream"))


# Not in the models: https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_iam-quotas.html
POLICY_LIMITS = {"AWS::IAM::Role": 10_240, "AWS::IAM::Policy": 10_240, "AWS::IAM::ManagedPolicy": 6_144}


@pytest.mark.parametrize("name", TEMPLATES)
def test_the_policies_of_a_role_stay_within_what_iam_keeps(name: str) -> None:
    for logical_id, resource in resolver(name, "everything").resources().items():
        if limit := POLICY_LIMITS.get(resource["Type"]):
            properties = resource["Properties"]
            documents = [
                one["PolicyDocument"]
                for one in [properties, *properties.get("Policies", [])]
                if "PolicyDocument" in one
            ]
            # White space does not count. The requeue policy is one more of the transform's role.
            size = sum(len(json.dumps(document, separators=(",", ":"))) for document in documents)
            assert size < 0.8 * limit, logical_id


@pytest.fixture(scope="module")
def linter() -> Runner:
    """cfn-lint, which reads its rules for a second."""
    return Runner(ConfigMixIn(regions=["us-east-1"]))


@pytest.mark.parametrize("name", TEMPLATES)
def test_the_registry_takes_every_resolved_resource(name: str, linter: Runner) -> None:
    """With everything switched on: the defaults are what scripts/test.sh lints."""
    template, errors = decode_str(json.dumps({"Resources": resolver(name, "everything").resources()}))
    assert not errors and not list(linter.validate_template(template))
