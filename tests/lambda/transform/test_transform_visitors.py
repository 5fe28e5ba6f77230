"""Visitors without cookies: the day's salt, never made twice by two functions, and the ids made with it."""

from __future__ import annotations

import io
import json
import time
from collections.abc import Callable
from typing import Any

import pytest

from tests import factories
from tests.factories import stand_in
from transform import visitors
from transform.events import transform
from transform.rules import Settings
from transform.visitors import Salts

DAY = 86_400
NOON = 1_795_996_800  # of some day, in epoch seconds
Json = dict[str, Any]


class FakeS3:
    """A bucket that honours the condition. Calls in `failing` raise; `killer` runs after each write."""

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        self.failing: set[str] = set()
        self.calls: list[str] = []
        self.killer: Callable[[], None] = lambda: None

    def put_object(self, *, Bucket: str, Key: str, Body: bytes, IfNoneMatch: str) -> Any:
        self.calls.append(f"put {Key}")
        assert (Bucket, IfNoneMatch) == ("the-bucket", "*")
        if "put" in self.failing or Key in self.objects:
            raise RuntimeError("412")
        self.objects[Key] = Body
        self.killer()

    def get_object(self, *, Bucket: str, Key: str) -> Any:
        self.calls.append(f"get {Key}")
        if "get" in self.failing:
            raise RuntimeError("timeout")
        return {"Body": io.BytesIO(self.objects[Key])}


class Clock:
    def __init__(self) -> None:
        self.now = float(NOON)


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> FakeS3:
    fake = FakeS3()
    monkeypatch.setattr(visitors, "connect", lambda: fake)
    return fake


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(visitors, "time", stand_in(time, time=lambda: clock.now))
    return clock


def visitor_ids(salts: Salts, *events: Json, at: int = NOON, **context: Any) -> list[str | None]:
    data = factories.record(list(events) or [{}, {"a": 1}], time=at * 1000, **context)
    found = transform(data, 0, Settings(find_salt=salts.find))
    return [json.loads(row)["visitor_id"] for row in found if type(row) is bytes]


def test_two_functions_have_one_salt_and_ask_for_it_once(s3: FakeS3, clock: Clock) -> None:
    first, second = Salts("the-bucket"), Salts("the-bucket")
    assert first.find(NOON * 1000) == second.find(NOON * 1000) == first.find((NOON + 60) * 1000)
    [(key, salt)] = s3.objects.items()
    assert key == f"salts/{time.strftime('%Y-%m-%d', time.gmtime(NOON))}"
    assert len(salt) == 32
    assert s3.calls == [f"put {key}", f"put {key}", f"get {key}"]


def test_a_function_that_was_killed_after_it_wrote_the_salt_leaves_it_to_the_next(s3: FakeS3, clock: Clock) -> None:
    class Killed(BaseException):
        pass

    def kill() -> None:
        raise Killed

    s3.killer = kill
    with pytest.raises(Killed):
        Salts("the-bucket").find(NOON * 1000)
    assert [Salts("the-bucket").find(NOON * 1000)] == list(s3.objects.values())


@pytest.mark.parametrize("failing", [{"put"}, {"put", "get"}])
def test_without_a_salt_no_event_fails_and_s3_is_asked_again_a_minute_later(
    s3: FakeS3, clock: Clock, failing: set[str], caplog: pytest.LogCaptureFixture
) -> None:
    salts, s3.failing = Salts("the-bucket"), failing
    assert visitor_ids(salts, {"a": 1}, {"a": 2}) == [None, None]
    assert visitor_ids(salts, {"a": 1}) == [None]
    assert len(s3.calls) == 2
    assert "no salt for the ids of visitors: " in caplog.text
    s3.failing = set()
    clock.now += visitors.PAUSE_SECONDS
    assert visitor_ids(salts, {"a": 1}) != [None]


@pytest.mark.parametrize(("days", "is_given"), [(-2, False), (-1, True), (1, True), (2, False)])
def test_the_days_beside_today_have_salts_of_their_own_as_clocks_differ_and_no_others(
    s3: FakeS3, clock: Clock, days: int, is_given: bool
) -> None:
    salts = Salts("the-bucket")
    today = visitor_ids(salts, {"a": 1})
    [other] = visitor_ids(salts, {"a": 1}, at=NOON + days * DAY)
    assert (other is not None) == is_given
    assert other != today[0]
    assert len(s3.objects) == 1 + is_given


def test_an_id_is_of_source_address_and_agent_and_of_the_day(s3: FakeS3, clock: Clock) -> None:
    salts = Salts("the-bucket")
    [one, again] = visitor_ids(salts, {"source": "shop"}, {"source": " shop ", "visitor_id": "mine"})
    assert one == again
    assert len(one or "") == 32
    others = [
        *visitor_ids(salts, {"source": "blog"}, {"a": 1}),
        *visitor_ids(salts, {"source": "shop"}, ip="203.0.113.8"),
        *visitor_ids(salts, {"source": "shop"}, user_agent="another"),
        *visitor_ids(salts, {"source": "shop"}, at=NOON + DAY),
    ]
    assert len({one, *others}) == 6


@pytest.mark.parametrize("ip", ["203.0.113.0", "2001:db8:1::", "", "no-address"])
def test_an_address_that_is_cut_or_is_none_makes_no_visitor(s3: FakeS3, clock: Clock, ip: str) -> None:
    expected = ip == "no-address"  # the whole text from API Gateway
    assert (visitor_ids(Salts("the-bucket"), {"a": 1}, ip=ip) != [None]) == expected


def test_who_denied_consent_or_opted_out_has_no_id(s3: FakeS3, clock: Clock) -> None:
    answers = ["granted", None, "denied", "opted_out"]
    events = [{"name": "page_view", "consent": answer} for answer in answers]
    assert [found is not None for found in visitor_ids(Salts("the-bucket"), *events)] == [True, True, False, False]


def test_a_bare_record_and_a_redacted_id_have_none(s3: FakeS3, clock: Clock) -> None:
    find = Salts("the-bucket").find
    for data, redacted in ((b'{"a":1}', ()), (factories.record({"a": 1}, time=NOON * 1000), ("visitor_id",))):
        settings = Settings(find_salt=find, redact_fields=frozenset(redacted))
        [row] = [json.loads(row) for row in transform(data, NOON * 1000, settings) if type(row) is bytes]
        assert row["visitor_id"] is None
    assert s3.calls == []


def test_a_container_forgets_the_salts_of_days_that_are_over(s3: FakeS3, clock: Clock) -> None:
    salts = Salts("the-bucket")
    first = visitor_ids(salts, {"a": 1})
    clock.now += 3 * DAY
    assert visitor_ids(salts, {"a": 1}, at=NOON + 3 * DAY) != first
    assert visitor_ids(salts, {"a": 1}) == [None]
