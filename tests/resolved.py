"""Templates as CloudFormation resolves them: functions worked out, and parts with a false condition left out."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

Json = dict[str, Any]
NO_VALUE = "AWS::NoValue"


class Resolver:
    """Works out the functions of one template. `values` has Ref's results for parameters, pseudo parameters and
    resources; `attribute` gives Fn::GetAtt's, by logical id and name."""

    def __init__(self, template: Json, values: Mapping[str, str], attribute: Callable[[str, str], str]) -> None:
        self.template, self.values, self.attribute = template, values, attribute

    def resources(self) -> dict[str, Json]:
        """The resources to make, with their resolved properties."""
        return {
            name: {"Type": one["Type"], "Properties": self.resolve(one.get("Properties", {}))}
            for name, one in self.template["Resources"].items()
            if "Condition" not in one or self.holds({"Condition": one["Condition"]})
        }

    def resolve(self, node: Any) -> Any:
        """A part of the template, resolved."""
        if isinstance(node, list):
            return [item for item in map(self.resolve, node) if item != NO_VALUE]
        if not isinstance(node, dict):
            return node
        function, value = next(iter(node.items()), ("", None))
        if len(node) == 1 and (function == "Ref" or function.startswith("Fn::")):
            return self._call(function, value)
        resolved = {key: self.resolve(item) for key, item in node.items()}
        return {key: item for key, item in resolved.items() if item != NO_VALUE}

    def _call(self, function: str, value: Any) -> Any:
        if function == "Ref":
            return self.values.get(value, value)
        if function == "Fn::If":
            return self.resolve(value[1] if self.holds({"Condition": value[0]}) else value[2])
        if function == "Fn::GetAtt":
            return self.attribute(*value)
        if function == "Fn::Sub":
            text, own = (value, {}) if isinstance(value, str) else (value[0], self.resolve(value[1]))
            return re.sub(r"\$\{(!?)([^}]+)\}", lambda found: self._name(own, *found.groups()), text)
        arguments = self.resolve(value)
        if function == "Fn::FindInMap":
            mapped, first, second = arguments
            return self.template["Mappings"][mapped][first][second]
        if function == "Fn::Join":
            return arguments[0].join(arguments[1])
        if function == "Fn::Split":
            return arguments[1].split(arguments[0])
        if function == "Fn::Select":
            return arguments[1][int(arguments[0])]
        raise AssertionError(f"{function} is not resolved here")

    def _name(self, own: Json, literal: str, name: str) -> str:
        if literal:
            return f"${{{name}}}"
        if "." in name:
            return self.attribute(*name.split(".", 1))
        return str(own.get(name, self.values.get(name, name)))

    def holds(self, condition: Json) -> bool:
        """Whether a condition is true."""
        ((function, arguments),) = condition.items()
        if function == "Condition":
            return self.holds(self.template["Conditions"][arguments])
        if function == "Fn::Equals":
            first, second = self.resolve(arguments)
            return bool(first == second)
        of_all: Callable[[list[bool]], bool] = {"Fn::And": all, "Fn::Or": any, "Fn::Not": lambda one: not one[0]}[
            function
        ]
        return of_all([self.holds(one) for one in arguments])
