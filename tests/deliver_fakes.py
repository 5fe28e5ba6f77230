"""An endpoint with given answers, and a queue, a state machine and an Athena for the deliver function."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from stacks.deliver.function.messages import Row
from stacks.deliver.function.settings import Clients, Settings

Json = dict[str, Any]


@dataclass
class Reply:
    """The endpoint's answer to a request. A `delay` beyond the client's patience is a timeout."""

    status: int = 200
    body: str = ""
    headers: dict[str, str] = field(default_factory=dict)
    delay: float = 0.0
    cut: bool = False
    """Close the connection in the middle of the answer."""


class Endpoint:
    """A server on 127.0.0.1. `replies` are used one after the other, and the last one for ever; `take` may override."""

    def __init__(self) -> None:
        self.replies: list[Reply] = [Reply()]
        self.take: Callable[[list[Json]], Reply] | None = None
        self.requests: list[tuple[dict[str, str], Json]] = []
        self.bodies: list[bytes] = []
        endpoint = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                content = self.rfile.read(int(self.headers["Content-Length"]))
                endpoint.bodies.append(content)
                body = json.loads(content)
                endpoint.requests.append(({name.lower(): value for name, value in self.headers.items()}, body))
                reply = endpoint.take(body["rows"]) if endpoint.take else endpoint.replies[0]
                if len(endpoint.replies) > 1:
                    endpoint.replies.pop(0)
                time.sleep(reply.delay)
                data = reply.body.encode()
                self.send_response(reply.status)
                for name, value in reply.headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(data) + (1 if reply.cut else 0)))
                self.end_headers()
                self.wfile.write(data)
                if reply.cut:
                    self.close_connection = True

            def log_message(self, *arguments: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/rows"
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    def close(self) -> None:
        """Stop answering."""
        self.server.shutdown()
        self.server.server_close()

    @property
    def row_ids(self) -> list[str]:
        """The ids of all posted rows, in order."""
        return [row["row_id"] for _, body in self.requests for row in body["rows"]]


def settings(**changes: Any) -> Settings:
    """Settings; a test names only the important ones."""
    values: Json = {
        "endpoint": "http://127.0.0.1:1/",
        "query": "new-rows",
        "parameters": "",
        "work_group": "sluice",
        "stream": "stream",
        "buffering_seconds": 60,
        "table": "runs",
        "queue_url": "queue",
        "dead_letter_queue_url": "dead",
        "secret_arn": "secret",
    }
    return Settings(**{**values, **changes})


def row(number: int, **values: Any) -> Row:
    """A row of a run named `run`."""
    return Row("run", "new-rows", f"{number:032x}", {"number": number, **values})


def record(number: int, body: str | None = None, *, attempt: int = 1, sent_at: float | None = None) -> Json:
    """A record as the queue's event has it."""
    return {
        "messageId": f"message-{number}",
        "receiptHandle": f"receipt-{number}",
        "body": row(number).body() if body is None else body,
        "attributes": {
            "ApproximateReceiveCount": str(attempt),
            "SentTimestamp": str(int((time.time() if sent_at is None else sent_at) * 1000)),
        },
    }


class Killed(BaseException):
    """The function was killed: nothing of its own catches this."""


class Killer:
    """Kills at the n-th call to the outside, before or after it."""

    def __init__(self, at: int, *, after: bool) -> None:
        self.left, self.after = at, after

    def wrap(self, call: Callable[..., Any]) -> Callable[..., Any]:
        """The call, counted; the n-th raises Killed."""

        def called(*arguments: Any, **named: Any) -> Any:
            self.left -= 1
            if self.left == 0 and not self.after:
                raise Killed
            result = call(*arguments, **named)
            if self.left == 0:
                raise Killed
            return result

        return called

    def clients(self, clients: Clients) -> Clients:
        """The clients, each of whose calls may be the one."""
        return Clients(
            *(_Watched(client, self) for client in (clients.athena, clients.cloudwatch, clients.dynamodb, clients.sqs))
        )


class _Watched:
    def __init__(self, client: Any, killer: Killer) -> None:
        self._client, self._killer = client, killer

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._client, name)
        return self._killer.wrap(found) if name not in ("exceptions", "get_paginator") else found


class Athena:
    """Athena with one workgroup: saved queries by name, and the result of every execution."""

    def __init__(self, queries: dict[str, str], columns: list[tuple[str, str]], rows: list[list[str | None]]) -> None:
        self.queries, self.columns, self.rows = queries, columns, rows
        self.page_rows = 1000

    def get_paginator(self, operation: str) -> Athena:
        assert operation == "list_named_queries"
        return self

    def paginate(self, *, WorkGroup: str) -> list[Json]:
        assert WorkGroup == "sluice"
        return [{"NamedQueryIds": []}, {"NamedQueryIds": list(self.queries)}]

    def batch_get_named_query(self, *, NamedQueryIds: list[str]) -> Json:
        return {
            "NamedQueries": [
                {"Name": name, "QueryString": self.queries[name], "Database": "db"} for name in NamedQueryIds
            ]
        }

    def get_query_results(self, *, QueryExecutionId: str, MaxResults: int, NextToken: str = "0") -> Json:
        rows = [[name for name, _ in self.columns], *self.rows]
        start = int(NextToken)
        size = min(MaxResults, self.page_rows)
        data = [
            {"Data": [{} if value is None else {"VarCharValue": value} for value in row]}
            for row in rows[start : start + size]
        ]
        columns = [{"Name": name, "Type": kind} for name, kind in self.columns]
        more = {"NextToken": str(start + size)} if start + size < len(rows) else {}
        return {"ResultSet": {"Rows": data, "ResultSetMetadata": {"ColumnInfo": columns}}, **more}
