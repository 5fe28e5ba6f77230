"""What each nested stack adds to the template, and what all of them keep to."""

from __future__ import annotations

from typing import Any

import pytest

from scripts.commands import nested
from scripts.commands import template as templates
from scripts.commands.deploy import FOLDERS, failure
from scripts.commands.nested import NestedStack
from scripts.commands.template import TEMPLATE
from tests.fake_cloudformation import FakeAws, FakeCloudFormation, Stack

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


def deployed_with(*texts: str) -> dict[str, Any]:
    stacks = [NestedStack(f"alerts{n or ''}", text, templates.load(text)) for n, text in enumerate(texts)]
    return templates.load(nested.insert(TEXT, stacks, lambda stack: f"https://bucket/{stack.name}.yaml"))


def test_a_nested_stack_becomes_parameters_a_condition_a_resource_and_outputs() -> None:
    found = deployed_with(ALERTS)
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
            "TemplateURL": "https://bucket/alerts.yaml",
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


def test_a_template_without_nested_stacks_is_the_template() -> None:
    assert deployed_with() == CORE


def test_nothing_of_the_core_changes_for_who_wants_none_of_them() -> None:
    found = templates.load(nested.insert(TEXT, STACKS, lambda stack: ""))
    added = {stack.logical_id for stack in STACKS}
    assert {name: one for name, one in found["Resources"].items() if name not in added} == CORE["Resources"]
    assert all("Condition" in found["Resources"][name] for name in added)


@A_STACK
def test_a_nested_stack_is_short(stack: NestedStack) -> None:
    assert len(stack.text.splitlines()) < 350
    assert max(map(len, stack.text.splitlines())) <= 120


@A_STACK
def test_what_a_user_meets_of_a_nested_stack_begins_with_its_name(stack: NestedStack) -> None:
    names = [*stack.parameters, *stack.template["Outputs"]]
    assert [name for name in names if not name.startswith(stack.name.capitalize())] == []


@A_STACK
def test_a_nested_stack_is_off_until_one_of_its_switches_has_a_value(stack: NestedStack) -> None:
    assert {stack.parameters[name]["Default"] for name in stack.switches} == {""}
    assert [name for name, one in stack.parameters.items() if "Default" not in one] == []


@A_STACK
def test_what_the_core_hands_over_exists(stack: NestedStack) -> None:
    outputs = {f"{one.logical_id}.Outputs.{name}" for one in STACKS for name in one.template["Outputs"]}
    there = CORE["Parameters"].keys() | CORE["Resources"].keys() | outputs
    sources = [source for source in stack.from_core.values() if not source.startswith("AWS::")]
    assert [one for one in sources if one not in there and one.split(".")[0] not in CORE["Resources"]] == []
    assert stack.from_core.keys() <= stack.template["Parameters"].keys()


@A_STACK
def test_every_parameter_and_output_of_a_nested_stack_is_described_and_used(stack: NestedStack) -> None:
    template = stack.template
    used = set(templates.references([template["Resources"], template.get("Conditions"), template["Outputs"]]))
    assert template["Parameters"].keys() - used == set()
    for name, parameter in stack.parameters.items():
        assert len(parameter["Description"]) > 20, name
        if name not in {filled_in for filled_in, _ in FOLDERS.values()}:
            assert "AllowedValues" in parameter or parameter["ConstraintDescription"].startswith("must "), name
        assert parameter["Description"].startswith("Optional") == (parameter["Default"] == ""), name
    # A conditional one would have no value for the template's own output.
    assert all(output["Description"] and "Condition" not in output for output in template["Outputs"].values())


def test_a_failure_inside_a_nested_stack_is_told_with_the_resource_that_failed() -> None:
    inner = Stack("sluice-AlertsStack-1", resources=[("AlertsTopic", "AWS::SNS::Topic", None, "CREATE_FAILED")])
    inner.tell("AlertsTopic", "CREATE_FAILED", "the name is taken")
    inner.tell(inner.name, "CREATE_FAILED", "The following resource(s) failed to create: [AlertsTopic].")
    event = {
        "LogicalResourceId": "AlertsStack",
        "ResourceType": "AWS::CloudFormation::Stack",
        "PhysicalResourceId": inner.id,
        "ResourceStatusReason": "Embedded stack was not successfully created",
    }
    told = failure(FakeAws(cloudformation=FakeCloudFormation(inner)), event)
    assert told == "AlertsStack: AlertsTopic (AWS::SNS::Topic): the name is taken"
