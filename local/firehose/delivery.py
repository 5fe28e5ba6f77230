"""The delivery of the records of one object, tried until it is written."""

from __future__ import annotations

import asyncio
import itertools
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import gettempdir

from local.firehose import objects
from local.firehose.configuration import Configuration, Destination
from local.firehose.engine import Engine, now
from local.firehose.objects import Record
from local.firehose.writing import Writer, content, read_table
from local.ministack import AccessDenied, ServiceError

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ObjectDelivery:
    """Delivers under the `configuration` of the day, and calls `done` with the destination and its records."""

    engine: Engine
    writer: Writer
    configuration: Callable[[], Configuration]
    done: Callable[[str, list[Record]], None]

    async def deliver(self, records: list[Record]) -> None:
        """Write one data object, then one error object of the records unfit for the table.

        Until the error object is written, no further data is delivered, as on AWS.
        """
        failed: list[tuple[Record, str, str]] = []

        async def write(configuration: Configuration) -> None:
            main, conversion, fitting = configuration.main, configuration.conversion, records
            if conversion:
                table = read_table(self.engine.emulator, configuration)
                # A kill leaves the rows there, and the next start of the process removes them.
                folder = Path(gettempdir())
                body, fitting, failed[:] = await self.engine.at_work(
                    objects.convert, records, table, conversion.codec, folder
                )
            else:
                body = await self.engine.at_work(content, records, main.compression)
            if fitting:
                await self.writer.put_object(configuration, main, fitting, body)
                if conversion:
                    self.engine.metrics.add(SucceedConversion_Records=len(fitting))
                self.done("main", fitting)

        async def write_failed(configuration: Configuration) -> None:
            ended = now()
            documents = [
                record._replace(data=objects.conversion_failed(record, code, text, ended, configuration))
                for record, code, text in failed
            ]
            await self.writer.put_errors(configuration, documents, "format-conversion-failed")
            self.done("main", misfits)

        await self._until_written("main", records, write)
        if misfits := [record for record, _, _ in failed]:
            self.engine.metrics.add(FailedConversion_Records=len(misfits))
            self._report(self.configuration().main, failed[0][1], f"{failed[0][2]} ({len(failed)} records)")
            await self._until_written("main", misfits, write_failed)

    async def deliver_failed(self, documents: list[Record]) -> None:
        """Write one error object of the records failed by the transform function."""

        async def write(configuration: Configuration) -> None:
            await self.writer.put_errors(configuration, documents, "processing-failed")
            self.done("main", documents)

        await self._until_written("main", documents, write)

    async def deliver_backup(self, records: list[Record]) -> None:
        """Write one object of records as they came."""

        async def write(configuration: Configuration) -> None:
            backup = configuration.backup
            assert backup  # It cannot be switched off.
            body = await self.engine.at_work(content, records, backup.compression)
            await self.writer.put_object(configuration, backup, records, body)
            self.done("backup", records)

        await self._until_written("backup", records, write)

    async def _until_written(
        self, destination: str, records: list[Record], write: Callable[[Configuration], Awaitable[None]]
    ) -> None:
        """Try a delivery until it succeeds, under the configuration of the day; after 24 hours its records are lost."""
        began = time.monotonic()
        for attempt in itertools.count(1):
            try:
                await write(self.configuration())
                return
            except AccessDenied as error:
                service = "DataFormatConversion" if "glue:" in str(error) else "S3"
                code, message = f"{service}.AccessDenied", str(error)
            except ServiceError as error:
                code, message = error.code if "." in error.code else f"S3.{error.code}", error.message
            except objects.Misfit as error:
                code, message = "DataFormatConversion.InvalidSchema", str(error)
            except Exception as error:  # Nothing may end the delivery loop.
                code, message = "InternalError", repr(error)
                logger.exception("%s: a delivery failed", self.configuration().name)
            backup = self.configuration().backup if destination == "backup" else None
            self._report(backup or self.configuration().main, code, message)
            if time.monotonic() - began > self.engine.limits.retention * self.engine.limits.second:
                logger.error("%s: gave up %d records: %s", self.configuration().name, len(records), message)
                self.done(destination, records)
                return
            await asyncio.sleep(self.engine.backoff(attempt))

    def _report(self, destination: Destination, code: str, message: str) -> None:
        self.writer.report(self.configuration(), destination, code, message)
