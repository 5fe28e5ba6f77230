"""Records put on a delivery stream: limits, partial failures, and the time left."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from itertools import count
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.exceptions import (
    ConnectTimeoutError,
    EndpointConnectionError,
    NoCredentialsError,
    ParamValidationError,
    ReadTimeoutError,
)
from botocore.stub import ANY, Stubber

from tests.factories import FakeFirehose, refusal, stand_in
from transform import streams
from transform.streams import CALL_SECONDS, put_records

ROOT = Path(__file__).parents[3]


class Clock:
    """The time left, in milliseconds; sleeping and calling take some of it."""

    def __init__(self, seconds: float = 60) -> None:
        self.left = seconds
        self.pauses: list[float] = []

    def __call__(self) -> int:
        return int(self.left * 1000)

    def sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)
        self.left -= seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(streams, "time", stand_in(time, sleep=clock.sleep))
    return clock


def put(firehose: Any, records: list[bytes], clock: Clock) -> list[str | None]:
    return put_records(lambda: firehose, "rejects", records, clock)


def test_records_are_put_in_their_order(clock: Clock) -> None:
    firehose = FakeFirehose()
    assert put(firehose, [b"a", b"b"], clock) == [None, None]
    assert firehose.streams == {"rejects": [b"a", b"b"]}


def test_nothing_to_put_calls_nobody(clock: Clock) -> None:
    assert put_records(lambda: pytest.fail("connected"), "rejects", [], clock) == []


def test_a_call_has_500_records_at_most(clock: Clock) -> None:
    firehose = FakeFirehose()
    assert put(firehose, [b"x"] * 1_001, clock) == [None] * 1_001
    assert [number for _, number in firehose.calls] == [500, 500, 1]


def test_a_call_has_4_mib_at_most_even_counted_in_base64(clock: Clock) -> None:
    firehose = FakeFirehose()  # which checks it
    records = [b"x" * 1_024_000] * 7 + [b"y"] * 3
    assert put(firehose, records, clock) == [None] * 10
    assert [number for _, number in firehose.calls] == [3, 3, 4]
    assert firehose.streams["rejects"] == records


def test_a_call_is_filled_to_the_last_byte_and_not_beyond(clock: Clock) -> None:
    firehose = FakeFirehose()
    most = 3 * 2**20 - 1_000  # 500 records of so many bytes have at most 4 MiB in base64
    records = [b"x" * 1_024_000] * 3 + [b"y" * (most - 3 * 1_024_000)]
    put(firehose, records, clock)
    put(firehose, [*records[:3], records[3] + b"y"], clock)
    assert [number for _, number in firehose.calls] == [4, 3, 1]


def test_a_record_that_no_stream_takes_does_not_harm_the_others(clock: Clock) -> None:
    firehose = FakeFirehose()
    first, too_long, last = put(firehose, [b"a", b"x" * 1_024_001, b"c"], clock)
    assert first is last is None
    assert too_long == "it has 1,024,001 bytes; a delivery stream takes 1,024,000"
    assert firehose.streams["rejects"] == [b"a", b"c"]


def test_only_the_records_that_failed_are_put_again(clock: Clock) -> None:
    firehose = FakeFirehose({0, 2}, {1})
    assert put(firehose, [b"a", b"b", b"c"], clock) == [None] * 3
    assert firehose.calls == [("rejects", 3), ("rejects", 2), ("rejects", 1)]
    assert firehose.streams["rejects"] == [b"b", b"a", b"c"]


PASSING = [
    refusal("ServiceUnavailableException", 503),
    refusal("InternalFailure", 500),
    refusal("ThrottlingException", 400),
    refusal("TooManyRequests", 429),
    EndpointConnectionError(endpoint_url="https://firehose"),
    ConnectTimeoutError(endpoint_url="https://firehose"),
    ReadTimeoutError(endpoint_url="https://firehose"),
]


@pytest.mark.parametrize("error", PASSING, ids=lambda error: f"{type(error).__name__} {error}")
def test_a_call_that_may_succeed_later_is_tried_again(error: Exception, clock: Clock) -> None:
    firehose = FakeFirehose(error, error)
    assert put(firehose, [b"a"], clock) == [None]
    assert len(firehose.calls) == 3


LASTING = [
    refusal("AccessDeniedException", 400, "User: x is not authorized to perform: firehose:PutRecordBatch"),
    refusal("ResourceNotFoundException"),
    refusal("InvalidArgumentException"),
    refusal("InvalidKMSResourceException"),
    NoCredentialsError(),
    ParamValidationError(report="name"),
    TypeError("a bug"),
]


@pytest.mark.parametrize("error", LASTING, ids=lambda error: f"{type(error).__name__} {error}")
def test_what_another_try_would_not_fix_is_not_tried_again_and_is_said(error: Exception, clock: Clock) -> None:
    firehose = FakeFirehose(error)
    assert put(firehose, [b"a", b"b"], clock) == [f"{type(error).__name__}: {error}"] * 2
    assert (len(firehose.calls), clock.pauses) == (1, [])


def test_a_client_that_cannot_be_made_is_an_error_of_every_record(clock: Clock) -> None:
    def connect() -> Any:
        raise NoCredentialsError

    [error] = put_records(connect, "rejects", [b"a"], clock)
    assert error is not None
    assert error.startswith("NoCredentialsError")


def test_tries_end_before_the_time_does(clock: Clock) -> None:
    firehose = FakeFirehose(*[{0, 1}] * 10_000)
    assert put(firehose, [b"a", b"b"], clock) == ["ServiceUnavailableException"] * 2
    assert CALL_SECONDS <= clock.left < CALL_SECONDS + streams.LONGEST_PAUSE
    assert 10 < len(firehose.calls) < 200


def test_without_time_nothing_is_begun(clock: Clock) -> None:
    firehose = FakeFirehose()
    clock.left = CALL_SECONDS - 0.001
    assert put(firehose, [b"a"], clock) == ["there was no time left to try"]
    assert firehose.calls == []


def test_time_that_ends_between_two_calls_leaves_what_is_put_as_put(clock: Clock) -> None:
    firehose = FakeFirehose()
    left = count(CALL_SECONDS * 1000 + 1, -1000)
    errors = put_records(lambda: firehose, "rejects", [b"x"] * 700, lambda: next(left))
    assert errors == [None] * 500 + ["there was no time left to try"] * 200


def test_pauses_are_drawn_by_lot_and_may_double(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    highest = stand_in(random, uniform=lambda low, high: high if low == 0 else pytest.fail("not from 0"))
    monkeypatch.setattr(streams, "random", highest)
    put(FakeFirehose(*[{0}] * 8), [b"a"], clock)
    assert clock.pauses == [0.1, 0.2, 0.4, 0.8, 1.6, 3.0, 3.0, 3.0]


def test_a_call_cannot_take_longer_than_is_kept_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    streams.connect.cache_clear()
    client: Any = streams.connect()
    streams.connect.cache_clear()
    config = client.meta.config
    assert config.connect_timeout + config.read_timeout < CALL_SECONDS
    assert config.retries["total_max_attempts"] == 1


def test_the_call_is_one_that_boto3_knows(clock: Clock) -> None:
    client = boto3.client("firehose", region_name="us-east-1", aws_access_key_id="a", aws_secret_access_key="b")
    with Stubber(client) as stubber:
        answers = [{"ErrorCode": "InternalFailure", "ErrorMessage": "Sorry."}, {"RecordId": "1"}]
        stubber.add_response(
            "put_record_batch",
            {"FailedPutCount": 1, "RequestResponses": answers},
            {"DeliveryStreamName": "rejects", "Records": [{"Data": b"a"}, {"Data": b"b"}]},
        )
        stubber.add_client_error("put_record_batch", "ServiceUnavailableException", http_status_code=503)
        stubber.add_response(
            "put_record_batch",
            {"FailedPutCount": 0, "RequestResponses": [{"RecordId": "2"}]},
            {"DeliveryStreamName": ANY, "Records": [{"Data": b"a"}]},
        )
        assert put(client, [b"a", b"b"], clock) == [None, None]
        stubber.assert_no_pending_responses()


def test_boto3_is_not_imported_until_something_is_put() -> None:
    """Importing it takes longer than the rest of a cold start."""
    program = "import sys; import transform.handler; print('boto3' in sys.modules, 'botocore' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT / "lambda", capture_output=True, text=True, check=True
    )
    assert done.stdout == "False False\n"
