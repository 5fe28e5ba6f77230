"""scripts/query.sh against a scripted Athena."""

from __future__ import annotations

import csv
import io
import json
import re
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from botocore.exceptions import ClientError
from fake_cloudformation import FakeAws, FakeCloudFormation, Stack

from scripts.commands import query
from scripts.commands.common import athena as athena_queries
from scripts.commands.common import tables
from scripts.commands.common.athena import SavedQuery
from scripts.commands.common.console import CommandError, guarded
from scripts.commands.common.tables import Column
from tests.factories import stand_in

OUTPUTS = {"WorkGroupName": "sluice-wg", "DatabaseName": "lake", "TableName": "records"}
SAVED = {
    "q-1": ("Totals by name and action", "What do I sell?", "SELECT 1 AS total"),
    "q-2": ("Latest events", "What came in last?", "SELECT * FROM lake.records"),
    "q-3": ("One event's history", "Where is my event?", "SELECT * FROM lake.records WHERE event_id = ?"),
}


class FakeAthena:
    """A workgroup with saved queries. `states` has the state for each look at a query's execution."""

    def __init__(self) -> None:
        self.columns: list[tuple[str, str]] = [("n", "bigint")]
        self.rows: list[list[str | None]] = [["1"]]
        self.states: list[str | BaseException] = ["QUEUED", "RUNNING", "SUCCEEDED"]
        self.reason: dict[str, Any] = {}
        self.has_header = True
        self.started: list[dict[str, Any]] = []
        self.stopped: list[str] = []
        self.pages_read = 0

    def start_query_execution(self, **request: Any) -> dict[str, str]:
        if "syntax error" in request["QueryString"]:
            error = {"Code": "InvalidRequestException", "Message": "line 1:1: mismatched input 'syntax'"}
            raise ClientError({"Error": error}, "StartQueryExecution")
        self.started.append(request)
        return {"QueryExecutionId": "run-1"}

    def get_query_execution(self, QueryExecutionId: str) -> dict[str, Any]:
        state = self.states.pop(0)
        if isinstance(state, BaseException):
            raise state
        statistics = {"DataScannedInBytes": 123_456_789, "TotalExecutionTimeInMillis": 1234}
        return {
            "QueryExecution": {
                "QueryExecutionId": QueryExecutionId,
                "Status": {"State": state, **self.reason},
                "Statistics": statistics,
            }
        }

    def stop_query_execution(self, QueryExecutionId: str) -> None:
        self.stopped.append(QueryExecutionId)

    def get_named_query(self, NamedQueryId: str) -> dict[str, Any]:
        name, question, sql = SAVED[NamedQueryId]
        return {"NamedQuery": {"Name": name, "Description": question, "QueryString": sql, "Database": "lake"}}

    def get_paginator(self, operation: str) -> FakeAthena:
        assert operation in ("list_named_queries", "get_query_results")
        return self

    def paginate(self, WorkGroup: str = "", QueryExecutionId: str = "") -> Iterator[dict[str, Any]]:
        if WorkGroup:
            assert WorkGroup == "sluice-wg"
            yield {"NamedQueryIds": ["q-1", "q-2"]}
            yield {"NamedQueryIds": ["q-3"]}
            return
        assert QueryExecutionId == "run-1"
        header: list[list[str | None]] = [[name for name, _ in self.columns]] if self.has_header else []
        rows = header + self.rows
        for start in range(0, max(len(rows), 1), 2):
            self.pages_read += 1
            data = [
                {"Data": [{} if value is None else {"VarCharValue": value} for value in row]}
                for row in rows[start : start + 2]
            ]
            info = [{"Name": name, "Type": kind} for name, kind in self.columns]
            yield {"ResultSet": {"Rows": data, "ResultSetMetadata": {"ColumnInfo": info}}}


@pytest.fixture
def athena() -> FakeAthena:
    return FakeAthena()


@pytest.fixture
def ask(athena: FakeAthena, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Any]:
    """Run the command: (exit code, stdout, stderr)."""
    cloudformation = FakeCloudFormation(Stack("sluice", outputs=OUTPUTS))
    monkeypatch.setattr(query, "session", lambda local: FakeAws(cloudformation=cloudformation, athena=athena))
    monkeypatch.setattr(athena_queries, "time", stand_in(time, sleep=lambda seconds: None))

    def command(*arguments: str) -> tuple[int, str, str]:
        code = guarded(query.query, [*arguments])
        return code, *capsys.readouterr()

    return command


# Running


def test_a_saved_query_of_the_stack_runs_in_its_workgroup_and_database(ask: Any, athena: FakeAthena) -> None:
    assert ask("Totals by name and action")[0] == 0
    assert athena.started == [
        {
            "QueryString": "SELECT 1 AS total",
            "QueryExecutionContext": {"Database": "lake"},
            "WorkGroup": "sluice-wg",
        }
    ]


def test_in_a_stack_with_analysts_the_result_goes_to_the_folder_of_who_asks(
    athena: FakeAthena, monkeypatch: pytest.MonkeyPatch
) -> None:
    outputs = {**OUTPUTS, "BucketName": "lake", "AnalystWorkGroupName": "sluice-analysts"}
    cloudformation = FakeCloudFormation(Stack("sluice", outputs=outputs))
    sts = SimpleNamespace(get_caller_identity=lambda: {"UserId": "AROA1:ada@example.com"})
    aws = FakeAws(cloudformation=cloudformation, athena=athena, sts=sts)
    monkeypatch.setattr(query, "session", lambda local: aws)
    athena.states = ["SUCCEEDED"]
    assert guarded(query.query, ["latest-events"]) == 0
    assert athena.started[0]["WorkGroup"] == "sluice-analysts"
    location = athena.started[0]["ResultConfiguration"]["OutputLocation"]
    assert location == "s3://lake/athena-results/AROA1:ada@example.com/"


@pytest.mark.parametrize("name", ["latest events", "LATEST-EVENTS", "latest_events", " Latest  events "])
def test_case_spaces_hyphens_and_underscores_of_a_name_do_not_matter(ask: Any, athena: FakeAthena, name: str) -> None:
    assert ask(name)[0] == 0
    assert athena.started[0]["QueryString"] == "SELECT * FROM lake.records"


def test_an_unknown_name_suggests_the_close_ones(ask: Any, athena: FakeAthena) -> None:
    assert ask("latest-event") == (
        2,
        "",
        "error: there is no saved query 'latest-event': did you mean 'Latest events'?\n",
    )
    assert ask("totals")[2].endswith("did you mean 'Totals by name and action'?\n")
    assert ask("zzz")[2] == "error: there is no saved query 'zzz': see scripts/query.sh --list\n"
    assert athena.started == []


def test_the_list_shows_every_saved_query_with_its_question(ask: Any) -> None:
    code, out, _ = ask("--list")
    assert code == 0
    for name, question, _ in SAVED.values():
        assert name in out and question in out
    assert out.index("Latest events") < out.index("Totals by name")
    listed = [json.loads(line) for line in ask("--list", "--format", "json")[1].splitlines()]
    assert listed[0] == {"name": "Latest events", "question": "What came in last?"}


def test_sql_of_ones_own_gets_the_names_of_the_stack(ask: Any, athena: FakeAthena) -> None:
    assert ask("--sql", "SELECT '${x}' FROM ${AthenaDatabaseName}.${AthenaTableName}")[0] == 0
    assert athena.started[0]["QueryString"] == "SELECT '${x}' FROM lake.records"
    assert athena.started[0]["QueryExecutionContext"] == {"Database": "lake"}


def test_parameters_reach_athena_as_literals_in_their_order(ask: Any, athena: FakeAthena) -> None:
    assert ask("One event's history", "--param", "it's", "--param", "5")[0] == 0
    assert athena.started[0]["ExecutionParameters"] == ["'it''s'", "5"]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("5", "5"),
        ("-1.5e3", "-1.5e3"),
        ("true", "true"),
        ("NULL", "NULL"),
        ("'42'", "'42'"),
        ("date '2026-01-01'", "date '2026-01-01'"),
        ("abc", "'abc'"),
        ("2026-01-01", "'2026-01-01'"),
        ("", "''"),
        ("'; DROP TABLE x --", "'''; DROP TABLE x --'"),
        ("'a' OR '1'='1'", "'''a'' OR ''1''=''1'''"),
        ("1 OR 1", "'1 OR 1'"),
    ],
)
def test_a_parameter_is_one_literal_whatever_it_holds(value: str, expected: str) -> None:
    assert athena_queries.literal(value) == expected


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        pytest.param([], "give the name of a saved query, or --sql '...', or --list", id="nothing"),
        pytest.param(["a", "--sql", "b"], "give the name of a saved query, or --sql", id="name and SQL"),
        pytest.param(["--list", "--sql", "b"], "give the name of a saved query, or --sql", id="list and SQL"),
        pytest.param(["--list", "--param", "b"], "--param goes with a query", id="list with a parameter"),
        pytest.param(["a", "--format", "xml"], "invalid choice: 'xml'", id="format"),
        pytest.param(["a", "b"], "unrecognized arguments: b", id="a name without quotes"),
    ],
)
def test_wrong_usage_is_one_line_and_runs_nothing(
    ask: Any, athena: FakeAthena, arguments: list[str], complaint: str
) -> None:
    code, out, err = ask(*arguments)
    assert (code, out) == (2, "")
    assert complaint in err and err.count("\n") == 1
    assert athena.started == []


def test_a_stack_that_does_not_exist_is_named(ask: Any) -> None:
    assert ask("--list", "--stack-name", "other")[2].startswith(
        "error: stack 'other' does not exist in eu-west-1: deploy"
    )


# Output


def test_rows_of_all_pages_come_without_the_row_of_names(ask: Any, athena: FakeAthena) -> None:
    athena.rows = [[str(n)] for n in range(7)]
    _, out, err = ask("--sql", "x", "--format", "csv")
    assert out == "n\n" + "".join(f"{n}\n" for n in range(7))
    assert "7 rows, " in err


def test_a_statement_without_a_row_of_names_loses_no_row(ask: Any, athena: FakeAthena) -> None:
    athena.columns, athena.rows, athena.has_header = [("tab_name", "string")], [["records"], ["records_errors"]], False
    assert ask("--sql", "SHOW TABLES", "--format", "csv")[1] == "tab_name\nrecords\nrecords_errors\n"


def test_no_rows_are_told_as_such(ask: Any, athena: FakeAthena) -> None:
    athena.rows = []
    code, out, err = ask("--sql", "x", "--format", "csv")
    assert (code, out) == (0, "n\n")
    assert "0 rows, " in err


def test_csv_quotes_what_needs_it_and_leaves_null_empty(ask: Any, athena: FakeAthena) -> None:
    athena.columns = [("a", "varchar"), ("b", "varchar")]
    athena.rows = [['say "hi", you\nthere', None], ["ünï", ""]]
    _, out, _ = ask("--sql", "x", "--format", "csv")
    assert [*csv.reader(io.StringIO(out))] == [["a", "b"], ['say "hi", you\nthere', ""], ["ünï", ""]]


def test_json_has_typed_values_one_object_per_line(ask: Any, athena: FakeAthena) -> None:
    athena.columns = [
        ("i", "bigint"),
        ("d", "double"),
        ("b", "boolean"),
        ("s", "varchar"),
        ("m", "decimal"),
        ("z", "double"),
    ]
    athena.rows = [["9007199254740993", "1.5", "true", "x\ny", "1.10", "NaN"], [None, None, "false", None, None, None]]
    _, out, _ = ask("--sql", "x", "--format", "json")
    first, second = [json.loads(line) for line in out.splitlines()]
    assert first == {"i": 9007199254740993, "d": 1.5, "b": True, "s": "x\ny", "m": "1.10", "z": "NaN"}
    assert second == {"i": None, "d": None, "b": False, "s": None, "m": None, "z": None}


def test_a_table_cuts_nothing_off_where_no_terminal_limits_it(ask: Any, athena: FakeAthena) -> None:
    athena.columns = [("properties", "varchar"), ("total", "bigint")]
    athena.rows = [["x" * 300, "12"], [None, None]]
    _, out, _ = ask("--sql", "x")
    assert "x" * 300 in out
    assert "NULL" in out
    assert max(len(line) for line in out.splitlines()) < 330


def test_a_table_shows_markup_and_control_characters_as_text(ask: Any, athena: FakeAthena) -> None:
    athena.columns, athena.rows = [("user_agent", "varchar")], [["\x1b]0;owned\x07[red]x[/red]\x9b2J\n"]]
    _, out, _ = ask("--sql", "x")
    assert r"\x1b]0;owned\x07[red]x[/red]\x9b2J\n" in out
    assert not set(out) & {"\x1b", "\x07", "\x9b"}


@pytest.mark.parametrize(
    ("text", "cell"),
    [
        ('=HYPERLINK("https://evil.example","x")', '"\'=HYPERLINK(""https://evil.example"",""x"")"'),
        ("+49 30 123", "'+49 30 123"),
        ("-2+3+cmd|' /C calc'!A0", "'-2+3+cmd|' /C calc'!A0"),
        ("@SUM(A1)", "'@SUM(A1)"),
        ("\t=1+1", "'\t=1+1"),
        ("\r=1+1", '"\'\n=1+1"'),
        ("a\r=1+1", '"a\n=1+1"'),
        ("\n=1+1", '"\'\n=1+1"'),
        ("\uff1d1+1", "'\uff1d1+1"),
        ("a=1", "a=1"),
        ("", ""),
    ],
    ids=repr,
)
def test_no_text_in_csv_is_a_formula(ask: Any, athena: FakeAthena, text: str, cell: str) -> None:
    athena.columns, athena.rows = [("name", "varchar"), ("n", "bigint")], [[text, "1"]]
    _, out, _ = ask("--sql", "SELECT 1", "--format", "csv")
    assert out == f"name,n\n{cell},1\n"


def test_negative_numbers_stay_numbers_in_csv(ask: Any, athena: FakeAthena) -> None:
    athena.columns = [("a", "bigint"), ("b", "double"), ("c", "decimal(10,2)")]
    athena.rows = [["-1", "-1.5E-3", "-0.10"]]
    _, out, _ = ask("--sql", "SELECT 1", "--format", "csv")
    assert out == "a,b,c\n-1,-1.5E-3,-0.10\n"


def test_a_column_named_by_an_attacker_is_not_a_formula_either(ask: Any, athena: FakeAthena) -> None:
    athena.columns, athena.rows = [("=1+1", "varchar")], [["x"]]
    _, out, _ = ask("--sql", "SELECT 1", "--format", "csv")
    assert out == "'=1+1\nx\n"


STEERING = "\x1b]0;owned\x07 \x9b31m \u202eevil"


@pytest.mark.parametrize("form", ["table", "csv", "json"])
def test_nothing_that_a_sender_wrote_steers_a_terminal(
    ask: Any, athena: FakeAthena, monkeypatch: pytest.MonkeyPatch, form: str
) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setenv("TERM", "dumb")
    athena.columns, athena.rows = [("name", "varchar")], [[STEERING]]
    _, out, _ = ask("--sql", "SELECT 1", "--format", form)
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e]", out)
    assert "evil" in out
    if form == "json":
        assert json.loads(out) == {"name": STEERING}


def test_the_reason_of_a_failure_does_not_steer_the_terminal_either(ask: Any, athena: FakeAthena) -> None:
    athena.states = ["FAILED"]
    athena.reason = {"StateChangeReason": f"INVALID_CAST_ARGUMENT: Cannot cast '{STEERING}' to INT"}
    _, _, err = ask("--sql", "SELECT 1")
    assert "Cannot cast" in err
    assert "\x1b" not in err
    assert "\x9b" not in err


EVENT_ID = "0197d5a2-6a0e-7c3e-9d5b-1f2e3d4c5b6a"
TIME = "2026-11-21 08:20:00.123"


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Let stdout be a terminal of so many columns."""

    def of(columns: int) -> None:
        monkeypatch.setattr("sys.stdout.isatty", lambda: True)
        for name, value in {"TERM": "xterm", "NO_COLOR": "1", "COLUMNS": str(columns)}.items():
            monkeypatch.setenv(name, value)

    return of


def plain(text: str) -> list[str]:
    return re.sub(r"\x1b\[\d*m", "", text).splitlines()


@pytest.mark.parametrize("columns", [20, 70], ids="{} columns".format)
def test_a_table_that_does_not_fit_is_shown_row_by_row_with_its_values_whole(
    ask: Any, athena: FakeAthena, terminal: Any, columns: int
) -> None:
    terminal(columns)
    athena.columns = [("received_at", "timestamp"), ("event_id", "varchar"), ("total", "bigint")]
    athena.rows = [[TIME, EVENT_ID, "1"], [None, "東京 " * 30, "-2"]]
    lines = plain(ask("--sql", "SELECT 1")[1])
    assert [line.rstrip("─") for line in lines if "─" in line] == ["row 1 ", "row 2 "]
    assert [line for line in lines if "─" not in line] == [
        f"received_at  {TIME}",
        f"event_id     {EVENT_ID}",
        "total        1",
        "received_at  NULL",
        f"event_id     {'東京 ' * 30}",
        "total        -2",
    ]


def test_a_table_that_fits_or_goes_to_a_file_stays_a_table(ask: Any, athena: FakeAthena, terminal: Any) -> None:
    athena.columns, athena.rows = [("received_at", "timestamp"), ("event_id", "varchar")], [[TIME, EVENT_ID]]
    in_a_file = ask("--sql", "SELECT 1")[1]
    athena.states = ["SUCCEEDED"]
    terminal(80)
    assert [line.rstrip() for line in plain(ask("--sql", "SELECT 1")[1])] == [
        line.rstrip() for line in in_a_file.splitlines()
    ]
    assert f"{TIME}   {EVENT_ID}" in in_a_file


def test_the_list_wraps_its_questions_and_stays_a_table(ask: Any, terminal: Any) -> None:
    terminal(30)
    assert not any("row 1" in line for line in plain(ask("--list")[1]))


@pytest.mark.parametrize(
    ("column", "times", "told"),
    [
        pytest.param(("received_at", "timestamp"), [3600 * 5, 121, None, 200], "2 min", id="rows of events"),
        pytest.param(("last_received_at", "timestamp"), [86_400 * 3], "3 d", id="an aggregate"),
        pytest.param(("received_at", "timestamp"), [-60], "0 s", id="a clock that is late"),
        pytest.param(("received_at", "timestamp"), [], None, id="no rows"),
        pytest.param(("received_at", "varchar"), [130], None, id="a text of somebody's SQL"),
        pytest.param(("occurred_at", "timestamp"), [130], None, id="a time of the sender"),
    ],
)
def test_the_age_of_the_newest_event_is_told_if_the_result_has_it(
    ask: Any, athena: FakeAthena, column: tuple[str, str], times: list[int | None], told: str | None
) -> None:
    now = datetime.now(UTC)
    texts = [None if age is None else f"{now - timedelta(seconds=age):%Y-%m-%d %H:%M:%S.%f}"[:-3] for age in times]
    athena.columns, athena.rows = [column], [[text] for text in texts]
    _, _, err = ask("--sql", "SELECT 1")
    assert err.splitlines()[1:] == ([f"the newest event was received {told} ago"] if told else [])


def test_the_bill_is_told_on_stderr(ask: Any) -> None:
    _, out, err = ask("--sql", "x")
    assert err == "1 row, 123.5 MB scanned in 1.2 s, about 0.00062 USD (5.00 USD per TB, 10 MB at least)\n"
    assert "USD" not in out


@pytest.mark.parametrize(
    ("scanned", "dollars"),
    [(0, 0.00005), (9_999_999, 0.00005), (20_000_000, 0.0001), (10**12, 5.0), (3 * 10**12, 15.0)],
)
def test_athena_charges_five_dollars_per_terabyte_and_ten_megabytes_at_least(scanned: int, dollars: float) -> None:
    assert athena_queries.cost(scanned) == pytest.approx(dollars)


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 bytes"),
        (999, "999 bytes"),
        (1000, "1.0 kB"),
        (10_000_000, "10.0 MB"),
        (2_500_000_000, "2.5 GB"),
        (10**16, "10000.0 TB"),
    ],
)
def test_bytes_are_told_in_units(count: int, text: str) -> None:
    assert tables.size(count) == text


def test_rows_are_read_no_further_than_they_are_taken(athena: FakeAthena) -> None:
    athena.rows = [[str(n)] for n in range(100)]
    columns, rows = athena_queries.results(athena, "run-1")
    assert columns == [Column("n", "bigint")]
    assert next(rows) == ["0"]
    assert athena.pages_read == 1


# Errors


@pytest.mark.parametrize(
    ("state", "reason", "expected"),
    [
        pytest.param("FAILED", {"StateChangeReason": "TABLE_NOT_FOUND: x"}, "failed: TABLE_NOT_FOUND: x", id="failed"),
        pytest.param("FAILED", {"AthenaError": {"ErrorMessage": "no memory"}}, "failed: no memory", id="AthenaError"),
        pytest.param(
            "CANCELLED", {"StateChangeReason": "Bytes scanned limit was exceeded"}, "cancelled: Bytes", id="limit"
        ),
        pytest.param("FAILED", {}, "failed: no reason given", id="no reason"),
    ],
)
def test_a_query_that_fails_tells_athenas_reason(
    ask: Any, athena: FakeAthena, state: str, reason: dict[str, Any], expected: str
) -> None:
    athena.states, athena.reason = ["RUNNING", state], reason
    code, out, err = ask("--sql", "x")
    assert (code, out) == (1, "")
    assert err.startswith(f"error: the query {expected}")


def test_a_query_that_athena_refuses_tells_where(ask: Any) -> None:
    assert ask("--sql", "syntax error") == (
        1,
        "",
        "error: Athena refuses the query: line 1:1: mismatched input 'syntax'\n",
    )


def test_ctrl_c_stops_the_query_in_athena(ask: Any, athena: FakeAthena) -> None:
    athena.states = ["RUNNING", KeyboardInterrupt()]
    code, out, err = ask("--sql", "x")
    assert (code, out) == (130, "")
    assert athena.stopped == ["run-1"]
    assert err == "Athena was told to stop the query run-1\ninterrupted\n"


def test_a_finished_query_is_not_stopped(ask: Any, athena: FakeAthena) -> None:
    ask("--sql", "x")
    assert athena.stopped == []


def test_choosing_needs_no_exact_name() -> None:
    saved = [SavedQuery("Events per hour", "?", "SELECT 1", "lake")]
    assert athena_queries.choose(saved, "events-per-hour") is saved[0]
    with pytest.raises(CommandError, match="did you mean 'Events per hour'"):
        athena_queries.choose(saved, "events per hours")
