"""The rules, one by one, as a person would use them."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import pytest

from tests import factories
from transform.events import Accepted, Dropped, Settings, transform
from transform.records import Fault
from transform.rules import RULES, Context, Drop, Event, drop_debug, drop_known_bots, redact, trim

CONTEXT = Context(received_at=factories.RECEIVED_AT)


def drops(rule: Any, event: Event, context: Context = CONTEXT) -> bool:
    before = copy.deepcopy(event)
    try:
        rule(event, context)
    except Drop:
        return True
    assert event == before
    return False


def test_trim_removes_the_space_around_ids_and_names_and_nowhere_else() -> None:
    event: Event = {"name": " a b\t", "user_id": "\n7 ", "action": "", "note": " kept ", "value": " 1 ", "source": 3}
    trim(event, CONTEXT)
    assert event == {"name": "a b", "user_id": "7", "action": "", "note": " kept ", "value": " 1 ", "source": 3}


@pytest.mark.parametrize("debug", [True, "true"], ids=["true", "text from a query string"])
def test_a_debug_event_is_dropped(debug: object) -> None:
    assert drops(drop_debug, {"name": "a", "debug": debug})


@pytest.mark.parametrize("debug", [False, None, 1, "yes", "", [], {}], ids=repr)
def test_any_other_debug_is_only_a_property(debug: object) -> None:
    assert not drops(drop_debug, {"name": "a", "debug": debug})


@pytest.mark.parametrize(
    "user_agent",
    [
        "Mozilla/5.0 (compatible; Googlebot/2.1; +http://www.google.com/bot.html)",
        "Mozilla/5.0 (compatible; bingbot/2.0; +http://www.bing.com/bingbot.htm)",
        "AdsBot-Google (+http://www.google.com/adsbot.html)",
        "Mozilla/5.0 AppleWebKit/537.36 (KHTML, like Gecko; compatible; GPTBot/1.2; +https://openai.com/gptbot)",
        "Baiduspider+(+http://www.baidu.com/search/spider.htm)",
        "Mozilla/5.0 (compatible; Yahoo! Slurp; http://help.yahoo.com/help/us/ysearch/slurp)",
        "facebookexternalhit/1.1",
        "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) HeadlessChrome/125.0.0.0 Safari/537.36",
        "SomeCrawler/1.0",
    ],
)
def test_a_known_bot_is_dropped(user_agent: str) -> None:
    assert drops(drop_known_bots, {"name": "a"}, replace(CONTEXT, user_agent=user_agent))


@pytest.mark.parametrize(
    "user_agent",
    [
        None,
        factories.USER_AGENT,
        "Mozilla/5.0 (Linux; Android 9; CUBOT X19 Build/PPR1) AppleWebKit/537.36 Chrome/96.0 Mobile Safari/537.36",
        "vacuum-robot/3.1",
        "botany-field-app/1.0",
        "python-requests/2.32.3",
        "curl/8.5.0",
        '"\\\'},{"',
    ],
)
def test_a_browser_a_server_or_a_device_is_no_bot(user_agent: str | None) -> None:
    assert not drops(drop_known_bots, {"name": "a"}, replace(CONTEXT, user_agent=user_agent))


def test_redact_empties_configured_fields_in_any_case_and_at_any_depth() -> None:
    event: Event = {
        "Email": "a@example.com",
        "value": 3,
        "user": {"EMAIL": ["a@example.com"], "plan": "pro"},
        "list": [[{"email": {"deep": 1}}], "email", {"e-mail": "kept"}],
    }
    redact(event, replace(CONTEXT, redact_fields=frozenset({"email"})))
    assert event == {
        "Email": None,
        "value": 3,
        "user": {"EMAIL": None, "plan": "pro"},
        "list": [[{"email": None}], "email", {"e-mail": "kept"}],
    }


def test_redact_survives_any_nesting() -> None:
    event: Event = {"email": 1}
    for _ in range(50_000):
        event = {"inner": [event]}
    redact(event, replace(CONTEXT, redact_fields=frozenset({"email"})))
    innermost: Any = event
    while "email" not in innermost:
        innermost = innermost["inner"][0]
    assert innermost == {"email": None}


def test_redact_empties_columns_and_what_the_pipeline_knows_of_the_client() -> None:
    fields = frozenset({"ip", "user_agent", "user_id", "value", "timestamp", "event_id", "email"})
    content = {"event_id": "e", "user_id": "u", "value": 1, "timestamp": 1e9, "properties": {"email": "x"}, "ip": "y"}
    [outcome] = transform(factories.record(content), 0, Settings(redact_fields=fields))
    assert isinstance(outcome, Accepted)
    [row] = factories.rows(outcome)
    for column in ("ip", "user_agent", "user_id", "value", "clock_skew_ms"):
        assert row[column] is None
    assert row["occurred_at"] == row["received_at"]
    assert row["properties"] == '{"ip":null,"email":null}'
    assert len(row["event_id"]) == 32


def test_the_rules_run_in_the_order_of_their_table_and_redact_is_the_last() -> None:
    assert list(RULES) == ["trim", "debug", "bot", "redact"]


def test_a_rule_of_your_own_needs_one_line_in_the_table() -> None:
    def drop_internal_traffic(event: Event, context: Context) -> None:
        if context.ip is not None and context.ip.startswith("198.51.100."):
            raise Drop

    def add_country(event: Event, context: Context) -> None:
        event["country"] = "NL"

    rules = {**RULES, "internal": drop_internal_traffic, "country": add_country}
    inside = transform(factories.record({"name": "a"}, ip="198.51.100.23"), 0, Settings(), rules)
    [outside] = transform(factories.record({"name": "a"}, ip="203.0.113.9"), 0, Settings(), rules)
    assert inside == [Dropped("internal")]
    assert isinstance(outside, Accepted)
    assert factories.rows(outside)[0]["properties"] == '{"country":"NL"}'


def test_a_rule_sees_the_whole_address_and_an_id_for_every_event() -> None:
    seen = []

    def look(event: Event, context: Context) -> None:
        seen.append((event["event_id"], context.ip, context.user_agent, context.request_id, context.received_at))

    transform(factories.record([{"event_id": "mine"}, {"event_id": 12}]), 0, Settings(), {"look": look})
    request = ("203.0.113.7", factories.USER_AGENT, factories.REQUEST_ID, factories.RECEIVED_AT)
    assert seen == [("mine", *request), ("12", *request)]


def test_a_fault_in_a_rule_fails_the_record_and_says_where_without_the_content() -> None:
    def broken(event: Event, context: Context) -> None:
        raise KeyError(event["secret"])

    with pytest.raises(Fault) as fault:
        transform(factories.record([{"secret": "hunter2"}] * 3), 0, Settings(), {"mine": broken})
    assert (fault.value.reason, fault.value.events) == ("rule", 3)
    assert "mine" in str(fault.value)
    assert "KeyError in broken, test_transform_rules.py line" in str(fault.value)
    assert "hunter2" not in str(fault.value)


@pytest.mark.parametrize("emptied", [None, "", "  "], ids=repr)
def test_an_event_whose_id_a_rule_has_emptied_has_one_that_depends_on_all_of_it(emptied: object) -> None:
    def empty(event: Event, context: Context) -> None:
        event["event_id"] = emptied

    def ids(event: Event) -> list[str]:
        outcomes = transform(factories.record([event, event]), 0, Settings(), {"empty": empty})
        return [factories.rows(row)[0]["event_id"] for row in outcomes if isinstance(row, Accepted)]

    assert ids({"event_id": "x", "name": "a"}) == ids({"event_id": "x", "name": "a"})
    assert len({*ids({"name": "a"}), *ids({"name": "b"}), *ids({"note": "a"}), *ids({"timestamp": 1})}) == 8


def test_what_a_rule_puts_into_an_event_and_json_cannot_hold_is_a_fault_not_a_rejection() -> None:
    def broken(event: Event, context: Context) -> None:
        event["seen"] = {1, 2}

    with pytest.raises(Fault, match="bug"):
        transform(factories.record({"name": "a"}), 0, Settings(), {"mine": broken})
