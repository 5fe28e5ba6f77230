"""CloudFormation's calls with the deployer's rights: the calls behind a resource, and their ARNs.

deployer.json has the calls by type and operation, for the types and properties in this product's templates. They
follow from CloudFormation's own registry (tests/registry.py).

AWS facts: https://docs.aws.amazon.com/AWSCloudFormation/latest/UserGuide/control-access-with-iam.html and
https://docs.aws.amazon.com/service-authorization/latest/reference/reference.html
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from local.ministack.process import ACCOUNT, REGION, Json

CALLS: dict[str, dict[str, list[str]]] = json.loads(Path(__file__).with_suffix(".json").read_text())

_ROLE = re.compile(rf"arn:aws:iam::{ACCOUNT}:role/[\w+=,.@/-]+")
_KEY = re.compile(rf"arn:aws:kms:{REGION}:{ACCOUNT}:key/[\w-]+")
# These know no resource to name.
_ON_EVERYTHING = re.compile(
    "lakeformation:.+|logs:Describe(IndexPolicies|LogGroups|ResourcePolicies)|lambda:CreateEventSourceMapping"
)
# CloudFormation names these without their stack.
_NAMED_BY_LOGICAL_ID = {"AWS::SecretsManager::Secret", "AWS::StepFunctions::StateMachine"}
# The services given the roles in a resource by CloudFormation.
_PASSED_TO = {
    "AWS::ApiGateway::RestApi": "apigateway.amazonaws.com",
    "AWS::KinesisFirehose::DeliveryStream": "firehose.amazonaws.com",
    "AWS::Lambda::Function": "lambda.amazonaws.com",
    "AWS::Scheduler::Schedule": "scheduler.amazonaws.com",
    "AWS::StepFunctions::StateMachine": "states.amazonaws.com",
}


@dataclass(frozen=True)
class Call:
    """An action on a resource, with the keys for conditions."""

    action: str
    resource: str
    context: tuple[tuple[str, str], ...] = ()


def calls(operation: str, resource_type: str, name: str, properties: Json) -> Iterator[Call]:
    """The calls behind an operation (create, update or delete) on a resource with this physical id."""
    for action in CALLS.get(resource_type, {}).get(operation, []):
        if action == "iam:PassRole":
            for role in _found(_ROLE, properties):
                yield Call(action, role, (("iam:passedtoservice", _PASSED_TO[resource_type]),))
        elif action.startswith("kms:"):
            for key in _found(_KEY, properties):
                yield Call(action, key)
        else:
            for resource in _resources(action, resource_type, name, properties):
                yield Call(action, resource, _context(resource_type, properties))


def new_name(resource_type: str, logical_id: str, properties: Json, stack: str) -> str:
    """A new resource's physical id, as far as a policy can know it."""
    kind = resource_type.rpartition("::")[2]
    of_catalog = properties.get(f"{kind}Input", properties)
    given = of_catalog.get(f"{kind}Name") or of_catalog.get("Name")
    if given and not resource_type.startswith("AWS::ApiGateway::"):
        return str(given)
    name = (
        f"{logical_id}-AAAAAAAAAAAA" if resource_type in _NAMED_BY_LOGICAL_ID else f"{stack}-{logical_id}-AAAAAAAAAAAA"
    )
    return name.lower() if resource_type == "AWS::S3::Bucket" else name


def _found(pattern: re.Pattern[str], properties: Json) -> list[str]:
    return sorted(set(pattern.findall(json.dumps(properties))))


def _context(resource_type: str, properties: Json) -> tuple[tuple[str, str], ...]:
    if resource_type == "AWS::Lambda::EventSourceMapping":
        return (("lambda:functionarn", _arn("lambda", f"function:{properties['FunctionName'].rpartition(':')[2]}")),)
    return ()


def _resources(action: str, resource_type: str, name: str, properties: Json) -> list[str]:
    if _ON_EVERYTHING.fullmatch(action):
        return ["*"]
    if action == "iam:GetRole" and resource_type != "AWS::IAM::Role":
        return _found(_ROLE, properties)
    if action == "s3:GetObject":
        code = properties["Code"]
        return [f"arn:aws:s3:::{code['S3Bucket']}/{code['S3Key']}"] if "S3Bucket" in code else []
    if action.startswith("apigateway:"):
        return _paths(action, resource_type, name, properties)
    if action.startswith("glue:"):
        database = properties.get("DatabaseName") or name
        tables = [f"table/{database}/{name}"] * (resource_type == "AWS::Glue::Table")
        return [_arn("glue", one) for one in ("catalog", f"database/{database}", *tables)]
    if resource_type == "AWS::IAM::Policy":
        return [_arn("iam", f"role/{role}") for role in properties.get("Roles", [])]
    if name.startswith("arn:"):
        return [name]
    if resource_type not in _ARNS:
        raise ValueError(
            f"add {resource_type} to _ARNS in local/ministack/deployer.py, which says what {action} is about"
        )
    return [_ARNS[resource_type](name, properties)]


def _paths(action: str, resource_type: str, name: str, properties: Json) -> list[str]:
    """API Gateway's resources are the paths of its API: a collection for POST, else an item."""
    parent = {
        "ApiKey": "/apikeys",
        "Deployment": f"/restapis/{properties.get('RestApiId')}/deployments",
        "RestApi": "/restapis",
        "Stage": f"/restapis/{properties.get('RestApiId')}/stages",
        "UsagePlan": "/usageplans",
        "UsagePlanKey": f"/usageplans/{properties.get('UsagePlanId')}/keys",
    }[resource_type.rpartition(":")[2]]
    item = parent if action == "apigateway:POST" else f"{parent}/{name}"
    prefix = f"arn:aws:apigateway:{REGION}::"
    # CloudFormation tags a new resource by a call of its own.
    tags = [f"{prefix}/tags/{quote(prefix + item, safe='')}"] * (action == "apigateway:PUT")
    return [f"{prefix}{item}", *tags]


def _arn(service: str, resource: str) -> str:
    return f"arn:aws:{service}:{'' if service == 'iam' else REGION}:{ACCOUNT}:{resource}"


_ARNS: dict[str, Callable[[str, Json], str]] = {
    "AWS::Athena::NamedQuery": lambda _, properties: _arn("athena", f"workgroup/{properties['WorkGroup']}"),
    "AWS::Athena::WorkGroup": lambda name, _: _arn("athena", f"workgroup/{name}"),
    "AWS::CloudFormation::Stack": lambda name, _: _arn("cloudformation", f"stack/{name}/1"),
    "AWS::CloudWatch::Alarm": lambda name, _: _arn("cloudwatch", f"alarm:{name}"),
    "AWS::CloudWatch::Dashboard": lambda name, _: f"arn:aws:cloudwatch::{ACCOUNT}:dashboard/{name}",
    "AWS::DynamoDB::Table": lambda name, _: _arn("dynamodb", f"table/{name}"),
    "AWS::IAM::ManagedPolicy": lambda name, _: _arn("iam", f"policy/{name}"),
    "AWS::IAM::Role": lambda name, _: _arn("iam", f"role/{name}"),
    "AWS::KinesisFirehose::DeliveryStream": lambda name, _: _arn("firehose", f"deliverystream/{name}"),
    "AWS::Lambda::EventSourceMapping": lambda name, _: _arn("lambda", f"event-source-mapping:{name}"),
    "AWS::Lambda::Function": lambda name, _: _arn("lambda", f"function:{name}"),
    "AWS::Logs::LogGroup": lambda name, _: _arn("logs", f"log-group:{name}"),
    "AWS::Logs::LogStream": lambda name, properties: _arn(
        "logs", f"log-group:{properties['LogGroupName']}:log-stream:{name}"
    ),
    "AWS::S3::Bucket": lambda name, _: f"arn:aws:s3:::{name}",
    "AWS::S3::BucketPolicy": lambda _, properties: f"arn:aws:s3:::{properties['Bucket']}",
    "AWS::SNS::Subscription": lambda _, properties: str(properties["TopicArn"]),
    "AWS::SNS::Topic": lambda name, _: _arn("sns", name),
    "AWS::SQS::Queue": lambda name, _: _arn("sqs", name.rpartition("/")[2]),
    "AWS::Scheduler::Schedule": lambda name, _: _arn("scheduler", f"schedule/default/{name}"),
    "AWS::SecretsManager::Secret": lambda name, _: _arn("secretsmanager", f"secret:{name}"),
    "AWS::StepFunctions::StateMachine": lambda name, _: _arn("states", f"stateMachine:{name}"),
}
