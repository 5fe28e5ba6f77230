"""An expression means the same in the local Athena as in Trino."""

from __future__ import annotations

from datetime import datetime

import pytest

from tests.lake import Client, Lake, day

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
