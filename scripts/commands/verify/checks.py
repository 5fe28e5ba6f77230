"""The checks of scripts/verify.sh: expected values against those seen."""

from __future__ import annotations

import ipaddress
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from operator import le
from typing import Any

from scripts.commands.common.stack import redacted_fields
from scripts.commands.lake.zones import BESIDE_EVENTS, ERRORS, PROCESSING_FAILED, RAW, REJECTED, SALTS, events_of
from scripts.commands.verify.canaries import Accepted, Canary, Dropped, Failed, Like, Rejected, Request, totals
from scripts.commands.verify.evidence import Evidence
from shared.documents import Json, parse_json

COLUMNS = {
    "event_id": "varchar",
    "name": "varchar",
    "action": "varchar",
    "value": "double",
    "source": "varchar",
    "user_id": "varchar",
    "occurred_at": "timestamp",
    "received_at": "timestamp",
    "clock_skew_ms": "bigint",
    "properties": "varchar",
    "ip": "varchar",
    "user_agent": "varchar",
    "request_id": "varchar",
    **dict.fromkeys(("anonymous_id", "session_id", "path", "referrer", "visitor_id"), "varchar"),
    "dt": "varchar",
}
DAY = Like("a day, yyyy-MM-dd", lambda text: bool(re.fullmatch(r"\d{4}-\d\d-\d\d", text or "")))
OTHERS = "other events came meanwhile, so that counts are expected at least"


@dataclass(frozen=True)
class Check:
    """One line of the result."""

    name: str
    expected: str
    seen: str
    is_ok: bool


@dataclass(frozen=True)
class Answer:
    """The response to a canary: for an SDK's call, the number of record ids as the body and status 200."""

    canary: Canary
    status: int
    headers: Mapping[str, str]
    body: str
    sent_at: float

    @property
    def is_acknowledged(self) -> bool:
        """Whether the status acknowledges the canary's events."""
        return 200 <= self.status < 300 and bool(self.canary.events)


def compare(name: str, expected: Mapping[str, Any], seen: Mapping[str, Any], summary: str) -> Iterator[Check]:
    """One good line when everything is as expected, else a bad line for each differing value."""
    differing = [
        key
        for key, value in expected.items()
        if not (value.test(seen.get(key)) if isinstance(value, Like) else value == seen.get(key))
    ]
    for key in differing:
        yield Check(f"{name}: {key}", _text(expected[key]), _text(seen.get(key)), False)
    if not differing:
        yield Check(name, summary, summary, True)


def same(name: str, expected: Any, seen: Any) -> Check:
    """One value against another."""
    is_ok = expected.test(seen) if isinstance(expected, Like) else expected == seen
    return Check(name, _text(expected), _text(seen), is_ok)


def _text(value: Any) -> str:
    if value is None:
        return "nothing"
    return (
        value
        if isinstance(value, str)
        else str(value)
        if not isinstance(value, dict)
        else json.dumps(value, sort_keys=True)
    )


def check_answers(answers: Iterable[Answer]) -> Iterator[Check]:
    """Status, headers and body of every answer."""
    for answer in answers:
        expected = answer.canary.expected
        if expected is None:
            yield same(answer.canary.name, "taken", "taken" if answer.status == 200 else answer.body)
            continue
        wanted = {"status": expected.status, **expected.headers, "body": expected.body}
        if answer.status != expected.status:  # the rest would only repeat it
            wanted = {"status": expected.status}
        seen = {"status": answer.status, **answer.headers, "body": answer.body}
        yield from compare(answer.canary.name, wanted, seen, f"{expected.status} {expected.body}".strip())


def check_not_throttled(requests: int, seconds: float, parameters: Mapping[str, str]) -> Iterator[Check]:
    """No request was refused: a bad line if they were far beyond the limits. API Gateway keeps them only roughly."""
    rate, burst = float(parameters.get("ThrottleRateLimit", 100)), float(parameters.get("ThrottleBurstLimit", 200))
    if requests > 2 * (burst + rate * seconds):
        yield Check("429", "an answer 429", f"none in {requests:,} requests, {requests / seconds:,.0f} a second", False)


def check_rows(answers: list[Answer], evidence: Evidence, parameters: Mapping[str, str], run: str) -> Iterator[Check]:
    """Every row, column by column, and no unexpected row."""
    columns = dict(evidence.columns)
    yield from compare("columns of the events table", COLUMNS, columns, f"{len(COLUMNS)} columns with their types")
    if [*columns] != [*COLUMNS] and columns == COLUMNS:
        yield Check("order of the columns", ", ".join(COLUMNS), ", ".join(columns), False)
    remaining = list(evidence.rows)
    for answer in answers:
        for outcome in answer.canary.outcomes if answer.is_acknowledged else ():
            if not isinstance(outcome, Accepted):
                continue
            found = [row for row in remaining if _is_of(row, outcome)]
            remaining = [row for row in remaining if row not in found]
            name = f"row {outcome.event_id or outcome.columns['name']}".replace(f"{run}-", "")
            if len(found) != 1:
                yield same(name, "1 row", f"{len(found)} rows")
                continue
            seen = {column: found[0].get(column) for column in COLUMNS if column in columns}
            wanted = _expected_row(outcome, answer, seen, parameters)
            yield from compare(name, {key: wanted[key] for key in seen}, _read(seen), "every column as sent")
    for row in remaining:
        yield same(f"row {row['event_id']}".replace(f"{run}-", ""), "no row", f"a row with name {row['name']}")
    if fillers := sum(answer.canary.fillers for answer in answers if answer.is_acknowledged):
        yield same("rows that were requeued", f"{fillers:,} different events", f"{evidence.fillers:,} different events")


def _is_of(row: Json, outcome: Accepted) -> bool:
    if outcome.event_id is not None:
        return bool(row["event_id"] == outcome.event_id)
    return bool(row["name"] == outcome.columns["name"])


def _read(row: Json) -> Json:
    """A row with its JSON read: the order of its keys does not matter."""
    try:
        return {**row, "properties": parse_json(row["properties"])}
    except (ValueError, KeyError, TypeError):
        return row


def _expected_row(outcome: Accepted, answer: Answer, seen: Json, parameters: Mapping[str, str]) -> dict[str, Any]:
    given = dict(outcome.columns)
    received_at = seen.get("received_at")
    skew = None
    if "occurred_at" in given and received_at:
        skew = int(_moment(given["occurred_at"]).timestamp() * 1000) - int(_moment(received_at).timestamp() * 1000)
    row: dict[str, Any] = {
        **dict.fromkeys(COLUMNS),
        "event_id": outcome.event_id or Like("a hash", lambda text: bool(re.fullmatch("[0-9a-f]{32}", text or ""))),
        "occurred_at": received_at,
        "received_at": near(answer.sent_at),
        "clock_skew_ms": skew,
        "properties": {},
        "dt": DAY,
        **_of_request(answer, parameters.get("IpHandling", "TRUNCATE")),
        **given,
    }
    if parameters.get("VisitorIds") == "DAILY" and isinstance(answer.canary.sent, Request):
        row["visitor_id"] = Like("a hash", lambda text: bool(re.fullmatch("[0-9a-f]{32}", text or "")))
    for field in redacted_fields(parameters):
        if field in ("ip", "user_agent", "user_id", "anonymous_id", "session_id", "path", "referrer", "visitor_id"):
            row[field] = None
    return row


def _of_request(answer: Answer, ip_handling: str) -> dict[str, str | Like | None]:
    """The columns shared by all events of a request; NULL for records put by an SDK, without a request."""
    request = answer.canary.sent
    if not isinstance(request, Request):
        return {"ip": None, "user_agent": None, "request_id": None}
    agent = request.headers.get("User-Agent", "")[:256] or None
    return {"ip": address(ip_handling), "user_agent": agent, "request_id": answer.headers.get("x-amzn-requestid")}


def near(moment: float) -> Like:
    """A time within ten minutes of this one: clocks differ."""
    at = datetime.fromtimestamp(moment, UTC)
    span = timedelta(minutes=10)
    return Like(f"about {at:%Y-%m-%d %H:%M:%S}", lambda text: bool(text) and abs(_moment(text) - at) < span)


def near_milliseconds(moment: float) -> Like:
    """The same for epoch milliseconds."""
    return Like(f"about {moment * 1000:.0f}", lambda number: abs((number or 0) / 1000 - moment) < 600)


def address(handling: str) -> Like | None:
    """An address as the parameter IpHandling wants it."""
    if handling == "NONE":
        return None

    def is_fine(text: str | None) -> bool:
        try:
            found = ipaddress.ip_address(text or "")
        except ValueError:
            return False
        zeroes = 8 if found.version == 4 else 80
        return handling == "FULL" or int(found) % 2**zeroes == 0

    return Like("an address" if handling == "FULL" else "a network (/24, /48)", is_fine)


def _moment(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def check_rejected(answers: list[Answer], evidence: Evidence, parameters: Mapping[str, str]) -> Iterator[Check]:
    """Every rejected event with its reason and its exact text, and no other."""
    remaining = list(evidence.rejected)
    handling = "NONE" if parameters.get("IpHandling") == "NONE" or "ip" in redacted_fields(parameters) else "TRUNCATE"
    for answer in answers:
        wanted = [one for one in answer.canary.outcomes if isinstance(one, Rejected)] if answer.is_acknowledged else []
        missing = 0
        for outcome in wanted:
            found = [row for row in remaining if row["text"] == outcome.body]
            remaining = [row for row in remaining if row not in found]
            missing += not found
            name = f"rejected by {answer.canary.name}"
            for row in found:
                expected = {
                    "reason": outcome.reason,
                    "detail": Like("a sentence", lambda text: bool(text) and len(text) > 10),
                    "event_id": Like("an id", bool),
                    "position": outcome.position,
                    "events": outcome.events,
                    "is_whole": True,
                    "received_at": near(answer.sent_at),
                    "rejected_at": near(answer.sent_at),
                    "dt": DAY,
                    **_of_request(answer, handling),
                    "extended_request_id": answer.headers.get("x-amz-apigw-id"),
                }
                if "user_agent" in redacted_fields(parameters):
                    expected["user_agent"] = None
                if any(not check.is_ok for check in compare(name, expected, row, "")) or len(wanted) < 10:
                    yield from compare(name, expected, row, f"{outcome.reason}, {len(outcome.body):,} bytes of text")
        if wanted and (missing or len(wanted) >= 10):
            yield same(f"rejected by {answer.canary.name}", f"{len(wanted)} events", f"{len(wanted) - missing} events")
    for row in remaining:
        yield same(f"rejected {row['event_id']}", "not rejected", f"{row['reason']}: {row['detail']}")


def check_failed(answers: list[Answer], evidence: Evidence, function: str) -> Iterator[Check]:
    """Every failed record in Firehose's envelope, byte for byte, and no other."""
    remaining = list(evidence.failed)
    for answer in answers:
        for outcome in answer.canary.outcomes if answer.is_acknowledged else ():
            if not isinstance(outcome, Failed):
                continue
            found = [row for row in remaining if row["record"] == outcome.record]
            remaining = [row for row in remaining if row not in found]
            name = f"failed for its {outcome.reason}"
            if not found:
                yield same(name, "1 record", "0 records")
            about = near_milliseconds(answer.sent_at)
            expected = {
                "error_type": PROCESSING_FAILED,
                "attemptsmade": Like("1 or more", lambda number: (number or 0) >= 1),
                "arrivaltimestamp": about,
                "attemptendingtimestamp": about,
                "errorcode": Like("a code", bool),
                "errormessage": Like("a message", bool),
                "lambdaarn": Like("the function", lambda arn: f":function:{function}" in (arn or "")),
                "dt": DAY,
            }
            for row in found[:1]:
                yield from compare(name, expected, row, f"its envelope, {len(outcome.record):,} bytes")
    for row in remaining:
        code = row["errorcode"] or row["lasterrorcode"]
        head = (row["record"].partition(b"\n")[2] or row["record"])[:60].decode(errors="replace")
        yield same(f"failed record {head}", "no failure", f"{code}: {row['errormessage'] or row['lasterrormessage']}")


def check_once(evidence: Evidence) -> Iterator[Check]:
    """Delivery is at least once: a row may come again. Half of them or more would not be chance."""
    for zone, (events, rows) in evidence.stored.items():
        name = f"rows of {zone} that came more than once"
        yield Check(name, "fewer than half", f"{rows - events:,} of {events:,}", rows - events < max(events, 1) / 2)


def check_metrics(canaries: list[Canary], evidence: Evidence) -> Iterator[Check]:
    """Each invocation adds up, and all of them together have counted the events sent."""
    sums = [
        (line["Received"], sum(line[name] for name in ("Accepted", "Dropped", "Rejected", "Failed")))
        for line in evidence.metrics
    ]
    wrong = [f"{received} = {total}" for received, total in sums if received != total]
    name = "metrics: received = accepted + dropped + rejected + failed"
    yield Check(name, "in all invocations", ", ".join(wrong) or f"in all {len(sums)} invocations", not wrong)
    accepted, by_cause = totals(canaries)
    at_least = Like(f"at least {accepted}", partial(le, accepted))
    yield same("metrics: Accepted", at_least if evidence.foreign else accepted, evidence.counted("Accepted"))
    for metric, expected in by_cause.items():
        seen = evidence.counted_by(metric)
        if evidence.foreign:
            seen = {key: min(count, seen.get(key, 0)) for key, count in expected.items()}
        yield same(f"metrics: {metric}", expected, seen)
    if any(canary.fillers for canary in canaries):
        yield same("metrics: Requeued", Like("more than 0", lambda n: n > 0), evidence.counted("Requeued"))


def formats(parameters: Mapping[str, str]) -> tuple[str, str]:
    """The extension and the kind of the objects of events."""
    compression = parameters.get("FirehoseCompressionFormat", "GZIP")
    if parameters.get("OutputFormat", "PARQUET") == "PARQUET":
        return ".parquet", f"parquet {compression}"
    return {
        "GZIP": (".json.gz", "gzip"),
        "SNAPPY": (".json.snappy", "snappy"),
        "UNCOMPRESSED": (".json", "json"),
    }[compression]


def check_objects(objects: Mapping[str, str], folders: list[str], parameters: Mapping[str, str]) -> Iterator[Check]:
    """The folders, names and formats of the objects; `objects` has the kind of each by its key."""
    prefix = events_of(parameters)
    extension, kind = formats(parameters)
    suffix = r"dt=\d{4}-\d\d-\d\d/[\w.-]+-\d+-\d{4}(-\d\d){5}-[0-9a-f-]{36}"
    zones = {
        prefix: (re.escape(extension), kind),
        REJECTED: (r"\.json\.gz", "gzip"),
        # AWS does not document the names of error objects or their compression: the report has both.
        ERRORS: (".*", None),
        RAW: (".*", "gzip"),
    }
    for zone, (ending, zone_kind) in zones.items():
        keys = [key for key in objects if key.startswith(zone)]
        pattern = re.compile(re.escape(zone) + (f"{PROCESSING_FAILED}/" if zone == ERRORS else "") + suffix + ending)
        bad = [key for key in keys if not pattern.fullmatch(key)]
        bad += [f"{objects[key]}: {key}" for key in keys if zone_kind and objects[key] != zone_kind]
        if zone != RAW or keys:
            shown = f"dt=yyyy-MM-dd/...{ending if zone_kind else ''} {zone_kind or ''}".replace("\\", "").strip()
            is_ok = bool(keys) and not bad
            yield Check(f"objects of {zone}", shown, bad[0] if bad else shown if keys else "no object", is_ok)
    known = (prefix.split("/")[0] + "/", *BESIDE_EVENTS, SALTS)
    strange = [folder for folder in folders if not folder.startswith(known)]
    strange += [
        folder
        for folder in folders
        if folder.startswith(f"{prefix}") and not re.fullmatch(prefix + "dt=.*", folder) and folder != prefix
    ]
    yield same("folders of the bucket", "as the tables say", ", ".join(strange) or "as the tables say")


def check_raw(answers: list[Answer], records: list[bytes]) -> Iterator[Check]:
    """Every record taken is there with its body unchanged."""
    bodies: list[bytes] = []
    for answer in answers:
        if answer.is_acknowledged:
            sent = answer.canary.sent
            bodies += [sent.body] if isinstance(sent, Request) else sent
    found = sum(any(body in record for record in records) for body in bodies)
    yield same("raw records", f"{len(bodies)} of {len(bodies)}", f"{found} of {len(bodies)}")


def accounting(answers: list[Answer], evidence: Evidence) -> tuple[str, bool]:
    """The line at the end, with the acknowledged events and those with each outcome; whether the numbers agree."""
    acknowledged = sum(answer.canary.events for answer in answers if answer.is_acknowledged)
    canaries = [answer.canary for answer in answers if answer.is_acknowledged]
    # Dropped events leave only a count, and other traffic may be in it.
    _, expected = totals(canaries)
    counted = evidence.counted_by("DroppedByRule")
    dropped = sum(
        min(count, counted.get(rule, 0)) if evidence.foreign else counted.get(rule, 0)
        for rule, count in expected["DroppedByRule"].items()
    )
    accepted = len(evidence.rows) + evidence.fillers
    rejected, failed = sum(row["events"] for row in evidence.rejected), len(evidence.failed)
    total = accepted + dropped + rejected + failed
    sign = "=" if total == acknowledged else "but"
    return (
        f"{acknowledged:,} acknowledged {sign} {accepted:,} accepted + {dropped:,} dropped + {rejected:,} rejected "
        f"+ {failed:,} failed" + ("" if sign == "=" else f" = {total:,}"),
        total == acknowledged,
    )


def outcome_counts(answers: list[Answer]) -> tuple[int, int]:
    """The events that must have arrived in the end: in the tables, and in the transform's counts."""
    canaries = [answer.canary for answer in answers if answer.is_acknowledged]
    arrived = [one for canary in canaries for one in canary.outcomes if not isinstance(one, Dropped)]
    in_tables = sum(one.events for one in arrived)
    return in_tables + sum(canary.fillers for canary in canaries), sum(canary.events for canary in canaries)
