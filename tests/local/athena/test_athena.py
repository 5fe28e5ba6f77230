"""The local Athena: what it answers, it answers as AWS does; what it refuses, it refuses in AWS's words."""

from __future__ import annotations

import asyncio
import csv
import gzip
import io
import threading
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import cramjam
import duckdb
import pytest

from local.athena import run as athena_run
from local.athena import service as athena
from local.athena.analysis import Analysis, Result
from local.athena.scan import hadoop_snappy
from local.athena.text import java_double
from local.athena.types import VARCHAR
from tests.lake import BUCKET, OPENX_JSON, Client, Lake, day

ROWS: list[dict[str, Any]] = [
    {"event_id": "1", "name": "a", "value": 1.0, "clock_skew_ms": 7, "properties": '{"k":{"n":1},"t":"x","z":null}'},
    {"event_id": "2", "name": "b", "value": 1e7, "clock_skew_ms": 2, "properties": "not JSON"},
    {"event_id": "3", "name": None, "value": None, "clock_skew_ms": None, "properties": None},
]


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    lake = Lake(tmp_path)
    lake.add_table("records")
    lake.put_parquet(f"events/dt={day()}/a.parquet", ROWS)
    return lake


@pytest.fixture
def client(lake: Lake, tmp_path: Path) -> Client:
    return Client(lake, tmp_path / "athena")


def json_table(lake: Lake, columns: dict[str, str], **serde_parameters: str) -> None:
    lake.add_table("lines", columns, serde=OPENX_JSON, keys=(), template="lines/", serde_parameters=serde_parameters)


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


# --- What Trino means, where DuckDB means something else (or nothing)

TRINO = {
    "integers divide to an integer": ("5 / 2", "integer", "2"),
    "a double divides to a double": ("5e0 / 2", "double", "2.5"),
    "a date minus days stays a date": ("DATE '2026-01-08' - INTERVAL '7' DAY", "date", "2026-01-01"),
    "a date truncated stays a date": ("date_trunc('month', DATE '2026-01-08')", "date", "2026-01-01"),
    "date_diff counts whole units": ("date_diff('day', TIMESTAMP '2026-01-01 23:00', TIMESTAMP '2026-01-02 01:00')",
                                     "bigint", "0"),
    "date_diff may be negative": ("date_diff('millisecond', TIMESTAMP '2026-01-02', TIMESTAMP '2026-01-01')",
                                  "bigint", "-86400000"),
    "date_diff takes a time without a zone as UTC": ("date_diff('year', TIMESTAMP '2000-01-01', now()) > 20",
                                                     "boolean", "true"),
    "date_format reads MySQL's letters": ("date_format(TIMESTAMP '2026-01-02 13:04:05', '%Y-%m-%d %H:%i:%s')",
                                          "varchar", "2026-01-02 13:04:05"),
    "date_format takes a date": ("date_format(DATE '2026-01-02', '%Y-%m-%d')", "varchar", "2026-01-02"),
    "from_unixtime is in UTC": ("from_unixtime(1.5e0)", "timestamp with time zone", "1970-01-01 00:00:01.500 UTC"),
    "a timestamp has milliseconds": ("date_trunc('hour', TIMESTAMP '2026-01-02 13:04:05')", "timestamp",
                                     "2026-01-02 13:00:00.000"),
    "JSON gives a nested scalar as text": ("json_extract_scalar('{\"k\":{\"n\":1}}', '$.k.n')", "varchar", "1"),
    "JSON gives nothing for an object": ("json_extract_scalar('{\"k\":{\"n\":1}}', '$.k')", "varchar", None),
    "JSON gives nothing for null": ("json_extract_scalar('{\"k\":null}', '$.k')", "varchar", None),
    "JSON gives nothing for what is not JSON": ("json_extract_scalar('not JSON', '$.k')", "varchar", None),
    "from_utf8 replaces what is not UTF-8": ("length(from_utf8(from_base64('YYBi')))", "bigint", "3"),
    "try_cast gives NULL": ("try_cast('abc' AS double)", "double", None),
    "JSON gives nothing of what is not JSON": ("json_extract('not JSON', '$.k')", "json", None),
    "text in JSON is cast without quotes": ("CAST(json_extract('{\"k\":\"x\"}', '$.k') AS varchar)", "varchar", "x"),
    "an array in JSON is cast so": ("CAST(json_extract('{\"k\":[1,2]}', '$.k') AS array(bigint))", "array", "[1, 2]"),
    "a double is rounded half up": ("CAST(2.5e0 AS integer)", "integer", "3"),
    "an object of JSON is not text": ("try_cast(json_extract('{\"k\":{}}', '$.k') AS varchar)", "varchar", None),
    "a fraction is not an integer": ("try_cast('1.5' AS integer)", "integer", None),
    "an ISO time is not a timestamp": ("try_cast('2026-01-02T03:04:05' AS timestamp)", "timestamp", None),
    "a time is not a date": ("try_cast('2026-01-02 03:04' AS date)", "date", None),
    "an ISO time is a moment": ("from_iso8601_timestamp('2026-01-31T10:00:00Z')", "timestamp with time zone",
                                "2026-01-31 10:00:00.000 UTC"),
    "a moment is shown in UTC": ("CAST(at_timezone(from_iso8601_timestamp('2026-01-31T10:00:00+02:00'), 'UTC') AS "
                                 "timestamp)", "timestamp", "2026-01-31 08:00:00.000"),
    "a moment is shown in another zone": ("CAST(from_unixtime(0) AT TIME ZONE 'Europe/Berlin' AS timestamp)",
                                          "timestamp", "1970-01-01 01:00:00.000"),
    "date_add keeps to the month": ("date_add('month', 1, DATE '2026-01-31')", "date", "2026-02-28"),
    "a sequence of dates has dates": ("sequence(DATE '2026-01-01', DATE '2026-01-02', INTERVAL '1' DAY)", "array",
                                      "[2026-01-01, 2026-01-02]"),
    "empty text in an array is not null": ("split('a,', ',')", "array", "[a, ]"),
    "try gives NULL": ("try(1 / 0)", "integer", None),
    "element_at counts from 1": ("element_at(ARRAY['a', 'b'], 2)", "varchar", "b"),
    "an array is written in brackets": ("ARRAY[1, NULL, 3]", "array", "[1, null, 3]"),
    "a map is written with =": ("MAP(ARRAY['a'], ARRAY[1])", "map", "{a=1}"),
    "bytes are written in hexadecimal": ("to_utf8('Hi')", "varbinary", "48 69"),
    "concat with NULL is NULL": ("concat('a', CAST(NULL AS varchar))", "varchar", None),
    "regexp_replace replaces all": ("regexp_replace('aXbX', 'X', '-')", "varchar", "a-b-"),
}  # fmt: skip


@pytest.mark.parametrize(("expression", "kind", "text"), TRINO.values(), ids=TRINO.keys())
def test_an_expression_means_what_it_means_in_trino(
    client: Client, expression: str, kind: str, text: str | None
) -> None:
    answer = client.run(f"SELECT {expression} AS result")
    assert answer.state == "SUCCEEDED", answer.reason
    assert (answer.types, answer.rows) == ([kind], [[text]])


AGGREGATES = {
    "max_by gives NULL where the row of the maximum has it": ("max_by(n, v)", None),
    "min_by passes over rows without a key": ("min_by(n, v)", "x"),
    "approx_percentile keeps the type of its argument": ("approx_percentile(v, 0.5)", "2"),
    "approx_distinct is exact for few values": ("approx_distinct(v)", "3"),
    "count_if counts what is true": ("count_if(v > 1)", "2"),
    "count_if of conditions that are all NULL is 0": ("count_if(CAST(NULL AS bigint) > v)", "0"),
    "a sum of bigints is a bigint": ("sum(v)", "6"),
}


@pytest.mark.parametrize(("expression", "text"), AGGREGATES.values(), ids=AGGREGATES.keys())
def test_an_aggregate_means_what_it_means_in_trino(client: Client, expression: str, text: str | None) -> None:
    rows = "(VALUES ('x', 1), ('y', 2), (NULL, 3), ('z', NULL)) AS t(n, v)"
    answer = client.run(f"SELECT {expression} AS result FROM {rows}")
    assert answer.rows == [[text]], answer.reason


WINDOWS = {
    "row_number": ("row_number() OVER (PARTITION BY k ORDER BY v DESC)", ["2", "1", "1"]),
    "lead": ("lead(v) OVER (PARTITION BY k ORDER BY v) - v", ["3", None, None]),
    "lag with a default": ("lag(v, 1, 0) OVER (PARTITION BY k ORDER BY v)", ["0", "1", "0"]),
    "avg over rows": ("avg(v) OVER (ORDER BY v ROWS BETWEEN 1 PRECEDING AND CURRENT ROW)", ["1.0", "2.5", "4.5"]),
    "count over all": ("count(*) OVER (PARTITION BY k)", ["2", "2", "1"]),
}


@pytest.mark.parametrize(("expression", "expected"), WINDOWS.values(), ids=WINDOWS)
def test_a_window_function_means_what_it_means_in_trino(
    client: Client, expression: str, expected: list[str | None]
) -> None:
    rows = "(VALUES ('a', 1), ('a', 4), ('b', 5)) AS t(k, v)"
    answer = client.run(f"SELECT {expression} AS result FROM {rows} ORDER BY k, v")
    assert [row[0] for row in answer.rows] == expected, answer.reason


def test_a_timestamp_of_a_table_is_text_with_milliseconds(client: Client, lake: Lake) -> None:
    lake.put_parquet(f"events/dt={day()}/t.parquet", [{"event_id": "t", "occurred_at": datetime(2026, 1, 2)}])
    answer = client.run("SELECT CAST(occurred_at AS varchar) AS text FROM records WHERE event_id = 't'")
    assert answer.rows == [["2026-01-02 00:00:00.000"]]


def test_time_stands_still_during_a_query_and_columns_without_a_name_are_numbered(client: Client) -> None:
    answer = client.run("SELECT current_timestamp, now(), current_date, CAST(value AS bigint) FROM records LIMIT 1")
    assert answer.header == ["_col0", "_col1", "_col2", "_col3"]
    assert answer.rows[0][0] == answer.rows[0][1]
    assert (answer.rows[0][0] or "").endswith(" UTC")
    assert answer.rows[0][2] == day()


def test_names_of_tables_and_columns_have_no_case(client: Client) -> None:
    assert client.run("SELECT R.NAME FROM AwsDataCatalog.Sluice.\"Records\" r WHERE Event_Id = '1'").rows == [["a"]]


def test_nulls_come_last_in_either_order(client: Client) -> None:
    for order, expected in (("ASC", ["a", "b", None]), ("DESC", ["b", "a", None])):
        rows = client.run(f"SELECT name FROM records ORDER BY name {order}").rows
        assert [row[0] for row in rows] == expected


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
    assert client.refusal("StartQueryExecution") == "QueryString is missing"
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


# --- Partition projection


def test_a_query_sees_the_days_in_range_and_no_others(client: Client, lake: Lake) -> None:
    for dt in ("2019-12-31", "2020-01-01", day(-1), day(-2), "2020-13-01", "yesterday"):
        lake.put_parquet(f"events/dt={dt}/x.parquet", ROWS[:1])
    lake.put_parquet("elsewhere/dt=2021-01-01/x.parquet", ROWS[:1])
    answer = client.run("SELECT dt, count(*) AS events FROM records GROUP BY dt ORDER BY dt")
    assert answer.rows == [["2020-01-01", "1"], [day(), "3"], [day(-1), "1"]]


def test_hidden_and_empty_objects_are_not_read_and_folders_are(client: Client, lake: Lake) -> None:
    for name in ("_temporary.parquet", ".crc.parquet", "_folder/a.parquet", "empty.parquet"):
        lake.put(f"events/dt={day()}/{name}", b"" if name.startswith("empty") else b"no Parquet")
    lake.put_parquet(f"events/dt={day()}/deeper/b.parquet", ROWS[:1])
    assert client.run("SELECT count(*) AS events FROM records").rows == [["4"]]


PRUNING: dict[str, tuple[str, set[int]]] = {
    "no condition": ("", {0, 1, 9}),
    "equality": ("WHERE dt = '{1}'", {1}),
    "equality, turned around": ("WHERE '{1}' = dt AND name IS NULL", {1}),
    "a constant expression": ("WHERE dt >= date_format(current_date - INTERVAL '7' DAY, '%Y-%m-%d')", {0, 1}),
    "a range": ("WHERE dt BETWEEN '{9}' AND '{1}'", {1, 9}),
    "a list": ("WHERE dt IN ('{0}', '{9}', '2020-01-01')", {0, 9}),
    "either of two": ("WHERE dt = '{0}' OR dt = '{9}'", {0, 9}),
    "a cast": ("WHERE CAST(dt AS date) > current_date - INTERVAL '1' DAY", {0}),
    "either the partition or a column": ("WHERE dt = '{0}' OR name = 'a'", {0, 1, 9}),
    "a day out of range": ("WHERE dt = '2019-01-01'", set()),
    "in a WITH query": ("WHERE event_id IN (SELECT event_id FROM records WHERE dt = '2020-01-01') AND dt = '{1}'", {1}),
}


@pytest.mark.parametrize(("condition", "days"), PRUNING.values(), ids=PRUNING.keys())
def test_only_the_objects_of_matching_partitions_are_scanned(
    client: Client, lake: Lake, condition: str, days: set[int]
) -> None:
    sizes = {ago: lake.put_parquet(f"events/dt={day(ago)}/a.parquet", ROWS * (ago + 1)) for ago in (0, 1, 9)}
    for ago in sizes:
        condition = condition.replace(f"{{{ago}}}", day(ago))
    answer = client.run(f"SELECT * FROM records {condition}")
    assert answer.state == "SUCCEEDED", answer.reason
    assert answer.scanned == sum(sizes[ago] for ago in days)


def test_an_outer_join_is_not_answered_with_rows_that_pruning_made(client: Client) -> None:
    answer = client.run(
        "SELECT l.event_id FROM records AS l LEFT JOIN records AS r ON l.event_id = r.event_id WHERE r.dt IS NULL"
    )
    assert (answer.state, answer.rows) == ("SUCCEEDED", [])


def test_each_reference_to_a_table_is_pruned_and_paid_for_by_itself(client: Client, lake: Lake) -> None:
    size = lake.put_parquet(f"events/dt={day(9)}/a.parquet", ROWS)
    answer = client.run(
        f"SELECT count(*) AS n FROM (SELECT name FROM records WHERE dt = '{day(9)}' UNION ALL "
        f"SELECT name FROM records WHERE dt = '{day(9)}' UNION ALL SELECT name FROM records WHERE dt = '2020-01-01')"
    )
    assert (answer.rows, answer.scanned) == ([["6"]], 2 * size)


METASTORE = {
    "a partition column without a type": ({"projection.dt.type": None}, "HIVE_METASTORE_ERROR", "projection.dt.type"),
    "no range": ({"projection.dt.range": None}, "HIVE_METASTORE_ERROR", "projection.dt.range"),
    "a template without the column": (
        {"storage.location.template": "s3://lake/events/"}, "HIVE_METASTORE_ERROR", "every partition column"),
    "a template without its slash": (
        {"storage.location.template": "s3://lake/events/${dt}"}, "HIVE_METASTORE_ERROR", "slash"),
    "hours": ({"projection.dt.format": "yyyy-MM-dd-HH"}, "NOT_SUPPORTED", "HH in projection.dt.format"),
    "injected values": ({"projection.dt.type": "injected"}, "NOT_SUPPORTED", "injected"),
    "months": ({"projection.dt.range": "NOW-3MONTHS,NOW"}, "NOT_SUPPORTED", "NOW-3MONTHS"),
    "another date pattern": ({"projection.dt.format": "YYYY"}, "NOT_SUPPORTED", "YYYY"),
}  # fmt: skip


@pytest.mark.parametrize(("parameters", "error", "names"), METASTORE.values(), ids=METASTORE.keys())
def test_a_projection_that_athena_could_not_read_fails_the_query(
    client: Client, lake: Lake, parameters: dict[str, str | None], error: str, names: str
) -> None:
    lake.add_table("records", parameters=parameters)
    answer = client.run("SELECT count(*) AS n FROM records")
    assert answer.state == "FAILED"
    assert answer.reason.startswith(error) and names in answer.reason


def test_dates_with_slashes_and_enumerated_values_are_projected_together(client: Client, lake: Lake) -> None:
    parameters: dict[str, str | None] = {
        "projection.dt.format": "yyyy/MM/dd",
        "projection.dt.range": "2020/01/01,NOW",
        "projection.kind.type": "enum",
        "projection.kind.values": "a,b",
    }
    lake.add_table("slashed", keys=("kind", "dt"), template="slashed/${kind}/${dt}/", parameters=parameters)
    for key in ("a/2026/01/02", "b/2026/01/03", "c/2026/01/02", "a/2019/01/01"):
        lake.put_parquet(f"slashed/{key}/x.parquet", ROWS[:1])
    answer = client.run("SELECT kind, dt FROM slashed ORDER BY 1, 2")
    assert answer.rows == [["a", "2026/01/02"], ["b", "2026/01/03"]]
    assert client.run("SELECT kind FROM slashed WHERE kind <> 'a' AND dt < '2027/01/01'").rows == [["b"]]


def test_a_table_made_without_a_table_type_fails_as_on_aws(client: Client, lake: Lake) -> None:
    del lake.tables["sluice", "records"]["TableType"]
    assert client.run("SELECT 1 AS one FROM records").reason.startswith("FAILED: NullPointerException Name is null")


# --- Objects


def test_the_path_of_an_object_is_a_column_that_a_star_does_not_show(client: Client) -> None:
    answer = client.run('SELECT "$path", * FROM records LIMIT 1')
    assert answer.rows[0][0] == f"s3://lake/events/dt={day()}/a.parquet"
    assert answer.header.count("$path") == 1


def test_a_column_that_an_old_object_has_not_is_null_in_it(client: Client, lake: Lake) -> None:
    lake.put_parquet(f"events/dt={day()}/old.parquet", [{"event_id": "0"}], {"event_id": "string"})
    assert client.run("SELECT name, value FROM records WHERE event_id = '0'").rows == [[None, None]]


def test_a_parquet_column_of_another_type_than_the_tables_fails_the_query(client: Client, lake: Lake) -> None:
    lake.put_parquet("events/dt=2026-01-01/bad.parquet", [{"value": "100"}], {"value": "string"})
    answer = client.run("SELECT value FROM records WHERE dt = '2026-01-01'")
    assert answer.reason.startswith(
        "HIVE_BAD_DATA: Field value's type VARCHAR in parquet file is incompatible with type"
    )


def hadoop_block(*chunks: bytes) -> bytes:
    """A block of Hadoop's Snappy: the plain size of the block, then each chunk after its compressed size."""
    block = sum(map(len, chunks)).to_bytes(4)
    for chunk in chunks:
        compressed = bytes(cramjam.snappy.compress_raw(chunk))
        block += len(compressed).to_bytes(4) + compressed
    return block


LINE = b'{"name": "a", "Amount": "1.5", "atTime": "2026-01-01 00:00:00.250", "ok": true, "extra": 1}\n'
ENCODINGS: dict[str, Callable[[bytes], bytes]] = {
    "x.json": bytes,
    "x.json.gz": gzip.compress,
    "x.json.snappy": lambda data: hadoop_block(data[:30], data[30:]) + hadoop_block(LINE),
}


@pytest.mark.parametrize("name", ENCODINGS)
def test_json_lines_are_read_in_each_compression_with_keys_in_any_case(client: Client, lake: Lake, name: str) -> None:
    json_table(lake, {"name": "string", "amount": "double", "attime": "timestamp", "ok": "boolean", "missing": "int"})
    lake.put(f"lines/{name}", ENCODINGS[name](LINE))
    answer = client.run("SELECT * FROM lines")
    assert answer.rows[0] == ["a", "1.5", "2026-01-01 00:00:00.250", "true", None]
    assert len(answer.rows) == (2 if "snappy" in name else 1)


def test_hadoop_snappy_blocks_of_several_chunks_are_decompressed() -> None:
    assert hadoop_snappy(hadoop_block(b"a" * 70_000, b"b") + hadoop_block(b"c")) == b"a" * 70_000 + b"bc"


def test_compressed_text_under_a_plain_name_is_garbage_as_on_aws(client: Client, lake: Lake) -> None:
    json_table(lake, {"name": "string"})
    lake.put("lines/x.json.GZ", gzip.compress(LINE))
    assert client.run("SELECT * FROM lines").reason.startswith("HIVE_CURSOR_ERROR: Row is not a valid JSON Object")


MALFORMED = {"no JSON": b"oops\n", "an array": b"[1]\n", "keys that differ in case alone": b'{"name": 1, "NAME": 2}\n'}


@pytest.mark.parametrize("line", MALFORMED.values(), ids=MALFORMED.keys())
def test_a_malformed_line_fails_the_query(client: Client, lake: Lake, line: bytes) -> None:
    json_table(lake, {"name": "string"})
    lake.put("lines/x.json", LINE + line)
    answer = client.run("SELECT name FROM lines")
    assert answer.state == "FAILED"
    assert answer.reason.startswith("HIVE_CURSOR_ERROR: Row is not a valid JSON Object")


@pytest.mark.parametrize("line", [b"oops\n", b"[1]\n"])
def test_a_malformed_line_is_a_row_of_nulls_where_the_table_ignores_it(client: Client, lake: Lake, line: bytes) -> None:
    json_table(lake, {"name": "string"}, **{"ignore.malformed.json": "TRUE"})
    lake.put("lines/x.json", LINE + line)
    assert client.run("SELECT name FROM lines ORDER BY name").rows == [["a"], [None]]


@pytest.mark.parametrize(
    ("kind", "value"),
    [("double", "abc"), ("timestamp", "2026-01-01T00:00:00+02:00"), ("bigint", "9223372036854775808"), ("int", "x")],
)
def test_a_json_value_that_its_column_cannot_hold_fails_the_query(
    client: Client, lake: Lake, kind: str, value: str
) -> None:
    json_table(lake, {"field": kind})
    lake.put_json("lines/x.json", [{"field": value}])
    answer = client.run("SELECT field FROM lines")
    assert answer.reason == f"HIVE_BAD_DATA: Error parsing field value '{value}' for field field"


def test_a_json_object_or_number_is_text_in_a_text_column(client: Client, lake: Lake) -> None:
    json_table(lake, {"a": "string", "b": "string"})
    lake.put_json("lines/x.json", [{"a": {"k": [1]}, "b": 1.5}])
    assert client.run("SELECT * FROM lines").rows == [['{"k":[1]}', "1.5"]]


@pytest.mark.parametrize(
    ("columns", "serde", "names"),
    [
        ({"a": "struct<b:int>"}, OPENX_JSON, "struct<b:int>"),
        ({"a": "string"}, "org.apache.hadoop.hive.serde2.OpenCSVSerde", "OpenCSVSerde"),
    ],
)
def test_a_table_of_another_kind_is_refused_by_name(
    client: Client, lake: Lake, columns: dict[str, str], serde: str, names: str
) -> None:
    lake.add_table("other", columns, serde=serde, keys=())
    answer = client.run("SELECT * FROM other")
    assert answer.reason.startswith("NOT_SUPPORTED: the local Athena does not implement") and names in answer.reason


def test_a_query_reads_nothing_but_its_own_objects(client: Client, lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    secret = lake.directory / "secret.txt"
    secret.write_text("secret")
    # Even SQL that got past every check of ours: DuckDB itself is closed to other files by then.
    reads = Result(f"SELECT content AS o0 FROM read_text('{secret}')", [("content", VARCHAR)])
    monkeypatch.setattr(Analysis, "query", lambda *_: reads)
    assert client.run("SELECT 1 AS one").state == "FAILED"
    monkeypatch.setitem(athena_run.DUCKDB, "enable_external_access", "true")
    monkeypatch.setattr(athena_run, "sql_list", lambda _: f"['{secret}']")
    assert client.run("SELECT 1 AS one").rows == [["secret"]]


# --- Work groups and named queries

CONFIGURATION = {
    "EnforceWorkGroupConfiguration": "true",
    "BytesScannedCutoffPerQuery": "10000000",
    "PublishCloudWatchMetricsEnabled": "false",
    "ResultConfiguration": {
        "OutputLocation": "s3://lake/athena-results/",
        "EncryptionConfiguration": {"EncryptionOption": "SSE_S3"},
    },
}


@pytest.fixture
def group(client: Client) -> dict[str, Callable[..., Any]]:
    """The resource handlers of AWS::Athena::WorkGroup, with the work group `sluice` made."""
    handlers = client.lake.resources["AWS::Athena::WorkGroup"]
    assert handlers["create"]("Group", {"Name": "sluice", "WorkGroupConfiguration": CONFIGURATION}, "s") == (
        "sluice",
        {},
    )
    return handlers


def test_an_enforced_work_group_says_where_results_go(client: Client, group: dict[str, Callable[..., Any]]) -> None:
    answer = client.run("SELECT 1 AS one", WorkGroup="sluice")
    assert answer.execution["ResultConfiguration"]["OutputLocation"].startswith("s3://lake/athena-results/")
    loose = {**CONFIGURATION, "EnforceWorkGroupConfiguration": "false"}
    group["update"]("sluice", {}, {"Name": "sluice", "WorkGroupConfiguration": loose}, "s")
    answer = client.run("SELECT 1 AS one", WorkGroup="sluice")
    assert answer.execution["ResultConfiguration"]["OutputLocation"].startswith("s3://lake/results/")


def test_a_query_that_would_scan_more_than_the_limit_is_cancelled(
    client: Client, lake: Lake, group: dict[str, Callable[..., Any]]
) -> None:
    lake.put(f"events/dt={day(1)}/big.parquet", bytes(10_000_001))
    answer = client.run("SELECT count(*) AS n FROM records", WorkGroup="sluice")
    assert (answer.state, answer.reason) == ("CANCELLED", "Bytes scanned limit was exceeded")
    answer = client.run(f"SELECT count(*) AS n FROM records WHERE dt = '{day()}'", WorkGroup="sluice")
    assert (answer.state, answer.rows) == ("SUCCEEDED", [["3"]])


GROUP_FAULTS = {
    "a limit below the minimum": ({"BytesScannedCutoffPerQuery": "9999999"}, "at least 10000000 (got 9999999)"),
    "a setting that is not implemented": ({"ManagedQueryResultsConfiguration": {}}, "ManagedQueryResultsConfiguration"),
    "an engine version": ({"EngineVersion": {}}, "EngineVersion"),
    "another result setting": ({"ResultConfiguration": {"AclConfiguration": {}}}, "AclConfiguration"),
    "another setting of encryption": ({"ResultConfiguration": {"EncryptionConfiguration": {"Key": "k"}}}, "Key"),
}


@pytest.mark.parametrize(("changes", "words"), GROUP_FAULTS.values(), ids=GROUP_FAULTS.keys())
def test_a_work_group_that_cannot_be_is_refused_with_the_reason(
    group: dict[str, Callable[..., Any]], changes: dict[str, Any], words: str
) -> None:
    properties = {"Name": "other", "WorkGroupConfiguration": {**CONFIGURATION, **changes}}
    with pytest.raises(ValueError, match=r".") as error:
        group["create"]("Group", properties, "s")
    assert words in str(error.value)


def test_a_work_group_has_a_name_of_its_own(group: dict[str, Callable[..., Any]]) -> None:
    for name, words in (("sluice", "WorkGroup sluice is already created"), ("a b", "(got 'a b')")):
        with pytest.raises(ValueError, match=r".") as error:
            group["create"]("Group", {"Name": name}, "s")
        assert words in str(error.value)


def test_a_work_group_that_is_disabled_or_unknown_runs_nothing(
    client: Client, group: dict[str, Callable[..., Any]]
) -> None:
    group["update"]("sluice", {}, {"Name": "sluice", "State": "DISABLED"}, "s")
    for name, words in (("sluice", "WorkGroup sluice is disabled"), ("none", "WorkGroup none was not found")):
        assert client.refusal("StartQueryExecution", QueryString="SELECT 1", WorkGroup=name) == words
    assert client.refusal("StartQueryExecution", QueryString="SELECT 1").startswith("No output location provided.")


def test_a_work_group_with_queries_or_a_history_goes_only_recursively(
    client: Client, group: dict[str, Callable[..., Any]]
) -> None:
    client.run("SELECT 1 AS one", WorkGroup="sluice")
    with pytest.raises(ValueError, match=r"WorkGroup sluice is not empty"):
        group["delete"]("sluice", {"Name": "sluice"})
    group["delete"]("sluice", {"Name": "sluice", "RecursiveDeleteOption": "true"})
    assert client.refusal("ListNamedQueries", WorkGroup="sluice") == "WorkGroup sluice was not found"


def test_named_queries_are_listed_by_work_group_and_survive_a_restart(
    client: Client, lake: Lake, group: dict[str, Callable[..., Any]], tmp_path: Path
) -> None:
    handlers = lake.resources["AWS::Athena::NamedQuery"]
    query = {"Name": "latest", "Database": "sluice", "QueryString": "not even SQL", "WorkGroup": "sluice"}
    made = [handlers["create"](f"Query{n}", query, "s")[0] for n in range(3)]
    handlers["create"]("Other", {"Database": "sluice", "QueryString": "SELECT 1"}, "s")
    client = Client(lake, tmp_path / "athena")
    _, first = asyncio.run(client.call("ListNamedQueries", WorkGroup="sluice", MaxResults=2))
    _, second = asyncio.run(client.call("ListNamedQueries", WorkGroup="sluice", NextToken=first["NextToken"]))
    assert first["NamedQueryIds"] + second["NamedQueryIds"] == made
    assert "NextToken" not in second
    _, found = asyncio.run(client.call("GetNamedQuery", NamedQueryId=made[1]))
    assert found == {"NamedQuery": {**query, "NamedQueryId": made[1]}}
    lake.resources["AWS::Athena::NamedQuery"]["delete"](made[0], query)
    assert client.refusal("GetNamedQuery", NamedQueryId=made[0]) == f"NamedQuery {made[0]} was not found"


def test_named_queries_are_read_together_and_the_work_group_of_each_call_is_known(
    client: Client, lake: Lake, group: dict[str, Callable[..., Any]]
) -> None:
    query = {"Name": "n", "Database": "sluice", "QueryString": "SELECT 1 AS n", "WorkGroup": "sluice"}
    made = lake.resources["AWS::Athena::NamedQuery"]["create"]("Query", query, "s")[0]
    _, found = asyncio.run(client.call("BatchGetNamedQuery", NamedQueryIds=[made, "gone"]))
    assert [one["NamedQueryId"] for one in found["NamedQueries"]] == [made]
    assert found["UnprocessedNamedQueryIds"] == [{"NamedQueryId": "gone"}]
    assert client.refusal("BatchGetNamedQuery", NamedQueryIds=["x"] * 51).endswith("(got 51)")
    run = client.run("SELECT 1 AS n", WorkGroup="sluice").execution["QueryExecutionId"]
    for body in ({"NamedQueryIds": [made]}, {"NamedQueryId": made}, {"QueryExecutionId": run}, {"WorkGroup": "sluice"}):
        assert client.athena.resource(body) == "arn:aws:athena:us-east-1:000000000000:workgroup/sluice"
    assert client.athena.resource({}).endswith(":workgroup/primary")


@pytest.mark.parametrize(
    ("changes", "words"),
    [({"QueryString": "x" * 262_145}, "262144"), ({"Database": ""}, "Database"), ({"WorkGroup": "none"}, "none")],
    ids=["too long", "no database", "no such work group"],
)
def test_a_named_query_that_cannot_be_is_refused(
    lake: Lake, client: Client, changes: dict[str, str], words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        lake.resources["AWS::Athena::NamedQuery"]["create"]("Q", {"Database": "d", "QueryString": "q", **changes}, "s")


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
        numbers = "UNNEST(sequence(1, 40000))"
        sql = f"SELECT sum(x * y) FROM {numbers} AS a(x) CROSS JOIN {numbers} AS b(y)"  # seconds, unless interrupted
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
