"""Each nested stack's additions to the template, and the rules for all of them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from scripts.commands.common.console import CommandError
from scripts.commands.common.stack import failure
from scripts.commands.deploy import nested
from scripts.commands.deploy import template as templates
from scripts.commands.deploy.nested import NestedStack
from scripts.commands.deploy.product import FOLDERS
from scripts.commands.deploy.template import TEMPLATE
from tests.fake_cloudformation import FakeAws, FakeCloudFormation, Stack
from tests.granted import statements

TEXT = TEMPLATE.read_text()
CORE = templates.load(TEXT)
STACKS = nested.read()
A_STACK = pytest.mark.parametrize("stack", STACKS, ids=lambda stack: stack.name)

ALERTS = """
Description: Tells somebody.
Metadata:
  Sluice:
    SwitchedOnBy: [AlertsMail, AlertsTopicArn]
    FromCore:
      BucketName: StoreBucket
      StreamArn: StreamDelivery.Arn
      Interval: FirehoseBufferingInterval
      Region: AWS::Region
      MachineArn: OtherStack.Outputs.OtherMachineArn
Parameters:
  BucketName: {Type: String, Description: The bucket}
  StreamArn: {Type: String, Description: The stream}
  Interval: {Type: Number, Description: Seconds}
  Region: {Type: String, Description: The region}
  MachineArn: {Type: String, Description: The machine}
  AlertsMail: {Type: String, Default: '', Description: Optional. Where to write}
  AlertsTopicArn: {Type: String, Default: '', Description: Optional. Where to publish}
Resources:
  AlertsTopic: {Type: AWS::SNS::Topic}
Outputs:
  AlertsTopicName: {Description: The topic, Value: !GetAtt AlertsTopic.TopicName}
"""


def deployed_with(**texts: str) -> dict[str, Any]:
    stacks = [NestedStack(name, text, templates.load(text)) for name, text in texts.items()]
    return templates.load(nested.insert(TEXT, stacks, lambda stack: f"{stack.name}.yaml"))


OTHER = """
Description: Is another.
Metadata:
  Sluice: {SwitchedOnBy: [OtherSwitch], FromCore: {}}
Parameters:
  OtherSwitch: {Type: String, Default: '', Description: Optional. What switches it on}
Resources:
  OtherTopic: {Type: AWS::SNS::Topic}
Outputs:
  OtherMachineArn: {Description: The machine, Value: !Ref OtherTopic}
"""


def test_a_nested_stack_becomes_parameters_a_condition_a_resource_and_outputs() -> None:
    found = deployed_with(other=OTHER, alerts=ALERTS)
    given = ["AlertsMail", "AlertsTopicArn"]
    output = {"Fn::GetAtt": ["OtherStack", "Outputs.OtherMachineArn"]}
    assert list(found["Parameters"])[-2:] == given
    [*_, group] = found["Metadata"]["AWS::CloudFormation::Interface"]["ParameterGroups"]
    assert group == {"Label": {"default": "Alerts (optional): Tells somebody"}, "Parameters": given}
    not_empty = [{"Fn::Not": [{"Fn::Equals": [{"Ref": name}, ""]}]} for name in given]
    assert found["Conditions"]["UseAlertsStack"] == {"Fn::Or": not_empty}
    assert found["Resources"]["AlertsStack"] == {
        "Type": "AWS::CloudFormation::Stack",
        "Condition": "UseAlertsStack",
        "DeletionPolicy": "Delete",
        "UpdateReplacePolicy": "Delete",
        "Properties": {
            "TemplateURL": {"Fn::Sub": "https://s3.${AWS::Region}.${AWS::URLSuffix}/${ArtifactBucket}/alerts.yaml"},
            "Parameters": {
                "BucketName": {"Ref": "StoreBucket"},
                "StreamArn": {"Fn::GetAtt": ["StreamDelivery", "Arn"]},
                "Interval": {"Ref": "FirehoseBufferingInterval"},
                "Region": {"Ref": "AWS::Region"},
                "MachineArn": {"Fn::If": ["UseOtherStack", output, ""]},
                "AlertsMail": {"Ref": "AlertsMail"},
                "AlertsTopicArn": {"Ref": "AlertsTopicArn"},
            },
        },
    }
    assert found["Outputs"]["AlertsTopicName"] == {
        "Description": "The topic",
        "Condition": "UseAlertsStack",
        "Value": {"Fn::GetAtt": ["AlertsStack", "Outputs.AlertsTopicName"]},
    }


@pytest.mark.parametrize("name", [stack.name for stack in STACKS])
def test_what_a_deleted_folder_would_give_is_empty(name: str) -> None:
    found = templates.load(nested.insert(TEXT, [stack for stack in STACKS if stack.name != name], lambda stack: ""))
    parts = [found["Resources"], found["Outputs"]]
    assert set(templates.conditions(parts)) <= found["Conditions"].keys()
    names = {reference for reference in templates.references(parts) if not reference.startswith("AWS::")}
    assert names <= found["Resources"].keys() | found["Parameters"].keys()


def test_a_template_without_nested_stacks_is_the_template() -> None:
    assert deployed_with() == CORE


def test_nothing_of_the_core_changes_for_who_wants_none_of_them() -> None:
    found = templates.load(nested.insert(TEXT, STACKS, lambda stack: ""))
    added = {stack.logical_id for stack in STACKS}
    assert {name: one for name, one in found["Resources"].items() if name not in added} == CORE["Resources"]
    assert all("Condition" in found["Resources"][name] for name in added)


@A_STACK
def test_a_nested_stack_is_short(stack: NestedStack) -> None:
    lines = len(stack.text.splitlines())
    assert lines <= 400, (
        f"the template of {stack.name} has {lines} lines, at most 400: shorten it, or make another stack"
    )
    long = [line for line in stack.text.splitlines() if len(line) > 120]
    assert long == [], "break these lines: at most 120 characters"


@A_STACK
def test_what_a_user_meets_of_a_nested_stack_begins_with_its_name(stack: NestedStack) -> None:
    names = [*stack.parameters, *stack.template["Outputs"]]
    others = [name for name in names if not name.startswith(stack.name.capitalize())]
    assert others == [], f"begin their names with {stack.name.capitalize()}, or give them a value under FromCore"


@A_STACK
def test_a_nested_stack_is_off_until_one_of_its_switches_has_a_value(stack: NestedStack) -> None:
    given = [name for name in stack.switches if stack.parameters[name].get("Default") != ""]
    assert given == [], "a parameter in SwitchedOnBy needs Default: ''"
    assert [name for name, one in stack.parameters.items() if "Default" not in one] == [], "each needs a Default"


@A_STACK
def test_what_the_core_hands_over_exists(stack: NestedStack) -> None:
    outputs = {f"{one.logical_id}.Outputs.{name}" for one in STACKS for name in one.template["Outputs"]}
    there = CORE["Parameters"].keys() | CORE["Resources"].keys() | outputs
    sources = [source for source in stack.from_core.values() if not source.startswith("AWS::")]
    unknown = [one for one in sources if one not in there and one.split(".")[0] not in CORE["Resources"]]
    assert unknown == [], "FromCore names what template.yaml does not have"
    assert stack.from_core.keys() - stack.template["Parameters"].keys() == set(), "declare them under Parameters, too"


@A_STACK
def test_every_parameter_and_output_of_a_nested_stack_is_described_and_used(stack: NestedStack) -> None:
    template = stack.template
    used = set(templates.references([template["Resources"], template.get("Conditions"), template["Outputs"]]))
    assert template["Parameters"].keys() - used == set(), "use these parameters, or take them out"
    for name, parameter in stack.parameters.items():
        assert len(parameter.get("Description", "")) > 20, f"{name} needs a Description of more than 20 characters"
        if name not in {stack.switches[0] for stack in STACKS if stack.name in FOLDERS}:
            says = parameter.get("ConstraintDescription", "").startswith("must ")
            assert says or "AllowedValues" in parameter, f"{name} needs a ConstraintDescription: must be ..."
        is_optional = parameter["Default"] == ""
        assert parameter["Description"].startswith("Optional") == is_optional, (
            f"{name}: a Description begins with Optional if, and only if, its Default is empty"
        )
    conditional = [name for name, output in template["Outputs"].items() if "Condition" in output]
    assert conditional == [], "without their condition, the template's own outputs would have no value"


def as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


TEMPLATES = {"core": CORE, **{stack.name: stack.template for stack in STACKS}}
HOLDERS = {f"{stack} {name}": found for stack, one in TEMPLATES.items() for name, found in statements(one)}
ASKING = [holder for holder, found in HOLDERS.items() if "athena:StartQueryExecution" in str(found)]


@pytest.mark.parametrize("holder", ASKING)
def test_who_may_start_a_query_may_read_the_default_database(holder: str) -> None:
    """Athena opens it for every query, even if the query reads another database."""
    granted = [one for one in HOLDERS[holder] if "glue:GetDatabase" in as_list(one["Action"])]
    resources = [resource["Fn::Sub"].rpartition(":")[2] for one in granted for resource in as_list(one["Resource"])]
    assert {"catalog", "database/default"} <= set(resources)


def tasks(node: Any) -> Iterator[dict[str, Any]]:
    """The tasks of a state machine for starting a query of Athena."""
    if isinstance(node, dict):
        if "startQueryExecution" in str(node.get("Resource")):
            yield node
        for value in node.values():
            yield from tasks(value)


@pytest.mark.parametrize("task", [task for stack in STACKS for task in tasks(stack.template["Resources"])])
def test_every_query_of_a_state_machine_names_its_database(task: dict[str, Any]) -> None:
    # Queries prepared by a function: tests/stacks/deliver/test_deliver_run.py.
    if task["Arguments"] != "{% $states.input.request %}":
        assert task["Arguments"]["QueryExecutionContext"] == {"Database": {"Ref": "DatabaseName"}}


def test_a_failure_inside_a_nested_stack_is_told_with_the_resource_that_failed() -> None:
    inner = Stack("sluice-AlertsStack-1", resources=[("AlertsTopic", "AWS::SNS::Topic", None, "CREATE_FAILED")])
    inner.tell("AlertsTopic", "UPDATE_FAILED", "an old story")
    inner.tell(inner.name, "UPDATE_IN_PROGRESS")
    inner.tell("AlertsOther", "CREATE_FAILED", "Resource creation cancelled")
    inner.tell("AlertsTopic", "CREATE_FAILED", "the name is taken")
    inner.tell("AlertsRole", "CREATE_FAILED", "another reason")
    inner.tell(inner.name, "CREATE_FAILED", "The following resource(s) failed to create: [AlertsTopic].")
    event = {
        "LogicalResourceId": "AlertsStack",
        "ResourceType": "AWS::CloudFormation::Stack",
        "PhysicalResourceId": inner.id,
        "ResourceStatusReason": "Embedded stack was not successfully created",
    }
    told = failure(FakeAws(cloudformation=FakeCloudFormation(inner)), event)
    assert told == "AlertsStack: AlertsTopic (AWS::SNS::Topic): the name is taken"


def test_a_deletion_that_fails_inside_a_nested_stack_is_told_with_the_resource_that_failed() -> None:
    inner = Stack("sluice-AlertsStack-1", resources=[("AlertsTopic", "AWS::SNS::Topic", "a-topic", "DELETE_FAILED")])
    inner.tell("AlertsTopic", "DELETE_FAILED", "an old story")
    inner.tell(inner.name, "DELETE_IN_PROGRESS")
    inner.tell("AlertsTopic", "DELETE_FAILED", "it is in use")
    inner.tell(inner.name, "DELETE_FAILED", "The following resource(s) failed to delete: [AlertsTopic].")
    event = {
        "LogicalResourceId": "AlertsStack",
        "ResourceType": "AWS::CloudFormation::Stack",
        "PhysicalResourceId": inner.id,
        "ResourceStatus": "DELETE_FAILED",
        "ResourceStatusReason": "Embedded stack was not successfully deleted",
    }
    told = failure(FakeAws(cloudformation=FakeCloudFormation(inner)), event, " could not be deleted")
    assert told == "AlertsStack: AlertsTopic (AWS::SNS::Topic) could not be deleted: it is in use"


@pytest.mark.parametrize(
    "missing",
    [
        "SwitchedOnBy: [AlertsMail, AlertsTopicArn]",
        "FromCore:",
        "Outputs:",
        "Parameters:",
        "Description: Tells somebody.",
    ],
)
def test_a_stack_that_does_not_say_how_it_is_nested_is_told_what_it_needs(missing: str, tmp_path: Path) -> None:
    (tmp_path / "alerts").mkdir()
    (tmp_path / "alerts/template.yaml").write_text(
        ALERTS.replace(missing, "Other:" if missing.endswith(":") else "Other: {}")
    )
    words = "stacks/alerts/template.yaml needs Description, Parameters and Outputs, and SwitchedOnBy and FromCore"
    with pytest.raises(CommandError, match=words):
        nested.read(tmp_path)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        pytest.param("", "alerts/template.yaml needs Description", id="empty"),
        pytest.param("- a list", "alerts/template.yaml needs Description", id="not a template"),
        pytest.param(
            ALERTS.replace("Description: The topic, ", ""),
            "alerts/template.yaml: the output AlertsTopicName needs a Description",
            id="an output without a description",
        ),
        pytest.param("a: [", "alerts/template.yaml is not YAML: while parsing", id="cut off"),
    ],
)
def test_a_template_that_is_half_there_is_named(text: str, complaint: str, tmp_path: Path) -> None:
    (tmp_path / "without-a-template").mkdir()
    (tmp_path / "alerts").mkdir()
    (tmp_path / "alerts/template.yaml").write_text(text)
    with pytest.raises(CommandError, match=complaint):
        nested.read(tmp_path)
