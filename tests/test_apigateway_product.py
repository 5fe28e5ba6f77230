"""The API of template.yaml itself, as the local API Gateway runs it: every route, every refusal, keys and limits."""

from __future__ import annotations

import asyncio
import base64
import json
from pathlib import Path
from typing import Any

import pytest

from local import apigateway
from tests.gateway import STACK, Answer, Gateway

PATHS = STACK["Resources"]["IngestApi"]["Properties"]["Body"]["paths"]
ROUTES = {"/track": "POST", "/batch": "POST", "/pixel": "GET"}
KEY = "a-key-of-twenty-letters"


@pytest.fixture
def gateway(tmp_path: Path) -> Gateway:
    gateway = Gateway(tmp_path)
    gateway.deploy_product()
    return gateway


def pixel(gateway: Gateway, query: str | bytes, **request: Any) -> Answer:
    answer = gateway.request("GET", "/pixel", b"", {}, query, **request)
    assert answer is not None
    return answer


# ---- the ways in


@pytest.mark.parametrize(
    ("path", "content_type", "body", "status"),
    [
        ("/track", "application/json", b'{"a": 1}', 202),
        ("/track", "application/json", b"[]", 400),
        ("/track", "application/json", b"{", 400),
        ("/track", "text/plain;charset=UTF-8", b"no JSON", 202),
        ("/track", "text/plain", b"", 400),
        ("/track", "application/x-ndjson", b"{}", 415),
        ("/batch", "application/json", b'[{"a": 1}, 2]', 202),
        ("/batch", "application/json", b"{}", 400),
        ("/batch", "application/x-ndjson", b'{"a":1}\n{"a":2}\n', 202),
        ("/batch", "APPLICATION/X-NDJSON; charset=utf-8", b"not JSON at all", 202),
        ("/batch", "application/x-ndjson", b"", 400),
        ("/batch", "text/plain", b"[]", 415),
        ("/batch", "application/x-www-form-urlencoded", b"a=b", 415),
    ],
)
def test_a_post_is_taken_or_refused_by_its_type_alone(
    gateway: Gateway, path: str, content_type: str, body: bytes, status: int
) -> None:
    answer = gateway.request(path=path, body=body, headers={"content-type": content_type})
    assert answer.status == status
    assert answer.headers["access-control-allow-origin"] == "*"
    if status == 202:
        assert answer.json == {"recordId": "record-1"}
        assert gateway.firehose.body == body.decode()
        assert "form" not in gateway.firehose.context
    else:
        assert gateway.firehose.calls == []
        assert answer.headers["x-amzn-errortype"] == "BadRequestException"


@pytest.mark.parametrize("body", [b"a\0b", bytes(range(256)), b"\xff\xfe{}", b"\r\n\r\n", "\u2028\ufeff".encode()])
def test_any_bytes_are_taken_as_text(gateway: Gateway, body: bytes) -> None:
    assert gateway.request(body=body, headers={"content-type": "text/plain"}).status == 202
    assert gateway.firehose.body == body.decode("utf-8", "replace")


@pytest.mark.parametrize(
    ("query", "body"),
    [
        ("name=John&action=charge", "name=John&action=charge&"),
        ("b=1&a=2&b=3", "b=3&a=2&"),
        ("a=x+y%20z&%C3%A9=%F0%9F%98%80", "a=x+y+z&%C3%A9=%F0%9F%98%80&"),
        ("a=%0Asluice/end%20x&b=%00", "a=%0Asluice%2Fend+x&b=%00&"),
        ("a&b=&=c&&d==e", "a=&b=&=c&d=%3De&"),
        ("a=%ff%zz&%", "a=%EF%BF%BD%25zz&%25=&"),
        (b"a=\xc3\xa9\xff", "a=%C3%A9%EF%BF%BD&"),
        ("a=$util.x('%0A')#set($x=1)#end&keySet=1", "a=%24util.x%28%27%0A%27%29%23set%28%24x%3D1%29%23end&keySet=1&"),
        ("a;b=1", "a%3Bb=1&"),
        ("", ""),
        ("&".join(f"n{number}={number}" for number in range(1000)), None),
    ],
)
def test_a_pixel_is_its_query_string_encoded_again(gateway: Gateway, query: str | bytes, body: str | None) -> None:
    answer = pixel(gateway, query)
    assert (answer.status, answer.body) == (204, b"")
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["access-control-allow-origin"] == "*"
    assert "content-length" not in answer.headers
    assert gateway.firehose.context["form"] == "query"
    assert gateway.firehose.body == (str(query) + "&" if body is None else body)


def test_a_pixel_of_more_than_1000_parameters_is_a_500(gateway: Gateway) -> None:
    assert pixel(gateway, "&".join(f"n{number}" for number in range(1001))).status == 500
    assert gateway.firehose.calls == []


def test_a_pixel_does_not_read_a_body(gateway: Gateway) -> None:
    assert gateway.request("GET", "/pixel", b'{"a":1}', {}, "b=2").status == 204
    assert gateway.firehose.body == "b=2&"


@pytest.mark.parametrize("path", [path for path, methods in PATHS.items() if "options" in methods])
@pytest.mark.parametrize("auth", ["NONE", "API_KEY", "AWS_IAM"])
def test_a_preflight_needs_no_key(tmp_path: Path, path: str, auth: str) -> None:
    gateway = Gateway(tmp_path)
    gateway.deploy_product(ApiAuth=auth, CorsAllowOrigin="https://example.com")
    answer = gateway.request("OPTIONS", path, b"", {"origin": "https://example.com"})
    assert (answer.status, answer.body) == (204, b"")
    assert answer.headers["access-control-allow-origin"] == "https://example.com"
    assert ROUTES[path] in answer.headers["access-control-allow-methods"]


@pytest.mark.parametrize(
    ("answer", "status"),
    [
        ((400, {"message": "1 validation error: must have length less than or equal to 1024000"}), 413),
        ((400, {"message": "Firehose stack not found"}), 503),
        ((400, {"message": "not authorized on arn:aws:firehose:us-east-1:910240001234:deliverystream/s"}), 503),
        ((400, {"message": "Firehose s1024000 under account 910240001234 not found."}), 503),
        ((500, {"__type": "ServiceUnavailableException", "message": "Slow down."}), 503),
        ((503, {"message": "1024000"}), 503),
        ((200, {"RecordId": "r"}), 0),
    ],
)
@pytest.mark.parametrize("path", ROUTES)
def test_what_firehose_answers_is_never_a_2xx_unless_it_took_the_record(
    gateway: Gateway, path: str, answer: Any, status: int
) -> None:
    gateway.firehose.answer = answer
    body = b"[]" if path == "/batch" else b"{}"
    given = pixel(gateway, "a=b") if path == "/pixel" else gateway.request(path=path, body=body)
    assert given.status == (status or (204 if path == "/pixel" else 202))
    assert given.headers["access-control-allow-origin"] == "*"
    if answer[0] >= 500:
        assert given.headers["retry-after"] == "5"


# ---- limits of the door


def test_headers_of_more_than_10240_bytes_are_refused(gateway: Gateway) -> None:
    used = len("content-typeapplication/json") + len("x-filler")
    filler = "x" * (10_240 - used)
    assert gateway.request(headers={"content-type": "application/json", "x-filler": filler}).status == 202
    answer = gateway.request(headers={"content-type": "application/json", "x-filler": filler + "x"})
    assert (answer.status, answer.json) == (431, {"message": "Request Header Fields Too Large"})
    assert answer.headers["connection"] == "close"


@pytest.mark.parametrize(
    ("part", "pause", "status", "message"),
    [(b" " * 1024 * 1024, 0, 413, "Request Too Long"), (b" ", 0.005, 408, "Request Timeout")],
    ids=["oversized", "slow"],
)
def test_a_body_without_end_is_answered_while_it_is_still_being_sent_and_cut_off(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch, part: bytes, pause: float, status: int, message: str
) -> None:
    monkeypatch.setattr(apigateway, "LINGER_SECONDS", 0.02)
    monkeypatch.setattr(apigateway, "BODY_TIMEOUT_SECONDS", 0.02 if pause else 5)
    sent: list[tuple[int, dict[str, Any]]] = []
    received = []

    async def receive() -> dict[str, Any]:
        await asyncio.sleep(pause)
        received.append(len(part))
        return {"type": "http.request", "body": part, "more_body": True}

    async def send(message: dict[str, Any]) -> None:
        sent.append((len(received), message))

    place = f"/_aws/execute-api/{gateway.api}/prod/track"
    scope = {"type": "http", "method": "POST", "path": place, "query_string": b"", "headers": [], "client": None}
    asyncio.run(asyncio.wait_for(gateway.engine.serve(scope, receive, send), 5))

    (_, start), (parts_by_then, body), (_, end) = sent
    assert (start["status"], json.loads(body["body"])) == (status, {"message": message})
    assert (b"connection", b"close") in start["headers"]
    assert end == {"type": "http.response.body"}
    assert status == 408 or parts_by_then == 11


@pytest.mark.parametrize("value", ["é", "\xa0\xff", "\x80"], ids=repr)
@pytest.mark.parametrize("name", ["user-agent", "accept", "content-encoding", "x-api-key", "authorization", "origin"])
def test_a_header_may_hold_any_latin_1(gateway: Gateway, name: str, value: str) -> None:
    assert gateway.request(headers={"content-type": "application/json", name: value}).status == 202
    expected = value if name == "user-agent" else ""
    assert base64.b64decode(gateway.firehose.context["user_agent"]).decode() == expected


# ---- API keys


@pytest.fixture
def keyed(tmp_path: Path) -> Gateway:
    gateway = Gateway(tmp_path)
    gateway.deploy_product(ApiAuth="API_KEY")
    plan = {"id": "plan", "throttle": {"rateLimit": "2", "burstLimit": "3"}, "quota": {}}
    gateway.emulator.plans[KEY, gateway.api, "prod"] = "key", plan
    return gateway


def statuses(gateway: Gateway, count: int, key: str = KEY) -> list[int]:
    return [pixel_with(gateway, key).status for _ in range(count)]


def pixel_with(gateway: Gateway, key: str | None) -> Answer:
    answer = gateway.request("GET", "/pixel", b"", {"x-api-key": key} if key is not None else {})
    assert answer is not None
    return answer


@pytest.mark.parametrize("path", ROUTES)
@pytest.mark.parametrize("key", [None, "", "another-key-of-20-letters", KEY.upper(), KEY + ",x", "é"])
def test_a_request_without_a_key_of_the_stage_is_forbidden(keyed: Gateway, path: str, key: str | None) -> None:
    headers = {"content-type": "application/json"} | ({} if key is None else {"x-api-key": key})
    answer = keyed.request(ROUTES[path], path, b"[" if path == "/batch" else b"{", headers)
    assert (answer.status, answer.json) == (403, {"message": "Forbidden"})
    assert answer.headers["x-amzn-errortype"] == "ForbiddenException"
    assert answer.headers["access-control-allow-origin"] == "*"
    assert keyed.firehose.calls == []


def test_a_key_of_the_stage_lets_a_request_in(keyed: Gateway) -> None:
    assert keyed.request(headers={"X-API-Key": KEY}).status == 202


def test_the_plan_throttles_each_key_besides_the_stage(keyed: Gateway) -> None:
    other = "another-key-of-20-letters"
    keyed.emulator.plans[other, keyed.api, "prod"] = "other", keyed.emulator.plans[KEY, keyed.api, "prod"][1]
    assert statuses(keyed, 4) == [204, 204, 204, 429]
    assert statuses(keyed, 1, other) == [204]
    keyed.now += 0.5
    assert statuses(keyed, 2) == [204, 429]
    answer = pixel_with(keyed, KEY)
    assert answer.json == {"message": "Too Many Requests"}
    assert answer.headers["retry-after"] == "1"
    assert answer.headers["x-amzn-errortype"] == "TooManyRequestsException"


def test_a_changed_throttle_counts_at_once(keyed: Gateway) -> None:
    assert statuses(keyed, 4)[-1] == 429
    keyed.emulator.plans[KEY, keyed.api, "prod"][1]["throttle"] = {"rateLimit": 2, "burstLimit": 5}
    assert statuses(keyed, 6) == [204] * 5 + [429]


@pytest.mark.parametrize(("period", "seconds"), [("DAY", 86_400), ("WEEK", 7 * 86_400), ("MONTH", 31 * 86_400)])
def test_the_quota_of_a_plan_ends_with_its_period(keyed: Gateway, period: str, seconds: int) -> None:
    plan = {"id": "plan", "throttle": {}, "quota": {"limit": "2", "period": period}}
    keyed.emulator.plans[KEY, keyed.api, "prod"] = "key", plan
    assert statuses(keyed, 3) == [204, 204, 429]
    answer = pixel_with(keyed, KEY)
    assert answer.json == {"message": "Limit Exceeded"}
    assert answer.headers["x-amzn-errortype"] == "LimitExceededException"
    keyed.now += seconds
    assert statuses(keyed, 3) == [204, 204, 429]


def test_the_stage_throttles_keys_too(tmp_path: Path) -> None:
    gateway = Gateway(tmp_path)
    gateway.deploy_product(ApiAuth="API_KEY", ThrottleRateLimit="1", ThrottleBurstLimit="1")
    gateway.emulator.plans[KEY, gateway.api, "prod"] = "key", {"id": "plan", "throttle": {}, "quota": {}}
    assert statuses(gateway, 2) == [204, 429]


def test_who_has_no_key_does_not_use_up_the_stage(tmp_path: Path) -> None:
    gateway = Gateway(tmp_path)
    gateway.deploy_product(ApiAuth="API_KEY", ThrottleRateLimit="1", ThrottleBurstLimit="1")
    assert [pixel_with(gateway, "none").status for _ in range(3)] == [403] * 3


@pytest.mark.parametrize(
    ("kind", "properties", "name"),
    [
        ("ApiKey", {"StageKeys": []}, "StageKeys"),
        ("ApiKey", {"GenerateDistinctId": True}, "GenerateDistinctId"),
        ("UsagePlan", {"Throttle": {"RateLimit": 1, "Bursts": 1}}, "Bursts"),
        ("UsagePlan", {"Quota": {"Limit": 1, "Period": "DAY", "Offset": 1}}, "Offset"),
        ("UsagePlan", {"Quota": {"Limit": 1, "Period": "YEAR"}}, "YEAR"),
        ("UsagePlan", {"Quota": {"Limit": 1}}, "None"),
        ("UsagePlan", {"ApiStages": [{"ApiId": "x", "Stage": "prod", "Throttle": {}}]}, "Throttle"),
        ("UsagePlan", {"ApiStages": [{"ApiId": "x", "Stage": "prod"}]}, "API Stage not found: x:prod"),
    ],
)
def test_what_a_plan_or_key_does_not_do_here_is_refused_by_name(
    keyed: Gateway, kind: str, properties: dict[str, Any], name: str
) -> None:
    with pytest.raises(ValueError, match=name):
        keyed.emulator.checks[kind](properties)


def test_the_plan_of_the_template_passes(keyed: Gateway) -> None:
    keyed.emulator.checks["UsagePlan"]({"ApiStages": [{"ApiId": keyed.api, "Stage": "prod"}], "Throttle": {}})
