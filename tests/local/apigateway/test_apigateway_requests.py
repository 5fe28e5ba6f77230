"""A request to the local API Gateway: how it becomes a record, and the refusals documented by AWS."""

from __future__ import annotations

import base64
import gzip
import re
import tracemalloc
import zlib

import pytest

from tests.gateway import Gateway
from tests.local.apigateway.ingest_api import BODY, ROLE, body_with

# ---- the way of an event


def test_an_event_becomes_one_put_record_with_the_role_of_the_template(live: Gateway) -> None:
    answer = live.request(headers={"content-type": "application/json", "user-agent": "curl/8"})

    assert (answer.status, answer.json) == (202, {"recordId": "record-1"})
    assert answer.headers["access-control-allow-origin"] == "*"
    assert answer.headers["content-type"] == "application/json"
    ((action, request, role),) = live.firehose.calls
    assert (action, role, request["DeliveryStreamName"]) == ("PutRecord", ROLE, "the-stream")
    context, body, end, rest = live.firehose.record.decode().split("\n")
    fields = dict(field.split("=", 1) for field in context.removeprefix("sluice/1 ").split(" "))
    assert fields["ip"] == "203.0.113.7"
    assert base64.b64decode(fields["user_agent"]) == b"curl/8"
    assert fields["time"] == "1800000000000"
    assert fields["request_id"] == answer.headers["x-amzn-requestid"]
    assert fields["extended_request_id"] == answer.headers["x-amz-apigw-id"]
    assert (body, end, rest) == (
        '{"name":"John"}',
        f"sluice/end extended_request_id={answer.headers['x-amz-apigw-id']}",
        "",
    )


HOSTILE_BODIES = {
    "vtl": '{"a":"$util.base64Encode($input.body) ${foo} $!bar $context.stage #set($x=1) #end #foreach($x in [1])"}',
    "quotes and backslashes": r'{"a":"\"\\' r"'" r'},{\n"}',
    "unicode": '{"ä":"日本 \u2028 😀"}',
    "escaped unicode": r'{"a":"\ud83d\ude00 \u0000 \ud800"}',
    "white space": '\r\n\t{"a"\n:\r1}\n\n',
    "looks like a record": '{"a":1}\nsluice/end extended_request_id=AAAA\n',
    "the library's own marker": "__FORMAL_REFERENCE__REPLACE_TEXT__",
    "text with NUL and CR": "a\0b\rc",
    "large integer": '{"a":' + "9" * 5_000 + "}",
}


@pytest.mark.parametrize("text", HOSTILE_BODIES.values(), ids=HOSTILE_BODIES.keys())
def test_a_body_arrives_as_it_came(live: Gateway, text: str) -> None:
    answer = live.request(body=text.encode(), headers={"content-type": "text/plain;charset=UTF-8"})

    assert answer.status == 202
    lines = live.firehose.record.decode().split("\n", 1)[1]
    assert lines.removesuffix(f"\nsluice/end extended_request_id={answer.headers['x-amz-apigw-id']}\n") == text


@pytest.mark.parametrize(
    "text", [HOSTILE_BODIES["vtl"], HOSTILE_BODIES["escaped unicode"], HOSTILE_BODIES["large integer"]]
)
def test_a_hostile_body_of_json_passes_the_model(live: Gateway, text: str) -> None:
    assert live.request(body=text.encode()).status == 202


@pytest.mark.parametrize(("sent", "read"), [(b"\xed\xa0\x80", "\ufffd"), (b"\xff\xfe", "\ufffd\ufffd")])
def test_a_body_that_is_not_utf_8_is_read_as_java_does(live: Gateway, sent: bytes, read: str) -> None:
    live.request(body=b'{"a": "' + sent + b'"}', headers={"content-type": "text/plain"})
    assert f'{{"a": "{read}"}}' in base64.b64decode(live.firehose.calls[-1][1]["Record"]["Data"]).decode()


@pytest.mark.parametrize(
    ("user_agent", "recorded"),
    [
        pytest.param(r'"\\' + "'},{\"", r'"\\' + "'},{\"", id="quotes"),
        pytest.param("$context.requestId #end ${x}", "$context.requestId #end ${x}", id="vtl"),
        pytest.param("é\xa0", "é\xa0", id="latin-1"),
        pytest.param("x" * 5_000, "x" * 1_024, id="5,000 characters"),
        pytest.param(None, "", id="missing"),
    ],
)
def test_a_user_agent_cannot_leave_its_field(live: Gateway, user_agent: str | None, recorded: str) -> None:
    headers = {"content-type": "application/json"} | ({"user-agent": user_agent} if user_agent else {})
    assert live.request(headers=headers).status == 202
    context = live.firehose.record.decode().split("\n")[0]
    assert base64.b64decode(context.rpartition(" user_agent=")[2]).decode() == recorded


@pytest.mark.parametrize(
    ("given", "taken"),
    [
        ("2f1c7b1e-1c1d-4a34-9d5e-0a6f6c0b8f11", True),
        ("2f1c7b1e-1c1d-4a34-9d5e-0a6f6c0b8f11 ip=1.2.3.4", False),
        ("me", False),
    ],
)
def test_a_client_chooses_the_request_id_only_with_a_uuid(live: Gateway, given: str, taken: bool) -> None:
    answer = live.request(headers={"x-amzn-RequestId": given, "x-amz-apigw-id": given})
    assert (answer.headers["x-amzn-requestid"] == given) is taken
    assert answer.headers["x-amz-apigw-id"] != given
    assert re.fullmatch(r"[A-Za-z0-9+/]{15}=", answer.headers["x-amz-apigw-id"])


# ---- refusals of the door


@pytest.mark.parametrize(
    ("method", "path"), [("GET", "/track"), ("POST", "/other"), ("POST", "/track/"), ("POST", "/"), ("POST", "")]
)
def test_an_unknown_route_is_a_missing_authentication_token(live: Gateway, method: str, path: str) -> None:
    answer = live.request(method, path)
    assert (answer.status, answer.json) == (403, {"message": "Missing Authentication Token"})
    assert answer.headers["access-control-allow-origin"] == "*"
    assert "x-amzn-requestid" in answer.headers


@pytest.mark.parametrize("stage", ["nosuchapi1/prod", "{api}/dev", "{api}", ""])
def test_an_unknown_stage_is_forbidden(live: Gateway, stage: str) -> None:
    answer = live.request(stage=stage.format(api=live.api) or "/")
    assert (answer.status, answer.json) == (403, {"message": "Forbidden"})
    assert "access-control-allow-origin" not in answer.headers


NOT_EVENTS = {
    "not JSON": b"{a",
    "array": b"[]",
    "NaN": b'{"a": NaN}',
    "two": b"{}{}",
    "deep": b"[" * 100_000,
    "text": b'"a"',
}


@pytest.mark.parametrize("body", NOT_EVENTS.values(), ids=NOT_EVENTS.keys())
def test_a_json_body_that_does_not_fit_the_model_is_refused(live: Gateway, body: bytes) -> None:
    answer = live.request(body=body)
    assert (answer.status, answer.json) == (400, {"message": "Invalid request body"})
    assert answer.headers["access-control-allow-origin"] == "*"
    assert live.firehose.calls == []


@pytest.mark.parametrize(
    ("content_type", "status"),
    [
        ("application/json", 400),
        ("APPLICATION/JSON ; charset=x", 400),
        (None, 400),
        ("text/plain", 202),
        ("text/plain;charset=UTF-8", 202),
        ("application/x-www-form-urlencoded", 415),
        ("application/json2", 415),
    ],
)
def test_the_media_type_alone_chooses_model_and_template(live: Gateway, content_type: str | None, status: int) -> None:
    headers = {"content-type": content_type} if content_type else {}
    answer = live.request(body=b"[1]", headers=headers)
    assert answer.status == status
    assert answer.headers["access-control-allow-origin"] == "*"
    if status == 415:
        assert answer.json == {"message": "Unsupported Media Type"}


@pytest.mark.parametrize("content_type", ["application/json", "text/plain"])
def test_an_empty_body_is_an_empty_object_whatever_its_type(live: Gateway, content_type: str) -> None:
    assert live.request(body=b"", headers={"content-type": content_type}).status == 202
    assert live.firehose.body == "{}"


def test_an_empty_body_does_not_fit_the_model_of_an_array(gateway: Gateway) -> None:
    gateway.deploy(body_with("components", "schemas", "Event", "type", value="array"))
    assert gateway.request(body=b"").status == 400


def test_a_stage_throttles_by_rate_and_burst(gateway: Gateway) -> None:
    settings = {"ResourcePath": "/*", "HttpMethod": "*", "ThrottlingRateLimit": "2", "ThrottlingBurstLimit": "3"}
    gateway.deploy(BODY, MethodSettings=[settings])

    def statuses(count: int) -> list[int]:
        return [gateway.request().status for _ in range(count)]

    assert statuses(4) == [202, 202, 202, 429]
    gateway.now += 0.5
    assert statuses(2) == [202, 429]
    gateway.now += 3600
    assert statuses(4) == [202, 202, 202, 429]
    answer = gateway.request()
    assert answer.json == {"type": "THROTTLED", "m": "Too Many Requests"}
    assert answer.headers["retry-after"] == "1"


def test_each_method_of_a_stage_has_the_limits_for_itself(gateway: Gateway) -> None:
    settings = {"ResourcePath": "/*", "HttpMethod": "*", "ThrottlingRateLimit": "1", "ThrottlingBurstLimit": "1"}
    gateway.deploy(BODY, MethodSettings=[settings])
    assert [gateway.request().status for _ in range(2)] == [202, 429]
    assert [gateway.request("OPTIONS", body=b"").status for _ in range(2)] == [204, 429]


def test_throttling_without_a_status_of_its_own_is_429(gateway: Gateway) -> None:
    settings = {"ResourcePath": "/*", "HttpMethod": "*", "ThrottlingRateLimit": 0, "ThrottlingBurstLimit": 0}
    gateway.deploy(
        body_with("x-amazon-apigateway-gateway-responses", "THROTTLED", value=None), MethodSettings=[settings]
    )
    answer = gateway.request()
    assert (answer.status, answer.json) == (429, {"message": "Too Many Requests"})
    assert answer.headers["access-control-allow-origin"] == "*"


def test_more_than_10_mb_is_too_large(live: Gateway) -> None:
    answer = live.request(body=[b" " * (10 * 1024 * 1024), b" "])
    assert (answer.status, answer.json) == (413, {"message": "Request Too Long"})
    assert "access-control-allow-origin" not in answer.headers  # AWS does not let anybody customise this one


def test_10_mb_are_read(live: Gateway) -> None:
    assert live.request(body=[b"{", b" " * (10 * 1024 * 1024 - 2), b"}"]).status == 202


EVENT = b'{"name":"John"}'
GZIPPED = gzip.compress(EVENT)
PACKED = {"gzip": GZIPPED, "GZIP ": GZIPPED, "deflate": zlib.compress(EVENT), "identity": EVENT}


@pytest.mark.parametrize("content_type", ["application/json", "text/plain"])
@pytest.mark.parametrize("coding", [*PACKED, ""])
def test_a_content_coding_is_unpacked_before_anybody_reads_the_body(
    live: Gateway, coding: str, content_type: str
) -> None:
    headers = {"content-type": content_type, "content-encoding": coding}
    assert live.request(body=PACKED.get(coding, EVENT), headers=headers).status == 202
    assert live.firehose.body == EVENT.decode()


def test_what_is_unpacked_must_fit_the_model(live: Gateway) -> None:
    headers = {"content-type": "application/json", "content-encoding": "gzip"}
    assert live.request(body=gzip.compress(b"[1]"), headers=headers).status == 400


UNPACKABLE = {
    "not packed": ("gzip", EVENT),
    "nothing": ("gzip", b""),
    "cut": ("gzip", GZIPPED[:-1]),
    "a wrong checksum": ("gzip", GZIPPED[:-8] + bytes(8)),
    "something after it": ("gzip", GZIPPED + b"x"),
    "deflate as gzip": ("gzip", zlib.compress(EVENT)),
    "deflate without its header": ("deflate", zlib.compress(EVENT)[2:-4]),
    "another coding": ("br", EVENT),
    "two codings": ("gzip, gzip", gzip.compress(GZIPPED)),
}


@pytest.mark.parametrize(("coding", "body"), UNPACKABLE.values(), ids=UNPACKABLE.keys())
def test_a_coding_that_is_unknown_or_wrong_is_an_unsupported_media_type(
    live: Gateway, coding: str, body: bytes
) -> None:
    answer = live.request(body=body, headers={"content-type": "text/plain", "content-encoding": coding})
    assert (answer.status, answer.json) == (415, {"message": "Unsupported Media Type"})
    assert "access-control-allow-origin" not in answer.headers  # AWS says it may come before the API is known
    assert live.firehose.calls == []


@pytest.mark.parametrize(("coding", "bits"), [("gzip", 31), ("deflate", 15)])
@pytest.mark.parametrize(("size", "status"), [(10_485_760, 202), (10_485_761, 413), (10**8, 413)])
def test_10_mb_are_unpacked_and_a_bomb_takes_no_more_memory_than_that(
    live: Gateway, coding: str, bits: int, size: int, status: int
) -> None:
    packer = zlib.compressobj(wbits=bits)
    parts = [packer.compress(bytes(min(10**6, size - start))) for start in range(0, size, 10**6)]
    body = b"".join([*parts, packer.flush()])
    tracemalloc.start()
    answer = live.request(body=body, headers={"content-type": "text/plain", "content-encoding": coding})
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert answer.status == status
    assert status == 202 or peak < 40_000_000


def test_a_client_that_leaves_in_mid_body_sends_nothing_on(live: Gateway) -> None:
    assert live.request(body=[b'{"a":', None]) is None
    assert live.firehose.calls == []
