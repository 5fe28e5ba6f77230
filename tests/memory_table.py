"""A DynamoDB table in memory, for tests with a million calls: it has the calls of stacks/pull/function/store.py.

Most tests of tests/stacks/pull run the same code against moto.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

Json = dict[str, Any]


class ConditionalCheckFailedException(Exception):
    """The condition of an update does not hold."""


class MemoryTable:
    """The items, by source and item."""

    def __init__(self) -> None:
        self.items: dict[tuple[str, str], Json] = {}
        self.meta = SimpleNamespace(client=SimpleNamespace(exceptions=self))
        self.ConditionalCheckFailedException = ConditionalCheckFailedException

    def get_item(self, *, Key: Json, ConsistentRead: bool) -> Json:
        found = self.items.get((Key["source"], Key["item"]))
        return {} if found is None else {"Item": dict(found)}

    def query(self, *, ExpressionAttributeValues: Json, **options: Any) -> Json:
        source, prefix = ExpressionAttributeValues[":source"], ExpressionAttributeValues[":prefix"]
        return {
            "Items": [
                dict(item)
                for (owner, name), item in sorted(self.items.items())
                if owner == source and name.startswith(prefix)
            ]
        }

    @contextlib.contextmanager
    def batch_writer(self) -> Iterator[MemoryTable]:
        yield self

    def put_item(self, *, Item: Json) -> None:
        self.items[Item["source"], Item["item"]] = dict(Item)

    def update_item(
        self,
        *,
        Key: Json,
        UpdateExpression: str,
        ExpressionAttributeValues: Json,
        ConditionExpression: str = "",
        **_: Any,
    ) -> Json:
        key = (Key["source"], Key["item"])
        old = self.items.get(key, {})
        values = {name[1:]: value for name, value in ExpressionAttributeValues.items()}
        if ConditionExpression and not holds(ConditionExpression, old, values):
            raise ConditionalCheckFailedException
        new = {**old, **Key}
        for verb, text in re.findall(r"(SET|REMOVE|ADD) (.*?)(?= (?:SET|REMOVE|ADD) |$)", UpdateExpression):
            if verb == "REMOVE":
                for name in re.findall(r"#(\w+)", text):
                    new.pop(name, None)
            elif verb == "ADD":
                for name, value in re.findall(r"#(\w+) :(\w+)", text):
                    new[name] = new.get(name, 0) + values[value]
            else:
                for name, kept, value in re.findall(r"#(\w+) = (if_not_exists\(#\w+, )?:(\w+)", text):
                    new[name] = old.get(name, values[value]) if kept else values[value]
        self.items[key] = new
        return {"Attributes": {name: old[name] for name in old if old[name] != new.get(name)}}


def holds(condition: str, item: Json, values: Json) -> bool:
    """Whether a condition holds for an item. AND binds closer than OR, and there are no parentheses around either."""
    return any(all(_holds(each, item, values) for each in part.split(" AND ")) for part in condition.split(" OR "))


def _holds(text: str, item: Json, values: Json) -> bool:
    if match := re.fullmatch(r"attribute_not_exists\(#(\w+)\)", text):
        return match[1] not in item
    if match := re.fullmatch(r"#(\w+) IN \((.*)\)", text):
        return item.get(match[1]) in [values[name] for name in re.findall(r":(\w+)", match[2])]
    match = re.fullmatch(r"#(\w+) (=|<>|<|<=|>) :(\w+)", text)
    assert match, f"this fake does not know the condition {text!r}"
    found, given = item.get(match[1]), values[match[3]]
    if match[2] in ("=", "<>"):
        return bool((found == given) == (match[2] == "="))
    return found is not None and {"<": found < given, "<=": found <= given, ">": found > given}[match[2]]
