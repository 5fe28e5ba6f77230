"""The API's body through the calls of API Gateway's import, in the shapes of botocore's models."""

from __future__ import annotations

import re
from typing import Any

import pytest

from local import shapes
from local.apigateway.openapi import CALLS, MEMBERS, Import
from scripts.commands.deploy import template as templates
from tests.gateway import REGION, REQUIRED, STACK, resolve

SERVICE = "apigateway"
VARIANTS = {
    "the defaults": {},
    "API keys and two origins": {"ApiAuth": "API_KEY", "CorsAllowOrigin": "https://a.example,https://b.example"},
    "signatures and one origin": {"ApiAuth": "AWS_IAM", "CorsAllowOrigin": "https://a.example"},
}


def imported(**given: str) -> Import:
    """The import of template.yaml's body with these parameters."""
    parameters = templates.effective_parameters(STACK, {}, {**REQUIRED, **given})
    parameters |= {"AWS::Region": REGION, "AWS::Partition": "aws", "AWS::StackName": "stack"}
    body: dict[str, Any] = resolve(STACK["Resources"]["IngestApi"]["Properties"]["Body"], parameters)
    made = Import(body, ["firehose"])
    made.definition()
    return made


@pytest.mark.parametrize("call", CALLS)
def test_every_key_that_the_engine_knows_lands_in_a_member_of_the_call(call: str) -> None:
    members = shapes.input_of(SERVICE, call).members
    landing = {MEMBERS.get(key, key) for key in CALLS[call]} - {None}
    assert landing <= members.keys()


@pytest.mark.parametrize("given", VARIANTS.values(), ids=VARIANTS)
def test_everything_that_the_body_says_is_stored_by_a_call(given: dict[str, str]) -> None:
    made = imported(**given).made
    assert {call for call, *_ in made} == CALLS.keys()
    for (call, *_), stored in made.items():
        assert shapes.conform(stored, shapes.input_of(SERVICE, call)) == stored
    keyed = {key[1] for key, stored in made.items() if key[0] == "PutMethod" and stored["apiKeyRequired"]}
    routes = {key[1] for key in made if key[0] == "PutMethod"}
    expected = routes if given.get("ApiAuth") == "API_KEY" else set()
    assert keyed == expected, "copy the security of /track to the route in template.yaml"


@pytest.mark.parametrize("given", VARIANTS.values(), ids=VARIANTS)
def test_every_status_and_header_of_an_integration_response_is_declared_by_its_method(given: dict[str, str]) -> None:
    made = imported(**given).made
    for (call, *place), stored in made.items():
        if call == "PutIntegrationResponse":
            declared = made["PutMethodResponse", *place]
            assert stored["responseParameters"].keys() <= declared["responseParameters"].keys(), place


def test_api_gateway_keeps_an_integration_response_under_its_status_code() -> None:
    from botocore.loaders import Loader

    operations = Loader().load_service_model(SERVICE, "service-2")["operations"]
    uri = operations["PutIntegrationResponse"]["http"]["requestUri"]
    assert re.findall(r"{(\w+)}", uri) == ["restapi_id", "resource_id", "http_method", "status_code"]
    keys = [key for key in imported().made if key[0] == "PutIntegrationResponse"]
    assert ("PutIntegrationResponse", "/track", "POST", "413") in keys


@pytest.mark.parametrize(
    ("call", "given", "message"),
    [
        ("PutIntegrationResponse", {"statusCode": "600"}, "statusCode must match"),
        ("PutIntegrationResponse", {"statusCode": "202", "responseParameters": []}, "must be an object"),
        ("PutMethodResponse", {}, "statusCode is required"),
        ("PutGatewayResponse", {"responseTemplates": {"application/json": {}}}, "must be a string"),
        ("CreateRequestValidator", {"validateRequestBody": "maybe"}, "validateRequestBody must be true or false"),
        ("CreateRequestValidator", {"validateRequestHeaders": True}, "does not implement validateRequestHeaders"),
    ],
)
def test_what_has_no_place_in_its_call_is_refused_by_name(call: str, given: dict[str, Any], message: str) -> None:
    place = {"PutGatewayResponse": {"responseType": "THROTTLED"}, "CreateRequestValidator": {"name": "body"}}
    method = {"resourceId": "/track", "httpMethod": "POST"}
    with pytest.raises(ValueError, match=message):
        Import({}, []).make("here", call, given, **place.get(call, method))
