"""Events as well-known clients write them, made into events with our columns.

Everything here is pure. The context line says which envelope a body has, from the route or the media type; content is
never guessed.

- `v1/<type>`: the posts of Segment's and RudderStack's libraries to /v1/<type>. A batch is split before (records.py),
  and each of its events names its own type.
- `cloudevents`: CloudEvents 1.0 as JSON, one or an array.

A key of theirs is moved to our name if the event has no such key itself. All others become `properties`, so nothing is
lost.
"""

from __future__ import annotations

from typing import Any, Final

from transform.records import BATCH, Form, Reject, Sent, parse
from transform.rules import Drop, Event

METRICS: Final = "metrics"
"""The rule against a library's measurements of itself."""

_TYPES: Final = ("track", "page", "screen", "identify", "group", "alias")
"""The types of the libraries' events."""

_KEYS: Final = {"messageId": "event_id", "userId": "user_id", "anonymousId": "anonymous_id"}
_TIMES: Final = ("timestamp", "originalTimestamp", "sentAt")
"""The first one given is the event's time, by the sender's clock; the others stay properties."""

_CLOUD_KEYS: Final = {"type": "name", "time": "timestamp"}


def unwrap(form: Form, event: Sent) -> Sent | Drop:
    """An envelope's event as one of ours, or a Reject or a Drop; anything else as it is. Takes the event apart."""
    if form == "v1/metrics":
        return Drop(METRICS)
    if form == "v1/other":
        return Reject("unknown_type", "the path names no type that is known after /v1/")
    if type(event) is not dict or not event:
        return event
    if form == "cloudevents":
        return _of_cloud_event(event)
    type_name = event.get("type") if form == BATCH else form.removeprefix("v1/")
    if type(type_name) is not str or type_name not in _TYPES:
        return Reject("unknown_type", f"an event of a batch must have one of the types {', '.join(_TYPES)}")
    return _of_library(event, type_name)


def read_event(text: bytes, form: Form) -> Sent | Drop:
    """The event of one text of this envelope, as records.split_texts gives it; or a Reject or a Drop."""
    return unwrap(form, parse(text, exact=True))


def _of_library(event: Event, type_name: str) -> Event:
    if event.get("type") == type_name:
        del event["type"]
    event.setdefault("action", type_name)
    for key, column in _KEYS.items():
        _move(event, key, event, column)
    if type_name == "track":
        _move(event, "event", event, "name")
    time_key = next((key for key in _TIMES if event.get(key)), _TIMES[0])
    _move(event, time_key, event, "timestamp")
    context = event.get("context")
    if type(context) is dict:
        _move(context, "sessionId", event, "session_id")
        page = context.get("page")
        if type(page) is dict:
            _move(page, "path", event, "path")
            _move(page, "referrer", event, "referrer")
    return event


def _of_cloud_event(event: Event) -> Event:
    # An id is unique for its source alone, and a source is a URI: it has no space in it.
    own_id, source = event.get("id"), event.get("source")
    if type(own_id) is str and own_id and type(source) is str and source and event.get("event_id") is None:
        event["event_id"] = f"{source} {own_id}"
        del event["id"]
    for key, name in _CLOUD_KEYS.items():
        _move(event, key, event, name)
    if type(event.get("data")) is dict:
        _move(event, "data", event, "properties")
    return event


def _move(found: dict[str, Any], key: str, event: Event, name: str) -> None:
    if key in found and event.get(name) is None:
        event[name] = found.pop(key)
