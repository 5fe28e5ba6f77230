"""The actions granted by policies, and those used in a local AWS."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from scripts.commands.deploy import nested
from tests.local_process import LocalProcess
from tests.recording_server import RECORD

Json = dict[str, Any]
Action = tuple[str, str, str, str]  # name of the nested stack, logical id of the role or policy, Sid, action


def of_stack(stack: nested.NestedStack) -> Iterator[Action]:
    """Every action allowed by a file of stacks/ to a role, or by a managed policy, whatever its parameters are."""
    for name, found in statements(stack.template):
        for statement in found:
            actions = statement["Action"]
            for action in actions if isinstance(actions, list) else [actions]:
                if statement["Effect"] == "Allow":
                    yield stack.name, name, statement["Sid"], action


def statements(template: Json) -> Iterator[tuple[str, list[Json]]]:
    """The statements of each role and policy of a template, by logical id, those under a condition included."""
    for name, resource in template["Resources"].items():
        properties = resource.get("Properties", {})
        if resource["Type"] == "AWS::IAM::Role":
            documents = [policy["PolicyDocument"] for policy in _always(properties["Policies"])]
        elif resource["Type"] in ("AWS::IAM::ManagedPolicy", "AWS::IAM::Policy"):
            documents = [properties["PolicyDocument"]]
        else:
            assert not resource["Type"].startswith("AWS::IAM::"), f"{name}: this does not know {resource['Type']}"
            continue
        yield name, [statement for document in documents for statement in _always(document["Statement"])]


def _always(items: list[Any]) -> Iterator[Any]:
    """The items of a list, including conditional ones."""
    for item in items:
        if "Fn::If" in item:
            yield from _always([branch for branch in item["Fn::If"][1:] if "Ref" not in branch])
        else:
            yield item


class RecordingProcess(LocalProcess):
    """A local AWS with a record of questions to policies, and of their answers."""

    module = "tests.recording_server"

    def used(self, stack: str, name: str, role_name: str = "") -> set[Action]:
        """The actions allowed so far to a role of a nested stack, or to another role with its policy."""
        if not role_name:
            resources = self.client("cloudformation").list_stack_resources(StackName=self.resource(f"{stack}Stack"))
            (role_name,) = (
                resource["PhysicalResourceId"]
                for resource in resources["StackResourceSummaries"]
                if resource["LogicalResourceId"] == name
            )
        found = set()
        for line in (self.directory / RECORD).read_text().splitlines():
            principal, sid, action, *_ = json.loads(line)
            if sid and f":assumed-role/{role_name}/" in principal:
                found.add((stack.lower(), name, sid, action))
        return found
