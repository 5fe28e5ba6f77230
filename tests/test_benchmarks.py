"""The benchmarks count accepted events only, and end when nothing comes."""

from __future__ import annotations

import asyncio
from pathlib import Path

import orjson
import pytest

from tests.benchmarks import load, pipeline
from tests.local_process import Bucket

HEADERS = {"X-Amz-Target": "Firehose_20150804.PutRecordBatch"}


def test_records_that_a_batch_refuses_are_put_again_and_counted_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(load, "RETRY_SECONDS", 0.001)
    calls: list[list[int]] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for _ in range(6):
            length = load.CONTENT_LENGTH.search(await reader.readuntil(b"\r\n\r\n"))
            assert length
            records = orjson.loads(await reader.readexactly(int(length[1])))["Records"]
            calls.append(records)
            # Each call has room for two.
            responses = [{"RecordId": "1"}] * len(records[:2]) + [{"ErrorCode": "Slow"}] * len(records[2:])
            answer = orjson.dumps({"FailedPutCount": len(records[2:]), "RequestResponses": responses})
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(answer), answer))

    async def scenario() -> load.Result:
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        body = orjson.dumps({"DeliveryStreamName": "x", "Records": [1, 2, 3, 4, 5]})
        result = await load.send_all(iter([(url, body, HEADERS)] * 2), 1, 60)
        server.close()
        return result

    result = asyncio.run(scenario())
    assert calls == [[1, 2, 3, 4, 5], [3, 4, 5], [5]] * 2
    assert (result.taken, result.refused, result.statuses) == (10, 8, {200: 6})


def test_the_wait_for_rows_ends_when_none_comes(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match=r"no row has come for 0.1 s, and 5 of 5 are missing"):
        pipeline.rows_appear(Bucket(tmp_path), 5, patience=0.1)
