"""The facts about a stack at one moment. The fields are the keys of `status.sh --json`; times are texts in ISO 8601."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Unseen:
    """The reason in place of a part that cannot be seen."""

    unknown: str


@dataclass(frozen=True)
class StackFacts:
    """The stack's state, and where to send events."""

    name: str
    place: str
    status: str
    reason: str | None
    changed_at: str | None
    endpoint: str | None
    nested: list[str]


@dataclass(frozen=True)
class LastEvent:
    """When the last record came in; all None if nobody knows."""

    at: str | None = None
    age_seconds: int | None = None
    known_by: str | None = None


@dataclass(frozen=True)
class LastHour:
    """Events by outcome; `known_by` is `metrics` or `log`."""

    received: int
    accepted: int
    dropped: int
    rejected: int
    failed: int
    requeued: int
    known_by: str


@dataclass(frozen=True)
class Drops:
    """The last hour's dropped events by rule; with lines left out, there are more."""

    by_rule: dict[str, int]
    lines_left_out: bool


@dataclass(frozen=True)
class Refusals:
    """The last hour's requests, and those answered with a 4xx."""

    requests: int
    answered_4xx: int
    by_route: dict[str, int]
    elsewhere: int


@dataclass(frozen=True)
class Freshness:
    """The age of the oldest undelivered record; None if nothing waited lately."""

    events_seconds: float | None
    rejected_seconds: float | None

    @property
    def by_zone(self) -> dict[str, float | None]:
        return {"events": self.events_seconds, "rejected": self.rejected_seconds}


@dataclass(frozen=True)
class Alarm:
    """An alarm of the stack or of a nested one."""

    name: str
    state: str
    since: str | None
    description: str
    stack: str


@dataclass(frozen=True)
class DeliveryError:
    """A line of Firehose's error log."""

    at: str
    code: str
    message: str


@dataclass(frozen=True)
class Deliveries:
    """The last day's errors, the newest first."""

    errors_by_code: dict[str, int]
    last_errors: list[DeliveryError]


@dataclass(frozen=True)
class FailedRecords:
    """The last day's objects of errors/; `replayed_at` is None unless a replay was after the newest of them."""

    objects_by_type: dict[str, int]
    newest_at: str | None
    replayed_at: str | None


@dataclass(frozen=True)
class Newest:
    """The newest object of a zone, and how much its day has."""

    key: str
    newest_at: str
    objects_of_that_day: int
    bytes_of_that_day: int


@dataclass(frozen=True)
class DeadLetters:
    """A dead-letter queue, with how many messages wait in it."""

    name: str
    stack: str
    messages: int
    url: str


@dataclass(frozen=True)
class Need:
    """A fault for a person to fix, and the first command to type."""

    what: str
    first_command: str


@dataclass(frozen=True)
class Facts:
    """Every fact about a stack at one moment."""

    at: str
    stack: StackFacts
    last_event: LastEvent | Unseen
    last_hour: LastHour | Unseen
    drops: Drops | Unseen
    refusals: Refusals | Unseen
    freshness: Freshness | Unseen
    alarms: list[Alarm] | Unseen
    deliveries: Deliveries | Unseen
    failed_records: FailedRecords | Unseen
    zones: dict[str, Newest | None] | Unseen
    dead_letters: list[DeadLetters] | Unseen
    needs_a_person: list[Need] = field(default_factory=list)
