"""Permissions: roles and their sessions, signatures of requests, API keys with their usage plans."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

from local.asgi import Scope
from local.ministack.deployer import Call
from local.ministack.process import ACCOUNT, REGION, Json, Process

PERMISSION_CACHE_SECONDS = 1.0

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
    """A role or user lacks a permission; the text is AWS's sentence."""


class InvalidSignature(Exception):
    """A request's signature is wrong; the text is AWS's, as is `error_type` (InvalidSignatureException and others)."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.error_type = _SIGNATURE_ERRORS.get(code, "UnrecognizedClientException")


class Access(Process):
    """MiniStack's IAM, its check of signatures, and the keys of its API Gateway."""

    def __init__(self, directory: Path, port: int) -> None:
        super().__init__(directory, port)
        from ministack.core import iam_actions, iam_evaluator, sigv4
        from ministack.services import apigateway_v1, iam

        self._iam, self._sigv4, self._roles, self._users = iam_evaluator, sigv4, iam._roles, iam._users
        self._iam_actions, self._resource_arn = iam_actions, iam_actions.extract_resource_arn
        self._api_keys, self._usage_plans = apigateway_v1._api_keys, apigateway_v1._usage_plans
        self._usage_plan_keys = apigateway_v1._usage_plan_keys
        self._permissions: dict[tuple[str, str, str, str, str], tuple[float, str | None]] = {}

    def authorize(self, role_arn: str, service: str, action: str, resource: str) -> None:
        """Raise AccessDenied unless `service` may assume the role and the role's policies allow the action."""
        self._answer((role_arn, service, action, resource, ""))

    def authorize_session(self, session: str, action: str, resource: str, prefix: str = "") -> None:
        """Raise AccessDenied unless the policies of a user, or of an assumed role, allow the action.

        `session` is arn:aws:iam::<account>:user/<name> or arn:aws:sts::<account>:assumed-role/<role>/<name>, `prefix`
        is the prefix of a list of objects.
        """
        self._answer((session, "", action, resource, prefix))

    @staticmethod
    def session(role_arn: str, name: str) -> str:
        """The session of a role."""
        return f"arn:aws:sts::{ACCOUNT}:assumed-role/{role_arn.rsplit('/', 1)[-1]}/{name}"

    def caller(self) -> str:
        """The user, or the session of the role, whose credentials signed the call to a service handler; empty for the
        account's root."""
        arn: str = self._iam.caller_arn()
        return arn if ":assumed-role/" in arn or ":user/" in arn else ""

    def _answer(self, question: tuple[str, str, str, str, str]) -> None:
        expires, reason = self._permissions.get(question, (0.0, None))
        now = time.monotonic()
        if now >= expires:
            if len(self._permissions) > 1_000:
                self._permissions.clear()
            reason = self._reason_against(*question)
            self._permissions[question] = (now + PERMISSION_CACHE_SECONDS, reason)
        if reason:
            raise AccessDenied(reason)

    def _reason_against(self, principal: str, service: str, action: str, resource: str, prefix: str) -> str | None:
        """`principal` is the role assumed by the service; or a session or user, and then `service` is empty."""
        session = self.session(principal, service.split(".")[0]) if service else principal
        if is_user := ":user/" in session:
            name = session.rsplit("/", 1)[-1]
            user = self._users.get_scoped(ACCOUNT, None, name) or {}
            policies = self._iam._gather_user_policies(name, ACCOUNT)
            keys = {"aws:userid": user.get("UserId", ""), "aws:username": name}
        else:
            _, name, session_name = session.split("/")
            role = self._roles.get_scoped(ACCOUNT, None, name)
            policies = self._iam._gather_role_policies(name, ACCOUNT)
            keys = {"aws:userid": f"{role.get('RoleId')}:{session_name}"} if role else {}
        context = {"aws:sourceaccount": ACCOUNT, "sts:externalid": ACCOUNT, "aws:resourceaccount": ACCOUNT}
        context |= {"s3:prefix": prefix} if prefix else {}

        def request(action: str, resource: str) -> Any:
            return self._iam.EvalContext(
                principal_arn=session,
                principal_type="User" if is_user else "AssumedRole",
                principal_account=ACCOUNT,
                action=action,
                resource_arn=resource,
                region=REGION,
                # An engine acts as an AWS service, and those talk to each other over TLS.
                secure_transport=True,
                service_context=context,
                principal_keys=keys,
            )

        if service and not (role and self._is_trusted(role, service, request("sts:AssumeRole", principal))):
            return f"{service} is not authorized to assume role {principal}"
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

    def authorize_request(self, scope: Scope, body: bytes, service: str, action: str, resource: str) -> None:
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
        # The hash of the body is ours, not the client's.
        signed = {**headers, "x-amz-content-sha256": hashlib.sha256(body).hexdigest()}
        query = parse_qs(scope["query_string"].decode("utf-8", "replace"), keep_blank_values=True)
        path = (scope.get("raw_path") or scope["path"].encode()).decode("latin-1")
        wrong = self._sigv4.request_time_failure(signature) or self._sigv4.header_signature_failure(
            signature, credential.secret_access_key, scope["method"], path, query, signed, body, explain=True
        )
        if wrong:
            raise InvalidSignature(*wrong)
        self._authorize(self._iam.resolve_principal(signature.access_key_id, ACCOUNT, credential), action, resource)

    def authorize_caller(self, calls: Iterable[Call]) -> None:
        """Raise AccessDenied unless the policies of the user or role whose API call has led here allow all of `calls`.

        The account's root may do everything, and so may work not started by an API call."""
        key = self._iam._verified_key.get()
        if not key:
            return
        caller = self._iam.resolve_principal(key, ACCOUNT)
        if isinstance(caller, self._iam.AuthError):
            raise AccessDenied(caller.message)
        for call in calls:
            self._authorize(caller, call.action, call.resource, dict(call.context))

    def _authorize(self, caller: Any, action: str, resource: str, context: Json | None = None) -> None:
        request = self._iam.EvalContext(caller.arn, caller.type, caller.account, action, resource, REGION)
        request.principal_keys, request.service_context = caller.keys, context or {}
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

    def name_resources(self, service: str, name: Callable[[Json], str]) -> None:
        """Check policies on one service's calls against the resource found by `name` in a call's body."""

        def resource_arn(called: str, method: str, path: str, headers: Any, body: bytes, *more: Any) -> str:
            if called == service:
                return name(json.loads(body or b"{}"))
            arn: str = self._resource_arn(called, method, path, headers, body, *more)
            return arn

        self._iam_actions.extract_resource_arn = resource_arn
