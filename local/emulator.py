"""The one module that knows MiniStack: how it is configured, which of its private names we use, and what is plugged in.

MiniStack emulates the services that this product uses as they are (CloudFormation, S3, Lambda, IAM, Glue's catalog,
CloudWatch Logs). Its API Gateway, Firehose and Athena are replaced by the engines beside this module, which reach
everything else through `Emulator`. The names with an underscore below belong to MiniStack and may move with any
release: its version is pinned, and a test asks for each of them.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import re
import time
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from contextvars import ContextVar
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
Task = Callable[[str, str, Any, Callable[[], Any], Callable[[], bool]], Any]
AsgiApp = Callable[[MutableMapping[str, Any], Callable[..., Any], Callable[..., Any]], Awaitable[None]]

PERMISSION_CACHE_SECONDS = 1.0
STATE_ATTEMPTS = 10

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


class TaskFailed(Exception):
    """A task of Step Functions failed with the name of an error and its cause."""

    def __init__(self, error: str, cause: str) -> None:
        super().__init__(f"{error}: {cause}")
        self.error, self.cause = error, cause


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


def whole_batches(receive: Callable[[str, int], list[Json]]) -> Callable[[str, int], list[Json]]:
    """A function that receives as many messages for an event source mapping as it asks for; MiniStack's ends at ten."""

    def receive_all(url: str, most: int) -> list[Json]:
        received: list[Json] = []
        while len(received) < int(most) and (more := receive(url, int(most) - len(received))):
            received += more
        return received

    return receive_all


def named_error(answer: Json) -> Json:
    """A function's answer; the type of an error is the class that the last line of the traceback in its log names."""
    if answer.get("error") and answer["body"].get("errorType") == "Runtime.HandlerError":
        trace = (answer.get("log") or "").rpartition("Traceback (most recent call last):")[2]
        named = re.findall(r"^(?:\w+\.)*(\w+)(?:: |$)", trace, re.MULTILINE)
        answer["body"]["errorType"] = named[0] if named else "Runtime.HandlerError"
    return answer


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
        from ministack.core import iam_actions, iam_evaluator, persistence, sigv4
        from ministack.services import (
            apigateway_v1,
            cloudformation,
            cloudwatch,
            cloudwatch_logs,
            eventbridge,
            glue,
            iam,
            lambda_svc,
            sqs,
            stepfunctions,
        )
        from ministack.services.cloudformation import provisioners

        self.app: AsgiApp = app.app
        self._services: dict[str, ServiceHandler] = app.SERVICE_HANDLERS
        self._persisted = app._build_persistence_save_dict
        self._save_state = persistence.save_state
        self.on_change: Callable[[str], None] = lambda service: None
        lambda_svc._run_sqs_batch = self._noting(lambda_svc._run_sqs_batch, "sqs")
        sqs._receive_messages_for_esm = whole_batches(sqs._receive_messages_for_esm)
        stepfunctions._add_event = self._noting(stepfunctions._add_event, "stepfunctions")
        self._iam, self._iam_actions = iam_evaluator, iam_actions
        self._call_on_loop = app.call_service_handler_sync
        self._states, self._events = stepfunctions, eventbridge
        self._perform_task, self._run_execution = stepfunctions._invoke_resource, stepfunctions._run_execution
        self._task_error = stepfunctions._ExecutionError
        self._executions, self._machines = stepfunctions._executions, stepfunctions._state_machines
        self._invoke_target = eventbridge._invoke_target
        self._resource_arn = iam_actions.extract_resource_arn
        # A batch of SQS needs the permission of the single call; MiniStack asks for one that AWS does not know.
        action_of = iam_actions.extract_iam_action
        iam_actions.extract_iam_action = lambda *call: re.sub("^(sqs:.+)Batch$", r"\1", action_of(*call) or "") or None
        self._functions = lambda_svc._functions
        # AWS names a function's error after the class of its exception, MiniStack every one Runtime.HandlerError.
        execute = lambda_svc._execute_function_warm
        lambda_svc._execute_function_warm = lambda *arguments: named_error(execute(*arguments))
        self._roles = iam._roles
        self._sigv4 = sigv4
        self._api_keys, self._usage_plans = apigateway_v1._api_keys, apigateway_v1._usage_plans
        self._usage_plan_keys = apigateway_v1._usage_plan_keys
        self._databases, self._tables, self._partitions = glue._databases, glue._tables, glue._partitions
        self._put_log_events = cloudwatch_logs._put_log_events
        self._put_metric_data = cloudwatch._put_metric_data
        self._logs, self._append_log_events = cloudwatch_logs, cloudwatch_logs._append_log_events
        self._metrics, self._dimensions_key = cloudwatch._metrics, cloudwatch._dims_key
        self._statistics, self._statistic = cloudwatch._calc_stats, cloudwatch._stat_value
        self._cloudwatch, self._evaluate_alarm = cloudwatch, cloudwatch._evaluate_alarm
        self._alarms, self._set_alarm_state = cloudwatch._alarms, cloudwatch._set_alarm_state
        self._queues, self._queues_lock, self._refresh_counts = sqs._queues, sqs._queues_lock, sqs._refresh_counts
        self._resource_handlers = provisioners._RESOURCE_HANDLERS
        self._replacing_properties = provisioners._REPLACING_PROPERTIES
        self._stacks, self._update_resource = cloudformation._stacks, provisioners._update_resource
        provisioners._update_resource = self._update_remembering
        self._permissions: dict[tuple[str, str, str, str], tuple[float, str | None]] = {}

    def _noting(self, change: Callable[..., Any], service: str) -> Callable[..., Any]:
        """A function of MiniStack's threads that tells `on_change` which service it has changed."""

        def noting(*arguments: Any) -> Any:
            result = change(*arguments)
            self.on_change(service)
            return result

        return noting

    def _update_remembering(self, *arguments: Any) -> Any:
        """MiniStack's update of a resource; for one of a nested stack it leaves out what the resource's attributes
        were, with which one that stays as it is goes on."""
        if len(arguments) == 6:
            stack, logical_id = arguments[4:]
            known: Json = self._stacks.get_scoped(ACCOUNT, REGION, stack) or {}
            arguments += (known.get("_resources", {}).get(logical_id, {}).get("Attributes"),)
        return self._update_resource(*arguments)

    def services(self) -> list[str]:
        """The services that have a state to save."""
        return list(self._persisted())

    def state(self, service: str) -> Json | None:
        """A copy of what MiniStack holds of a service, for `write`; None while there is nothing to write."""
        for _ in range(STATE_ATTEMPTS):
            # Another thread may change what is being copied.
            with contextlib.suppress(RuntimeError):
                copied: Json | None = self._persisted()[service]()
                return copied
        return None

    def write(self, service: str, state: Json | None) -> None:
        """Write a service's state to disk, from where MiniStack takes it when it starts; by itself it writes at its
        end."""
        if state is not None:
            self._save_state(service, state)

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

    def service(self, name: str) -> ServiceHandler:
        """What answers the calls to a service."""
        return self._services[name]

    def add_service(self, name: str, handler: ServiceHandler) -> None:
        """Answer the calls of SDKs and of the AWS CLI to one service."""
        self._services[name] = handler

    def name_resources(self, service: str, name: Callable[[Json], str]) -> None:
        """Let policies on the calls of one service be asked about the resource that `name` finds for a call's body."""

        def resource_arn(called: str, method: str, path: str, headers: Any, body: bytes, *more: Any) -> str:
            if called == service:
                return name(json.loads(body or b"{}"))
            arn: str = self._resource_arn(called, method, path, headers, body, *more)
            return arn

        self._iam_actions.extract_resource_arn = resource_arn

    def add_tasks(self, perform: Task) -> None:
        """Let each task of Step Functions be performed by a function, which gets the state machine's role, the task's
        resource and arguments, what MiniStack would do, and whether the execution is still to go on."""
        running: ContextVar[str] = ContextVar("running")

        def run_execution(arn: str) -> None:
            token = running.set(arn)
            try:
                self._run_execution(arn)
            finally:
                running.reset(token)
            if self._executions[arn]["status"] == "FAILED":
                failed = MetricDatum("ExecutionsFailed", "Count", 1, 1, 1, 1)
                machine = {"StateMachineArn": self._executions[arn]["stateMachineArn"]}
                self.put_metric_data("AWS/States", machine, [failed])

        def perform_task(resource: str, arguments: Any) -> Any:
            execution = self._executions[running.get()]
            role = self._machines[execution["stateMachineArn"]]["roleArn"]
            try:
                return perform(
                    role,
                    resource,
                    arguments,
                    lambda: self._perform_task(resource, arguments),
                    lambda: execution["status"] == "RUNNING",
                )
            except TaskFailed as failed:
                raise self._task_error(failed.error, failed.cause) from None

        self._states._run_execution, self._states._invoke_resource = run_execution, perform_task

    def on_loop(self, operation: Callable[[], Json]) -> Json:
        """What `operation` answers when it is called on the event loop, from another thread."""
        answered: list[Json] = []

        async def call(*_: Any) -> None:
            answered.append(operation())

        self._call_on_loop(call, "", "", {}, b"", {})
        return answered[0]

    def check_schedules(self, check: Callable[[str, str], None]) -> None:
        """Let a schedule reach its target only if `check`, asked about its role and the target's ARN, raises no
        AccessDenied. Nobody waits for an answer: as on AWS the call is not made, and here the server's log says why."""

        def invoke_target(target: Json, event: Json, *more: Any) -> None:
            try:
                if event.get("Source") == "aws.scheduler":
                    check(target["RoleArn"], target["Arn"])
            except AccessDenied as denied:
                logging.getLogger(__name__).error("A schedule did not reach its target: %s", denied)
            else:
                self._invoke_target(target, event, *more)

        self._events._invoke_target = invoke_target

    def function_role(self, function: str) -> str:
        """The role of a Lambda function, given its name or ARN. Raises ValueError when there is none."""
        name = function.split(":function:")[-1].split(":")[0]
        if not (found := self._functions.get_scoped(ACCOUNT, REGION, name)):
            raise ValueError(f"Function not found: {function}")
        role: str = found["config"]["Role"]
        return role

    def authorize(self, role_arn: str, service: str, action: str, resource: str) -> None:
        """Raise AccessDenied unless `service` may assume the role and the role's policies allow the action."""
        self._answer((role_arn, service, action, resource))

    def authorize_session(self, session: str, action: str, resource: str) -> None:
        """Raise AccessDenied unless the policies of the role that somebody has assumed allow the action; `session` is
        arn:aws:sts::<account>:assumed-role/<role>/<name>."""
        self._answer((session, "", action, resource))

    @staticmethod
    def session(role_arn: str, name: str) -> str:
        """The session of a role."""
        return f"arn:aws:sts::{ACCOUNT}:assumed-role/{role_arn.rsplit('/', 1)[-1]}/{name}"

    def caller(self) -> str:
        """The session of the role whose credentials signed the call that a service handler answers; empty for the
        account's root and its users."""
        arn: str = self._iam.caller_arn()
        return arn if ":assumed-role/" in arn else ""

    def _answer(self, question: tuple[str, str, str, str]) -> None:
        expires, reason = self._permissions.get(question, (0.0, None))
        now = time.monotonic()
        if now >= expires:
            if len(self._permissions) > 1_000:
                self._permissions.clear()
            reason = self._reason_against(*question)
            self._permissions[question] = (now + PERMISSION_CACHE_SECONDS, reason)
        if reason:
            raise AccessDenied(reason)

    def _reason_against(self, principal: str, service: str, action: str, resource: str) -> str | None:
        """`principal` is the role that the service assumes, or a session, and then `service` is empty."""
        session = self.session(principal, service.split(".")[0]) if service else principal
        name = session.split("/")[1]
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

        if role is None or (service and not self._is_trusted(role, service, request("sts:AssumeRole", principal))):
            return f"{service} is not authorized to assume role {principal}"
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

    def has_database(self, database: str) -> bool:
        """Whether the Glue catalog has the database."""
        return self._databases.get_scoped(ACCOUNT, REGION, database) is not None

    def glue_partitions(self, database: str, table: str) -> list[Json]:
        """The partitions that the Glue catalog lists for a table, each as it is at one moment."""
        while True:
            listed: list[Json] = self._partitions.get_scoped(ACCOUNT, REGION, f"{database}/{table}") or []
            found = [dict(partition) for partition in list(listed)]
            # MiniStack empties a partition before it fills it with what BatchUpdatePartition says.
            if all("StorageDescriptor" in partition for partition in found):
                return found
            time.sleep(0.001)

    async def glue(self, operation: str, **body: Any) -> Json:
        """Call Glue. Raises ServiceError."""
        headers = {**_AS_THE_ACCOUNT, "x-amz-target": f"AWSGlue.{operation}"}
        status, _, content = await self._services["glue"]("POST", "/", headers, json.dumps(body).encode(), {})
        answer: Json = json.loads(content)
        if status >= 300:
            raise ServiceError(status, answer.get("__type", ""), answer.get("message", ""))
        return answer

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

    def watch_log(self, watch: Callable[[str], None]) -> None:
        """Show `watch` each line that is written to CloudWatch Logs, by whomever."""

        def append(stream: Json, events: list[Json]) -> None:
            self._append_log_events(stream, events)
            for event in events:
                watch(event["message"])

        self._logs._append_log_events = append

    def statistics(
        self,
        namespace: str,
        name: str,
        dimensions: dict[str, str],
        statistic: str,
        period: int,
        periods: int,
        now: float,
    ) -> list[float | None]:
        """A statistic, as in Sum or p99, of a metric's values in each of the last periods (in seconds), which end `now`
        (epoch seconds); the newest first, and None where there is no value."""
        points = self._metrics.get((namespace, name, self._dimensions_key(dimensions)), [])
        by_age: dict[int, list[Json]] = {}
        for point in list(points):
            by_age.setdefault(int((now - point["Timestamp"]) // period), []).append(point)
        found = [by_age.get(age) for age in range(periods)]
        return [self._statistic(self._statistics(one), statistic, one) if one else None for one in found]

    def queue_depths(self) -> dict[str, int]:
        """How many messages wait in each queue, by its name."""
        with self._queues_lock:
            queues = list(self._queues.values())
            for queue in queues:
                self._refresh_counts(queue)
        return {queue["name"]: int(queue["attributes"]["ApproximateNumberOfMessages"]) for queue in queues}

    def replace_alarms(self) -> MutableMapping[str, Json]:
        """The alarms by name, as DescribeAlarms shows them; MiniStack evaluates them no more."""
        self._cloudwatch._evaluate_alarm = lambda alarm: None
        alarms: MutableMapping[str, Json] = self._alarms
        return alarms

    def set_alarm_state(self, name: str, state: str, reason: str) -> None:
        """Change an alarm's state, and publish that to its topics."""
        request = {"AlarmName": name, "StateValue": state, "StateReason": reason}
        self._set_alarm_state({}, request, False, is_json=True)
        self.on_change("cloudwatch")


def _between(text: str, start: str, end: str) -> str:
    return text.partition(start)[2].partition(end)[0]
