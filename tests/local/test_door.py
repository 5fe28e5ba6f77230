"""The local AWS lets in programs of this machine, and pages at the API alone."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from local.door import refusal, refuse

API = "/_aws/execute-api/0123456789/prod/track"
CHROME = "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/156.0.0.0 Safari/537.36"
BOTO3 = "Boto3/1.43.106 md/Botocore#1.43.106 ua/2.1 os/linux#6.1 md/arch#x86_64 lang/python#3.11"


def asked(path: str = "/", host: str | None = "127.0.0.1:4566", **headers: str) -> str | None:
    """Why a request with these headers is refused."""
    pairs = [(name.replace("_", "-").encode(), value.encode("latin-1")) for name, value in headers.items()]
    named = [(b"host", host.encode("latin-1"))] if host is not None else []
    return refusal({"type": "http", "method": "POST", "path": path, "query_string": b"", "headers": [*named, *pairs]})


@pytest.mark.parametrize("host", ["127.0.0.1:4566", "127.0.0.1", "localhost:4566", "LOCALHOST", "[::1]:4566"])
def test_programs_that_name_this_machine_are_let_in(host: str) -> None:
    for path in ("/", "/bucket/key", "/2015-03-31/functions", API):
        assert asked(path, host) is None
        assert asked(path, host, user_agent=BOTO3) is None


FOREIGN = {
    "rebound name": "evil.test:4566",
    "name that begins like ours": "localhost.evil.test:4566",
    "name that begins like our address": "127.0.0.1.evil.test",
    "name that ends like ours": "evil-localhost:4566",
    "function URL": "0123456789abcdef0123456789abcdef.lambda-url.us-east-1.localhost:4566",
    "virtual-hosted bucket": "bucket.s3.localhost:4566",
    "MiniStack's API": "01234567.execute-api.127.0.0.1:4566",
    "address of every network": "0.0.0.0:4566",
    "another loopback address": "127.0.0.2:4566",
    "user in front": "127.0.0.1@evil.test",
    "second line": "127.0.0.1\n.evil.test",
    "port that is not one": "localhost:evil",
    "empty": "",
    "none": None,
}


@pytest.mark.parametrize("host", FOREIGN.values(), ids=FOREIGN.keys())
@pytest.mark.parametrize("path", ["/", API, "/_ministack/reset"])
def test_a_foreign_host_is_refused_by_name(path: str, host: str | None) -> None:
    reason = asked(path, host)
    assert reason == f"the local AWS does not answer to the host '{host or ''}': call it 127.0.0.1 or localhost"


def test_two_hosts_are_none_that_can_be_trusted() -> None:
    headers = [(b"host", b"evil.test"), (b"host", b"127.0.0.1")]
    assert "evil.test, 127.0.0.1" in str(refusal({"type": "http", "path": API, "headers": headers}))


BROWSERS = {
    "page": {"origin": "https://evil.test"},
    "sandboxed page or file": {"origin": "null"},
    "page of this machine": {"origin": "http://127.0.0.1:8000"},
    "page of our own port": {"origin": "http://127.0.0.1:4566"},
    "extension": {"origin": "chrome-extension://abcdefghijklmnop"},
    "image of another site": {"sec_fetch_site": "cross-site"},
    "image of another port": {"sec_fetch_site": "same-site"},
    "image of our own port": {"sec_fetch_site": "same-origin"},
    "typed or clicked outside": {"sec_fetch_site": "none"},
    "image in an old browser": {"user_agent": CHROME},
    "all of it": {"origin": "https://evil.test", "sec_fetch_site": "cross-site", "user_agent": CHROME},
}
CLOSED = {
    "form or JSON": "/",
    "S3": "/bucket/key",
    "Lambda": "/2015-03-31/functions/f/invocations",
    "function URL": "/_aws/lambda-url/0123456789abcdef0123456789abcdef/",
    "SQS": "/000000000000/queue",
    "registry": "/v2/",
    "MiniStack's API": "/restapis/01234567/prod/_user_request_/",
    "reset": "/_ministack/reset",
    "almost the API": "/_aws/execute-api",
    "the API by another way": "//_aws/execute-api/0123456789/prod/track",
}


@pytest.mark.parametrize("headers", BROWSERS.values(), ids=BROWSERS.keys())
@pytest.mark.parametrize("path", CLOSED.values(), ids=CLOSED.keys())
def test_browsers_are_refused_except_at_the_api(path: str, headers: dict[str, str]) -> None:
    assert asked(path, **headers) == "browsers may call nothing of the local AWS except APIs, under /_aws/execute-api/"
    assert asked(API, **headers) is None


@pytest.mark.parametrize(
    "path", ["/_ministack/reset", "/_ministack/health", "/_localstack/health", "/health", "/_aws/lambda-url/x/", "/_\n"]
)
def test_ministacks_own_paths_are_closed_to_everybody(path: str) -> None:
    assert asked(path, user_agent=BOTO3) == f"{path} is not implemented by the local AWS"


def test_a_refusal_is_json_that_no_page_may_read() -> None:
    sent: list[dict[str, Any]] = []

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    asyncio.run(refuse("no", send))
    start, body = sent
    assert start["status"] == 403
    assert {name for name, _ in start["headers"]} == {b"content-type", b"content-length"}
    assert json.loads(body["body"]) == {"__type": "AccessDeniedException", "message": "no"}
