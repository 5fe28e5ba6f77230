"""Glue's structures with the keys used here, and the calls.

https://docs.aws.amazon.com/glue/latest/dg/aws-glue-api-catalog.html
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, NotRequired, Protocol, TypedDict, overload


class GlueColumn(TypedDict):
    """A column of a table, or a partition key."""

    Name: str
    Type: str


class SerdeInfo(TypedDict):
    """The reader and writer of the objects."""

    SerializationLibrary: str


class StorageDescriptor(TypedDict):
    """The place of the objects of a table or partition, and their content."""

    Columns: list[GlueColumn]
    Location: str
    InputFormat: NotRequired[str]
    OutputFormat: NotRequired[str]
    SerdeInfo: NotRequired[SerdeInfo]


class GlueTable(TypedDict):
    """A table; the same goes into CreateTable and UpdateTable."""

    Name: str
    Description: NotRequired[str]
    TableType: NotRequired[str]
    Parameters: NotRequired[dict[str, str]]
    PartitionKeys: list[GlueColumn]
    StorageDescriptor: StorageDescriptor


class GluePartition(TypedDict):
    """A partition by its values, in the order of the table's PartitionKeys."""

    Values: list[str]
    Parameters: NotRequired[dict[str, str]]
    StorageDescriptor: StorageDescriptor


class PartitionUpdate(TypedDict):
    """A partition to change, and its new state."""

    PartitionValueList: list[str]
    PartitionInput: GluePartition


class ErrorDetail(TypedDict):
    """Why Glue refuses."""

    ErrorCode: str


class PartitionError(TypedDict):
    """A partition refused by Glue."""

    ErrorDetail: ErrorDetail


class FoundTable(TypedDict):
    """GetTable's answer."""

    Table: GlueTable


class TablePage(TypedDict):
    """GetTables's answer."""

    TableList: list[GlueTable]


class PartitionPage(TypedDict):
    """GetPartitions's answer."""

    Partitions: list[GluePartition]


class PartitionErrors(TypedDict):
    """The answer to a batch."""

    Errors: NotRequired[list[PartitionError]]


class Exceptions(Protocol):
    """The expected errors."""

    @property
    def AlreadyExistsException(self) -> type[Exception]: ...

    @property
    def EntityNotFoundException(self) -> type[Exception]: ...


class TablePages(Protocol):
    """The paginator of GetTables."""

    def paginate(self, *, DatabaseName: str, Expression: str) -> Iterable[TablePage]: ...


class PartitionPages(Protocol):
    """The paginator of GetPartitions."""

    def paginate(
        self, *, DatabaseName: str, TableName: str, Expression: str, ExcludeColumnSchema: bool
    ) -> Iterable[PartitionPage]: ...


class Glue(Protocol):
    """Of boto3's client of Glue."""

    @property
    def exceptions(self) -> Exceptions: ...

    @overload
    def get_paginator(self, name: Literal["get_tables"]) -> TablePages: ...

    @overload
    def get_paginator(self, name: Literal["get_partitions"]) -> PartitionPages: ...

    def get_table(self, *, DatabaseName: str, Name: str) -> FoundTable: ...

    def create_table(self, *, DatabaseName: str, TableInput: GlueTable) -> None: ...

    def update_table(self, *, DatabaseName: str, TableInput: GlueTable) -> None: ...

    def delete_table(self, *, DatabaseName: str, Name: str) -> None: ...

    def batch_create_partition(
        self, *, DatabaseName: str, TableName: str, PartitionInputList: list[GluePartition]
    ) -> PartitionErrors: ...

    def batch_update_partition(
        self, *, DatabaseName: str, TableName: str, Entries: list[PartitionUpdate]
    ) -> PartitionErrors: ...

    def delete_partition(self, *, DatabaseName: str, TableName: str, PartitionValues: list[str]) -> None: ...
