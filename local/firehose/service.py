"""Amazon Data Firehose for this product's delivery streams: DirectPut, a transform function, one S3 destination.

`Firehose` is the service: the resource type for CloudFormation and the API for SDKs and API Gateway. Each stream's work
is in `local.firehose.stream`. On disk, `streams.json` holds the resources, and a directory for each stream its log.
"""

from __future__ import annotations

import asyncio
import secrets
import shutil
import string
import uuid
from collections.abc import Awaitable, Callable
from pathlib import Path

import orjson

from local.firehose import objects
from local.firehose.configuration import MEBIBYTE, Configuration, Json, configure, conform, merge
from local.firehose.engine import PRINCIPAL, Limits, Threads, is_about_trust
from local.firehose.stream import Stream
from local.firehose.writing import KEY_ACTIONS, read_table
from local.ministack import AccessDenied, Emulator, ServiceError
from local.ministack.resources import Resources
from local.shapes import JsonObject, JsonValue

TYPE = "AWS::KinesisFirehose::DeliveryStream"
API_GATEWAY = "apigateway.amazonaws.com"
RECORD_LIMIT, BATCH_RECORDS, BATCH_LIMIT = 1_024_000, 500, 4 * MEBIBYTE


class Refusal(Exception):
    """One API call is refused: HTTP status, exception name and message as on the wire."""

    def __init__(self, code: str, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.status, self.code, self.message = status, code, message


class Firehose:
    """The service: the resource type for CloudFormation, the API for SDKs and API Gateway, and the streams at work."""

    def __init__(self, emulator: Emulator, directory: Path, limits: Limits | None = None) -> None:
        self.emulator, self.directory, self.limits = emulator, directory, limits or Limits()
        self.resources = Resources(directory / "streams.json")
        self.streams: dict[str, Stream] = {}
        self.loop: asyncio.AbstractEventLoop | None = None
        self.threads = Threads()

    def register(self) -> None:
        """Plug the resource type and the service into the emulator."""
        replacing = ("DeliveryStreamName", "DeliveryStreamType")
        self.emulator.add_resource(
            TYPE, create=self.create, update=self.update, delete=self.delete, replacing=replacing
        )
        self.emulator.add_service("firehose", self.serve)

    async def start(self) -> None:
        """Take up all streams, with the records left undelivered by the last process."""
        self.loop = asyncio.get_running_loop()
        for path in self.directory.glob("*/"):
            if path.name not in {resource["directory"] for resource in self.resources.values()}:
                shutil.rmtree(path, ignore_errors=True)
        for name in self.resources:
            self._stream(name)

    async def stop(self, patience: float = 5.0) -> None:
        """Stop delivering; the log keeps the undelivered records."""
        self.loop = None
        await asyncio.gather(*(stream.stop(patience) for stream in self.streams.values()))
        self.streams.clear()
        self.threads.disk.shutdown()
        self.threads.work.shutdown()

    # AWS::KinesisFirehose::DeliveryStream

    def create(self, logical_id: str, properties: Json, stack_name: str) -> tuple[str, Json]:
        """Make a stream; ValueError if CreateDeliveryStream or this engine refuses it."""
        suffix = "".join(secrets.choice(string.ascii_letters + string.digits) for _ in range(12))
        named = {"DeliveryStreamName": f"{f'{stack_name}-{logical_id}'[:51]}-{suffix}", **properties}
        given = conform(named)
        name: str = given["DeliveryStreamName"]
        if name in self.resources:
            raise ValueError(f"Firehose {name} under accountId {self.emulator.account} already exists")
        directory = f"{name}-{uuid.uuid4().hex[:8]}"
        self._save(name, {"properties": given, "version": 1, "directory": directory})
        return name, {"Arn": self._arn(name)}

    def update(self, physical_id: str, old: Json, new: Json, stack_name: str) -> tuple[str, Json]:
        """Change a stream as UpdateDestination does: the given properties are merged into the old ones."""
        resource, given = self.resources[physical_id], conform({**new, "DeliveryStreamName": physical_id})
        was = resource["properties"]["ExtendedS3DestinationConfiguration"]
        becomes = merge(was, given["ExtendedS3DestinationConfiguration"])
        if was.get("S3BackupMode") == "Enabled" and becomes["S3BackupMode"] != "Enabled":
            raise ValueError("S3BackupMode cannot be disabled once it is enabled: replace the stream instead")
        given["ExtendedS3DestinationConfiguration"] = becomes
        self._save(physical_id, {**resource, "properties": given, "version": resource["version"] + (becomes != was)})
        return physical_id, {"Arn": self._arn(physical_id)}

    def delete(self, physical_id: str, properties: Json) -> None:
        """Delete a stream; as on AWS, its undelivered records are discarded."""
        resource = self.resources.pop(physical_id, None)
        if resource:
            self.resources.save()
            directory = self.directory / resource["directory"]
            shutil.rmtree(directory, ignore_errors=True)
            if self.loop:
                self.loop.call_soon_threadsafe(self._discard, physical_id, directory)

    def _save(self, name: str, resource: Json) -> None:
        configuration = self._configuration(name, resource)
        for destination in filter(None, (configuration.main, configuration.backup)):
            try:
                bucket = destination.bucket_arn
                self.emulator.authorize(destination.role, PRINCIPAL, "s3:PutObject", f"{bucket}/*")
            except AccessDenied as error:
                # As on AWS: trust is looked at now, and a permission when it is used.
                if is_about_trust(error):
                    reason = f"Firehose is unable to assume role {destination.role}. Please check the role provided."
                    raise ValueError(reason) from None
        if configuration.conversion:
            try:
                objects.column_types(read_table(self.emulator, configuration))
            except AccessDenied as error:
                raise ValueError(
                    "Access was denied when calling Glue. Please ensure that the role specified in the data format "
                    f"conversion configuration has the necessary permissions. ({error})"
                ) from None
            except ServiceError as error:
                raise ValueError(f"{error.code}: {error.message}") from None
        self.resources[name] = resource
        self.resources.save()
        if self.loop:
            self.loop.call_soon_threadsafe(self._apply, name, configuration)

    def _apply(self, name: str, configuration: Configuration) -> None:
        if name in self.streams and name in self.resources:
            self.streams[name].reconfigure(configuration)

    def _discard(self, name: str, directory: Path) -> None:
        stream = self.streams.get(name)
        if stream and stream.directory == directory:
            del self.streams[name]
            stream.discard()

    def _configuration(self, name: str, resource: Json) -> Configuration:
        return configure(resource["properties"], name=name, arn=self._arn(name), version=resource["version"])

    def _arn(self, name: str) -> str:
        return f"arn:aws:firehose:{self.emulator.region}:{self.emulator.account}:deliverystream/{name}"

    def _stream(self, name: str) -> Stream:
        resource = self.resources.get(name)
        if resource is None:
            account = self.emulator.account
            raise Refusal("ResourceNotFoundException", f"Firehose {name} under account {account} not found.")
        directory = self.directory / resource["directory"]
        stream = self.streams.get(name)
        if stream and stream.directory != directory:
            self._discard(name, stream.directory)  # Another stream of this name, deleted only now.
            stream = None
        if stream is None:
            stream = self.streams[name] = Stream(
                self.emulator, directory, self._configuration(name, resource), self.limits, self.threads
            )
        return stream

    # The API

    async def serve(
        self, method: str, path: str, headers: dict[str, str], body: bytes, query: dict[str, list[str]]
    ) -> tuple[int, dict[str, str], bytes]:
        """Answer an SDK or the AWS CLI (JSON 1.1; the emulator has authenticated the caller)."""
        target = next((value for name, value in headers.items() if name.lower() == "x-amz-target"), "")
        try:
            request = orjson.loads(body or b"{}")
        except ValueError:
            request = None
        status, answer = await self.request(target.rpartition(".")[2], request, None)
        return status, {"Content-Type": "application/x-amz-json-1.1"}, orjson.dumps(answer)

    async def request(self, action: str, body: JsonValue, role_arn: str | None) -> tuple[int, JsonObject]:
        """One API call as on the wire; `role_arn` is API Gateway's role for the call."""
        operations: dict[str, Callable[[JsonObject], Awaitable[JsonObject]]] = {
            "PutRecord": self._put_record,
            "PutRecordBatch": self._put_record_batch,
        }
        try:
            if action not in operations:
                raise Refusal("UnknownOperationException", f"{action} is not implemented by the local Firehose")
            if not isinstance(body, dict):
                raise Refusal("SerializationException", "The request is not a JSON object.")
            if role_arn:
                arn = self._arn(str(body.get("DeliveryStreamName", "")))
                self.emulator.authorize(role_arn, API_GATEWAY, f"firehose:{action}", arn)
            self._authorize_key(self._stream_of(body).configuration.key, role_arn)
            return 200, await operations[action](body)
        except AccessDenied as error:
            return 400, {"__type": "AccessDeniedException", "message": str(error)}
        except Refusal as refusal:
            return refusal.status, {"__type": refusal.code, "message": refusal.message}
        except OSError as error:  # The disk is full, for one: nothing was taken.
            return 500, {"__type": "ServiceUnavailableException", "message": f"The log cannot be written: {error}"}

    def _authorize_key(self, key: str, role_arn: str | None) -> None:
        """Raise Refusal if the sender to a stream under a customer's key may not use the key; root may do all."""
        session = self.emulator.caller() if key and not role_arn else ""
        try:
            for action in KEY_ACTIONS if key else ():
                if role_arn:
                    self.emulator.authorize(role_arn, API_GATEWAY, action, key)
                elif session:
                    self.emulator.authorize_session(session, action, key)
        except AccessDenied as error:
            raise Refusal("InvalidKMSResourceException", str(error)) from None

    async def _put_record(self, body: JsonObject) -> JsonObject:
        stream = self._stream_of(body)
        data = _data(body.get("Record"), "record")
        if not stream.fitting([data]):
            stream.metrics.add(ThrottledRecords=1)
            raise Refusal("ServiceUnavailableException", "Slow down.", 500)
        record = (await stream.put([data]))[0]
        return {"RecordId": record.record_id, "Encrypted": self._is_encrypted(stream)}

    async def _put_record_batch(self, body: JsonObject) -> JsonObject:
        stream = self._stream_of(body)
        records = body.get("Records")
        if not isinstance(records, list) or not records:
            raise _invalid("records", "Member must have length greater than or equal to 1")
        if len(records) > BATCH_RECORDS:
            raise _invalid("records", f"Member must have length less than or equal to {BATCH_RECORDS}")
        datas = [_data(record, f"records.{index}.member") for index, record in enumerate(records, 1)]
        if sum(map(len, datas)) > BATCH_LIMIT:
            raise Refusal("InvalidArgumentException", "Records size exceeds 4 MB limit")
        taken = datas[: stream.fitting(datas)]
        accepted = await stream.put(taken) if taken else []
        refused: JsonObject = {"ErrorCode": "ServiceUnavailableException", "ErrorMessage": "Slow down."}
        failed = len(datas) - len(accepted)
        if failed:
            stream.metrics.add(ThrottledRecords=failed)
        responses: list[JsonValue] = [{"RecordId": record.record_id} for record in accepted]
        responses += [refused] * failed
        return {"FailedPutCount": failed, "Encrypted": self._is_encrypted(stream), "RequestResponses": responses}

    def _stream_of(self, body: JsonObject) -> Stream:
        name = body.get("DeliveryStreamName")
        if not isinstance(name, str) or not name:
            raise _invalid("deliveryStreamName", "Member must not be null")
        return self._stream(name)

    def _is_encrypted(self, stream: Stream) -> bool:
        resource = self.resources.get(stream.configuration.name, {"properties": {}})
        return "DeliveryStreamEncryptionConfigurationInput" in resource["properties"]


def _invalid(member: str, constraint: str) -> Refusal:
    text = f"1 validation error detected: Value at '{member}' failed to satisfy constraint: {constraint}"
    return Refusal("InvalidArgumentException", text)


def _data(record: JsonValue, member: str) -> bytes:
    try:
        data = objects.decode_base64(record["Data"] if isinstance(record, dict) and "Data" in record else None)
    except ValueError as problem:
        raise Refusal("SerializationException", f"{member}.data: {problem}") from None
    if len(data) > RECORD_LIMIT:
        raise _invalid(f"{member}.data", f"Member must have length less than or equal to {RECORD_LIMIT}")
    return data
