"""Arbitrary bytes through every route of template.yaml: always a documented answer, and a record only with a 2xx.

The table of answers in docs/reference.md documents status, body, and whether a page of another origin can read it.
"""

from __future__ import annotations

import base64
import gzip
import http.client
import json
import re
import socket
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from local.apigateway import java
from local.apigateway.openapi import EARLY_RESPONSES, GATEWAY_RESPONSES, GatewayError
from local.ministack import Emulator
from tests.conftest import ROOT
from tests.gateway import Answer, Gateway
from tests.local_process import LocalProcess, eventually

KEY = "a-key-of-twenty-letters"
# A row of that table: its status, its bodies in code (... is any text), and all of its line.
ROW = re.compile(r"^\| (\d{3}) \| (.*?) \| .*$", re.MULTILINE)
LARGEST = "Member must have length less than or equal to 1024000"
BROKEN_HTTP = "Invalid HTTP request received."
# Longer than the server waits for the rest of a request.
HANG_SECONDS = 60
Pairs = list[tuple[bytes, bytes]]

hostile = st.sampled_from(
    [b"$input.body", b"#set($a=1)", b"${x}", b"\r\n", b"\0", b"\xff", b"%0A", b"%", b"'", b'"', b"sluice/end ", b" ="]
)
anything = st.lists(hostile | st.binary(max_size=20), max_size=8).map(b"".join)
json_text = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
).map(lambda value: json.dumps(value, ensure_ascii=False).encode("utf-8", "surrogatepass"))
plain_bodies = anything | json_text | st.tuples(json_text, anything).map(b"".join)
bodies = plain_bodies | plain_bodies.map(gzip.compress) | plain_bodies.map(zlib.compress)
media_types = st.sampled_from(
    [b"application/json", b"text/plain;charset=UTF-8", b"application/x-ndjson", b"application/json;", b"*/*", b";", b""]
)
names = st.sampled_from(
    [b"user-agent", b"accept", b"x-api-key", b"x-amzn-requestid", b"content-length", b"authorization", b"x-amz-date"]
)
signatures = anything.map(lambda text: b"AWS4-HMAC-SHA256 Credential=test/20261121/us-east-1/execute-api/x, " + text)
headers = st.lists(
    st.tuples(st.just(b"content-type"), media_types | anything)
    | st.tuples(names, anything)
    | st.tuples(st.just(b"authorization"), signatures)
    | st.just((b"x-api-key", KEY.encode()))
    | st.tuples(st.just(b"content-encoding"), st.sampled_from([b"gzip", b"deflate", b"identity", b"br", b""]))
    | st.tuples(anything, anything),
    max_size=6,
)
queries = anything | st.lists(st.tuples(st.text(max_size=8), st.text(max_size=8)), max_size=8).map(
    lambda pairs: urlencode(pairs, errors="replace").encode()
)
paths = st.sampled_from(["/track", "/batch", "/pixel"]) | st.text().map(lambda text: "/" + text)
methods = st.sampled_from(["POST", "GET", "OPTIONS", "HEAD", "PUT", "DELETE", "get", "\xe9"])


@pytest.fixture(scope="module")
def gateways(tmp_path_factory: pytest.TempPathFactory, emulator: Emulator) -> dict[str, Gateway]:
    """The API, by its setting of ApiAuth."""
    found = {}
    for auth in ("NONE", "API_KEY", "AWS_IAM"):
        gateway = found[auth] = Gateway(Path(tmp_path_factory.mktemp(auth)))
        gateway.deploy_product(ApiAuth=auth, ThrottleRateLimit="10000", ThrottleBurstLimit="5000")
        gateway.emulator.plans[KEY, gateway.api, "prod"] = "key", {"id": "plan", "throttle": {}}
        gateway.emulator.authorize_request = emulator.authorize_request
    return found


def documented_answers() -> list[tuple[int, re.Pattern[str], bool]]:
    """The rows of that table: status, pattern of the body without its spaces, and whether it has CORS headers."""
    text = (ROOT / "docs/reference.md").read_text()
    table = text[text.index("\n## Answers\n") : text.index("All other answers carry")]
    found = []
    for row in ROW.finditer(table):
        bodies = [re.escape(body.replace(" ", "")).replace(r"\.\.\.", ".*") for body in re.findall("`(.+?)`", row[2])]
        found.append((int(row[1]), re.compile("|".join(bodies)), "**without** CORS" not in row[0]))
    return found


ANSWERS = documented_answers()


def document(status: int, body: str, headers: Mapping[str, str], method: str = "POST") -> set[int]:
    """The numbers of the matching answers in the table; AssertionError if there are none."""
    bare = body.replace(" ", "").replace("\n", "")
    found = {
        number
        for number, (known_status, known_body, is_readable) in enumerate(ANSWERS)
        if known_status == status
        and (known_body.fullmatch(bare) or method == "HEAD")
        and (headers.get("access-control-allow-origin") == "*" or not is_readable)
    }
    assert found, f"the reference's table of answers has no {status} with {body!r} and the headers {headers}"
    return found


def check(gateway: Gateway, method: str, path: str, query: bytes, given: Pairs, body: list[bytes]) -> Answer:
    """Send any request, and check its answer and its record; returns the answer."""
    gateway.now += 1
    gateway.firehose.calls.clear()
    answer = gateway.request(method, path, list(body), given, query)
    assert answer is not None
    for name, value in answer.headers.items():
        assert name == name.lower() and not set("\r\n\0") & set(name + value)
    document(answer.status, answer.body.decode(), answer.headers, method)
    # The table's two ways to a 500.
    pairs = parse_qsl(query.decode("utf-8", "replace").replace(";", "&"), keep_blank_values=True)
    assert answer.status != 500 or method == "OPTIONS" or (method == "GET" and len(pairs) > 1000)
    if answer.status not in (202, 204) or method == "OPTIONS":
        assert gateway.firehose.calls == []
        return answer
    coding = {name.lower(): value for name, value in given}.get(b"content-encoding", b"")
    unpack = {b"gzip": gzip.decompress, b"deflate": zlib.decompress}.get(coding.strip().lower(), bytes)
    whole, agents = java.decode(unpack(b"".join(body))), [value for name, value in given if name == b"user-agent"]
    context = gateway.firehose.context
    expected = ["request_id", "extended_request_id", "time", "ip", "user_agent"]
    assert list(context) == expected + ["form"] * (path == "/pixel")
    recorded = base64.b64decode(context["user_agent"]).decode()
    assert recorded == (agents[-1].decode("latin-1") if agents else "")
    if path == "/pixel":
        assert parse_qsl(gateway.firehose.body, keep_blank_values=True) == list(dict(pairs).items())
    else:
        assert gateway.firehose.body == (whole or "{}")
    return answer


@pytest.mark.parametrize("auth", ["NONE", "API_KEY", "AWS_IAM"])
@given(method=methods, path=paths, query=queries, given_headers=headers, body=st.lists(bodies, min_size=1, max_size=3))
@settings(max_examples=400, deadline=2_000, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_comes_gets_a_documented_answer(
    gateways: dict[str, Gateway],
    auth: str,
    method: str,
    path: str,
    query: bytes,
    given_headers: Pairs,
    body: list[bytes],
) -> None:
    check(gateways[auth], method, path, query, given_headers, body)


@given(body=plain_bodies, media_type=media_types, path=st.sampled_from(["/track", "/batch"]))
@settings(max_examples=300, deadline=2_000)
def test_json_passes_by_its_type_and_nothing_else(
    gateways: dict[str, Gateway], body: bytes, media_type: bytes, path: str
) -> None:
    answer = check(gateways["NONE"], "POST", path, b"", [(b"content-type", media_type)], [body])
    if media_type.startswith((b"application/json", b";")) or not media_type:
        assert answer.status == (202 if is_json(body, dict if path == "/track" else list) else 400)
    elif media_type.startswith(b"text/plain") or (path == "/batch" and media_type == b"application/x-ndjson"):
        assert answer.status == 202
    else:
        assert answer.status in (400, 415)


def is_json(body: bytes, kind: type) -> bool:
    def refuse(constant: str) -> None:
        raise ValueError(constant)

    try:
        return isinstance(json.loads(body.decode("utf-8", "replace") or "{}", parse_constant=refuse), kind)
    except ValueError:
        return False


# Requests with a former fault, and requests that fuzzing hardly reaches.
CASES: dict[str, tuple[str, Callable[[Gateway], tuple[Any, ...]], int]] = {
    "a signature that is not ASCII": (
        "AWS_IAM",
        lambda _: ("POST", "/track", b"", [(b"authorization", b"AWS4-HMAC-SHA256 Credential=\xe9")], [b"{}"]),
        403,
    ),
    "a credential of slashes": (
        "AWS_IAM",
        lambda _: (
            *("POST", "/track", b""),
            [
                (b"authorization", b"AWS4-HMAC-SHA256 Credential=////, SignedHeaders=host, Signature=0"),
                (b"x-amz-date", b"20261121T000000Z"),
            ],
            [b"{}"],
        ),
        403,
    ),
    "a credential of nobody": (
        "AWS_IAM",
        lambda _: (
            *("POST", "/track", b""),
            [
                (
                    b"authorization",
                    b"AWS4-HMAC-SHA256 Credential=/0/us-east-1/execute-api/x, SignedHeaders=host, Signature=0",
                ),
                (b"x-amz-date", b"\xe9"),
            ],
            [b"{}"],
        ),
        403,
    ),
    "deep JSON": ("NONE", lambda _: ("POST", "/batch", b"", [], [b"[" * 100_000]), 400),
    "a number of many digits": ("NONE", lambda _: ("POST", "/batch", b"", [], [b"[" + b"9" * 10_000 + b"]"]), 202),
    "a number with an exponent": ("NONE", lambda _: ("POST", "/batch", b"", [], [b"[1e99999]"]), 202),
    "half a surrogate pair": ("NONE", lambda _: ("POST", "/track", b"", [], [rb'{"\ud800": "\udfff"}']), 202),
    "a byte order mark": ("NONE", lambda _: ("POST", "/track", b"", [], ["\ufeff{}".encode()]), 400),
    "pairs without end": ("NONE", lambda _: ("GET", "/pixel", b"&" * 60_000, [], [b""]), 204),
    "names without end": ("NONE", lambda _: ("GET", "/pixel", b"a&" * 30_000, [], [b""]), 204),
    "percent signs without end": ("NONE", lambda _: ("GET", "/pixel", b"a=" + b"%" * 60_000, [], [b""]), 204),
    "a user agent of 10,000 bytes": (
        "NONE",
        lambda _: ("GET", "/track", b"", [(b"user-agent", b"\xff" * 10_000)], [b""]),
        403,
    ),
    "two content types": (
        "NONE",
        lambda _: ("POST", "/track", b"", [(b"content-type", b"a/b"), (b"content-type", b"text/plain")], [b"x"]),
        202,
    ),
}


@pytest.mark.parametrize(("auth", "request_of", "status"), CASES.values(), ids=CASES.keys())
def test_a_request_worth_keeping(
    gateways: dict[str, Gateway], auth: str, request_of: Callable[[Gateway], tuple[Any, ...]], status: int
) -> None:
    assert check(gateways[auth], *request_of(gateways[auth])).status == status


def test_the_table_of_answers_has_every_answer_of_the_api_and_no_other(gateways: dict[str, Gateway]) -> None:
    gateway = gateways["NONE"]
    seen = document(400, BROKEN_HTTP, {})
    for firehose_answer in ((400, {"message": LARGEST}), (400, {}), (500, {}), (200, {"RecordId": "r"})):
        gateway.firehose.answer = firehose_answer
        posts = [("POST", path, body) for path, body in (("/track", b"{}"), ("/v1/track", b"{}"), ("/batch", b"[]"))]
        for method, path, body in [*posts, ("GET", "/pixel", b"")]:
            answer = gateway.request(method, path, body)
            assert answer is not None
            seen |= document(answer.status, answer.body.decode(), answer.headers)
    (stage,) = gateway.engine.live.values()
    for response_type in {**GATEWAY_RESPONSES, **EARLY_RESPONSES}:
        error, context = GatewayError(response_type), {"requestId": "", "extendedRequestId": ""}
        response = stage.definition.respond(error, context)
        seen |= document(response.status, response.body, response.headers)
    assert [answer for number, answer in enumerate(ANSWERS) if number not in seen] == []


# ---- over a socket, through the server as it runs


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A local AWS with the product on it, delivering events at once."""
    with LocalProcess(tmp_path_factory.mktemp("local")) as local_aws:
        at_once = ("OutputFormat=JSON", "FirehoseBufferingInterval=0", "FirehoseBufferingSize=1")
        yield Running(local_aws, local_aws.deploy(*at_once, "ThrottleRateLimit=10000", "ThrottleBurstLimit=5000"))


class Running:
    """The running product, and requests to it over connections of their own."""

    def __init__(self, local_aws: LocalProcess, outputs: dict[str, str]) -> None:
        self.local_aws, self.bucket = local_aws, local_aws.bucket(outputs["BucketName"])
        self.stage = urlsplit(outputs["TrackURL"]).path.removesuffix("/track").encode()

    def send(self, method: bytes, path: bytes, headers: Pairs, body: bytes = b"") -> int:
        """Send a request, and check that its answer is documented; returns the status."""
        length = [(b"host", b"127.0.0.1"), (b"content-length", b"%d" % len(body))]
        lines = [b"%b %b HTTP/1.1" % (method, path), *(b"%b: %b" % pair for pair in [*length, *headers]), b"", body]
        with socket.create_connection(("127.0.0.1", self.local_aws.port), timeout=HANG_SECONDS) as connection:
            connection.sendall(b"\r\n".join(lines))
            answer = http.client.HTTPResponse(connection, method=method.decode("latin-1"))
            answer.begin()
            content = answer.read()
        document(answer.status, content.decode(), answer.headers, method.decode("latin-1"))
        assert answer.status != 500 or method == b"OPTIONS"
        return answer.status

    def check_log(self) -> None:
        log = (self.local_aws.directory / "server.log").read_text()
        assert "Traceback" not in log and "Exception" not in log, log


HANDSHAKE = [
    *[(b"connection", b"Upgrade"), (b"upgrade", b"websocket"), (b"sec-websocket-version", b"13")],
    (b"sec-websocket-key", b"dGhlIHNhbXBsZSBub25jZQ=="),
]
FORWARDED = [(b"x-forwarded-for", b"8.8.8.8"), (b"forwarded", b"for=8.8.8.8"), (b"x-real-ip", b"8.8.8.8")]


@pytest.mark.slow
@given(
    method=methods.map(str.encode) | anything,
    path=st.sampled_from([b"/track", b"/batch", b"/pixel"]) | anything.map(lambda text: b"/" + text),
    query=queries,
    given_headers=headers | st.sampled_from([HANDSHAKE, FORWARDED]) | st.lists(st.tuples(names, anything)),
    body=bodies,
)
@settings(max_examples=400)
def test_whatever_comes_over_a_socket_gets_a_documented_answer(
    running: Running, method: bytes, path: bytes, query: bytes, given_headers: Pairs, body: bytes
) -> None:
    running.send(method, running.stage + path + b"?" + query, given_headers, body)
    running.check_log()


@pytest.mark.slow
@pytest.mark.parametrize("sent", [b"\x16\x03\x01\x02\x00\x01", b"PRI * HTTP/2.0\r\n\r\nSM", b"\0" * 10_000])
def test_bytes_that_are_not_http_get_an_answer_or_none(running: Running, sent: bytes) -> None:
    with socket.create_connection(("127.0.0.1", running.local_aws.port), timeout=HANG_SECONDS) as connection:
        connection.sendall(sent)
        connection.shutdown(socket.SHUT_WR)
        assert connection.recv(10) in (b"", b"HTTP/1.1 4")
    running.check_log()


@pytest.mark.slow
@pytest.mark.parametrize("path", [b"/track", b"/elsewhere"])
def test_a_websocket_is_a_request_like_any_other(running: Running, path: bytes) -> None:
    assert running.send(b"GET", running.stage + path, HANDSHAKE) == 403
    running.check_log()


@pytest.mark.slow
@pytest.mark.parametrize("forged", [b"8.8.8.8", b"8.8.8.8 user_agent=Zm9v event_id=forged", b"\xff\t", b""])
def test_nothing_that_a_client_says_is_its_address(running: Running, forged: bytes) -> None:
    given_headers = [(name, forged) for name in (b"x-forwarded-for", b"x-real-ip", b"forwarded", b"x-forwarded-proto")]
    event_id = f"forged-{forged.hex()}"
    body = json.dumps({"event_id": event_id}).encode()
    assert running.send(b"POST", running.stage + b"/track", given_headers, body) == 202

    def look() -> Any:
        rows = [row for row in running.bucket.documents("events/") if row["event_id"] == event_id]
        return rows or running.bucket.failed_records()

    (row,) = eventually(look)
    assert row["ip"] == "127.0.0.0"
    # Neither this record nor an earlier one.
    assert running.bucket.failed_records() == []
