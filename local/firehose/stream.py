"""One delivery stream at work: its buffers, its transform function, and the writing of objects.

    put -> log -> processor buffer -> transform function -> main buffer  -> data object
                                                         -> error buffer -> error object
               -> backup buffer, when there is one ----------------------> raw object

It lives on the event loop; disk, compression and Parquet work on threads. ObjectDelivery is at least once, as on AWS.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import shutil
from collections import Counter
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

from local.cloudwatch.metrics import Metrics
from local.firehose import objects
from local.firehose.buffer import Buffer, weight
from local.firehose.configuration import MEBIBYTE, Configuration, Destination
from local.firehose.delivery import ObjectDelivery
from local.firehose.engine import Engine, Limits, Threads, now
from local.firehose.log import Log
from local.firehose.objects import Record, TransformFailure, Verdict
from local.firehose.transform import Transform
from local.firehose.writing import Writer
from local.ministack import Emulator

OUTSTANDING_INVOCATIONS = 5
logger = logging.getLogger(__name__)


class Stream:
    """A delivery stream, at work as soon as it is made: it begins with the undelivered records of `directory`."""

    def __init__(
        self, emulator: Emulator, directory: Path, configuration: Configuration, limits: Limits, threads: Threads
    ) -> None:
        self.directory, self.configuration, self.limits = directory, configuration, limits
        self.log = Log(directory, limits.segment)
        self.metrics = Metrics(emulator, "AWS/Firehose", {"DeliveryStreamName": configuration.name})
        self.engine = Engine(emulator, limits, threads, self.metrics)
        self.transform, self.writer = Transform(self.engine), Writer(self.engine)
        self.delivery = ObjectDelivery(self.engine, self.writer, lambda: self.configuration, self._done)
        self.held = 0  # Bytes in memory, see Limits.memory.
        self.waiting: list[tuple[int, list[bytes], asyncio.Future[list[Record]]]] = []
        self.commit: asyncio.Task[None] | None = None
        self.invocations = asyncio.Semaphore(OUTSTANDING_INVOCATIONS)
        self.units: set[asyncio.Task[None]] = set()  # Invocations and deliveries under way.
        most = limits.memory // 4  # Three buffers wait for destinations: together they never hold all there is.
        self.processor_buffer = Buffer(self._processor_hints, most, objects.REQUEST_LIMIT - 1000)
        self.main_buffer = Buffer(lambda: self._hints(self.configuration.main), most)
        self.error_buffer = Buffer(lambda: self._hints(self.configuration.main), most)
        self.backup_buffer = Buffer(lambda: self._hints(self.configuration.backup or self.configuration.main), most)
        self.loops = [
            asyncio.create_task(loop)
            for loop in (
                self._replay(),
                self._process_batches(),
                self._drain(self.main_buffer, self.delivery.deliver),
                self._drain(self.error_buffer, self.delivery.deliver_failed),
                self._drain(self.backup_buffer, self.delivery.deliver_backup),
            )
        ]

    def _hints(self, destination: Destination) -> tuple[int, float]:
        return destination.size, destination.interval * self.limits.second

    def _processor_hints(self) -> tuple[int, float]:
        processor = self.configuration.processor
        if not processor:
            return MEBIBYTE, 0
        return processor.size, min(processor.interval, self.limits.transform_interval) * self.limits.second

    def reconfigure(self, configuration: Configuration) -> None:
        """Go on under a new version of the configuration; buffered records are delivered under it."""
        self.configuration = configuration
        for buffer in (self.processor_buffer, self.main_buffer, self.error_buffer, self.backup_buffer):
            buffer.changed.set()

    async def stop(self, patience: float) -> None:
        """Begin nothing more, and wait `patience` seconds for work under way; the log keeps the rest."""
        for loop in self.loops:
            loop.cancel()
        under_way = {*self.units, *filter(None, [self.commit])}
        if under_way and patience:
            await asyncio.wait(under_way, timeout=patience)
        for task in under_way:
            task.cancel()
        await asyncio.gather(*self.loops, *under_way, return_exceptions=True)
        self.metrics.flush()

    def discard(self) -> None:
        """End at once and forget everything: the stream is deleted."""
        for task in (*self.loops, *self.units):
            task.cancel()
        self.metrics.flush()
        shutil.rmtree(self.directory, ignore_errors=True)

    # --- Ingest

    def fitting(self, datas: list[bytes]) -> int:
        """How many of these records, from the first on, memory has room for."""
        sizes = itertools.accumulate(map(weight, datas), initial=self.held)
        return sum(size <= self.limits.memory for size in itertools.islice(sizes, 1, None))

    async def put(self, datas: list[bytes]) -> list[Record]:
        """Make records durable and let them go on; OSError when the disk refuses."""
        self.held += sum(map(weight, datas))
        future: asyncio.Future[list[Record]] = asyncio.get_running_loop().create_future()
        self.waiting.append((now(), datas, future))
        if self.commit is None or self.commit.done():
            self.commit = asyncio.create_task(self._commit())
        return await future

    async def _commit(self) -> None:
        """One write and one fsync for all puts made during the write before."""
        while self.waiting:
            group, self.waiting = self.waiting, []
            segment = self.log.begin()
            records: list[Record] = []
            try:
                records = await self.engine.on_disk(segment.write, [(arrival, datas) for arrival, datas, _ in group])
            except OSError as error:
                logger.warning("%s: cannot write the log: %s", self.configuration.name, error)
                for _, _, future in group:
                    if not future.done():
                        future.set_exception(error)
            finally:
                self.log.end(written=bool(records))
                self.held -= sum(weight(data) for _, datas, _ in group for data in datas)
            if records:
                size = sum(len(record.data) for record in records)
                self.metrics.add(IncomingRecords=len(records), IncomingBytes=size)
            self._accept(records, records if self.configuration.backup else [])
            rest = iter(records)
            for _, datas, future in group:
                own = list(itertools.islice(rest, len(datas)))
                if not future.done():  # The disk failed, or the caller has gone.
                    future.set_result(own)

    def _accept(self, main: list[Record], backup: list[Record]) -> None:
        for records, buffer in ((main, self.processor_buffer), (backup, self.backup_buffer)):
            self.log.owe(records)
            self._buffer(records, buffer)

    async def _replay(self) -> None:
        """Take up an earlier process's accepted but undelivered records, as fast as memory allows."""
        for segment in self.log.recovered:
            records, done = await self.engine.on_disk(segment.read)
            while self.held > self.limits.memory // 2:
                await asyncio.sleep(0.1 * self.limits.second)
            self._accept(
                [record for record in records if record.sequence not in done.get("main", ())],
                [record for record in records if record.sequence not in done.get("backup", ())]
                if self.configuration.backup
                else [],
            )
            self.log.release(segment)

    # --- Transform

    async def _process_batches(self) -> None:
        while True:
            batch = await self.processor_buffer.take()
            await self.invocations.acquire()
            self._begin(self._process(batch)).add_done_callback(lambda _: self.invocations.release())

    async def _process(self, batch: list[Record]) -> None:
        """Send each record of a batch on by its verdict: to the main or the error buffer, or nowhere."""
        configuration = self.configuration
        verdicts, attempt = [Verdict(record.data) for record in batch], 0
        while configuration.processor:
            attempt += 1
            try:
                verdicts = await self.transform.invoke(configuration, batch)
                self.metrics.add(ExecuteProcessing_Success=1)
                break
            except TransformFailure as problem:
                self.metrics.add(ExecuteProcessing_Success=0)
                verdicts = [Verdict(failure=(problem.code, problem.message))] * len(batch)
                if not problem.retry or attempt > configuration.processor.retries:
                    break
            await asyncio.sleep(self.engine.backoff(attempt))
        pairs = list(zip(batch, verdicts, strict=True))
        kept = [record._replace(data=verdict.data) for record, verdict in pairs if verdict.data is not None]
        failed = [(record, verdict.failure) for record, verdict in pairs if verdict.failure]
        if configuration.processor:
            sent = sum(record.sent for record in kept)
            self.metrics.add(SucceedProcessing_Records=len(kept), SucceedProcessing_Bytes=sent)
            function, ended = configuration.processor.function, now()
            for (code, message), count in Counter(failure for _, failure in failed).items():
                self.writer.report(
                    self.configuration, configuration.main, code, f"{message} ({count} records)", function
                )
            self._buffer(
                [
                    record._replace(data=objects.processing_failed(record, failure, attempt, ended, function))
                    for record, failure in failed
                ],
                self.error_buffer,
            )
        self._buffer(kept, self.main_buffer)
        self.log.done("main", [record for record, verdict in pairs if verdict == Verdict()])
        self.held -= sum(weight(record.data) for record in batch)

    # --- ObjectDelivery

    async def _drain(self, buffer: Buffer, deliver: Callable[[list[Record]], Coroutine[Any, Any, None]]) -> None:
        while True:
            records = await buffer.take()
            # A stop cancels the wait, not the delivery: an object without its mark in the log would be written twice.
            await asyncio.shield(self._begin(deliver(records)))

    # --- Helpers

    def _buffer(self, records: list[Record], buffer: Buffer) -> None:
        self.held += sum(weight(record.data) for record in records)
        if records:
            buffer.add(records)

    def _done(self, destination: str, records: list[Record]) -> None:
        self.held -= sum(weight(record.data) for record in records)
        self.log.done(destination, records)

    def _begin(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        unit = asyncio.create_task(work)
        self.units.add(unit)
        unit.add_done_callback(self.units.discard)
        return unit
