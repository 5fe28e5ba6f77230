"""Expressions beyond the recording mean the same as in Trino, by its documentation or its source."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.lake import Client, Lake

# Expressions, and their values as Athena prints them.
VALUES: dict[str, tuple[str, list[str | None]]] = {
    "all letters of date_format": (
        "date_format(timestamp '2026-01-05 03:04:05.678', '%a %b %c %d %e %f %H %h %i %j %k %l "
        "%M %m %p %S %T %v %W %x %y %%')",
        ["Mon Jan 1 05 5 678000 03 03 04 005 3 3 January 01 AM 05 03:04:05 02 Monday 2026 26 %"],
    ),
    "a date is parsed by names": (
        "date_parse('January 5, 2026 3:04 PM', '%M %e, %Y %l:%i %p')",
        ["2026-01-05 15:04:00.000"],
    ),
    "intervals": (
        "interval '18' month, interval '2' day + interval '5.678' second, - interval '3' day",
        ["1-6", "2 00:00:05.678", "-3 00:00:00.000"],
    ),
    "intervals as text": (
        "CAST(interval '1' day AS varchar), CAST(interval '14' month AS varchar)",
        ["1 00:00:00.000", "1-2"],
    ),
    "parts of intervals": (
        "extract(day FROM interval '50' hour), hour(interval '50' hour)",
        ["2", "2"],
    ),
    "a month is added to the moment on the clock": (
        "timestamp '2026-03-01 12:00:00 Europe/Berlin' + interval '1' month",
        ["2026-04-01 12:00:00.000 Europe/Berlin"],
    ),
    "zones as text": (
        "CAST(timestamp '2026-11-21 10:00:00 America/New_York' AS varchar)",
        ["2026-11-21 10:00:00 America/New_York"],
    ),
    "an offset of a zone in ISO 8601": (
        "to_iso8601(timestamp '2026-11-21 10:00:00.123 Europe/Berlin')",
        ["2026-11-21T10:00:00.123+01:00"],
    ),
    "months of dates": (
        "date_diff('month', date '2026-01-31', date '2026-02-28'), date_add('month', 1, date '2026-01-31')",
        ["1", "2026-02-28"],
    ),
    "JSON is read no further than the path": (
        "json_extract_scalar('{\"a\":1', '$.a'), json_extract('{\"a\":{\"b\":1.50}}', '$.a')",
        ["1", '{"b":1.5}'],
    ),
    "JSON casts": (
        'CAST(JSON \'[1,"2",null]\' AS array(integer)), CAST(JSON \'{"b":"x","a":1}\' AS row(a integer, b varchar))',
        ["[1, 2, null]", "{a=1, b=x}"],
    ),
    "JSON numbers as text": (
        "CAST(JSON '1.5' AS varchar), CAST(JSON '5' AS varchar)",
        ["1.5E0", "5"],
    ),
    "doubles as text": (
        "CAST(100e0 AS varchar), CAST(0e0 AS varchar), CAST(0.1e0 AS varchar)",
        ["1.0E2", "0E0", "1.0E-1"],
    ),
    "edges of substr": (
        "substr('hello', -3), substr('hello', 0), substr('hello', 10), substr('hello', 2, 3)",
        ["llo", "", "", "ell"],
    ),
    "groups in replacements": (
        "regexp_replace('abc', '(b)', '[$1]'), regexp_replace('fun', '(?<first>f)', '${first}oo')",
        ["a[b]c", "fooun"],
    ),
    "no match": (
        "regexp_extract('abc', '\\d+'), regexp_position('abc', 'x'), split_part('a-b', '-', 3)",
        [None, "-1", None],
    ),
    "format": (
        "format('%08.3f|%,d|%-3s|%5.1f|%s', 3.14159e0, 1234567, 'a', 2.25, NULL)",
        ["0003.142|1,234,567|a  |  2.3|null"],
    ),
    "a date that is NULL": (
        "format_datetime(CAST(NULL AS date), 'yyyy'), date_format(CAST(NULL AS timestamp), '%Y')",
        [None, None],
    ),
    "addresses": (
        "url_extract_host('a.com/x'), url_extract_parameter('https://a.com/?a=1&b=', 'b'), url_encode('a b/é')",
        ["", "", "a+b%2F%C3%A9"],
    ),
    "arrays": (
        "slice(ARRAY[1,2,3], -2, 2), array_intersect(ARRAY[3,1], ARRAY[1,2,3]), array_except(ARRAY[1,1], ARRAY[2])",
        ["[2, 3]", "[1, 3]", "[1]"],
    ),
    "arrays of several": (
        "zip(ARRAY[1], ARRAY['a','b']), ngrams(ARRAY[1,2,3], 2), trim_array(ARRAY[1,2,3], 1), "
        "concat(ARRAY[1], ARRAY[2], ARRAY[3])",
        ["[{field0=1, field1=a}, {field0=null, field1=b}]", "[[1, 2], [2, 3]]", "[1, 2]", "[1, 2, 3]"],
    ),
    "NULL in arrays": (
        "contains(ARRAY[1, NULL], 2), array_max(ARRAY[1, NULL]), arrays_overlap(ARRAY[1, NULL], ARRAY[2])",
        [None, None, None],
    ),
    "maps": (
        "map_concat(MAP(ARRAY['a'], ARRAY[1]), MAP(ARRAY['a','b'], ARRAY[3,4])), "
        "element_at(MAP(ARRAY['a'], ARRAY[1]), 'z')",
        ["{a=3, b=4}", None],
    ),
    "rows": (
        "ROW(1, 'a'), CAST(ROW(1, 'a') AS row(x integer, y varchar)), CAST(ROW(1, 'a') AS row(x integer, y varchar)).x",
        ["{field0=1, field1=a}", "{x=1, y=a}", "1"],
    ),
    "texts like the names of functions": (
        "'py_none', 'athena_none'",
        ["py_none", "athena_none"],
    ),
    "a state that grows": (
        "reduce(ARRAY['a','b'], '', (s, x) -> s || x, s -> s)",
        ["ab"],
    ),
    "lambdas in lambdas": (
        "transform(ARRAY[1,2], x -> transform(ARRAY[10,20], y -> x * y))",
        ["[[10, 20], [20, 40]]"],
    ),
    "what is not a number": (
        "nan() = nan(), nan() > 1, 1e0 % 0",
        ["false", "false", "NaN"],
    ),
    "NULL in logic": (
        "true AND NULL, false AND NULL, 3 NOT IN (1, NULL), NULL = NULL",
        [None, "false", None, None],
    ),
    "numbers in other bases": (
        "0x1F, 1_000, 0b101",
        ["31", "1000", "5"],
    ),
    "types of literals": (
        "typeof(3000000000), typeof(1.10 * 1.1), typeof('ab'), typeof(ARRAY[1, 2.5])",
        ["bigint", "decimal(5,3)", "varchar(2)", "array(decimal(11,1))"],
    ),
}

# What Trino refuses, with the name of the error; none is answered, and none blames the local Athena.
ERRORS = {
    "SELECT name, count(*) FROM records": "EXPRESSION_NOT_AGGREGATE",
    "SELECT max(value) FROM records WHERE max(value) > 1": "EXPRESSION_NOT_SCALAR",
    "SELECT sum(sum(value)) FROM records": "NESTED_AGGREGATION",
    "SELECT row_number() FROM records": "MISSING_OVER",
    "SELECT count(DISTINCT name) OVER () FROM records": "NOT_SUPPORTED",
    "SELECT name FROM records ORDER BY 3": "INVALID_COLUMN_REFERENCE",
    "SELECT * FROM records AS r (a)": "MISMATCHED_COLUMN_ALIASES",
    "SELECT * FROM (VALUES 1) t(x) NATURAL JOIN (VALUES 1) u(x)": "NOT_SUPPORTED",
    "SELECT 1 UNION SELECT 'a'": "TYPE_MISMATCH",
    "SELECT CAST(1 AS string)": "TYPE_MISMATCH",
    "SELECT date '2026-02-30'": "INVALID_LITERAL",
    "SELECT ARRAY[1,2][3]": "INVALID_FUNCTION_ARGUMENT",
    "SELECT MAP(ARRAY['a'], ARRAY[1])['z']": "INVALID_FUNCTION_ARGUMENT",
    "SELECT sequence(1, 5, -1)": "INVALID_FUNCTION_ARGUMENT",
    "SELECT tinyint '127' + tinyint '1'": "NUMERIC_VALUE_OUT_OF_RANGE",
    "SELECT CAST(1000 AS decimal(3,1))": "INVALID_CAST_ARGUMENT",
    "SELECT CAST('yes' AS boolean)": "INVALID_CAST_ARGUMENT",
    "SELECT nvl(1, 2)": "FUNCTION_NOT_FOUND",
    "SELECT length(5)": "FUNCTION_NOT_FOUND",
    "SELECT json_extract(properties, '$.a') > 1 FROM records": "TYPE_MISMATCH",
    "WITH RECURSIVE t(n) AS (VALUES 1 UNION ALL SELECT n + 1 FROM t) SELECT count(*) FROM t": "NOT_SUPPORTED",
    "WITH RECURSIVE t(n) AS (VALUES 1 UNION ALL SELECT n, n FROM t) SELECT n FROM t": "TYPE_MISMATCH",
}

# What the grammar does not take: the query does not even start.
MALFORMED = (
    "SELECT name, FROM records", "SELECT name FROM records LIMIT 2 OFFSET 1", "SELECT name FROM records LIMIT 2, 3",
    "SELECT * EXCLUDE (name) FROM records", "SELECT DISTINCT ON (name) name FROM records", "FROM records SELECT name",
    "SELECT 5 & 3", "SELECT 10 DIV 3", "SELECT left('abc', 2)", "SELECT * FROM records PIVOT (count(*) FOR a IN (1))",
    "SELECT extract(epoch FROM now())", "SELECT 1 = 1 = 1",
)  # fmt: skip

# Features of Trino that the local Athena refuses by name.
MISSING = {
    "SELECT xxhash64(x'00')": "the function xxhash64",
    "SELECT soundex('a')": "the function soundex",
    "SELECT format('%x', 255)": "format",
    "SELECT TRY(regexp_like(name, '\\p{L}')) FROM (VALUES 'a') t(name)": "regular expression",  # no TRY hides it
    "SELECT regexp_replace('a', '(a)', x -> x[1])": "regexp_replace",
    "SELECT name FROM records GROUP BY CUBE (name)": "GROUP BY CUBE",
    "SELECT histogram(DISTINCT name) FROM records": "histogram(DISTINCT ...)",
    "WITH RECURSIVE t(n) AS (VALUES 1 UNION SELECT n FROM t) SELECT n FROM t": "a recursive query other",
    "WITH RECURSIVE t(n) AS (VALUES 1 UNION ALL SELECT n + 1 FROM t LIMIT 3) SELECT n FROM t": "a recursive query",
    "WITH RECURSIVE t(n) AS (VALUES 1 UNION ALL SELECT t.n FROM t, t u) SELECT n FROM t": "such a reference to itself",
    "WITH RECURSIVE t(n) AS (VALUES 1 UNION ALL SELECT 2 WHERE 2 IN (SELECT n FROM t)) SELECT n FROM t": "to itself",
    "SELECT interval '1-6' year to month": "INTERVAL ... TO ...",
    "SELECT current_time": "CURRENT_TIME",
    "SELECT value > ALL (SELECT 1) FROM records": "comparisons with ALL",
    "SELECT time '10:00:00'": "the type time",
    "SELECT name FROM records TABLESAMPLE BERNOULLI (10)": "TABLESAMPLE",
    "SELECT json_object('a': 1)": "json_object",
    "EXPLAIN SELECT 1": "EXPLAIN",
}


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Client:
    directory: Path = tmp_path_factory.mktemp("lake")
    lake = Lake(directory)
    lake.add_table("records")
    return Client(lake, directory / "athena")


@pytest.mark.parametrize(("expressions", "texts"), VALUES.values(), ids=VALUES)
def test_expressions_are_those_of_trino(client: Client, expressions: str, texts: list[str | None]) -> None:
    answer = client.run(f"SELECT {expressions}")
    assert answer.rows == [texts], answer.reason


@pytest.mark.parametrize(("sql", "name"), ERRORS.items(), ids=ERRORS)
def test_what_trino_refuses_is_refused_by_the_same_name(client: Client, sql: str, name: str) -> None:
    answer = client.run(sql)
    assert answer.reason.startswith(f"{name}: ") and "local Athena" not in answer.reason


@pytest.mark.parametrize("sql", MALFORMED)
def test_what_the_grammar_does_not_take_is_refused_at_the_start(client: Client, sql: str) -> None:
    assert client.refusal("StartQueryExecution", QueryString=sql).startswith("line 1:")


@pytest.mark.parametrize(("sql", "what"), MISSING.items(), ids=MISSING)
def test_what_only_the_local_athena_has_not_is_named(client: Client, sql: str, what: str) -> None:
    try:
        reason = client.run(sql).reason
    except AssertionError as refused:
        reason = str(refused)
    assert "NOT_SUPPORTED: the local Athena does not implement" in reason and what in reason
