"""The local API Gateway on its own: with a recording stream, resources without CloudFormation, and a client."""

from __future__ import annotations

import asyncio
import base64
import json
import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from local.apigateway.service import ApiGateway
from scripts.commands.deploy import template as templates

ACCOUNT, REGION = "000000000000", "us-east-1"
HOST = "127.0.0.1:4566"
STACK = templates.load(templates.TEMPLATE.read_text())
REQUIRED = {"ArtifactBucket": "artifacts", "TransformCodeKey": "code.zip"}

Json = dict[str, Any]


def resolve(node: Any, parameters: dict[str, str]) -> Any:
    """A part of template.yaml with its intrinsic functions worked out; a reference to a resource becomes its name."""
    if isinstance(node, list):
        return [resolve(item, parameters) for item in node]
    if not isinstance(node, dict):
        return node
    ((function, value),) = list(node.items()) if len(node) == 1 else [("", None)]
    if function == "Ref":
        return parameters.get(value, value)
    if function == "Fn::GetAtt":
        return f"arn:aws:iam::{ACCOUNT}:role/{value[0]}"
    if function == "Fn::Sub":
        return re.sub(r"\$\{([^!}]+)\}", lambda name: parameters.get(name[1], name[1]), value)
    if function == "Fn::FindInMap":
        mapped, first, second = resolve(value, parameters)
        return STACK["Mappings"][mapped][first][second]
    if function == "Fn::Join":
        return value[0].join(resolve(value[1], parameters))
    if function == "Fn::Split":
        return resolve(value[1], parameters).split(value[0])
    if function == "Fn::Select":
        return resolve(value[1], parameters)[value[0]]
    if function == "Fn::If":
        return resolve(value[1] if _holds(STACK["Conditions"][value[0]], parameters) else value[2], parameters)
    resolved = {key: resolve(item, parameters) for key, item in node.items()}
    return {key: item for key, item in resolved.items() if item != "AWS::NoValue"}


def _holds(condition: Json, parameters: dict[str, str]) -> bool:
    ((function, arguments),) = condition.items()
    if function == "Fn::Not":
        return not _holds(arguments[0], parameters)
    assert function == "Fn::Equals", function
    first, second = resolve(arguments, parameters)
    return bool(first == second)


class FakeEmulator:
    """Registers resources; lets in the API keys in `plans` and the requests not stopped by `authorize_request`."""

    account, region = ACCOUNT, REGION

    def __init__(self) -> None:
        self.resources: dict[str, SimpleNamespace] = {}
        self.checks: dict[str, Callable[[Json], None]] = {}
        self.plans: dict[tuple[str, str, str], tuple[str, Json]] = {}
        self.authorize_request: Callable[..., None] = lambda *_: None

    def add_resource(self, resource_type: str, **handlers: Any) -> None:
        self.resources[resource_type.rsplit("::", 1)[-1]] = SimpleNamespace(**handlers)

    def check_resource(self, resource_type: str, check: Callable[[Json], None]) -> None:
        self.checks[resource_type.rsplit("::", 1)[-1]] = check

    def usage_plan(self, key: str, api_id: str, stage: str) -> tuple[str, Json] | None:
        return self.plans.get((key, api_id, stage))


class FakeFirehose:
    """Records the calls; returns `answer`, or raises it."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, Json, str]] = []
        self.answer: Any = (200, {"RecordId": "record-1", "Encrypted": True})

    async def request(self, action: str, body: Json, role_arn: str) -> tuple[int, Json]:
        self.calls.append((action, body, role_arn))
        if isinstance(self.answer, Exception):
            raise self.answer
        answer: tuple[int, Json] = self.answer
        return answer

    @property
    def record(self) -> bytes:
        ((_, body, _),) = self.calls
        return base64.b64decode(body["Record"]["Data"], validate=True)

    @property
    def context(self) -> dict[str, str]:
        """The pairs of the record's context line."""
        marker, *pairs = self.record.decode().split("\n")[0].split(" ")
        assert marker == "sluice/1"
        return dict(pair.split("=", 1) for pair in pairs)

    @property
    def body(self) -> str:
        """The record's body, between the context line and the end line; the two must fit each other."""
        _, rest = self.record.decode().split("\n", 1)
        end = f"\nsluice/end extended_request_id={self.context['extended_request_id']}\n"
        assert rest.endswith(end)
        return rest.removesuffix(end)


class Answer(SimpleNamespace):
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Gateway:
    """An engine with a fake stream and a stopped clock, one API, and a client."""

    def __init__(self, directory: Path) -> None:
        self.now = 1_800_000_000.0
        self.directory = directory
        self.firehose = FakeFirehose()
        self.restart()

    def restart(self) -> None:
        self.emulator = FakeEmulator()
        integrations: Any = {"firehose": self.firehose.request}
        # A fake with the parts of an emulator used by the engine.
        self.engine = ApiGateway(self.emulator, self.directory, integrations, clock=lambda: self.now)
        self.engine.register()

    def create(self, kind: str, **properties: Any) -> str:
        return str(self.emulator.resources[kind].create("Logical", properties, "stack")[0])

    def update(self, kind: str, physical_id: str, **properties: Any) -> str:
        return str(self.emulator.resources[kind].update(physical_id, {}, properties, "stack")[0])

    def delete(self, kind: str, physical_id: str, **properties: Any) -> None:
        self.emulator.resources[kind].delete(physical_id, properties)

    def deploy(self, body: Json, **stage: Any) -> str:
        """An API with one deployment and its stage prod."""
        self.api = self.create("RestApi", Name="test", Body=body)
        self.deployment = self.create("Deployment", RestApiId=self.api)
        self.stage_properties = {"StageName": "prod", "Variables": {"deliveryStream": "the-stream"}, **stage}
        self.create("Stage", RestApiId=self.api, DeploymentId=self.deployment, **self.stage_properties)
        return self.api

    def deploy_product(self, **given: str) -> str:
        """The API of template.yaml, with these parameters."""
        parameters = {**templates.effective_parameters(STACK, {}, {**REQUIRED, **given})}
        parameters |= {"AWS::Region": REGION, "AWS::Partition": "aws", "AWS::StackName": "stack"}

        def properties(name: str) -> Json:
            resolved: Json = resolve(STACK["Resources"][name]["Properties"], parameters)
            return resolved

        self.api = self.create("RestApi", **properties("IngestApi"))
        self.deployment = self.create("Deployment", **{**properties("IngestDeployment"), "RestApiId": self.api})
        own = {"RestApiId": self.api, "DeploymentId": self.deployment}
        self.create("Stage", **{**properties("IngestStage"), **own})
        return self.api

    def request(
        self,
        method: str = "POST",
        path: str = "/track",
        body: bytes | list[bytes | None] = b'{"name":"John"}',
        headers: dict[str, str] | list[tuple[bytes, bytes]] | None = None,
        query: str | bytes = "",
        stage: str | None = None,
    ) -> Answer | None:
        """One request; a body in parts may end in None for a client gone away."""
        parts = body if isinstance(body, list) else [body]
        pending = [
            {"type": "http.disconnect"}
            if part is None
            else {"type": "http.request", "body": part, "more_body": number < len(parts) - 1}
            for number, part in enumerate(parts)
        ]
        sent: list[Json] = []

        async def receive() -> Json:
            return pending.pop(0) if pending else {"type": "http.disconnect"}

        async def send(message: Json) -> None:
            sent.append(message)

        given = headers if headers is not None else {"content-type": "application/json"}
        if isinstance(given, dict):
            given = [(name.lower().encode(), value.encode("latin-1")) for name, value in given.items()]
        place = f"/_aws/execute-api/{stage or self.api + '/prod'}{path}"
        scope = {
            "type": "http",
            "method": method,
            "path": place,
            "raw_path": place.encode("utf-8", "surrogateescape"),
            "query_string": query.encode() if isinstance(query, str) else query,
            "headers": given,
            "client": ("203.0.113.7", 50_000),
        }
        asyncio.run(self.engine.serve(scope, receive, send))
        self.unread = len(pending)
        if not sent:
            return None
        names = {name.decode(): value.decode("latin-1") for name, value in sent[0]["headers"]}
        return Answer(
            status=sent[0]["status"], headers=names, body=b"".join(part.get("body", b"") for part in sent[1:])
        )
