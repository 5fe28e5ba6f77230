"""A query from its start to its result: its answers, its failures, and Athena's words for them."""

from __future__ import annotations

import asyncio
import csv
import io
import threading
from typing import Any

import duckdb
import pytest

from local.athena import run as athena_run
from local.athena import service as athena
from local.athena.text import java_double
from tests.lake import BUCKET, Client, Lake

# --- Results


def test_a_result_is_typed_text_with_a_header_row_and_missing_nulls(client: Client) -> None:
    answer = client.run("SELECT name, value, clock_skew_ms FROM records ORDER BY event_id")
    assert answer.header == ["name", "value", "clock_skew_ms"]
    assert answer.types == ["varchar", "double", "bigint"]
    assert answer.rows == [["a", "1.0", "7"], ["b", "1.0E7", "2"], [None, None, None]]


def test_a_result_is_also_a_csv_object_with_quoted_values_and_empty_nulls(client: Client, lake: Lake) -> None:
    answer = client.run("""SELECT 'say "hi", then go' AS "text", CAST(NULL AS varchar) AS nothing""")
    location = answer.execution["ResultConfiguration"]["OutputLocation"]
    assert location == f"s3://{BUCKET}/results/{answer.execution['QueryExecutionId']}.csv"
    data = (lake.directory / BUCKET / location.removeprefix(f"s3://{BUCKET}/")).read_text()
    assert data == '"text","nothing"\n"say ""hi"", then go",\n'
    assert list(csv.reader(io.StringIO(data)))[1] == ['say "hi", then go', ""]


def test_a_result_that_cannot_be_written_fails_the_query(client: Client) -> None:
    answer = client.run("SELECT 1", ResultConfiguration={"OutputLocation": "s3://gone/results/"})
    assert answer.state == "FAILED"
    assert "s3://gone/results/" in answer.reason and "NoSuchBucket" in answer.reason


def test_a_result_is_read_in_pages_whose_first_row_is_the_header_once(client: Client) -> None:
    answer = client.run("SELECT n FROM UNNEST(sequence(1, 5)) AS t(n) ORDER BY n")
    identifier, pages = answer.execution["QueryExecutionId"], []
    token: dict[str, str] = {}
    while True:
        _, page = asyncio.run(client.call("GetQueryResults", QueryExecutionId=identifier, MaxResults=2, **token))
        pages.append([row["Data"][0]["VarCharValue"] for row in page["ResultSet"]["Rows"]])
        if "NextToken" not in page:
            break
        token = {"NextToken": page["NextToken"]}
    assert pages == [["n", "1"], ["2", "3"], ["4", "5"]]
    assert client.refusal("GetQueryResults", QueryExecutionId=identifier, MaxResults=1001).endswith("(got 1001)")


JAVA_DOUBLES = {
    100.0: "100.0", 0.0: "0.0", -0.5: "-0.5", 0.001: "0.001", 0.00015: "1.5E-4", 9999999.0: "9999999.0",
    1e7: "1.0E7", -123456789.5: "-1.234567895E8", 1e22: "1.0E22", float("-inf"): "-Infinity", float("nan"): "NaN",
}  # fmt: skip


@pytest.mark.parametrize(("value", "text"), JAVA_DOUBLES.items(), ids=JAVA_DOUBLES.values())
def test_a_double_is_written_as_java_writes_it(value: float, text: str) -> None:
    assert java_double(value) == text


# --- What fails, and how


FAILURES = {
    "a table that is not there": (
        "SELECT *\nFROM nothing", "TABLE_NOT_FOUND: line 2:6: Table 'awsdatacatalog.sluice.nothing' does not exist"),
    "a column that is not there": (
        'SELECT name,\n  "nothing" FROM records', "COLUMN_NOT_FOUND: line 2:3: Column 'nothing' cannot be resolved"),
    "an alias in WHERE": (
        "SELECT value * 2 AS v FROM records WHERE v > 1", "COLUMN_NOT_FOUND: line 1:42: Column 'v' cannot be resolved"),
    "an alias in GROUP BY": (
        "SELECT name AS n, count(*) FROM records GROUP BY n", "COLUMN_NOT_FOUND: line 1:50: Column 'n' cannot"),
    "an alias in HAVING": (
        "SELECT name, count(*) AS c FROM records GROUP BY 1 HAVING c > 1", "COLUMN_NOT_FOUND: line 1:59: Column 'c'"),
    "an alias beside its own definition": (
        "SELECT value AS v, v + 1 FROM records", "COLUMN_NOT_FOUND: line 1:20: Column 'v' cannot be resolved"),
    "a function that Trino has not": (
        "SELECT strptime(name, '%Y') FROM records", "FUNCTION_NOT_FOUND: line 1:8: Function 'strptime' not registered"),
    "a column that is not grouped": (
        "SELECT name, value FROM records GROUP BY name",
        "EXPRESSION_NOT_AGGREGATE: line 1:14: 'value' must be an aggregate expression or appear in GROUP BY clause"),
    "a time compared with text": (
        "SELECT 1 FROM records WHERE occurred_at > '2026-01-01'",
        "TYPE_MISMATCH: line 1:41: Cannot apply operator: timestamp(3) > varchar(10)"),
    "the partition compared with a date": (
        "SELECT 1 FROM records WHERE dt >= current_date - INTERVAL '7' DAY",
        "TYPE_MISMATCH: line 1:32: Cannot apply operator: varchar >= date"),
    "a number compared with text": (
        "SELECT 1 FROM records WHERE value = '1'",
        "TYPE_MISMATCH: line 1:35: Cannot apply operator: double = varchar(1)"),
    "text in a list of numbers": (
        "SELECT 1 FROM records WHERE value IN (1, 'x')", "TYPE_MISMATCH: line 1:35: IN value and list items must be"),
    "a range of text around a time": (
        "SELECT 1 FROM records WHERE occurred_at BETWEEN '2026-01-01' AND '2026-01-02'",
        "TYPE_MISMATCH: line 1:41: Cannot check if timestamp(3) is BETWEEN varchar(10) and varchar(10)"),
    "text joined with a number": (
        "SELECT name || 1 FROM records", "FUNCTION_NOT_FOUND: line 1:13: Unexpected parameters (varchar, integer) for"),
    "a division by zero": ("SELECT 1 / 0", "DIVISION_BY_ZERO: Division by zero"),
    "text that is not an integer": (
        "SELECT CAST('3.5' AS integer)", "INVALID_CAST_ARGUMENT: Cannot cast '3.5' to INT"),
    "an object of JSON as text": (
        "SELECT CAST(json_extract('{\"k\":{}}', '$.k') AS varchar)", "INVALID_CAST_ARGUMENT: Cannot cast to varchar. "),
    "what the local Athena has not": ("SELECT xxhash64(x'00')", "NOT_SUPPORTED: the local Athena does not implement"),
    "text that is not a number": ("SELECT CAST(name AS double) FROM records", "INVALID_CAST_ARGUMENT: "),
    "another catalog": ("SELECT * FROM other.sluice.records", "CATALOG_NOT_FOUND: line 1:15: Catalog 'other' does not"),
    "too few parameters": ("SELECT ?", "INVALID_PARAMETER_USAGE: line 1:1: Incorrect number of parameters: expected 1"),
}  # fmt: skip


@pytest.mark.parametrize(("sql", "reason"), FAILURES.values(), ids=FAILURES.keys())
def test_a_query_that_fails_says_why_in_athenas_words(client: Client, sql: str, reason: str) -> None:
    answer = client.run(sql)
    assert answer.state == "FAILED"
    assert answer.reason.startswith(reason)
    error = answer.execution["Status"]["AthenaError"]
    assert (error["ErrorCategory"], error["ErrorMessage"]) == (2, answer.reason)
    assert client.refusal("GetQueryResults", QueryExecutionId=answer.execution["QueryExecutionId"]).endswith(
        "Current state: FAILED"
    )


REFUSALS = {
    "malformed SQL": ("SELECT name\nFORM records x", "line 2:6: mismatched input 'records'"),
    "text without an end": ("SELECT 'name", "line 1:8: "),
    "two statements": ("SELECT 1; SELECT 2", "Only one sql statement is allowed. Got: SELECT 1; SELECT 2"),
    "a DDL statement": (
        "DROP TABLE records",
        "NOT_SUPPORTED: the local Athena does not implement the statement DROP TABLE",
    ),
    "a DML statement": (
        "INSERT INTO records SELECT 1",
        "NOT_SUPPORTED: the local Athena does not implement the statement INSERT",
    ),
    "DuckDB's way to cast": ("SELECT value::bigint FROM records", "line 1:13: mismatched input ':'"),
    "DuckDB's table function": ("SELECT * FROM read_csv('/etc/passwd')", "line 1:23: mismatched input '('"),
    "DuckDB's ILIKE": ("SELECT 1 FROM records WHERE name ILIKE 'a'", "line 1:34: mismatched input 'ILIKE'"),
}


@pytest.mark.parametrize(("sql", "message"), REFUSALS.values(), ids=REFUSALS.keys())
def test_what_cannot_be_a_query_is_refused_at_the_start(client: Client, sql: str, message: str) -> None:
    location = {"OutputLocation": "s3://lake/results/"}
    refusal = client.refusal("StartQueryExecution", QueryString=sql, ResultConfiguration=location)
    assert refusal.startswith(message)
    assert not client.athena.executions


def test_an_operation_or_a_member_that_is_not_implemented_is_refused_by_name(client: Client) -> None:
    assert client.refusal("CreateNotebook") == "The local Athena does not implement AmazonAthena.CreateNotebook"
    refusal = client.refusal("StartQueryExecution", QueryString="SELECT 1", ResultReuseConfiguration={})
    assert refusal == "The local Athena does not implement ResultReuseConfiguration of StartQueryExecution"
    assert client.refusal("StartQueryExecution") == "QueryString is required"
    assert client.refusal("GetQueryExecution", QueryExecutionId="x") == "QueryExecution x was not found"


# --- Execution parameters


def test_execution_parameters_are_literals_in_the_order_of_the_question_marks(client: Client) -> None:
    sql = "WITH r AS (SELECT * FROM records WHERE name = ?) SELECT event_id, ?, '?' FROM r WHERE value > ? -- what?"
    assert client.run(sql, "'a'", "DATE '2026-01-01'", "-1").rows == [["1", "2026-01-01", "?"]]


@pytest.mark.parametrize("value", ["order-1", "a b", "(SELECT 1)", "1 OR name IS NULL"])
def test_an_execution_parameter_that_is_not_a_literal_fails_and_shows_the_quotes(client: Client, value: str) -> None:
    answer = client.run("SELECT * FROM records WHERE event_id = ?", value)
    assert answer.state == "FAILED"
    assert answer.reason.startswith("EXPRESSION_NOT_CONSTANT")
    assert answer.reason.endswith(f"{value} (as text it needs single quotes: '{value}')")


# --- The life of a query


def test_the_same_token_starts_one_query_and_another_query_under_it_is_refused(client: Client) -> None:
    async def scenario() -> None:
        body = {"ClientRequestToken": "t" * 32, "ResultConfiguration": {"OutputLocation": "s3://lake/results/"}}
        _, first = await client.call("StartQueryExecution", QueryString="SELECT 1", **body)
        _, again = await client.call("StartQueryExecution", QueryString="SELECT 1", **body)
        status, other = await client.call("StartQueryExecution", QueryString="SELECT 2", **body)
        assert first == again
        assert (status, other["Message"]) == (400, "Idempotent parameters do not match")
        assert (await client.wait(first["QueryExecutionId"])).state == "SUCCEEDED"
        _, short = await client.call("StartQueryExecution", QueryString="SELECT 1", ClientRequestToken="t" * 31)
        assert short["Message"].endswith("(got 31)")

    asyncio.run(scenario())
    assert len(client.athena.executions) == 1


def test_two_queries_run_at_once_a_third_waits_and_each_can_be_stopped(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate, running = threading.Event(), threading.Semaphore(0)

    def hold(*_: Any) -> None:
        running.release()
        gate.wait(5)

    monkeypatch.setattr(athena, "run", hold)

    async def state(identifier: str) -> str:
        _, answer = await client.call("GetQueryExecution", QueryExecutionId=identifier)
        return str(answer["QueryExecution"]["Status"]["State"])

    async def scenario() -> None:
        location = {"OutputLocation": "s3://lake/results/"}
        started = [
            (await client.call("StartQueryExecution", QueryString="SELECT 1", ResultConfiguration=location))[1]
            for _ in range(3)
        ]
        identifiers = [answer["QueryExecutionId"] for answer in started]
        for _ in range(2):
            await asyncio.to_thread(running.acquire, timeout=5)
        assert [await state(identifier) for identifier in identifiers] == ["RUNNING", "RUNNING", "QUEUED"]
        await client.call("StopQueryExecution", QueryExecutionId=identifiers[2])
        assert await state(identifiers[2]) == "CANCELLED"
        gate.set()
        assert [(await client.wait(identifier)).state for identifier in identifiers] == [
            *["SUCCEEDED"] * 2,
            "CANCELLED",
        ]
        assert not running.acquire(blocking=False)  # the third never ran

    asyncio.run(scenario())


def test_a_query_that_is_stopped_between_two_steps_of_duckdb_is_interrupted_in_the_next(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetch, held, stopped = athena_run.fetch, threading.Event(), threading.Event()

    def fetch_when_stopped(*arguments: Any) -> None:
        held.set()
        stopped.wait(5)
        fetch(*arguments)

    monkeypatch.setattr(athena_run, "fetch", fetch_when_stopped)

    async def scenario() -> None:
        numbers = "UNNEST(sequence(1, 10000))"
        sql = f"SELECT sum(x * y) FROM {numbers} AS a(x), {numbers} AS b(y), {numbers} AS c(z)"  # an hour
        body = {"QueryString": sql, "ResultConfiguration": {"OutputLocation": "s3://lake/results/"}}
        _, started = await client.call("StartQueryExecution", **body)
        await asyncio.to_thread(held.wait, 5)
        asyncio.get_running_loop().call_later(0.05, stopped.set)
        await client.athena.stop()
        execution = client.athena.executions[started["QueryExecutionId"]]
        assert (execution.state, execution.reason) == ("CANCELLED", "Query cancelled by user")
        assert execution.rows == []

    asyncio.run(scenario())


def test_a_fault_of_the_engine_ends_the_query_as_the_systems(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    def break_down(*_: Any) -> None:
        raise RuntimeError("the disk is gone")

    monkeypatch.setattr(athena, "run", break_down)
    answer = client.run("SELECT 1")
    assert answer.reason == "GENERIC_INTERNAL_ERROR: RuntimeError('the disk is gone')"
    assert answer.execution["Status"]["AthenaError"]["ErrorCategory"] == 1


def test_duckdb_has_what_queries_need_without_loading_an_extension() -> None:
    loaded = duckdb.connect().execute("SELECT extension_name FROM duckdb_extensions() WHERE loaded").fetchall()
    assert {("icu",), ("json",), ("parquet",)} <= set(loaded)
