"""Athena's tables: Glue's columns, and the objects of a table.

A table's partitions follow from its partition projection, or from the catalog's list, each with a location of its own.
Features not implemented are refused by name, not guessed.

AWS facts: https://docs.aws.amazon.com/athena/latest/ug/partition-projection.html and
https://docs.aws.amazon.com/athena/latest/ug/partitions.html
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from local.athena.types import Type, from_glue
from local.catalog import GlueColumn, GlueTable, SerdeInfo, StorageDescriptor
from local.ministack import Emulator


class QueryFailed(Exception):
    """A query ends as FAILED for this reason. Error category 1 is the system's fault, 2 the user's."""

    def __init__(self, reason: str, category: int = 2) -> None:
        super().__init__(reason)
        self.category = category


# Parquet types, as DuckDB calls them, readable into a column of another name.
PARQUET_TYPES = {
    "VARCHAR": {"BLOB"},
    "BIGINT": {"INTEGER"},
    "DOUBLE": {"FLOAT"},
    "TIMESTAMP": {"TIMESTAMP_S", "TIMESTAMP_MS", "TIMESTAMP_NS", "TIMESTAMP WITH TIME ZONE"},
}
PARQUET_SERDE = "org.apache.hadoop.hive.ql.io.parquet.serde.ParquetHiveSerDe"
JSON_SERDE = "org.openx.data.jsonserde.JsonSerDe"
DATE_FIELDS = {"yyyy": "%Y", "MM": "%m", "dd": "%d"}
# Stands where a partition's value is NULL, in the catalog and in the keys of objects.
NULL_PARTITION = "__HIVE_DEFAULT_PARTITION__"
Values = tuple[str, Callable[[str], bool]]


@dataclass(frozen=True)
class DataFile:
    """An object of a table: its file on disk, its s3:// path, its size in bytes, the values of its partition (None for
    NULL)."""

    file: Path
    path: str
    size: int
    partition: tuple[str | None, ...]


def data_file(bucket: str, key: str, file: Path, at: int, partition: tuple[str | None, ...]) -> Iterator[DataFile]:
    """The object, unless it is empty, gone by now, or hidden: a name in its key from `at` on begins with _ or a dot."""
    if not any(part[:1] in ("_", ".") for part in key[at:].split("/")):
        with contextlib.suppress(FileNotFoundError):
            if size := file.stat().st_size:
                yield DataFile(file, f"s3://{bucket}/{key}", size, partition)


class Table:
    """A Glue table as Athena reads it. `columns` and `keys` (the partition's) map lower-case names to types."""

    def __init__(self, name: str, glue: GlueTable) -> None:
        self.name, self.parameters = name, glue.get("Parameters") or {}
        storage = glue["StorageDescriptor"]
        serde = storage.get("SerdeInfo") or SerdeInfo()
        options = {key.lower(): str(value).lower() for key, value in (serde.get("Parameters") or {}).items()}
        self.ignores_malformed = options.pop("ignore.malformed.json", "false") == "true"
        self.columns, self.keys = self._types(storage["Columns"]), self._types(glue.get("PartitionKeys") or [])
        self.location = storage["Location"].rstrip("/") + "/"
        self.is_parquet = serde.get("SerializationLibrary") == PARQUET_SERDE
        if not glue.get("TableType"):
            raise QueryFailed("FAILED: NullPointerException Name is null (the Glue table has no TableType)")
        if not self.is_parquet and serde.get("SerializationLibrary") != JSON_SERDE:
            raise self._unsupported(f"the SerDe {serde.get('SerializationLibrary')}")
        for option in options.items() - {("case.insensitive", "true"), ("serialization.format", "1")}:
            raise self._unsupported(f"the SerDe parameter {'='.join(option)}")

    def _unsupported(self, what: str) -> QueryFailed:
        return QueryFailed(f"NOT_SUPPORTED: the local Athena does not implement {what} (table {self.name})")

    def _types(self, columns: list[GlueColumn]) -> dict[str, Type]:
        types = {}
        for column in columns:
            if (kind := from_glue(column["Type"].lower())) is None:
                raise self._unsupported(f"the type {column['Type']} of column {column['Name']}")
            types[column["Name"].lower()] = kind
        return types

    def is_registered(self) -> bool:
        """Whether the table's partitions are listed in the catalog."""
        return bool(self.keys) and self.parameters.get("projection.enabled", "").lower() != "true"

    def files(self, emulator: Emulator) -> list[DataFile]:
        """Every object of the table's partitions. Objects whose name begins with _ or . are hidden."""
        return list(self._registered(emulator) if self.is_registered() else self._projected(emulator))

    def _projected(self, emulator: Emulator) -> Iterator[DataFile]:
        """Objects outside the range of the projection are silently left out, as on AWS."""
        template, values = self._projection()
        bucket, _, key_template = template.removeprefix("s3://").partition("/")
        parts = re.split(r"\$\{(\w+)}", key_template)  # text, column, text, column, ... text
        groups = [f"(?P<{part}>{values[part][0]})" if i % 2 else re.escape(part) for i, part in enumerate(parts)]
        for key, file in emulator.object_paths(bucket, parts[0][: parts[0].rfind("/") + 1]):
            match = re.match("".join(groups), key)
            if match and all(values[column][1](match[column]) for column in self.keys):
                yield from data_file(bucket, key, file, match.end(), tuple(match[column] for column in self.keys))

    def _registered(self, emulator: Emulator) -> Iterator[DataFile]:
        """One look at the catalog: each partition has its location of one moment, whole."""
        for listed in emulator.glue_partitions(*self.name.split(".", 1)):
            storage, values = listed["StorageDescriptor"], listed["Values"]
            self._check_partition(storage, values)
            bucket, _, prefix = storage["Location"].removeprefix("s3://").rstrip("/").partition("/")
            partition = tuple(None if value == NULL_PARTITION else value for value in values)
            for key, file in emulator.object_paths(bucket, f"{prefix}/"):
                yield from data_file(bucket, key, file, len(prefix) + 1, partition)

    def _check_partition(self, storage: StorageDescriptor, values: list[str]) -> None:
        """A partition's own schema must be the table's."""
        name = "/".join(f"{key}={value}" for key, value in zip(self.keys, values, strict=True))
        library = (storage.get("SerdeInfo") or SerdeInfo()).get("SerializationLibrary")
        if library != (PARQUET_SERDE if self.is_parquet else JSON_SERDE):
            raise QueryFailed(f"HIVE_UNSUPPORTED_FORMAT: partition {name} of {self.name} has the SerDe {library}")
        for column, kind in self._types(storage.get("Columns") or []).items():
            if kind != self.columns.get(column, kind):
                raise QueryFailed(
                    "HIVE_PARTITION_SCHEMA_MISMATCH: There is a mismatch between the table and partition schemas: the "
                    f"column '{column}' of table '{self.name}' is {self.columns[column]}, that of partition "
                    f"'{name}' is {kind}"
                )

    def _projection(self) -> tuple[str, dict[str, Values]]:
        """The template of a partition's location, and the possible values of each partition column."""
        if not self.keys:
            return self.location, {}
        default = self.location + "".join(f"{key}=${{{key}}}/" for key in self.keys)
        template = self.parameters.get("storage.location.template", default)
        if not template.endswith("/") or set(re.findall(r"\$\{(\w+)}", template)) != set(self.keys):
            raise QueryFailed(
                f"HIVE_METASTORE_ERROR: Table {self.name}: storage.location.template must hold every partition column "
                f"and end with a slash (got '{template}')"
            )
        return template, {key: self._values(key) for key in self.keys}

    def _option(self, key: str, name: str) -> str:
        if (value := self.parameters.get(f"projection.{key}.{name}")) is None:
            raise QueryFailed(
                f"HIVE_METASTORE_ERROR: Table {self.name} is configured for partition projection, but the partition "
                f"column '{key}' is missing projection configuration: projection.{key}.{name}"
            )
        return str(value)

    def _values(self, key: str) -> Values:
        """A pattern for the values of a partition column, and the test whether one is in its range."""
        kind = self._option(key, "type").lower()
        if self.parameters.get(f"projection.{key}.interval", "1") != "1":
            raise self._unsupported(f"projection.{key}.interval other than 1")
        if kind == "enum":
            enumerated = self._option(key, "values").split(",")
            return "|".join(map(re.escape, enumerated)), enumerated.__contains__
        if kind != "date":
            raise self._unsupported(f"projection.{key}.type={kind}")
        fields = re.findall(r"[A-Za-z]+|[^A-Za-z]+", self._option(key, "format"))
        if unknown := [part for part in fields if part.isalpha() and part not in DATE_FIELDS]:
            raise self._unsupported(f"{unknown[0]} in projection.{key}.format")
        layout = "".join(DATE_FIELDS.get(part, part) for part in fields)
        start, end = (self._date(text.strip(), layout) for text in self._option(key, "range").split(","))

        def is_in_range(text: str) -> bool:
            try:
                return start <= datetime.strptime(text, layout) <= end
            except ValueError:
                return False

        return "".join(rf"\d{{{len(p)}}}" if p in DATE_FIELDS else re.escape(p) for p in fields), is_in_range

    def _date(self, text: str, layout: str) -> datetime:
        """One end of a range: a date in the column's own format, or NOW (in UTC) with an offset such as NOW+1DAYS."""
        if not text.startswith("NOW"):
            return datetime.strptime(text, layout)
        offset = re.fullmatch(r"NOW(?:([+-]\d+)DAYS?)?", text.replace(" ", ""))
        if not offset:
            raise self._unsupported(f"the date {text}")
        moment = datetime.now(UTC) + timedelta(days=int(offset[1] or 0))
        return datetime.strptime(moment.strftime(layout), layout)
