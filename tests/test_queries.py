"""queries.sql: every saved query is Athena SQL, reads no more than it needs, and answers its question."""

from __future__ import annotations

import base64
import json
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlglot
from sqlglot import exp

from tests import factories
from tests.lake import ERROR_COLUMNS, OPENX_JSON, PARQUET, Client, Lake, day

FILE = Path(__file__).resolve().parents[1] / "queries.sql"
# Per query its name, its question, and the text below with its comments.
FOUND = re.findall(r"^-- ([a-z0-9-]+): (.+)\n((?:.|\n)+?;)$", FILE.read_text(), re.MULTILINE)
SAVED = {name: question for name, question, _ in FOUND}
TEXT = {name: text for name, _, text in FOUND}
SQL = {
    name: text.replace("${AthenaDatabaseName}", "sluice").replace("${AthenaTableName}", "records")
    for name, text in TEXT.items()
}
SCHEMA = FILE.parent / "lambda" / "transform" / "schema.json"
REJECTED_COLUMNS = {one["name"]: one["type"] for one in json.loads(SCHEMA.read_text())["rejected_columns"]}
# They show rows as delivered. All other queries must see an event once, even if it was delivered twice.
SHOWING = {"latest-events", "history-of-one-event", "failures"}


def ago(**duration: float) -> datetime:
    """A moment of the past (UTC), in whole milliseconds, without its zone as timestamps in the lake are."""
    moment = datetime.now(UTC).replace(tzinfo=None) - timedelta(**duration)
    return moment.replace(microsecond=moment.microsecond // 1000 * 1000)


def event(event_id: str, name: str = "John", action: str = "charge", **columns: Any) -> dict[str, Any]:
    return {"event_id": event_id, "name": name, "action": action, "received_at": ago(minutes=5), **columns}


def envelope(error_type: str, code: str, message: str, arrived: int, raw: str) -> dict[str, Any]:
    """Firehose's error document for a record; conversion has names of its own."""
    prefix = "error" if error_type == "processing-failed" else "lastError"
    fields = ("Code", "Message")
    names = [f"{prefix}{field}" for field in fields]
    data = base64.b64encode(raw.encode()).decode()
    return {"attemptsMade": 4, "arrivalTimestamp": arrived, names[0]: code, names[1]: message, "rawData": data}


RECORD = (
    "sluice/1 request_id=r extended_request_id=x= time=1 ip=1.2.3.4 user_agent=\n"
    "{body}\nsluice/end extended_request_id=x=\n"
)


@pytest.fixture(params=["parquet", "json"])
def lake(request: pytest.FixtureRequest, tmp_path: Path) -> Lake:
    lake = Lake(tmp_path)
    lake.add_table("records", serde=PARQUET if request.param == "parquet" else OPENX_JSON)
    lake.add_table(
        "records_errors",
        ERROR_COLUMNS,
        serde=OPENX_JSON,
        keys=("error_type", "dt"),
        template="errors/${error_type}/dt=${dt}/",
        parameters={
            "projection.error_type.type": "enum",
            "projection.error_type.values": "processing-failed,format-conversion-failed",
        },
    )
    lake.add_table("records_rejected", REJECTED_COLUMNS, serde=OPENX_JSON, template="rejected/dt=${dt}/")
    return lake


@pytest.fixture
def client(lake: Lake, tmp_path: Path) -> Client:
    return Client(lake, tmp_path / "athena")


def deliver(lake: Lake, rows: list[dict[str, Any]], dt: str | None = None, name: str = "object") -> None:
    """Put rows into the partition of a delivery day, in the form of the table."""
    serde = lake.tables["sluice", "records"]["StorageDescriptor"]["SerdeInfo"]["SerializationLibrary"]
    if serde == PARQUET:
        lake.put_parquet(f"events/dt={dt or day()}/{name}.parquet", rows)
    else:
        texts = [
            {
                key: value.isoformat(" ", "milliseconds") if isinstance(value, datetime) else value
                for key, value in row.items()
            }
            for row in rows
        ]
        lake.put_json(f"events/dt={dt or day()}/{name}.json.gz", texts)


def test_every_heading_of_the_file_is_a_query() -> None:
    assert list(SAVED) == re.findall(r"^-- ([a-z0-9-]+): ", FILE.read_text(), re.MULTILINE), "end each query with a ;"
    assert len(SAVED) >= 9


@pytest.mark.parametrize("name", SAVED)
class TestEverySavedQuery:
    def test_is_one_select_in_the_trino_dialect(self, name: str) -> None:
        statements = [statement for statement in sqlglot.parse(SQL[name], read="trino") if statement]
        assert len(statements) == 1
        assert isinstance(statements[0], exp.Select)

    def test_stands_under_a_question(self, name: str) -> None:
        heading = "write the line above the query as `-- its-name: Its question?`, the name in words of a-z"
        assert SAVED[name].endswith("?"), heading
        assert re.fullmatch(r"[a-z]+(-[a-z]+)*", name), heading

    def test_names_its_table_by_the_two_placeholders_and_has_no_other(self, name: str) -> None:
        placeholders = set(re.findall(r"\$\{[^}]*}", TEXT[name]))
        table = 'name the table in queries.sql as "${AthenaDatabaseName}"."${AthenaTableName}"'
        assert placeholders == {"${AthenaDatabaseName}", "${AthenaTableName}"}, table
        assert re.search(r'"\$\{AthenaDatabaseName}"\."\$\{AthenaTableName}(_errors|_rejected)?"', TEXT[name]), table

    def test_filters_its_partitions_or_says_why_it_reads_all(self, name: str) -> None:
        days = r"(current_date - interval '\d+' day|date_add\('day', -\?, current_date\))"
        filters = re.search(rf"WHERE dt >= date_format\({days}, '%Y-%m-%d'\)", SQL[name])
        assert bool(filters) != ("-- Reads every partition: " in SQL[name]), (
            f"{name} in queries.sql needs `WHERE dt >= date_format(current_date - interval '9' day, '%Y-%m-%d')`, "
            "or say why not in a line `-- Reads every partition: <why>`"
        )

    def test_counts_an_event_once_however_often_it_was_delivered(self, name: str) -> None:
        statement = sqlglot.parse_one(SQL[name], read="trino")
        if name not in SHOWING:
            # A rejected event's text may be in several rows, its parts.
            # Which row counts: tests/local/athena/test_athena_statements.py.
            first = (
                f"{name} in queries.sql must count each event once, as top-names does: row_number() OVER (PARTITION BY "
                "event_id ORDER BY received_at, ...) AS delivery, and WHERE delivery = 1. A query that shows rows as "
                "they were delivered goes into SHOWING in this file"
            )
            assert re.search(r"PARTITION BY event_id(, part)?\s+ORDER BY received_at", SQL[name]), first
            assert "WHERE delivery = 1" in SQL[name], first
        elif name != "failures":
            assert not list(statement.find_all(exp.AggFunc)), f"{name} counts rows: take it out of SHOWING in this file"

    def test_runs_on_a_lake_without_any_object(self, name: str, client: Client) -> None:
        code = re.sub(r"--.*", "", SQL[name])
        answer = client.run(
            SQL[name], *(["30"] if "-?" in code else []), *["'x'"] * len(re.findall(r"(LIKE|=) \?", code))
        )
        assert (answer.state, answer.reason, answer.rows, answer.scanned) == ("SUCCEEDED", "", [], 0)


def test_totals_by_name_and_action_count_and_sum_each_event_once(client: Client, lake: Lake) -> None:
    deliver(lake, [event("1", value=100.0), event("2", value=50.5), event("3", action="refund", value=None)])
    deliver(lake, [event("1", value=100.0), event("4", "Ann", value=1e7)], name="delivered-again")
    deliver(lake, [event("old", value=1.0)], dt=day(40))
    answer = client.run(SQL["totals-by-name-and-action"])
    assert answer.header == ["name", "action", "events", "total_value"]
    assert answer.rows == [
        ["John", "charge", "2", "150.5"],
        ["Ann", "charge", "1", "1.0E7"],
        ["John", "refund", "1", None],
    ]


TOTALS: dict[str, tuple[list[float], str]] = {
    "what an addition of doubles leaves behind": ([0.1, 0.2], "0.3"),
    "nothing after a refund": ([0.1, 0.2, -0.3], "0.0"),
    "small values": ([0.000015, 0.0000025], "1.75E-5"),
    "thousands of millions": ([1e9, 0.25], "1.00000000025E9"),
    "beyond what a bigint holds": ([1e19, 1e19], "2.0E19"),
    "more than a double holds": ([1.7e308, 1.7e308], "Infinity"),
}


@pytest.mark.parametrize(("values", "total"), TOTALS.values(), ids=TOTALS)
def test_a_total_has_the_digits_that_count_at_any_size(
    client: Client, lake: Lake, values: list[float], total: str
) -> None:
    deliver(lake, [event(str(number), value=value) for number, value in enumerate(values)])
    [row] = client.run(SQL["totals-by-name-and-action"]).rows
    assert row[3] == total


def test_latest_events_shows_the_newest_50_first(client: Client, lake: Lake) -> None:
    deliver(lake, [event(f"{n:02}", received_at=ago(minutes=n)) for n in range(60)])
    answer = client.run(SQL["latest-events"])
    ids = [row[answer.header.index("event_id")] for row in answer.rows]
    assert ids == [f"{n:02}" for n in range(50)]


def test_events_per_hour_counts_by_the_hour_of_arrival(client: Client, lake: Lake) -> None:
    two, one = datetime(2026, 1, 1, 2, 59, 59), datetime(2026, 1, 1, 1)
    deliver(lake, [event("1", received_at=two), event("2", received_at=one), event("3", received_at=two)])
    deliver(lake, [event("1", received_at=two)], name="again")
    answer = client.run(SQL["events-per-hour"])
    assert answer.rows == [["2026-01-01 01:00:00.000", "1"], ["2026-01-01 02:00:00.000", "2"]]


def test_top_names_shows_counts_shares_and_users(client: Client, lake: Lake) -> None:
    rows = [event("1", "view", user_id="u"), event("2", "view", user_id="u"), event("3", "buy")]
    deliver(lake, [*rows, rows[0]])
    answer = client.run(SQL["top-names"])
    shown = [dict(zip(answer.header, row, strict=True)) for row in answer.rows]
    assert [(row["name"], row["events"], row["percent"]) for row in shown] == [
        ("view", "2", "66.7"),
        ("buy", "1", "33.3"),
    ]
    assert [row["users"] for row in shown] == ["1", "0"]


def test_distinct_users_are_counted_by_the_day_on_which_things_happened(client: Client, lake: Lake) -> None:
    first, second = datetime(2026, 1, 1, 12), datetime(2026, 1, 2, 0)
    rows = [event("1", user_id="u", occurred_at=first), event("2", user_id="u", occurred_at=first)]
    rows += [event("3", user_id="v", occurred_at=second), event("4", occurred_at=second)]
    deliver(lake, [*rows, rows[0]])
    answer = client.run(SQL["distinct-users"])
    assert answer.rows == [["2026-01-02", "1", "1"], ["2026-01-01", "1", "2"]]


def test_clock_skew_tells_old_data_from_a_wrong_clock(client: Client, lake: Lake) -> None:
    sixteen_years = -16 * 365 * 24 * 3_600_000
    rows = [event(f"b{n}", source="sf", clock_skew_ms=sixteen_years) for n in range(3)]
    rows += [event("p1", source="phone", clock_skew_ms=-50), event("p2", source="phone", clock_skew_ms=sixteen_years)]
    rows += [event("k1", source="kiosk", clock_skew_ms=7_200_000), event("k2", clock_skew_ms=-20)]
    rows += [event("n1", source="silent", clock_skew_ms=None)]
    deliver(lake, [*rows, rows[0]])
    answer = client.run(SQL["clock-skew-by-source"])
    shown = [dict(zip(answer.header, row, strict=True)) for row in answer.rows]
    summary = [
        (
            row["source"],
            row["verdict"].split(":")[0],
            row["live_events"],
            row["backfilled_events"],
            row["skew_ms_median"],
        )
        for row in shown
    ]
    assert summary == [
        ("kiosk", "wrong clock", "1", "0", "7200000"),
        ("phone", "good clock", "1", "1", "-50"),
        ("(no source)", "good clock", "1", "0", "-20"),
        ("sf", "backfill", "0", "3", None),
    ]


def test_the_history_of_one_event_shows_every_copy_and_the_object_that_holds_it(client: Client, lake: Lake) -> None:
    deliver(lake, [event("order-1", received_at=ago(days=300)), event("order-2")], dt=day(300))
    deliver(lake, [event("order-1", received_at=ago(days=2))], dt=day(2), name="again")
    answer = client.run(SQL["history-of-one-event"], "'order-1'")
    assert [row[answer.header.index("dt")] for row in answer.rows] == [day(300), day(2)]
    objects = [row[answer.header.index("object")] or "" for row in answer.rows]
    assert [path.rpartition(".")[0].removesuffix(".json") for path in objects] == [
        f"s3://lake/events/dt={day(300)}/object",
        f"s3://lake/events/dt={day(2)}/again",
    ]


def test_rejections_count_an_event_once_by_its_reason_and_show_the_latest_text(client: Client, lake: Lake) -> None:
    def rejected(event_id: str, reason: str, text: str, minutes: int, part: int = 1) -> dict[str, Any]:
        body = base64.b64encode(text.encode()).decode()
        time = ago(minutes=minutes).isoformat(" ", "milliseconds")
        return {"event_id": event_id, "reason": reason, "detail": f"of {text}", "part": part, "parts": part} | {
            "received_at": time,
            "rejected_at": time,
            "body": body,
        }

    rows = [rejected("1", "not_json", "older", 9), rejected("2", "not_json", "newer", 5)]
    rows += [rejected("1", "not_json", "older", 9), rejected("3", "too_long", "one", 4)]
    rows += [rejected("3", "too_long", "and its second part", 4, part=2)]
    lake.put_json(f"rejected/dt={day()}/a.json.gz", rows)
    answer = client.run(SQL["rejections"])
    assert [[row[0], row[1], *row[3:]] for row in answer.rows] == [
        ["not_json", "2", "of newer", "newer"],
        ["too_long", "1", "of one", "one"],
    ]


def test_an_envelope_has_the_same_row_as_aws_writes_it_and_as_aws_documents_it(client: Client, lake: Lake) -> None:
    lake.put_json(f"errors/processing-failed/dt={day()}/a.json", factories.envelopes())
    columns = "attemptsmade, arrivaltimestamp, attemptendingtimestamp, errorcode, lambdaarn, length(rawdata) > 0"
    arn = "arn:aws:lambda:us-east-1:123456789012:function:transform"
    row = ["4", "1763706000987", "1763706061529", "Lambda.FunctionError", arn, "true"]
    assert client.run(f"SELECT {columns} FROM records_errors").rows == [row, row]


def test_failures_group_both_kinds_of_envelope_and_show_the_body_of_the_latest_record(
    client: Client, lake: Lake
) -> None:
    failed = [
        envelope("processing-failed", "Lambda.FunctionError", "It timed out", 1_700_000_000_000, "an older record"),
        envelope(
            "processing-failed", "Lambda.FunctionError", "It timed out", 1_700_000_060_123, RECORD.format(body="é\nb")
        ),
    ]
    lake.put_json(f"errors/processing-failed/dt={day()}/a.json", failed)
    lake.put_json(
        f"errors/format-conversion-failed/dt={day(3)}/b.json.gz",
        [envelope("format-conversion-failed", "DataFormatConversion.ParseError", "Bad JSON", 1_700_000_000_000, "{")],
    )
    lake.put_json(f"errors/processing-failed/dt={day(40)}/old.json", failed)
    answer = client.run(SQL["failures"])
    started = "2023-11-14 22:13:20.000 UTC"
    assert answer.rows == [
        [
            "processing-failed",
            "Lambda.FunctionError",
            "It timed out",
            "2",
            started,
            "2023-11-14 22:14:20.123 UTC",
            "é\nb",
        ],
        ["format-conversion-failed", "DataFormatConversion.ParseError", "Bad JSON", "1", started, started, "{"],
    ]
