"""The policies of examples/deploy-policy.yaml: their statements, and whether they allow a call."""

from __future__ import annotations

import copy
from typing import Any

from local.ministack import ACCOUNT, Emulator
from local.ministack.deployer import Call
from scripts.commands.deploy import template as templates
from tests.conftest import ROOT

Json = dict[str, Any]

POLICY = ROOT / "examples" / "deploy-policy.yaml"
KEY = f"arn:aws:kms:us-east-1:{ACCOUNT}:key/1"


def as_list(value: Any) -> list[Any]:
    """A policy's one value or several, as a list."""
    return value if isinstance(value, list) else [value]


def resolved(node: Any) -> Any:
    """A part of the policies' template for stacks whose names begin with `team`, with a key of their own."""
    known = {"StackNames": "team", "DatabaseName": "serverless_data_pipeline", "KmsKeyArn": KEY}
    known |= {"AWS::Partition": "aws", "AWS::Region": "us-east-1", "AWS::AccountId": ACCOUNT}
    if isinstance(node, list):
        return [resolved(item) for item in node]
    if not isinstance(node, dict):
        return node
    ((function, value),) = node.items() if len(node) == 1 else [("", None)]
    if function == "Ref":
        return known[value]
    if function == "Fn::If":
        return resolved(value[1])
    if function == "Fn::Split":
        return resolved(value[1]).split(value[0])
    if function == "Fn::Join":
        return value[0].join(resolved(value[1]))
    if function == "Fn::Sub":
        text, more = value if isinstance(value, list) else (value, {})
        for name, replacement in {**known, **resolved(more)}.items():
            text = text.replace(f"${{{name}}}", replacement)
        return text
    return {key: resolved(item) for key, item in node.items()}


POLICIES: dict[str, Json] = {
    name: resolved(resource["Properties"]["PolicyDocument"])
    for name, resource in templates.load(POLICY.read_text())["Resources"].items()
}
STATEMENTS = [statement for document in POLICIES.values() for statement in document["Statement"]]
ACTIONS = [(one["Sid"], action) for one in STATEMENTS for action in as_list(one["Action"])]


def without(documents: dict[str, Json], sid: str, action: str) -> dict[str, Json]:
    """The policies less one action of one statement."""
    less = copy.deepcopy(documents)
    for document in less.values():
        for statement in document["Statement"]:
            if statement["Sid"] == sid:
                statement["Action"] = [one for one in as_list(statement["Action"]) if one != action]
        document["Statement"] = [statement for statement in document["Statement"] if statement["Action"]]
    return less


def is_allowed(emulator: Emulator, documents: list[Json], call: Call) -> bool:
    """Whether a user with these policies may make a call."""
    from ministack.core import iam_evaluator  # here, as the emulator configures it first

    request = iam_evaluator.EvalContext(
        principal_arn=f"arn:aws:iam::{ACCOUNT}:user/deployer",
        principal_type="User",
        principal_account=ACCOUNT,
        action=call.action,
        resource_arn=call.resource,
        region="us-east-1",
        service_context=dict(call.context),
    )
    parsed = [iam_evaluator.parse_policy_document(document) for document in documents]
    decision: str = iam_evaluator.evaluate(request, parsed).decision
    return decision == "Allow"
