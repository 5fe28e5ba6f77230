"""A DynamoDB table in memory, for tests with a million calls: it has the calls of stacks/pull/function/store.py.

It refuses what it does not know. tests/stacks/pull/test_memory_table.py compares it with moto, call by call.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Mapping
from functools import cache
from types import SimpleNamespace
from typing import Any

from boto3.dynamodb.types import TypeDeserializer, TypeSerializer

Json = dict[str, Any]

ITEMS_A_PAGE = 40
"""A query's answer ends here, so that its reader has to go on; DynamoDB's ends at 1 MB."""

ITEMS_A_BATCH = 25


class ConditionalCheckFailedException(Exception):
    """The condition of an update does not hold."""


class MemoryTable:
    """The items, by source and item, each attribute in DynamoDB's own form: {"S": "text"}."""

    def __init__(self) -> None:
        self.items: dict[str, dict[str, Json]] = {}
        self.meta = SimpleNamespace(client=SimpleNamespace(exceptions=self))
        self.ConditionalCheckFailedException = ConditionalCheckFailedException

    def get_item(self, *, Key: Json, ConsistentRead: bool) -> Json:
        assert ConsistentRead
        source, item = _key(Key)
        found = self.items.get(source, {}).get(item)
        return {} if found is None else {"Item": _read(found)}

    def query(
        self,
        *,
        KeyConditionExpression: str,
        ExpressionAttributeNames: Json,
        ExpressionAttributeValues: Json,
        ConsistentRead: bool,
        ExclusiveStartKey: Json | None = None,
    ) -> Json:
        assert ConsistentRead
        assert KeyConditionExpression == "#source = :source AND begins_with(#item, :prefix)"
        assert ExpressionAttributeNames == {"#source": "source", "#item": "item"}
        assert ExpressionAttributeValues.keys() == {":source", ":prefix"}
        source, prefix = ExpressionAttributeValues[":source"], ExpressionAttributeValues[":prefix"]
        items = self.items.get(source, {})
        after = "" if ExclusiveStartKey is None else _key(ExclusiveStartKey)[1]
        names = sorted(name for name in items if name.startswith(prefix) and name > after)
        page = names[:ITEMS_A_PAGE]
        more = {"LastEvaluatedKey": {"source": source, "item": page[-1]}} if len(names) > len(page) else {}
        return {"Items": [_read(items[name]) for name in page], **more}

    def scan(self) -> Json:
        return {"Items": [_read(item) for items in self.items.values() for item in items.values()]}

    @contextlib.contextmanager
    def batch_writer(self) -> Iterator[Batch]:
        batch = Batch(self)
        yield batch
        batch.flush()

    def put_item(self, *, Item: Json) -> None:
        source, item = _key({name: Item[name] for name in ("source", "item")})
        self.items.setdefault(source, {})[item] = _write(Item)

    def update_item(
        self,
        *,
        Key: Json,
        UpdateExpression: str,
        ExpressionAttributeNames: Json,
        ExpressionAttributeValues: Json,
        ReturnValues: str,
        ConditionExpression: str = "",
    ) -> Json:
        assert ReturnValues == "UPDATED_OLD"
        source, item = _key(Key)
        texts = f"{UpdateExpression} {ConditionExpression}"
        assert {f"#{name}" for name in re.findall(r"#(\w+)", texts)} == ExpressionAttributeNames.keys()
        assert {f":{name}" for name in re.findall(r":(\w+)", texts)} == ExpressionAttributeValues.keys()
        assert all(name == f"#{attribute}" for name, attribute in ExpressionAttributeNames.items())
        old = self.items.get(source, {}).get(item, {})
        values = _write({name[1:]: value for name, value in ExpressionAttributeValues.items()})
        if ConditionExpression and not holds(ConditionExpression, old, values):
            raise ConditionalCheckFailedException
        new = {**old, **_write(Key)}
        for verb, name, value in _changes(UpdateExpression):
            if verb == "REMOVE":
                new.pop(name, None)
            elif verb == "SET":
                new[name] = values[value]
            elif verb == "ADD":
                added, to = (_deserializer.deserialize(each) for each in (values[value], old.get(name, {"N": "0"})))
                new[name] = _serializer.serialize(to + added)
            else:  # SET with if_not_exists
                new.setdefault(name, values[value])
        self.items.setdefault(source, {})[item] = new
        return {"Attributes": _read({name: old[name] for name in old if old[name] != new.get(name)})}


class Batch:
    """boto3's batch: nothing is written before 25 items are there, or the end."""

    def __init__(self, table: MemoryTable) -> None:
        self.table, self.waiting = table, list[Json]()

    def put_item(self, *, Item: Json) -> None:
        _key({name: Item[name] for name in ("source", "item")})
        self.waiting.append(Item)
        if len(self.waiting) == ITEMS_A_BATCH:
            self.flush()

    def flush(self) -> None:
        keys = {(item["source"], item["item"]) for item in self.waiting}
        assert len(keys) == len(self.waiting), "DynamoDB refuses a batch that has an item twice"
        for item in self.waiting:
            self.table.put_item(Item=item)
        self.waiting.clear()


_serializer, _deserializer = TypeSerializer(), TypeDeserializer()

CHANGES = {
    "SET": r"#(?P<name>\w+) = (?:if_not_exists\(#(?P<kept>\w+), )?:(?P<value>\w+)(?(kept)\))",
    "ADD": r"#(?P<name>\w+) :(?P<value>\w+)",
    "REMOVE": r"#(?P<name>\w+)",
}
"""For each verb, a change: the attribute, that of if_not_exists, and the value."""


def _write(item: Mapping[str, Any]) -> dict[str, Json]:
    """Attributes as boto3 sends them; it refuses floats."""
    return {name: _serializer.serialize(value) for name, value in item.items()}


def _read(item: Mapping[str, Json]) -> Json:
    """Attributes as boto3 returns them: numbers are Decimals."""
    return {name: _deserializer.deserialize(value) for name, value in item.items()}


def _key(key: Json) -> tuple[str, str]:
    source, item = key["source"], key["item"]
    assert len(key) == 2 and isinstance(source, str) and isinstance(item, str) and source and item, key
    return source, item


@cache
def _changes(update: str) -> list[tuple[str, str, str]]:
    """The changes of an update expression: the verb, the attribute, and the name of the value."""
    sections = re.findall(r"(SET|REMOVE|ADD) (.+?)(?= (?:SET|REMOVE|ADD) |$)", update)
    assert " ".join(f"{verb} {text}" for verb, text in sections) == update, f"this fake does not know {update!r}"
    assert len(dict(sections)) == len(sections), f"a verb twice in {update!r}"
    changes = []
    for verb, text in sections:
        for change in re.split(r", (?=#\w+(?: |,|$))", text):
            match = re.fullmatch(CHANGES[verb], change)
            assert match, f"this fake does not know {change!r}"
            found = match.groupdict("")
            name, kept = found["name"], found.get("kept", "")
            assert kept in ("", name), f"this fake knows if_not_exists of the attribute itself alone, not {change!r}"
            changes.append(("DEFAULT" if kept else verb, name, found.get("value", "")))
    names = [name for _, name, _ in changes]
    assert len(set(names)) == len(names), f"an attribute twice in {update!r}"
    assert not {"source", "item"} & set(names), "a key does not change"
    return changes


def holds(condition: str, item: Mapping[str, Json], values: Mapping[str, Json]) -> bool:
    """Whether a condition holds for an item. AND binds closer than OR, and there are no parentheses around either."""
    return any(all(_holds(each, item, values) for each in part.split(" AND ")) for part in condition.split(" OR "))


def _holds(text: str, item: Mapping[str, Json], values: Mapping[str, Json]) -> bool:
    if match := re.fullmatch(r"attribute_not_exists\(#(\w+)\)", text):
        return match[1] not in item
    if match := re.fullmatch(r"#(\w+) IN \((:\w+(?:, :\w+)*)\)", text):
        return item.get(match[1]) in [values[name] for name in re.findall(r":(\w+)", match[2])]
    match = re.fullmatch(r"#(\w+) (=|<>|<|<=|>) :(\w+)", text)
    assert match, f"this fake does not know the condition {text!r}"
    found, given = item.get(match[1]), values[match[3]]
    if match[2] in ("=", "<>"):
        return (found == given) == (match[2] == "=")
    if found is None or found.keys() != given.keys():
        return False
    left, right = _deserializer.deserialize(found), _deserializer.deserialize(given)
    return bool({"<": left < right, "<=": left <= right, ">": left > right}[match[2]])
