"""Broken, missing or oversized input ends a query with Athena's reason; nothing else is touched."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.lake import BUCKET, OPENX_JSON, Client, Lake, day

LOCATION = {"OutputLocation": f"s3://{BUCKET}/results/"}


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    lake = Lake(tmp_path)
    lake.add_table("records")
    lake.put_parquet(f"events/dt={day()}/a.parquet", [{"event_id": "1", "value": 1.0}])
    return lake


@pytest.mark.parametrize("size", [3, 40])
def test_a_truncated_parquet_object_fails_the_query_and_those_of_other_days_answer(
    client: Client, lake: Lake, size: int
) -> None:
    lake.put_parquet(f"events/dt={day(1)}/b.parquet", [{"event_id": "2"}])
    [path] = lake.directory.rglob("b.parquet")
    path.write_bytes(path.read_bytes()[:-size])
    answer = client.run("SELECT event_id FROM records")
    assert answer.reason.startswith("HIVE_BAD_DATA: Malformed Parquet file"), answer.reason
    assert client.run(f"SELECT event_id FROM records WHERE dt = '{day()}'").rows == [["1"]]


def test_truncated_gzip_fails_the_query(client: Client, lake: Lake) -> None:
    lake.add_table("lines", {"name": "string"}, serde=OPENX_JSON, keys=(), template="lines/")
    lake.put_json("lines/a.json.gz", [{"name": str(number)} for number in range(1000)])
    [path] = lake.directory.rglob("a.json.gz")
    path.write_bytes(path.read_bytes()[:-200])
    assert client.run("SELECT count(name) FROM lines").reason.startswith("HIVE_CURSOR_ERROR: ")


def test_an_object_that_is_gone_while_the_query_runs_fails_it(tmp_path: Path) -> None:
    class Vanishing(Lake):
        def bucket_key(self, bucket: str) -> str:
            """Athena calls this between listing the objects and reading them."""
            for path in self.directory.rglob("*.parquet"):
                path.unlink()
            return super().bucket_key(bucket)

    lake = Vanishing(tmp_path)
    lake.add_table("records")

    def object_paths(bucket: str, prefix: str) -> list[tuple[str, Path]]:
        lake.put_parquet(f"events/dt={day()}/a.parquet", [{"event_id": "1"}])
        return Lake.object_paths(lake, bucket, prefix)

    lake.object_paths = object_paths
    answer = Client(lake, tmp_path / "athena").run("SELECT event_id FROM records")
    assert answer.reason.startswith("HIVE_CANNOT_OPEN_SPLIT: "), answer.reason


def test_a_partition_without_objects_has_no_rows(client: Client, lake: Lake) -> None:
    select = f"SELECT event_id, dt FROM records WHERE dt = '{day()}'"
    properties = "external_location = 's3://lake/listed/', partitioned_by = ARRAY['dt']"
    assert client.run(f"CREATE TABLE listed WITH ({properties}) AS {select}").state == "SUCCEEDED"
    [listed] = lake.partitions["sluice", "listed"]
    storage = {**listed["StorageDescriptor"], "Location": f"s3://lake/listed/dt={day(1)}/"}
    lake.partitions["sluice", "listed"] = [listed, {"Values": [day(1)], "StorageDescriptor": storage}]
    assert client.run("SELECT event_id FROM listed").rows == [["1"]]
    assert client.run(f"SELECT count(*) FROM listed WHERE dt = '{day(1)}'").rows == [["0"]]


def test_of_two_queries_that_make_one_table_at_once_one_does(client: Client, lake: Lake) -> None:
    async def both() -> list[str]:
        sql = "CREATE TABLE twice WITH (external_location = 's3://lake/twice/') AS SELECT 1 AS n"
        answers = await asyncio.gather(client.query(sql), client.query(sql))
        return sorted(answer.reason.partition(":")[0] for answer in answers)

    done, refused = asyncio.run(both())
    assert done == "" and refused in ("TABLE_ALREADY_EXISTS", "HIVE_PATH_ALREADY_EXISTS")
    assert lake.tables["sluice", "twice"]["Name"] == "twice"


def test_a_query_of_one_byte_too_many_is_refused_at_the_start(client: Client) -> None:
    longest = "SELECT 1 AS n" + " " * (262_144 - 17) + "--é"
    assert client.run(longest).rows == [["1"]]
    refusal = client.refusal("StartQueryExecution", QueryString=f"{longest}é", ResultConfiguration=LOCATION)
    assert refusal == "QueryString must have at most 262144 bytes (got 262146)"


@pytest.mark.slow
def test_a_million_rows_are_read_to_the_last(client: Client) -> None:
    thousand = "UNNEST(sequence(0, 999))"
    sql = f"SELECT 1000 * a + b AS n FROM {thousand} AS t(a) CROSS JOIN {thousand} AS u(b) ORDER BY n"

    async def scenario() -> None:
        _, started = await client.call("StartQueryExecution", QueryString=sql, ResultConfiguration=LOCATION)
        identifier = started["QueryExecutionId"]
        answer = await client.wait(identifier)
        assert answer.rows[0] == ["0"], answer.reason
        _, page = await client.call("GetQueryResults", QueryExecutionId=identifier, NextToken="1000000")
        assert [row["Data"] for row in page["ResultSet"]["Rows"]] == [[{"VarCharValue": "999999"}]]
        assert "NextToken" not in page

    asyncio.run(scenario())
