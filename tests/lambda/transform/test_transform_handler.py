"""Whole invocations: the reply to Firehose, the counts and the log.

There is no reject stream here: test_transform_rejects.py has one. Events beyond a reply have test_transform_requeue.py.
"""

from __future__ import annotations

import base64
import json
import logging
import os
import subprocess
import sys
from math import inf
from typing import Any

import pytest

from scripts.commands.deploy import template
from tests import factories
from transform import events, handler
from transform.handler import lambda_handler, read_settings
from transform.rules import Settings

CONTEXT = factories.LambdaContext()


class Invoked:
    """An invocation's reply and its printed line of metrics."""

    def __init__(self, event: dict[str, Any], output: Any) -> None:
        before = json.dumps(event)
        output.readouterr()
        self.reply = lambda_handler(event, CONTEXT)
        printed = output.readouterr().out
        assert printed.count("\n") == 1
        self.printed = printed
        self.metrics = json.loads(printed)
        self.records = self.reply["records"]
        self.results = [record["result"] for record in self.records]
        assert json.dumps(event) == before
        assert [record["recordId"] for record in self.records] == [record["recordId"] for record in event["records"]]
        assert self.metrics["Received"] == sum(
            self.metrics[outcome] for outcome in ("Accepted", "Dropped", "Rejected", "Failed")
        )

    def counts(self) -> tuple[int, ...]:
        return tuple(self.metrics[name] for name in ("Received", "Accepted", "Dropped", "Rejected", "Failed"))


@pytest.fixture
def invoke(capsys: pytest.CaptureFixture[str]) -> Any:
    return lambda *records: Invoked(factories.invocation(*records), capsys)


def test_an_invocation_as_firehose_sends_it_becomes_rows(capsys: pytest.CaptureFixture[str]) -> None:
    invoked = Invoked(json.loads(factories.read_event("invocation.json")), capsys)
    assert invoked.results == ["Ok", "Ok"]
    [hello] = factories.rows(invoked.records[0]["data"])
    assert (hello["name"], hello["action"], hello["value"]) == ("John", "charge", 100.0)
    assert (hello["ip"], hello["user_agent"]) == ("203.0.113.0", "curl/8.5.0")
    [bare] = factories.rows(invoked.records[1]["data"])
    assert (bare["name"], bare["received_at"]) == ("bare", "2025-11-21 06:20:01.004")
    assert invoked.counts() == (2, 2, 0, 0, 0)


def test_a_record_of_many_events_is_many_lines_in_their_order(invoke: Any) -> None:
    invoked = invoke(factories.record([{"value": number} for number in range(100)]), factories.record({"value": 100}))
    values = [row["value"] for record in invoked.records for row in factories.rows(record["data"])]
    assert values == [float(number) for number in range(101)]
    assert invoked.counts() == (101, 101, 0, 0, 0)


def test_a_record_is_dropped_when_all_its_events_are(invoke: Any) -> None:
    debug, plain = {"debug": True}, {"name": "kept"}
    bot = factories.record([plain, plain], user_agent="Googlebot/2.1")
    invoked = invoke(factories.record([debug, debug]), factories.record([debug, plain]), bot, factories.record([]))
    assert invoked.results == ["Dropped", "Ok", "Dropped", "Dropped"]
    assert [row["name"] for row in factories.rows(invoked.records[1]["data"])] == ["kept"]
    assert invoked.counts() == (6, 1, 5, 0, 0)
    assert invoked.metrics["DroppedByRule"] == {"debug": 3, "bot": 2}


def test_a_record_with_a_rejected_event_fails_as_a_whole_so_that_a_replay_duplicates_nothing(invoke: Any) -> None:
    bad = factories.record([{"value": "abc"}, {"value": 1}, {"timestamp": "soon"}, {"debug": True}])
    invoked = invoke(factories.record({"name": "before"}), bad, factories.record({"name": "after"}))
    assert invoked.results == ["Ok", "ProcessingFailed", "Ok"]
    assert base64.b64decode(invoked.records[1]["data"]) == bad
    assert invoked.counts() == (6, 2, 0, 2, 2)
    assert invoked.metrics["RejectedByReason"] == {"not_a_number": 1, "not_a_time": 1}
    assert invoked.metrics["FailedByReason"] == {"rejected_events": 2}


def test_a_record_that_is_one_rejected_event_counts_as_rejected_and_not_as_failed(invoke: Any) -> None:
    invoked = invoke(factories.record("not JSON"))
    assert (invoked.results, invoked.counts()) == (["ProcessingFailed"], (1, 0, 0, 1, 0))
    assert invoked.metrics["FailedByReason"] == {}


def test_our_own_faults_fail_their_record_alone(capsys: pytest.CaptureFixture[str]) -> None:
    cut = factories.record({"name": "a"})[:-5]
    event = factories.invocation(factories.record({"a": 1}), cut, *[factories.record({"a": 1})] * 2)
    event["records"][2]["data"] = "e30=!"
    event["records"][3]["approximateArrivalTimestamp"] = None
    invoked = Invoked(event, capsys)
    assert invoked.results == ["Ok", "ProcessingFailed", "ProcessingFailed", "Ok"]
    assert [record["data"] for record in invoked.records[1:3]] == [record["data"] for record in event["records"][1:3]]
    assert invoked.metrics["FailedByReason"] == {"end_line": 1, "record": 1}


def test_a_bug_in_a_rule_fails_every_event_of_its_record(invoke: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(event: dict[str, Any], context: object) -> None:
        if "trap" in event:
            raise RuntimeError("the message repeats hunter2")

    monkeypatch.setattr(events.transform, "__defaults__", ({"mine": broken}, inf, False))
    invoked = invoke(factories.record([{"a": 1}, {"trap": "hunter2"}, {"a": 3}]), factories.record({"a": 4}))
    assert invoked.results == ["ProcessingFailed", "Ok"]
    assert invoked.counts() == (4, 1, 0, 0, 3)
    assert invoked.metrics["FailedByReason"] == {"rule": 3}


def test_the_metrics_are_one_line_of_the_embedded_metric_format(invoke: Any) -> None:
    metrics = invoke(factories.record({"name": "a"}), factories.record({"debug": True})).metrics
    [definition] = metrics["_aws"]["CloudWatchMetrics"]
    names = ["Received", "Accepted", "Dropped", "Rejected", "Failed", "Requeued"]
    assert definition == {
        "Namespace": "Sluice",
        "Dimensions": [["FunctionName"]],
        "Metrics": [{"Name": name, "Unit": "Count"} for name in names],
    }
    assert metrics["FunctionName"] == "transform-function"
    assert all(type(metrics[name]) is int for name in names)
    assert type(metrics["_aws"]["Timestamp"]) is int


def test_each_failed_record_is_one_line_of_the_log_and_nothing_shows_its_content(
    invoke: Any, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        invoked = invoke(
            factories.record({"value": "hunter2"}, ip="203.0.113.99", user_agent="hunter2"),
            factories.record({"name": "hunter2"})[:-1],
            factories.record({"name": "hunter2"}),
            factories.record({"name": "hunter2", "debug": True}),
        )
    lines = [(entry.levelname, entry.getMessage()) for entry in caplog.records]
    assert lines == [
        (
            "ERROR",
            "record record-0 failed: rejected_events: 1 of 1 events, first event 0: not_a_number: "
            "value must be a number that a double holds",
        ),
        ("ERROR", "record record-1 failed: end_line: the record does not end with the end line of its own request"),
    ]
    for secret in ("hunter2", "203.0.113.99"):
        assert secret not in caplog.text
        assert secret not in invoked.printed


def test_an_invocation_without_records_is_answered(invoke: Any) -> None:
    invoked = invoke()
    assert (invoked.records, invoked.counts()) == ([], (0, 0, 0, 0, 0))


def test_what_is_put_back_counts_as_requeued_and_not_as_received(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    firehose = factories.FakeFirehose()
    monkeypatch.setattr(handler, "connect", lambda: firehose)
    giant = factories.record([{"a": 1}] * 9_999, user_agent='"' * 1_000, position=0)
    small = factories.record({"a": 1})
    invoked = Invoked(factories.invocation(small, giant, small), capsys)
    assert invoked.results == ["Ok", "Ok", "Ok"]
    assert len(json.dumps(invoked.reply)) <= 6_000_000
    assert invoked.metrics["Received"] + invoked.metrics["Requeued"] == 10_001
    assert invoked.metrics["Requeued"] > 3_000
    assert {stream for stream, _ in firehose.calls} == {"events"}


def test_the_room_of_a_reply_leaves_every_other_record_its_place(invoke: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Records returned unchanged take their room too, before and after the rows."""
    monkeypatch.setattr(handler, "connect", lambda: factories.FakeFirehose())
    failing = [factories.record("x" * 900_000) for _ in range(3)]
    growing = factories.record([{"a": 1}] * 6_000, position=0)
    invoked = invoke(growing, *failing, growing)
    assert invoked.results == ["Ok", *["ProcessingFailed"] * 3, "Ok"]
    assert 5_990_000 < len(json.dumps(invoked.reply)) <= 6_000_000


def test_whatever_goes_wrong_in_one_record_fails_that_record_alone(
    invoke: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(handler, "REJECT_STREAM", "rejects")
    monkeypatch.setattr(handler, "read_record", lambda *_: 1 / 0)
    invoked = invoke(factories.record({"name": "a"}), factories.record("oops"))
    assert invoked.results == ["Ok", "ProcessingFailed"]
    assert invoked.metrics["FailedByReason"] == {"record": 1}


def test_the_overhead_of_a_record_in_a_reply_is_not_underestimated() -> None:
    record = {"recordId": "", "result": "ProcessingFailed", "data": ""}
    assert len(json.dumps({"records": [record, record]})) - len(json.dumps({"records": [record]})) <= (
        handler.REPLY_OVERHEAD
    )


@pytest.mark.parametrize(
    ("environment", "settings"),
    [
        ({}, Settings()),
        ({"IP_HANDLING": "", "REDACT_FIELDS": ""}, Settings()),
        ({"IP_HANDLING": "FULL"}, Settings(ip_handling="FULL")),
        ({"REDACT_FIELDS": " Email, phone ,,"}, Settings(redact_fields=frozenset({"email", "phone"}))),
        ({"REDACT_FIELDS": "Straße"}, Settings(redact_fields=frozenset({"strasse"}))),
        ({"HEADLESS_BROWSERS": "KEEP"}, Settings(keep_headless=True)),
    ],
    ids=["nothing", "empty text", "IP_HANDLING", "REDACT_FIELDS", "outside ASCII", "HEADLESS_BROWSERS"],
)
def test_the_settings_come_from_the_environment(environment: dict[str, str], settings: Settings) -> None:
    assert read_settings(environment) == settings


def test_a_wrong_setting_stops_the_function_and_says_what_would_be_right() -> None:
    with pytest.raises(ValueError, match=r"IP_HANDLING must be one of TRUNCATE, FULL, NONE \(got 'hide'\)"):
        read_settings({"IP_HANDLING": "hide"})


def test_the_settings_reach_the_rows(invoke: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(handler, "SETTINGS", Settings("NONE", frozenset({"email"})))
    invoked = invoke(factories.record({"a": {"E-Mail": 1, "Email": "a@example.com"}}))
    [row] = factories.rows(invoked.records[0]["data"])
    assert (row["ip"], row["properties"]) == (None, '{"a":{"E-Mail":1,"Email":null}}')


MEGABYTES = {
    "tiny events": b"[" + b",".join([b'{"a":1}'] * 120_000) + b"]",
    "empty events": b"[" + b",".join([b"{}"] * 330_000) + b"]",
    "quotes": b"[" + b",".join([b'{"p":"' + b'\\"' * 40 + b'"}'] * 10_000) + b"]",
    "bad lines": b"\n".join([b'{"a":'] * 160_000),
    "lists": b'{"a":[' + b",".join([b"[]"] * 330_000) + b"]}",
}


@pytest.mark.parametrize("body", MEGABYTES.values(), ids=MEGABYTES)
def test_a_legal_megabyte_fits_the_least_memory_that_the_template_allows(body: bytes) -> None:
    """In a process of its own, with the client for its puts, and a user agent six times as long in JSON."""
    assert len(body) <= 1_000_000
    program = (
        "import json, pathlib, sys, boto3\n"
        "from tests import factories\n"
        "from transform import handler\n"
        "boto3.client('firehose', region_name='us-east-1')\n"
        "handler.REJECT_STREAM, handler.connect = 'rejects', factories.FakeFirehose\n"
        "event = json.load(sys.stdin)\n"
        "handler.lambda_handler(event, factories.LambdaContext())\n"
        "status = pathlib.Path('/proc/self/status').read_text()\n"  # in ru_maxrss, the parent's memory counts
        "print(status.partition('VmHWM:')[2].split()[0], file=sys.stderr)"
    )
    event = json.dumps(factories.invocation(factories.record(body, user_agent="\x01" * 1_024)))
    path = os.pathsep.join(path for path in sys.path if path)
    done = subprocess.run(
        [sys.executable, "-c", program], input=event, capture_output=True, text=True, env={"PYTHONPATH": path}
    )
    assert done.returncode == 0, done.stderr
    kilobytes = int(done.stderr.splitlines()[-1])
    least = template.load(template.TEMPLATE.read_text())["Parameters"]["LambdaMemorySize"]["MinValue"]
    assert kilobytes < least * 1024 * 0.9
