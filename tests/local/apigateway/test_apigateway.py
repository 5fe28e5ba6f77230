"""The local API Gateway against what AWS documents of REST APIs: snapshots, validation, mapping templates, answers."""

from __future__ import annotations

import asyncio
import base64
import copy
import gzip
import re
import tracemalloc
import zlib
from pathlib import Path
from typing import Any

import pytest

from local.ministack import AccessDenied
from tests.gateway import Gateway

ROLE = "arn:aws:iam::000000000000:role/ingest"
CORS = {"method.response.header.Access-Control-Allow-Origin": "'*'"}
GATEWAY_CORS = {"gatewayresponse.header.Access-Control-Allow-Origin": "'*'"}
TRACK_TEMPLATE = """\
#set($newline = $util.urlDecode('%0A'))
#set($userAgent = "$!context.identity.userAgent")
#if($userAgent.length() > 1024)
#set($userAgent = $userAgent.substring(0, 1024))
#end
#set($received = "request_id=$context.requestId extended_request_id=$context.extendedRequestId")
#set($sender = "ip=$!context.identity.sourceIp user_agent=$util.base64Encode($userAgent)")
#set($end = "sluice/end extended_request_id=$context.extendedRequestId")
#set($record = "sluice/1 $received time=$context.requestTimeEpoch $sender$newline$input.body$newline$end$newline")
{"DeliveryStreamName": "$stageVariables.deliveryStream", "Record": {"Data": "$util.base64Encode($record)"}}
"""
REFUSED_TEMPLATE = """\
#if($input.body.contains("1024000"))
{"message": "too large"}
#else
#set($context.responseOverride.status = 503)
{"message": "try again"}
#end
"""
BODY: dict[str, Any] = {
    "openapi": "3.0.1",
    "info": {"title": "test", "version": "1"},
    "x-amazon-apigateway-request-validators": {
        "body": {"validateRequestBody": True, "validateRequestParameters": False},
        "nothing": {"validateRequestBody": "false"},
    },
    "x-amazon-apigateway-request-validator": "body",
    "x-amazon-apigateway-gateway-responses": {
        "DEFAULT_4XX": {"responseParameters": GATEWAY_CORS},
        "DEFAULT_5XX": {"responseParameters": GATEWAY_CORS},
        "THROTTLED": {
            "responseParameters": {**GATEWAY_CORS, "gatewayresponse.header.Retry-After": "'1'"},
            "responseTemplates": {
                "application/json": '{"type":"$context.error.responseType","m":$context.error.messageString}'
            },
        },
    },
    "paths": {
        "/track": {
            "post": {
                "requestBody": {
                    "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Event"}}},
                },
                "responses": {
                    "202": {"headers": {"Access-Control-Allow-Origin": {"schema": {"type": "string"}}}},
                    "413": {"headers": {"Access-Control-Allow-Origin": {"schema": {"type": "string"}}}},
                    "503": {"headers": {"Access-Control-Allow-Origin": {"schema": {"type": "string"}}}},
                },
                "x-amazon-apigateway-integration": {
                    "type": "aws",
                    "httpMethod": "POST",
                    "uri": "arn:aws:apigateway:us-east-1:firehose:action/PutRecord",
                    "credentials": ROLE,
                    "passthroughBehavior": "never",
                    "requestParameters": {"integration.request.header.Content-Type": "'application/x-amz-json-1.1'"},
                    "requestTemplates": {"application/json": TRACK_TEMPLATE, "text/plain": TRACK_TEMPLATE},
                    "responses": {
                        r"2\d{2}": {
                            "statusCode": "202",
                            "responseParameters": CORS,
                            "responseTemplates": {"application/json": """{"recordId": "$input.path('$.RecordId')"}"""},
                        },
                        r"4\d{2}": {
                            "statusCode": 413,
                            "responseParameters": CORS,
                            "responseTemplates": {"application/json": REFUSED_TEMPLATE},
                        },
                        "default": {"statusCode": "503", "responseParameters": CORS},
                    },
                },
            },
            "options": {
                "responses": {"204": {"headers": {"Access-Control-Allow-Methods": {}}}},
                "x-amazon-apigateway-integration": {
                    "type": "mock",
                    "passthroughBehavior": "when_no_match",
                    "requestTemplates": {"application/json": '{"statusCode": 204}'},
                    "responses": {
                        "default": {
                            "statusCode": "204",
                            "responseParameters": {"method.response.header.Access-Control-Allow-Methods": "'POST'"},
                        }
                    },
                },
            },
        },
    },
    "components": {"schemas": {"Event": {"type": "object"}}},
}
INTEGRATION = ("paths", "/track", "post", "x-amazon-apigateway-integration")


def body_with(*path: Any, value: Any) -> dict[str, Any]:
    """The API body with one value set, or deleted when the value is None."""
    body = copy.deepcopy(BODY)
    place: Any = body
    for key in path[:-1]:
        place = place.setdefault(key, {})
    if value is None:
        del place[path[-1]]
    else:
        place[path[-1]] = value
    return body


@pytest.fixture
def gateway(tmp_path: Path) -> Gateway:
    return Gateway(tmp_path)


@pytest.fixture
def live(gateway: Gateway) -> Gateway:
    gateway.deploy(BODY)
    return gateway


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


def test_bytes_that_are_not_utf_8_arrive_as_replacement_characters(live: Gateway) -> None:
    live.request(body=b"a\xffb", headers={"content-type": "text/plain"})
    assert "\na\ufffdb\n" in live.firehose.record.decode()


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


# ---- what the door refuses


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
    assert "access-control-allow-origin" not in answer.headers  # AWS says that it may come before the API is known
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


# ---- integrations and their answers


@pytest.mark.parametrize(
    ("answer", "status", "message"),
    [
        pytest.param((400, {"message": "must be less than or equal to 1024000"}), 413, "too large", id="too large"),
        pytest.param((400, {"message": "AccessDenied"}), 503, "try again", id="our fault"),
        pytest.param((500, {"message": "ServiceUnavailable"}), 503, "ServiceUnavailable", id="default passes the body"),
    ],
)
def test_an_integrations_answer_is_mapped_by_its_status(
    live: Gateway, answer: tuple[int, dict[str, str]], status: int, message: str
) -> None:
    live.firehose.answer = answer
    answered = live.request()
    assert (answered.status, answered.json["message"]) == (status, message)
    assert answered.headers["access-control-allow-origin"] == "*"


@pytest.mark.parametrize(
    ("error", "status", "message"),
    [
        (TimeoutError(), 504, "Endpoint request timed out"),
        (OSError("disk full"), 504, "Network error communicating with endpoint"),
        (AccessDenied("cannot assume"), 500, "Internal server error"),
    ],
    ids=["timeout", "failure", "role"],
)
def test_an_integration_that_fails_is_a_gateway_response(
    live: Gateway, error: Exception, status: int, message: str
) -> None:
    live.firehose.answer = error
    answer = live.request()
    assert (answer.status, answer.json) == (status, {"message": message})
    assert answer.headers["access-control-allow-origin"] == "*"


def test_an_integration_may_take_29_seconds(live: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    async def sleep(*_: Any) -> Any:
        await asyncio.sleep(5)

    monkeypatch.setattr("local.apigateway.service.INTEGRATION_TIMEOUT_SECONDS", 0.01)
    live.engine.integrations["firehose"] = sleep
    assert live.request().status == 504


@pytest.mark.parametrize(
    ("responses", "integration_status"),
    [
        pytest.param({"default": {"statusCode": "299"}}, 200, id="undeclared status"),
        pytest.param({r"2\d{2}": {"statusCode": "202"}}, 400, id="no response for the status"),
        pytest.param({"20": {"statusCode": "202"}}, 200, id="a pattern matches the whole status"),
    ],
)
def test_a_status_without_a_declared_response_is_a_500(
    gateway: Gateway, responses: dict[str, Any], integration_status: int
) -> None:
    gateway.deploy(body_with(*INTEGRATION, "responses", value=responses))
    gateway.firehose.answer = (integration_status, {})
    answer = gateway.request()
    assert (answer.status, answer.json) == (500, {"message": "Internal server error"})


@pytest.mark.parametrize("template", ["not JSON", '"text"'])
def test_a_request_that_renders_to_no_json_object_is_a_500(gateway: Gateway, template: str) -> None:
    gateway.deploy(body_with(*INTEGRATION, "requestTemplates", value={"application/json": template}))
    assert gateway.request().status == 500
    assert gateway.firehose.calls == []


@pytest.mark.parametrize(
    "override",
    [
        "#set($context.responseOverride.status = 413)#set($context.responseOverride.status = 503)",
        "#set($context.responseOverride.status = 'x')",
        "#set($context.responseOverride.status = 42)",
    ],
    ids=["twice", "no number", "no status"],
)
def test_a_wrong_override_is_a_500(gateway: Gateway, override: str) -> None:
    response = {"statusCode": "202", "responseTemplates": {"application/json": override}}
    gateway.deploy(body_with(*INTEGRATION, "responses", value={"default": response}))
    gateway.firehose.answer = (300, {})
    assert gateway.request().status == 500


def test_a_preflight_is_answered_by_the_mock(live: Gateway) -> None:
    answer = live.request("OPTIONS", body=b"", headers={"origin": "https://example.com"})
    assert (answer.status, answer.body) == (204, b"")
    assert answer.headers["access-control-allow-methods"] == "POST"
    assert "content-length" not in answer.headers
    assert live.firehose.calls == []


def test_a_mock_chooses_its_response_by_the_rendered_status(gateway: Gateway) -> None:
    mock = {
        "type": "MOCK",
        "passthroughBehavior": "when_no_match",
        "requestTemplates": {"application/json": "{\"statusCode\": $input.params('status')}"},
        "responses": {
            "default": {"statusCode": "204"},
            r"4\d\d": {"statusCode": "404", "responseTemplates": {"application/json": "gone"}},
        },
    }
    operation = {"responses": {"204": {}, "404": {}}, "x-amazon-apigateway-integration": mock}
    gateway.deploy(body_with("paths", "/track", "head", value=operation))
    assert [gateway.request("HEAD", query=f"status={status}", body=b"").status for status in (200, 404)] == [204, 404]
    assert gateway.request("HEAD", query="", body=b"").status == 500
    assert gateway.request("HEAD", query="status=404", body=b"").body == b""


def test_an_empty_response_template_is_none_and_passes_the_body(gateway: Gateway) -> None:
    response = {"statusCode": "202", "responseTemplates": {"application/json": ""}}
    gateway.deploy(body_with(*INTEGRATION, "responses", r"2\d{2}", value=response))
    assert gateway.request().json == {"RecordId": "record-1", "Encrypted": True}


def test_a_204_has_no_body_whatever_its_template_says(gateway: Gateway) -> None:
    response = {"statusCode": "204", "responseTemplates": {"application/json": "text"}}
    body = body_with(*INTEGRATION, "responses", value={"default": response})
    body["paths"]["/track"]["post"]["responses"]["204"] = {}
    gateway.deploy(body)
    gateway.firehose.answer = (300, {})
    answer = gateway.request()
    assert (answer.status, answer.body) == (204, b"")
    assert "content-length" not in answer.headers


def test_a_preflight_of_another_type_passes_through_the_mock_and_finds_no_status(live: Gateway) -> None:
    assert live.request("OPTIONS", body=b"a", headers={"content-type": "text/plain"}).status == 500


# ---- deployments are snapshots


def with_message(text: str) -> dict[str, Any]:
    return body_with(*INTEGRATION, "responses", r"2\d{2}", "responseTemplates", value={"application/json": text})


def test_a_changed_api_is_served_by_a_new_deployment_only(gateway: Gateway) -> None:
    api = gateway.deploy(with_message("old"))

    def served() -> str:
        return gateway.request().body.decode()

    assert gateway.update("RestApi", api, Name="test", Body=with_message("new")) == api
    assert served() == "old"
    gateway.update("Deployment", gateway.deployment, RestApiId=api, Description="a change, but no snapshot")
    assert served() == "old"
    gateway.restart()
    assert served() == "old"
    new = gateway.create("Deployment", RestApiId=api)
    assert served() == "old"
    gateway.update("Stage", "prod", RestApiId=api, DeploymentId=new, **gateway.stage_properties)
    assert served() == "new"
    gateway.delete("Deployment", gateway.deployment, RestApiId=api)
    assert served() == "new"
    gateway.restart()
    assert served() == "new"


def test_a_snapshot_of_what_is_refused_today_is_a_500_until_the_stack_is_deployed_again(
    gateway: Gateway, caplog: pytest.LogCaptureFixture
) -> None:
    api = gateway.deploy(BODY)
    old = body_with(*OPERATION, "requestBody", "required", value=True)
    gateway.engine.deployments[gateway.deployment]["Body"] = old
    answer = gateway.request()
    assert (answer.status, answer.json) == (500, {"message": "Internal server error"})
    assert "does not implement required" in caplog.text and "deploy the stack again" in caplog.text
    new = gateway.create("Deployment", RestApiId=api)
    gateway.update("Stage", "prod", RestApiId=api, DeploymentId=new, **gateway.stage_properties)
    assert gateway.request().status == 202


def test_a_deployment_that_a_stage_points_to_is_not_deleted(live: Gateway) -> None:
    with pytest.raises(ValueError, match="Active stages pointing to this deployment"):
        live.delete("Deployment", live.deployment, RestApiId=live.api)
    live.delete("Stage", "prod", RestApiId=live.api, StageName="prod")
    live.delete("Deployment", live.deployment, RestApiId=live.api)
    live.delete("RestApi", live.api)
    assert live.request().json == {"message": "Forbidden"}
    live.delete("Deployment", live.deployment, RestApiId=live.api)  # a delete that is tried again


def test_two_apis_have_stages_of_the_same_name(gateway: Gateway) -> None:
    first = gateway.deploy(with_message("first"))
    second = gateway.deploy(with_message("second"))
    assert [gateway.request(stage=f"{api}/prod").body for api in (first, second)] == [b"first", b"second"]


def test_the_ids_look_like_those_of_aws(live: Gateway) -> None:
    assert re.fullmatch(r"[a-z0-9]{10}", live.api)
    api = live.emulator.resources["RestApi"]
    physical_id, attributes = api.create("Api", {"Body": BODY}, "stack")
    assert re.fullmatch(r"[a-z0-9]{10}", attributes["RootResourceId"])
    assert api.update(physical_id, {}, {"Body": BODY}, "stack") == (physical_id, attributes)
    deployment = live.emulator.resources["Deployment"].create("D", {"RestApiId": physical_id}, "stack")
    assert deployment[1] == {"DeploymentId": deployment[0]}
    stage = {"RestApiId": physical_id, "DeploymentId": deployment[0], "StageName": "dev"}
    assert live.create("Stage", **stage) == "dev"


def test_changes_that_need_a_new_resource(live: Gateway) -> None:
    assert live.emulator.resources["Stage"].replacing == ("RestApiId", "StageName")
    assert live.emulator.resources["Deployment"].replacing == ("RestApiId",)


# ---- what is not implemented is refused by name

OPERATION = ("paths", "/track", "post")
MODELS = "#/components/schemas/"
HEADER = "method.response.header.Access-Control-Allow-Origin"
GATEWAY = ("x-amazon-apigateway-gateway-responses",)
REFUSED_BODIES: dict[str, tuple[dict[str, Any], str]] = {
    "swagger": (body_with("openapi", value="2.0"), "openapi must be 3.0.x (got '2.0')"),
    "parameters": (
        body_with(*OPERATION, "parameters", value=[{"in": "query"}]),
        "parameters must be those of the path",
    ),
    "security of all": (body_with("security", value=[{"api_key": []}]), "Body: the local API Gateway does not"),
    "undefined scheme": (body_with(*OPERATION, "security", value=[{"api_key": []}]), "['api_key'] must be one scheme"),
    "two schemes": (
        body_with(*OPERATION, "security", value=[{"api_key": []}, {"sigv4": []}]),
        "['api_key', 'sigv4'] must be one scheme",
    ),
    "another scheme": (
        {
            **body_with(*OPERATION, "security", value=[{"token": []}]),
            "components": {
                "schemas": {"Event": {"type": "object"}},
                "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
            },
        },
        "['token'] must be one scheme",
    ),
    "binary": (body_with("x-amazon-apigateway-binary-media-types", value=["*/*"]), "binary-media-types"),
    "policy": (body_with("x-amazon-apigateway-policy", value={}), "x-amazon-apigateway-policy"),
    "greedy path parameter": (
        body_with("paths", "/{proxy+}", value={}),
        "implements names and {names} in a path alone",
    ),
    "path parameter that is not declared": (
        body_with("paths", value={"/a/{b}": {"post": BODY["paths"]["/track"]["post"]}}),
        "parameters must be those of the path",
    ),
    "any method": (body_with("paths", "/track", "x-amazon-apigateway-any-method", value={}), "any-method"),
    "no integration": (body_with(*INTEGRATION, value=None), "No integration defined"),
    "type": (body_with(*INTEGRATION, "type", value="aws_proxy"), "AWS_PROXY"),
    "service": (body_with(*INTEGRATION, "uri", value="arn:aws:apigateway:us-east-1:sqs:action/SendMessage"), "sqs"),
    "httpMethod": (body_with(*INTEGRATION, "httpMethod", value="GET"), "httpMethod"),
    "credentials": (body_with(*INTEGRATION, "credentials", value="arn:aws:iam::*:user/*"), "credentials"),
    "no content type": (body_with(*INTEGRATION, "requestParameters", value={}), "application/x-amz-json-1.1"),
    "cache": (body_with(*INTEGRATION, "cacheNamespace", value="x"), "cacheNamespace"),
    "passthrough": (body_with(*INTEGRATION, "passthroughBehavior", value="when_no_match"), "WHEN_NO_MATCH"),
    "passthrough of a mock": (
        body_with("paths", "/track", "options", INTEGRATION[-1], "passthroughBehavior", value="never"),
        "NEVER",
    ),
    "csv": (body_with(*INTEGRATION, "responses", "default", "responseTemplates", value={"text/csv": "a"}), "text/csv"),
    "two lines in a header": (
        body_with(*INTEGRATION, "responses", "default", "responseParameters", value={HEADER: "'a\r\nb: c'"}),
        "static value in single quotes",
    ),
    "unknown variable of a gateway response": (
        body_with(*GATEWAY, "BAD_REQUEST_BODY", value={"responseTemplates": {"application/json": "$context.stage"}}),
        "does not implement stage",
    ),
    "wildcard template": (body_with(*INTEGRATION, "requestTemplates", "*/*", value="{}"), "'*/*'"),
    "undefined validator": (body_with("x-amazon-apigateway-request-validator", value="x"), "validator x"),
    "required body": (body_with(*OPERATION, "requestBody", "required", value=True), "does not implement required"),
    "items": (body_with("components", "schemas", "Event", "items", value={"type": "object"}), "items only as {}"),
    "ignored keyword": (body_with("components", "schemas", "Event", "minItems", value=1), "minItems"),
    "dangling model": (body_with("components", "schemas", value={"Other": {}}), "there is no model Event"),
    "model of the operation's own": (
        body_with(*OPERATION, "requestBody", "content", "a/b", value={"schema": {"type": "object"}}),
        "(only $ref)",
    ),
    "pattern": (body_with(*INTEGRATION, "responses", value={"2(": {"statusCode": 202}}), "unterminated subpattern"),
    "wrong schema": (body_with("components", "schemas", "Event", value={"type": "thing"}), "thing"),
    "wrong shape": (body_with("paths", "/track", value=[]), "not an OpenAPI document"),
    "model name": (
        {
            **body_with(*OPERATION, "requestBody", "content", "a/b", value={"schema": {"$ref": f"{MODELS}Ev-ent"}}),
            "components": {"schemas": {"Event": {"type": "object"}, "Ev-ent": {"type": "object"}}},
        },
        "letters and digits",
    ),
    "413 of AWS": (
        body_with("x-amazon-apigateway-gateway-responses", "REQUEST_TOO_LARGE", value={}),
        "REQUEST_TOO_LARGE",
    ),
    "mapped gateway header": (
        body_with(
            *("x-amazon-apigateway-gateway-responses", "DEFAULT_4XX", "responseParameters"),
            value={"gatewayresponse.header.X": "method.request.header.Origin"},
        ),
        "method.request.header.Origin",
    ),
    "mapped response header": (
        body_with(
            *(*INTEGRATION, "responses", "default", "responseParameters"),
            value={HEADER: "integration.response.header.Y"},
        ),
        "integration.response.header.Y",
    ),
    "two responses of one status": (
        body_with(*INTEGRATION, "responses", r"4\d{2}", "statusCode", value="503"),
        "API Gateway keeps one PutIntegrationResponse /track POST 503, and this is another",
    ),
    "empty request template": (
        body_with(*INTEGRATION, "requestTemplates", "text/plain", value=""),
        "text/plain is empty",
    ),
    "undeclared header": (
        body_with(
            *INTEGRATION, "responses", "default", "responseParameters", value={"method.response.header.X": "'1'"}
        ),
        "the method's response 503 declares no method.response.header.X",
    ),
}


@pytest.mark.parametrize(("body", "name"), REFUSED_BODIES.values(), ids=REFUSED_BODIES.keys())
def test_an_api_that_is_not_implemented_is_refused_by_name(gateway: Gateway, body: dict[str, Any], name: str) -> None:
    with pytest.raises(ValueError, match=re.escape(name)):
        gateway.create("RestApi", Body=body)
    assert gateway.engine.apis == {}


@pytest.mark.parametrize("name", ["Policy", "BinaryMediaTypes", "BodyS3Location", "MinimumCompressionSize"])
def test_a_property_of_the_api_that_is_not_implemented_is_refused_by_name(gateway: Gateway, name: str) -> None:
    with pytest.raises(ValueError, match=name):
        gateway.create("RestApi", **{"Body": BODY, name: 1})


SETTINGS = {"ResourcePath": "/*", "HttpMethod": "*"}


@pytest.mark.parametrize(
    ("properties", "name"),
    [
        ({"CacheClusterEnabled": True}, "CacheClusterEnabled"),
        ({"AccessLogSetting": {}}, "AccessLogSetting"),
        ({"MethodSettings": [{**SETTINGS, "CachingEnabled": True}]}, "CachingEnabled"),
        ({"Variables": {"origins": "*"}}, "Variables.origins is '*'"),
        ({"Variables": {"origins": ""}}, "Variables.origins is ''"),
        ({"Variables": {"origins": "a" * 513}}, "{1,512}"),
        ({"Variables": {"o-rigins": "a"}}, "Variables.o-rigins is 'a'"),
        ({"TracingEnabled": "maybe"}, "tracingEnabled must be true or false"),
        ({"MethodSettings": [{**SETTINGS, "ResourcePath": "/~1track"}]}, "ResourcePath /*"),
        ({"MethodSettings": [SETTINGS, SETTINGS]}, "one entry"),
        ({"MethodSettings": [{**SETTINGS, "LoggingLevel": "INFO"}]}, "LoggingLevel"),
        ({"DeploymentId": "nosuch"}, "Invalid Deployment identifier specified: nosuch"),
        ({"StageName": "prod"}, "Stage already exists"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_stage_that_is_not_implemented_is_refused_by_name(
    live: Gateway, properties: dict[str, Any], name: str
) -> None:
    given = {"RestApiId": live.api, "DeploymentId": live.deployment, "StageName": "dev"}
    with pytest.raises(ValueError, match=re.escape(name)):
        live.create("Stage", **{**given, **properties})


@pytest.mark.parametrize(
    ("properties", "name"), [({"StageName": "prod"}, "StageName"), ({"RestApiId": "nosuchapi1"}, "nosuchapi1")]
)
def test_a_wrong_deployment_is_refused(live: Gateway, properties: dict[str, str], name: str) -> None:
    with pytest.raises(ValueError, match=name):
        live.create("Deployment", **{"RestApiId": live.api, **properties})


def test_a_stage_serves_deployments_of_its_own_api_only(gateway: Gateway) -> None:
    gateway.deploy(BODY)
    other = gateway.create("RestApi", Body=BODY)
    with pytest.raises(ValueError, match="Invalid Deployment identifier"):
        gateway.create("Stage", RestApiId=other, DeploymentId=gateway.deployment, StageName="prod")


# ---- mapping templates


@pytest.mark.parametrize("template", ["$util.urlDecode('%zz')", "$util.urlEncode(1)"])
def test_what_velocity_leaves_open_is_a_500(gateway: Gateway, template: str) -> None:
    response = {"statusCode": "202", "responseTemplates": {"application/json": template}}
    gateway.deploy(body_with(*INTEGRATION, "responses", value={"default": response}))
    gateway.firehose.answer = (300, {})
    answer = gateway.request()
    assert (answer.status, answer.json) == (500, {"message": "Internal server error"})


def test_a_template_that_is_not_implemented_is_refused(gateway: Gateway) -> None:
    body = body_with(*INTEGRATION, "requestTemplates", "application/json", value="#evaluate($input.body)")
    with pytest.raises(ValueError, match=re.escape("requestTemplates.application/json: line 1: '#evaluate")):
        gateway.create("RestApi", Body=body)


def test_a_template_sets_headers_of_the_answer(gateway: Gateway) -> None:
    template = """\
#set($context.responseOverride.header.Access-Control-Allow-Origin = $input.params("Origin"))
#set($context.responseOverride.header.X-New = "1")
{}"""
    response = {"statusCode": "202", "responseParameters": CORS, "responseTemplates": {"application/json": template}}
    gateway.deploy(body_with(*INTEGRATION, "responses", value={"default": response}))
    gateway.firehose.answer = (300, {})
    answer = gateway.request(headers={"origin": "https://example.com"})
    assert (answer.status, answer.body) == (202, b"{}")
    assert answer.headers["access-control-allow-origin"] == "https://example.com"
    assert answer.headers["x-new"] == "1"


@pytest.mark.parametrize(("sent", "read"), [(b"\xed\xa0\x80", "\ufffd"), (b"\xff\xfe", "\ufffd\ufffd")])
def test_a_body_that_is_not_utf_8_is_read_as_java_does(live: Gateway, sent: bytes, read: str) -> None:
    live.request(body=b'{"a": "' + sent + b'"}', headers={"content-type": "text/plain"})
    assert f'{{"a": "{read}"}}' in base64.b64decode(live.firehose.calls[-1][1]["Record"]["Data"]).decode()


def test_a_request_does_not_compile_its_template_again(live: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    live.request()
    monkeypatch.setattr("local.apigateway.openapi.MappingTemplate", None)
    assert live.request().status == 202
