"""The rules for every event, on its way to a row. This is the file to edit.

A rule is a function of the event and the context of its request. It may

- change the event in place: set, rename or delete keys. A key named like a column of schema.json fills it, every
  other key goes into `properties`;
- leave the event out: `raise Drop`. The event is counted under the rule's name in RULES, and stored nowhere;
- do nothing.

Your own rule is a function and one line in RULES:

    def drop_internal_traffic(event: Event, context: Context) -> None:
        "Leave out the events of our own office."
        if context.ip is not None and context.ip.startswith("198.51.100."):
            raise Drop

    RULES = {"trim": trim, "debug": drop_debug, "bot": drop_known_bots, "internal": drop_internal_traffic, ...}

An event is as the sender wrote it: any key may be missing, and any value may have any JSON type. Every event has an
`event_id` by now, the sender's or ours; an invalid `event_id` of the sender's is in `event["properties"]`. An event
without any key never comes here: it is dropped, and counted as `empty`. An exception other than Drop is a fault:
Firehose then keeps the whole record untouched in its error output, to be replayed when the rule is fixed.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal, TypeAlias
from unicodedata import normalize

IpHandling: TypeAlias = Literal["TRUNCATE", "FULL", "NONE"]


class Drop(Exception):
    """A rule's decision to leave an event out; it is not a fault, so it is counted and never logged."""


@dataclass(frozen=True, slots=True)
class Settings:
    """The stack's parameters for the transform."""

    ip_handling: IpHandling = "TRUNCATE"
    redact_fields: frozenset[str] = frozenset()
    """Names of fields, each as `fold` gives it."""
    keep_headless: bool = False
    """Whether events of headless browsers become rows, for tests in such a browser."""
    find_salt: Callable[[int], bytes | None] | None = None
    """The salt of visitors' ids at these epoch milliseconds, if rows are to have such ids."""


DEFAULTS = Settings()


@dataclass(slots=True)
class Context:
    """The request of an event, as far as it is known; the same for all events of a record.

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
    """The first 256 characters of the client's User-Agent header."""
    event_id: str | None = None
    """The earlier id of the record's only event, if it comes from a replay."""
    position: int = 0
    """The position of the record's first event in its request; above 0 only after a requeue."""
    settings: Settings = DEFAULTS


Event: TypeAlias = dict[str, Any]
Rule: TypeAlias = Callable[[Event, Context], None]

TRIMMED_FIELDS = (
    *("event_id", "name", "action", "source", "user_id"),
    *("anonymous_id", "session_id", "path", "referrer"),
)

# Programs that say their name. "bot" counts only at the end of a word, and not in "robot", in "Cubot" (a maker of
# telephones) or in the agent of Slack's webhooks. HTTP libraries, SDKs, webhooks and devices are not bots here: servers
# and machines send events with them.
KNOWN_BOTS = re.compile(
    r"(?<!cu)(?<!ro)bot\b(?! 1\.0 \(\+https://api\.slack\.)|crawler\b|spider\b|slurp\b|lighthouse|pingdom"
    r"|facebookexternalhit",
    re.IGNORECASE,
)
# Programs that run pages as a browser does, and say so. No browser of today writes an address or "compatible; name".
BROWSER_LIKE_BOTS = re.compile(
    r"^Mozilla/.*(?:https?://|compatible;(?! ?(?:MSIE|Konqueror))|(?:Bing|Uri|Web )Preview|GTmetrix|PTST/|Synthetics)"
)
HEADLESS_BROWSERS = re.compile(r"HeadlessChrome/|PhantomJS/")


def trim(event: Event, context: Context) -> None:
    """Remove the white space around ids and names, where it would split one user or one name into two."""
    for field in TRIMMED_FIELDS:
        value = event.get(field)
        if type(value) is str and (trimmed := value.strip()) is not value:
            event[field] = trimmed


def drop_debug(event: Event, context: Context) -> None:
    """Leave out a developer's trials: `"debug": true`, or `debug=true` in a query string."""
    if "debug" in event and (event["debug"] is True or event["debug"] == "true"):
        raise Drop


def drop_known_bots(event: Event, context: Context) -> None:
    """Leave out events whose user agent names a known bot."""
    if is_known_bot(context.user_agent) and not (
        context.settings.keep_headless and HEADLESS_BROWSERS.search(context.user_agent or "")
    ):
        raise Drop


@lru_cache(maxsize=4096)
def is_known_bot(user_agent: str | None) -> bool:
    """Whether a user agent names a known bot; remembered, because few user agents send most events."""
    return user_agent is not None and any(
        pattern.search(user_agent) for pattern in (KNOWN_BOTS, BROWSER_LIKE_BOTS, HEADLESS_BROWSERS)
    )


def fold(name: str) -> str:
    """A field's name as RedactFields compares it: whatever the case of its letters and however they are encoded."""
    return name.lower() if name.isascii() else normalize("NFKC", normalize("NFKC", name).casefold())


def redact(event: Event, context: Context) -> None:
    """Empty the configured fields, at any depth: the key stays and its value becomes null.

    The columns `ip` and `user_agent` are not part of the event; they are emptied under the same names.
    """
    names = context.settings.redact_fields
    if not names:
        return
    # A list of containers to visit, not recursion: a sender chooses how deep an event is nested.
    waiting: list[Any] = [event]
    while waiting:
        container = waiting.pop()
        if type(container) is dict:
            for key, value in container.items():
                if fold(key) in names:
                    container[key] = None
                elif type(value) is dict or type(value) is list:
                    waiting.append(value)
        else:
            waiting.extend(item for item in container if type(item) is dict or type(item) is list)


RULES: Mapping[str, Rule] = {
    "trim": trim,
    "debug": drop_debug,
    "bot": drop_known_bots,
    # Last: the rules above may decide by the values emptied here.
    "redact": redact,
}
"""Every rule, in running order, under the name for counting its drops."""
