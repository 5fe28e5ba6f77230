"""The table in memory answers each call of the store as moto's DynamoDB does."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from decimal import Decimal
from functools import partial
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from moto import mock_aws

from stacks.pull.function.pages import Page
from stacks.pull.function.source import Window, read_time
from stacks.pull.function.store import NewTask, Store, TaskKey
from tests.memory_table import ITEMS_A_PAGE, MemoryTable
from tests.pull_api import Clock

WINDOW = Window(read_time("2026-01-01"), read_time("2026-01-02"))


@pytest.fixture(scope="module")
def dynamodb() -> Iterator[Any]:
    """The table of stacks/pull/template.yaml; tests take sources of their own."""
    with mock_aws():
        yield boto3.resource("dynamodb", region_name="us-east-1").create_table(
            TableName="pull",
            BillingMode="PAY_PER_REQUEST",
            AttributeDefinitions=[{"AttributeName": name, "AttributeType": "S"} for name in ("source", "item")],
            KeySchema=[{"AttributeName": "source", "KeyType": "HASH"}, {"AttributeName": "item", "KeyType": "RANGE"}],
        )


NUMBERS = st.integers(0, 2)
KEYS = st.builds(partial(TaskKey, "source", "run"), st.integers(0, 1), NUMBERS, st.integers(0, 1))
SECONDS = st.sampled_from([0.0, 0.5, 2.0, 60.0])
WHO = st.sampled_from(["one", "other"])
CALLS = st.one_of(
    st.tuples(st.just("acquire"), WHO, SECONDS),
    st.tuples(st.just("release"), WHO),
    st.tuples(st.just("open_run"), st.just("run"), st.just(WINDOW)),
    st.tuples(st.just("note_planned"), st.just("run")),
    st.tuples(st.just("end_run"), st.just("run"), st.just("landed"), st.sampled_from([None, "2026-01-02"])),
    st.tuples(st.just("reserve"), st.sampled_from([0.0, 0.5, 20.0]), SECONDS),
    st.tuples(st.just("hold"), SECONDS),
    st.tuples(st.just("wait")),
    st.tuples(st.just("state")),
    st.tuples(st.just("tasks"), st.just("run")),
    st.tuples(st.just("run"), st.just("run")),
)
CALLS_OF_A_TASK = st.one_of(
    st.tuples(st.just("add"), KEYS),
    st.tuples(st.just("land"), KEYS, st.sampled_from([None, 7]), st.sampled_from(["", "a note"])),
    st.tuples(st.just("fail"), KEYS, NUMBERS),
    st.tuples(st.just("bury"), KEYS, st.sampled_from(["planned", "landed"])),
    st.tuples(st.sampled_from(["revive", "try_again", "discard", "is_left", "task", "pages"]), KEYS),
    st.tuples(st.just("sleep"), SECONDS),
)


def make(store: Store, clock: Clock, source: str, call: tuple[Any, ...]) -> Any:
    """The store's answer to a call."""
    name, *given = call
    if name == "sleep":
        return clock.sleep(*given)
    if given and isinstance(given[0], TaskKey):
        key, *given = given
        key = TaskKey(source, *(getattr(key, field) for field in ("run", "series", "number", "start")))
        arguments: dict[str, Callable[[], list[Any]]] = {
            "add": lambda: [[NewTask(key.page(number), {"page": number}, 3) for number in range(key.number + 1)]],
            "land": lambda: [key, Page([{}], "digest", given[0], None), range(1, 3), given[1]],
            "fail": lambda: [key, "why", 1, given[0], 0],
            "bury": lambda: [key, "why"],
        }
        options = {"state": given[0]} if name == "bury" else {}
        answer = getattr(store, name)(*arguments.get(name, lambda: [key])(), **options)
    else:
        answer = getattr(store, name)(source, *given)
    return list(answer) if name == "pages" else answer


sources = iter(f"source-{number}" for number in range(10**9))


@settings(max_examples=60, phases=[Phase.reuse, Phase.generate])
@given(calls=st.lists(st.one_of(CALLS, CALLS_OF_A_TASK), max_size=12))
def test_it_answers_as_dynamodb(dynamodb: Any, calls: list[tuple[Any, ...]]) -> None:
    source = next(sources)
    (clock, store), (other_clock, other_store) = [
        (clock, Store(table, clock)) for table in (MemoryTable(), dynamodb) for clock in [Clock()]
    ]
    for call in calls:
        with_error = []
        for a_store, a_clock in ((store, clock), (other_store, other_clock)):
            try:
                with_error.append(make(a_store, a_clock, source, call))
            except KeyError as error:  # of try_again, without a first page
                with_error.append(str(error))
        assert with_error[0] == with_error[1], call
    for prefix in ("run#", "task#", "state", "rate"):
        assert list(store._items(source, prefix)) == list(other_store._items(source, prefix))


def update(table: Any, expression: str, condition: str = "", **values: Any) -> Any:
    return Store(table)._change("source", "item", expression, condition, values)


WRONG: dict[str, Callable[[Any], Any]] = {
    "a float": lambda table: table.put_item(Item={"source": "source", "item": "item", "size": 0.5}),
    "a float in an update": lambda table: update(table, "SET #size = :size", size=0.5),
    "a key that is a number": lambda table: table.put_item(Item={"source": "source", "item": 1}),
    "no key": lambda table: table.get_item(Key={"source": "source", "item": ""}, ConsistentRead=True),
    "a value that is not used": lambda table: update(table, "SET #size = :size", size=1, other=2),
    "a value that is not there": lambda table: update(table, "SET #size = :size"),
    "an attribute twice": lambda table: update(table, "SET #size = :size, #size = :other", size=1, other=2),
    "a verb twice": lambda table: update(table, "REMOVE #size SET #other = :one REMOVE #third", one=1),
    "a key that changes": lambda table: update(table, "SET #item = :other", other="other"),
    "a word that is none": lambda table: update(table, "PUT #size = :size", size=1),
    "a condition that is none": lambda table: update(table, "SET #size = :size", "#size ~ :size", size=1),
    "no comma": lambda table: update(table, "SET #size = :size #other = :size", size=1),
}


@pytest.mark.parametrize("call", WRONG.values(), ids=WRONG)
def test_it_refuses_what_dynamodb_refuses(dynamodb: Any, call: Callable[[Any], Any]) -> None:
    with pytest.raises((ClientError, TypeError, ValueError)):  # ValueError is moto's own
        call(dynamodb)
    with pytest.raises((AssertionError, TypeError, KeyError)):
        call(MemoryTable())


def test_a_batch_is_written_at_its_end_and_has_no_item_twice(dynamodb: Any) -> None:
    for table in (MemoryTable(), dynamodb):
        with table.batch_writer() as batch:
            batch.put_item(Item={"source": "batch", "item": "one", "size": 1})
            assert "Item" not in table.get_item(Key={"source": "batch", "item": "one"}, ConsistentRead=True)
        found = table.get_item(Key={"source": "batch", "item": "one"}, ConsistentRead=True)["Item"]
        assert found == {"source": "batch", "item": "one", "size": Decimal(1)}
        with pytest.raises((ClientError, AssertionError), match=r"duplicates|twice"), table.batch_writer() as batch:
            for _ in range(2):
                batch.put_item(Item={"source": "batch", "item": "two"})


def test_a_long_query_has_pages() -> None:
    store = Store(MemoryTable())
    store.add(NewTask(TaskKey("source", "run", 0, number), {}, 1) for number in range(2 * ITEMS_A_PAGE + 1))
    assert len(store.tasks("source", "run")) == 2 * ITEMS_A_PAGE + 1
