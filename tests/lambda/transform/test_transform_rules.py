"""The rules, one by one, as a person would use them."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import pytest

from tests import factories
from transform.events import Accepted, Dropped, transform
from transform.records import Fault
from transform.rules import RULES, Context, Drop, Event, Settings, drop_debug, drop_known_bots, fold, redact, trim

CONTEXT = Context(received_at=factories.RECEIVED_AT)
CHROME = "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/138.0.0.0 Safari/537.36"

# HTTP libraries, SDKs, webhooks and devices, as they name themselves.
SENDERS = """\
aiohttp/3.9.5
Apache-HttpClient/4.5.14 (Java/17.0.9)
aws-sdk-go-v2/1.30.3 os/linux lang/go#1.22.5 md/GOOS#linux md/GOARCH#arm64 api/firehose#1.30.0
axios/1.7.2
Boto3/1.43.106 md/Botocore#1.43.106 ua/2.0 os/linux#6.1.0 md/arch#x86_64 lang/python#3.13.0
CFNetwork/1494.0.7 Darwin/23.4.0
Dart/3.4 (dart:io)
Deno/1.44.4
ESP32HTTPClient
Faraday v2.9.0
Fluent-Bit
GitHub-Hookshot/8d33975
Go-http-client/2.0
got (https://github.com/sindresorhus/got)
GuzzleHttp/7
HomeAssistant/2024.6.4 aiohttp/3.9.5 Python/3.12
Java/21.0.2
Jetty/12.0.9
kotlin/1.9 ktor-client
libcurl/8.5.0
libwww-perl/6.76
Mailgun/1.0
MicroPython/1.23
node
node-fetch/1.0 (+https://github.com/bitinn/node-fetch)
okhttp/4.12.0
PostmanRuntime/7.39.0
PycURL/7.45.3 libcurl/8.5.0
python-httpx/0.27.0
Python-urllib/3.12
Ruby
RudderLabs/1.24.2
SendGrid Event API
Shelly/20230913-114010/v1.14.0
Shopify-Captain-Hook
Slackbot 1.0 (+https://api.slack.com/robots)
Stripe/1.0 (+https://stripe.com/docs/webhooks)
Svix-Webhooks/1.24.0
TwilioProxy/1.1
undici
Vector/0.39.0 (x86_64-unknown-linux-gnu 73da9bb 2024-06-17)
Wget/1.24.5
""".splitlines()


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
    event = dict.fromkeys(("event_id", "name", "action", "source", "user_id"), " a ")
    event |= dict.fromkeys(("anonymous_id", "session_id", "path", "referrer"), " a ")
    trim(event, CONTEXT)
    assert set(event.values()) == {"a"}


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
        "Mozilla/5.0 (compatible; Google-InspectionTool/1.0)",
        f"{CHROME} GTmetrix",
        f"{CHROME} PTST/211202.211915",
        f"{CHROME} DatadogSynthetics",
        "Mozilla/5.0 (Windows NT 6.1; WOW64) AppleWebKit/534+ (KHTML, like Gecko) BingPreview/1.0b",
        "Mozilla/5.0 AppleWebKit/537.36 (KHTML, like Gecko; compatible; Claude-User/1.0; +Claude-User@anthropic.com)",
        "Mozilla/5.0+(compatible; UptimeRobot/2.0; http://www.uptimerobot.com/)",
        "Slackbot-LinkExpanding 1.0 (+https://api.slack.com/robots)",
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
        "Mozilla/4.0 (compatible; MSIE 8.0; Windows NT 6.1; Trident/4.0)",
        "Mozilla/5.0 (compatible; Konqueror/4.5; Linux) KHTML/4.5.4 (like Gecko)",
        CHROME,
        *SENDERS,
    ],
)
def test_a_browser_a_server_or_a_device_is_not_a_bot(user_agent: str | None) -> None:
    assert not drops(drop_known_bots, {"name": "a"}, replace(CONTEXT, user_agent=user_agent))


def test_headless_browsers_are_kept_where_the_stack_says_so() -> None:
    context = replace(CONTEXT, user_agent=CHROME.replace("Chrome/", "HeadlessChrome/"))
    assert drops(drop_known_bots, {"name": "a"}, context)
    assert not drops(drop_known_bots, {"name": "a"}, replace(context, settings=Settings(keep_headless=True)))


def test_redact_empties_configured_fields_in_any_case_and_at_any_depth() -> None:
    event: Event = {
        "Email": "a@example.com",
        "value": 3,
        "user": {"EMAIL": ["a@example.com"], "plan": "pro"},
        "list": [[{"email": {"deep": 1}}], "email", {"e-mail": "kept"}],
    }
    redact(event, replace(CONTEXT, settings=Settings(redact_fields=frozenset({"email"}))))
    assert event == {
        "Email": None,
        "value": 3,
        "user": {"EMAIL": None, "plan": "pro"},
        "list": [[{"email": None}], "email", {"e-mail": "kept"}],
    }


@pytest.mark.parametrize(
    ("configured", "key"),
    [
        ("straße", "STRASSE"),
        ("prénom", "Pre\u0301nom"),
        ("\uff29\uff24", "id"),
        ("naïve key", "Naïve Key"),
    ],
)
def test_redact_knows_a_name_in_any_case_and_encoding(configured: str, key: str) -> None:
    event: Event = {key: "secret", "other": 1}
    redact(event, replace(CONTEXT, settings=Settings(redact_fields=frozenset({fold(configured)}))))
    assert event == {key: None, "other": 1}


def test_redact_survives_any_nesting() -> None:
    event: Event = {"email": 1}
    for _ in range(50_000):
        event = {"inner": [event]}
    redact(event, replace(CONTEXT, settings=Settings(redact_fields=frozenset({"email"}))))
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
    ours = ["trim", "debug", "bot", "redact"]
    assert [name for name in RULES if name in ours] == ours, (
        "keep these rules in this order in lambda/transform/rules.py"
    )
    assert list(RULES)[-1] == "redact", "add your rule above redact in RULES of lambda/transform/rules.py"


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

    transform(
        factories.record([{"event_id": "mine"}, {"event_id": 12}, {"event_id": ""}]), 0, Settings(), {"look": look}
    )
    request = ("203.0.113.7", factories.USER_AGENT, factories.REQUEST_ID, factories.RECEIVED_AT)
    assert seen[:2] == [("mine", *request), ("12", *request)]
    assert len(seen[2][0]) == 32


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
