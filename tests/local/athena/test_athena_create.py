"""CREATE TABLE AS, and tables with partitions listed in the catalog."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow.parquet
import pytest

from local.ministack import ServiceError
from tests.lake import BUCKET, Client, Lake, day

WITH = "WITH (format = 'PARQUET', write_compression = 'SNAPPY', external_location = 's3://lake/{}/'{})"
BY_DAY_AND_KIND = ", partitioned_by = ARRAY['dt', 'kind']"
READINGS: list[dict[str, Any]] = [
    {"event_id": str(n), "name": "car" if n % 3 else "bus", "value": float(n), "clock_skew_ms": n} for n in range(9)
]


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    lake = Lake(tmp_path)
    lake.add_table("records")
    lake.put_parquet(f"events/dt={day()}/a.parquet", READINGS[:5])
    lake.put_parquet(f"events/dt={day(1)}/a.parquet", READINGS[5:])
    return lake


def create(name: str, select: str, properties: str = "", folder: str = "") -> str:
    return f'CREATE TABLE "sluice"."{name}" {WITH.format(folder or name, properties)} AS {select}'


def objects(lake: Lake, prefix: str) -> list[str]:
    return [key for key, _ in lake.object_paths(BUCKET, prefix)]


# --- What is made


def test_a_table_is_made_of_partitions_that_the_catalog_lists_and_answers_queries(client: Client, lake: Lake) -> None:
    made = client.run(
        create("typed", "SELECT event_id, value, dt, name AS kind FROM records WHERE value < 8", BY_DAY_AND_KIND)
    )
    assert made.state == "SUCCEEDED", made.reason
    assert made.execution["StatementType"] == "DDL"
    assert made.rows == []
    table = lake.tables["sluice", "typed"]
    assert table["TableType"] == "EXTERNAL_TABLE"
    assert table["PartitionKeys"] == [{"Name": "dt", "Type": "string"}, {"Name": "kind", "Type": "string"}]
    partitions = lake.partitions["sluice", "typed"]
    assert [one["Values"] for one in partitions] == [[d, k] for d in (day(1), day()) for k in ("bus", "car")]
    for one in partitions:
        location = one["StorageDescriptor"]["Location"]
        assert location == f"s3://lake/typed/dt={one['Values'][0]}/kind={one['Values'][1]}/"
        assert len(objects(lake, location.removeprefix("s3://lake/"))) == 1
    answer = client.run("SELECT dt, kind, sum(value) AS total FROM typed GROUP BY dt, kind ORDER BY dt, kind")
    assert answer.rows == [
        [day(1), "bus", "6.0"],
        [day(1), "car", "12.0"],
        [day(), "bus", "3.0"],
        [day(), "car", "7.0"],
    ]


TYPES = {
    "text": ("'a'", "string", "STRING"),
    "integer": ("1", "int", "INT32"),
    "bigint": ("CAST(1 AS bigint)", "bigint", "INT64"),
    "a sum of integers": ("sum(1)", "bigint", "INT64"),
    "double": ("1e0", "double", "DOUBLE"),
    "decimal": ("CAST(1.5 AS decimal(10, 2))", "decimal(10,2)", "DECIMAL"),
    "boolean": ("true", "boolean", "BOOLEAN"),
    "date": ("DATE '2026-01-01'", "date", "DATE"),
    "timestamp": ("TIMESTAMP '2026-01-01 00:00:00.123'", "timestamp", "milliseconds"),
}


@pytest.mark.parametrize(("expression", "kind", "physical"), TYPES.values(), ids=TYPES)
def test_a_column_is_written_as_snappy_parquet_of_its_type(
    client: Client, lake: Lake, expression: str, kind: str, physical: str
) -> None:
    assert client.run(create("typed", f"SELECT {expression} AS c")).reason == ""
    assert lake.tables["sluice", "typed"]["StorageDescriptor"]["Columns"] == [{"Name": "c", "Type": kind}]
    ((_, path),) = lake.object_paths(BUCKET, "typed/")
    file = pyarrow.parquet.ParquetFile(path)
    column = file.schema.column(0)
    assert physical.lower() in f"{column.physical_type} {column.logical_type}".lower()
    assert file.metadata.row_group(0).column(0).compression == "SNAPPY"
    assert client.run("SELECT c FROM typed").rows == client.run(f"SELECT {expression} AS c").rows


def test_a_table_without_rows_has_no_partitions_and_no_objects(client: Client, lake: Lake) -> None:
    select = "SELECT event_id, dt, name AS kind FROM records WHERE value < 0"
    assert client.run(create("empty", select, BY_DAY_AND_KIND)).state == "SUCCEEDED"
    assert client.run(create("bare", "SELECT event_id FROM records WHERE value < 0")).state == "SUCCEEDED"
    assert objects(lake, "empty/") == objects(lake, "bare/") == []
    assert client.run("SELECT count(*) AS n FROM empty").rows == [["0"]]
    assert client.run("SELECT count(*) AS n FROM bare").rows == [["0"]]


def test_values_that_no_folder_can_have_are_escaped_there_and_whole_in_the_catalog(client: Client, lake: Lake) -> None:
    select = "SELECT 1 AS n, kind FROM (VALUES 'a/b=c', CAST(NULL AS varchar), '') AS t(kind)"
    made = client.run(create("odd", select, ", partitioned_by = ARRAY['kind']"))
    assert made.state == "SUCCEEDED", made.reason
    assert {key.split("/")[1] for key in objects(lake, "odd/")} == {
        "kind=a%2Fb%3Dc",
        "kind=__HIVE_DEFAULT_PARTITION__",
    }
    assert client.run("SELECT n FROM odd WHERE kind = 'a/b=c'").rows == [["1"]]
    assert client.run("SELECT count(*) AS n FROM odd WHERE kind IS NULL").rows == [["2"]]


def test_a_work_group_that_enforces_its_location_has_the_table_there(client: Client, lake: Lake) -> None:
    result = {"ResultConfiguration": {"OutputLocation": "s3://lake/results/"}}
    lake.resources["AWS::Athena::WorkGroup"]["create"]("G", {"Name": "enforced", "WorkGroupConfiguration": result}, "s")
    refused = client.run(create("typed", "SELECT 1 AS n"), WorkGroup="enforced")
    assert "submitted with an 'external_location' property to an Athena Workgroup that enforces" in refused.reason
    sql = "CREATE TABLE typed WITH (format = 'PARQUET', write_compression = 'SNAPPY') AS SELECT 1 AS n"
    made = client.run(sql, WorkGroup="enforced")
    identifier = made.execution["QueryExecutionId"]
    assert lake.tables["sluice", "typed"]["StorageDescriptor"]["Location"] == f"s3://lake/results/tables/{identifier}/"


# --- What is refused, and leaves no table

FAILURES = {
    "a table that is there": (create("records", "SELECT 1 AS n"),
        "TABLE_ALREADY_EXISTS: line 1:1: Destination table 'awsdatacatalog.sluice.records' already exists"),
    "a database that is not there": (create("t", "SELECT 1 AS n").replace("sluice", "none"), "SCHEMA_NOT_FOUND: "),
    "a location that is not empty": (create("t", "SELECT 1 AS n", folder="events"), "HIVE_PATH_ALREADY_EXISTS: "),
    "a column without a name": (create("t", "SELECT 1 AS n, 2"), "MISSING_COLUMN_NAME: line 1:"),
    "a name twice": (create("t", "SELECT 1 AS n, 2 AS n"), "DUPLICATE_COLUMN_NAME: line 1:"),
    "partition columns in front": (create("t", "SELECT dt, name AS kind, value FROM records", BY_DAY_AND_KIND),
        "HIVE_COLUMN_ORDER_MISMATCH: Partition keys must be the last columns in the table and in the same order as the "
        "table properties: [dt, kind]"),
    "partition columns in another order": (create("t", "SELECT value, name AS kind, dt FROM records", BY_DAY_AND_KIND),
        "HIVE_COLUMN_ORDER_MISMATCH: "),
    "a partition column that is not selected": (create("t", "SELECT value, dt FROM records", BY_DAY_AND_KIND),
        "INVALID_TABLE_PROPERTY: Partition columns [kind] not present in schema"),
    "partition columns alone": (create("t", "SELECT dt, name AS kind FROM records", BY_DAY_AND_KIND),
        "INVALID_TABLE_PROPERTY: Table contains only partition columns"),
    "more than 100 partitions": (
        create("t", "SELECT 1 AS n, k FROM UNNEST(sequence(1, 101)) AS t(k)", ", partitioned_by = ARRAY['k']"),
        "HIVE_TOO_MANY_OPEN_PARTITIONS: Exceeded limit of 100 open writers for partitions/buckets"),
    "NULL without a type": (create("t", "SELECT NULL AS n"), "COLUMN_TYPE_UNKNOWN: "),
    "a time with its zone": (create("t", "SELECT now() AS n"),
        "NOT_SUPPORTED: Unsupported Hive type: timestamp(3) with time zone"),
    "an error in the query": (create("t", "SELECT 1 / 0 AS n"), "DIVISION_BY_ZERO: "),
}  # fmt: skip


@pytest.mark.parametrize(("sql", "reason"), FAILURES.values(), ids=FAILURES)
def test_a_statement_that_fails_says_why_in_athenas_words_and_leaves_no_table(
    client: Client, lake: Lake, sql: str, reason: str
) -> None:
    answer = client.run(sql)
    assert (answer.state, answer.reason[: len(reason)]) == ("FAILED", reason)
    assert set(lake.tables) == {("sluice", "records")}


REFUSALS = {
    "another property": (create("t", "SELECT 1 AS n", ", bucket_count = 3"), "the table property bucket_count"),
    "another format": (create("t", "SELECT 1 AS n").replace("PARQUET", "ORC"), "format = 'PARQUET' alone (got 'ORC')"),
    "another compression": (create("t", "SELECT 1 AS n").replace("SNAPPY", "ZSTD"), "'SNAPPY' alone (got 'ZSTD')"),
    "a folder of this machine": (create("t", "SELECT 1 AS n").replace("s3://lake", "/tmp"), "(got '/tmp/t/')"),
    "IF NOT EXISTS": (create("t", "SELECT 1 AS n").replace("TABLE", "TABLE IF NOT EXISTS"), "IF NOT EXISTS"),
    "a view": ("CREATE VIEW v AS SELECT 1 AS n", "the statement CREATE VIEW"),
    "a table of columns": ("CREATE TABLE t (n int)", "CREATE TABLE without AS"),
}


@pytest.mark.parametrize(("sql", "words"), REFUSALS.values(), ids=REFUSALS)
def test_what_is_not_implemented_is_refused_by_name(client: Client, sql: str, words: str) -> None:
    assert words in client.refusal("StartQueryExecution", QueryString=sql)


def test_a_table_whose_objects_cannot_be_written_is_not_made(
    client: Client, lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def full(*_: Any) -> None:
        raise ServiceError(500, "InternalError", "the disk is full")

    monkeypatch.setattr(lake, "put_object", full)
    answer = client.run(create("typed", "SELECT 1 AS n"))
    assert "the disk is full" in answer.reason
    assert ("sluice", "typed") not in lake.tables


# --- Partitions of the catalog


@pytest.fixture
def listed(client: Client, lake: Lake) -> Lake:
    made = client.run(create("typed", "SELECT event_id, value, dt, name AS kind FROM records", BY_DAY_AND_KIND))
    assert made.state == "SUCCEEDED", made.reason
    return lake


def test_only_the_objects_of_matching_partitions_are_scanned(client: Client, listed: Lake) -> None:
    answer = client.run(f"SELECT count(*) AS n FROM typed WHERE dt = '{day()}' AND kind = 'car'")
    ((_, path),) = listed.object_paths(BUCKET, f"typed/dt={day()}/kind=car/")
    assert (answer.rows, answer.scanned) == ([["3"]], path.stat().st_size)


def test_a_partition_is_where_the_catalog_says_and_has_the_catalogs_values(client: Client, listed: Lake) -> None:
    """Whatever its path looks like, and whatever else lies under the table's location."""
    listed.put_parquet(
        "next/dt=1999-01-01/x", [{"event_id": "new", "value": 0.5}], {"event_id": "string", "value": "double"}
    )
    listed.put_parquet(f"typed/dt={day()}/kind=ship/x", [{"event_id": "unlisted"}], {"event_id": "string"})
    partition = next(one for one in listed.partitions["sluice", "typed"] if one["Values"] == [day(), "car"])
    partition["StorageDescriptor"] = {**partition["StorageDescriptor"], "Location": "s3://lake/next"}
    answer = client.run(f"SELECT event_id, dt, kind, \"$path\" FROM typed WHERE dt = '{day()}' AND kind <> 'bus'")
    assert answer.rows == [["new", day(), "car", "s3://lake/next/dt=1999-01-01/x"]]


def test_a_query_looks_once_at_the_catalog(client: Client, listed: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    looks: list[str] = []
    look = listed.glue_partitions
    monkeypatch.setattr(listed, "glue_partitions", lambda *name: (looks.append(".".join(name)), look(*name))[1])
    answer = client.run("SELECT count(*) AS n FROM typed AS a JOIN typed AS b ON a.event_id = b.event_id")
    assert (answer.rows, looks) == ([["9"]], ["sluice.typed"])


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"SerdeInfo": {}}, "HIVE_UNSUPPORTED_FORMAT"),
        ({"Columns": [{"Name": "value", "Type": "string"}]}, "HIVE_PARTITION_SCHEMA_MISMATCH"),
    ],
    ids=["no SerDe", "another type"],
)
def test_a_partition_that_does_not_fit_its_table_fails_the_query(
    client: Client, listed: Lake, change: dict[str, Any], reason: str
) -> None:
    listed.partitions["sluice", "typed"][0]["StorageDescriptor"].update(change)
    assert client.run("SELECT count(*) AS n FROM typed").reason.startswith(reason)


# --- Who asks

ROLE = "arn:aws:sts::000000000000:assumed-role/refine/states"
GLUE = "arn:aws:glue:us-east-1:000000000000"
KEY = "arn:aws:kms:us-east-1:000000000000:key/one"
DEMANDS = {
    "the default database, whatever is read": ("SELECT 1 AS n", "glue:GetDatabase", f"{GLUE}:database/default"),
    "the table": ("SELECT 1 AS n FROM typed", "glue:GetTable", f"{GLUE}:table/sluice/typed"),
    "its database": ("SELECT 1 AS n FROM typed", "glue:GetTable", f"{GLUE}:database/sluice"),
    "the catalog": ("SELECT 1 AS n FROM typed", "glue:GetTable", f"{GLUE}:catalog"),
    "the partitions": ("SELECT 1 AS n FROM typed", "glue:GetPartitions", f"{GLUE}:table/sluice/typed"),
    "the list of objects": ("SELECT 1 AS n FROM typed", "s3:ListBucket", "arn:aws:s3:::lake"),
    "the key of results": ("SELECT 1 AS n", "kms:GenerateDataKey", KEY),
    "the key of what a new table reads of itself": (create("new", "SELECT 1 AS n"), "kms:Decrypt", KEY),
    "a new table": (create("new", "SELECT 1 AS n"), "glue:CreateTable", f"{GLUE}:table/sluice/new"),
    "its database too": (create("new", "SELECT 1 AS n"), "glue:GetDatabase", f"{GLUE}:database/sluice"),
    "new partitions": (
        create("new", "SELECT 1 AS n, 'x' AS k", ", partitioned_by = ARRAY['k']"),
        "glue:BatchCreatePartition", f"{GLUE}:table/sluice/new"),
}  # fmt: skip


@pytest.mark.parametrize(("sql", "action", "resource"), DEMANDS.values(), ids=DEMANDS)
def test_a_query_for_a_role_needs_what_athena_does_with_it(
    client: Client, listed: Lake, sql: str, action: str, resource: str
) -> None:
    listed.key = KEY
    listed.denied.add((action, resource))
    listed.principal = ROLE
    answer = client.run(sql)
    assert answer.state == "FAILED"
    assert answer.reason == (
        f"Insufficient permissions to execute the query. User: {ROLE} is not authorized to perform: {action} on "
        f"resource: {resource}"
    )
    assert ("sluice", "new") not in listed.tables
    listed.principal = ""
    assert client.run(sql).state == "SUCCEEDED"


def test_what_stands_under_a_key_is_read_by_who_may_use_it(client: Client, listed: Lake) -> None:
    listed.buckets.add("results")
    listed.key, listed.principal = KEY, ROLE
    listed.denied.add(("kms:Decrypt", KEY))
    elsewhere = {"OutputLocation": "s3://results/"}
    assert "kms:Decrypt" in client.run("SELECT value FROM typed", ResultConfiguration=elsewhere).reason
    assert client.run("SELECT 1 AS n", ResultConfiguration=elsewhere).state == "SUCCEEDED"


def test_only_the_objects_that_are_read_need_a_permission(client: Client, listed: Lake) -> None:
    ((key, _),) = listed.object_paths(BUCKET, f"typed/dt={day()}/kind=car/")
    listed.denied.add(("s3:GetObject", f"arn:aws:s3:::lake/{key}"))
    listed.principal = ROLE
    assert "s3:GetObject" in client.run("SELECT value FROM typed WHERE kind = 'car'").reason
    assert client.run("SELECT value FROM typed WHERE kind = 'bus'").state == "SUCCEEDED"


def test_a_result_bucket_that_a_role_may_not_look_at_is_refused_at_the_start(client: Client, listed: Lake) -> None:
    listed.denied.add(("s3:GetBucketLocation", "arn:aws:s3:::lake"))
    listed.principal = ROLE
    location = {"OutputLocation": "s3://lake/results/"}
    refusal = client.refusal("StartQueryExecution", QueryString="SELECT 1 AS n", ResultConfiguration=location)
    assert refusal.startswith("Unable to verify/create output bucket lake")
