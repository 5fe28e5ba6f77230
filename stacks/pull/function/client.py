"""One request to the source's API, with its credentials, and the page in its answer."""

from __future__ import annotations

import base64
import threading
import time
from collections.abc import Callable
from typing import Final
from urllib.parse import quote_plus, urlencode

from shared import secret, web
from shared.documents import JsonObject

from . import pages
from .pages import Page
from .problems import BadCredentials, Busy, NotJson, Problem
from .source import Source

EARLY_SECONDS: Final = 60
"""How long before its end a token of OAuth 2 is no longer used."""


class Client:
    """Asks the APIs of sources; the credentials come from the secret with this ARN."""

    def __init__(self, secret_arn: str, now: Callable[[], float] = time.time) -> None:
        self._secret_arn = secret_arn
        self._now = now
        self._tokens: dict[str, tuple[float, str]] = {}
        """The OAuth 2 tokens by source: until when each counts, in seconds since 1970, and its text."""
        # Sources are checked side by side, and a page of 50,000 rows takes far more memory than its text.
        self._reading = threading.Lock()

    def get(self, source: Source, parameters: JsonObject) -> Page:
        """The page with these parameters. Raises a Problem, whose text holds no credential.

        Takes the source's timeout at most, any token included; twice as long if the API refuses the token.
        """
        credentials: list[str] = []
        try:
            request = source.request(parameters)
            deadline = time.monotonic() + source.timeout
            used = self._authorize(source, credentials, deadline)
            answer = self._ask(request.method, request.url, request.headers | used, request.body, deadline)
            if answer.status in (401, 403):
                deadline = time.monotonic() + source.timeout
                newer = self._authorize(source, credentials, deadline, fresh=True)
                if newer != used:
                    # The token was taken back before its time, or another has been set since we read it.
                    answer = self._ask(request.method, request.url, request.headers | newer, request.body, deadline)
            pages.judge(source, answer, self._now())
            with self._reading:
                return pages.read_page(source, parameters, request, answer)
        except RecursionError:
            raise NotJson("the answer is nested too deeply") from None
        except Problem as problem:
            # An API's error may repeat the request.
            text = str(problem)
            for credential in filter(None, credentials):
                text = text.replace(credential, "...")
            raise type(problem)(text, problem.wait) from None

    def _ask(self, method: str, url: str, headers: dict[str, str], body: bytes | None, deadline: float) -> web.Answer:
        try:
            return web.ask(method, url, headers, body, timeout=max(0.0, deadline - time.monotonic()))
        except web.Unreachable as error:
            raise Busy(str(error)) from None
        except ValueError as error:
            raise BadCredentials(f"the request cannot be sent: {error}") from None

    def _authorize(
        self, source: Source, credentials: list[str], deadline: float, *, fresh: bool = False
    ) -> dict[str, str]:
        """The headers to authorize a request; their secret parts are added to `credentials`."""
        match source.auth["type"]:
            case "bearer":
                token = self._secret(source, fresh)
                credentials.append(token)
                return {"Authorization": f"Bearer {token}"}
            case "api_key":
                key = self._secret(source, fresh)
                credentials.append(key)
                return {source.auth["header"]: key}
            case "oauth2_client_credentials":
                token = self._token(source, credentials, deadline, fresh)
                credentials.append(token)
                return {"Authorization": f"Bearer {token}"}
        return {}

    def _secret(self, source: Source, fresh: bool) -> str:
        value = self._read(source, fresh)
        if not isinstance(value, str) or not value:
            raise BadCredentials(f"the secret of '{source.name}' is not text: scripts/pull.sh token sets it")
        return value

    def _read(self, source: Source, fresh: bool) -> object:
        key = source.auth.get("secret", source.name)
        try:
            return secret.read(self._secret_arn, key, fresh=fresh)
        except secret.SecretMissing:
            raise BadCredentials(f"there is no secret '{key}': set it with scripts/pull.sh token {key}") from None

    def _token(self, source: Source, credentials: list[str], deadline: float, fresh: bool) -> str:
        """An OAuth 2 access token (https://www.rfc-editor.org/rfc/rfc6749#section-4.4), kept while it counts."""
        until, token = self._tokens.get(source.name, (0.0, ""))
        if self._now() < until and not fresh:
            return token
        value = self._read(source, fresh)
        names = ("client_id", "client_secret")
        if not isinstance(value, dict) or not all(isinstance(value.get(name), str) for name in names):
            raise BadCredentials(f"the secret of '{source.name}' must be an object with client_id and client_secret")
        credentials.append(value["client_secret"])
        basic = f"{quote_plus(value['client_id'])}:{quote_plus(value['client_secret'])}"
        credentials.append(base64.b64encode(basic.encode()).decode())
        form = {"grant_type": "client_credentials"} | (
            {"scope": source.auth["scope"]} if "scope" in source.auth else {}
        )
        headers = {
            "Accept": "application/json",
            "Authorization": f"Basic {credentials[-1]}",
            "Content-Type": "application/x-www-form-urlencoded",
        }
        answer = self._ask("POST", source.auth["token_url"], headers, urlencode(form).encode(), deadline)
        if 400 <= answer.status < 500 and answer.status not in (408, 425, 429):
            raise BadCredentials(f"the token service answers {answer.status} to the credentials of '{source.name}'")
        pages.judge(source, answer, self._now())
        document = pages.parse(answer)
        if not isinstance(document, dict) or not isinstance(document.get("access_token"), str):
            raise BadCredentials("the token service answers without an access_token")
        seconds = document.get("expires_in", 0)
        seconds = float(seconds) if isinstance(seconds, int | float) else 0.0
        token = str(document["access_token"])
        self._tokens[source.name] = (self._now() + seconds - EARLY_SECONDS, token)
        return token
