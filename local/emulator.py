"""The one module that knows MiniStack: how it is configured, which of its private names we use, and what is plugged in.

MiniStack emulates the services that this product uses as they are (CloudFormation, S3, Lambda, IAM, Glue's catalog,
CloudWatch Logs). Its API Gateway, Firehose and Athena are replaced by the engines beside this module, which reach
everything else through `Emulator`. The names with an underscore below belong to MiniStack and may move with any
release: its version is pinned, and a test asks for each of them.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ACCOUNT = "000000000000"
REGION = "us-east-1"

Json = dict[str, Any]
Answer = tuple[int, dict[str, str], bytes]
ServiceHandler = Callable[[str, str, dict[str, str], bytes, dict[str, list[str]]], Awaitable[Answer]]
Create = Callable[[str, Json, str], tuple[str, Json]]
Update = Callable[[str, Json, Json, str], tuple[str, Json]]
Delete = Callable[[str, Json], None]
AsgiApp = Callable[[MutableMapping[str, Any], Callable[..., Any], Callable[..., Any]], Awaitable[None]]

PERMISSION_CACHE_SECONDS = 1.0

# What an engine does for a role has been authorised by then; towards MiniStack's handlers it is the account itself.
_AS_THE_ACCOUNT = {
    "host": "127.0.0.1",
    "authorization": f"AWS4-HMAC-SHA256 Credential=test/20260101/{REGION}/s3/aws4_request, SignedHeaders=host",
}


class AccessDenied(Exception):
    """A role may not do what it tried; the text is the sentence that AWS answers."""


class ServiceError(Exception):
    """A service answered with a status of 300 or more."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(f"{code}: {message}")
        self.status, self.code, self.message = status, code, message


@dataclass(frozen=True)
class Invocation:
    """Lambda's answer to a synchronous Invoke: status 200 with a payload, or 429 and other refusals."""

    status: int
    function_error: str | None
    payload: bytes


class Resources(dict[str, Json]):
    """The resources of one kind by physical id, as JSON values in a file that `save` replaces as a whole."""

    def __init__(self, path: Path) -> None:
        super().__init__(json.loads(path.read_text()) if path.exists() else {})
        self.path = path

    def save(self) -> None:
        """Write the resources so that a killed process finds either the old or the new state, never half of one."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        draft = self.path.with_suffix(".draft")
        with draft.open("w") as file:
            json.dump(self, file)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(self.path)


class Emulator:
    """MiniStack in this process. `directory` holds all of its state; `port` is where this process serves.

    One instance a process: MiniStack reads its configuration from the environment when it is first imported.
    """

    account = ACCOUNT
    region = REGION

    def __init__(self, directory: Path, port: int) -> None:
        self.directory = directory
        os.environ.update(
            # Everybody is who their credentials say, and may do what their policies say: as on AWS.
            AUTH="true",
            AWS_ACCESS_KEY_ID="test",
            AWS_SECRET_ACCESS_KEY="test",
            MINISTACK_ACCOUNT_ID=ACCOUNT,
            MINISTACK_REGION=REGION,
            AWS_DEFAULT_REGION=REGION,
            MINISTACK_HOST="127.0.0.1",
            GATEWAY_PORT=str(port),
            AWS_ENDPOINT_URL=f"http://127.0.0.1:{port}",
            LAMBDA_EXECUTOR="local",
            S3_PERSIST="1",
            S3_DATA_DIR=str(directory / "s3"),
            PERSIST_STATE="1",
            STATE_DIR=str(directory / "ministack"),
            # These would open ports of their own on every address.
            IOT_MTLS_ENABLED="0",
            SFTP_ENABLED="0",
            LOG_LEVEL=os.environ.get("LOG_LEVEL", "WARNING"),
        )
        for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "SERVICES"):
            os.environ.pop(name, None)
        from ministack import app
        from ministack.core import iam_evaluator, persistence
        from ministack.services import cloudwatch_logs, glue, iam
        from ministack.services.cloudformation import provisioners

        self.app: AsgiApp = app.app
        self._services: dict[str, ServiceHandler] = app.SERVICE_HANDLERS
        self._persisted = app._build_persistence_save_dict
        self._save_all = persistence.save_all
        self._iam = iam_evaluator
        self._roles = iam._roles
        self._tables = glue._tables
        self._put_log_events = cloudwatch_logs._put_log_events
        self._resource_handlers = provisioners._RESOURCE_HANDLERS
        self._replacing_properties = provisioners._REPLACING_PROPERTIES
        self._permissions: dict[tuple[str, str, str, str], tuple[float, str | None]] = {}

    def save(self) -> None:
        """Write MiniStack's own state (stacks, roles, functions) to disk; by itself it does so only when it stops."""
        self._save_all(self._persisted())

    def add_resource(
        self,
        resource_type: str,
        *,
        create: Create,
        delete: Delete,
        update: Update | None = None,
        replacing: tuple[str, ...] = (),
    ) -> None:
        """Let CloudFormation make a type of resource; a change of a `replacing` property makes a new one.

        The functions get resolved properties and return a physical id (Ref) with attributes (Fn::GetAtt). A ValueError
        fails the resource, with its text as the reason that the user sees.
        """
        handlers: dict[str, Any] = {"create": create, "delete": delete}
        if update:
            handlers["update"] = update
        self._resource_handlers[resource_type] = handlers
        self._replacing_properties[resource_type] = replacing

    def add_service(self, name: str, handler: ServiceHandler) -> None:
        """Answer the calls of SDKs and of the AWS CLI to one service."""
        self._services[name] = handler

    def authorize(self, role_arn: str, service: str, action: str, resource: str) -> None:
        """Raise AccessDenied unless `service` may assume the role and the role's policies allow the action."""
        question = (role_arn, service, action, resource)
        expires, reason = self._permissions.get(question, (0.0, None))
        now = time.monotonic()
        if now >= expires:
            if len(self._permissions) > 1_000:
                self._permissions.clear()
            reason = self._reason_against(*question)
            self._permissions[question] = (now + PERMISSION_CACHE_SECONDS, reason)
        if reason:
            raise AccessDenied(reason)

    def _reason_against(self, role_arn: str, service: str, action: str, resource: str) -> str | None:
        name = role_arn.rsplit("/", 1)[-1]
        session = f"arn:aws:sts::{ACCOUNT}:assumed-role/{name}/{service.split('.')[0]}"
        role = self._roles.get_scoped(ACCOUNT, None, name)
        context = {"aws:sourceaccount": ACCOUNT, "sts:externalid": ACCOUNT, "aws:resourceaccount": ACCOUNT}

        def request(action: str, resource: str) -> Any:
            return self._iam.EvalContext(
                principal_arn=session,
                principal_type="AssumedRole",
                principal_account=ACCOUNT,
                action=action,
                resource_arn=resource,
                region=REGION,
                # An engine stands for an AWS service, and those talk to each other over TLS.
                secure_transport=True,
                service_context=context,
            )

        if role is None or not self._is_trusted(role, service, request("sts:AssumeRole", role_arn)):
            return f"{service} is not authorized to assume role {role_arn}"
        policies = self._iam._gather_role_policies(name, ACCOUNT)
        if self._iam.evaluate(request(action, resource), policies).decision == "Allow":
            return None
        return (
            f"User: {session} is not authorized to perform: {action} on resource: {resource} "
            f"because no identity-based policy allows the {action} action"
        )

    def _is_trusted(self, role: Json, service: str, request: Any) -> bool:
        document = role["AssumeRolePolicyDocument"]
        if isinstance(document, str):
            document = json.loads(document)
        return any(
            statement["Effect"] == "Allow"
            and statement["Action"] == "sts:AssumeRole"
            and self._iam._service_principal_matches(statement["Principal"], service)
            and self._iam._conditions_met(statement.get("Condition", {}), request)
            for statement in document["Statement"]
        )

    async def put_object(self, bucket: str, key: str, data: bytes) -> None:
        """Write an object as a whole."""
        await self._object("PUT", bucket, key, data)

    async def get_object(self, bucket: str, key: str) -> bytes:
        """Read an object as a whole."""
        return await self._object("GET", bucket, key)

    async def delete_object(self, bucket: str, key: str) -> None:
        """Delete an object."""
        await self._object("DELETE", bucket, key)

    async def _object(self, method: str, bucket: str, key: str, data: bytes = b"") -> bytes:
        headers = {**_AS_THE_ACCOUNT, "content-length": str(len(data))}
        status, _, body = await self._services["s3"](method, f"/{bucket}/{key}", headers, data, {})
        content = body if isinstance(body, bytes) else b"".join([part async for part in body])
        if status >= 300:
            text = content.decode(errors="replace")
            raise ServiceError(status, _between(text, "<Code>", "</Code>"), _between(text, "<Message>", "</Message>"))
        return content

    def object_paths(self, bucket: str, prefix: str) -> list[tuple[str, Path]]:
        """The objects under a prefix that ends at a folder, as (key, file on disk), in the order of their keys."""
        root = self.directory / "s3" / ACCOUNT / bucket
        found = []
        for path in (root / prefix).rglob("*"):
            if path.is_file() and not path.name.endswith(".meta.json"):
                found.append((path.relative_to(root).as_posix(), path))
        return sorted(found)

    async def invoke(self, function_arn: str, payload: bytes) -> Invocation:
        """Invoke a function synchronously. The ARN may end in a version or alias."""
        name, _, qualifier = function_arn.split(":function:", 1)[1].partition(":")
        path = f"/2015-03-31/functions/{name}/invocations"
        query = {"Qualifier": [qualifier]} if qualifier else {}
        status, headers, body = await self._services["lambda"]("POST", path, dict(_AS_THE_ACCOUNT), payload, query)
        return Invocation(status, headers.get("X-Amz-Function-Error"), body)

    def glue_table(self, database: str, table: str) -> Json | None:
        """A table of the Glue catalog, as Glue's GetTable shows it."""
        found: Json | None = self._tables.get_scoped(ACCOUNT, REGION, f"{database}/{table}")
        return found

    def log(self, group: str, stream: str, message: str) -> None:
        """Put one line into CloudWatch Logs. A group or stream that is missing loses it, as it would on AWS."""
        event = {"timestamp": int(time.time() * 1000), "message": message}
        self._put_log_events({"logGroupName": group, "logStreamName": stream, "logEvents": [event]})


def _between(text: str, start: str, end: str) -> str:
    return text.partition(start)[2].partition(end)[0]
