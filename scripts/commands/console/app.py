"""The pages of the console: their addresses, and the requests to start queries."""

from __future__ import annotations

import csv
import io
import secrets
import threading
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qsl, quote, urlencode

from botocore.exceptions import BotoCoreError, ClientError
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import FileResponse, HTMLResponse, RedirectResponse, Response, StreamingResponse
from starlette.routing import Route

from scripts.commands.common.athena import SavedQuery, choose, fill
from scripts.commands.common.console import CommandError, UsageError, explain
from scripts.commands.common.stack import Aws, Stack, stack_option
from scripts.commands.common.tables import csv_cells, csv_text
from scripts.commands.console.guard import Guard
from scripts.commands.console.now import REQUESTS_PRICE, Now
from scripts.commands.console.pages import FOLDER, templates
from scripts.commands.console.questions import Questions, Run, parameters_of
from scripts.commands.lake.health import SERVICES

REJECTED_SQL: Final = Path(__file__).with_name("rejected.sql")
WAIT_SECONDS: Final = 1.0
"""How long a page waits for Athena before it shows the query as running."""
RELOAD_SECONDS: Final = 5
LOOK_SECONDS: Final = 2
MOST_BYTES: Final = 1_000_000
"""Of a form; Athena takes a query of 262,144 bytes."""
EXAMPLE: Final = """\
SELECT name, count(*) AS events
FROM ${AthenaTableName}
WHERE dt >= date_format(current_date - interval '7' day, '%Y-%m-%d')
GROUP BY name
ORDER BY events DESC
LIMIT 20"""

Form = list[tuple[str, str]]


class Console:
    """The pages about one stack. `connect` reaches its home anew, as after a new login."""

    def __init__(self, connect: Callable[[], Aws], stack_name: str) -> None:
        self._connect, self._name = connect, stack_name
        self._aws = _with_clients(connect())
        self._now, self._lock = Now(self._stack), threading.Lock()
        self._templates = templates()
        self.token = secrets.token_urlsafe(16)
        """Every form of this console carries it, and no other page knows it."""

    def app(self, port: int) -> Guard:
        """The application; it answers under this port alone."""
        post = self._posted
        routes = [
            Route("/", self.show_now),
            Route("/", post(self.look_again), methods=["POST"]),
            Route("/questions", self.list_questions),
            Route("/questions/{name:path}", self.show_question),
            Route("/questions/{name:path}", post(self.ask_question), methods=["POST"]),
            Route("/sql", self.show_sql),
            Route("/sql", post(self.ask_sql), methods=["POST"]),
            Route("/rejected", self.show_rejected),
            Route("/rejected", post(self.ask_rejected), methods=["POST"]),
            Route("/csv", self.download),
            Route("/stop", post(self.stop), methods=["POST"]),
            Route("/console.css", self.style),
        ]
        handlers: Any = {CommandError: self.failed, BotoCoreError: self.failed, ClientError: self.failed}
        handlers[HTTPException] = self.refused
        return Guard(Starlette(routes=routes, exception_handlers=handlers), port)

    # --- Now

    def show_now(self, request: Request) -> Response:
        """GET /: locally a new snapshot, on AWS the snapshot of the last click."""
        is_local, is_paused = self._aws.is_local, "pause" in request.query_params
        snapshot, is_looking = self._now.look(WAIT_SECONDS, anew=is_local)
        headers = {}
        if is_looking:
            headers = {"Refresh": str(LOOK_SECONDS)}
        elif is_local and not is_paused:
            headers = {"Refresh": str(RELOAD_SECONDS)}
        context: dict[str, Any] = {"snapshot": snapshot, "is_looking": is_looking, "is_paused": is_paused}
        # Locally it is free, and the stack is asked beside this page.
        stack = None if is_local else self._stack()
        price = f"about {REQUESTS_PRICE} USD for requests, and for the query {Questions(stack).price}" if stack else ""
        context |= {"seconds": RELOAD_SECONDS, "price": price}
        if snapshot:
            context["state"] = snapshot.facts.stack.status
        return self._page("now.html", stack, context, headers=headers)

    def look_again(self, _request: Request, _form: Form) -> Response:
        """POST /: take a snapshot."""
        self._now.look(WAIT_SECONDS, anew=True)
        return RedirectResponse("/", 303)

    # --- Questions

    def list_questions(self, _request: Request) -> Response:
        """GET /questions: every saved query."""
        stack = self._stack()
        return self._page("questions.html", stack, {"saved": Questions(stack).saved()})

    def show_question(self, request: Request) -> Response:
        """GET /questions/NAME?p=VALUE&run=ID: the query, and the run's result. Locally, an address alone runs it."""
        stack = self._stack()
        questions = Questions(stack)
        query = self._chosen(questions, request)
        labels, values = parameters_of(query.sql), request.query_params.getlist("p")
        run_id = request.query_params.get("run", "")
        if not run_id and stack.aws.is_local and len(values) == len(labels) and all(values):
            return self._ask(questions, query, values)
        run = questions.look(run_id, WAIT_SECONDS) if run_id else None
        if run and run.sql.strip() != query.sql.strip():
            raise UsageError(f"the run {run_id!r} is not one of the query '{query.name}' as it is today: ask again")
        fields = list(zip(labels, [*values, *[""] * len(labels)], strict=False))
        given = f"?{urlencode([('p', value) for value in values])}" if values else ""
        address = f"/questions/{quote(query.name)}{given}"
        context = {"query": query, "fields": fields, "address": address}
        return self._answer("question.html", stack, run, context)

    def ask_question(self, request: Request, form: Form) -> Response:
        """POST /questions/NAME: run it with the values of the form."""
        questions = Questions(self._stack())
        query = self._chosen(questions, request)
        values = [value for name, value in form if name == "p"]
        if len(values) != len(parameters_of(query.sql)) or not all(values):
            raise UsageError(f"the query '{query.name}' needs a value in every field")
        return self._ask(questions, query, values)

    def show_sql(self, request: Request) -> Response:
        """GET /sql?run=ID: the box for own SQL, and a run's answer."""
        stack = self._stack()
        run_id = request.query_params.get("run", "")
        run = Questions(stack).look(run_id, WAIT_SECONDS) if run_id else None
        return self._answer("sql.html", stack, run, {"sql": run.sql if run else EXAMPLE})

    def ask_sql(self, _request: Request, form: Form) -> Response:
        """POST /sql: run the SQL of the form. Nothing else runs unsaved SQL."""
        sql = dict(form).get("sql", "").replace("\r\n", "\n").strip()
        if not sql:
            raise UsageError("the box is empty: write a query into it")
        stack = self._stack()
        return RedirectResponse(f"/sql?run={quote(Questions(stack).start(fill(sql, stack), []))}", 303)

    def stop(self, _request: Request, form: Form) -> Response:
        """POST /stop: stop a query of this stack."""
        fields = dict(form)
        Questions(self._stack()).stop(fields.get("run", ""))
        back = fields.get("back", "")
        return RedirectResponse(back if back.startswith("/") and not back.startswith(("//", "/\\")) else "/", 303)

    def download(self, request: Request) -> Response:
        """GET /csv?run=ID: the whole result, sent as it is read."""
        questions = Questions(self._stack())
        run = questions.look(request.query_params.get("run", ""))
        if not run.has_result:
            raise UsageError(f"the query {run.id!r} has no result: its state is {run.state}")
        headers = {"Content-Disposition": f'attachment; filename="{quote(run.id)}.csv"'}
        return StreamingResponse(_csv(questions, run.id), media_type="text/csv; charset=utf-8", headers=headers)

    # --- Rejected

    def show_rejected(self, request: Request) -> Response:
        """GET /rejected?run=ID: rejected events by reason. Locally, the address alone asks."""
        stack = self._stack()
        questions, run_id = Questions(stack), request.query_params.get("run", "")
        if not run_id and stack.aws.is_local:
            return self.ask_rejected(request, [])
        run = questions.look(run_id, WAIT_SECONDS) if run_id else None
        if run and run.sql.strip() != fill(REJECTED_SQL.read_text(), stack).strip():
            raise UsageError(f"the run {run_id!r} is not about rejected events: ask again")
        return self._answer("rejected.html", stack, run, {"options": stack.aws.flag + stack_option(self._name)})

    def ask_rejected(self, _request: Request, _form: Form) -> Response:
        """POST /rejected: ask for rejected events."""
        stack = self._stack()
        run_id = Questions(stack).start(fill(REJECTED_SQL.read_text(), stack), [])
        return RedirectResponse(f"/rejected?run={quote(run_id)}", 303)

    # --- All pages

    def style(self, _request: Request) -> Response:
        """GET /console.css"""
        return FileResponse(FOLDER / "console.css", media_type="text/css")

    def failed(self, _request: Request, error: Exception) -> Response:
        """The page for an error of AWS or of the stack. After an error of AWS, the next request logs in anew."""
        if isinstance(error, CommandError):
            return self._page("error.html", None, {"text": str(error)}, 404 if isinstance(error, UsageError) else 502)
        assert isinstance(error, BotoCoreError | ClientError)
        self._reconnect()
        return self._page("error.html", None, {"text": explain(error)}, 502)

    def refused(self, _request: Request, error: Exception) -> Response:
        """The page for an unknown address, and for a request from outside this console."""
        assert isinstance(error, HTTPException)
        return self._page("error.html", None, {"text": error.detail}, error.status_code)

    def _reconnect(self) -> None:
        with self._lock:
            try:
                self._aws = _with_clients(self._connect())
            except (BotoCoreError, ClientError, CommandError):
                return  # the page tells of the error before this one; the next request tries again

    def _stack(self) -> Stack:
        """The stack as it is now; UsageError if it is not there."""
        stack = Stack(self._aws, self._name)
        _ = stack.outputs
        return stack

    def _chosen(self, questions: Questions, request: Request) -> SavedQuery:
        return choose(questions.saved(), request.path_params["name"])

    def _ask(self, questions: Questions, query: SavedQuery, values: list[str]) -> Response:
        run_id = questions.start(query.sql, values, query.database)
        pairs = [*(("p", value) for value in values), ("run", run_id)]
        return RedirectResponse(f"/questions/{quote(query.name)}?{urlencode(pairs)}", 303)

    def _answer(self, template: str, stack: Stack, run: Run | None, context: dict[str, Any]) -> Response:
        """A page with a run and, if it has ended well, its result. It looks again while the query runs."""
        questions = Questions(stack)
        result = questions.result(run.id) if run and run.has_result else None
        link = questions.console_link(run.id) if run else ""
        headers = {"Refresh": str(LOOK_SECONDS)} if run and not run.is_final else {}
        found = {"run": run, "result": result, "link": link, "price": questions.price}
        return self._page(template, stack, found | context, headers=headers)

    def _page(
        self,
        template: str,
        stack: Stack | None,
        context: dict[str, Any],
        status: int = 200,
        headers: dict[str, str] | None = None,
    ) -> Response:
        aws = self._aws
        known = {"name": self._name, "place": aws.place, "is_local": aws.is_local, "token": self.token}
        state = stack.description["StackStatus"] if stack else ""
        text = self._templates.get_template(template).render(known | {"state": state} | context)
        return HTMLResponse(text, status, headers)

    def _posted(self, handle: Callable[[Request, Form], Response]) -> Callable[[Request], Awaitable[Response]]:
        """An endpoint for a form of this console, with its token."""

        async def endpoint(request: Request) -> Response:
            body = b""
            async for chunk in request.stream():
                body += chunk
                if len(body) > MOST_BYTES:
                    raise HTTPException(413, f"a form has at most {MOST_BYTES:,} bytes")
            form = parse_qsl(body.decode(errors="replace"), keep_blank_values=True)
            if not secrets.compare_digest(dict(form).get("token", "").encode(), self.token.encode()):
                raise HTTPException(403, "this form is not of the console that runs now: load the page again")
            return await run_in_threadpool(handle, request, form)

        return endpoint


def _with_clients(aws: Aws) -> Aws:
    """The same, with every client made: two threads must not make one at the same time."""
    for service in (*SERVICES, "athena", "sts"):
        aws.client(service)
    return aws


def _csv(questions: Questions, run_id: str) -> Iterator[str]:
    columns, rows = questions.all_rows(run_id)
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(csv_text(column.name) for column in columns)
    for row in rows:
        writer.writerow(csv_cells(columns, row))
        if buffer.tell() > 65_536:
            yield buffer.getvalue()
            buffer.seek(0)
            buffer.truncate()
    yield buffer.getvalue()
