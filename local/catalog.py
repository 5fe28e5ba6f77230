"""Tables and partitions of Glue's catalog, with the keys used by the engines."""

from __future__ import annotations

from typing import NotRequired, TypedDict


class GlueColumn(TypedDict):
    """A column, or a key of a table's partitions."""

    Name: str
    Type: str
    Comment: NotRequired[str]


class SerdeInfo(TypedDict, total=False):
    """The library to read and write the objects."""

    SerializationLibrary: str
    Parameters: dict[str, str]


class StorageDescriptor(TypedDict, total=False):
    """The location, columns and format of a table's or partition's objects."""

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
    """A partition by its values, in the order of the table's PartitionKeys."""

    Values: list[str]
    StorageDescriptor: StorageDescriptor
