"""Firehose's records and events for the transform, made to measure, and a Firehose to take its records."""

from __future__ import annotations

import base64
import json
from collections import defaultdict
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

from botocore.exceptions import ClientError
from botocore.session import Session

EVENTS = Path(__file__).with_name("events")

REQUEST_ID = "5d9c1b3e-1f1a-4a9b-9c7e-1f2a3b4c5d6e"
EXTENDED_REQUEST_ID = "AbCdEfGhIjKlMnO="
RECEIVED_AT = 1763706000123
RECEIVED_AT_TEXT = "2025-11-21 06:20:00.123"
USER_AGENT = "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0"


def stand_in(module: ModuleType, **names: Any) -> SimpleNamespace:
    """A module with these names of its own, for the one module under test: other threads keep the real one."""
    return SimpleNamespace(**{**vars(module), **names})


def session_in(region: str, *keys: str) -> Session:
    """A session of botocore, with an access key, its secret and perhaps a token."""
    made = Session()
    made.set_config_variable("region", region)
    if keys:
        made.set_credentials(*keys)
    return made


def read_event(name: str) -> bytes:
    """A file of tests/events/, as a client would send it."""
    return (EVENTS / name).read_bytes()


def body(*events: Any) -> bytes:
    """The body of one event as JSON, or of several as an array."""
    return json.dumps(events[0] if len(events) == 1 else list(events)).encode()


def record(
    content: bytes | str | dict[str, Any] | list[Any],
    *,
    request_id: str = REQUEST_ID,
    extended_request_id: str = EXTENDED_REQUEST_ID,
    time: int | str = RECEIVED_AT,
    ip: str = "203.0.113.7",
    user_agent: str | bytes = USER_AGENT,
    end: str | None = None,
    **more: Any,
) -> bytes:
    """A record as the API's mapping template writes it; content other than text goes in as JSON."""
    if not isinstance(content, bytes):
        content = (content if isinstance(content, str) else json.dumps(content)).encode()
    agent = base64.b64encode(user_agent if isinstance(user_agent, bytes) else user_agent.encode()).decode()
    extra = "".join(f" {key}={value}" for key, value in more.items())
    line = (
        f"sluice/1 request_id={request_id} extended_request_id={extended_request_id} time={time} ip={ip}"
        f" user_agent={agent}{extra}\n"
    )
    if end is None:
        end = f"\nsluice/end extended_request_id={extended_request_id}\n"
    return line.encode() + content + end.encode()


def invocation(*records: bytes, arrived_at: int = RECEIVED_AT) -> dict[str, Any]:
    """The event of one Lambda invocation; its records have the ids record-0, record-1 and so on."""
    return {
        "invocationId": "2f1c8a6b-4e10-4c1e-9d5b-0192f3a17c44",
        "deliveryStreamArn": "arn:aws:firehose:us-east-1:123456789012:deliverystream/events",
        "region": "us-east-1",
        "records": [
            {
                "recordId": f"record-{number}",
                "approximateArrivalTimestamp": arrived_at,
                "data": base64.b64encode(data).decode(),
            }
            for number, data in enumerate(records)
        ],
    }


def rows(data: bytes | str) -> list[dict[str, Any]]:
    """The rows in a reply's data; fails unless each line is one JSON object."""
    text = base64.b64decode(data, validate=True) if isinstance(data, str) else data
    assert text.endswith(b"\n")
    lines = text.decode().removesuffix("\n").split("\n")
    found = [json.loads(line) for line in lines]
    assert all(type(row) is dict for row in found)
    return found


def envelopes() -> list[dict[str, Any]]:
    """One failed record of two events, of ada and of bob, in Firehose's envelope: first as AWS writes it, then as AWS
    documents it (every number as text, and `lambdaArn`)."""
    return [json.loads(line) for line in read_event("processing_failed.ndjson").splitlines()]


STREAM = "events"
"""The name of the delivery stream of invocation()."""


class LambdaContext:
    """Lambda's context object; `seconds` is the remaining time, and does not pass."""

    function_name = "transform-function"

    def __init__(self, seconds: float = 60) -> None:
        self.seconds = seconds

    def get_remaining_time_in_millis(self) -> int:
        return int(self.seconds * 1000)


def refusal(code: str, status: int = 400, message: str = "no") -> ClientError:
    """An error as boto3 raises it for an answer of AWS."""
    answer: Any = {"Error": {"Code": code, "Message": message}, "ResponseMetadata": {"HTTPStatusCode": status}}
    return ClientError(answer, "PutRecordBatch")


class FakeFirehose:
    """Firehose behind PutRecordBatch, with its limits.

    `faults` decides the coming calls, one item for each: an exception is raised, a set has the numbers of the failing
    records. `broken` has the error always raised by a stream.
    """

    def __init__(self, *faults: Exception | set[int] | None) -> None:
        self.faults = list(faults)
        self.broken: dict[str, Exception] = {}
        self.calls: list[tuple[str, int]] = []
        """The stream and the number of records of each call."""
        self.streams: defaultdict[str, list[bytes]] = defaultdict(list)

    def put_record_batch(self, *, DeliveryStreamName: str, Records: list[dict[str, bytes]]) -> dict[str, Any]:
        datas = [record["Data"] for record in Records]
        assert 1 <= len(datas) <= 500
        assert all(len(data) <= 1_024_000 for data in datas)
        assert sum(len(base64.b64encode(data)) for data in datas) <= 4 * 1024 * 1024
        self.calls.append((DeliveryStreamName, len(datas)))
        fault = self.faults.pop(0) if self.faults else None
        if DeliveryStreamName in self.broken:
            raise self.broken[DeliveryStreamName]
        if isinstance(fault, Exception):
            raise fault
        failed = fault or set()
        self.streams[DeliveryStreamName] += [data for number, data in enumerate(datas) if number not in failed]
        return {
            "FailedPutCount": len(failed),
            "Encrypted": False,
            "RequestResponses": [
                {"ErrorCode": "ServiceUnavailableException", "ErrorMessage": "Slow down."}
                if number in failed
                else {"RecordId": str(number)}
                for number in range(len(datas))
            ],
        }

    def rejected(self) -> list[dict[str, Any]]:
        """The rows on the reject stream."""
        return [row for data in self.streams["rejects"] for row in rows(data)]
