"""The transform's work as a plain loop over the standard library, to compare the transform with.

It reads the same records and writes the same rows, as one would write it without a thought for speed. It covers the
measured events alone: no limits, no reject stream, no other shapes of times and values.
"""

from __future__ import annotations

import base64
import hashlib
import ipaddress
import json
import re
from datetime import UTC, datetime
from typing import Any

TEXT_COLUMNS = ("name", "action", "source", "user_id", "anonymous_id", "session_id", "path", "referrer")
KNOWN_BOTS = re.compile(
    r"(?<!cu)(?<!ro)bot\b|crawler\b|spider\b|slurp\b|headlesschrome|lighthouse|pingdom|facebookexternalhit",
    re.IGNORECASE,
)


def handle(event: dict[str, Any]) -> dict[str, Any]:
    """One invocation: a reply for each record."""
    return {"records": [answer(record) for record in event["records"]]}


def answer(record: dict[str, Any]) -> dict[str, Any]:
    request, body = read_record(base64.b64decode(record["data"]))
    rows = []
    for position, event in enumerate(read_events(body)):
        row = make_row(event, request, position)
        if row is not None:
            rows.append(json.dumps(row) + "\n")
    data = base64.b64encode("".join(rows).encode()).decode() if rows else record["data"]
    return {"recordId": record["recordId"], "result": "Ok" if rows else "Dropped", "data": data}


def read_record(data: bytes) -> tuple[dict[str, Any], str]:
    """The request's context, and the body."""
    line, _, rest = data.decode().partition("\n")
    body, _, end = rest.rstrip("\n").rpartition("\n")
    request: dict[str, Any] = dict(pair.split("=", 1) for pair in line.split()[1:])
    if end != f"sluice/end extended_request_id={request['extended_request_id']}":
        raise ValueError("the record is not whole")
    request["time"] = int(request["time"])
    request["user_agent"] = base64.b64decode(request["user_agent"]).decode()
    version = ipaddress.ip_address(request["ip"]).version
    network = ipaddress.ip_network(f"{request['ip']}/{24 if version == 4 else 48}", strict=False)
    request["ip"] = str(network.network_address)
    return request, body


def read_events(body: str) -> list[dict[str, Any]]:
    found = json.loads(body)
    return found if isinstance(found, list) else [found]


def make_row(event: dict[str, Any], request: dict[str, Any], position: int) -> dict[str, Any] | None:
    """The row of an event, or None when a rule leaves it out."""
    event_id = event.pop("event_id", None) or make_event_id(event, request, position)
    for column in TEXT_COLUMNS:
        if isinstance(event.get(column), str):
            event[column] = event[column].strip()
    if event.get("debug") is True or KNOWN_BOTS.search(request["user_agent"]):
        return None
    occurred_at, skew = request["time"], None
    timestamp = event.pop("timestamp", None)
    if timestamp:
        moment = datetime.fromisoformat(timestamp)
        occurred_at = int(moment.timestamp() * 1000)
        skew = occurred_at - request["time"]
    columns = {column: event.pop(column, None) or None for column in TEXT_COLUMNS}
    if columns["name"] and len(columns["name"]) > 256:
        raise ValueError("name is too long")
    value = event.pop("value", None)
    own_properties = event.pop("properties", None)
    properties = {**event, **own_properties} if isinstance(own_properties, dict) else event
    return {
        "event_id": event_id,
        "name": columns["name"],
        "action": columns["action"],
        "value": None if value is None else float(value),
        "source": columns["source"],
        "user_id": columns["user_id"],
        "occurred_at": format_time(occurred_at),
        "received_at": format_time(request["time"]),
        "clock_skew_ms": skew,
        "properties": json.dumps(properties, separators=(",", ":"), ensure_ascii=False),
        "ip": request["ip"],
        "user_agent": request["user_agent"],
        "request_id": request["request_id"],
        **{column: columns[column] for column in TEXT_COLUMNS[4:]},
        "visitor_id": None,
    }


def make_event_id(event: dict[str, Any], request: dict[str, Any], position: int) -> str:
    text = json.dumps(event, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(f"{request['extended_request_id']} {position} {text}".encode()).hexdigest()[:32]


def format_time(milliseconds: int) -> str:
    moment = datetime.fromtimestamp(milliseconds / 1000, UTC)
    return f"{moment:%Y-%m-%d %H:%M:%S}.{milliseconds % 1000:03d}"
