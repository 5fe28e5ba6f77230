"""MiniStack in this process: how it is configured and called, and how its state gets to disk."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TextIO

from local.asgi import Application
from local.ministack.loading import load_at_first_use

ACCOUNT = "000000000000"
REGION = "us-east-1"
STATE_ATTEMPTS = 10

Json = dict[str, Any]
Answer = tuple[int, dict[str, str], bytes]
ServiceHandler = Callable[[str, str, dict[str, str], bytes, dict[str, list[str]]], Awaitable[Answer]]


class ServiceError(Exception):
    """A service answered with a status of 300 or more."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(f"{code}: {message}")
        self.status, self.code, self.message = status, code, message


def dump(value: Any, file: TextIO, **options: Any) -> None:
    """`json.dump`, encoded in C by `json.dumps` instead of in Python, in a third of the time: MiniStack writes the
    state of a service after every change."""
    file.write(json.dumps(value, **options))


class Process:
    """MiniStack's process, the base of every other part of `Emulator`. `on_change` is told the name of a service
    changed by a thread of MiniStack's."""

    account = ACCOUNT
    region = REGION

    def __init__(self, directory: Path, port: int) -> None:
        self.directory = directory
        self.on_change: Callable[[str], None] = lambda service: None
        os.environ.update(
            # Credentials and policies are checked, as on AWS.
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
        load_at_first_use()
        from ministack import app
        from ministack.core import persistence

        persistence.json = SimpleNamespace(**{**vars(json), "dump": dump})
        self.app: Application = app.app
        self._services: dict[str, ServiceHandler] = app.SERVICE_HANDLERS
        self._call_on_loop = app.call_service_handler_sync
        self._persisted, self._save_state = app._build_persistence_save_dict, persistence.save_state

    def service(self, name: str) -> ServiceHandler:
        """The handler of calls to a service."""
        return self._services[name]

    def add_service(self, name: str, handler: ServiceHandler) -> None:
        """Answer the calls of SDKs and of the AWS CLI to one service."""
        self._services[name] = handler

    async def call(  # noqa: PLR0913 - a request of HTTP
        self,
        service: str,
        method: str,
        path: str,
        body: bytes = b"",
        *,
        target: str = "",
        query: dict[str, list[str]] | None = None,
        more_headers: dict[str, str] | None = None,
    ) -> Answer:
        """A service's answer to the account itself: an engine has authorised a role's call by then. `target` names an
        operation where the path does not."""
        credential = f"AWS4-HMAC-SHA256 Credential=test/20260101/{REGION}/s3/aws4_request, SignedHeaders=host"
        headers = {"host": "127.0.0.1", "authorization": credential, "content-length": str(len(body))}
        if target:
            headers["x-amz-target"] = target
        headers |= more_headers or {}
        return await self._services[service](method, path, headers, body, query or {})

    def on_loop(self, operation: Callable[[], Json]) -> Json:
        """The answer of `operation`, called on the event loop from another thread."""
        answered: list[Json] = []

        async def call(*_: Any) -> None:
            answered.append(operation())

        self._call_on_loop(call, "", "", {}, b"", {})
        return answered[0]

    def services(self) -> list[str]:
        """The services with a state to save."""
        return list(self._persisted())

    def state(self, service: str) -> Json | None:
        """A copy of a service's state, for `write`; None while there is nothing to write."""
        for _ in range(STATE_ATTEMPTS):
            # Another thread may change the state during the copy.
            with contextlib.suppress(RuntimeError):
                copied: Json | None = self._persisted()[service]()
                return copied
        return None

    def write(self, service: str, state: Json | None) -> None:
        """Write a service's state to disk, from where MiniStack takes it when it starts; by itself it writes at its
        end."""
        if state is not None:
            self._save_state(service, state)
