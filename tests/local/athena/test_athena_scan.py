"""A query reads the partitions in question, and the objects in them."""

from __future__ import annotations

import gzip
from collections.abc import Callable

import cramjam
import pytest

from local.athena import run as athena_run
from local.athena.analysis import Analysis
from local.athena.calls import Result
from local.athena.scan import hadoop_snappy
from local.athena.types import VARCHAR
from tests.lake import OPENX_JSON, ROWS, Client, Lake, day


def json_table(lake: Lake, columns: dict[str, str], **serde_parameters: str) -> None:
    lake.add_table("lines", columns, serde=OPENX_JSON, keys=(), template="lines/", serde_parameters=serde_parameters)


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
    # Even SQL past all our checks: DuckDB itself is closed to other files by then.
    reads = Result(f"SELECT content AS o0 FROM read_text('{secret}')", [("content", VARCHAR)])
    monkeypatch.setattr(Analysis, "query", lambda *_: reads)
    assert client.run("SELECT 1 AS one").state == "FAILED"
    monkeypatch.setitem(athena_run.DUCKDB, "enable_external_access", "true")
    monkeypatch.setattr(athena_run, "sql_list", lambda _: f"['{secret}']")
    assert client.run("SELECT 1 AS one").rows == [["secret"]]
