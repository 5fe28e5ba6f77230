"""The canaries of scripts/verify.sh, and their expected results: an answer, and an outcome for each event.

Every canary carries the id of its run, in its event_id and its source where it has any, to tell runs and other traffic
apart. An unpredictable value is expected as a `Like`.
"""

from __future__ import annotations

import base64
import gzip
import json
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal, TypeAlias, TypeVar
from urllib.parse import quote, urlencode

from shared.documents import parse_json

AGENT = "sluice-verify/1"
LONG_AGENT = AGENT.ljust(1_024, "u")  # as much of one as a record carries; a row has the first 256 characters
BOT = "Mozilla/5.0 (compatible; Googlebot/2.1; +http://www.google.com/bot.html)"
HOSTILE_AGENT = '"\\\'},{" $util.base64Encode("x") ${foo} #foreach($x in [1])'
HOSTILE_TEXT = (
    "$util #foreach($i in [1,2]) ${foo} $!bar #end #set($a = 1) \"quotes\" 'single' \\n \n\nsluice/end "
    "extended_request_id=x\n ü世\U0001f30a </script> +%&=;"
)
LARGEST_BATCH = 1_000_000  # bytes, the limit of /batch
LARGEST_RECORD = 1_024_000  # bytes in one Firehose record
LARGEST_PAYLOAD = 10 * 1024 * 1024  # bytes, API Gateway's limit for a request
FILLERS = 8_000  # rows with a long user agent: more than one reply of the transform holds
FILLER = "filler"

Access: TypeAlias = Literal["right", "wrong", "none"]
REFUSED_ACCESS: dict[Access, str] = {"none": "no key or signature", "wrong": "a wrong key or signature"}


@dataclass(frozen=True)
class Like:
    """An expected value given by a description and a test."""

    text: str
    test: Callable[[Any], bool]

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True)
class Accepted:
    """An event stored as a row. Columns not in `columns` are NULL, or follow from the request."""

    event_id: str | None
    columns: Mapping[str, Any]
    events: ClassVar[int] = 1


@dataclass(frozen=True)
class Dropped:
    """Events dropped by a rule."""

    rule: str
    events: int = 1


@dataclass(frozen=True)
class Rejected:
    """A wrong event, and its exact text."""

    reason: str
    body: bytes
    position: int = 0
    events: int = 1
    """How many events share the rejection, and the text."""


@dataclass(frozen=True)
class Failed:
    """A malformed record in our format: it goes to the error output as it is."""

    reason: str
    record: bytes
    events: ClassVar[int] = 1


Outcome: TypeAlias = Accepted | Dropped | Rejected | Failed
T = TypeVar("T")


@dataclass(frozen=True)
class Request:
    """An HTTP request. `path` follows the stage's name."""

    method: str
    path: str
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    access: Access = "right"  # the key or the signature

    @property
    def payload(self) -> bytes:
        """The body as sent: packed if the headers say so, with the same bytes each time."""
        is_packed = self.headers.get("Content-Encoding") == "gzip"
        return gzip.compress(self.body, mtime=0) if is_packed else self.body


@dataclass(frozen=True)
class Expected:
    """An answer: its status, some of its headers (None: absent), and its body."""

    status: int
    headers: Mapping[str, Any]
    body: Any


@dataclass(frozen=True)
class Canary:
    """One request, or an SDK's call to put records on the stream, and the expected result."""

    name: str
    sent: Request | tuple[bytes, ...]
    expected: Expected | None
    outcomes: tuple[Outcome, ...] = ()
    fillers: int = 0

    @property
    def events(self) -> int:
        """How many outcomes there are, counted in events."""
        return self.fillers + sum(one.events for one in self.outcomes)


def outcomes(canaries: list[Canary], kind: type[T]) -> list[T]:
    """The outcomes of one kind."""
    return [one for canary in canaries for one in canary.outcomes if isinstance(one, kind)]


def totals(canaries: list[Canary]) -> tuple[int, dict[str, dict[str, int]]]:
    """The number of accepted events, and the others by the transform's metrics and by rule or reason."""
    dropped: Counter[str] = Counter()
    for drop in outcomes(canaries, Dropped):
        dropped[drop.rule] += drop.events
    rejected: Counter[str] = Counter()
    for reject in outcomes(canaries, Rejected):
        rejected[reject.reason] += reject.events
    failed = Counter(one.reason for one in outcomes(canaries, Failed))
    return len(outcomes(canaries, Accepted)) + sum(canary.fillers for canary in canaries), {
        "DroppedByRule": dict(dropped),
        "RejectedByReason": dict(rejected),
        "FailedByReason": dict(failed),
    }


class Flock:
    """All canaries of a run against a stack with these parameters, in their order of sending."""

    def __init__(self, run: str, parameters: Mapping[str, str], stream: str) -> None:
        self.run, self.stream = run, stream
        self.is_keyed = parameters.get("ApiAuth", "NONE") != "NONE"
        origins = parameters.get("CorsAllowOrigin", "*").split(",")
        self.cors = {"access-control-allow-origin": origins[0]}
        # A page, and the headers for its browser; refusals at the door have the first page's headers for every page.
        self.page, self.cors_of_page = "https://example.com", self.cors
        if origins != ["*"]:
            self.page = origins[-1]
            self.cors_of_page = {"access-control-allow-origin": self.page, "access-control-allow-credentials": "true"}

    def all(self) -> list[Canary]:
        """Refusals first. The last ones are accepted events: once they have arrived, the earlier ones have too."""
        return [*self.refusals(), *self.failed(), *self.rejected(), *self.dropped(), *self.large(), *self.accepted()]

    # --- Building blocks

    def event(self, slug: str, **fields: Any) -> dict[str, Any]:
        return {"event_id": f"{self.run}-{slug}", "source": self.run, **fields}

    def row(self, slug: str, **columns: Any) -> Accepted:
        return Accepted(f"{self.run}-{slug}", {"source": self.run, **columns})

    def taken(self, cors: Mapping[str, str]) -> Expected:
        return Expected(202, cors, Like('{"recordId": ...}', _has_record_id))

    def refused(self, status: int, message: str, **headers: Any) -> Expected:
        expected = Like(f'{{"message": ...{message}...}}', lambda body: message in _message(body))
        return Expected(status, {**self.cors, **headers}, expected)

    def post(self, name: str, path: str, body: bytes, *outcomes: Outcome, **headers: str) -> Canary:
        sent = Request("POST", path, body, {"Content-Type": "application/json", "User-Agent": AGENT, **headers})
        cors = self.cors_of_page if "Origin" in headers else self.cors
        return Canary(f"POST {path} {name}", sent, self.taken(cors), outcomes)

    # --- Requests with an answer and without an event

    def refusals(self) -> list[Canary]:
        put = {"DeliveryStreamName": self.stream, "Record": {"Data": _base64(_json(self.event("smuggled")))}}
        event, batch = _json(self.event("refused")), _json([self.event("refused")])
        bodies = [
            ("/track", "not JSON", "application/json", event[:-2], 400, "must be JSON"),
            ("/track", "an array", "application/json", batch, 400, "must be JSON"),
            ("/batch", "nothing", "application/json", b"", 400, "must be JSON"),
            ("/batch", "an object", "application/json", event, 400, "must be JSON"),
            ("/batch", "not JSON", "application/json", batch[:-2], 400, "must be JSON"),
            ("/track", "XML", "application/xml", b"<x/>", 415, "Unsupported Media Type"),
            ("/track", "a raw PutRecord", "application/x-amz-json-1.1", _json(put), 415, "Unsupported Media Type"),
            ("/track", "NDJSON", "application/x-ndjson", event, 415, "Unsupported Media Type"),
            ("/batch", "a form", "application/x-www-form-urlencoded", b"name=form", 415, "Unsupported Media Type"),
            ("/track", "over 1,024,000 bytes", "application/json", self._padded(LARGEST_RECORD), 413, "too large"),
            ("/nowhere", "no such route", "application/json", event, 403, "Missing Authentication Token"),
        ]
        canaries = [
            Canary(
                f"POST {path} {name}",
                Request("POST", path, body, {"Content-Type": media_type, "User-Agent": AGENT}),
                self.refused(status, message),
            )
            for path, name, media_type, body, status, message in bodies
        ]
        # API Gateway's own refusals: their headers and words cannot be changed.
        payload = Request("POST", "/track", self._padded(LARGEST_PAYLOAD), {"Content-Type": "application/json"})
        text = Like('{"message": "Request Too Long"}', lambda body: _message(body) == "Request Too Long")
        canaries.append(Canary("POST /track over 10 MB", payload, Expected(413, {}, text)))
        payload = Request("POST", "/track", event, {"Content-Type": "application/json", "Content-Encoding": "br"})
        text = Like('{"message": ...}', lambda body: bool(_message(body)))
        canaries.append(Canary("POST /track in an unknown coding", payload, Expected(415, {}, text)))
        pixel = _pixel(self.event("refused"))
        if self.is_keyed:
            types = {"Content-Type": "application/json"}
            expected = Expected(403, self.cors, Like('{"message": ...}', lambda body: bool(_message(body))))
            for method, path, body in (
                ("POST", "/track", event),
                ("POST", "/batch", batch),
                ("POST", "/v1/track", event),
                ("GET", pixel, b""),
            ):
                for access, what in REFUSED_ACCESS.items():
                    request = Request(method, path, body, types if body else {}, access)
                    name = f"{method} {path.split('?')[0]} with {what}"
                    canaries.append(Canary(name, request, expected))
        for path in ("/track", "/batch", "/v1/track"):
            headers = {
                **self.cors_of_page,
                "access-control-allow-methods": "POST,OPTIONS",
                "access-control-allow-headers": Like("content-type and what authorizes", _lets_all_in),
                "access-control-max-age": "86400",
            }
            asked = {"Origin": self.page, "Access-Control-Request-Method": "POST"}
            request = Request("OPTIONS", path, headers=asked, access="none")
            canaries.append(Canary(f"OPTIONS {path}", request, Expected(204, headers, "")))
        return canaries

    def _padded(self, size: int) -> bytes:
        """A JSON object over so many bytes."""
        return _json(self.event("too-large", text="x" * size))

    # --- Every outcome

    def failed(self) -> list[Canary]:
        event = _json(self.event("failed"))
        malformed = b"sluice/1 request_id=%b time=now\n%b\n" % (self.run.encode(), event)
        line = b"sluice/1 request_id=%b extended_request_id=e time=1 ip= user_agent=\n" % self.run.encode()
        unended = b"%b%b\nsluice/end extended_request_id=another\n" % (line, event)
        outcomes = (Failed("context_line", malformed), Failed("end_line", unended))
        return [Canary("PutRecordBatch of records that are not whole", (malformed, unended), None, outcomes)]

    def rejected(self) -> list[Canary]:
        reasons: list[tuple[str, dict[str, Any]]] = [
            ("not_a_number", {"value": "abc"}),
            ("not_a_time", {"timestamp": "yesterday"}),
            ("too_long", {"name": "n" * 257}),
            ("not_text", {"action": 2.0**80}),
        ]
        canaries = []
        for reason, fields in reasons:
            body = _json(self.event(reason, **fields))
            canaries.append(self.post(f"{reason} to be rejected", "/track", body, Rejected(reason, body)))
        deep = _json(self.event("deep"))[:-1] + b', "x": %b1%b}' % (b'{"y":' * 260, b"}" * 260)
        canaries.append(self.post("nested too deeply", "/track", deep, Rejected("nested_too_deeply", deep)))
        beacon = {"Content-Type": "text/plain;charset=UTF-8"}
        text = f"{self.run} is not JSON".encode()
        canaries.append(self.post("text/plain that is not JSON", "/track", text, Rejected("not_json", text), **beacon))
        long_text = b"%b %b" % (self.run.encode(), b"long " * 140_000)
        canaries.append(
            self.post("700 KB that are not JSON", "/track", long_text, Rejected("not_json", long_text), **beacon)
        )
        items = [b'"%b"' % self.run.encode(), _json(self.event("in-array", value="x"))]
        rows = (self.row("beside", name="beside"), Dropped("debug"))
        good = [_json(self.event("beside", name="beside")), _json(self.event("debug", debug=True))]
        body = b"[%b , %b,%b,%b]" % (items[0], good[0], items[1], good[1])
        bad = (Rejected("not_an_object", items[0]), Rejected("not_a_number", items[1], 2))
        canaries.append(self.post("an array, good and bad", "/batch", body, *bad, *rows))
        lines = [f"{self.run} {{".encode(), _json(self.event("beside-a-line"))]
        both = (Rejected("not_json", lines[0], 1), self.row("beside-a-line"))
        ndjson = {"Content-Type": "application/x-ndjson"}
        body = b"%b\n%b\n" % (lines[1], lines[0])
        canaries.append(self.post("NDJSON, good and bad", "/batch", body, *both, **ndjson))
        typeless = _json({"type": "batch", "batch": [self.event("nested")]})
        page = _json({"type": "page", "messageId": f"{self.run}-of-a-batch", "source": self.run, "name": "Home"})
        row = self.row("of-a-batch", name="Home", action="page")
        body = b'{"sentAt": "now", "batch": [%b, %b]}' % (typeless, page)
        bad_type = Rejected("unknown_type", typeless)
        canaries.append(self.library("a batch of a library, good and bad", "/v1/batch", body, bad_type, row))
        body = _json(self.event("no-type"))
        canaries.append(self.library("an unknown type", f"/v1/{self.run}", body, Rejected("unknown_type", body)))
        marks = [b'{"debug":true,"note":"A tiny event counts for more."}'] * 10_000
        beyond = [b'"%b %d"' % (self.run.encode(), number) for number in range(2)]
        body = b"[%b]" % b",".join([*marks, *beyond])
        rest = Rejected("too_many_events", b"\n".join(beyond), 10_000, events=2)
        canaries.append(self.post("10,002 events", "/batch", body, Dropped("debug", 10_000), rest))
        numbers = [b'"%b: number %d is not an object"' % (self.run.encode(), number) for number in range(502)]
        rest = Rejected("too_many_rejects", b"\n".join(numbers[500:]), 500, events=2)
        some = [Rejected("not_an_object", text, number) for number, text in enumerate(numbers[:500])]
        canaries.append(self.post("502 bad events", "/batch", b"[%b]" % b",".join(numbers), *some, rest))
        return canaries

    def dropped(self) -> list[Canary]:
        event = self.event("dropped", name="dropped")
        body, pixel = _json({**event, "debug": True}), Request("GET", _pixel({**event, "debug": "true"}))
        # Only its user agent can mark an empty body as this run's.
        agent, empty = {"User-Agent": self.run}, Dropped("empty")
        return [
            self.post("nothing", "/track", b"", empty, **agent),
            self.post("nothing as NDJSON", "/batch", b"", empty, **{**agent, "Content-Type": "application/x-ndjson"}),
            Canary("GET /pixel nothing", Request("GET", "/pixel", headers=agent), self.seen(), (empty,)),
            self.post("a trial, to be dropped", "/track", body, Dropped("debug")),
            self.library("what a library measures of itself", "/v1/m", b'{"series": []}', Dropped("metrics"), **agent),
            self.post("a bot, to be dropped", "/track", _json(event), Dropped("bot"), **{"User-Agent": BOT}),
            Canary("GET /pixel a trial, to be dropped", pixel, self.seen(), (Dropped("debug"),)),
        ]

    def library(self, name: str, path: str, body: bytes, *outcomes: Outcome, **headers: str) -> Canary:
        """A request as sent by a library of Segment or RudderStack."""
        canary = self.post(name, path, body, *outcomes, **headers)
        answer = Like('{"success": true}', lambda body: body == '{"success": true}')
        return replace(canary, expected=Expected(200, self.cors, answer))

    def seen(self) -> Expected:
        """A pixel's answer."""
        return Expected(204, {**self.cors, "cache-control": "no-store"}, "")

    def large(self) -> list[Canary]:
        """A batch at the size limit, and events for more than one reply of the transform."""
        ndjson = {"Content-Type": "application/x-ndjson"}
        texts = ["x" * 99_000] * 10
        lines = [_json(self.event(f"large-{number}", text=text)) for number, text in enumerate(texts)]
        padding = LARGEST_BATCH - sum(len(line) + 1 for line in lines)
        texts[9] += "y" * padding
        lines[9] = _json(self.event("large-9", text=texts[9]))
        rows = [self.row(f"large-{number}", properties={"text": text}) for number, text in enumerate(texts)]
        body = b"".join(line + b"\n" for line in lines)
        fillers = [_json(self.event(f"filler-{number}", name=FILLER)) for number in range(FILLERS)]
        agent = {**ndjson, "User-Agent": LONG_AGENT}
        requeued = self.post(f"{FILLERS:,} events, to be requeued", "/batch", b"\n".join(fillers), **agent)
        return [
            self.post(f"{len(body):,} bytes", "/batch", body, *rows, **ndjson),
            Canary(requeued.name, requeued.sent, requeued.expected, fillers=FILLERS),
        ]

    def accepted(self) -> list[Canary]:
        visit = {"anonymous_id": "a-7", "session_id": "s-7", "path": "/prices", "referrer": "https://example.org/"}
        sent = {"name": " John ", "action": "charge", "value": "100", "user_id": "u-7", **visit}
        time, plan = {"timestamp": "2026-01-20T23:30:00.5+02:00"}, {"plan": {"id": 7, "tags": ["a", None]}}
        columns = {**sent, "name": "John", "value": 100.0, "occurred_at": "2026-01-20 21:30:00.500", "properties": plan}
        reserved = dict.fromkeys(("ip", "user_agent", "received_at", "request_id", "dt", "clock_skew_ms"), "mine")
        of_library = {"messageId": f"{self.run}-library", "event": "Order", "userId": "u-7", "source": self.run}
        hello = {"name": "John", "action": "charge", "value": 100}
        unnamed = {"name": "no-id", "source": self.run}
        hostile = {"text": HOSTILE_TEXT, HOSTILE_TEXT: 1}
        beacon = {"Content-Type": "text/plain;charset=UTF-8", "Origin": self.page}
        queue = b"%b\n%b" % tuple(_json(self.event(f"queued-{number}")) for number in range(2))
        query = {**self.event("pixel"), "name": "pixel", "value": "12.5", "text": HOSTILE_TEXT, "empty": ""}
        pixel = Request("GET", _pixel(query), headers={"User-Agent": HOSTILE_AGENT})
        pixel_columns = {"name": "pixel", "value": 12.5, "properties": {"text": HOSTILE_TEXT, "empty": ""}}
        bare = [_json(self.event(f"bare-{number}", name="bare")) for number in range(5)]
        rows = [self.row(f"bare-{number}", name="bare") for number in range(5)]
        return [
            self.post(
                "every column",
                "/track",
                _json(self.event("columns", **sent, **time, **plan)),
                self.row("columns", **columns),
            ),
            self.post("hello", "/track", _json(self.event("hello", **hello)), self.row("hello", **hello)),
            self.post("no event_id", "/track", _json(unnamed), Accepted(None, unnamed)),
            self.post(
                "what only the pipeline sets",
                "/track",
                _json(self.event("reserved", **reserved)),
                self.row("reserved", properties=reserved),
            ),
            self.post(
                "hostile text and user agent",
                "/track",
                _json(self.event("hostile", **hostile)),
                self.row("hostile", properties=hostile),
                **{"User-Agent": HOSTILE_AGENT},
            ),
            Canary(
                "POST /track a long user agent",
                Request("POST", "/track", _json(self.event("agent")), {"User-Agent": LONG_AGENT + "and more"}),
                self.taken(self.cors),
                (self.row("agent", user_agent=LONG_AGENT[:256]),),
            ),
            self.post(
                "a beacon",
                "/track",
                _json(self.event("beacon", name="left")),
                self.row("beacon", name="left"),
                **beacon,
            ),
            self.post("a queue as beacon", "/batch", queue, self.row("queued-0"), self.row("queued-1"), **beacon),
            self.library(
                "a track call of a library",
                "/v1/t",
                _json({**of_library, "properties": {"total": 5}}),
                self.row("library", name="Order", action="track", user_id="u-7", properties={"total": 5}),
                **{"Content-Type": "text/plain"},
            ),
            self.post(
                "a CloudEvent",
                "/track",
                _json({"id": "cloud", "source": self.run, "type": "order", "data": {"total": 5}}),
                Accepted(f"{self.run} cloud", {"source": self.run, "name": "order", "properties": {"total": 5}}),
                **{"Content-Type": "application/cloudevents+json"},
            ),
            self.post("gzip", "/track", _json(self.event("gzip")), self.row("gzip"), **{"Content-Encoding": "gzip"}),
            Canary("GET /pixel", pixel, self.seen(), (self.row("pixel", **pixel_columns),)),
            Canary("PutRecord of an object", (bare[0],), None, (rows[0],)),
            Canary(
                "PutRecordBatch of an array and of NDJSON",
                (b"[%b,%b]" % (bare[1], bare[2]), b"%b\n%b" % (bare[3], bare[4])),
                None,
                tuple(rows[1:]),
            ),
        ]


def _pixel(event: Mapping[str, Any]) -> str:
    # A signature covers the query as it is encoded here: a space must be %20.
    return f"/pixel?{urlencode(event, quote_via=quote)}"


def _json(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode()


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _message(body: str) -> str:
    try:
        return str(parse_json(body)["message"])
    except (ValueError, KeyError, TypeError):
        return ""


def _has_record_id(body: str) -> bool:
    try:
        return bool(parse_json(body)["recordId"])
    except (ValueError, KeyError, TypeError):
        return False


def _lets_all_in(header: str | None) -> bool:
    allowed = {name.strip().lower() for name in (header or "").split(",")}
    return {"content-type", "x-api-key", "authorization", "x-amz-date", "traceparent"} <= allowed
