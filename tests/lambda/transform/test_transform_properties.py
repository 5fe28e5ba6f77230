"""Properties of the transform that hold for every input."""

from __future__ import annotations

import json
import math
from contextlib import redirect_stdout
from datetime import UTC, datetime, timedelta, timezone
from io import StringIO
from typing import Any

from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tests import factories
from transform.events import Accepted, Dropped, Rejected, transform
from transform.handler import lambda_handler
from transform.records import Fault
from transform.rows import COLUMNS
from transform.rules import Settings

# Every example is a whole record or invocation; a slow machine must not fail.
thorough = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])

COLUMN_NAMES = [column.name for column in COLUMNS]

scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats()
    | st.text(max_size=20)
    | st.sampled_from(["", " ", "100", "1e400", "abc", "true", "2025-11-21T06:20:00Z", "\ud800", 1763706000, 1e11])
)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=8,
)
keys = st.sampled_from([*COLUMN_NAMES, "timestamp", "debug", "dt", "Name", "plan"]) | st.text(max_size=6)
event_objects = st.dictionaries(keys, values, max_size=8)
bodies = (
    st.binary(max_size=200)
    | st.builds(lambda event: json.dumps(event).encode(), event_objects | values)
    | st.builds(lambda found: json.dumps(found).encode(), st.lists(event_objects | values, max_size=6))
    | st.builds(
        lambda found: b"\n".join(found),
        st.lists(st.builds(lambda e: json.dumps(e).encode(), event_objects) | st.binary(max_size=20), max_size=6),
    )
)
records = st.builds(
    lambda body, ip, user_agent: factories.record(body, ip=ip, user_agent=user_agent),
    bodies,
    st.sampled_from(["203.0.113.7", "2001:db8::1", "", "unknown"]),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=30) | st.just("Googlebot/2.1"),
)
anything = bodies | records | st.builds(lambda record, cut: record[:cut], records, st.integers(0, 400))


@thorough
@given(anything, st.integers(0, 4_000_000_000_000))
@example(b"sluice/1 ", 0)
def test_any_bytes_have_an_outcome_or_are_a_fault_of_ours(data: bytes, arrived_at: int) -> None:
    try:
        outcomes = transform(data, arrived_at, Settings())
    except Fault as fault:
        assert data.startswith(b"sluice/")
        assert fault.reason in ("context_line", "end_line")
        return
    for outcome in outcomes:
        assert isinstance(outcome, Accepted | Dropped | Rejected)
        if isinstance(outcome, Accepted):
            [row] = factories.rows(outcome)
            assert list(row) == COLUMN_NAMES
            assert row["event_id"]
            assert type(json.loads(row["properties"])) is dict
            assert row["value"] is None or (type(row["value"]) is float and math.isfinite(row["value"]))
            assert row["name"] is None or 0 < len(row["name"]) <= 256
            for column in ("occurred_at", "received_at"):
                assert len(row[column]) == 23
                assert "1970" <= row[column][:4] <= "2100"
    positions = [outcome.position for outcome in outcomes if isinstance(outcome, Rejected)]
    assert positions == [number for number, outcome in enumerate(outcomes) if isinstance(outcome, Rejected)]
    assert outcomes == transform(data, arrived_at, Settings())


@thorough
@given(st.lists(anything, max_size=8))
def test_an_invocation_is_answered_record_by_record_and_its_counts_add_up(found: list[bytes]) -> None:
    event = factories.invocation(*found)
    with redirect_stdout(StringIO()) as printed:
        reply = lambda_handler(event, factories.LambdaContext())
    assert [record["recordId"] for record in reply["records"]] == [record["recordId"] for record in event["records"]]
    rows = 0
    for sent, record in zip(event["records"], reply["records"], strict=True):
        assert set(record) == {"recordId", "result", "data"}
        assert record["result"] in ("Ok", "Dropped", "ProcessingFailed")
        if record["result"] == "Ok":
            rows += len(factories.rows(record["data"]))
        else:
            assert record["data"] == sent["data"]
    json.dumps(reply)
    metrics = json.loads(printed.getvalue())
    assert metrics["Accepted"] == rows
    assert metrics["Received"] == sum(metrics[name] for name in ("Accepted", "Dropped", "Rejected", "Failed"))
    for outcome, detail in (("Dropped", "ByRule"), ("Rejected", "ByReason"), ("Failed", "ByReason")):
        assert metrics[outcome] == sum(metrics[outcome + detail].values())
    assert metrics["Received"] >= sum(record["result"] == "ProcessingFailed" for record in reply["records"])


@thorough
@given(st.lists(event_objects, min_size=1, max_size=6))
def test_an_array_and_its_lines_have_the_same_outcomes_as_each_event_alone(found: list[dict[str, Any]]) -> None:
    for event in found:
        event["event_id"] = "given"  # ours would carry the position
    texts = [json.dumps(event).encode() for event in found]
    alone = [transform(factories.record(text), 0, Settings())[0] for text in texts]
    for body in (b"[%b]" % b",".join(texts), b"\n".join([*texts, b"{}"])):
        together = transform(factories.record(body), 0, Settings())[: len(found)]
        assert [kind(outcome) for outcome in together] == [kind(outcome) for outcome in alone]


def kind(outcome: object) -> object:
    """An outcome without its position, and without the JSON reader's words, because they give a place in the text."""
    return outcome.reason if isinstance(outcome, Rejected) else outcome


plain_scalars = (
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False, allow_infinity=False)
)
plain_texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
plain_values = st.recursive(
    plain_scalars | plain_texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(plain_texts, inner, max_size=4),
    max_leaves=10,
)


@thorough
@given(
    st.dictionaries(
        plain_texts.filter(lambda key: key not in {*COLUMN_NAMES, "timestamp", "debug"}), plain_values, min_size=1
    )
)
def test_what_is_outside_the_schema_reads_back_from_properties_as_it_was(event: dict[str, Any]) -> None:
    [outcome] = transform(factories.record(event), 0, Settings())
    assert isinstance(outcome, Accepted)
    [row] = factories.rows(outcome)
    assert json.loads(row["properties"]) == event


@thorough
@given(st.integers(0, 4_133_980_799_999), st.integers(-14 * 60, 14 * 60))
def test_a_moment_is_the_same_row_in_every_way_of_writing_it(milliseconds: int, offset: int) -> None:
    moment = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=milliseconds)
    browser = moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
    local = moment.astimezone(timezone(timedelta(minutes=offset))) if milliseconds > 1e9 else moment
    ways: list[object] = [browser, local.isoformat(), moment.isoformat(" "), moment.strftime("%Y%m%dT%H%M%S.%fZ")]
    ways += [milliseconds, str(milliseconds)] if milliseconds >= 1e11 else []
    ways += [milliseconds / 1000] if milliseconds / 1000 < 1e11 else []
    found = set()
    for way in ways:
        [outcome] = transform(factories.record({"timestamp": way}), 0, Settings())
        assert isinstance(outcome, Accepted), way
        [row] = factories.rows(outcome)
        found.add((row["occurred_at"], row["clock_skew_ms"]))
    assert found == {(browser[:-1].replace("T", " "), milliseconds - factories.RECEIVED_AT)}


@thorough
@given(st.binary(max_size=300), st.text(st.characters(exclude_categories=["Cs"]), max_size=40))
def test_a_client_cannot_break_out_of_its_fields(body: bytes, user_agent: str) -> None:
    marked = body + b'\n{"name": "mine"}'
    outcomes = transform(factories.record(marked, user_agent=user_agent), 0, Settings())
    rows = [row for outcome in outcomes if type(outcome) is Accepted for row in factories.rows(outcome)]
    assert rows[-1]["name"] == "mine"
    for row in rows:
        assert (row["request_id"], row["ip"]) == (factories.REQUEST_ID, "203.0.113.0")
        assert row["user_agent"] == (user_agent or None)
