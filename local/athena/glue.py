"""Glue's catalog where MiniStack differs from AWS: properties in templates, and GetPartitions by Expression.

AWS facts: https://docs.aws.amazon.com/glue/latest/webapi/API_GetPartitions.html
"""

from __future__ import annotations

import json
from functools import partial
from typing import Any

import duckdb

from local import shapes
from local.athena.scan import matching
from local.athena.syntax import Missing, parse
from local.athena.types import VARCHAR, from_glue
from local.catalog import GlueColumn, GluePartition
from local.ministack import Answer, Emulator

Json = dict[str, Any]

# The calls behind the resources of a template, and the properties MiniStack keeps.
CALLS = {
    "AWS::Glue::Database": ("CreateDatabase", {"CatalogId", "DatabaseInput"}),
    "AWS::Glue::Table": ("CreateTable", {"CatalogId", "DatabaseName", "TableInput"}),
}
# What an expression has: comparisons of partition columns with values, and AND, OR, NOT, IN, BETWEEN, LIKE.
PARTS = ("comparison", "logical", "not", "in", "between", "like", "is null", "name", "string", "number")
# AWS's defaults for a table's storage.
STORAGE: Json = {"Columns": [], "Compressed": False, "NumberOfBuckets": 0, "SerdeInfo": {}, "BucketColumns": [],
                 "SortColumns": [], "Parameters": {}, "StoredAsSubDirectories": False}  # fmt: skip


class Glue:
    """Checks calls for MiniStack's Glue: it takes any property and lists every partition, whatever the Expression."""

    def __init__(self, emulator: Emulator) -> None:
        self.emulator = emulator

    def register(self) -> None:
        """Serve the Glue API, and check a template's resources."""
        for resource_type in CALLS:
            self.emulator.check_resource(resource_type, partial(check, resource_type))
        self.inner = self.emulator.service("glue")
        self.emulator.add_service("glue", self.serve)

    async def serve(
        self, method: str, path: str, headers: dict[str, str], body: bytes, query: dict[str, list[str]]
    ) -> Answer:
        """One API call in AWS's JSON 1.1 protocol."""
        status, answered, content = await self.inner(method, path, headers, body, query)
        request: Json = json.loads(body or b"{}")
        target = headers.get("x-amz-target", "").removeprefix("AWSGlue.")
        if status < 300 and target.startswith(("GetTable", "GetPartition", "BatchGetPartition")):
            content = json.dumps(complete(json.loads(content))).encode()
        if headers.get("x-amz-target") != "AWSGlue.GetPartitions" or status >= 300 or not request.get("Expression"):
            return status, answered, content
        answer: Json = json.loads(content)
        table = self.emulator.glue_table(request["DatabaseName"], request["TableName"])
        keys = table.get("PartitionKeys", []) if table else []
        try:
            answer["Partitions"] = choose(answer["Partitions"], keys, request["Expression"])
        except ValueError as error:
            refusal = {"__type": "InvalidInputException", "message": str(error)}
            return 400, {"Content-Type": "application/x-amz-json-1.1"}, json.dumps(refusal).encode()
        return status, {"Content-Type": "application/x-amz-json-1.1"}, json.dumps(answer).encode()


def complete(answer: Any) -> Any:
    """The same answer with AWS's defaults for every table's storage."""
    if isinstance(answer, list):
        return [complete(one) for one in answer]
    if not isinstance(answer, dict):
        return answer
    made = {key: complete(value) for key, value in answer.items()}
    if isinstance(storage := made.get("StorageDescriptor"), dict):
        made["StorageDescriptor"] = STORAGE | storage
    return made


def check(resource_type: str, properties: Json) -> None:
    """Raise ValueError for properties not taken by the call behind a resource, or not kept by MiniStack."""
    operation, kept = CALLS[resource_type]
    shapes.conform(properties, shapes.input_of("glue", operation))
    for name in sorted(properties.keys() - kept):
        raise ValueError(f"{name} is not implemented by the local Glue")


def choose(partitions: list[GluePartition], keys: list[GlueColumn], expression: str) -> list[GluePartition]:
    """The partitions for which the expression holds. Raises ValueError if it is not one over the partition columns."""
    columns = {key["Name"].lower(): from_glue(key["Type"].lower()) or VARCHAR for key in keys}
    try:
        for node in parse(expression, "expression").walk():
            if node.kind not in PARTS or (node.kind == "name" and node["name"].lower() not in columns):
                raise ValueError(f"{node.kind} {node['name'] or ''}")
        with duckdb.connect() as connection:
            found = matching(connection, columns, [one["Values"] for one in partitions], "partitions", [expression])
    except (ValueError, Missing, duckdb.Error) as error:
        raise ValueError(f"Unsupported expression '{expression}': {error}") from None
    return [partitions[number] for number in found]
