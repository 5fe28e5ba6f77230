"""Integrations, their mapping templates, and the API's answers from theirs."""

from __future__ import annotations

import asyncio
import re
from typing import Any

import pytest

from local.ministack import AccessDenied
from tests.gateway import Gateway
from tests.local.apigateway.ingest_api import CORS, INTEGRATION, body_with

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


def test_a_request_does_not_compile_its_template_again(live: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    live.request()
    monkeypatch.setattr("local.apigateway.openapi.MappingTemplate", None)
    assert live.request().status == 202
