"""Amazon Athena on a laptop: its API and its CloudFormation resources. The queries run in `local.athena.run`.

A query answers as on AWS, or is refused as there, in AWS's words. Work groups enforce
their result location and their limit of bytes scanned; a result is read by page or as a CSV object in the bucket.

AWS facts: https://docs.aws.amazon.com/athena/latest/APIReference/Welcome.html
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import time
import uuid
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import duckdb

from local import shapes
from local.athena.catalog import metadata
from local.athena.create import NewTable, find_target, table_exists
from local.athena.run import BytesScannedLimitExceeded, Execution, Permissions, run
from local.athena.syntax import Missing, parse
from local.athena.tables import QueryFailed
from local.athena.types import Type
from local.ministack import Emulator, ServiceError
from local.ministack.resources import Resources

Json = dict[str, Any]

CONCURRENT_QUERIES = 2
DATA_CATALOG = "AwsDataCatalog"
ENGINE = {"SelectedEngineVersion": "AUTO", "EffectiveEngineVersion": "Athena engine version 3"}
INTERRUPT_SECONDS = 0.02
MAX_QUERY_STRING_BYTES = 262_144
START_MEMBERS = (
    "QueryString", "ClientRequestToken", "QueryExecutionContext", "ResultConfiguration", "WorkGroup",
    "ExecutionParameters",
)  # fmt: skip
QUERY_PROPERTIES = ("Name", "Description", "Database", "QueryString", "WorkGroup")
GROUP_PROPERTIES = ("Name", "Description", "State", "Tags", "RecursiveDeleteOption", "WorkGroupConfiguration")
GROUP_SETTINGS = (
    "EnforceWorkGroupConfiguration", "PublishCloudWatchMetricsEnabled", "BytesScannedCutoffPerQuery",
    "ResultConfiguration",
)  # fmt: skip
RESULT_SETTINGS = ("OutputLocation", "EncryptionConfiguration")


def only(what: str, values: Json, names: tuple[str, ...]) -> Json:
    """The values as they are. Raises ValueError with the name of one not in `names`."""
    for name in values.keys() - set(names):
        raise ValueError(f"The local Athena does not implement {name} of {what}")
    return values


class Athena:
    """The service. Work groups and named queries are in files under `directory`; query executions are kept in memory
    (their results are objects in S3, as on AWS)."""

    def __init__(self, emulator: Emulator, directory: Path) -> None:
        self.emulator = emulator
        self.groups = Resources(directory / "work-groups.json")
        self.groups.setdefault("primary", {"Name": "primary", "State": "ENABLED", "Configuration": {}})
        self.queries = Resources(directory / "named-queries.json")
        self.executions: dict[str, Execution] = {}
        self.tokens: dict[str, tuple[Json, str]] = {}
        self.tasks: set[asyncio.Task[None]] = set()
        self.pool = ThreadPoolExecutor(CONCURRENT_QUERIES, "athena")
        self.operations: dict[str, Callable[[Json], Json]] = {
            "StartQueryExecution": self.start_query_execution,
            "GetQueryExecution": lambda body: {"QueryExecution": self.describe(self.execution(body))},
            "GetQueryResults": self.get_query_results,
            "StopQueryExecution": self.stop_query_execution,
            "ListNamedQueries": self.list_named_queries,
            "BatchGetNamedQuery": self.batch_get_named_query,
            "GetNamedQuery": lambda body: {"NamedQuery": self.find("NamedQuery", self.queries, body["NamedQueryId"])},
            "BatchGetQueryExecution": self.batch_get_query_execution,
            "ListQueryExecutions": self.list_query_executions,
            "GetWorkGroup": lambda body: {"WorkGroup": self.show_group(body["WorkGroup"])},
            "ListWorkGroups": self.list_work_groups,
            "GetDataCatalog": lambda body: {"DataCatalog": {"Name": self.catalog(body, "Name"), "Type": "GLUE"}},
            "ListDataCatalogs": lambda body: {"DataCatalogsSummary": [{"CatalogName": DATA_CATALOG, "Type": "GLUE"}]},
            "GetDatabase": lambda body: {"Database": {"Name": self.database(body)}},
            "ListDatabases": self.list_databases,
            "GetTableMetadata": self.get_table_metadata,
            "ListTableMetadata": self.list_table_metadata,
        }

    def register(self) -> None:
        """Serve the Athena API and its two resource types."""
        self.emulator.add_service("athena", self.serve)
        self.emulator.name_resources("athena", self.resource)
        self.emulator.add_resource(
            "AWS::Athena::WorkGroup",
            create=self.create_work_group,
            update=lambda name, _, properties, __: self.write_work_group(name, properties),
            delete=self.delete_work_group,
            replacing=("Name",),
        )
        self.emulator.add_resource(
            "AWS::Athena::NamedQuery",
            create=self.create_named_query,
            delete=self.delete_named_query,
            replacing=QUERY_PROPERTIES,
        )

    async def stop(self) -> None:
        """Cancel every unfinished query, and end the threads."""
        for identifier in self.executions:
            self.stop_query_execution({"QueryExecutionId": identifier})
        await asyncio.gather(*self.tasks)
        self.pool.shutdown()

    async def serve(
        self, method: str, path: str, headers: dict[str, str], body: bytes, query: dict[str, list[str]]
    ) -> tuple[int, dict[str, str], bytes]:
        """One API call in AWS's JSON 1.1 protocol."""
        target = next((value for name, value in headers.items() if name.lower() == "x-amz-target"), "")
        status, answer = 400, {"__type": "InvalidRequestException", "AthenaErrorCode": "INVALID_INPUT"}
        try:
            operation = target.removeprefix("AmazonAthena.")
            if operation not in self.operations:
                raise ValueError(f"The local Athena does not implement {target}")
            request = shapes.conform(json.loads(body or b"{}"), shapes.input_of("athena", operation))
            status, answer = 200, self.operations[operation](request)
        except (ValueError, RecursionError) as error:
            answer["Message"] = str(error)
        return status, {"Content-Type": "application/x-amz-json-1.1"}, json.dumps(answer).encode()

    def find(self, kind: str, among: dict[str, Any], name: str) -> Any:
        if name not in among:
            raise ValueError(f"{kind} {name} was not found")
        return among[name]

    def resource(self, body: Json) -> str:
        """A call's work group, as policies name it: its own, or its query's; or the data catalog."""
        account = f"arn:aws:athena:{self.emulator.region}:{self.emulator.account}"
        if catalog := body.get("CatalogName") or body.get("Name"):
            return f"{account}:datacatalog/{catalog}"
        named: Any = (body.get("NamedQueryIds") or [body.get("NamedQueryId", "")])[0]
        group: Any = self.queries.get(named, {}).get("WorkGroup", body.get("WorkGroup", "primary"))
        if execution := self.executions.get(body.get("QueryExecutionId", "")):
            group = execution.work_group
        return f"{account}:workgroup/{group}"

    def execution(self, body: Json) -> Execution:
        found: Execution = self.find("QueryExecution", self.executions, body["QueryExecutionId"])
        return found

    def start_query_execution(self, body: Json, principal: str | None = None) -> Json:
        """Take a query and run it in the background, for `principal` (a role's session) or else for the caller.
        An enforced work group's settings win over the call's."""
        only("StartQueryExecution", body, START_MEMBERS)
        sql, token = body["QueryString"], body.get("ClientRequestToken", str(uuid.uuid4()))
        if token in self.tokens:
            if self.tokens[token][0] != body:
                raise ValueError("Idempotent parameters do not match")
            return {"QueryExecutionId": self.tokens[token][1]}
        if (size := len(sql.encode())) > MAX_QUERY_STRING_BYTES:
            raise ValueError(f"QueryString must have at most {MAX_QUERY_STRING_BYTES} bytes (got {size})")
        try:
            statement = parse(sql)
            target = find_target(statement)
        except Missing as error:
            raise ValueError(str(error)) from None
        group = self.find("WorkGroup", self.groups, body.get("WorkGroup", "primary"))
        if group["State"] != "ENABLED":
            raise ValueError(f"WorkGroup {group['Name']} is disabled")
        configuration = group["Configuration"]
        results = configuration.get("ResultConfiguration", {})
        if not configuration.get("EnforceWorkGroupConfiguration"):
            results = results | body.get("ResultConfiguration", {})
        if not results.get("OutputLocation", "").startswith("s3://"):
            raise ValueError(
                "No output location provided. An output location is required either through the Workgroup result "
                "configuration setting or as an API input."
            )
        identifier = str(uuid.uuid4())
        extension = ".csv" if target or statement.kind == "query" else ".txt"
        execution = Execution(
            sql,
            body.get("QueryExecutionContext", {}).get("Database", "default").lower().strip("`"),
            body.get("ExecutionParameters", []),
            group["Name"],
            configuration,
            f"{results['OutputLocation'].rstrip('/')}/{identifier}{extension}",
            identifier,
            self.emulator.caller() if principal is None else principal,
            "DDL" if target else "DML" if statement.kind == "query" else "UTILITY",
        )
        try:
            bucket = execution.output_location.split("/")[2]
            Permissions(self.emulator, execution.principal).demand("s3:GetBucketLocation", f"arn:aws:s3:::{bucket}")
        except QueryFailed as denied:
            raise ValueError(f"Unable to verify/create output bucket {bucket}. {denied}") from None
        self.executions[identifier] = execution
        self.tokens[token] = (body, identifier)
        self.spawn(self.execute(execution))
        return {"QueryExecutionId": identifier}

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    async def execute(self, execution: Execution) -> None:
        """Bring a query from QUEUED to its end; its result is in S3 before it is SUCCEEDED."""

        def work() -> None:
            if execution.state == "QUEUED":
                execution.state, execution.started = "RUNNING", time.time()
                run(execution, self.emulator)

        state, reason, category = "SUCCEEDED", "", 0
        try:
            await asyncio.get_running_loop().run_in_executor(self.pool, work)
            if execution.state == "RUNNING" and execution.created:
                await self.create_table(execution, execution.created)
            elif execution.state == "RUNNING":
                await self.emulator.put_object(*split(execution.output_location), csv(execution))
        except BytesScannedLimitExceeded:
            state, reason = "CANCELLED", "Bytes scanned limit was exceeded"
        except QueryFailed as error:
            state, reason, category = "FAILED", str(error), error.category
        except ServiceError as error:
            state, category = "FAILED", 2
            where = f"s3://{execution.created.bucket}" if execution.created else execution.output_location
            reason = f"Unable to write the result to {where}: {error}"
        except Exception as error:  # whatever it is, the query ends and says so
            state, reason, category = "FAILED", f"GENERIC_INTERNAL_ERROR: {error!r}", 1
        if execution.state != "CANCELLED":
            execution.state, execution.reason, execution.error_category = state, reason, category
        execution.completed = time.time()

    async def create_table(self, execution: Execution, new: NewTable) -> None:
        """Write a table's objects, then list it: whatever fails, there is no table, and objects may be left."""
        for key, data in new.objects.items():
            await self.emulator.put_object(new.bucket, key, data)
        listed = "".join(f"s3://{new.bucket}/{key}\n" for key in new.objects).encode()
        await self.emulator.put_object(*split(manifest_of(execution)), listed)
        if execution.state != "RUNNING":
            return
        try:
            await self.emulator.glue("CreateTable", DatabaseName=new.database, TableInput=new.table)
        except ServiceError as error:
            if error.code == "AlreadyExistsException":
                raise table_exists(new.database, new.name) from None
            raise QueryFailed(f"HIVE_METASTORE_ERROR: {error}") from None
        if new.partitions:
            name = {"DatabaseName": new.database, "TableName": new.name}
            await self.emulator.glue("BatchCreatePartition", **name, PartitionInputList=new.partitions)

    def describe(self, execution: Execution) -> Json:
        """The QueryExecution structure."""
        now = execution.completed or time.time()
        status: Json = {"State": execution.state, "SubmissionDateTime": execution.submitted}
        if execution.completed:
            status["CompletionDateTime"] = execution.completed
        if execution.reason:
            status["StateChangeReason"] = execution.reason
        if category := execution.error_category:
            error_type = {1: 200, 2: 1000}[category]  # "query engine had an internal error", "user error"
            status["AthenaError"] = {"ErrorCategory": category, "ErrorType": error_type, "Retryable": False}
            status["AthenaError"]["ErrorMessage"] = execution.reason
        return {
            "QueryExecutionId": execution.identifier,
            "Query": execution.sql,
            "StatementType": execution.kind,
            "SubstatementType": {"DDL": "CREATE_TABLE_AS_SELECT", "DML": "SELECT"}.get(execution.kind, "SHOW"),
            "ResultConfiguration": {"OutputLocation": execution.output_location},
            "ResultReuseConfiguration": {"ResultReuseByAgeConfiguration": {"Enabled": False}},
            "EngineVersion": ENGINE,
            "QueryExecutionContext": {"Database": execution.database, "Catalog": "awsdatacatalog"},
            "Status": status,
            "Statistics": {
                "DataScannedInBytes": execution.bytes_scanned,
                "EngineExecutionTimeInMillis": int((now - (execution.started or now)) * 1000),
                "TotalExecutionTimeInMillis": int((now - execution.submitted) * 1000),
                "QueryQueueTimeInMillis": int(((execution.started or now) - execution.submitted) * 1000),
                **dict.fromkeys(
                    ("ServicePreProcessingTimeInMillis", "QueryPlanningTimeInMillis", "ServiceProcessingTimeInMillis"),
                    0,
                ),
                "ResultReuseInformation": {"ReusedPreviousResult": False},
                **({"DataManifestLocation": manifest_of(execution)} if execution.created else {}),
            },
            "WorkGroup": execution.work_group,
        }

    def get_query_results(self, body: Json, principal: str | None = None) -> Json:
        """One page of a result; the first row of the first page holds the column names. Athena reads the result's
        object with the rights of `principal`, or else of the caller."""
        execution = self.execution(body)
        if execution.state != "SUCCEEDED":
            raise ValueError(f"Query has not yet finished. Current state: {execution.state}")
        try:
            result = f"arn:aws:s3:::{execution.output_location.removeprefix('s3://')}"
            who = self.emulator.caller() if principal is None else principal
            Permissions(self.emulator, who).demand("s3:GetObject", result)
        except QueryFailed as denied:
            raise ValueError(str(denied)) from None
        rows = execution.rows
        if execution.kind == "DML":
            rows = [[name for name, _ in execution.columns], *rows]
        paged = self.page(body, rows, "Rows", 1000)
        shown = [{"Data": [{} if v is None else {"VarCharValue": v} for v in row]} for row in paged.pop("Rows")]
        columns = [column_info(name, kind) for name, kind in execution.columns]
        updated = execution.created.rows if execution.created else 0
        return {
            "UpdateCount": updated,
            "ResultSet": {"Rows": shown, "ResultSetMetadata": {"ColumnInfo": columns}},
        } | paged

    def stop_query_execution(self, body: Json) -> Json:
        execution = self.execution(body)
        if execution.state in ("QUEUED", "RUNNING"):
            execution.state, execution.reason = "CANCELLED", "Query cancelled by user"
            self.spawn(self.interrupt(execution))
        return {}

    async def interrupt(self, execution: Execution) -> None:
        """Interrupt DuckDB until the query has ended: between two steps, an interrupt has no effect."""
        while not execution.completed:
            with contextlib.suppress(duckdb.ConnectionException):
                if connection := execution.connection:
                    connection.interrupt()
            await asyncio.sleep(INTERRUPT_SECONDS)

    def page(self, body: Json, found: list[Any], name: str, size: int = 50) -> Json:
        """A part of a list, and where the next one begins."""
        start, size = int(body.get("NextToken", 0)), body.get("MaxResults", size)
        return {name: found[start : start + size]} | (
            {"NextToken": str(start + size)} if start + size < len(found) else {}
        )

    def batch_get_query_execution(self, body: Json) -> Json:
        asked = body["QueryExecutionIds"]
        found = [self.describe(self.executions[one]) for one in asked if one in self.executions]
        missing = [{"QueryExecutionId": one} for one in asked if one not in self.executions]
        return {"QueryExecutions": found, "UnprocessedQueryExecutionIds": missing}

    def list_query_executions(self, body: Json) -> Json:
        group = self.find("WorkGroup", self.groups, body.get("WorkGroup", "primary"))["Name"]
        found = [one.identifier for one in reversed(self.executions.values()) if one.work_group == group]
        return self.page(body, found, "QueryExecutionIds")

    def show_group(self, name: str) -> Json:
        group = self.find("WorkGroup", self.groups, name)
        defaults = {"EnforceWorkGroupConfiguration": False, "PublishCloudWatchMetricsEnabled": False,
                    "RequesterPaysEnabled": False, "ResultConfiguration": {}, "EngineVersion": ENGINE}  # fmt: skip
        return {**group, "Configuration": defaults | group["Configuration"]}

    def list_work_groups(self, body: Json) -> Json:
        found = [{"Name": one["Name"], "State": one["State"], "EngineVersion": ENGINE} for one in self.groups.values()]
        return self.page(body, found, "WorkGroups")

    def catalog(self, body: Json, member: str = "CatalogName") -> str:
        """The one data catalog, under its name in any case."""
        if body[member].lower() != DATA_CATALOG.lower():
            raise ValueError(f"DataCatalog {body[member]} was not found")
        return DATA_CATALOG

    def database(self, body: Json) -> str:
        self.catalog(body)
        name = str(body["DatabaseName"]).lower()
        if not self.emulator.has_database(name):
            raise ValueError(f"Database {name} not found.")
        return name

    def list_databases(self, body: Json) -> Json:
        self.catalog(body)
        return self.page(body, [{"Name": name} for name in self.emulator.glue_databases()], "DatabaseList")

    def get_table_metadata(self, body: Json) -> Json:
        database, name = self.database(body), body["TableName"].lower()
        if (glue := self.emulator.glue_table(database, name)) is None:
            raise ValueError(f"Table {name} not found.")
        return {"TableMetadata": metadata(glue)}

    def list_table_metadata(self, body: Json) -> Json:
        form = re.compile(body.get("Expression", ".*").replace("*", ".*").replace("..*", ".*"))
        tables = [one for one in self.emulator.glue_tables(self.database(body)) if form.fullmatch(one["Name"])]
        return self.page(body, list(map(metadata, tables)), "TableMetadataList")

    def list_named_queries(self, body: Json) -> Json:
        group = self.find("WorkGroup", self.groups, body.get("WorkGroup", "primary"))["Name"]
        found = [identifier for identifier, query in self.queries.items() if query["WorkGroup"] == group]
        return self.page(body, found, "NamedQueryIds")

    def batch_get_named_query(self, body: Json) -> Json:
        """Up to 50 named queries; an unknown id is not an error."""
        asked = body["NamedQueryIds"]
        missing = [{"NamedQueryId": one} for one in asked if one not in self.queries]
        found = [self.queries[one] for one in asked if one in self.queries]
        return {"NamedQueries": found, "UnprocessedNamedQueryIds": missing}

    def create_work_group(self, logical_id: str, properties: Json, stack_name: str) -> tuple[str, Json]:
        """Make a work group; Ref is its name."""
        if properties["Name"] in self.groups:
            raise ValueError(f"WorkGroup {properties['Name']} is already created")
        return self.write_work_group(properties["Name"], properties)

    def write_work_group(self, name: str, properties: Json) -> tuple[str, Json]:
        only("AWS::Athena::WorkGroup", properties, GROUP_PROPERTIES)
        given = {"Name": name, "Configuration": properties.get("WorkGroupConfiguration", {})}
        checked: Json = shapes.conform(given, shapes.input_of("athena", "CreateWorkGroup"))
        configuration: Json = checked["Configuration"]
        only("WorkGroupConfiguration", configuration, GROUP_SETTINGS)
        only("ResultConfiguration", configuration.get("ResultConfiguration", {}), RESULT_SETTINGS)
        self.groups[name] = {
            "Name": name,
            "State": properties.get("State", "ENABLED"),
            "Configuration": {"EnforceWorkGroupConfiguration": True} | configuration,
        }
        self.groups.save()
        return name, {}

    def delete_work_group(self, name: str, properties: Json) -> None:
        """One with named queries or a history goes only with RecursiveDeleteOption, and takes the queries along."""
        queries = [identifier for identifier, query in self.queries.items() if query["WorkGroup"] == name]
        has_history = any(execution.work_group == name for execution in self.executions.values())
        if (queries or has_history) and str(properties.get("RecursiveDeleteOption")).lower() != "true":
            raise ValueError(f"WorkGroup {name} is not empty (set RecursiveDeleteOption to delete it)")
        for identifier in queries:
            self.delete_named_query(identifier, {})
        self.groups.pop(name, None)
        self.groups.save()

    def create_named_query(self, logical_id: str, properties: Json, stack_name: str) -> tuple[str, Json]:
        """Keep the text of a query, unread as on AWS; Ref is a new id."""
        identifier = str(uuid.uuid4())
        query: Json = {"NamedQueryId": identifier, "Name": f"{stack_name}-{logical_id}", "WorkGroup": "primary"}
        query |= only("AWS::Athena::NamedQuery", properties, QUERY_PROPERTIES)
        given = {name: value for name, value in query.items() if name != "NamedQueryId"}
        shapes.conform(given, shapes.input_of("athena", "CreateNamedQuery"))
        self.find("WorkGroup", self.groups, query["WorkGroup"])
        self.queries[identifier] = query
        self.queries.save()
        return identifier, {"NamedQueryId": identifier}

    def delete_named_query(self, identifier: str, properties: Json) -> None:
        self.queries.pop(identifier, None)
        self.queries.save()


def split(location: str) -> tuple[str, str]:
    """The bucket and the key of an object."""
    bucket, _, key = location.removeprefix("s3://").partition("/")
    return bucket, key


def manifest_of(execution: Execution) -> str:
    """The path of a CREATE TABLE AS's list of objects."""
    folder, _, name = execution.output_location.rpartition("/")
    return f"{folder}/tables/{name.removesuffix('.csv')}-manifest.csv"


def column_info(name: str, kind: Type) -> Json:
    """A column of a result, as Athena describes it."""
    lengths = {"varchar": 2**31 - 1, "integer": 10, "bigint": 19, "smallint": 5, "tinyint": 3, "double": 17, "real": 17,
               "timestamp": 3, "timestamp with time zone": 3, "varbinary": 2**30}  # fmt: skip
    size = kind.size if kind.name in ("varchar", "decimal") else ()
    precision, scale = [*size, 0, 0][:2] if size else (lengths.get(kind.name, 0), 0)
    return {"CatalogName": "hive", "SchemaName": "", "TableName": "", "Name": name, "Label": name,
            "Type": "float" if kind.name == "real" else kind.name, "Precision": precision, "Scale": scale,
            "Nullable": "UNKNOWN", "CaseSensitive": kind.name == "varchar"}  # fmt: skip


def csv(execution: Execution) -> bytes:
    """The result object: every value in double quotes, NULL as nothing at all; SHOW's rows as they are."""
    if execution.kind == "UTILITY":
        return "".join("\t".join(value or "" for value in row) + "\n" for row in execution.rows).encode()
    rows: list[list[str | None]] = [[name for name, _ in execution.columns], *execution.rows]
    lines = (",".join("" if value is None else '"' + value.replace('"', '""') + '"' for value in row) for row in rows)
    return "".join(f"{line}\n" for line in lines).encode()
