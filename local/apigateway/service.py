"""Runs the template's REST API as API Gateway does: deployments and stages, throttling, integrations, answers.

`ApiGateway.register` gives CloudFormation the resource types RestApi, Deployment and Stage; `ApiGateway.serve` answers
requests to `/_aws/execute-api/{api id}/{stage}/{path}`. An API is its OpenAPI body, a deployment an immutable snapshot
of that body, and a stage serves one deployment. Properties not implemented are refused by name, on creation.

A payload is UTF-8 text, as API Gateway reads every type not listed as binary (such a list is not implemented): bytes
other than UTF-8 arrive as U+FFFD. API keys and usage plans are MiniStack's resources, as are users and roles: the
emulator decides on the permission to call an operation.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import functools
import json
import logging
import os
import re
import secrets
import string
import time
import uuid
import zlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

from local import shapes
from local.apigateway import java
from local.apigateway.openapi import (
    PLAIN,
    Definition,
    GatewayError,
    Operation,
    Request,
    Response,
    allow,
    compile_definition,
)
from local.asgi import Receive, Scope, Send
from local.cloudwatch.metrics import Metrics
from local.ministack import AccessDenied, Emulator, InvalidSignature
from local.ministack.resources import Resources

Json = dict[str, Any]
Integration = Callable[[str, Json, str], Awaitable[tuple[int, Json]]]

LOG = logging.getLogger(__name__)
PAYLOAD_LIMIT = 10 * 1024 * 1024
HEADERS_LIMIT = 10_240
BODY_TIMEOUT_SECONDS = 30.0
# zlib's window bits for a content coding: gzip with its header, and deflate, a zlib stream (RFC 1950).
CODINGS = {"gzip": 31, "deflate": 15}
# How long a client refused in the midst of its body may go on sending: closed at once, it would see no answer.
LINGER_SECONDS = 1.0
INTEGRATION_TIMEOUT_SECONDS = 29.0
# An account's limits in a region, if a stage or a usage plan sets none.
ACCOUNT_RATE, ACCOUNT_BURST = 10_000, 5_000
# MiniStack's own resources, and their properties with an effect here.
KEY_RESOURCES = {
    "AWS::ApiGateway::ApiKey": ("Name", "Description", "Enabled", "Value", "Tags"),
    "AWS::ApiGateway::UsagePlan": ("UsagePlanName", "Description", "ApiStages", "Throttle", "Tags"),
    "AWS::ApiGateway::UsagePlanKey": ("KeyId", "KeyType", "UsagePlanId"),
}
# A stage variable, as name=value: the CreateStage call says so in words, and the quotas say how long.
VARIABLE = re.compile(r"\w{1,64}=[A-Za-z0-9\-._~:/?#&=,]{1,512}", re.ASCII)
UUID = re.compile(r"[0-9a-fA-F]{8}-(?:[0-9a-fA-F]{4}-){3}[0-9a-fA-F]{12}")


class ClientDisconnected(Exception):
    """The client left before its body was complete: nothing is sent on, and no answer is possible."""


class TokenBucket:
    """Throttling: `rate` requests a second, at most `burst` at once. Times are in seconds."""

    def __init__(self, rate: float, burst: float, now: float) -> None:
        self.rate, self.burst, self.tokens, self.filled = rate, burst, burst, now

    def take(self, now: float) -> bool:
        """Take a token; False when there is none."""
        tokens = min(self.burst, self.tokens + max(0.0, now - self.filled) * self.rate)
        self.filled, self.tokens = now, tokens - 1 if tokens >= 1 else tokens
        return tokens >= 1


@dataclass(frozen=True)
class LiveStage:
    """A stage at work."""

    definition: Definition
    buckets: dict[tuple[str, str], TokenBucket]
    """One for each method of a path: a stage's limits hold for each of them on its own."""
    variables: dict[str, str]
    metrics: Metrics
    """Of the whole API."""
    method_metrics: dict[tuple[str, str], Metrics]
    """Of each method of a path, if the stage has MetricsEnabled."""


class ApiGateway:
    """The REST APIs of an emulator. An integration is called as (action, request, role ARN) -> (status, body).

    State is in `directory`. Errors of the API itself (a failing template, an undeclared status) end in a 500 without
    a reason, as on AWS; the reason goes to this module's logger.
    """

    def __init__(
        self,
        emulator: Emulator,
        directory: Path,
        integrations: dict[str, Integration],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.emulator, self.integrations, self.clock = emulator, integrations, clock
        self.apis = Resources(directory / "apis.json")
        self.deployments = Resources(directory / "deployments.json")
        self.stages = Resources(directory / "stages.json")
        self.live: dict[str, LiveStage] = {}
        self.usage: dict[tuple[str, str], TokenBucket] = {}

    def register(self) -> None:
        """Give CloudFormation the resource types. The physical id of a stage is its name: its properties find it."""
        self.emulator.add_resource(
            "AWS::ApiGateway::RestApi",
            create=lambda logical_id, properties, stack: self._put_api(_new_id(10), properties),
            update=lambda api_id, old, properties, stack: self._put_api(api_id, properties),
            delete=lambda api_id, properties: self._forget(self.apis, api_id),
        )
        self.emulator.add_resource(
            "AWS::ApiGateway::Deployment",
            create=lambda logical_id, properties, stack: self._put_deployment(_new_id(6), properties),
            update=lambda deployment_id, old, properties, stack: self._put_deployment(deployment_id, properties),
            delete=self._delete_deployment,
            replacing=("RestApiId",),
        )
        self.emulator.add_resource(
            "AWS::ApiGateway::Stage",
            create=lambda logical_id, properties, stack: self._put_stage(properties, is_new=True),
            update=lambda name, old, properties, stack: self._put_stage(properties, is_new=False),
            delete=lambda name, properties: self._forget(self.stages, _stage_key(properties)),
            replacing=("RestApiId", "StageName"),
        )
        for resource_type in KEY_RESOURCES:
            self.emulator.check_resource(resource_type, functools.partial(self._check, resource_type))

    def _put_api(self, api_id: str, properties: Json) -> tuple[str, Json]:
        where = "AWS::ApiGateway::RestApi"
        allow(where, properties, "Name", "Description", "Body", "EndpointConfiguration", "Tags")
        allow(f"{where} EndpointConfiguration", properties.get("EndpointConfiguration", {}), "Types")
        # A copy through JSON turns every key into a string, because statuses are looked up as strings.
        body = json.loads(json.dumps(properties.get("Body", {})))
        compile_definition(body, self.integrations)
        root = self.apis.get(api_id, {}).get("RootResourceId") or _new_id(10)
        self.apis[api_id] = {"Name": properties.get("Name"), "Body": body, "RootResourceId": root}
        self.apis.save()
        return api_id, {"RootResourceId": root}

    def _put_deployment(self, deployment_id: str, properties: Json) -> tuple[str, Json]:
        allow("AWS::ApiGateway::Deployment", properties, "RestApiId", "Description")
        api_id = properties["RestApiId"]
        if api_id not in self.apis:
            raise ValueError(f"Invalid API identifier specified {self.emulator.account}:{api_id}")
        # An update keeps the snapshot: only a new deployment takes a new one.
        if deployment_id not in self.deployments:
            self.deployments[deployment_id] = {"RestApiId": api_id, "Body": self.apis[api_id]["Body"]}
            self.deployments.save()
        return deployment_id, {"DeploymentId": deployment_id}

    def _delete_deployment(self, deployment_id: str, properties: Json) -> None:
        if any(stage["DeploymentId"] == deployment_id for stage in self.stages.values()):
            raise ValueError("Active stages pointing to this deployment must be moved or deleted")
        self._forget(self.deployments, deployment_id)

    def _put_stage(self, properties: Json, is_new: bool) -> tuple[str, Json]:
        where, names = "AWS::ApiGateway::Stage", ("RestApiId", "DeploymentId", "StageName", "Description", "Tags")
        allow(where, properties, *names, "MethodSettings", "TracingEnabled", "Variables")
        # MethodSettings are changes after the call.
        given = {
            name[0].lower() + name[1:]: value
            for name, value in properties.items()
            if name not in ("MethodSettings", "Tags")
        }
        stored: Json = shapes.conform(given, shapes.input_of("apigateway", "CreateStage"))
        for name, value in stored.get("variables", {}).items():
            if not VARIABLE.fullmatch(f"{name}={value}"):
                raise ValueError(f"{where}: Variables.{name} is {value!r}, but must match {VARIABLE.pattern}")
        settings: Json = next(iter(properties.get("MethodSettings", [])), {})
        names = ("ResourcePath", "HttpMethod", "MetricsEnabled", "ThrottlingRateLimit", "ThrottlingBurstLimit")
        allow(f"{where} MethodSettings", settings, *names)
        if properties.get("MethodSettings", []) not in ([], [{**settings, "ResourcePath": "/*", "HttpMethod": "*"}]):
            raise ValueError(f"{where}: MethodSettings must be one entry, with ResourcePath /* and HttpMethod *")
        deployment = self.deployments.get(properties["DeploymentId"], {})
        if deployment.get("RestApiId") != properties["RestApiId"]:
            raise ValueError(f"Invalid Deployment identifier specified: {properties['DeploymentId']}")
        key = _stage_key(properties)
        if is_new and key in self.stages:
            raise ValueError("Stage already exists")
        self.stages[key] = properties
        self.stages.save()
        self.live.pop(key, None)
        return properties["StageName"], {}

    def _check(self, resource_type: str, properties: Json) -> None:
        allow(resource_type, properties, *KEY_RESOURCES[resource_type])
        allow(f"{resource_type}: Throttle", properties.get("Throttle", {}), "RateLimit", "BurstLimit")
        for stage in properties.get("ApiStages", []):
            allow(f"{resource_type}: ApiStages", stage, "ApiId", "Stage")
            if f"{stage['ApiId']}/{stage['Stage']}" not in self.stages:
                raise ValueError(f"API Stage not found: {stage['ApiId']}:{stage['Stage']}")

    def _forget(self, resources: Resources, key: str) -> None:
        resources.pop(key, None)
        resources.save()
        self.live.pop(key, None)

    def _live_stage(self, key: str) -> LiveStage | None:
        """A stage with its definition, compiled when the first request comes."""
        if key not in self.live and key in self.stages:
            stage = self.stages[key]
            settings: Json = next(iter(stage.get("MethodSettings", [])), {})
            rate = float(settings.get("ThrottlingRateLimit", ACCOUNT_RATE))
            burst = float(settings.get("ThrottlingBurstLimit", ACCOUNT_BURST))
            definition = compile_definition(self.deployments[stage["DeploymentId"]]["Body"], self.integrations)
            self.live[key] = LiveStage(
                definition,
                {method: TokenBucket(rate, burst, self.clock()) for method in definition.operations},
                {name: str(value) for name, value in stage.get("Variables", {}).items()},
                self._metrics(stage),
                {
                    (method, path): self._metrics(stage, Method=method, Resource=path, Stage=stage["StageName"])
                    for method, path in (definition.operations if settings.get("MetricsEnabled") else ())
                },
            )
        return self.live.get(key)

    def _metrics(self, stage: Json, **dimensions: str) -> Metrics:
        """The metrics of a stage's whole API, or of one of its methods; metrics by stage are not put.

        https://docs.aws.amazon.com/apigateway/latest/developerguide/api-gateway-metrics-and-dimensions.html
        """
        api = self.apis[stage["RestApiId"]]
        name = api.get("Name") or api["Body"].get("info", {}).get("title", "")
        named = {"ApiName": name, **dimensions}
        return Metrics(self.emulator, "AWS/ApiGateway", named, distributions=("Latency",))

    async def serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one HTTP request, as an ASGI application."""
        # ["", "_aws", "execute-api", api id, stage, the rest]
        api_id, stage_name, rest = (*scope["path"].split("/", 5)[3:], "", "", "")[:3]
        began = time.monotonic()
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        context = self._context(scope, headers, api_id, stage_name, f"/{rest}")
        try:
            stage = self._live_stage(f"{api_id}/{stage_name}")
            if stage is None:
                response = PLAIN.respond(GatewayError("INVALID_API_KEY"), context)
            else:
                # API Gateway takes a semicolon for an ampersand.
                text = scope["query_string"].decode("utf-8", "replace").replace(";", "&")
                query = dict(parse_qsl(text, keep_blank_values=True))
                context["resourcePath"], parameters = stage.definition.resource(f"/{rest}")
                request = Request(context, headers, query, stage.variables, parameters)
                response = await self._answer(stage, request, scope, receive)
                values = {f"{kind}XXError": int(response.status // 100 == kind) for kind in (4, 5)}
                values |= {"Count": 1, "Latency": round((time.monotonic() - began) * 1000)}
                stage.metrics.add(**values)
                if counted := stage.method_metrics.get((context["httpMethod"], context["resourcePath"])):
                    counted.add(**values)
        except ClientDisconnected:
            return
        except ValueError as error:
            # An earlier version took the snapshot, and implemented more.
            LOG.error("%s/%s: %s: deploy the stack again", api_id, stage_name, error)
            response = PLAIN.respond(GatewayError("API_CONFIGURATION_ERROR"), context)
        body = b"" if response.status == 204 or scope["method"] == "HEAD" else response.body.encode("utf-8", "replace")
        sent = {"x-amzn-requestid": context["requestId"], "x-amz-apigw-id": context["extendedRequestId"]}
        sent |= response.headers
        if response.status != 204:
            sent["content-length"] = str(len(body))
        encoded = [(name.encode("latin-1"), value.encode("latin-1", "replace")) for name, value in sent.items()]
        await send({"type": "http.response.start", "status": response.status, "headers": encoded})
        await send({"type": "http.response.body", "body": body, "more_body": "connection" in sent})
        if "connection" in sent:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LINGER_SECONDS):
                    while (await receive()).get("more_body"):
                        await asyncio.sleep(0)
            await send({"type": "http.response.body"})

    async def _answer(self, stage: LiveStage, request: Request, scope: Scope, receive: Receive) -> Response:
        context = request.context
        try:
            if sum(len(name) + len(value) for name, value in scope["headers"]) > HEADERS_LIMIT:
                raise GatewayError("REQUEST_HEADERS_TOO_LARGE")
            if b"|" in scope["query_string"]:
                raise GatewayError("BAD_QUERY_STRING")
            packed = await read_body(receive)
            payload = unpack(packed, request.headers.get("content-encoding", ""))
            method = context["httpMethod"], context["resourcePath"]
            operation = stage.definition.operations.get(method)
            if operation is None:
                raise GatewayError("MISSING_AUTHENTICATION_TOKEN")
            usage = None
            if operation.authorization == "AWS_IAM":
                self._authorize(request, scope, packed)
            elif operation.authorization == "API_KEY":
                usage = self._usage(request)
            now = self.clock()
            if not (usage is None or usage.take(now)) or not stage.buckets[method].take(now):
                raise GatewayError("THROTTLED")
            # API Gateway reads an empty body as an empty object, whatever its type.
            body = java.decode(payload) or "{}"
            operation.validate(body, request)
            status, answer = await self._integrate(operation, json.loads(operation.render(body, request)))
            return operation.response_for(status).respond(answer, request)
        except GatewayError as error:
            return stage.definition.respond(error, context)
        except ClientDisconnected:
            raise
        except Exception as error:
            LOG.error("%s %s: %s: %s", context["httpMethod"], context["path"], type(error).__name__, error)
            return stage.definition.respond(GatewayError("API_CONFIGURATION_ERROR"), context)

    def _usage(self, request: Request) -> TokenBucket:
        """The throttle of the request's API key: of its usage plan, counted for each key."""
        context = request.context
        found = self.emulator.usage_plan(request.headers.get("x-api-key", ""), context["apiId"], context["stage"])
        if found is None:
            raise GatewayError("INVALID_API_KEY")
        key_id, plan = found
        rate = float(plan["throttle"].get("rateLimit", ACCOUNT_RATE))
        burst = float(plan["throttle"].get("burstLimit", ACCOUNT_BURST))
        usage = self.usage.get((plan["id"], key_id))
        if usage is None or (usage.rate, usage.burst) != (rate, burst):
            usage = self.usage[plan["id"], key_id] = TokenBucket(rate, burst, self.clock())
        return usage

    def _authorize(self, request: Request, scope: Scope, payload: bytes) -> None:
        """Raise GatewayError if the signature is wrong, or IAM does not let its owner invoke the operation."""
        if not request.headers.get("authorization"):
            raise GatewayError("MISSING_AUTHENTICATION_TOKEN")
        path = request.context["path"].removeprefix(f"/{request.context['stage']}")
        invoked = "{apiId}/{stage}/{httpMethod}".format_map(request.context) + path
        resource = f"arn:aws:execute-api:{self.emulator.region}:{self.emulator.account}:{invoked}"
        try:
            self.emulator.authorize_request(scope, payload, "execute-api", "execute-api:Invoke", resource)
        except InvalidSignature as error:
            raise GatewayError("INVALID_SIGNATURE", str(error), error.error_type) from error
        except AccessDenied as error:
            # API Gateway hides its account in the resource.
            masked = str(error).replace(
                f":{self.emulator.account}:{invoked}", f":********{self.emulator.account[-4:]}:{invoked}"
            )
            raise GatewayError("ACCESS_DENIED", masked) from error

    async def _integrate(self, operation: Operation, content: Json) -> tuple[int, str]:
        """The integration's answer, as status and body; a mock's status comes from its rendered request."""
        if not operation.service:
            return int(content["statusCode"]), ""
        if not isinstance(content, dict):
            raise TypeError("the request template rendered no JSON object")
        try:
            async with asyncio.timeout(INTEGRATION_TIMEOUT_SECONDS):
                call = self.integrations[operation.service]
                status, answer = await call(operation.action, content, operation.credentials)
        except TimeoutError as error:
            raise GatewayError("INTEGRATION_TIMEOUT") from error
        except AccessDenied:
            # The role itself cannot be assumed: the API is configured wrong.
            raise
        except Exception as error:
            LOG.exception("%s of %s failed", operation.action, operation.service)
            raise GatewayError("INTEGRATION_FAILURE") from error
        return status, json.dumps(answer, ensure_ascii=False)

    def _context(self, scope: Scope, headers: dict[str, str], api_id: str, stage: str, path: str) -> Json:
        """`$context`. A client may choose the request id, if it is a UUID; the extended one is always ours."""
        now = self.clock()
        chosen = headers.get("x-amzn-requestid", "")
        return {
            "accountId": self.emulator.account,
            "apiId": api_id,
            "extendedRequestId": base64.b64encode(os.urandom(11)).decode(),
            "httpMethod": scope["method"],
            "identity": {"sourceIp": (scope.get("client") or [None])[0], "userAgent": headers.get("user-agent")},
            "path": f"/{stage}{path}",
            "requestId": chosen if UUID.fullmatch(chosen) else str(uuid.uuid4()),
            "requestTime": time.strftime("%d/%b/%Y:%H:%M:%S +0000", time.gmtime(now)),
            "requestTimeEpoch": int(now * 1000),
            "resourcePath": path,
            "stage": stage,
        }


async def read_body(receive: Receive) -> bytes:
    """The whole body of a request: at most 10 MB, within 30 seconds."""
    parts, size = [], 0
    try:
        async with asyncio.timeout(BODY_TIMEOUT_SECONDS):
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise ClientDisconnected
                parts.append(message.get("body", b""))
                size += len(parts[-1])
                if size > PAYLOAD_LIMIT:
                    raise GatewayError("REQUEST_TOO_LARGE")
                if not message.get("more_body"):
                    return b"".join(parts)
    except TimeoutError as error:
        raise GatewayError("REQUEST_TIMEOUT") from error


def unpack(payload: bytes, coding: str) -> bytes:
    """A payload without its content coding: at most 10 MB unpacked, against small payloads of huge content.

    GatewayError for a coding unknown to API Gateway, and for a payload other than one stream of its coding.
    """
    coding = coding.strip().lower()
    if coding in ("", "identity"):
        return payload
    if coding not in CODINGS:
        raise GatewayError("UNSUPPORTED_CODING")
    stream = zlib.decompressobj(CODINGS[coding])
    try:
        unpacked = stream.decompress(payload, PAYLOAD_LIMIT + 1)
    except zlib.error as error:
        raise GatewayError("UNSUPPORTED_CODING") from error
    if len(unpacked) > PAYLOAD_LIMIT:
        raise GatewayError("REQUEST_TOO_LARGE")
    if not stream.eof or stream.unused_data:
        raise GatewayError("UNSUPPORTED_CODING")
    return unpacked


def _new_id(length: int) -> str:
    return "".join(secrets.choice(string.ascii_lowercase + string.digits) for _ in range(length))


def _stage_key(properties: Json) -> str:
    return f"{properties['RestApiId']}/{properties['StageName']}"
