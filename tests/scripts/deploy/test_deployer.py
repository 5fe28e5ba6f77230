"""The policies of examples/deploy-policy.yaml allow deploying and deleting, and no action more.

CloudFormation's own registry names its needs for a resource. Each action of the policies is taken away here, and then
a call is refused. tests/scripts/deploy/test_deploying_user.py has a user of a local AWS deploy with them.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Callable, Iterator
from fnmatch import fnmatchcase
from typing import Any

import pytest

from local.ministack import ACCOUNT, Emulator
from local.ministack.deployer import CALLS, Call, calls, new_name
from scripts.commands.deploy import template as templates
from tests import registry
from tests.conftest import ROOT
from tests.deploy_policy import ACTIONS, KEY, POLICIES, STATEMENTS, as_list, is_allowed, without
from tests.deploying_user import STACK

Json = dict[str, Any]

REGIONAL = f"us-east-1:{ACCOUNT}"
STACK_ARN = f"arn:aws:cloudformation:{REGIONAL}:stack/{STACK}/1"
ARTIFACTS = f"arn:aws:s3:::sluice-artifacts-{ACCOUNT}-us-east-1"
ROLE = f"arn:aws:iam::{ACCOUNT}:role/{STACK}-StreamRole-1"
MAX_POLICY_CHARACTERS = 6_144

# The scripts' own calls: scripts/deploy.sh and scripts/destroy.sh.
OF_THE_SCRIPTS = [
    *(
        Call(f"cloudformation:{action}", STACK_ARN)
        for action in (
            *("ContinueUpdateRollback", "CreateChangeSet", "DeleteChangeSet", "DeleteStack", "DescribeChangeSet"),
            *("DescribeStackEvents", "DescribeStacks", "ExecuteChangeSet", "ListStackResources", "RollbackStack"),
            "UpdateTerminationProtection",
        )
    ),
    *(Call(f"s3:{action}", ARTIFACTS) for action in ("CreateBucket", "ListBucket", "PutBucketPublicAccessBlock")),
    *(Call(f"s3:{action}", f"{ARTIFACTS}/lambda.zip") for action in ("GetObject", "PutObject")),
    Call("lakeformation:GetDataLakeSettings", "*"),
    Call("kms:DescribeKey", KEY),
]
# The properties read by CloudFormation's calls, by the type of resource.
SAMPLES: dict[str, Json] = {
    "AWS::ApiGateway::Deployment": {"RestApiId": "api"},
    "AWS::ApiGateway::RestApi": {"Body": {"paths": {"credentials": ROLE}}},
    "AWS::ApiGateway::Stage": {"RestApiId": "api"},
    "AWS::ApiGateway::UsagePlanKey": {"UsagePlanId": "plan"},
    "AWS::Athena::NamedQuery": {"WorkGroup": STACK},
    "AWS::Athena::WorkGroup": {"Name": STACK},
    "AWS::CloudWatch::Dashboard": {"DashboardName": STACK},
    "AWS::Glue::Database": {"DatabaseInput": {"Name": "team_events"}},
    "AWS::Glue::Table": {"DatabaseName": "team_events", "TableInput": {"Name": "records"}},
    "AWS::IAM::Policy": {"Roles": [f"{STACK}-TransformRole-1"]},
    "AWS::KinesisFirehose::DeliveryStream": {"RoleARN": ROLE, "KeyARN": KEY},
    "AWS::Lambda::EventSourceMapping": {"FunctionName": f"{STACK}-DeliverFunction-1"},
    "AWS::Lambda::Function": {"Role": ROLE, "Code": {"S3Bucket": ARTIFACTS[13:], "S3Key": "lambda.zip"}},
    "AWS::Logs::LogStream": {"LogGroupName": f"{STACK}-StreamLogGroup-1", "LogStreamName": "delivery"},
    "AWS::S3::BucketPolicy": {"Bucket": f"{STACK}-storebucket-1"},
    "AWS::SNS::Subscription": {"TopicArn": f"arn:aws:sns:{REGIONAL}:{STACK}-AlarmTopic-1"},
    "AWS::Scheduler::Schedule": {"Target": {"RoleArn": ROLE}},
    "AWS::StepFunctions::StateMachine": {"RoleArn": ROLE},
}


@functools.cache
def all_calls() -> set[Call]:
    found = {*OF_THE_SCRIPTS}
    for logical_id, resource_type, _ in registry.resources():
        properties = SAMPLES.get(resource_type, {})
        name = new_name(resource_type, logical_id, properties, STACK)
        for operation in ("create", "update", "delete"):
            found |= {*calls(operation, resource_type, name, properties)}
    return found


# CloudFormation's actions


def test_the_permissions_that_are_asked_for_are_those_of_cloudformations_registry() -> None:
    assert registry.needed() == CALLS, "write them anew with: python -m tests.registry"


UNUSED = [
    pytest.param(resource_type, name, patterns, id=f"{resource_type} {name}")
    for resource_type, properties in registry.UNUSED.items()
    for name, patterns in properties.items()
]


@pytest.mark.parametrize(("resource_type", "name", "patterns"), UNUSED)
def test_what_is_left_out_belongs_to_a_property_that_nothing_here_has(
    resource_type: str, name: str, patterns: list[str]
) -> None:
    def values(node: Any, path: list[str]) -> Iterator[Any]:
        if isinstance(node, list):
            for item in node:
                yield from values(item, path)
        elif isinstance(node, dict) and "Fn::If" in node:
            yield from values(node["Fn::If"][1:], path)
        elif not path:
            yield node
        elif isinstance(node, dict) and path[0] in node:
            yield from values(node[path[0]], path[1:])

    schema, path = registry.schemas()[resource_type], name.split(".")
    assert path[0] in (*schema["properties"], registry.NO_PROPERTY)
    assert [*values([one for _, kind, one in registry.resources() if kind == resource_type], path)] == []
    called = {action for handler in schema["handlers"].values() for action in handler["permissions"]}
    assert [pattern for pattern in patterns if not any(fnmatchcase(action, pattern) for action in called)] == []


NAMES: dict[str, tuple[str, Json, str]] = {
    "made up": ("AWS::Lambda::Function", {}, "team-events-Any-"),
    "made up in lower case": ("AWS::S3::Bucket", {}, "team-events-any-"),
    "made up without the stack": ("AWS::SecretsManager::Secret", {}, "Any-"),
    "made up where it may be given": ("AWS::Logs::LogStream", {"LogGroupName": "x"}, "team-events-Any-"),
    "given": ("AWS::Lambda::Function", {"FunctionName": "mine"}, "mine"),
    "given as the name": ("AWS::Athena::WorkGroup", {"Name": "mine"}, "mine"),
    "given in the catalog": ("AWS::Glue::Table", {"TableInput": {"Name": "mine"}}, "mine"),
    "an id, whatever the name": ("AWS::ApiGateway::RestApi", {"Name": "mine"}, "team-events-Any-"),
}


@pytest.mark.parametrize(("resource_type", "properties", "name"), NAMES.values(), ids=NAMES)
def test_a_resource_is_asked_for_by_the_name_that_it_will_have(resource_type: str, properties: Json, name: str) -> None:
    assert re.fullmatch(f"{name}(?<=-)A*|{name}", new_name(resource_type, "Any", properties, STACK), re.IGNORECASE)


@pytest.mark.parametrize(
    ("resource_type", "properties"),
    [
        pytest.param("AWS::Lambda::Function", {"Role": ROLE, "Code": {"ZipFile": "pass"}}, id="code in the template"),
        pytest.param("AWS::IAM::Policy", {"Users": ["me"]}, id="a policy of a user"),
    ],
)
def test_a_template_of_somebody_else_is_asked_for_too(resource_type: str, properties: Json) -> None:
    asked = {call.action for call in calls("create", resource_type, "team-events-Any-1", properties)}
    assert asked <= {*CALLS[resource_type]["create"]}


# The policies


@pytest.fixture
def allows(emulator: Emulator) -> Callable[[list[Json], Call], bool]:
    return functools.partial(is_allowed, emulator)


def test_the_policies_allow_every_call_that_deploying_and_deleting_takes(
    allows: Callable[[list[Json], Call], bool],
) -> None:
    refused = [call for call in all_calls() if not allows([*POLICIES.values()], call)]
    assert refused == [], "allow these calls in examples/deploy-policy.yaml"


def test_the_first_policy_is_enough_for_the_core(allows: Callable[[list[Json], Call], bool]) -> None:
    core = {resource["Type"] for resource in templates.load((ROOT / "template.yaml").read_text())["Resources"].values()}
    found = {*OF_THE_SCRIPTS}
    for resource_type in core:
        properties = SAMPLES.get(resource_type, {})
        name = new_name(resource_type, "Any", properties, STACK)
        found |= {
            call for operation in CALLS[resource_type] for call in calls(operation, resource_type, name, properties)
        }
    refused = [call for call in found if not allows([POLICIES["CorePolicy"]], call)]
    assert refused == [], "allow these calls in CorePolicy of examples/deploy-policy.yaml"


@pytest.mark.parametrize(("sid", "action"), ACTIONS, ids=[f"{sid} {action}" for sid, action in ACTIONS])
def test_without_any_one_action_something_is_refused(
    allows: Callable[[list[Json], Call], bool], sid: str, action: str
) -> None:
    less = [*without(POLICIES, sid, action).values()]
    refused = {call.action for call in all_calls() if call.action == action and not allows(less, call)}
    assert refused == {action}, "nothing needs it: take it out of the policy"


@pytest.mark.parametrize("other", ["other-events", "tea", "sluice"])
def test_stacks_of_other_names_are_out_of_reach(allows: Callable[[list[Json], Call], bool], other: str) -> None:
    shared = re.compile(
        r"\*|arn:aws:(apigateway|kms|s3:::sluice-artifacts).*|.*:(event-source-mapping|secret|stateMachine):.*|.*:catalog"
    )
    reachable = [
        call
        for call in all_calls()
        if not shared.fullmatch(call.resource)
        and allows([*POLICIES.values()], Call(call.action, call.resource.replace("team", other), call.context))
    ]
    assert reachable == []


@pytest.mark.parametrize("action", ["s3:GetObject", "s3:PutObject", "s3:DeleteObject"])
def test_no_event_can_be_read_or_written(allows: Callable[[list[Json], Call], bool], action: str) -> None:
    assert not allows([*POLICIES.values()], Call(action, f"arn:aws:s3:::{STACK}-storebucket-1/events/x"))


@pytest.mark.parametrize("statement", STATEMENTS, ids=lambda statement: statement["Sid"])
def test_a_statement_names_resources_where_iam_can_tell_them(statement: Json) -> None:
    reference = registry.actions_of_iam()
    actions = as_list(statement["Action"])
    assert [action for action in actions if action.lower() not in reference] == []
    on_everything = statement["Resource"] == "*"
    assert [one for one in actions if bool(reference[one.lower()].get("Resources")) == on_everything] == []


def test_the_policies_fit_into_what_iam_stores() -> None:
    sizes = {name: len(json.dumps(document, separators=(",", ":"))) for name, document in POLICIES.items()}
    # Names of partitions, regions, stacks and databases may be longer than here.
    assert {name: size for name, size in sizes.items() if size > MAX_POLICY_CHARACTERS - 500} == {}
