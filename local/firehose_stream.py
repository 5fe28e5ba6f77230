"""One delivery stream at work: its buffers, its transform function, and the writing of objects.

    put -> log -> processor buffer -> transform function -> main buffer  -> data object
                                                         -> error buffer -> error object
               -> backup buffer, when there is one ----------------------> raw object

It lives on the event loop; disk, compression and Parquet work on threads. Delivery is at least once, as on AWS.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import logging
import shutil
import time
import uuid
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import gettempdir
from typing import Any

from local import firehose_objects as objects
from local.emulator import AccessDenied, Emulator, ServiceError
from local.firehose_configuration import MEBIBYTE, Configuration, Destination, Json
from local.firehose_log import Log
from local.firehose_objects import Record, TransformFailure
from local.metrics import Metrics

PRINCIPAL = "firehose.amazonaws.com"
# What Firehose documents for a customer's key: of who puts records, and of the role that writes objects.
KEY_ACTIONS = ("kms:GenerateDataKey", "kms:Decrypt")
OUTSTANDING_INVOCATIONS = 5
RECORD_OVERHEAD = 256  # What a record costs in memory beside its bytes.
INVOKE_ERRORS = {
    403: "Lambda.InvokeAccessDenied",
    404: "Lambda.ResourceNotFound",
    429: "Lambda.InvokeLimitExceeded",
}

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Limits:
    """What AWS lets nobody configure. All times are in seconds, and a second lasts `second`: tests make it short."""

    # Undelivered bytes of one stream; beyond them puts are refused. What is being transformed and converted costs more:
    # an object in the making nearly three times its size.
    memory: int = 32 * MEBIBYTE
    segment: int = 16 * MEBIBYTE  # Size at which the log begins a new file.
    retention: float = 24 * 3600  # For how long delivery is tried.
    first_backoff: float = 0.5
    last_backoff: float = 30
    function_timeout: float = 300  # Firehose honours five minutes of Lambda run time.
    second: float = 1


@dataclass
class Threads:
    """Acknowledgements wait for the disk, so they share no thread with compression and Parquet."""

    disk: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(2, "firehose-disk"))
    work: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(2, "firehose-work"))


class Buffer:
    """Records that wait until there are `size` bytes of them or the first has waited for `interval` seconds.

    They do not wait for more than `most` bytes of memory, whatever the size: else a full memory could wait for an
    object that needs still more. On AWS, too, the size is a hint.
    """

    def __init__(self, hints: Callable[[], tuple[int, float]], most: int, request_limit: int | None = None) -> None:
        self.hints, self.most, self.request_limit = hints, most, request_limit
        self.records: deque[Record] = deque()
        self.size = 0
        self.since = 0.0
        self.changed = asyncio.Event()

    def add(self, records: Sequence[Record]) -> None:
        """Let records wait."""
        if first := not self.records:
            self.since = time.monotonic()
        self.records.extend(records)
        self.size += sum(len(record.data) for record in records)
        if first or self._is_enough(self.size, len(self.records)):
            self.changed.set()

    def _is_enough(self, size: int, count: int) -> bool:
        return size >= self.hints()[0] or size + count * RECORD_OVERHEAD >= self.most

    async def take(self) -> list[Record]:
        """Wait until the buffer is due, then take what makes one object, or one request."""
        while True:
            wait = self.since + self.hints()[1] - time.monotonic() if self.records else None
            if wait is not None and (wait <= 0 or self._is_enough(self.size, len(self.records))):
                return self._pop()
            self.changed.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(wait):
                    await self.changed.wait()

    def _pop(self) -> list[Record]:
        taken: list[Record] = []
        taken_size = request = 0
        while self.records and not self._is_enough(taken_size, len(taken)):
            request += objects.request_share(self.records[0])
            if taken and self.request_limit and request > self.request_limit:
                break
            taken.append(self.records.popleft())
            taken_size += len(taken[-1].data)
        self.size -= taken_size
        return taken


class Stream:
    """A delivery stream that works from its making on, beginning with what `directory` has left to deliver."""

    def __init__(
        self, emulator: Emulator, directory: Path, configuration: Configuration, limits: Limits, threads: Threads
    ) -> None:
        self.emulator, self.directory, self.configuration = emulator, directory, configuration
        self.limits, self.threads = limits, threads
        self.log = Log(directory, limits.segment)
        self.metrics = Metrics(emulator, "AWS/Firehose", {"DeliveryStreamName": configuration.name})
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
                self._drain(self.main_buffer, self._deliver),
                self._drain(self.error_buffer, self._deliver_failed),
                self._drain(self.backup_buffer, self._deliver_backup),
            )
        ]

    def _hints(self, destination: Destination) -> tuple[int, float]:
        return destination.size, destination.interval * self.limits.second

    def _processor_hints(self) -> tuple[int, float]:
        processor = self.configuration.processor
        return (processor.size, processor.interval * self.limits.second) if processor else (MEBIBYTE, 0)

    def reconfigure(self, configuration: Configuration) -> None:
        """Go on under a new version of the configuration; what is buffered is delivered under it."""
        self.configuration = configuration
        for buffer in (self.processor_buffer, self.main_buffer, self.error_buffer, self.backup_buffer):
            buffer.changed.set()

    async def stop(self, patience: float) -> None:
        """Begin nothing more, and wait `patience` seconds for what is under way; the log keeps the rest."""
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
        sizes = itertools.accumulate(map(_weight, datas), initial=self.held)
        return sum(size <= self.limits.memory for size in itertools.islice(sizes, 1, None))

    async def put(self, datas: list[bytes]) -> list[Record]:
        """Make records durable and let them go on; OSError when the disk refuses."""
        self.held += sum(map(_weight, datas))
        future: asyncio.Future[list[Record]] = asyncio.get_running_loop().create_future()
        self.waiting.append((_now(), datas, future))
        if self.commit is None or self.commit.done():
            self.commit = asyncio.create_task(self._commit())
        return await future

    async def _commit(self) -> None:
        """One write and one fsync for all puts that came while the one before was under way."""
        while self.waiting:
            group, self.waiting = self.waiting, []
            segment = self.log.begin()
            records: list[Record] = []
            try:
                records = await self._on_disk(segment.write, [(arrival, datas) for arrival, datas, _ in group])
            except OSError as error:
                logger.warning("%s: cannot write the log: %s", self.configuration.name, error)
                for _, _, future in group:
                    if not future.done():
                        future.set_exception(error)
            finally:
                self.log.end(written=bool(records))
                self.held -= sum(_weight(data) for _, datas, _ in group for data in datas)
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
        """Take up what an earlier process accepted and did not deliver, as fast as memory allows."""
        for segment in self.log.recovered:
            records, done = await self._on_disk(segment.read)
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
        """Send each record of a batch on by its result: to the main or the error buffer, or nowhere."""
        configuration = self.configuration
        status = TransformFailure(
            "Lambda.ProcessingFailedStatus", "ProcessingFailed status set for record", retry=False
        )
        failure, results = status, [("Ok", record.data) for record in batch]
        retries = configuration.processor.retries if configuration.processor else -1
        for attempt in range(1, retries + 2):
            try:
                failure, results = status, await self._transform(configuration, batch)
                self.metrics.add(ExecuteProcessing_Success=1)
            except TransformFailure as problem:
                self.metrics.add(ExecuteProcessing_Success=0)
                # AWS promises retries for timeouts and throttling and is silent about a function that raises. Here they
                # all are tried again, so that a transform which cannot bear to see a batch twice shows it.
                failure, results = problem, [("ProcessingFailed", b"")] * len(batch)
            failure.attempts = attempt
            if not failure.retry or attempt > retries:
                break
            await asyncio.sleep(self._backoff(attempt))
        pairs = list(zip(batch, results, strict=True))
        kept = [record._replace(data=data) for record, (result, data) in pairs if result == "Ok"]
        failed = [record for record, (result, _) in pairs if result == "ProcessingFailed"]
        if failed and configuration.processor:
            function, ended = configuration.processor.function, _now()
            self._report(configuration.main, failure.code, f"{failure.message} ({len(failed)} records)", function)
            failed = [
                record._replace(data=objects.processing_failed(record, failure, ended, function)) for record in failed
            ]
        self._buffer(kept, self.main_buffer)
        self._buffer(failed, self.error_buffer)
        dropped = [record for record, (result, _) in pairs if result == "Dropped"]
        if configuration.processor:
            self.metrics.add(SucceedProcessing_Records=len(kept) + len(dropped))
        self.log.done("main", dropped)
        self.held -= sum(_weight(record.data) for record in batch)

    async def _transform(self, configuration: Configuration, batch: list[Record]) -> list[tuple[str, bytes]]:
        """Invoke the function once; TransformFailure carries the error code that Firehose documents.

        https://docs.aws.amazon.com/firehose/latest/dev/monitoring-with-cloudwatch-logs.html
        """
        processor = configuration.processor
        assert processor
        try:
            for action in ("lambda:InvokeFunction", "lambda:GetFunctionConfiguration"):
                self.emulator.authorize(processor.role, PRINCIPAL, action, processor.function)
            event = await self._at_work(objects.transform_event, str(uuid.uuid4()), configuration.arn, batch)
            began = time.monotonic()
            async with asyncio.timeout(self.limits.function_timeout * self.limits.second):
                reply = await self.emulator.invoke(processor.function, event)
            self.metrics.add(ExecuteProcessing_Duration=(time.monotonic() - began) * 1000)
        except TimeoutError:
            raise TransformFailure("Lambda.FunctionTimedOut", "The Lambda function timed out.", retry=True) from None
        except AccessDenied as error:
            code = "Lambda.AssumeRoleAccessDenied" if is_about_trust(error) else "Lambda.InvokeAccessDenied"
            raise TransformFailure(code, str(error), retry=True) from None
        except ServiceError as error:
            code = INVOKE_ERRORS.get(error.status, "Lambda.InvokeFailed")
            raise TransformFailure(code, error.message, retry=True) from None
        except Exception as error:  # Nothing may lose the batch.
            logger.exception("%s: cannot invoke %s", configuration.name, processor.function)
            raise TransformFailure("InternalError", repr(error), retry=True) from None
        text = reply.payload[:1000].decode(errors="replace")
        if reply.status >= 300:
            raise TransformFailure(INVOKE_ERRORS.get(reply.status, "Lambda.InvokeFailed"), text, retry=True)
        if reply.function_error or len(reply.payload) > objects.REPLY_LIMIT:
            if not reply.function_error:
                text = f"Response payload size exceeded maximum allowed payload size ({objects.REPLY_LIMIT} bytes)."
            code = "Lambda.FunctionTimedOut" if "timed out" in text.lower() else "Lambda.FunctionError"
            message = f"The Lambda function was successfully invoked but it returned an error result: {text}"
            raise TransformFailure(code, message, retry=True)
        results: list[tuple[str, bytes]] = await self._at_work(objects.read_transform_reply, reply.payload, batch)
        return results

    # --- Delivery

    async def _drain(self, buffer: Buffer, deliver: Callable[[list[Record]], Coroutine[Any, Any, None]]) -> None:
        while True:
            records = await buffer.take()
            # A stop cancels the wait, not the delivery: an object without its mark in the log would be written twice.
            await asyncio.shield(self._begin(deliver(records)))

    async def _deliver(self, records: list[Record]) -> None:
        """Write one data object, then one error object of the records that do not fit the table.

        Until the error object is written, no further data is delivered, as on AWS.
        """
        failed: list[tuple[Record, str, str]] = []

        async def write(configuration: Configuration) -> None:
            main, conversion, fitting = configuration.main, configuration.conversion, records
            if conversion:
                table = self._table(configuration)
                # A kill leaves the rows there, and the next start of the process removes them.
                folder = Path(gettempdir())
                body, fitting, failed[:] = await self._at_work(
                    objects.convert, records, table, conversion.codec, folder
                )
            else:
                body = await self._at_work(_content, records, main.compression)
            if fitting:
                extension = main.extension or objects.EXTENSIONS["PARQUET" if conversion else main.compression]
                await self._put_object(configuration, main, main.prefix, fitting, body, extension)
                if conversion:
                    self.metrics.add(SucceedConversion_Records=len(fitting))
                self._done("main", fitting)

        async def write_failed(configuration: Configuration) -> None:
            ended = _now()
            documents = [
                record._replace(data=objects.conversion_failed(record, code, text, ended, configuration))
                for record, code, text in failed
            ]
            await self._put_errors(configuration, documents, "format-conversion-failed")
            self._done("main", misfits)

        await self._until_written("main", records, write)
        if misfits := [record for record, _, _ in failed]:
            self.metrics.add(FailedConversion_Records=len(misfits))
            self._report(self.configuration.main, failed[0][1], f"{failed[0][2]} ({len(failed)} records)")
            await self._until_written("main", misfits, write_failed)

    async def _deliver_failed(self, documents: list[Record]) -> None:
        async def write(configuration: Configuration) -> None:
            await self._put_errors(configuration, documents, "processing-failed")
            self._done("main", documents)

        await self._until_written("main", documents, write)

    async def _deliver_backup(self, records: list[Record]) -> None:
        async def write(configuration: Configuration) -> None:
            backup = configuration.backup
            assert backup  # It cannot be switched off.
            body = await self._at_work(_content, records, backup.compression)
            extension = objects.EXTENSIONS[backup.compression]
            await self._put_object(configuration, backup, backup.prefix, records, body, extension)
            self._done("backup", records)

        await self._until_written("backup", records, write)

    async def _put_errors(self, configuration: Configuration, documents: list[Record], error_type: str) -> None:
        """Error objects are compressed as data is, and have the extension that says so: FileExtension is for data."""
        main = configuration.main
        body = await self._at_work(_content, documents, main.compression)
        prefix, extension = main.error_prefix, objects.EXTENSIONS[main.compression]
        await self._put_object(configuration, main, prefix, documents, body, extension, error_type)

    async def _put_object(
        self,
        configuration: Configuration,
        destination: Destination,
        prefix: str,
        records: list[Record],
        body: bytes,
        extension: str,
        error_type: str = "",
    ) -> None:
        oldest = min(record.arrival for record in records)
        key = objects.object_key(configuration, prefix, oldest, extension, error_type)
        is_backup, age = destination is configuration.backup, (_now() - oldest) / 1000
        try:
            self.emulator.authorize(destination.role, PRINCIPAL, "s3:PutObject", f"{destination.bucket_arn}/{key}")
            bucket = destination.bucket_arn.rpartition(":")[2]
            bucket_key = self.emulator.bucket_key(bucket)
            for action in KEY_ACTIONS if bucket_key else ():
                self.emulator.authorize(destination.role, PRINCIPAL, action, bucket_key)
            await self.emulator.put_object(bucket, key, body)
        except (AccessDenied, ServiceError):
            self._count_put(is_backup, Success=0, DataFreshness=age)
            raise
        # What an error object holds was not delivered, but the put of it counts.
        delivered = {} if error_type else {"Records": len(records), "Bytes": len(body)}
        self._count_put(is_backup, Success=1, DataFreshness=age, **delivered)

    def _count_put(self, is_backup: bool, **values: float) -> None:
        zone = "BackupToS3" if is_backup else "DeliveryToS3"
        self.metrics.add(**{f"{zone}_{name}": value for name, value in values.items()})

    def _table(self, configuration: Configuration) -> Json:
        """The Glue table as it is now; the role needs the actions that Firehose documents, on each of three levels."""
        conversion = configuration.conversion
        assert conversion
        catalog, table = configuration.glue_catalog, f"{conversion.database}/{conversion.table}"
        for action in ("glue:GetTable", "glue:GetTableVersion", "glue:GetTableVersions"):
            for resource in ("catalog", f"database/{conversion.database}", f"table/{table}"):
                self.emulator.authorize(conversion.role, PRINCIPAL, action, f"{catalog}:{resource}")
        found = self.emulator.glue_table(conversion.database, conversion.table)
        if found is None:
            raise ServiceError(400, "DataFormatConversion.EntityNotFoundException", f"Table {table} not found.")
        return found

    async def _until_written(
        self, destination: str, records: list[Record], write: Callable[[Configuration], Awaitable[None]]
    ) -> None:
        """Try a delivery until it succeeds, under the configuration of the day; after 24 hours its records are lost."""
        began = time.monotonic()
        for attempt in itertools.count(1):
            try:
                await write(self.configuration)
                return
            except AccessDenied as error:
                service = "DataFormatConversion" if "glue:" in str(error) else "S3"
                code, message = f"{service}.AccessDenied", str(error)
            except ServiceError as error:
                code, message = error.code if "." in error.code else f"S3.{error.code}", error.message
            except objects.Misfit as error:
                code, message = "DataFormatConversion.InvalidSchema", str(error)
            except Exception as error:  # Nothing may end the loop that delivers.
                code, message = "InternalError", repr(error)
                logger.exception("%s: a delivery failed", self.configuration.name)
            backup = self.configuration.backup if destination == "backup" else None
            self._report(backup or self.configuration.main, code, message)
            if time.monotonic() - began > self.limits.retention * self.limits.second:
                logger.error("%s: gave up %d records: %s", self.configuration.name, len(records), message)
                self._done(destination, records)
                return
            await asyncio.sleep(self._backoff(attempt))

    # --- Helpers

    def _buffer(self, records: list[Record], buffer: Buffer) -> None:
        self.held += sum(_weight(record.data) for record in records)
        if records:
            buffer.add(records)

    def _done(self, destination: str, records: list[Record]) -> None:
        self.held -= sum(_weight(record.data) for record in records)
        self.log.done(destination, records)

    def _backoff(self, attempt: int) -> float:
        doubled = self.limits.first_backoff * 2.0 ** min(attempt - 1, 20)
        return min(doubled, self.limits.last_backoff) * self.limits.second

    def _begin(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        unit = asyncio.create_task(work)
        self.units.add(unit)
        unit.add_done_callback(self.units.discard)
        return unit

    async def _on_disk(self, function: Callable[..., Any], *arguments: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self.threads.disk, function, *arguments)

    async def _at_work(self, function: Callable[..., Any], *arguments: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self.threads.work, function, *arguments)

    def _report(self, destination: Destination, code: str, message: str, processor: str = "") -> None:
        """One line into the stream's log stream, in the form of Firehose's own error logs."""
        if destination.log:
            line = {
                "deliveryStreamARN": self.configuration.arn,
                "destination": destination.bucket_arn,
                "deliveryStreamVersionId": self.configuration.version,
                "message": message,
                "errorCode": code,
                **({"processor": processor} if processor else {}),
            }
            group, stream = destination.log
            region, account = self.configuration.arn.split(":")[3:5]
            resource = f"arn:aws:logs:{region}:{account}:log-group:{group}:log-stream:{stream}"
            with suppress(AccessDenied):  # As on AWS: nobody learns of it.
                self.emulator.authorize(destination.role, PRINCIPAL, "logs:PutLogEvents", resource)
                self.emulator.log(group, stream, json.dumps(line))


def _content(records: Iterable[Record], compression: str) -> bytes:
    return objects.compress(b"".join(record.data for record in records), compression)


def _weight(data: bytes) -> int:
    return len(data) + RECORD_OVERHEAD


def is_about_trust(error: AccessDenied) -> bool:
    """Whether a role could not be assumed, rather than not do what it was asked."""
    return "assume role" in str(error).lower()


def _now() -> int:
    return time.time_ns() // 1_000_000
