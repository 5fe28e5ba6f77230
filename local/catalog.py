"""Tables and partitions of Glue's catalog, with the keys that the engines read or write."""

from __future__ import annotations

from typing import NotRequired, TypedDict


class GlueColumn(TypedDict):
    """A column, or what a table is partitioned by."""

    Name: str
    Type: str
    Comment: NotRequired[str]


class SerdeInfo(TypedDict, total=False):
    """What reads and writes the objects."""

    SerializationLibrary: str
    Parameters: dict[str, str]


class StorageDescriptor(TypedDict, total=False):
    """Where the objects of a table or partition are, and what is in them."""

    Columns: list[GlueColumn]
    Location: str
    InputFormat: str
    OutputFormat: str
    SerdeInfo: SerdeInfo


class GlueTable(TypedDict):
    """A table or a view. Optional keys are often missing."""

    Name: str
    TableType: NotRequired[str]
    Parameters: NotRequired[dict[str, str]]
    PartitionKeys: NotRequired[list[GlueColumn]]
    StorageDescriptor: NotRequired[StorageDescriptor]
    CreateTime: NotRequired[float]


class GluePartition(TypedDict):
    """A partition by its values, which are in the order of the table's PartitionKeys."""

    Values: list[str]
    StorageDescriptor: StorageDescriptor
