"""A small lake for tests of Athena: tables of the catalog, real Parquet and JSON objects on disk, and the service."""

from __future__ import annotations

import asyncio
import gzip
import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet

from local.athena.service import Athena
from local.ministack import AccessDenied, ServiceError

Json = dict[str, Any]

BUCKET = "lake"
PARQUET = "org.apache.hadoop.hive.ql.io.parquet.serde.ParquetHiveSerDe"
OPENX_JSON = "org.openx.data.jsonserde.JsonSerDe"
ARROW_TYPES = {
    "string": pyarrow.string(),
    "double": pyarrow.float64(),
    "bigint": pyarrow.int64(),
    "int": pyarrow.int32(),
    "timestamp": pyarrow.timestamp("ms"),
    "boolean": pyarrow.bool_(),
}
EVENT_COLUMNS = {
    **dict.fromkeys(("event_id", "name", "action"), "string"),
    "value": "double",
    **dict.fromkeys(("source", "user_id"), "string"),
    **dict.fromkeys(("occurred_at", "received_at"), "timestamp"),
    "clock_skew_ms": "bigint",
    **dict.fromkeys(("properties", "ip", "user_agent", "request_id"), "string"),
    **dict.fromkeys(("anonymous_id", "session_id", "path", "referrer", "visitor_id"), "string"),
}
ERROR_COLUMNS = {
    "attemptsmade": "int",
    **dict.fromkeys(("arrivaltimestamp", "attemptendingtimestamp"), "bigint"),
    **dict.fromkeys(
        ("errorcode", "errormessage", "lasterrorcode", "lasterrormessage", "rawdata", "lambdaarn"), "string"
    ),
}
PROJECTION = {
    "projection.enabled": "true",
    "projection.dt.type": "date",
    "projection.dt.format": "yyyy-MM-dd",
    "projection.dt.range": "2020-01-01,NOW+1DAYS",
}
ROWS: list[dict[str, Any]] = [
    {"event_id": "1", "name": "a", "value": 1.0, "clock_skew_ms": 7, "properties": '{"k":{"n":1},"t":"x","z":null}'},
    {"event_id": "2", "name": "b", "value": 1e7, "clock_skew_ms": 2, "properties": "not JSON"},
    {"event_id": "3", "name": None, "value": None, "clock_skew_ms": None, "properties": None},
]


def day(ago: int = 0) -> str:
    """The date, in UTC, so many days ago."""
    return (datetime.now(UTC) - timedelta(days=ago)).strftime("%Y-%m-%d")


class Lake:
    """Takes the place of the emulator: a catalog and a bucket under a directory. `principal` is the caller, and may do
    everything except `denied`, pairs of an action and a resource."""

    account, region = "000000000000", "us-east-1"

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.tables: dict[tuple[str, str], Json] = {}
        self.partitions: dict[tuple[str, str], list[Json]] = {}
        self.principal = ""
        self.denied: set[tuple[str, str]] = set()
        self.resources: dict[str, dict[str, Callable[..., Any]]] = {}
        self.services: dict[str, Any] = {}
        self.buckets = {BUCKET}
        self.key = ""

    def add_service(self, name: str, handler: Any) -> None:
        self.services[name] = handler

    def add_resource(self, resource_type: str, **handlers: Any) -> None:
        self.resources[resource_type] = handlers

    def name_resources(self, service: str, name: Any) -> None:
        pass

    async def put_object(self, bucket: str, key: str, data: bytes, encoding: str = "") -> None:
        if bucket not in self.buckets:
            raise ServiceError(404, "NoSuchBucket", "The specified bucket does not exist")
        self.put(key, data)

    def bucket_key(self, bucket: str) -> str:
        return self.key if bucket == BUCKET else ""

    def object_paths(self, bucket: str, prefix: str) -> list[tuple[str, Path]]:
        root = self.directory / bucket
        keys = sorted(path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file())
        return [(key, root / key) for key in keys if key.startswith(prefix)]

    def caller(self) -> str:
        return self.principal

    def authorize_session(self, session: str, action: str, resource: str, prefix: str = "") -> None:
        if (action, resource) in self.denied:
            raise AccessDenied(f"User: {session} is not authorized to perform: {action} on resource: {resource}")

    def glue_databases(self) -> list[str]:
        return ["sluice"]

    def glue_tables(self, database: str) -> list[Json]:
        return [table for (name, _), table in sorted(self.tables.items()) if name == database]

    def has_database(self, database: str) -> bool:
        return database == "sluice"

    def glue_partitions(self, database: str, table: str) -> list[Json]:
        return list(self.partitions.get((database, table), []))

    async def glue(self, operation: str, **body: Any) -> Json:
        if operation == "CreateTable":
            key = (body["DatabaseName"], body["TableInput"]["Name"])
            if key in self.tables:
                raise ServiceError(400, "AlreadyExistsException", f"Table {key[1]} already exists")
            self.tables[key] = body["TableInput"]
        else:
            assert operation == "BatchCreatePartition"
            self.partitions[body["DatabaseName"], body["TableName"]] = body["PartitionInputList"]
        return {}

    def glue_table(self, database: str, table: str) -> Json | None:
        return self.tables.get((database, table))

    def put(self, key: str, data: bytes) -> int:
        """Write an object; returns its size in bytes."""
        path = self.directory / BUCKET / key
        path.parent.mkdir(parents=True, exist_ok=True)
        return path.write_bytes(data)

    def put_parquet(self, key: str, rows: list[Json], columns: dict[str, str] = EVENT_COLUMNS) -> int:
        schema = pyarrow.schema([(name, ARROW_TYPES[kind]) for name, kind in columns.items()])
        sink = pyarrow.BufferOutputStream()
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows, schema), sink)
        return self.put(key, sink.getvalue().to_pybytes())

    def put_json(self, key: str, rows: list[Json]) -> int:
        lines = "".join(json.dumps(row) + "\n" for row in rows).encode()
        return self.put(key, gzip.compress(lines) if key.endswith(".gz") else lines)

    def add_table(
        self,
        name: str,
        columns: dict[str, str] = EVENT_COLUMNS,
        *,
        serde: str = PARQUET,
        keys: tuple[str, ...] = ("dt",),
        template: str = "events/dt=${dt}/",
        serde_parameters: Json | None = None,
        parameters: dict[str, str | None] | None = None,
    ) -> None:
        """A table of the database `sluice`; `parameters` change those of the projection, None takes one away."""
        projection = {**PROJECTION, "storage.location.template": f"s3://{BUCKET}/{template}"} if keys else {}
        projected = {**projection, **(parameters or {})}
        self.tables["sluice", name] = {
            "Name": name,
            "TableType": "EXTERNAL_TABLE",
            "PartitionKeys": [{"Name": key, "Type": "string"} for key in keys],
            "Parameters": {key: value for key, value in projected.items() if value is not None},
            "StorageDescriptor": {
                "Location": f"s3://{BUCKET}/{template.split('$')[0].split('dt=')[0]}",
                "Columns": [{"Name": column, "Type": kind} for column, kind in columns.items()],
                "SerdeInfo": {"SerializationLibrary": serde, "Parameters": serde_parameters or {}},
            },
        }


class Answer:
    """A query's outcome: its state, the reason, and its rows as Athena's text, the header apart."""

    def __init__(self, execution: Json, results: Json | None) -> None:
        self.execution = execution
        self.state: str = execution["Status"]["State"]
        self.reason: str = execution["Status"].get("StateChangeReason", "")
        self.scanned: int = execution["Statistics"]["DataScannedInBytes"]
        rows = [[cell.get("VarCharValue") for cell in row["Data"]] for row in (results or {}).get("Rows", [])]
        self.header, self.rows = (rows[0], rows[1:]) if rows else ([], [])
        columns = (results or {}).get("ResultSetMetadata", {}).get("ColumnInfo", [])
        self.types = [column["Type"] for column in columns]


class Client:
    """Calls the service as an SDK does."""

    def __init__(self, lake: Lake, directory: Path) -> None:
        self.lake = lake
        self.athena = Athena(lake, directory)  # a fake with the parts used by the engine
        self.athena.register()

    async def call(self, operation: str, **body: Any) -> tuple[int, Json]:
        headers = {"x-amz-target": f"AmazonAthena.{operation}"}
        status, _, data = await self.lake.services["athena"]("POST", "/", headers, json.dumps(body).encode(), {})
        return status, json.loads(data)

    async def query(self, sql: str, *parameters: str, **body: Any) -> Answer:
        body.setdefault("ResultConfiguration", {"OutputLocation": f"s3://{BUCKET}/results/"})
        body.setdefault("QueryExecutionContext", {"Database": "sluice"})
        if parameters:
            body["ExecutionParameters"] = list(parameters)
        status, started = await self.call("StartQueryExecution", QueryString=sql, **body)
        assert status == 200, started
        return await self.wait(started["QueryExecutionId"])

    async def wait(self, identifier: str) -> Answer:
        while True:
            _, answer = await self.call("GetQueryExecution", QueryExecutionId=identifier)
            if answer["QueryExecution"]["Status"].get("CompletionDateTime"):
                break
            await asyncio.sleep(0.002)
        _, results = await self.call("GetQueryResults", QueryExecutionId=identifier)
        return Answer(answer["QueryExecution"], results.get("ResultSet"))

    def run(self, sql: str, *parameters: str, **body: Any) -> Answer:
        """Start a query and wait for its end, in an event loop of its own."""
        return asyncio.run(self.query(sql, *parameters, **body))

    def refusal(self, operation: str, **body: Any) -> str:
        """The message of a refused call."""
        status, answer = asyncio.run(self.call(operation, **body))
        assert (status, answer["__type"]) == (400, "InvalidRequestException")
        return str(answer["Message"])
