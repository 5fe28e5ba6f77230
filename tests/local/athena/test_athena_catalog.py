"""The API around queries, and the catalog as SQL shows it: readers' requests before their first query."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from local.athena.glue import complete
from tests.lake import BUCKET, Client, Lake, day

Json = dict[str, Any]
NAMES = {"CatalogName": "awsdatacatalog", "DatabaseName": "sluice"}


@pytest.fixture
def client(tmp_path: Path) -> Client:
    lake = Lake(tmp_path)
    lake.add_table("records")
    lake.add_table("days", {"day": "date", "mean": "decimal(10,2)"}, keys=())
    lake.put_parquet(f"events/dt={day()}/a.parquet", [{"event_id": "1", "value": 1.5}])
    return Client(lake, tmp_path / "athena")


def ask(client: Client, operation: str, **body: Any) -> Json:
    status, answer = asyncio.run(client.call(operation, **body))
    assert status == 200, answer
    return answer


def test_a_column_of_a_result_is_described_whole(client: Client) -> None:
    identifier = client.run("SELECT 'ab' AS t, 1.5 AS d, 1 AS n FROM records").execution["QueryExecutionId"]
    columns = ask(client, "GetQueryResults", QueryExecutionId=identifier)["ResultSet"]["ResultSetMetadata"][
        "ColumnInfo"
    ]
    assert columns[0] == {
        "CatalogName": "hive", "SchemaName": "", "TableName": "", "Name": "t", "Label": "t", "Type": "varchar",
        "Precision": 2, "Scale": 0, "Nullable": "UNKNOWN", "CaseSensitive": True,
    }  # fmt: skip
    assert [(one["Precision"], one["Scale"], one["CaseSensitive"]) for one in columns[1:]] == [
        (2, 1, False),
        (10, 0, False),
    ]


def test_an_execution_says_all_of_its_statistics_and_its_engine(client: Client) -> None:
    execution = client.run("SELECT 1").execution
    assert execution["EngineVersion"]["EffectiveEngineVersion"] == "Athena engine version 3"
    assert (execution["StatementType"], execution["SubstatementType"]) == ("DML", "SELECT")
    assert {
        "DataScannedInBytes", "EngineExecutionTimeInMillis", "TotalExecutionTimeInMillis", "QueryQueueTimeInMillis",
        "QueryPlanningTimeInMillis", "ServiceProcessingTimeInMillis", "ResultReuseInformation",
    } <= {*execution["Statistics"]}  # fmt: skip


def test_executions_are_listed_by_work_group_the_latest_first_and_read_in_batches(client: Client) -> None:
    first, second = (client.run(f"SELECT {n}").execution["QueryExecutionId"] for n in (1, 2))
    assert ask(client, "ListQueryExecutions", MaxResults=1) == {"QueryExecutionIds": [second], "NextToken": "1"}
    assert ask(client, "ListQueryExecutions", NextToken="1")["QueryExecutionIds"] == [first]
    found = ask(client, "BatchGetQueryExecution", QueryExecutionIds=[first, "none"])
    assert [one["Query"] for one in found["QueryExecutions"]] == ["SELECT 1"]
    assert found["UnprocessedQueryExecutionIds"] == [{"QueryExecutionId": "none"}]


def test_work_groups_can_be_listed_and_read(client: Client) -> None:
    assert [one["Name"] for one in ask(client, "ListWorkGroups")["WorkGroups"]] == ["primary"]
    group = ask(client, "GetWorkGroup", WorkGroup="primary")["WorkGroup"]
    assert (group["State"], group["Configuration"]["EnforceWorkGroupConfiguration"]) == ("ENABLED", False)
    assert client.refusal("GetWorkGroup", WorkGroup="none") == "WorkGroup none was not found"


def test_the_catalog_can_be_listed_and_read(client: Client) -> None:
    assert ask(client, "ListDataCatalogs")["DataCatalogsSummary"] == [{"CatalogName": "AwsDataCatalog", "Type": "GLUE"}]
    assert ask(client, "GetDataCatalog", Name="AwsDataCatalog")["DataCatalog"]["Type"] == "GLUE"
    assert ask(client, "ListDatabases", CatalogName="AwsDataCatalog")["DatabaseList"] == [{"Name": "sluice"}]
    assert ask(client, "GetDatabase", **NAMES)["Database"]["Name"] == "sluice"
    tables = ask(client, "ListTableMetadata", **NAMES, Expression="rec.*")["TableMetadataList"]
    assert [one["Name"] for one in tables] == ["records"]
    table = ask(client, "GetTableMetadata", **NAMES, TableName="records")["TableMetadata"]
    assert table["Columns"][0] == {"Name": "event_id", "Type": "string"}
    assert table["PartitionKeys"] == [{"Name": "dt", "Type": "string"}]
    assert table["Parameters"]["location"] == f"s3://{BUCKET}/events/"
    assert client.refusal("GetDatabase", CatalogName="other", DatabaseName="x") == "DataCatalog other was not found"
    assert client.refusal("GetTableMetadata", **NAMES, TableName="none") == "Table none not found."


SHOWN: dict[str, tuple[str, list[str], list[list[str]]]] = {
    "tables": ("SHOW TABLES", ["tab_name"], [["days"], ["records"]]),
    "tables of a database by a pattern": ("SHOW TABLES IN sluice 'rec*'", ["tab_name"], [["records"]]),
    "databases": ("SHOW DATABASES", ["database_name"], [["sluice"]]),
    "columns": ("SHOW COLUMNS IN days", ["field"], [["day"], ["mean"]]),
    "a table": ("DESCRIBE `sluice`.`days`", ["col_name", "data_type", "comment"],
                [[f"{'day':20}\t{'date':20}\t{'':20}"], [f"{'mean':20}\t{'decimal(10,2)':20}\t{'':20}"]]),
    "partitions that nobody lists": ("SHOW PARTITIONS records", ["partition"], []),
}  # fmt: skip


@pytest.mark.parametrize(("sql", "names", "rows"), SHOWN.values(), ids=SHOWN)
def test_the_catalog_is_shown_without_a_header_row(
    client: Client, lake_rows: Any, sql: str, names: list[str], rows: list[list[str]]
) -> None:
    answer = client.run(sql)
    assert answer.state == "SUCCEEDED", answer.reason
    assert answer.execution["StatementType"] == "UTILITY"
    assert lake_rows(client, answer) == (names, rows)


@pytest.fixture
def lake_rows() -> Any:
    """Reads the names and all rows of a result as they come."""

    def read(client: Client, answer: Any) -> tuple[list[str], list[list[str]]]:
        found = ask(client, "GetQueryResults", QueryExecutionId=answer.execution["QueryExecutionId"])["ResultSet"]
        rows = [[cell.get("VarCharValue") for cell in row["Data"]] for row in found["Rows"]]
        return [one["Name"] for one in found["ResultSetMetadata"]["ColumnInfo"]], rows

    return read


def test_the_information_schema_lists_tables_and_columns(client: Client) -> None:
    tables = client.run("SELECT table_name, table_type FROM information_schema.tables ORDER BY 1")
    assert tables.rows == [["days", "BASE TABLE"], ["records", "BASE TABLE"]]
    columns = client.run(
        "SELECT column_name, ordinal_position, data_type FROM information_schema.columns "
        "WHERE table_schema = 'sluice' AND table_name = 'days' ORDER BY ordinal_position"
    )
    assert columns.rows == [["day", "1", "date"], ["mean", "2", "decimal(10,2)"]]
    assert client.run("SELECT * FROM information_schema.views").reason.startswith("NOT_SUPPORTED: the local Athena")


def test_what_glue_says_of_storage_is_whole() -> None:
    storage = complete({"Table": {"StorageDescriptor": {"Location": "s3://a/", "NumberOfBuckets": 3}}})["Table"]
    assert storage["StorageDescriptor"] == {
        "Location": "s3://a/", "NumberOfBuckets": 3, "Columns": [], "Compressed": False, "SerdeInfo": {},
        "BucketColumns": [], "SortColumns": [], "Parameters": {}, "StoredAsSubDirectories": False,
    }  # fmt: skip


def test_a_new_table_has_a_list_of_its_objects(client: Client) -> None:
    made = client.run("CREATE TABLE t AS SELECT 1 AS n", ResultConfiguration={"OutputLocation": f"s3://{BUCKET}/r/"})
    assert made.state == "SUCCEEDED", made.reason
    manifest = made.execution["Statistics"]["DataManifestLocation"].removeprefix(f"s3://{BUCKET}/")
    [written] = (client.lake.directory / BUCKET / manifest).read_text().splitlines()
    assert (client.lake.directory / BUCKET / written.removeprefix(f"s3://{BUCKET}/")).read_bytes()[:4] == b"PAR1"
