"""The rules that every event passes before it becomes a row. This is the file to edit.

A rule is a function of the event and the context of its request. It may

- change the event in place: set, rename or delete keys. A key that is a column of schema.json fills that column,
  every other key goes into `properties`;
- leave the event out: `raise Drop`. The event is counted under the rule's name in RULES, and stored nowhere;
- do nothing.

Your own rule is a function and one line in RULES:

    def drop_internal_traffic(event: Event, context: Context) -> None:
        "Leave out what our own office sends."
        if context.ip is not None and context.ip.startswith("198.51.100."):
            raise Drop

    RULES = {"trim": trim, "debug": drop_debug, "bot": drop_known_bots, "internal": drop_internal_traffic, ...}

An event is what the sender wrote: any key may be missing, and any value may have any JSON type. Every event has an
`event_id` by now, the sender's or ours. An exception other than Drop is a fault: Firehose then keeps the whole record
untouched in its error output, to be replayed when the rule is mended.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, TypeAlias


class Drop(Exception):
    """A rule's decision to leave an event out; it is no fault, so it is counted and never logged."""


@dataclass(slots=True)
class Context:
    """What the pipeline knows about the request that brought an event; the same for all events of a record.

    A bare record, put on the delivery stream by an SDK, has an arrival time and nothing else.
    """

    received_at: int
    """When API Gateway took the request, in epoch milliseconds; for a bare record, Firehose's arrival time."""
    request_id: str | None = None
    extended_request_id: str | None = None
    """Set by API Gateway alone: unlike request_id, no client can choose it."""
    ip: str | None = None
    """The client's whole address, before it is truncated for its column."""
    user_agent: str | None = None
    event_id: str | None = None
    """The id that the record's only event had before, when it comes from a replay."""
    position: int = 0
    """The position of the record's first event in the request that it came with; above 0 only after a requeue."""
    redact_fields: frozenset[str] = frozenset()
    """The configured field names, in lower case."""


Event: TypeAlias = dict[str, Any]
Rule: TypeAlias = Callable[[Event, Context], None]

TRIMMED_FIELDS = ("event_id", "name", "action", "source", "user_id")

# Names that announce themselves as programs. "bot" counts only at the end of a word and not in "robot" or "Cubot",
# a maker of telephones. Libraries such as python-requests are no bots here: servers send events with them.
KNOWN_BOTS = re.compile(
    r"(?<!cu)(?<!ro)bot\b|crawler\b|spider\b|slurp\b|headlesschrome|lighthouse|pingdom|facebookexternalhit",
    re.IGNORECASE,
)


def trim(event: Event, context: Context) -> None:
    """Remove the white space around ids and names, where it would split one user or one name into two."""
    for field in TRIMMED_FIELDS:
        value = event.get(field)
        if type(value) is str:
            event[field] = value.strip()


def drop_debug(event: Event, context: Context) -> None:
    """Leave out what a developer marked as a trial: `"debug": true`, or `debug=true` in a query string."""
    if "debug" in event and (event["debug"] is True or event["debug"] == "true"):
        raise Drop


def drop_known_bots(event: Event, context: Context) -> None:
    """Leave out what a program sent that says so in its user agent."""
    if is_known_bot(context.user_agent):
        raise Drop


@lru_cache(maxsize=4096)
def is_known_bot(user_agent: str | None) -> bool:
    """Whether a user agent names a known bot; remembered, because few user agents send most events."""
    return user_agent is not None and KNOWN_BOTS.search(user_agent) is not None


def redact(event: Event, context: Context) -> None:
    """Empty the configured fields, at any depth: the key stays and its value becomes null.

    The columns `ip` and `user_agent` are not part of the event; they are emptied under the same names.
    """
    if not context.redact_fields:
        return
    # A list of what is still to be visited, not recursion: a sender chooses how deep an event is nested.
    waiting: list[Any] = [event]
    while waiting:
        container = waiting.pop()
        if type(container) is dict:
            for key, value in container.items():
                if key.lower() in context.redact_fields:
                    container[key] = None
                elif type(value) is dict or type(value) is list:
                    waiting.append(value)
        else:
            waiting.extend(item for item in container if type(item) is dict or type(item) is list)


RULES: Mapping[str, Rule] = {
    "trim": trim,
    "debug": drop_debug,
    "bot": drop_known_bots,
    # Last, so that the rules above can still decide on what it empties.
    "redact": redact,
}
"""Every rule, in the order in which they run, under the name by which its drops are counted."""
