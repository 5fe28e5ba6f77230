"""Permission to call the API: signatures and policies by MiniStack's IAM, and the API keys it keeps."""

from __future__ import annotations

import asyncio
import datetime
import gzip
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from local.ministack import ACCOUNT, Emulator
from tests.gateway import HOST, REGION, Answer, Gateway

ROOT = Credentials("test", "test")
USER = Credentials("AKIAAAAAAAAAAAAAUSER", "the-secret-of-a-user")
BODY = b'{"name":"John"}'


@pytest.fixture
def gateway(tmp_path: Path, emulator: Emulator) -> Gateway:
    gateway = Gateway(tmp_path)
    gateway.deploy_product(ApiAuth="AWS_IAM")
    gateway.emulator.authorize_request = emulator.authorize_request
    return gateway


def signed(
    gateway: Gateway,
    credentials: Credentials = ROOT,
    method: str = "POST",
    path: str = "/track",
    body: bytes = BODY,
    service: str = "execute-api",
    region: str = REGION,
    **headers: str,
) -> dict[str, str]:
    """The headers of a request, signed by an SDK for the client's path."""
    url = f"http://{HOST}/_aws/execute-api/{gateway.api}/prod{path}"
    given = {"content-type": "application/json", **headers}
    request = AWSRequest(method, url, data=body, headers=given)
    SigV4Auth(credentials, service, region).add_auth(request)
    return {"host": HOST, **{name.lower(): str(value) for name, value in request.headers.items()}}


def user(emulator: Emulator, statement: dict[str, Any]) -> None:
    """A user with an access key and one inline policy."""
    from ministack.services import iam

    key = {"UserName": "ann", "Status": "Active", "SecretAccessKey": USER.secret_key}
    iam._users.set_scoped(ACCOUNT, None, "ann", {"UserName": "ann", "UserId": "AIDA", "AttachedPolicies": []})
    iam._access_keys.set_scoped(ACCOUNT, None, USER.access_key, key)
    iam._user_inline_policies.set_scoped(ACCOUNT, None, "ann", {"policy": json.dumps({"Statement": [statement]})})


def test_who_signs_with_the_keys_of_the_account_is_let_in(gateway: Gateway) -> None:
    assert gateway.request(headers=signed(gateway)).status == 202
    assert gateway.firehose.body == BODY.decode()


def test_a_packed_body_is_signed_as_it_is_sent(gateway: Gateway) -> None:
    packed = gzip.compress(BODY)
    headers = signed(gateway, body=packed, **{"content-encoding": "gzip"})
    assert gateway.request(body=packed, headers=headers).status == 202
    assert gateway.firehose.body == BODY.decode()


@pytest.mark.parametrize("query", ["b=2&a=1&a=0", "x=%20%2F~%C3%A9", "empty&e="])
def test_a_query_string_is_signed_as_an_sdk_signs_it(gateway: Gateway, query: str) -> None:
    # An SDK signs the parameters as it sends them: one without a value is sent as an empty one.
    sent = query.replace("empty&", "empty=&")
    headers = signed(gateway, method="GET", path=f"/pixel?{sent}", body=b"")
    assert gateway.request("GET", "/pixel", b"", headers, sent).status == 204


def test_nobody_is_let_in_unsigned(gateway: Gateway) -> None:
    for headers in ({"content-type": "application/json"}, {"authorization": ""}):
        answer = gateway.request(headers=headers)
        assert (answer.status, answer.json) == (403, {"message": "Missing Authentication Token"})
        assert answer.headers["x-amzn-errortype"] == "MissingAuthenticationTokenException"
        assert answer.headers["access-control-allow-origin"] == "*"


def changed(headers: dict[str, str], name: str, change: Callable[[str], str]) -> dict[str, str]:
    return {**headers, name: change(headers[name])}


NOT_MATCHING = "The request signature we calculated does not match the signature you provided"
FORGERIES: dict[str, tuple[Callable[[Gateway], dict[str, Any]], str, str]] = {
    "another secret": (
        lambda gateway: {"headers": signed(gateway, Credentials("test", "other"))},
        "InvalidSignatureException",
        NOT_MATCHING,
    ),
    "another body": (
        lambda gateway: {"headers": signed(gateway), "body": b'{"name":"Eve"}'},
        "InvalidSignatureException",
        NOT_MATCHING,
    ),
    "another body under a signed hash": (
        lambda gateway: {
            "headers": signed(gateway, **{"x-amz-content-sha256": "UNSIGNED-PAYLOAD"}),
            "body": b'{"name":"Eve"}',
        },
        "InvalidSignatureException",
        NOT_MATCHING,
    ),
    "another path": (
        lambda gateway: {"headers": signed(gateway, path="/track"), "path": "/batch", "body": b"[]"},
        "InvalidSignatureException",
        NOT_MATCHING,
    ),
    "another query": (
        lambda gateway: {"headers": signed(gateway), "query": "a=b"},
        "InvalidSignatureException",
        NOT_MATCHING,
    ),
    "another signed header": (
        lambda gateway: {"headers": changed(signed(gateway), "content-type", lambda _: "text/plain")},
        "InvalidSignatureException",
        NOT_MATCHING,
    ),
    "another service": (
        lambda gateway: {"headers": signed(gateway, service="s3")},
        "InvalidSignatureException",
        "Credential should be scoped to correct service: 'execute-api'",
    ),
    "another region": (
        lambda gateway: {"headers": signed(gateway, region="eu-west-1")},
        "InvalidSignatureException",
        "Credential should be scoped to",
    ),
    "an unknown key": (
        lambda gateway: {"headers": signed(gateway, Credentials("AKIAUNKNOWN", "x"))},
        "UnrecognizedClientException",
        "The security token included in the request is invalid",
    ),
    "a token that nobody gave": (
        lambda gateway: {"headers": signed(gateway, Credentials("test", "test", "token"))},
        "UnrecognizedClientException",
        "token is malformed",
    ),
    "a signature of no ASCII": (
        lambda gateway: {"headers": changed(signed(gateway), "authorization", lambda given: given[:-1] + "é")},
        "IncompleteSignatureException",
        "Unsupported AWS 'algorithm'",
    ),
    "another algorithm": (
        lambda gateway: {"headers": changed(signed(gateway), "authorization", lambda given: given.replace("256", "1"))},
        "IncompleteSignatureException",
        "Unsupported AWS 'algorithm'",
    ),
    "a bearer token": (
        lambda _: {"headers": {"authorization": "Bearer abc"}},
        "IncompleteSignatureException",
        "Invalid key=value pair (missing equal-sign) in Authorization header",
    ),
    "half a header": (
        lambda _: {"headers": {"authorization": "AWS4-HMAC-SHA256 Credential=test/20261121/us-east-1"}},
        "IncompleteSignatureException",
        "Authorization header requires 'Signature' parameter.",
    ),
    "a host that is not signed": (
        lambda gateway: {
            "headers": changed(signed(gateway), "authorization", lambda given: given.replace("host;", ""))
        },
        "IncompleteSignatureException",
        "'Host' must be a 'SignedHeader'",
    ),
}


@pytest.mark.parametrize(("request_of", "error_type", "message"), FORGERIES.values(), ids=FORGERIES.keys())
def test_a_wrong_signature_is_refused_with_the_reason(
    gateway: Gateway, request_of: Callable[[Gateway], dict[str, Any]], error_type: str, message: str
) -> None:
    answer = gateway.request(**request_of(gateway))
    assert answer.status == 403
    assert answer.headers["x-amzn-errortype"] == error_type
    assert message in answer.json["message"]
    assert answer.headers["access-control-allow-origin"] == "*"
    assert gateway.firehose.calls == []


@pytest.mark.parametrize(("minutes", "status"), [(-4, 202), (4, 202), (-6, 403), (6, 403)])
def test_a_signature_is_good_for_five_minutes(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch, minutes: int, status: int
) -> None:
    shifted = datetime.datetime.now(datetime.UTC) + datetime.timedelta(minutes=minutes)
    monkeypatch.setattr("botocore.auth.get_current_datetime", lambda *_: shifted.replace(tzinfo=None), raising=True)
    answer = gateway.request(headers=signed(gateway))
    assert answer.status == status, answer
    if status == 403:
        assert re.match("Signature (expired|not yet current): ", answer.json["message"])


ALLOW = {"Effect": "Allow", "Action": "execute-api:Invoke"}


@pytest.mark.parametrize(
    ("statement", "status"),
    [
        ({**ALLOW, "Resource": "arn:aws:execute-api:us-east-1:000000000000:{api}/prod/POST/track"}, 202),
        ({**ALLOW, "Resource": "arn:aws:execute-api:us-east-1:000000000000:{api}/*"}, 202),
        ({**ALLOW, "Resource": "arn:aws:execute-api:us-east-1:000000000000:{api}/prod/GET/track"}, 403),
        ({**ALLOW, "Resource": "arn:aws:execute-api:us-east-1:000000000000:{api}/prod/POST/batch"}, 403),
        ({**ALLOW, "Resource": "arn:aws:execute-api:us-east-1:000000000000:{api}/dev/*"}, 403),
        ({**ALLOW, "Action": "execute-api:ManageConnections", "Resource": "*"}, 403),
        ({**ALLOW, "Effect": "Deny", "Resource": "*"}, 403),
    ],
)
def test_a_user_may_invoke_what_its_policy_allows(
    gateway: Gateway, emulator: Emulator, statement: dict[str, Any], status: int
) -> None:
    user(emulator, {**statement, "Resource": statement["Resource"].replace("{api}", gateway.api)})
    answer = gateway.request(headers=signed(gateway, USER))
    assert answer.status == status
    if status == 403:
        assert next(iter(answer.json.values())) == (
            "User: arn:aws:iam::000000000000:user/ann is not authorized to perform: execute-api:Invoke on resource: "
            f"arn:aws:execute-api:us-east-1:********0000:{gateway.api}/prod/POST/track"
        )
        assert answer.headers["x-amzn-errortype"] == "AccessDeniedException"
        assert gateway.firehose.calls == []


def test_a_refusal_that_nobody_customised_says_message_with_a_capital(tmp_path: Path, emulator: Emulator) -> None:
    gateway = Gateway(tmp_path)
    gateway.deploy_product(ApiAuth="AWS_IAM")
    body = gateway.engine.deployments[gateway.deployment]["Body"]
    body["x-amazon-apigateway-gateway-responses"] = {}
    gateway.emulator.authorize_request = emulator.authorize_request
    user(emulator, {**ALLOW, "Effect": "Deny", "Resource": "*"})
    assert list(gateway.request(headers=signed(gateway, USER)).json) == ["Message"]


# ---- API keys, as CloudFormation makes them in MiniStack


def test_a_key_and_its_plan_come_from_ministack(tmp_path: Path, emulator: Emulator) -> None:
    gateway = Gateway(tmp_path)
    gateway.deploy_product(ApiAuth="API_KEY")
    gateway.emulator.usage_plan = emulator.usage_plan

    def handlers(kind: str) -> dict[str, Callable[..., Any]]:
        found: dict[str, Callable[..., Any]] = emulator.resource_handlers[f"AWS::ApiGateway::{kind}"]
        return found

    emulator.check_resource("AWS::ApiGateway::UsagePlan", gateway.emulator.checks["UsagePlan"])
    stages = {"ApiStages": [{"ApiId": gateway.api, "Stage": "prod"}]}
    properties = {**stages, "Throttle": {"RateLimit": "100", "BurstLimit": "2"}}
    key_id, _ = handlers("ApiKey")["create"]("Key", {"Enabled": "true"}, "stack")
    plan_id, _ = handlers("UsagePlan")["create"]("Plan", properties, "stack")
    value = json.loads(asyncio.run(get_api_key(emulator, key_id))[2])["value"]

    def status() -> int:
        answer = gateway.request(headers={"x-api-key": value})
        assert isinstance(answer, Answer)
        return int(answer.status)

    assert status() == 403
    association = {"KeyId": key_id, "KeyType": "API_KEY", "UsagePlanId": plan_id}
    handlers("UsagePlanKey")["create"]("PlanKey", association, "stack")
    assert [status() for _ in range(3)] == [202, 202, 429]
    gateway.now += 60
    handlers("ApiKey")["update"](key_id, {"Enabled": "true"}, {"Enabled": "false"}, "stack")
    assert status() == 403
    handlers("ApiKey")["update"](key_id, {"Enabled": "false"}, {"Enabled": True}, "stack")
    assert status() == 202
    with pytest.raises(ValueError, match="API Stage not found"):
        handlers("UsagePlan")["update"](plan_id, properties, {"ApiStages": [{"ApiId": "x", "Stage": "y"}]}, "stack")
    handlers("UsagePlan")["update"](plan_id, properties, {"ApiStages": []}, "stack")
    assert status() == 403


async def get_api_key(emulator: Emulator, key_id: str) -> tuple[int, dict[str, str], bytes]:
    return await emulator.call("apigateway", "GET", f"/apikeys/{key_id}", query={"includeValue": ["true"]})
