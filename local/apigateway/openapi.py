"""An API from its OpenAPI body: imported and compiled once, and then each operation's checks and answers.

API Gateway does not run OpenAPI: its import makes calls, such as PutMethod, and runs the objects stored by them. So
`compile_definition` translates a body into those calls, in their shapes, and compiles them. A key without a place in
them, or not implemented, is refused by name with a ValueError. `GATEWAY_RESPONSES` are the answers of API Gateway
itself, to requests without an integration or with a failing one.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from local import shapes
from local.apigateway.velocity import Input, MappingTemplate, Override, Util

Json = dict[str, Any]

VALIDATORS, VALIDATOR = "x-amazon-apigateway-request-validators", "x-amazon-apigateway-request-validator"
RESPONSES, INTEGRATION = "x-amazon-apigateway-gateway-responses", "x-amazon-apigateway-integration"
HEADER, GATEWAY_HEADER = "method.response.header.", "gatewayresponse.header."
JSON_TYPE = "application/json"
METHODS = ("get", "put", "post", "delete", "options", "head", "patch")
# The types of gateway response possible here: status, x-amzn-ErrorType, and a message if all have the same.
GATEWAY_RESPONSES = {
    "ACCESS_DENIED": (403, "AccessDeniedException", ""),
    "API_CONFIGURATION_ERROR": (500, "InternalServerErrorException", "Internal server error"),
    "BAD_REQUEST_BODY": (400, "BadRequestException", "Invalid request body"),
    "INTEGRATION_FAILURE": (504, "InternalServerErrorException", "Network error communicating with endpoint"),
    "INTEGRATION_TIMEOUT": (504, "InternalServerErrorException", "Endpoint request timed out"),
    "INVALID_API_KEY": (403, "ForbiddenException", "Forbidden"),
    "INVALID_SIGNATURE": (403, "InvalidSignatureException", ""),
    "MISSING_AUTHENTICATION_TOKEN": (403, "MissingAuthenticationTokenException", "Missing Authentication Token"),
    "THROTTLED": (429, "TooManyRequestsException", "Too Many Requests"),
    "UNSUPPORTED_MEDIA_TYPE": (415, "BadRequestException", "Unsupported Media Type"),
}
# Those without customisation: they come before the API is known, and end the connection, because some of them come
# before the request is read to its end.
EARLY_RESPONSES = {
    "BAD_QUERY_STRING": (400, "BadRequestException", "Bad Request"),
    "REQUEST_HEADERS_TOO_LARGE": (431, "RequestTooLargeException", "Request Header Fields Too Large"),
    "REQUEST_TIMEOUT": (408, "RequestTimeoutException", "Request Timeout"),
    "REQUEST_TOO_LARGE": (413, "RequestTooLargeException", "Request Too Long"),
    "UNSUPPORTED_CODING": (415, "BadRequestException", "Unsupported Media Type"),
}
GATEWAY_TEMPLATE = '{"message":$context.error.messageString}'
GATEWAY_VARIABLES = ("error.message", "error.messageString", "error.responseType", "requestId", "extendedRequestId")
GATEWAY_VARIABLE = re.compile(r"\$context\.([\w.]*\w)")
# The schemes allowed in `security`, by their definitions.
API_KEY_SCHEME = {"type": "apiKey", "name": "x-api-key", "in": "header"}
IAM_SCHEME = {**API_KEY_SCHEME, "name": "Authorization", "x-amazon-apigateway-authtype": "awsSigv4"}
MODEL_TYPES = {"object": dict, "array": list}
PARAMETER = re.compile(r"\{([A-Za-z]+)\}")
PATH_PARAMETER = {"in": "path", "required": True, "schema": {"type": "string"}}
PATH = re.compile(r"/|(/([\w-]+|\{[A-Za-z]+\}))+")
DOCUMENTATION = ("summary", "description", "tags")
# Required members of an integration with an AWS service.
TARGET = {
    "uri": re.compile(r"arn:aws[\w-]*:apigateway:[\w-]+:(\w+):action/(\w+)"),
    "httpMethod": re.compile("POST"),
    "credentials": re.compile(r"arn:aws[\w-]*:iam::\d+:role/.+"),
    # Else a client could send a request of its own to the service, under a content type without a template.
    "passthroughBehavior": re.compile("NEVER"),
}
# The calls of an import, and the keys of the OpenAPI object behind each. Other keys are not implemented.
CALLS: dict[str, tuple[str, ...]] = {
    "CreateModel": (),
    "CreateRequestValidator": ("validateRequestBody", "validateRequestParameters"),
    "PutGatewayResponse": ("responseParameters", "responseTemplates"),
    "PutMethod": (
        *("operationId", "security", "parameters", "requestBody", VALIDATOR, "responses", INTEGRATION, *DOCUMENTATION),
    ),
    "PutMethodResponse": ("headers", "description"),
    "PutIntegration": (*TARGET, "type", "requestParameters", "requestTemplates", "responses"),
    "PutIntegrationResponse": ("statusCode", "responseParameters", "responseTemplates"),
}
# The members for keys with another name there; None: keys with calls of their own, or without effect.
MEMBERS: dict[str, str | None] = {
    **{"operationId": "operationName", "security": "authorizationType", "requestBody": "requestModels"},
    **{VALIDATOR: "requestValidatorId", "headers": "responseParameters", "httpMethod": "integrationHttpMethod"},
    **dict.fromkeys(("parameters", "responses", INTEGRATION, *DOCUMENTATION)),
}
CONTENT_TYPE_PARAMETER = {"integration.request.header.Content-Type": "'application/x-amz-json-1.1'"}


def _refuse(constant: str) -> None:
    raise ValueError(constant)


# Python would read NaN, though it is not JSON, and refuse integers of 4,300 digits, though they are.
JSON = json.JSONDecoder(parse_constant=_refuse, parse_int=float)


class GatewayError(Exception):
    """The request ends here, with the gateway response of this type."""

    def __init__(self, response_type: str, message: str = "", error_type: str = "") -> None:
        super().__init__(response_type)
        self.response_type = response_type
        self.status, usual_type, usual_message = {**GATEWAY_RESPONSES, **EARLY_RESPONSES}[response_type]
        self.error_type, self.message = error_type or usual_type, message or usual_message


@dataclass(frozen=True)
class Request:
    """A client's request, as mapping templates see it. Names of headers are in lower case."""

    context: Json
    headers: dict[str, str]
    query: dict[str, str]
    variables: dict[str, str]
    path: dict[str, str]
    """The parameters of the resource's path."""

    @property
    def media_type(self) -> str:
        """The type of the body; API Gateway drops its parameters and case, and takes a missing one for JSON."""
        return self.headers.get("content-type", "").partition(";")[0].strip().lower() or "application/json"

    def rendered(self, template: MappingTemplate, body: str, **context: Any) -> str:
        """A mapping template's text for a body of this request or of the answer to it."""
        payload = Input(body, self.query, self.headers, self.path)
        values = {"context": {**self.context, **context}, "stageVariables": self.variables}
        return template.render(input=payload, util=Util(), **values)


@dataclass(frozen=True)
class Response:
    """The answer to the client."""

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
    is_declared: bool  # as a response of the method
    headers: dict[str, str]
    template: MappingTemplate | None

    def respond(self, body: str, request: Request) -> Response:
        """Map the integration's body, whatever the client accepts: a response has one template, or passes the body."""
        headers = {"content-type": "application/json", **self.headers}
        if self.template is None:
            return Response(self.status, headers, body)
        override = Override()
        text = request.rendered(self.template, body, responseOverride=override)
        return Response(int(override.get("status", self.status)), {**headers, **override.headers}, text)


@dataclass(frozen=True)
class Operation:
    """One method of one path: its checks and its integration. A mock has no service and no action."""

    authorization: str  # NONE, API_KEY or AWS_IAM
    models: dict[str, type]
    service: str
    action: str
    credentials: str
    request_templates: dict[str, MappingTemplate]
    responses: list[IntegrationResponse]

    def validate(self, body: str, request: Request) -> None:
        """Raise GatewayError if the body's type has a model, and the body is not JSON of the model's type."""
        model = self.models.get(request.media_type)
        if model and not is_json(body, model):
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
        if response is None or not response.is_declared:
            raise ValueError(f"the method declares no response for the integration's status {status}")
        return response


@dataclass(frozen=True)
class Definition:
    """A compiled OpenAPI body."""

    operations: dict[tuple[str, str], Operation]
    gateway_responses: dict[str, GatewayResponse]

    def resource(self, path: str) -> tuple[str, dict[str, str]]:
        """The path of a request's resource, and its parameters: a resource without any goes first."""
        resources = dict.fromkeys(resource for _, resource in self.operations)
        if path not in resources:
            for resource in resources:
                if found := re.fullmatch(PARAMETER.sub(r"(?P<\1>[^/]+)", resource), path):
                    return resource, found.groupdict()
        return path, {}

    def respond(self, error: GatewayError, context: Json) -> Response:
        """The gateway response for an error: by its type, else by its family, else API Gateway's own."""
        plain = PLAIN_ACCESS_DENIED if error.response_type == "ACCESS_DENIED" else PLAIN
        family = self.gateway_responses.get("DEFAULT_4XX" if error.status < 500 else "DEFAULT_5XX", plain)
        found = self.gateway_responses.get(error.response_type, family)
        return (CLOSING if error.response_type in EARLY_RESPONSES else found).respond(error, context)


def is_json(body: str, model: type) -> bool:
    """Whether a body is JSON of this type."""
    try:
        return isinstance(JSON.decode(body), model)
    except (ValueError, RecursionError):
        return False


def allow(where: str, mapping: Mapping[str, Any], *names: str) -> None:
    """Raise ValueError with the names not implemented, so no setting is silently without effect."""
    unknown = ", ".join(sorted(set(mapping) - set(names)))
    if unknown:
        raise ValueError(f"{where}: the local API Gateway does not implement {unknown} (only {', '.join(names)})")


def compile_definition(body: Json, services: Iterable[str]) -> Definition:
    """Compile an OpenAPI 3.0 body whose integrations call some of `services`."""
    try:
        return Import(body, services).definition()
    except (re.error, AttributeError, KeyError, TypeError) as error:
        raise ValueError(f"Body is not an OpenAPI document: {type(error).__name__}: {error}") from error


class Import:
    """The import of a body: calls in API Gateway's shapes. A key without a place in them cannot work.

    API Gateway keeps each call under the parts of its URL, or under its name: one integration response of a method for
    each status code. A second call of the same key would replace the first without a word, and so is refused.
    """

    def __init__(self, body: Json, services: Iterable[str]) -> None:
        self.body, self.services = body, services
        self.made: dict[tuple[str, ...], Json] = {}

    def make(self, where: str, call: str, given: Json, **members: Any) -> Json:
        """The object stored by API Gateway for the call, from an OpenAPI object and `members`."""
        allow(where, given, *CALLS[call])
        placed = {MEMBERS.get(name, name): value for name, value in given.items()} | {"restApiId": "this", **members}
        shape = shapes.input_of("apigateway", call)
        try:
            stored: Json = shapes.conform({name: value for name, value in placed.items() if name}, shape)
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from error
        in_url = [name for name, member in shape.members.items() if member.serialization.get("location") == "uri"]
        key = (call, *(stored[name] for name in (*in_url, "name") if name in stored and name != "restApiId"))
        if key in self.made:
            raise ValueError(f"{where}: API Gateway keeps one {' '.join(key)}, and this is another")
        self.made[key] = stored
        return stored

    def definition(self) -> Definition:
        """All calls, compiled."""
        body, components = self.body, self.body.get("components", {})
        allow("Body", body, "openapi", "info", "paths", "components", "tags", VALIDATORS, VALIDATOR, RESPONSES)
        if not str(body.get("openapi")).startswith("3.0."):
            raise ValueError(f"Body: openapi must be 3.0.x (got {body.get('openapi')!r})")
        allow("Body.components", components, "schemas", "securitySchemes")
        for name, schema in components.get("schemas", {}).items():
            if not name.isalnum():
                raise ValueError(f"Body.components.schemas: the name {name} must be letters and digits")
            self.make(name, "CreateModel", {}, name=name, contentType=JSON_TYPE, schema=json.dumps(schema))
        for name, checks in body.get(VALIDATORS, {}).items():
            self.make(f"Body.{VALIDATORS}.{name}", "CreateRequestValidator", checks, name=name)
        allow(f"Body.{RESPONSES}", body.get(RESPONSES, {}), "DEFAULT_4XX", "DEFAULT_5XX", *GATEWAY_RESPONSES)
        gateway_responses = {}
        for name, response in body.get(RESPONSES, {}).items():
            where = f"Body.{RESPONSES}.{name}"
            stored = self.make(where, "PutGatewayResponse", response, responseType=name)
            gateway_responses[name] = _compile_gateway_response(where, stored)
        operations = {}
        for path, methods in body.get("paths", {}).items():
            if not PATH.fullmatch(path):
                raise ValueError(
                    f"Body.paths.{path}: the local API Gateway implements names and {{names}} in a path alone"
                )
            allow(f"Body.paths.{path}", methods, *METHODS)
            for method, operation in methods.items():
                operations[method.upper(), path] = self._operation(path, method, operation)
        return Definition(operations, gateway_responses)

    def _operation(self, path: str, method: str, operation: Json) -> Operation:
        where = f"Body.paths.{path}.{method}"
        at: Json = {"resourceId": path, "httpMethod": method.upper()}
        if INTEGRATION not in operation:
            raise ValueError(f"{where}: No integration defined for method")
        authorization = self._authorization(where, operation.get("security", []))
        models = self._models(where, at, authorization, {VALIDATOR: self.body.get(VALIDATOR, ""), **operation})
        for status, response in operation.get("responses", {}).items():
            headers = {f"{HEADER}{name}": False for name in response.get("headers", {})}
            here = f"{where}.responses.{status}"
            self.make(here, "PutMethodResponse", response, **at, statusCode=status, responseParameters=headers)
        integration = operation[INTEGRATION]
        upper = {name: str(integration.get(name)).upper() for name in ("type", "passthroughBehavior")}
        target = self.make(f"{where}: integration", "PutIntegration", integration, **at, **upper)
        service, action, credentials = _compile_target(where, target, self.services)
        templates = _compile_templates(f"{where}: requestTemplates", target.get("requestTemplates", {}))
        responses = [
            self._response(f"{where}: integration response {pattern}", at, pattern, response)
            for pattern, response in integration.get("responses", {}).items()
        ]
        return Operation(authorization, models, service, action, credentials, templates, responses)

    def _models(self, where: str, at: Json, authorization: str, operation: Json) -> dict[str, type]:
        """Make the method itself; returns the required types of its bodies, by their media types."""
        # It has no place for `required`: an empty body is an empty object.
        allow(f"{where}.requestBody", operation.get("requestBody", {}), "content", "description")
        models = {}
        for media, content in operation.get("requestBody", {}).get("content", {}).items():
            allow(f"{where}.requestBody.content.{media}", content, "schema")
            allow(f"{where}.requestBody.content.{media}.schema", content["schema"], "$ref")
            models[_media_key(where, media)] = content["schema"]["$ref"].removeprefix("#/components/schemas/")
        declared = operation.get("parameters", [])
        if declared != [PATH_PARAMETER | {"name": name} for name in PARAMETER.findall(at["resourceId"])]:
            raise ValueError(f"{where}.parameters must be those of the path, each as {PATH_PARAMETER}")
        needed = {
            "authorizationType": authorization.replace("API_KEY", "NONE"),
            "requestModels": models,
            "requestParameters": {f"method.request.path.{parameter['name']}": True for parameter in declared},
        }
        method = self.make(where, "PutMethod", operation, **at, **needed, apiKeyRequired=authorization == "API_KEY")
        validator = method["requestValidatorId"]
        if validator and ("CreateRequestValidator", validator) not in self.made:
            raise ValueError(f"{where}: the request validator {validator} is not defined")
        types = {media: self._model_type(where, name) for media, name in method["requestModels"].items()}
        return types if self.made.get(("CreateRequestValidator", validator), {}).get("validateRequestBody") else {}

    def _authorization(self, where: str, security: list[Json]) -> str:
        """An operation's authorization. API Gateway ignores `security` of the whole body: it is refused there."""
        names = [name for alternative in security for name in alternative]
        if not names:
            return "NONE"
        scheme = self.body.get("components", {}).get("securitySchemes", {}).get(names[0])
        if len(names) > 1 or scheme not in (API_KEY_SCHEME, IAM_SCHEME):
            raise ValueError(f"{where}.security: {names} must be one scheme, {API_KEY_SCHEME} or {IAM_SCHEME}")
        return "API_KEY" if scheme == API_KEY_SCHEME else "AWS_IAM"

    def _model_type(self, where: str, name: str) -> type:
        """The type in a model. Other keywords are refused: API Gateway ignores some of them in silence."""
        if ("CreateModel", name) not in self.made:
            raise ValueError(f"{where}.requestBody: there is no model {name}")
        model = json.loads(self.made["CreateModel", name]["schema"])
        allow(f"{where}: {name}", model, "type", "title", "description", "items")
        if model.get("items"):
            raise ValueError(f"{where}: {name}: the local API Gateway implements items only as {{}}, which is anything")
        allow(f"{where}: {name}.type", {model["type"]: None}, *MODEL_TYPES)
        return MODEL_TYPES[model["type"]]

    def _response(self, where: str, at: Json, pattern: str, response: Json) -> IntegrationResponse:
        # An empty template is stored as none, and without one the integration's body passes through.
        templates = {media: text for media, text in response.get("responseTemplates", {}).items() if text}
        members = {**at, "responseTemplates": templates, "selectionPattern": "" if pattern == "default" else pattern}
        stored = self.make(where, "PutIntegrationResponse", response, **members)
        status, parameters = stored["statusCode"], stored.get("responseParameters", {})
        if int(status) < 200:
            raise ValueError(f"{where}: the local API Gateway does not implement the status {status}")
        # An undeclared status shows when a request comes (500); an undeclared header already when the API is imported.
        declared = self.made.get(("PutMethodResponse", *at.values(), status))
        if declared and (undeclared := parameters.keys() - declared["responseParameters"].keys()):
            raise ValueError(f"{where}: the method's response {status} declares no {', '.join(sorted(undeclared))}")
        allow(f"{where}: responseTemplates", templates, JSON_TYPE)
        matched = re.compile(pattern) if pattern != "default" else None
        template = _compile_templates(where, templates).get(JSON_TYPE)
        headers = _static_headers(where, parameters, HEADER)
        return IntegrationResponse(matched, int(status), bool(declared), headers, template)


def _media_key(where: str, media: str) -> str:
    if not re.fullmatch(r"[\w.+-]+/[\w.+-]+", media):
        raise ValueError(f"{where}: {media!r} must be a media type: no parameters, no wildcards")
    return media.lower()


def _compile_target(where: str, integration: Json, services: Iterable[str]) -> tuple[str, str, str]:
    """An integration's target, as (service, action, role ARN); all empty for a mock."""
    allow(f"{where}: integration type", {integration["type"]: None}, "AWS", "MOCK")
    if integration["type"] == "MOCK":
        at = ("restApiId", "resourceId", "httpMethod")
        allow(f"{where}: integration of type MOCK", integration, *at, "type", "passthroughBehavior", "requestTemplates")
        allow(f"{where}: passthroughBehavior", {integration["passthroughBehavior"]: None}, "WHEN_NO_MATCH")
        return "", "", ""
    for name, pattern in TARGET.items():
        value = integration.get(MEMBERS.get(name) or name, "")
        if not pattern.fullmatch(value):
            raise ValueError(f"{where}: {name} must match {pattern.pattern} (got {value})")
    target = TARGET["uri"].fullmatch(integration["uri"])
    assert target  # the loop has refused all others
    service, action = target.groups()
    allow(f"{where}: service of the integration", {service: None}, *services)
    if integration.get("requestParameters") != CONTENT_TYPE_PARAMETER:
        raise ValueError(f"{where}: requestParameters must be {CONTENT_TYPE_PARAMETER}, as the service reads no other")
    return service, action, integration["credentials"]


def _compile_templates(where: str, templates: Json) -> dict[str, MappingTemplate]:
    if empty := [media for media, text in templates.items() if not text]:
        raise ValueError(f"{where}.{empty[0]} is empty: the local API Gateway implements no empty request template")
    return {_media_key(where, media): MappingTemplate(f"{where}.{media}", text) for media, text in templates.items()}


def _compile_gateway_response(where: str, response: Json) -> GatewayResponse:
    templates = response.get("responseTemplates", {})
    allow(f"{where}.responseTemplates", templates, JSON_TYPE)
    template = templates.get(JSON_TYPE, GATEWAY_TEMPLATE)
    allow(f"{where}: $context", dict.fromkeys(GATEWAY_VARIABLE.findall(template)), *GATEWAY_VARIABLES)
    return GatewayResponse(_static_headers(where, response.get("responseParameters", {}), GATEWAY_HEADER), template)


def _static_headers(where: str, parameters: Json, prefix: str) -> dict[str, str]:
    headers = {}
    for name, value in parameters.items():
        if not name.startswith(prefix) or not re.fullmatch("'[ !-&(-~]*'", value):
            raise ValueError(f"{where}: {name} must be {prefix}NAME with a static value in single quotes (got {value})")
        headers[name.removeprefix(prefix).lower()] = value[1:-1]
    return headers
