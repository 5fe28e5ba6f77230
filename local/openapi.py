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

from local.velocity import Input, MappingTemplate, Override, Util

Json = dict[str, Any]

VALIDATORS, VALIDATOR = "x-amazon-apigateway-request-validators", "x-amazon-apigateway-request-validator"
RESPONSES, INTEGRATION = "x-amazon-apigateway-gateway-responses", "x-amazon-apigateway-integration"
METHODS = ("get", "put", "post", "delete", "options", "head", "patch")
# The types of gateway response that can happen here: status, x-amzn-ErrorType, and a message where all have the same.
GATEWAY_RESPONSES = {
    "ACCESS_DENIED": (403, "AccessDeniedException", ""),
    "API_CONFIGURATION_ERROR": (500, "InternalServerErrorException", "Internal server error"),
    "BAD_REQUEST_BODY": (400, "BadRequestException", "Invalid request body"),
    "INTEGRATION_FAILURE": (504, "InternalServerErrorException", "Network error communicating with endpoint"),
    "INTEGRATION_TIMEOUT": (504, "InternalServerErrorException", "Endpoint request timed out"),
    "INVALID_API_KEY": (403, "ForbiddenException", "Forbidden"),
    "INVALID_SIGNATURE": (403, "InvalidSignatureException", ""),
    "MISSING_AUTHENTICATION_TOKEN": (403, "MissingAuthenticationTokenException", "Missing Authentication Token"),
    "QUOTA_EXCEEDED": (429, "LimitExceededException", "Limit Exceeded"),
    "THROTTLED": (429, "TooManyRequestsException", "Too Many Requests"),
    "UNSUPPORTED_MEDIA_TYPE": (415, "BadRequestException", "Unsupported Media Type"),
}
# Those that nobody can customise: they come before the API is known, with a request that is not read to its end.
UNREAD_RESPONSES = {
    "REQUEST_HEADERS_TOO_LARGE": (431, "RequestTooLargeException", "Request Header Fields Too Large"),
    "REQUEST_TIMEOUT": (408, "RequestTimeoutException", "Request Timeout"),
    "REQUEST_TOO_LARGE": (413, "RequestTooLargeException", "Request Too Long"),
}
GATEWAY_TEMPLATE = '{"message":$context.error.messageString}'
GATEWAY_VARIABLES = ("error.message", "error.messageString", "error.responseType", "requestId", "extendedRequestId")
GATEWAY_VARIABLE = re.compile(r"\$context\.([\w.]*\w)")
# What may follow `security`, by the definition of its scheme.
API_KEY_SCHEME = {"type": "apiKey", "name": "x-api-key", "in": "header"}
IAM_SCHEME = {**API_KEY_SCHEME, "name": "Authorization", "x-amazon-apigateway-authtype": "awsSigv4"}
MODEL_TYPES = {"object": dict, "array": list}
# What an integration with an AWS service must say.
TARGET = {
    "uri": re.compile(r"arn:aws[\w-]*:apigateway:[\w-]+:(\w+):action/(\w+)"),
    "httpMethod": re.compile("POST"),
    "credentials": re.compile(r"arn:aws[\w-]*:iam::\d+:role/.+"),
    # Else a client could send a request of its own to the service, under a content type that has no template.
    "passthroughBehavior": re.compile("never", re.IGNORECASE),
}
CONTENT_TYPE_PARAMETER = {"integration.request.header.Content-Type": "'application/x-amz-json-1.1'"}


def _refuse(constant: str) -> None:
    raise ValueError(constant)


# Python would read NaN, which is no JSON, and refuse integers of 4,300 digits, which are.
JSON = json.JSONDecoder(parse_constant=_refuse, parse_int=float)


class GatewayError(Exception):
    """The request ends here, with the gateway response of this type."""

    def __init__(self, response_type: str, message: str = "", error_type: str = "") -> None:
        super().__init__(response_type)
        self.response_type = response_type
        self.status, usual_type, usual_message = {**GATEWAY_RESPONSES, **UNREAD_RESPONSES}[response_type]
        self.error_type, self.message = error_type or usual_type, message or usual_message


@dataclass(frozen=True)
class Request:
    """What a client sent, as mapping templates see it. Names of headers are in lower case."""

    context: Json
    headers: dict[str, str]
    query: dict[str, str]
    variables: dict[str, str]

    @property
    def media_type(self) -> str:
        """The type of the body; API Gateway drops its parameters and case, and takes a missing one for JSON."""
        return self.headers.get("content-type", "").partition(";")[0].strip().lower() or "application/json"

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

    headers: dict[str, str]
    template: str

    def respond(self, error: GatewayError, context: Json) -> Response:
        """The answer to an error, with the error's own status."""
        about = (error.message, json.dumps(error.message), error.response_type)
        values = dict(zip(GATEWAY_VARIABLES, (*about, context["requestId"], context["extendedRequestId"]), strict=True))
        body = GATEWAY_VARIABLE.sub(lambda name: values[name[1]], self.template)
        headers = {"content-type": "application/json", "x-amzn-errortype": error.error_type, **self.headers}
        return Response(error.status, headers, body)


PLAIN = GatewayResponse({}, GATEWAY_TEMPLATE)
# IAM's own refusal, where nobody customised it, spells its key otherwise.
PLAIN_ACCESS_DENIED = GatewayResponse({}, '{"Message":$context.error.messageString}')
CLOSING = GatewayResponse({"connection": "close"}, GATEWAY_TEMPLATE)


@dataclass(frozen=True)
class IntegrationResponse:
    """How the integration's answers of some statuses (all others, without a pattern) become answers of the API."""

    pattern: re.Pattern[str] | None
    status: int
    headers: dict[str, str]
    template: MappingTemplate | None

    def respond(self, body: str, request: Request) -> Response:
        """Map the integration's body, whatever the client accepts: a response has one template, or passes the body."""
        headers = {"content-type": "application/json", **self.headers}
        if self.template is None:
            return Response(self.status, headers, body)
        override = Override()
        text = request.rendered(self.template, body, responseOverride=override)
        status = int(override.get("status", self.status))
        if not 200 <= status <= 599:
            raise ValueError(f"$context.responseOverride.status is {status}")
        return Response(status, headers, text)


@dataclass(frozen=True)
class Operation:
    """One method of one path: what it checks, and its integration. A mock has no service and no action."""

    authorization: str  # NONE, API_KEY or AWS_IAM
    body_required: bool
    models: dict[str, type]
    declared_statuses: set[int]
    service: str
    action: str
    credentials: str
    request_templates: dict[str, MappingTemplate]
    responses: list[IntegrationResponse]

    def validate(self, body: str, request: Request) -> None:
        """A required body is there; one whose type has a model is JSON of the model's type."""
        model = self.models.get(request.media_type)
        if (self.body_required and not body) or (model and not is_json(body, model)):
            raise GatewayError("BAD_REQUEST_BODY")

    def render(self, body: str, request: Request) -> str:
        """The integration's request, by the template for the content type; a mock gets other bodies as they are."""
        template = self.request_templates.get(request.media_type)
        if template:
            return request.rendered(template, body)
        if self.service:
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
        """The gateway response for an error: by its type, else by its family, else API Gateway's own."""
        plain = PLAIN_ACCESS_DENIED if error.response_type == "ACCESS_DENIED" else PLAIN
        family = self.gateway_responses.get("DEFAULT_4XX" if error.status < 500 else "DEFAULT_5XX", plain)
        found = self.gateway_responses.get(error.response_type, family)
        return (CLOSING if error.response_type in UNREAD_RESPONSES else found).respond(error, context)


def is_json(body: str, model: type) -> bool:
    """Whether a body is JSON of this type."""
    try:
        return isinstance(JSON.decode(body), model)
    except (ValueError, RecursionError):
        return False


def allow(where: str, mapping: Mapping[str, Any], *names: str) -> None:
    """Refuse by name what is not implemented, so that no setting is silently without effect."""
    unknown = ", ".join(sorted(set(mapping) - set(names)))
    if unknown:
        raise ValueError(f"{where}: the local API Gateway does not implement {unknown} (only {', '.join(names)})")


def compile_definition(body: Json, services: Iterable[str]) -> Definition:
    """Compile an OpenAPI 3.0 body whose integrations call some of `services`."""
    try:
        return _compile_definition(body, services)
    except (re.error, AttributeError, KeyError, TypeError) as error:
        raise ValueError(f"Body is no OpenAPI document: {type(error).__name__}: {error}") from error


def _compile_definition(body: Json, services: Iterable[str]) -> Definition:
    allow("Body", body, "openapi", "info", "paths", "components", "tags", VALIDATORS, VALIDATOR, RESPONSES)
    if not str(body.get("openapi")).startswith("3.0."):
        raise ValueError(f"Body: openapi must be 3.0.x (got {body.get('openapi')!r})")
    allow("Body.components", body.get("components", {}), "schemas", "securitySchemes")
    operations = {}
    for path, methods in body.get("paths", {}).items():
        if "{" in path:
            raise ValueError(f"Body.paths.{path}: the local API Gateway does not implement path parameters")
        allow(f"Body.paths.{path}", methods, *METHODS)
        for method, operation in methods.items():
            where = f"Body.paths.{path}.{method}"
            operations[method.upper(), path] = _compile_operation(where, operation, body, services)
    allow(f"Body.{RESPONSES}", body.get(RESPONSES, {}), "DEFAULT_4XX", "DEFAULT_5XX", *GATEWAY_RESPONSES)
    gateway_responses = {}
    for name, response in body.get(RESPONSES, {}).items():
        gateway_responses[name] = _compile_gateway_response(f"Body.{RESPONSES}.{name}", response)
    return Definition(operations, gateway_responses)


def _compile_gateway_response(where: str, response: Json) -> GatewayResponse:
    allow(where, response, "responseParameters", "responseTemplates")
    templates = response.get("responseTemplates", {})
    allow(f"{where}.responseTemplates", templates, "application/json")
    template = templates.get("application/json", GATEWAY_TEMPLATE)
    allow(f"{where}: $context", dict.fromkeys(GATEWAY_VARIABLE.findall(template)), *GATEWAY_VARIABLES)
    return GatewayResponse(_static_headers(where, response, "gatewayresponse.header."), template)


def _static_headers(where: str, response: Json, prefix: str) -> dict[str, str]:
    headers = {}
    for name, value in response.get("responseParameters", {}).items():
        if not name.startswith(prefix) or not re.fullmatch("'[ !-&(-~]*'", value):
            raise ValueError(f"{where}: {name} must be {prefix}NAME with a static value in single quotes (got {value})")
        headers[name.removeprefix(prefix).lower()] = value[1:-1]
    return headers


def _compile_operation(where: str, operation: Json, body: Json, services: Iterable[str]) -> Operation:
    documentation = ("operationId", "summary", "description", "tags")
    allow(where, operation, "security", "requestBody", "responses", VALIDATOR, INTEGRATION, *documentation)
    if INTEGRATION not in operation:
        raise ValueError(f"{where}: No integration defined for method")
    components = body.get("components", {})
    validator = operation.get(VALIDATOR, body.get(VALIDATOR))
    if validator is not None and validator not in body.get(VALIDATORS, {}):
        raise ValueError(f"{where}: the request validator {validator} is not defined")
    checks = body.get(VALIDATORS, {}).get(validator, {})
    allow(f"Body.{VALIDATORS}.{validator}", checks, "validateRequestBody", "validateRequestParameters")
    request_body = operation.get("requestBody", {})
    allow(f"{where}.requestBody", request_body, "content", "required", "description")
    models = {}
    for media, content in request_body.get("content", {}).items():
        model = _model_type(f"{where}.requestBody.content.{media}", content, components.get("schemas", {}))
        models[_media_key(where, media)] = model
    integration = operation[INTEGRATION]
    service, action, credentials = _compile_target(where, integration, services)
    responses = integration.get("responses", {})
    return Operation(
        authorization=_authorization(where, operation.get("security", []), components.get("securitySchemes", {})),
        body_required=is_true(checks, "validateRequestBody") and is_true(request_body, "required"),
        models=models if is_true(checks, "validateRequestBody") else {},
        declared_statuses={int(status) for status in operation.get("responses", {})},
        service=service,
        action=action,
        credentials=credentials,
        request_templates=_compile_templates(f"{where}: requestTemplates", integration.get("requestTemplates", {})),
        responses=[_compile_response(where, key, response, operation) for key, response in responses.items()],
    )


def _authorization(where: str, security: list[Json], schemes: Json) -> str:
    """What an operation asks for. API Gateway does not honour `security` of the whole body: it is refused there."""
    names = [name for alternative in security for name in alternative]
    if not names:
        return "NONE"
    scheme = schemes.get(names[0])
    if len(names) > 1 or scheme not in (API_KEY_SCHEME, IAM_SCHEME):
        raise ValueError(f"{where}.security: {names} must be one scheme, {API_KEY_SCHEME} or {IAM_SCHEME}")
    return "API_KEY" if scheme == API_KEY_SCHEME else "AWS_IAM"


def _model_type(where: str, content: Json, models: Json) -> type:
    """The type that a model asks for. Other keywords are refused: API Gateway ignores some of them without a word."""
    allow(where, content, "schema")
    allow(where, content["schema"], "$ref")
    name = content["schema"]["$ref"].removeprefix("#/components/schemas/")
    if name not in models or not name.isalnum():
        raise ValueError(f"{where}: {content['schema']} leads to no model with a name of letters and digits")
    allow(f"{where}: {name}", models[name], "type", "title", "description")
    allow(f"{where}: {name}.type", {models[name]["type"]: None}, *MODEL_TYPES)
    return MODEL_TYPES[models[name]["type"]]


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
    kind = str(integration.get("type")).lower()
    allow(f"{where}: integration type", {kind: None}, "aws", "mock")
    if kind == "mock":
        allow(f"{where}: integration", integration, "type", "passthroughBehavior", "requestTemplates", "responses")
        allow(f"{where}: passthroughBehavior", {str(integration["passthroughBehavior"]): None}, "when_no_match")
        return "", "", ""
    allow(f"{where}: integration", integration, "type", "requestTemplates", "responses", "requestParameters", *TARGET)
    for name, pattern in TARGET.items():
        if not pattern.fullmatch(str(integration.get(name))):
            raise ValueError(f"{where}: {name} must match {pattern.pattern} (got {integration.get(name)})")
    # It matches: the loop has refused what does not.
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
    allow(f"{where}: responseTemplates", response.get("responseTemplates", {}), "application/json")
    template = _compile_templates(where, response.get("responseTemplates", {})).get("application/json")
    return IntegrationResponse(None if pattern == "default" else re.compile(pattern), int(status), headers, template)
