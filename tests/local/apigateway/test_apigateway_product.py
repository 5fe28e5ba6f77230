"""The API of template.yaml itself, as the local API Gateway runs it: every route, every refusal, keys and limits."""

from __future__ import annotations

import asyncio
import base64
import json
from pathlib import Path
from typing import Any

import pytest

from local.apigateway import service as apigateway
from tests.gateway import STACK, Answer, Gateway

PATHS = STACK["Resources"]["IngestApi"]["Properties"]["Body"]["paths"]
ROUTES = {"/track": "POST", "/batch": "POST", "/pixel": "GET", "/v1/track": "POST"}
TAKEN = {"/pixel": 204, "/v1/track": 200}
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
        ("/track", "text/plain", b"", 202),
        ("/track", "application/json", b"", 202),
        ("/track", "application/x-ndjson", b"{}", 415),
        ("/batch", "application/json", b'[{"a": 1}, 2]', 202),
        ("/batch", "application/json", b"{}", 400),
        ("/batch", "application/x-ndjson", b'{"a":1}\n{"a":2}\n', 202),
        ("/batch", "APPLICATION/X-NDJSON; charset=utf-8", b"not JSON at all", 202),
        ("/batch", "application/x-ndjson", b"", 202),
        ("/batch", "application/json", b"", 400),
        ("/batch", "text/plain;charset=UTF-8", b"[1]", 202),
        ("/batch", "text/plain", b'{"a":1}\n{"a":2}', 202),
        ("/batch", "text/plain", b"", 202),
        ("/batch", "application/x-www-form-urlencoded", b"a=b", 415),
        ("/track", "application/cloudevents+json", b"[]", 400),
        ("/track", "application/cloudevents-batch+json", b"[]", 415),
        ("/batch", "application/cloudevents-batch+json", b"{}", 400),
        ("/v1/track", "application/json", b"[]", 400),
        ("/v1/track", "application/x-ndjson", b"{}", 415),
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
        assert gateway.firehose.body == (body.decode() or "{}")
        assert "form" not in gateway.firehose.context
    else:
        assert gateway.firehose.calls == []
        assert answer.headers["x-amzn-errortype"] == "BadRequestException"


@pytest.mark.parametrize(
    ("path", "content_type", "form"),
    [
        *(
            (f"/v1/{name}", "application/json", f"v1/{name}")
            for name in ("track", "page", "screen", "identify", "group")
        ),
        *((f"/v1/{name[0]}", "text/plain", f"v1/{name}") for name in ("track", "page", "screen", "identify", "group")),
        ("/v1/alias", "application/json", "v1/alias"),
        ("/v1/a", "text/plain;charset=UTF-8", "v1/alias"),
        *((f"/v1/{name}", "application/json", "v1/batch") for name in ("batch", "b", "import")),
        ("/v1/m", "text/plain", "v1/metrics"),
        ("/v1/batch", "application/x-www-form-urlencoded", "v1/batch"),
        *(
            (f"/v1/{name}", "application/json", "v1/other")
            for name in ("Track", "x form=query", "a\nb", "$x", "metrics")
        ),
        ("/track", "application/cloudevents+json", "cloudevents"),
        ("/batch", "application/cloudevents-batch+json", "cloudevents"),
    ],
)
def test_the_context_line_names_the_envelope_in_a_word_of_ours(
    gateway: Gateway, path: str, content_type: str, form: str
) -> None:
    body = b"[]" if path == "/batch" else b'{"a":1}'
    answer = gateway.request(path=path, body=body, headers={"content-type": content_type})
    taken = (200, {"success": True}) if path.startswith("/v1/") else (202, {"recordId": "record-1"})
    assert (answer.status, answer.json) == taken
    assert gateway.firehose.context["form"] == form
    assert gateway.firehose.body == body.decode()
    assert answer.headers["access-control-allow-origin"] == "*"


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
        ("a;b=1;c=%3B%7C", "a=&b=1&c=%3B%7C&"),
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


@pytest.mark.parametrize("path", ROUTES)
def test_a_query_string_with_a_raw_pipe_is_refused(gateway: Gateway, path: str) -> None:
    answer = gateway.request(ROUTES[path], path, b"[]" if path == "/batch" else b"{}", {}, "a=b|c")
    assert (answer.status, answer.json) == (400, {"message": "Bad Request"})
    assert gateway.firehose.calls == []


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
    answer = gateway.request("OPTIONS", path.replace("{type}", "track"), b"", {"origin": "https://example.com"})
    assert (answer.status, answer.body) == (204, b"")
    assert answer.headers["access-control-allow-origin"] == "https://example.com"
    allowed = answer.headers["access-control-allow-methods"].split(",")
    assert allowed == [method.upper() for method in PATHS[path]], f"edit the methods that OPTIONS {path} allows"


SHOP, BLOG = "https://shop.example.com", "http://blog.example.com:8080"
CORS_HEADERS = ("access-control-allow-origin", "access-control-allow-credentials", "vary")
FIREHOSE_ANSWERS = {
    "taken": (200, {"RecordId": "r"}),
    "too large": (400, {"message": "must have length less than or equal to 1024000"}),
    "our fault": (400, {"message": "Access denied"}),
    "slow down": (500, {}),
}


def cors(answer: Answer | None) -> tuple[str | None, ...]:
    assert answer is not None
    return tuple(answer.headers.get(name) for name in CORS_HEADERS)


@pytest.mark.parametrize(
    ("allowed", "origin", "expected"),
    [
        ("*", SHOP, ("*", None, None)),
        ("*", "any", ("any", "true", "Origin")),  # no page is of this origin
        ("*", None, ("*", None, None)),
        (SHOP, SHOP, (SHOP, "true", "Origin")),
        (f"{SHOP},{BLOG}", SHOP, (SHOP, "true", "Origin")),
        (f"{SHOP},{BLOG}", BLOG, (BLOG, "true", "Origin")),
        (f"{SHOP},{BLOG}", None, (SHOP, None, None)),
        (f"{SHOP},{BLOG}", "null", (SHOP, None, None)),
        (f"{SHOP},{BLOG}", "http://blog.example.com:808", (SHOP, None, None)),
        (f"{SHOP},{BLOG}", "shop.example.com", (SHOP, None, None)),
        (f"{SHOP},{BLOG}", f"{BLOG}.example.org", (SHOP, None, None)),
        (f"{SHOP},{BLOG}", ",", (SHOP, None, None)),
    ],
)
def test_a_page_of_an_allowed_origin_may_read_every_answer_and_send_credentials(
    tmp_path: Path, allowed: str, origin: str | None, expected: tuple[str | None, ...]
) -> None:
    gateway = Gateway(tmp_path)
    gateway.deploy_product(CorsAllowOrigin=allowed, ThrottleRateLimit="10000", ThrottleBurstLimit="5000")
    headers = {} if origin is None else {"origin": origin}
    for path, method in ROUTES.items():
        if path != "/pixel":
            assert cors(gateway.request("OPTIONS", path, b"", headers)) == expected
        for name, gateway.firehose.answer in FIREHOSE_ANSWERS.items():
            answer = gateway.request(method, path, b"[]" if path == "/batch" else b"{}", headers)
            assert cors(answer) == expected, f"{method} {path}, {name}"


@pytest.mark.parametrize(
    ("allowed", "expected"), [("*", ("*", None, None)), (f"{SHOP},{BLOG}", (SHOP, "true", None))], ids=["all", "two"]
)
def test_only_pages_of_the_first_origin_can_read_what_the_door_refuses(
    tmp_path: Path, allowed: str, expected: tuple[str | None, ...]
) -> None:
    gateway = Gateway(tmp_path)
    gateway.deploy_product(CorsAllowOrigin=allowed, ThrottleRateLimit="1", ThrottleBurstLimit="3")
    statuses = []
    for headers in ({}, {"content-type": "a/b"}, {"content-type": "text/plain"}, {}):
        answer = gateway.request(body=b"[]", headers={**headers, "origin": BLOG})
        assert answer is not None
        statuses.append(answer.status)
        if answer.status != 202:
            assert cors(answer) == expected, answer
    assert statuses == [400, 415, 202, 429]
    gateway.engine.integrations["firehose"] = fail
    gateway.now += 10
    failed = gateway.request(headers={"content-type": "text/plain", "origin": BLOG})
    assert failed is not None
    assert (failed.status, *cors(failed)) == (504, *expected)


async def fail(*_: Any) -> Any:
    raise OSError("no network")


def test_a_page_may_send_what_we_read_and_what_scripts_for_tracing_add(gateway: Gateway) -> None:
    answer = gateway.request("OPTIONS", "/track", b"", {"origin": SHOP})
    assert answer is not None
    allowed = {name.lower() for name in answer.headers["access-control-allow-headers"].split(",")}
    assert {"content-type", "content-encoding", "x-api-key", "authorization", "x-amz-date"} <= allowed
    assert {"traceparent", "tracestate", "baggage", "sentry-trace", "x-requested-with"} <= allowed


def test_a_page_may_send_what_libraries_add_to_first_tries_and_to_retries(gateway: Gateway) -> None:
    answer = gateway.request("OPTIONS", "/v1/t", b"", {"origin": SHOP})
    assert answer is not None
    allowed = {name.strip().lower() for name in answer.headers["access-control-allow-headers"].split(",")}
    assert {"authorization", "x-retry-count"} <= allowed  # Segment
    assert {"authorization", "anonymousid", "sentat"} <= allowed  # RudderStack
    assert "*" in allowed  # RudderStack's retries, and what later versions add, where a page sends no credentials


def test_every_declared_answer_says_that_a_page_may_read_it() -> None:
    for path, methods in PATHS.items():
        for method, operation in methods.items():
            for status, response in operation["responses"].items():
                assert "Access-Control-Allow-Origin" in response.get("headers", {}), f"{method} {path} {status}"


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
    assert given.status == (status or TAKEN.get(path, 202))
    assert given.headers["access-control-allow-origin"] == "*"
    assert given.headers.get("retry-after") == ("5" if given.status == 503 else None)


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
    answer = gateway.request(headers={"content-type": "application/json", name: value})
    assert answer.status == (415 if name == "content-encoding" else 202)
    if answer.status == 415:
        return
    expected = value if name == "user-agent" else ""
    assert base64.b64decode(gateway.firehose.context["user_agent"]).decode() == expected


# ---- API keys


@pytest.fixture
def keyed(tmp_path: Path) -> Gateway:
    gateway = Gateway(tmp_path)
    gateway.deploy_product(ApiAuth="API_KEY")
    plan = {"id": "plan", "throttle": {"rateLimit": "2", "burstLimit": "3"}}
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


def test_the_stage_throttles_keys_too(tmp_path: Path) -> None:
    gateway = Gateway(tmp_path)
    gateway.deploy_product(ApiAuth="API_KEY", ThrottleRateLimit="1", ThrottleBurstLimit="1")
    gateway.emulator.plans[KEY, gateway.api, "prod"] = "key", {"id": "plan", "throttle": {}}
    assert statuses(gateway, 2) == [204, 429]


def test_each_route_has_the_limits_of_the_stage_for_itself(tmp_path: Path) -> None:
    gateway = Gateway(tmp_path)
    gateway.deploy_product(ThrottleRateLimit="1", ThrottleBurstLimit="1")
    for path, method in ROUTES.items():
        body = b"[]" if path == "/batch" else b"{}"
        taken = TAKEN.get(path, 202)
        assert [gateway.request(method, path, body).status for _ in range(2)] == [taken, 429], path


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
        ("UsagePlan", {"Quota": {"Limit": 1, "Period": "DAY"}}, "Quota"),
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
