"""The first received row of an event_id counts, from any sender, and in any order of reading."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from local.athena.text import java_double
from scripts.commands.deploy.queries import read
from tests.conftest import ROOT
from tests.lake import EVENT_COLUMNS, Client, Lake, day

Row = dict[str, Any]
Shown = dict[str, str | None]

SAVED = {query.name: query.text for query in read()}
# Before any clock that these tests can meet: the days of a table end with the real one.
NOON = datetime(2020, 9, 22, 12)
COLUMNS = [name for name in EVENT_COLUMNS if name not in ("event_id", "received_at", "request_id")]
LOOK_BACK = timedelta(days=7)


def now() -> datetime:
    return datetime.now(UTC).replace(tzinfo=None, microsecond=0)


def row(event_id: str = "x", received_at: datetime | None = None, **columns: Any) -> Row:
    """A row of the events table, received now; it happened when it was received, unless the columns say otherwise."""
    received_at = received_at or now()
    return {"event_id": event_id, "received_at": received_at, "request_id": "r", "occurred_at": received_at} | columns


def day_of(moment: datetime, ago: int = 0) -> str:
    """The day so many days before a moment, as yyyy-MM-dd."""
    return f"{moment - timedelta(days=ago):%Y-%m-%d}"


def fill(sql: str, **days: str) -> str:
    values = {"AthenaDatabaseName": "sluice", "AthenaTableName": "records", **days}
    for name, value in values.items():
        sql = sql.replace(f"${{{name}}}", value)
    return sql


class Store:
    """Rows in objects by the day of their delivery, and statements over them."""

    def __init__(self, directory: Path) -> None:
        self.lake = Lake(directory)
        self.lake.add_table("records")
        self.client = Client(self.lake, directory / "athena")
        self.objects = 0

    def deliver(self, *rows: Row, dt: str | None = None) -> None:
        """Put one object, by default on the day of its oldest row."""
        self.objects += 1
        dt = dt or day_of(min(one["received_at"] for one in rows))
        self.lake.put_parquet(f"events/dt={dt}/{self.objects:03}.parquet", list(rows))

    def ask(self, sql: str, *parameters: str) -> list[Shown]:
        answer = self.client.run(fill(sql), *parameters)
        assert answer.state == "SUCCEEDED", answer.reason
        return [dict(zip(answer.header, shown, strict=True)) for shown in answer.rows]

    def refine(self, file: str, first: str, last: str | None = None) -> list[Shown]:
        """A refinement file's rows for these days."""
        return self.ask(fill((ROOT / file).read_text(), **{"from": first, "to": last or first}))


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path)


def counted(store: Store) -> list[Shown]:
    """The rows of the saved query of totals; AssertionError if the refined table of the last days disagrees."""
    totals = store.ask(SAVED["totals-by-name-and-action"])
    refined = store.refine("stacks/refine/sql/processed_events.sql", day(20), day())
    assert len(refined) == sum(int(one["events"] or 0) for one in totals)
    assert {one["name"] for one in refined} == {one["name"] for one in totals}
    return totals


def test_a_later_row_under_a_stolen_id_does_not_replace_the_first(store: Store) -> None:
    store.deliver(row(name="order", value=10.0, received_at=now() - timedelta(hours=2)))
    store.deliver(row(name="forged", value=-1e6, received_at=now(), request_id="a"))
    assert [(one["name"], one["total_value"]) for one in counted(store)] == [("order", "10.0")]


def test_a_forged_time_in_the_past_does_not_make_a_row_the_first(store: Store) -> None:
    """A sender gives an event's time, but not the time of its receipt."""
    store.deliver(row(name="order", value=10.0, received_at=now() - timedelta(hours=2)))
    store.deliver(row(name="forged", value=1.0, occurred_at=now() - timedelta(days=3)))
    assert [one["name"] for one in counted(store)] == ["order"]
    assert store.refine("stacks/refine/sql/processed_events.sql", day_of(now() - timedelta(days=3))) == []


def test_whoever_uses_an_id_first_has_it(store: Store) -> None:
    """So ids must be random: docs/security.md."""
    store.deliver(row(name="forged", value=1.0, received_at=now() - timedelta(hours=3)))
    store.deliver(row(name="order", value=10.0, received_at=now()))
    assert [one["name"] for one in counted(store)] == ["forged"]


@pytest.mark.parametrize("name", ["distinct-users", "clock-skew-by-source"])
def test_a_later_row_does_not_count_where_the_first_is_none_of_the_question(store: Store, name: str) -> None:
    """The first row counts, although it has no user and no skew."""
    store.deliver(row(name="order", received_at=now() - timedelta(hours=2)))
    store.deliver(row(name="order", value=999.0, user_id="mallory", clock_skew_ms=1, received_at=now()))
    assert store.ask(SAVED[name]) == []


def test_a_later_row_does_not_count_where_the_first_is_outside_of_the_window(store: Store) -> None:
    [celsius] = read(ROOT / "examples/sensors/queries.sql")
    store.deliver(row(name="temperature", value=50.0, occurred_at=datetime(2010, 1, 1), received_at=now() - LOOK_BACK))
    store.deliver(row(name="temperature", value=59.0, occurred_at=datetime(2010, 7, 1)))
    window = "timestamp '2010-{}-01 00:00:00'"
    for months, found in (("01 02", ["10.0"]), ("07 08", [])):
        parameters = [window.format(month) for month in months.split()]
        assert [one["celsius"] for one in store.ask(celsius.text, *parameters, "-50", "50")] == found


def test_the_same_row_delivered_again_counts_once(store: Store) -> None:
    again = row(name="order", value=10.0)
    store.deliver(again, again)
    store.deliver(again, dt=day(1))
    assert [one["events"] for one in counted(store)] == ["1"]
    [refined] = store.refine("stacks/refine/sql/processed_events.sql", day_of(now()))
    assert refined["deliveries"] == "3"


def test_an_id_that_comes_again_after_midnight_is_not_an_event_of_the_next_day(store: Store) -> None:
    midnight = now().replace(hour=0, minute=0, second=0)
    days = [day_of(midnight, ago) for ago in (1, 0)]
    store.deliver(row(name="order", received_at=midnight - timedelta(seconds=1)))
    store.deliver(row(name="again", received_at=midnight + timedelta(seconds=1)))
    file = "stacks/refine/sql/processed_events.sql"
    assert [one["name"] for one in store.refine(file, *days)] == ["order"]
    assert [[one["name"] for one in store.refine(file, one_day)] for one_day in days] == [["order"], []]


def test_an_object_that_was_begun_a_day_earlier_is_looked_into(store: Store) -> None:
    """An object's dt is the day of its oldest row, so the eighth day back may hold a row of the seventh."""
    event = NOON.replace(hour=0)
    store.deliver(row(received_at=event - LOOK_BACK, name="order"), dt=day_of(event, 8))
    store.deliver(row(received_at=event, name="again"))
    assert store.refine("stacks/refine/sql/processed_events.sql", day_of(event)) == []


@pytest.mark.parametrize(("earlier", "names"), [(timedelta(0), []), (timedelta(milliseconds=1), ["again"])], ids=str)
def test_an_id_counts_again_when_it_was_not_used_for_seven_days(
    store: Store, earlier: timedelta, names: list[str]
) -> None:
    store.deliver(row(received_at=NOON - LOOK_BACK - earlier, name="order"))
    store.deliver(row(received_at=NOON, name="again"))
    for ago in (0, 1, 6):
        found = store.refine("stacks/refine/sql/processed_events.sql", day_of(NOON, ago), day_of(NOON))
        assert [one["name"] for one in found] == names


def test_copies_of_an_event_from_a_clock_that_is_weeks_fast_count_once(store: Store) -> None:
    event = row(received_at=NOON, occurred_at=NOON + timedelta(days=24))
    store.deliver(event, event)
    assert len(store.refine("stacks/refine/sql/processed_events.sql", day_of(NOON), day_of(NOON, -30))) == 1


def test_an_event_long_ago_is_found_in_what_is_delivered_today(store: Store) -> None:
    event = row(name="reading", occurred_at=datetime(2010, 1, 1), received_at=NOON)
    store.deliver(event)
    store.deliver({**event, "name": "again", "received_at": NOON + timedelta(days=50)})
    assert [one["name"] for one in store.refine("stacks/refine/sql/processed_events.sql", "2010-01-01")] == ["reading"]


def test_a_replay_that_comes_late_is_the_first_that_was_received(store: Store) -> None:
    """A replayed event keeps its received_at, and takes its place."""
    store.deliver(row(name="again", received_at=now()))
    store.deliver(row(name="order", received_at=now() - timedelta(hours=1), occurred_at=now()), dt=day())
    assert [one["name"] for one in counted(store)] == ["order"]


@pytest.mark.parametrize(
    ("file", "kind"),
    [
        ("examples/vehicles/refine/vehicles.sql", "vehicle"),
        ("examples/weather/refine/sensor_days.sql", "weather"),
    ],
)
def test_of_pulled_rows_the_last_counts(store: Store, file: str, kind: str) -> None:
    pulled = [NOON + timedelta(days=days) for days in (1, 2)]
    for at, text in zip(pulled, ['{"vehicle_name": "old"}', '{"vehicle_name": "new"}'], strict=True):
        store.deliver(row(name=kind, source="s", occurred_at=NOON, received_at=at, properties=text))
    [found] = store.refine(file, day_of(NOON))
    assert found.get("vehicle_name", "new") == "new"
    assert found.get("pulled_at", shown(pulled[1])) == shown(pulled[1])


# For each column, values in order: if rows differ in nothing else, the one with the earlier value counts.
TEXT_ORDER = ["", "B", "a", "é", "日本", None]
TIED: dict[str, list[Any]] = {
    "received_at": [NOON, NOON + timedelta(milliseconds=1)],
    **dict.fromkeys(("request_id", "name", "action"), TEXT_ORDER),
    "value": [-math.inf, -1.0, 0.0, 1.5, math.inf, math.nan, None],
    **dict.fromkeys(("source", "user_id"), TEXT_ORDER),
    "occurred_at": [NOON - timedelta(hours=1), NOON],
    "clock_skew_ms": [-1, 0, 1, None],
    **dict.fromkeys(("properties", "ip", "user_agent"), TEXT_ORDER),
}


@pytest.mark.parametrize("layout", ["first to last", "last to first", "one object"])
@pytest.mark.parametrize(
    "file", ["stacks/refine/sql/processed_events.sql", "examples/datalake/refine/processed_data.sql"]
)
def test_of_rows_that_differ_in_one_column_the_same_one_counts(store: Store, file: str, layout: str) -> None:
    """NULL comes last, NaN after all numbers, and text by its bytes, as in Trino."""
    pairs = [
        [row(f"{name} {number}", NOON) | {name: value} for value in values[number : number + 2]]
        for name, values in TIED.items()
        for number in range(len(values) - 1)
    ]
    objects = [[pair[number] for pair in pairs] for number in (0, 1)]
    if layout == "one object":
        objects = [[one for pair in pairs for one in reversed(pair)]]
    for rows in objects if layout != "last to first" else reversed(objects):
        store.deliver(*rows, dt=day_of(NOON))
    found = {one.get("event_id") or one["record_id"]: one for one in store.refine(file, day_of(NOON))}
    assert found.keys() == {pair[0]["event_id"] for pair in pairs}
    for first, _ in pairs:
        name = first["event_id"].split()[0]
        counts = {"properties": found[first["event_id"]].get("envelope"), **found[first["event_id"]]}
        assert counts.get(name, shown(first[name])) == shown(first[name]), first["event_id"]


# --- Any rows, in any order

START = NOON.replace(hour=0)
DAYS = 24


def rank(one: Row) -> list[tuple[bool, bool, Any]]:
    """Sort key of the first row: NULL comes last, and NaN after all numbers."""
    values = [one.get(name) for name in ("received_at", "request_id", *COLUMNS)]
    return [
        (value is None, isinstance(value, float) and math.isnan(value), 0 if value is None or value != value else value)
        for value in values
    ]


def first_rows(rows: Sequence[Row]) -> list[Row]:
    """The rows counted as events: their id was not received within the seven days before them, or since."""
    found = []
    last: dict[str, datetime] = {}
    for one in sorted(rows, key=rank):
        earlier = last.get(one["event_id"])
        if earlier is None or earlier < min(one["occurred_at"], one["received_at"]) - LOOK_BACK:
            found.append(one)
        last[one["event_id"]] = one["received_at"]
    return found


TEXTS = st.sampled_from([None, "", "a", "b", "é"])
# Few of them, so that rows tie; some are seven days apart.
TIMES = st.sampled_from([0, 6, 30, 168, 174, 198, 400, 568]).map(lambda hours: START + timedelta(hours=hours))
ROWS = st.lists(
    st.fixed_dictionaries(
        {
            "event_id": st.sampled_from("xyz"),
            "received_at": TIMES,
            "request_id": st.sampled_from([None, "r", "s"]),
            "occurred_at": TIMES,
            "name": TEXTS,
            "value": st.sampled_from([None, 1.0, -1.0, math.nan, 1e300]),
            "user_id": TEXTS,
            "properties": st.sampled_from([None, '{"a":1}', '{"a":2}']),
        }
    ),
    min_size=1,
    max_size=12,
)
BOUNDS = day_of(START), day_of(START, -DAYS)
COMPARED = ("event_id", "received_at", "request_id", "occurred_at", "name", "value", "user_id", "properties")


def shown(value: Any) -> str | None:
    match value:
        case datetime():
            return value.isoformat(" ", "milliseconds")
        case float():
            return java_double(value)
    return None if value is None else str(value)


def of_clocks_that_are_true(rows: list[Row]) -> list[Row]:
    """Without events of a clock over a day fast: no run looks that far back for them."""
    return [one for one in rows if one["occurred_at"] <= one["received_at"] + timedelta(days=1)]


@settings(max_examples=15)
@given(rows=ROWS, data=st.data())
def test_every_layout_of_the_same_rows_gives_the_same_events(rows: list[Row], data: st.DataObject) -> None:
    """In any order, in any objects: the rows of the rule, and of ties always the same one."""
    expected = sorted(tuple(shown(one[name]) or "NULL" for name in COMPARED) for one in first_rows(rows))
    for _ in range(2):
        with tempfile.TemporaryDirectory() as directory:
            store = Store(Path(directory))
            for one in data.draw(st.permutations(rows)):
                store.deliver(one)
            found = store.refine("stacks/refine/sql/processed_events.sql", *BOUNDS)
            assert sorted(tuple(one[name] or "NULL" for name in COMPARED) for one in found) == expected


@settings(max_examples=8)
@given(rows=ROWS.map(of_clocks_that_are_true).filter(bool))
def test_a_day_comes_out_the_same_whichever_days_a_run_makes(rows: list[Row]) -> None:
    with tempfile.TemporaryDirectory() as directory:
        store = Store(Path(directory))
        for one in rows:
            store.deliver(one)
        together = store.refine("stacks/refine/sql/processed_events.sql", *BOUNDS)
        for moment in {one["occurred_at"].replace(hour=0) for one in rows}:
            for ago in (0, 3):
                some = store.refine("stacks/refine/sql/processed_events.sql", day_of(moment, ago), day_of(moment))
                of_day = [sorted(str(one) for one in run if one["dt"] == day_of(moment)) for run in (some, together)]
                assert of_day[0] == of_day[1]
