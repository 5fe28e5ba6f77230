"""An API as its OpenAPI body defines it: compiled once, and then what each operation checks and answers.

`compile_definition` refuses by name whatever is not implemented, with a ValueError. `GATEWAY_RESPONSES` are the answers
of API Gateway itself, to requests that reach no integration or find it failing.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from jsonschema import Draft4Validator, SchemaError

from local.velocity import Input, MappingTemplate, Override, Util

Json = dict[str, Any]

VALIDATORS, VALIDATOR = "x-amazon-apigateway-request-validators", "x-amazon-apigateway-request-validator"
RESPONSES, INTEGRATION = "x-amazon-apigateway-gateway-responses", "x-amazon-apigateway-integration"
METHODS = ("get", "put", "post", "delete", "options", "head", "patch")
# The types of gateway response that can happen here: status and message.
GATEWAY_RESPONSES = {
    "API_CONFIGURATION_ERROR": (500, "Internal server error"),
    "BAD_REQUEST_BODY": (400, "Invalid request body"),
    "BAD_REQUEST_PARAMETERS": (400, "Missing required request parameters: [{}]"),
    "INTEGRATION_FAILURE": (504, "Network error communicating with endpoint"),
    "INTEGRATION_TIMEOUT": (504, "Endpoint request timed out"),
    "MISSING_AUTHENTICATION_TOKEN": (403, "Missing Authentication Token"),
    "REQUEST_TOO_LARGE": (413, "Request Too Long"),
    "THROTTLED": (429, "Too Many Requests"),
    "UNSUPPORTED_MEDIA_TYPE": (415, "Unsupported Media Type"),
}
# What an integration with an AWS service must say.
TARGET = {
    "uri": re.compile(r"arn:aws[\w-]*:apigateway:[\w-]+:(\w+):action/(\w+)"),
    "httpMethod": re.compile("POST"),
    "credentials": re.compile(r"arn:aws[\w-]*:iam::\d+:role/.+"),
}
CONTENT_TYPE_PARAMETER = {"integration.request.header.Content-Type": "'application/x-amz-json-1.1'"}


class GatewayError(Exception):
    """The request ends here, with the gateway response of this type."""

    def __init__(self, response_type: str, detail: str = "") -> None:
        super().__init__(response_type)
        self.response_type = response_type
        self.status, message = GATEWAY_RESPONSES[response_type]
        self.message = message.format(detail)


@dataclass(frozen=True)
class Request:
    """What a client sent, as mapping templates see it. Names of headers are in lower case."""

    context: Json
    headers: dict[str, str]
    query: dict[str, str]
    variables: dict[str, str]

    @property
    def media_type(self) -> str:
        """The type of the body; API Gateway drops its parameters, and takes a missing one for JSON."""
        return media_type(self.headers.get("content-type", ""))

    def rendered(self, template: MappingTemplate, body: str, **context: Any) -> str:
        """A mapping template's text for a body of this request or of the answer to it."""
        payload = Input(body, self.query, self.headers)
        values = {"context": {**self.context, **context}, "stageVariables": self.variables}
        return template.render(input=payload, util=Util(), **values)


@dataclass(frozen=True)
class Response:
    """What goes back to the client."""

    status: int
    headers: dict[str, str]
    body: str


@dataclass(frozen=True)
class GatewayResponse:
    """One of x-amazon-apigateway-gateway-responses. Its template knows variables only, no directives."""

    status: int | None
    headers: dict[str, str]
    template: str

    def respond(self, error: GatewayError, context: Json) -> Response:
        """The answer to an error, with the error's own status unless this response sets one."""
        values = {
            "error.message": error.message,
            "error.messageString": json.dumps(error.message),
            "error.responseType": error.response_type,
            "requestId": context["requestId"],
            "extendedRequestId": context["extendedRequestId"],
        }
        body = re.sub(r"\$context\.([\w.]*\w)", lambda name: values.get(name[1], name[0]), self.template)
        return Response(self.status or error.status, {"content-type": "application/json", **self.headers}, body)


PLAIN_GATEWAY_RESPONSE = GatewayResponse(None, {}, '{"message":$context.error.messageString}')


@dataclass(frozen=True)
class IntegrationResponse:
    """How the integration's answers of some statuses (all others, without a pattern) become answers of the API."""

    pattern: re.Pattern[str] | None
    status: int
    headers: dict[str, str]
    templates: dict[str, MappingTemplate]

    def respond(self, body: str, request: Request) -> Response:
        """Map the integration's body with the template for Accept, or with the first one where none fits."""
        if not self.templates:
            return Response(self.status, {"content-type": "application/json", **self.headers}, body)
        accepted = [media_type(part) for part in request.headers.get("accept", "").split(",")]
        chosen = next((name for name in accepted if name in self.templates), next(iter(self.templates)))
        override = Override(header=Override())
        text = request.rendered(self.templates[chosen], body, responseOverride=override)
        status = int(override.get("status", self.status))
        if not 200 <= status <= 599:
            raise ValueError(f"$context.responseOverride.status is {status}")
        overridden = {name.lower(): str(value) for name, value in override["header"].items()}
        return Response(status, {"content-type": chosen, **self.headers, **overridden}, text)


@dataclass(frozen=True)
class Operation:
    """One method of one path: what it checks, and its integration. A mock has no service and no action."""

    required_parameters: list[tuple[str, str]]
    body_required: bool
    models: dict[str, Draft4Validator]
    declared_statuses: set[int]
    service: str
    action: str
    credentials: str
    passthrough: str
    request_templates: dict[str, MappingTemplate]
    responses: list[IntegrationResponse]

    def validate(self, body: str, request: Request) -> None:
        """Required parameters are there and not blank; a body whose type has a model is JSON that fits it."""
        for location, name in self.required_parameters:
            value = request.query.get(name) if location == "query" else request.headers.get(name.lower())
            if not (value or "").strip():
                raise GatewayError("BAD_REQUEST_PARAMETERS", name)
        model = self.models.get(request.media_type)
        if (self.body_required and not body) or (model and not is_valid(body, model)):
            raise GatewayError("BAD_REQUEST_BODY")

    def render(self, body: str, request: Request) -> str:
        """The integration's request: by the template for the content type, or the body itself where that may pass."""
        template = self.request_templates.get(request.media_type)
        if template:
            return request.rendered(template, body)
        if self.passthrough == "never" or (self.passthrough == "when_no_templates" and self.request_templates):
            raise GatewayError("UNSUPPORTED_MEDIA_TYPE")
        return body

    def response_for(self, status: int) -> IntegrationResponse:
        """The response whose pattern matches the whole status, else the default; its own status must be declared."""
        matching = [each for each in self.responses if each.pattern and each.pattern.fullmatch(str(status))]
        response = next(iter(matching or [each for each in self.responses if each.pattern is None]), None)
        if response is None or response.status not in self.declared_statuses:
            raise ValueError(f"the method declares no response for the integration's status {status}")
        return response


@dataclass(frozen=True)
class Definition:
    """A compiled OpenAPI body."""

    operations: dict[tuple[str, str], Operation]
    gateway_responses: dict[str, GatewayResponse]

    def respond(self, error: GatewayError, context: Json) -> Response:
        """The gateway response for an error, by its type or its family. Nobody can customise the one for 10 MB."""
        family = "DEFAULT_4XX" if error.status < 500 else "DEFAULT_5XX"
        names = () if error.response_type == "REQUEST_TOO_LARGE" else (error.response_type, family)
        found = (self.gateway_responses[name] for name in names if name in self.gateway_responses)
        return next(found, PLAIN_GATEWAY_RESPONSE).respond(error, context)


def media_type(header: str) -> str:
    """The MIME type of a Content-Type, or of one part of an Accept header; parameters and case do not count."""
    return header.partition(";")[0].strip().lower() or "application/json"


def is_valid(body: str, model: Draft4Validator) -> bool:
    """Whether a body is JSON and fits a model."""
    try:
        # Python would read NaN, which is no JSON, and refuse integers of 4,300 digits, which are.
        return bool(model.is_valid(json.loads(body, parse_constant=_refuse, parse_int=_number)))
    except (ValueError, RecursionError):
        return False


def _refuse(constant: str) -> None:
    raise ValueError(constant)


def _number(digits: str) -> float:
    return int(digits) if len(digits) < 4_000 else float(digits)


def allow(where: str, mapping: Mapping[str, Any], *names: str) -> None:
    """Refuse by name what is not implemented, so that no setting is silently without effect."""
    unknown = ", ".join(sorted(set(mapping) - set(names)))
    if unknown:
        raise ValueError(f"{where}: the local API Gateway does not implement {unknown} (only {', '.join(names)})")


def compile_definition(body: Json, services: Iterable[str]) -> Definition:
    """Compile an OpenAPI 3.0 body whose integrations call some of `services`."""
    try:
        return _compile_definition(body, services)
    except (SchemaError, re.error, AttributeError, KeyError, TypeError) as error:
        raise ValueError(f"Body is no OpenAPI document: {type(error).__name__}: {error}") from error


def _compile_definition(body: Json, services: Iterable[str]) -> Definition:
    allow("Body", body, "openapi", "info", "paths", "components", "tags", VALIDATORS, VALIDATOR, RESPONSES)
    if not str(body.get("openapi")).startswith("3.0."):
        raise ValueError(f"Body: openapi must be 3.0.x (got {body.get('openapi')!r})")
    allow("Body.components", body.get("components", {}), "schemas")
    models = body.get("components", {}).get("schemas", {})
    for name, model in models.items():
        _check_model(f"Body.components.schemas.{name}", model, models)
    operations = {}
    for path, methods in body.get("paths", {}).items():
        if "{" in path:
            raise ValueError(f"Body.paths.{path}: the local API Gateway does not implement path parameters")
        allow(f"Body.paths.{path}", methods, *METHODS)
        for method, operation in methods.items():
            where = f"Body.paths.{path}.{method}"
            operations[method.upper(), path] = _compile_operation(where, operation, body, models, services)
    customisable = [name for name in GATEWAY_RESPONSES if name != "REQUEST_TOO_LARGE"]
    allow(f"Body.{RESPONSES}", body.get(RESPONSES, {}), "DEFAULT_4XX", "DEFAULT_5XX", *customisable)
    gateway_responses = {}
    for name, response in body.get(RESPONSES, {}).items():
        gateway_responses[name] = _compile_gateway_response(f"Body.{RESPONSES}.{name}", response)
    return Definition(operations, gateway_responses)


def _check_model(where: str, schema: Json, models: Json) -> None:
    """Take the keywords that are checked. API Gateway ignores others, such as minItems and format, without a word."""
    numbers, strings = ("minimum", "maximum"), ("minLength", "maxLength", "pattern", "enum")
    allow(where, schema, "$ref", "type", "title", "description", "properties", "required", "items", *numbers, *strings)
    Draft4Validator.check_schema(schema)
    if "$ref" in schema and schema["$ref"] not in {f"#/components/schemas/{name}" for name in models if name.isalnum()}:
        raise ValueError(f"{where}: $ref {schema['$ref']} leads to no model with a name of letters and digits")
    children = {**schema.get("properties", {}), **({"[]": schema["items"]} if "items" in schema else {})}
    for name, child in children.items():
        _check_model(f"{where}.{name}", child, models)


def _compile_gateway_response(where: str, response: Json) -> GatewayResponse:
    allow(where, response, "statusCode", "responseParameters", "responseTemplates")
    templates = response.get("responseTemplates", {})
    allow(f"{where}.responseTemplates", templates, "application/json")
    headers = _static_headers(where, response, "gatewayresponse.header.")
    status = int(response["statusCode"]) if "statusCode" in response else None
    return GatewayResponse(status, headers, templates.get("application/json", PLAIN_GATEWAY_RESPONSE.template))


def _static_headers(where: str, response: Json, prefix: str) -> dict[str, str]:
    headers = {}
    for name, value in response.get("responseParameters", {}).items():
        if not name.startswith(prefix) or not re.fullmatch("'[^']*'", value):
            raise ValueError(f"{where}: {name} must be {prefix}NAME with a static value in single quotes (got {value})")
        headers[name.removeprefix(prefix).lower()] = value[1:-1]
    return headers


def _compile_operation(where: str, operation: Json, body: Json, models: Json, services: Iterable[str]) -> Operation:
    documentation = ("operationId", "summary", "description", "tags")
    allow(where, operation, "parameters", "requestBody", "responses", VALIDATOR, INTEGRATION, *documentation)
    if INTEGRATION not in operation:
        raise ValueError(f"{where}: No integration defined for method")
    validator = operation.get(VALIDATOR, body.get(VALIDATOR))
    if validator is not None and validator not in body.get(VALIDATORS, {}):
        raise ValueError(f"{where}: the request validator {validator} is not defined")
    checks = body.get(VALIDATORS, {}).get(validator, {})
    allow(f"Body.{VALIDATORS}.{validator}", checks, "validateRequestBody", "validateRequestParameters")
    checks_body = is_true(checks, "validateRequestBody")
    required = []
    for parameter in operation.get("parameters", []):
        allow(f"{where}.parameters", parameter, "name", "in", "required", "schema", "description")
        allow(f"{where}.parameters: in", {parameter["in"]: None}, "query", "header")
        if is_true(checks, "validateRequestParameters") and is_true(parameter, "required"):
            required.append((parameter["in"], parameter["name"]))
    request_body = operation.get("requestBody", {})
    allow(f"{where}.requestBody", request_body, "content", "required", "description")
    validated = {}
    for media, content in request_body.get("content", {}).items():
        allow(f"{where}.requestBody.content.{media}", content, "schema")
        schema = content.get("schema", {})
        _check_model(f"{where}.requestBody.content.{media}.schema", schema, models)
        if checks_body and schema:
            validated[_media_key(where, media)] = Draft4Validator({**schema, "components": {"schemas": models}})
    integration = operation[INTEGRATION]
    service, action, credentials = _compile_target(where, integration, services)
    passthrough = str(integration.get("passthroughBehavior", "when_no_match")).lower()
    allow(f"{where}: passthroughBehavior", {passthrough: None}, "never", "when_no_match", "when_no_templates")
    responses = integration.get("responses", {})
    return Operation(
        required_parameters=required,
        body_required=checks_body and is_true(request_body, "required"),
        models=validated,
        declared_statuses={int(status) for status in operation.get("responses", {})},
        service=service,
        action=action,
        credentials=credentials,
        passthrough=passthrough,
        request_templates=_compile_templates(f"{where}: requestTemplates", integration.get("requestTemplates", {})),
        responses=[_compile_response(where, key, response, operation) for key, response in responses.items()],
    )


def is_true(mapping: Json, name: str) -> bool:
    """Whether a setting is on; CloudFormation may hand a boolean over as a string."""
    return str(mapping.get(name, False)).lower() == "true"


def _media_key(where: str, media: str) -> str:
    if not re.fullmatch(r"[\w.+-]+/[\w.+-]+", media):
        raise ValueError(f"{where}: {media!r} must be a media type: no parameters, no wildcards")
    return media.lower()


def _compile_templates(where: str, templates: Json) -> dict[str, MappingTemplate]:
    return {_media_key(where, media): MappingTemplate(f"{where}.{media}", text) for media, text in templates.items()}


def _compile_target(where: str, integration: Json, services: Iterable[str]) -> tuple[str, str, str]:
    """What an integration calls, as (service, action, role ARN); all empty for a mock."""
    names = ("type", "httpMethod", "passthroughBehavior", "requestTemplates", "responses")
    kind = str(integration.get("type")).lower()
    allow(f"{where}: integration type", {kind: None}, "aws", "mock")
    if kind == "mock":
        allow(f"{where}: integration", integration, *names)
        return "", "", ""
    allow(f"{where}: integration", integration, *names, "uri", "credentials", "requestParameters")
    for name, pattern in TARGET.items():
        if not pattern.fullmatch(str(integration.get(name))):
            raise ValueError(f"{where}: {name} must match {pattern.pattern} (got {integration.get(name)})")
    service, action = TARGET["uri"].fullmatch(integration["uri"]).groups()  # type: ignore[union-attr]
    allow(f"{where}: service of the integration", {service: None}, *services)
    if integration.get("requestParameters") != CONTENT_TYPE_PARAMETER:
        raise ValueError(f"{where}: requestParameters must be {CONTENT_TYPE_PARAMETER}, as the service reads no other")
    return service, action, integration["credentials"]


def _compile_response(where: str, pattern: str, response: Json, operation: Json) -> IntegrationResponse:
    where = f"{where}: integration response {pattern}"
    allow(where, response, "statusCode", "responseParameters", "responseTemplates")
    status = str(response.get("statusCode"))
    if not re.fullmatch(r"[2-5]\d\d", status):
        raise ValueError(f"{where}: statusCode must be a status (got {status})")
    headers = _static_headers(where, response, "method.response.header.")
    declared = operation.get("responses", {}).get(status)
    # An undeclared status shows when a request comes (500); an undeclared header already when the API is imported.
    undeclared = set(headers) - {name.lower() for name in (declared or {}).get("headers", {})}
    if declared is not None and undeclared:
        raise ValueError(f"{where}: the method's response {status} declares no header {', '.join(sorted(undeclared))}")
    templates = _compile_templates(where, response.get("responseTemplates", {}))
    return IntegrationResponse(None if pattern == "default" else re.compile(pattern), int(status), headers, templates)
