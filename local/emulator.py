"""The one module that knows MiniStack: how it is configured, which of its private names we use, and what is plugged in.

MiniStack emulates the services that this product uses as they are (CloudFormation, S3, Lambda, IAM, Glue's catalog,
CloudWatch Logs). Its API Gateway, Firehose and Athena are replaced by the engines beside this module, which reach
everything else through `Emulator`. The names with an underscore below belong to MiniStack and may move with any
release: its version is pinned, and a test asks for each of them.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

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

# Reasons why a signature is refused, as MiniStack names them, and as API Gateway does.
_SIGNATURE_ERRORS = {
    "CredentialDateMismatch": "InvalidSignatureException",
    "ExpiredTokenException": "ExpiredTokenException",
    "IncompleteSignature": "IncompleteSignatureException",
    "MissingAuthorizationParameter": "IncompleteSignatureException",
    "RequestTimeTooSkewed": "InvalidSignatureException",
    "SignatureDoesNotMatch": "InvalidSignatureException",
}


class AccessDenied(Exception):
    """A role may not do what it tried; the text is the sentence that AWS answers."""


class InvalidSignature(Exception):
    """A request's signature is wrong; the text is AWS's, as is `error_type` (InvalidSignatureException and others)."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.error_type = _SIGNATURE_ERRORS.get(code, "UnrecognizedClientException")


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


@dataclass
class MetricDatum:
    """The statistic set of one metric: how many values there were, their sum, the least and the greatest."""

    name: str
    unit: str
    count: int
    sum: float
    minimum: float
    maximum: float

    def add(self, value: float) -> None:
        """Count one more value."""
        self.count, self.sum = self.count + 1, self.sum + value
        self.minimum, self.maximum = min(self.minimum, value), max(self.maximum, value)


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
        from ministack.core import iam_evaluator, persistence, sigv4
        from ministack.services import apigateway_v1, cloudwatch, cloudwatch_logs, glue, iam
        from ministack.services.cloudformation import provisioners

        self.app: AsgiApp = app.app
        self._services: dict[str, ServiceHandler] = app.SERVICE_HANDLERS
        self._persisted = app._build_persistence_save_dict
        self._save_all = persistence.save_all
        self._iam = iam_evaluator
        self._roles = iam._roles
        self._sigv4 = sigv4
        self._api_keys, self._usage_plans = apigateway_v1._api_keys, apigateway_v1._usage_plans
        self._usage_plan_keys = apigateway_v1._usage_plan_keys
        self._tables = glue._tables
        self._put_log_events = cloudwatch_logs._put_log_events
        self._put_metric_data = cloudwatch._put_metric_data
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

    def check_resource(self, resource_type: str, check: Callable[[Json], None]) -> None:
        """Let MiniStack make a type of resource as it does, but only of properties for which `check` raises nothing."""
        handlers = dict(self._resource_handlers[resource_type])

        def checked(name: str, position: int) -> Callable[..., Any]:
            def handle(*arguments: Any) -> Any:
                check(arguments[position])
                return handlers[name](*arguments)

            return handle

        # create(logical id, properties, stack) and update(physical id, old properties, properties, stack).
        positions = {name: position for name, position in (("create", 1), ("update", 2)) if name in handlers}
        replaced = {name: checked(name, position) for name, position in positions.items()}
        self._resource_handlers[resource_type] = {**handlers, **replaced}

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

    def authorize_request(
        self, scope: Mapping[str, Any], body: bytes, service: str, action: str, resource: str
    ) -> None:
        """Raise InvalidSignature unless the caller signed this ASGI request (SigV4, in its Authorization header) for
        the service, and AccessDenied unless its policies allow the action."""
        headers: dict[str, str] = {}
        for raw_name, raw_value in scope["headers"]:
            name, value = raw_name.decode("latin-1").lower(), raw_value.decode("latin-1")
            headers[name] = f"{headers[name]},{value}" if name in headers else value
        signature = self._sigv4.foreign_authorization_failure(headers)
        if headers["authorization"].startswith("AWS4-HMAC-SHA256 ") and headers["authorization"].isascii():
            signature = self._sigv4.parse_header_signature(headers)
        if signature is None or isinstance(signature, tuple):
            raise InvalidSignature(*(signature or ("IncompleteSignature", "Unsupported AWS 'algorithm'")))
        if (signature.service, signature.region) != (service, REGION):
            message = f"Credential should be scoped to correct service: '{service}' and to a valid region. "
            raise InvalidSignature("SignatureDoesNotMatch", message)
        if "host" not in signature.signed_headers.split(";"):
            message = "'Host' must be a 'SignedHeader' in the AWS Authorization."
            raise InvalidSignature("IncompleteSignature", message)
        token = headers.get("x-amz-security-token")
        credential = self._iam.resolve_credential(signature.access_key_id, ACCOUNT, token)
        if isinstance(credential, self._iam.CredentialResolutionError):
            raise InvalidSignature(credential.code, credential.message)
        # The hash of the body is ours, whatever the client says that it is.
        signed = {**headers, "x-amz-content-sha256": hashlib.sha256(body).hexdigest()}
        query = parse_qs(scope["query_string"].decode("utf-8", "replace"), keep_blank_values=True)
        path = (scope.get("raw_path") or scope["path"].encode()).decode("latin-1")
        wrong = self._sigv4.request_time_failure(signature) or self._sigv4.header_signature_failure(
            signature, credential.secret_access_key, scope["method"], path, query, signed, body, explain=True
        )
        if wrong:
            raise InvalidSignature(*wrong)
        caller = self._iam.resolve_principal(signature.access_key_id, ACCOUNT, credential)
        request = self._iam.EvalContext(caller.arn, caller.type, caller.account, action, resource, REGION)
        request.principal_keys = caller.keys
        # The account's root has no policies: it may do everything.
        if caller.policies is None:
            return
        if self._iam.evaluate(request, caller.policies, *caller.limits).decision != "Allow":
            raise AccessDenied(f"User: {caller.arn} is not authorized to perform: {action} on resource: {resource}")

    def usage_plan(self, key: str, api_id: str, stage: str) -> tuple[str, Json] | None:
        """The id of an enabled API key with this value, and its usage plan for a stage, as GetUsagePlan shows it."""
        for (_, _, key_id), api_key in self._api_keys.all_items():
            if key and api_key["value"] == key and str(api_key["enabled"]).lower() == "true":
                for (account, region, plan_id), plan in self._usage_plans.all_items():
                    keys = self._usage_plan_keys.get_scoped(account, region, plan_id) or {}
                    stages = [(each["apiId"], each["stage"]) for each in plan["apiStages"]]
                    if key_id in keys and (api_id, stage) in stages:
                        return key_id, plan
        return None

    async def put_object(self, bucket: str, key: str, data: bytes) -> None:
        """Write an object as a whole; ServiceError also when the disk does not take it."""
        await self._object("PUT", bucket, key, data)
        path = self.directory / "s3" / ACCOUNT / bucket / key
        if not path.is_file() or path.stat().st_size != len(data):
            # MiniStack says 200 all the same, and keeps what it could not write until the process ends.
            await self.delete_object(bucket, key)
            raise ServiceError(500, "InternalError", f"The object could not be written to {path}")

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
            # A killed process may leave the draft of an object behind.
            if path.is_file() and not path.name.endswith((".meta.json", ".tmp")):
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

    def put_metric_data(self, namespace: str, dimensions: dict[str, str], data: list[MetricDatum]) -> None:
        """Put statistic sets into CloudWatch."""
        pairs = [{"Name": name, "Value": value} for name, value in dimensions.items()]
        metric_data = [
            {
                "MetricName": datum.name,
                "Unit": datum.unit,
                "Dimensions": pairs,
                "StatisticValues": {
                    "SampleCount": datum.count,
                    "Sum": datum.sum,
                    "Minimum": datum.minimum,
                    "Maximum": datum.maximum,
                },
            }
            for datum in data
        ]
        self._put_metric_data({}, {"Namespace": namespace, "MetricData": metric_data}, False, is_json=True)


def _between(text: str, start: str, end: str) -> str:
    return text.partition(start)[2].partition(end)[0]
