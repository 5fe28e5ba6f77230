"""Credentials are read when they are needed, replaced when the API refuses them, and never shown."""

from __future__ import annotations

import json
import logging
import time
from typing import Any

import pytest

from stacks.pull.function import client as clients
from stacks.pull.function.problems import Busy
from tests.pull_api import Asked, Json, Told, serving
from tests.stacks.pull.pulled import THINGS, TOKEN, Pulled, declare, honest, page_of


def test_oauth2_fetches_a_token_once_and_anew_when_it_is_taken_back(table: Any) -> None:
    given: list[str] = []

    def api(asked: Asked) -> Told:
        if asked.path == "/token":
            assert asked.headers["authorization"] == "Basic bWU6a2VwdC1ieS1tZS0wODE1"
            assert asked.body == b"grant_type=client_credentials&scope=read"
            given.append(f"access-{len(given)}")
            return Told(200, {"access_token": given[-1], "expires_in": 3600})
        if asked.headers["authorization"] != f"Bearer {given[-1]}" or (page_of(asked) == 3 and len(given) == 1):
            return Told(401, {})
        return honest(asked._replace(headers={"authorization": f"Bearer {TOKEN}"}))

    with serving(api) as url:
        auth = {"type": "oauth2_client_credentials", "token_url": f"{url}/token", "scope": "read", "secret": "machine"}
        pulled = Pulled(table, declare(url, auth=auth))
        assert pulled.run()["failed"] == []
    assert given == ["access-0", "access-1"]
    assert pulled.things == {thing["id"] for thing in THINGS}


def test_a_token_and_the_answer_that_it_is_for_have_one_deadline(table: Any) -> None:
    def api(asked: Asked) -> Told:
        time.sleep(0.7)
        return Told(200, {"access_token": "access-0", "expires_in": 3600, "data": [], "pages": 0})

    with serving(api) as url:
        auth = {"type": "oauth2_client_credentials", "token_url": f"{url}/token", "secret": "machine"}
        pulled = Pulled(table, declare(url, auth=auth, timeout_seconds=1))
        with pytest.raises(Busy, match="gave no whole answer within"):
            pulled.client.get(pulled.source, {"page": 1})


@pytest.mark.parametrize("status", [401, 403])
def test_a_token_that_is_replaced_in_a_run_is_read_anew(
    table: Any, monkeypatch: pytest.MonkeyPatch, status: int
) -> None:
    """The secret is kept for five minutes; the API takes the new token alone from the third page on."""
    kept = "old"

    def read(arn: str, key: str, *, fresh: bool = False) -> str:
        nonlocal kept
        kept = "new" if fresh else kept
        return kept

    def api(asked: Asked) -> Told:
        wanted = "new" if page_of(asked) >= 3 else "old"
        if asked.headers["authorization"] not in (f"Bearer {wanted}", "Bearer new"):
            return Told(status, {})
        return honest(asked._replace(headers={"authorization": f"Bearer {TOKEN}"}))

    monkeypatch.setattr(clients.secret, "read", read)
    with serving(api) as url:
        pulled = Pulled(table, declare(url))
        assert pulled.run()["failed"] == []
    assert sorted(event["properties"]["id"] for event in pulled.events) == sorted(thing["id"] for thing in THINGS)


AUTHS: dict[str, tuple[Json, Any, str]] = {
    "no secret": (
        {"type": "bearer", "secret": "other"},
        None,
        "there is no secret 'other': set it with scripts/pull.sh token other",
    ),
    "a secret of the wrong kind": ({"type": "bearer", "secret": "machine"}, None, "the secret of 'things' is not text"),
    "no client id": (
        {"type": "oauth2_client_credentials", "token_url": "https://x"},
        None,
        "must be an object with client_id and client_secret",
    ),
}


@pytest.mark.parametrize(("auth", "_", "error"), AUTHS.values(), ids=AUTHS)
def test_credentials_that_are_not_there_say_how_to_set_them(table: Any, auth: Json, _: Any, error: str) -> None:
    with serving(honest) as url:
        end = Pulled(table, declare(url, auth=auth)).run()
    assert end["failed"][0]["error"].startswith("BadCredentials: ") and error in end["failed"][0]["error"]


def test_no_credential_reaches_a_log_the_table_or_a_queue(
    table: Any, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    for name in ("pull", "shared", "transform", "urllib3"):
        caplog.set_level(logging.DEBUG, logger=name)
    hidden = {TOKEN, "kept-by-me-0815", "bWU6a2VwdC1ieS1tZS0wODE1", "access-0"}

    def api(asked: Asked) -> Told:
        """Repeats in its error whatever it was sent."""
        if asked.path == "/token" and page_of(asked) == 1:
            return Told(200, {"access_token": "access-0", "expires_in": 3600})
        if page_of(asked) == 1:
            return Told(200, {"data": THINGS[:3], "pages": 4})
        return [
            Told(200, {"error": f"I got {asked.headers}"}),
            Told(403, {"headers": asked.headers}),
            Told(500, {"headers": asked.headers}),
        ][page_of(asked) - 2]

    kinds: list[Json] = [
        {"type": "bearer"},
        {"type": "api_key", "header": "X-Api-Key"},
        {"type": "oauth2_client_credentials", "secret": "machine"},
    ]
    with serving(api) as url:
        for number, auth in enumerate(kinds):
            if "oauth2" in auth["type"]:
                auth["token_url"] = f"{url}/token"
            auth.setdefault("secret", "things")
            pulled = Pulled(table, declare(url, auth=auth, name=f"kind-{number}"))
            end = pulled.run()
            seen = [json.dumps(end), str(pulled.queue.dead), str(pulled.reasons())]
            assert "ErrorBody: the API answers 200 with an error in it: I got" in str(pulled.reasons())
            seen += [str(pulled.store.state(f"kind-{number}")), caplog.text, *capfd.readouterr()]
            assert [secret for secret in hidden if any(secret in text for text in seen)] == []
    assert [secret for secret in hidden if secret in str(table.scan()["Items"])] == []
