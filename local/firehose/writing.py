"""A stream's writes with the roles of its destinations: objects, and lines of its error log."""

from __future__ import annotations

import json
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass

from local.catalog import GlueTable
from local.firehose import objects
from local.firehose.configuration import Configuration, Destination
from local.firehose.engine import PRINCIPAL, Engine, now
from local.firehose.objects import Record
from local.ministack import AccessDenied, Emulator, ServiceError

# Firehose's documented needs for a customer's key: of the sender of records, and of the role for writing objects.
KEY_ACTIONS = ("kms:GenerateDataKey", "kms:Decrypt")


@dataclass(frozen=True)
class Writer:
    """Writes them."""

    engine: Engine

    async def put_errors(self, configuration: Configuration, documents: list[Record], error_type: str) -> None:
        """Error objects are compressed as data is."""
        body = await self.engine.at_work(content, documents, configuration.main.compression)
        await self.put_object(configuration, configuration.main, documents, body, error_type)

    async def put_object(
        self,
        configuration: Configuration,
        destination: Destination,
        records: list[Record],
        body: bytes,
        error_type: str = "",
    ) -> None:
        """Write one object, with the role of its destination; AccessDenied or ServiceError when AWS refuses."""
        emulator, oldest = self.engine.emulator, min(record.arrival for record in records)
        is_data = destination is configuration.main and not error_type
        kind = "PARQUET" if is_data and configuration.conversion else destination.compression
        # FileExtension is for data; error objects and backups have the extension of their compression.
        extension = (destination.extension if is_data else None) or objects.EXTENSIONS[kind]
        prefix = destination.error_prefix if error_type else destination.prefix
        key = objects.object_key(configuration, prefix, oldest, extension, error_type)
        is_backup, age = destination is configuration.backup, (now() - oldest) / 1000
        try:
            emulator.authorize(destination.role, PRINCIPAL, "s3:PutObject", f"{destination.bucket_arn}/{key}")
            bucket = destination.bucket_arn.rpartition(":")[2]
            bucket_key = emulator.bucket_key(bucket)
            for action in KEY_ACTIONS if bucket_key else ():
                emulator.authorize(destination.role, PRINCIPAL, action, bucket_key)
            encoding = objects.CONTENT_ENCODINGS.get(destination.compression, "")
            await emulator.put_object(bucket, key, body, encoding)
        except (AccessDenied, ServiceError):
            self._count_put(is_backup, Success=0, DataFreshness=age)
            raise
        # Of what producers sent, whatever became of it: also in error objects.
        sent = sum(record.sent for record in records)
        self._count_put(is_backup, Success=1, DataFreshness=age, Records=len(records), Bytes=sent)

    def _count_put(self, is_backup: bool, **values: float) -> None:
        zone = "BackupToS3" if is_backup else "DeliveryToS3"
        self.engine.metrics.add(**{f"{zone}_{name}": value for name, value in values.items()})

    def report(
        self, configuration: Configuration, destination: Destination, code: str, message: str, processor: str = ""
    ) -> None:
        """One line into the stream's log stream, in the form of Firehose's own error logs."""
        if destination.log:
            line = {
                "deliveryStreamARN": configuration.arn,
                "destination": destination.bucket_arn,
                "deliveryStreamVersionId": configuration.version,
                "message": message,
                "errorCode": code,
                **({"processor": processor} if processor else {}),
            }
            group, stream = destination.log
            region, account = configuration.arn.split(":")[3:5]
            resource = f"arn:aws:logs:{region}:{account}:log-group:{group}:log-stream:{stream}"
            with suppress(AccessDenied):  # As on AWS: nobody learns of it.
                self.engine.emulator.authorize(destination.role, PRINCIPAL, "logs:PutLogEvents", resource)
                self.engine.emulator.log(group, stream, json.dumps(line))


def content(records: Iterable[Record], compression: str) -> bytes:
    """The body of an object other than Parquet."""
    return objects.compress(b"".join(record.data for record in records), compression)


def read_table(emulator: Emulator, configuration: Configuration) -> GlueTable:
    """The Glue table of the conversion as it is now. The role needs each action documented by Firehose, on each level.

    Raises AccessDenied or ServiceError.
    """
    conversion = configuration.conversion
    assert conversion
    catalog, table = configuration.glue_catalog, f"{conversion.database}/{conversion.table}"
    for action in ("glue:GetTable", "glue:GetTableVersion", "glue:GetTableVersions"):
        for resource in ("catalog", f"database/{conversion.database}", f"table/{table}"):
            emulator.authorize(conversion.role, PRINCIPAL, action, f"{catalog}:{resource}")
    found = emulator.glue_table(conversion.database, conversion.table)
    if found is None:
        raise ServiceError(400, "DataFormatConversion.EntityNotFoundException", f"Table {table} not found.")
    return found
