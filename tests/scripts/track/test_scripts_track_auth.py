"""scripts/track.sh where the stack wants an API key or a signature."""

from __future__ import annotations

import email.message
import json
import re
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.exceptions import ClientError, CredentialRetrievalError
from botocore.session import Session

from scripts.commands.track import command as track
from tests.track_api import FIVES, Api, account, file_of, numbers_in

API_KEY = "a-key-of-twenty-letters-or-more"


class Keys:
    """API Gateway's GetApiKey."""

    def __init__(self, refusal: str | None = None) -> None:
        self.refusal = refusal

    def get_api_key(self, apiKey: str, includeValue: bool) -> dict[str, Any]:
        assert (apiKey, includeValue) == ("k1", True)
        if self.refusal:
            raise ClientError({"Error": {"Code": self.refusal, "Message": "User: x is not authorized"}}, "GetApiKey")
        return {"id": "k1", "value": API_KEY}


@pytest.fixture
def keys(api: Api, aws: None, monkeypatch: pytest.MonkeyPatch) -> Keys:
    """The stack asks for an API key."""
    found = Keys()
    api.stack.parameters["ApiAuth"] = "API_KEY"
    api.stack.outputs["ApiKeyId"] = "k1"
    monkeypatch.setattr(track, "session", lambda local: account(api, apigateway=found))
    return found


@pytest.fixture
def stranger(keys: Keys) -> Keys:
    """The caller may not read the key."""
    keys.refusal = "AccessDeniedException"
    return keys


@pytest.mark.usefixtures("keys")
def test_the_stacks_own_key_is_found_and_sent_and_never_printed(run: Any, api: Api, tmp_path: Path) -> None:
    code, out, err = run("{}")
    assert code == 0 and API_KEY not in out + err
    code, out, err = run("--file", file_of(tmp_path, "{}", "{}"))
    assert code == 0 and API_KEY not in out + err
    assert api.sent("x-api-key") == [API_KEY, API_KEY]


@pytest.mark.usefixtures("stranger")
def test_a_key_that_may_not_be_read_is_an_error_that_names_the_permission_and_the_ways_out(run: Any, api: Api) -> None:
    code, out, err = run("{}")
    assert (code, out, api.bodies) == (1, "", [])
    assert err == (
        "error: the stack's API key cannot be read: apigateway:GET on /apikeys/k1 is not allowed to you: ask for that"
        " permission, or give the key in SLUICE_API_KEY or with --api-key\n"
    )


def test_a_key_that_is_gone_is_told_as_aws_tells_it(keys: Keys, run: Any) -> None:
    keys.refusal = "NotFoundException"
    assert run("{}")[2] == "error: GetApiKey failed: NotFoundException: User: x is not authorized\n"


@pytest.mark.usefixtures("stranger")
def test_a_key_can_be_given_and_the_option_wins_over_the_variable(
    run: Any, api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLUICE_API_KEY", "from-the-environment-of-the-shell")
    assert run("{}")[0] == 0
    assert run("{}", "--api-key", API_KEY)[0] == 0
    assert api.sent("x-api-key") == ["from-the-environment-of-the-shell", API_KEY]


@pytest.mark.usefixtures("in_fives")
def test_the_command_to_go_on_with_does_not_tell_the_key(run: Any, api: Api, tmp_path: Path) -> None:
    api.answer = lambda number, body: (202 if max(numbers_in(body)) < 5 else 0, {}, b"{}")
    path = file_of(tmp_path, *[json.dumps({"n": n}) for n in range(9)])
    _, out, err = run("--file", path, "--api-key", API_KEY)
    assert json.loads(out)["next_line"] == 6 and "go on with: scripts/track.sh" in err
    assert API_KEY not in err


@pytest.mark.usefixtures("keys", "in_fives")
@pytest.mark.parametrize("status", [401, 403])
def test_a_refusal_of_who_posts_ends_it_with_the_line_to_go_on_from(
    run: Any, api: Api, tmp_path: Path, status: int
) -> None:
    api.answer = lambda number, body: (status if 7 in numbers_in(body) else 202, {}, b'{"message": "Forbidden"}')
    refused = tmp_path / "refused.ndjson"
    path = file_of(tmp_path, "{no event", *[json.dumps({"n": n}) for n in range(1, 1_000)])
    code, out, err = run("--file", path, "--api-key", API_KEY, "--refused", str(refused))
    assert code == 1
    assert json.loads(out) | {"seconds": 0} == {"accepted": 4, "refused": 1, "seconds": 0, "next_line": 6}
    assert f"sent 5 lines; go on with: scripts/track.sh --rate 5000 --file {path} --from-line 6" in err
    assert f"error: not allowed to post: {status} Forbidden: fix the API key in --api-key or SLUICE_API_KEY" in err
    assert refused.read_text() == "{no event\n" and API_KEY not in out + err
    assert len(api.bodies) <= 1 + FIVES.window  # those on their way


@pytest.mark.usefixtures("in_fives")
def test_whoever_may_not_post_is_told_so_before_the_first_line(run: Any, api: Api, tmp_path: Path) -> None:
    api.answer = lambda number, body: (403, {}, b'{"message": "Forbidden"}')
    code, out, _ = run("--file", file_of(tmp_path, "{}", "{}"))
    assert (code, json.loads(out) | {"seconds": 0}) == (
        1,
        {"accepted": 0, "refused": 0, "seconds": 0, "next_line": 1},
    )


@pytest.mark.parametrize(
    ("auth", "options", "way_out"),
    [
        pytest.param(
            "keys", ["--api-key", API_KEY], "fix the API key in --api-key or SLUICE_API_KEY", id="a given key"
        ),
        pytest.param("keys", [], "the stack's own API key k1 was sent: see whether it is enabled", id="the own key"),
        pytest.param("iam", [], "give them execute-api:Invoke, or set AWS_PROFILE", id="a signature"),
        pytest.param("aws", [], "stack 'sluice' asks for no key and no signature", id="neither"),
    ],
)
def test_who_may_not_post_a_single_event_is_told_the_way_out(
    run: Any, api: Api, request: pytest.FixtureRequest, auth: str, options: list[str], way_out: str
) -> None:
    request.getfixturevalue(auth)
    api.answer = lambda number, body: (403, {}, b'{"message": "Forbidden"}')
    code, out, err = run("{}", *options)
    assert (code, json.loads(out)) == (1, {"message": "Forbidden"})
    assert err.startswith("error: not allowed to post: 403 Forbidden: ") and err.count("\n") == 1
    assert way_out in err and API_KEY not in err


def test_a_key_that_is_none_is_told_with_the_variable_that_it_stands_in(
    run: Any, api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLUICE_API_KEY", "secret")
    code, _, err = run("{}")
    assert (code, api.bodies) == (2, [])
    assert (
        "variable SLUICE_API_KEY: that is not an API key (20 to 128 printable characters)" in err
        and "secret" not in err
    )


def test_an_open_stack_is_sent_neither_key_nor_signature(run: Any, api: Api) -> None:
    run("{}")
    assert api.sent("x-api-key") == api.sent("Authorization") == [None]


def signed_by(path: str, headers: email.message.Message, body: bytes) -> str | None:
    """The access key of a request signed for execute-api, found as AWS does; None if the signature is wrong."""
    parts = re.fullmatch(
        r"AWS4-HMAC-SHA256 Credential=(\w+)/\d{8}/eu-west-1/execute-api/aws4_request, "
        r"SignedHeaders=([a-z0-9;-]+), Signature=([0-9a-f]{64})",
        headers["Authorization"],
    )
    assert parts is not None
    names = parts[2].split(";")
    assert {"host", "x-amz-date", "content-type"} <= {*names}
    request = AWSRequest("POST", f"http://nowhere{path}", {name: headers[name] for name in names}, body)
    request.context["timestamp"] = headers["X-Amz-Date"]
    session = boto3.Session(aws_access_key_id=parts[1], aws_secret_access_key="s3cret", aws_session_token="token")
    auth = SigV4Auth(session.get_credentials(), "execute-api", "eu-west-1")
    expected = auth.signature(auth.string_to_sign(request, auth.canonical_request(request)), request)
    return parts[1] if expected == parts[3] else None


@pytest.fixture
def iam(api: Api, aws: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """The stack wants signed requests."""
    api.stack.parameters["ApiAuth"] = "AWS_IAM"
    for name, value in (("ACCESS_KEY_ID", "AKIDEXAMPLE"), ("SECRET_ACCESS_KEY", "s3cret"), ("SESSION_TOKEN", "token")):
        monkeypatch.setenv(f"AWS_{name}", value)


@pytest.mark.usefixtures("iam")
def test_requests_are_signed_where_the_stack_asks_for_it(run: Any, api: Api, tmp_path: Path) -> None:
    assert run('{"a": "é"}', "--user-agent", "own/1")[0] == 0
    assert run("--file", file_of(tmp_path, '{"n": 1}', '{"n": 2}'), "--api-key", API_KEY)[0] == 0
    assert [signed_by(*request) for request in zip(api.paths, api.headers, api.bodies, strict=True)] == [
        "AKIDEXAMPLE",
        "AKIDEXAMPLE",
    ]
    assert api.paths == ["/prod/track", "/prod/batch"]
    assert api.sent("X-Amz-Security-Token") == ["token", "token"]
    assert api.sent("User-Agent") == ["own/1", track.USER_AGENT]
    assert signed_by(api.paths[0], api.headers[0], b"{}") is None  # this test can tell


@pytest.mark.usefixtures("iam")
def test_each_try_has_a_signature_of_its_own_time(run: Any, api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    signed: list[bytes] = []
    original = SigV4Auth.add_auth
    monkeypatch.setattr(
        SigV4Auth, "add_auth", lambda self, request: (signed.append(request.data), original(self, request))
    )
    api.answer = lambda number, body: (503 if number < 3 else 202, {}, b"{}")
    assert run("{}")[0] == 0
    assert signed == api.bodies and len(signed) == 3


@pytest.mark.usefixtures("iam")
def test_without_credentials_nothing_can_be_signed(run: Any, api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Session, "get_credentials", lambda self: None)
    code, _, err = run("{}")
    assert (code, api.bodies) == (2, []) and "no AWS credentials: run `aws configure`" in err


@pytest.mark.usefixtures("iam", "in_fives")
def test_credentials_that_run_out_on_the_way_end_it_with_the_line_to_go_on_from(
    run: Any, api: Api, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = SigV4Auth.add_auth

    def add_auth(self: SigV4Auth, request: AWSRequest) -> None:
        if 7 in numbers_in(request.data):
            raise CredentialRetrievalError(provider="sso", error_msg="the session has expired")
        original(self, request)

    monkeypatch.setattr(SigV4Auth, "add_auth", add_auth)
    code, out, err = run("--file", file_of(tmp_path, *[json.dumps({"n": n}) for n in range(12)]))
    assert (code, json.loads(out)["accepted"], json.loads(out)["next_line"]) == (1, 5, 6)
    assert "--from-line 6" in err and "error: no AWS credentials: run `aws configure`" in err
