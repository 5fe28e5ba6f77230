"""Numbers of the local Athena: decimals, division, means, rounding and percentiles are those of Trino."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.lake import PARQUET, Client, Lake, day


@pytest.fixture
def client(tmp_path: Path) -> Client:
    """A lake with the table `records`, whose values are 1.5, -2.5 and NULL."""
    lake = Lake(tmp_path)
    lake.add_table("records", serde=PARQUET)
    rows: list[dict[str, Any]] = [{"value": 1.5, "clock_skew_ms": 7}, {"value": -2.5, "clock_skew_ms": 8}, {}]
    lake.put_parquet(f"events/dt={day()}/a.parquet", rows)
    return Client(lake, tmp_path / "athena")


# Trino 435's answers; the others follow from its rules for precision and scale.
EXPRESSIONS = {
    "a quotient has the larger scale, half up": ("1234 / 1000.0", "decimal", "1.2"),
    "a negative quotient is rounded away from zero": ("-1.35 / 10.0", "decimal", "-0.14"),
    "the divisor may have the larger scale": ("2 / 3.000", "decimal", "0.667"),
    "a divisor below one": ("0.05 / 0.1", "decimal", "0.50"),
    "a decimal over an integer": ("1.5 / 3", "decimal", "0.5"),
    "a quotient of nothing": ("1.5 / CAST(NULL AS integer)", "decimal", None),
    "a product has both scales": ("1.5 * 2.25", "decimal", "3.375"),
    "a sum has the larger scale": ("0.1 + 0.25", "decimal", "0.35"),
    "a rest has the sign of the dividend": ("mod(-5.5, 2)", "decimal", "-1.5"),
    "a double makes all of it doubles": ("1.5 / 3e0", "double", "0.5"),
    "an integer and a decimal in a CASE": ("CASE WHEN true THEN 1 ELSE 2.5 END", "decimal", "1.0"),
    "a decimal of several is divided as one": ("coalesce(NULL, 1, 2.5) / 3", "decimal", "0.3"),
    "a decimal of a subquery is divided as one": ("(SELECT 1.0) / 3", "decimal", "0.3"),
    "a decimal in a map is divided as one": ("map_values(MAP(ARRAY['a'], ARRAY[1.5]))[1] / 2", "decimal", "0.8"),
    "a decimal as a typed literal": ("decimal '1.50'", "decimal", "1.50"),
    "a decimal in an array is divided as one": ("element_at(ARRAY[1.5], 1) / 2", "decimal", "0.8"),
    "round keeps the scale": ("round(1234.5678, 2)", "decimal", "1234.5700"),
    "round to whole numbers": ("round(-2.5)", "decimal", "-3"),
    "round to tens": ("round(-1235.5, -1)", "decimal", "-1240.0"),
    "round of a double": ("round(2.675e0, 2)", "double", "2.68"),
    "round of an integer": ("round(7, -1)", "integer", "10"),
    "truncate keeps the scale": ("truncate(1234.5678, 2)", "decimal", "1234.5600"),
    "floor of a decimal": ("floor(-1.5)", "decimal", "-2"),
    "floor of an integer": ("floor(9007199254740993)", "bigint", "9007199254740993"),
    "ceil of an integer": ("ceil(1)", "integer", "1"),
    "sign of a decimal": ("sign(-2.5)", "decimal", "-1"),
    "sign of an integer": ("sign(0)", "integer", "0"),
    "a double as a decimal is rounded by its shortest digits": ("CAST(1.005e0 AS decimal(5, 2))", "decimal", "1.01"),
    "a decimal without a size has no places": ("CAST(2.5 AS decimal)", "decimal", "3"),
    "a decimal as text has the zero": ("CAST(-0.05 AS varchar)", "varchar", "-0.05"),
    "a decimal as an integer is rounded half up": ("CAST(2.5 AS integer)", "integer", "3"),
    "a double over zero is infinite": ("5e0 / 0", "double", "Infinity"),
    "a double over minus zero": ("5e0 / -0e0", "double", "-Infinity"),
    "zero over zero": ("0e0 / 0", "double", "NaN"),
    "try of a quotient of decimals": ("try(1.0 / 0)", "decimal", None),
    "the smallest bigint": ("-9223372036854775808", "bigint", "-9223372036854775808"),
}


@pytest.mark.parametrize(("expression", "kind", "text"), EXPRESSIONS.values(), ids=EXPRESSIONS.keys())
def test_a_number_is_that_of_trino(client: Client, expression: str, kind: str, text: str | None) -> None:
    answer = client.run(f"SELECT {expression} AS result")
    assert (answer.types, answer.rows) == ([kind], [[text]]), answer.reason


# Of these rows: (x decimal, n integer).
ROWS = "(VALUES (1.50, 1), (2.25, 2), (2.26, 3), (NULL, 4)) AS t(x, n)"
AGGREGATES = {
    "a mean of decimals has their scale": ("avg(x)", "decimal", ["2.00"]),
    "a mean of some": ("avg(x) FILTER (WHERE x > 2)", "decimal", ["2.26"]),
    "a mean of none": ("avg(x) FILTER (WHERE x > 9)", "decimal", [None]),
    "a mean of those that differ": ("avg(DISTINCT round(x))", "decimal", ["2"]),
    "a mean of quotients": ("avg(n / 3.00)", "decimal", ["0.83"]),
    "a mean of integers is a double": ("avg(n)", "double", ["2.5"]),
    "a sum over a count": ("sum(x) / count(x)", "decimal", ["2.00"]),
    "a share of a sum of counts": ("100.0 * count(x) / sum(count(*)) OVER ()", "decimal", ["75.0"]),
    "a window's mean": ("avg(x) OVER (ORDER BY n)", "decimal", ["1.50", "1.88", "2.00", "2.00"]),
    "the value of a maximum": ("max_by(x, n) FILTER (WHERE n < 4) / 3", "decimal", ["0.75"]),
    "the percentile of few values is one of them": ("approx_percentile(n, 0.5)", "bigint", ["3"]),
    "a low percentile is the smallest": ("approx_percentile(n, 0.1)", "bigint", ["1"]),
    "a high percentile is the largest": ("approx_percentile(n, 0.99)", "bigint", ["4"]),
    "percentiles of decimals are doubles": ("approx_percentile(x, ARRAY[0.0, 1.0])", "array", ["[1.5, 2.26]"]),
    "a percentile of some": ("approx_percentile(n, 0.5) FILTER (WHERE n < 3)", "bigint", ["2"]),
    "a percentile of none": ("approx_percentile(n, 0.5) FILTER (WHERE n > 9)", "bigint", [None]),
}


@pytest.mark.parametrize(("expression", "kind", "texts"), AGGREGATES.values(), ids=AGGREGATES.keys())
def test_an_aggregate_of_numbers_is_that_of_trino(
    client: Client, expression: str, kind: str, texts: list[str | None]
) -> None:
    answer = client.run(f"SELECT {expression} AS result FROM {ROWS}")
    assert (answer.types, [row[0] for row in answer.rows]) == ([kind], texts), answer.reason


def test_numbers_of_a_table_are_divided_as_their_columns_say(client: Client) -> None:
    answer = client.run(
        "SELECT sum(clock_skew_ms) / 100.0, avg(value) / 2, max(value) / 0, count(*) / 7.0 FROM records"
    )
    assert (answer.types, answer.rows) == (
        ["decimal", "double", "double", "decimal"],
        [["0.2", "-0.25", "Infinity", "0.4"]],
    )


def test_a_decimal_keeps_its_type_through_subqueries_and_unions(client: Client) -> None:
    answer = client.run("WITH a AS (SELECT 1.0 AS x UNION ALL SELECT 2) SELECT x / 3 FROM (SELECT x FROM a) ORDER BY 1")
    assert answer.rows == [["0.3"], ["0.7"]], answer.reason


def test_a_table_keeps_the_digits_of_its_decimals(client: Client) -> None:
    made = client.run(
        "CREATE TABLE thirds WITH (format = 'PARQUET', write_compression = 'SNAPPY', "
        "external_location = 's3://lake/thirds/') AS SELECT 1.50 / 3 AS third, 1.5 * 1.50 AS product"
    )
    assert made.state == "SUCCEEDED", made.reason
    columns = client.lake.tables["sluice", "thirds"]["StorageDescriptor"]["Columns"]
    assert [one["Type"] for one in columns] == ["decimal(3,2)", "decimal(5,3)"]
    answer = client.run("SELECT third / 2, avg(product) / 2 FROM thirds GROUP BY third")
    assert answer.rows == [["0.25", "1.125"]], answer.reason


REFUSED = {
    "more digits than there are": ("SELECT 12345678901234567890.5 / 3.0000000000", "NOT_SUPPORTED"),
    "a scale that no decimal has": (
        "SELECT 0.00000000000000000001 * 0.00000000000000000001", "INVALID_FUNCTION_ARGUMENT: DECIMAL scale"),
    "a literal that is too long": (f"SELECT {'1' * 38}.5", "NUMERIC_VALUE_OUT_OF_RANGE: line 1:8: Value exceeds"),
    "an integer that is too long": ("SELECT 9223372036854775808", "SYNTAX_ERROR: line 1:8: Invalid numeric literal"),
    "places that are computed": ("SELECT round(1.55, 1 + 1)", "NOT_SUPPORTED"),
    "a percentile with weights": ("SELECT approx_percentile(value, 2, 0.5) FROM records", "NOT_SUPPORTED"),
    "a division by zero": ("SELECT 1.0 / 0", "DIVISION_BY_ZERO"),
}  # fmt: skip


@pytest.mark.parametrize(("sql", "reason"), REFUSED.values(), ids=REFUSED.keys())
def test_what_is_not_computed_as_trino_does_is_refused_by_name(client: Client, sql: str, reason: str) -> None:
    answer = client.run(sql)
    assert answer.state == "FAILED", answer.rows
    assert answer.reason.startswith(reason)


# NULL is last in either order, NaN is greater than every number.
ORDERS = {
    "ascending": ("ORDER BY x", ["-Infinity", "0.0", "1.0", "NaN", None]),
    "descending": ("ORDER BY x DESC", ["NaN", "1.0", "0.0", "-Infinity", None]),
    "nulls first": ("ORDER BY x DESC NULLS FIRST", [None, "NaN", "1.0", "0.0", "-Infinity"]),
    "within a window": ("ORDER BY row_number() OVER (ORDER BY x DESC)", ["NaN", "1.0", "0.0", "-Infinity", None]),
}


@pytest.mark.parametrize(("order", "texts"), ORDERS.values(), ids=ORDERS.keys())
def test_nulls_and_what_is_not_a_number_have_their_place(client: Client, order: str, texts: list[str | None]) -> None:
    answer = client.run(f"SELECT x FROM (VALUES 1e0, 0e0 / 0, NULL, 0e0, -1e0 / 0) AS t(x) {order}")
    assert [row[0] for row in answer.rows] == texts, answer.reason
