"""The local API Gateway refuses missing features by name when a stack is deployed."""

from __future__ import annotations

import re
from typing import Any

import pytest

from tests.gateway import Gateway
from tests.local.apigateway.ingest_api import BODY, INTEGRATION, OPERATION, body_with

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
