"""scripts/status.sh: its view of a stack, its reasons to call a person, and the parts it can do without."""

from __future__ import annotations

import functools
import json
import re
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError, NoCredentialsError
from fake_cloudformation import PIPELINE, FakeAws, FakeCloudFormation, Stack
from moto import mock_aws

from scripts.commands.common.console import guarded
from scripts.commands.common.tables import duration
from scripts.commands.lake import health
from scripts.commands.status import command as status
from tests.factories import stand_in
from tests.lake import day

REGION = "eu-west-1"
EMF = {"_aws": {"CloudWatchMetrics": []}, "Received": 7, "Accepted": 4, "Dropped": 1, "Rejected": 2, "Failed": 0}


@functools.cache
def connect() -> dict[str, Any]:
    """Made once, because making them takes longer than a test; each test has its own moto."""
    keys = {"aws_access_key_id": "testing", "aws_secret_access_key": "testing"}
    return {name: boto3.client(name, region_name=REGION, **keys) for name in ("s3", "sqs", "logs", "cloudwatch")}


class Place:
    """A stack in moto, with a nested one, and scripts/status.sh as a person types it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self.capsys = capsys
        clients = connect()
        self.s3, self.sqs, self.logs, self.cloudwatch = clients.values()
        self.nested = Stack("sluice-PullStack-1")
        outputs = {"TrackURL": "https://x.execute-api.eu-west-1.amazonaws.com/prod/track"}
        nested = ("PullStack", "AWS::CloudFormation::Stack", self.nested.id, "CREATE_COMPLETE")
        self.stack = Stack("sluice", outputs=outputs, resources=[*PIPELINE, nested])
        self.stack.parameters = {"FirehoseBufferingInterval": "60"}
        self.aws = FakeAws(cloudformation=FakeCloudFormation(self.stack, self.nested), **clients)
        monkeypatch.setattr(status, "session", lambda local: self.aws)
        self.s3.create_bucket(Bucket="the-data", CreateBucketConfiguration={"LocationConstraint": REGION})
        for group in ("stream-log", "transform-log"):
            self.logs.create_log_group(logGroupName=group)
            self.logs.create_log_stream(logGroupName=group, logStreamName="stream")

    def run(self, *arguments: str, code: int = 0) -> str:
        assert guarded(status.status, [*arguments]) == code, self.capsys.readouterr()
        out, err = self.capsys.readouterr()
        return out + err

    def shown(self) -> str:
        """The screen without the blanks at the ends of its lines."""
        return "\n".join(line.rstrip() for line in self.run().splitlines())

    def facts(self, code: int = 0) -> Any:
        return json.loads(self.run("--json", code=code))

    def log(self, group: str, message: str, ago: timedelta = timedelta()) -> None:
        moment = int((datetime.now(UTC) - ago).timestamp() * 1000)
        event = {"timestamp": moment, "message": message}
        self.logs.put_log_events(logGroupName=group, logStreamName="stream", logEvents=[event])

    def metric(
        self, namespace: str, name: str, dimensions: dict[str, str], value: float, ago: timedelta = timedelta()
    ) -> None:
        datum = {
            "MetricName": name,
            "Dimensions": [{"Name": name, "Value": value} for name, value in dimensions.items()],
            "Timestamp": datetime.now(UTC) - ago,
            "Value": value,
        }
        self.cloudwatch.put_metric_data(Namespace=namespace, MetricData=[datum])

    def outcome(self, name: str, value: float) -> None:
        self.metric("Sluice", name, {"FunctionName": "transform"}, value)

    def freshness(self, seconds: float, stream: str = "events-stream") -> None:
        self.metric("AWS/Firehose", "DeliveryToS3.DataFreshness", {"DeliveryStreamName": stream}, seconds)

    def alarm(self, name: str, state: str, description: str = "") -> None:
        arguments: Any = {"Namespace": "AWS/Firehose", "MetricName": "x", "Period": 60, "Statistic": "Sum"}
        arguments |= {"EvaluationPeriods": 1, "Threshold": 1.0, "ComparisonOperator": "GreaterThanThreshold"}
        self.cloudwatch.put_metric_alarm(AlarmName=name, AlarmDescription=description, **arguments)
        self.cloudwatch.set_alarm_state(AlarmName=name, StateValue=state, StateReason="test")
        self.nested.resources.append((name, "AWS::CloudWatch::Alarm", name, "CREATE_COMPLETE"))

    def dead_letters(self, count: int) -> str:
        url: str = self.sqs.create_queue(QueueName="dead")["QueueUrl"]
        for number in range(count):
            self.sqs.send_message(QueueUrl=url, MessageBody=str(number))
        self.nested.resources.append(("FetchDeadLetterQueue", "AWS::SQS::Queue", url, "CREATE_COMPLETE"))
        return url

    def put(self, key: str) -> None:
        self.s3.put_object(Bucket="the-data", Key=key, Body=b"x" * 1_500)


@pytest.fixture
def place(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Place]:
    with mock_aws():
        yield Place(monkeypatch, capsys)


def test_a_sound_stack_fits_one_screen_and_needs_nobody(place: Place) -> None:
    for name, value in (("Received", 1_234), ("Accepted", 1_200), ("Dropped", 10), ("Rejected", 24), ("Failed", 0)):
        place.outcome(name, value)
    place.metric("AWS/Firehose", "IncomingRecords", {"DeliveryStreamName": "events-stream"}, 5, timedelta(minutes=10))
    place.freshness(70)
    place.alarm("DataIsNotFreshAlarm", "OK")
    place.dead_letters(0)
    place.put(f"events/dt={day()}/a.parquet")
    place.put(f"rejected/dt={day()}/a.json.gz")
    shown = place.run()
    assert len(shown.splitlines()) <= 24
    for text in (
        "sluice in eu-west-1  CREATE_COMPLETE",
        "with PullStack",
        "https://x.execute-api.eu-west-1.amazonaws.com/prod/track",
        "9 min ago (by IncomingRecords)",
        "1,234 events = 1,200 accepted + 10 dropped + 24 rejected + 0 failed",
        "drops         none",
        "4xx           none of 0 requests",
        "events at most 70 s, rejected nothing lately",
        "1 OK",
        "no error in the last day",
        "(1 object, 1.5 kB that day)",
        "raw       empty",
        "FetchDeadLetterQueue 0",
    ):
        assert text in shown
    assert shown.splitlines()[-1] == "Nothing needs you."


def test_json_has_the_same_facts(place: Place) -> None:
    place.outcome("Received", 3)
    place.freshness(12.5)
    place.alarm("Late", "ALARM", "It is late.\nFirst: scripts/query.sh failures")
    place.dead_letters(2)
    facts = place.facts(code=1)
    assert facts["stack"]["status"] == "CREATE_COMPLETE"
    assert facts["last_hour"] == {
        **dict.fromkeys(("accepted", "dropped", "rejected", "failed", "requeued"), 0),
        "received": 3,
        "known_by": "metrics",
    }
    assert facts["freshness"] == {"events_seconds": 12.5, "rejected_seconds": None}
    assert [(one["name"], one["state"], one["stack"]) for one in facts["alarms"]] == [("Late", "ALARM", "PullStack")]
    assert [(queue["name"], queue["messages"]) for queue in facts["dead_letters"]] == [("FetchDeadLetterQueue", 2)]
    assert [one["what"] for one in facts["needs_a_person"]] == [
        "alarm Late: It is late.",
        "2 dead letters in FetchDeadLetterQueue of PullStack",
    ]
    assert facts["needs_a_person"][0]["first_command"] == "scripts/query.sh failures"


ROLLED_BACK = "the stack is ROLLBACK_COMPLETE"
TAIL = "aws --region eu-west-1 logs tail stream-log --since 1d"
FIREHOSE_LINE = json.dumps({"errorCode": "S3.AccessDenied", "message": "Access was denied."})

TROUBLES: list[tuple[str, Callable[[Place], Any], str, str]] = [
    (
        "an alarm",
        lambda place: place.alarm("Late", "ALARM", "It is\nlate.\nFirst: scripts/query.sh failures\n"),
        "alarm Late: It is late.",
        "scripts/query.sh failures",
    ),
    (
        "an alarm that sends one here",
        lambda place: place.alarm("Late", "ALARM", "It is late.\nFirst: scripts/status.sh --stack-name sluice"),
        "alarm Late: It is late.",
        "aws --region eu-west-1 cloudwatch describe-alarm-history --alarm-name Late",
    ),
    (
        "an alarm of one's own, which proposes nothing",
        lambda place: place.alarm("Late", "ALARM", "First: be calm.\nIt is late."),
        "alarm Late: First: be calm. It is late.",
        "aws --region eu-west-1 cloudwatch describe-alarm-history --alarm-name Late",
    ),
    (
        "failed events",
        lambda place: (place.outcome("Received", 9), place.outcome("Failed", 4)),
        "4 events failed in the last hour",
        "scripts/query.sh failures",
    ),
    (
        "events that wait too long",
        lambda place: place.freshness(361),
        "events wait 361 s for delivery, and 360 s at most are usual",
        TAIL,
    ),
    (
        "rejects that wait too long",
        lambda place: place.freshness(4_000, "rejects-stream"),
        "rejected wait 4,000 s for delivery, and 360 s at most are usual",
        TAIL,
    ),
    (
        "a delivery that fails",
        lambda place: place.log("stream-log", FIREHOSE_LINE),
        "Firehose logged an error in the last hour: S3.AccessDenied: Access was denied.",
        TAIL,
    ),
    (
        "failed records",
        lambda place: place.put(f"errors/processing-failed/dt={day()}/x"),
        "records failed in the last day and wait for a replay (objects: 1 processing-failed)",
        "scripts/replay.sh --from errors --dry-run",
    ),
    (
        "a creation that was rolled back",
        lambda place: setattr(place.stack, "status", "ROLLBACK_COMPLETE"),
        ROLLED_BACK,
        "scripts/deploy.sh",
    ),
    (
        "a deletion that failed",
        lambda place: setattr(place.stack, "status", "DELETE_FAILED"),
        "the stack is DELETE_FAILED",
        "scripts/destroy.sh",
    ),
]


@pytest.mark.parametrize(
    ("trouble", "what", "command"), [case[1:] for case in TROUBLES], ids=[case[0] for case in TROUBLES]
)
def test_what_needs_a_person_is_said_with_the_first_command(
    place: Place, trouble: Callable[[Place], Any], what: str, command: str
) -> None:
    trouble(place)
    assert place.facts(code=1)["needs_a_person"] == [{"what": what, "first_command": command}]
    shown = place.run(code=1)
    assert "1 thing needs you:" in shown
    assert f"  {command}" in shown.splitlines()


def test_an_alarm_of_a_local_stack_sends_one_to_the_local_aws(place: Place) -> None:
    object.__setattr__(place.aws, "endpoint", "http://127.0.0.1:4566")
    place.alarm("Late", "ALARM", "It is late.\nFirst: scripts/deliver.sh status --stack-name sluice")
    commands = [one["first_command"] for one in place.facts(code=1)["needs_a_person"]]
    assert "scripts/deliver.sh status --stack-name sluice --local" in commands


def test_dead_letters_without_a_script_of_their_own_are_read_with_the_aws_cli(place: Place) -> None:
    place.stack.resources[-1] = ("OddStack", *place.stack.resources[-1][1:])
    url = place.dead_letters(1)
    (problem,) = place.facts(code=1)["needs_a_person"]
    assert problem["first_command"] == f"aws --region eu-west-1 sqs receive-message --queue-url {url}"


SETTLED: list[tuple[str, Callable[[Place], Any]]] = [
    ("an alarm that has no data", lambda place: place.alarm("Late", "INSUFFICIENT_DATA")),
    ("an error of yesterday", lambda place: place.log("stream-log", FIREHOSE_LINE, timedelta(hours=3))),
    ("rejected events", lambda place: (place.outcome("Received", 2), place.outcome("Rejected", 2))),
    ("records that wait as long as buffering explains", lambda place: place.freshness(360)),
    ("a failed record of another week", lambda place: place.put("errors/processing-failed/dt=2026-01-01/x")),
    ("an update that was rolled back", lambda place: setattr(place.stack, "status", "UPDATE_ROLLBACK_COMPLETE")),
]


@pytest.mark.parametrize("trouble", [case[1] for case in SETTLED], ids=[case[0] for case in SETTLED])
def test_what_is_settled_or_usual_needs_nobody(place: Place, trouble: Callable[[Place], Any]) -> None:
    trouble(place)
    assert place.facts()["needs_a_person"] == []


def test_failures_that_were_replayed_since_need_nobody(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    place.put(f"errors/processing-failed/dt={day()}/x")
    place.log("stream-log", json.dumps({"errorCode": "Lambda.FunctionError", "message": "no"}), timedelta(minutes=1))
    place.outcome("Received", 4)
    place.outcome("Failed", 4)
    assert len(place.facts(code=1)["needs_a_person"]) == 2
    later = datetime.now(UTC) + timedelta(seconds=5)
    monkeypatch.setattr("moto.s3.models.utcnow", lambda: later.replace(tzinfo=None))
    place.put("replayed/errors/run/000001")
    facts = place.facts()
    assert facts["failed_records"]["replayed_at"] is not None
    assert "replayed since" in place.run()


def test_a_failed_record_of_more_than_a_day_ago_needs_nobody(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    before = datetime.now(UTC) - timedelta(hours=25)
    monkeypatch.setattr("moto.s3.models.utcnow", lambda: before.replace(tzinfo=None))
    place.put(f"errors/processing-failed/dt={day(1)}/x")
    assert place.facts()["failed_records"]["objects_by_type"] == {}


def test_where_cloudwatch_made_no_metrics_the_log_has_the_counts(place: Place) -> None:
    for line in (json.dumps(EMF | {"Requeued": 0}), json.dumps(EMF | {"Requeued": 5}), '"CloudWatchMetrics" in a text'):
        place.log("transform-log", line)
    place.log("transform-log", json.dumps(EMF), timedelta(hours=2))
    assert place.facts()["last_hour"] == {
        "received": 14,
        "accepted": 8,
        "dropped": 2,
        "rejected": 4,
        "failed": 0,
        "requeued": 5,
        "known_by": "log",
    }
    assert "14 events = 8 accepted + 2 dropped + 4 rejected + 0 failed; 5 put back" in place.run()


def test_drops_of_the_last_hour_are_shown_by_rule(place: Place) -> None:
    for rules in ({"bot": 2, "debug": 1}, {"empty": 1_200}, {}):
        place.log("transform-log", json.dumps(EMF | {"Dropped": sum(rules.values()), "DroppedByRule": rules}))
    place.log("transform-log", json.dumps(EMF | {"DroppedByRule": {"bot": 9}}), timedelta(hours=2))
    for line in ("START", "[1]", json.dumps({"DroppedByRule": "none"}), json.dumps({"DroppedByRule": {"bot": "x"}})):
        place.log("transform-log", line)
    assert place.facts()["drops"] == {"by_rule": {"empty": 1_200, "bot": 2, "debug": 1}, "lines_left_out": False}
    assert re.search(r"^drops +1,200 empty, 2 bot, 1 debug$", place.shown(), re.MULTILINE)


def test_drops_say_when_the_log_is_too_long_to_be_read_whole(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "MOST_LINES", 2)
    for _ in range(3):
        place.log("transform-log", json.dumps(EMF | {"DroppedByRule": {"bot": 1}}))
    assert place.facts()["drops"] == {"by_rule": {"bot": 2}, "lines_left_out": True}
    assert "2 bot, and more: the log is too long to be read whole" in place.run()


def test_a_rule_may_have_any_name(place: Place) -> None:
    place.log("transform-log", json.dumps(EMF | {"DroppedByRule": {"unknown": 1, "\x1b[2J": 1}}))
    assert place.facts()["needs_a_person"] == []
    shown = place.run()
    assert "1 unknown" in shown
    assert "\x1b" not in shown


def test_refused_requests_are_shown_by_route(place: Place) -> None:
    def answered(requests: int, refused: int, ago: timedelta = timedelta(), **dimensions: str) -> None:
        for name, value in (("Count", requests), ("4XXError", refused)):
            place.metric("AWS/ApiGateway", name, {"ApiName": "sluice", **dimensions}, value, ago)

    def route(method: str, path: str, stage: str = "prod") -> dict[str, str]:
        return {"Method": method, "Resource": path, "Stage": stage}

    # For the whole API, moto adds up all values with its dimensions, also those with more.
    answered(1, 1)
    answered(1_900, 6, **route("POST", "/track"))
    answered(90, 2, **route("POST", "/batch"))
    answered(5, 1, **route("POST", "/batch", "before"))
    answered(4, 0, **route("GET", "/pixel"))
    answered(50, 50, timedelta(hours=2), **route("OPTIONS", "/track"))
    place.metric("AWS/ApiGateway", "4XXError", {"ApiName": "other", **route("POST", "/track")}, 70)
    assert place.facts()["refusals"] == {
        "requests": 2_000,
        "answered_4xx": 10,
        "by_route": {"POST /track": 6, "POST /batch": 3},
        "elsewhere": 1,
    }
    assert re.search(
        r"^4xx +10 of 2,000 requests: 6 POST /track, 3 POST /batch, 1 elsewhere$", place.shown(), re.MULTILINE
    )
    assert place.facts()["needs_a_person"] == []


def test_without_metrics_the_newest_object_tells_the_age_of_the_last_event(place: Place) -> None:
    assert place.facts()["last_event"]["age_seconds"] is None
    place.put("events/dt=2026-01-01/old.parquet")
    place.put(f"events/dt={day()}/new.parquet")
    facts = place.facts()
    assert facts["last_event"]["known_by"] == "the newest object"
    assert facts["last_event"]["age_seconds"] <= 5
    assert facts["zones"]["events"]["key"] == f"events/dt={day()}/new.parquet"


# Missing parts


@pytest.mark.parametrize("state", ["CREATE_IN_PROGRESS", "ROLLBACK_IN_PROGRESS", "DELETE_IN_PROGRESS"])
def test_a_stack_of_which_nothing_is_there_yet_or_any_more_is_shown_all_the_same(place: Place, state: str) -> None:
    place.stack.status, place.stack.outputs = state, {}
    place.stack.deletion = [("StoreBucket", "DELETE_SKIPPED", "")] * 3
    place.stack.resources = [("StoreBucket", "AWS::S3::Bucket", None, "CREATE_IN_PROGRESS")]
    shown = place.run()
    assert state in shown
    assert "none: the stack has no outputs" in shown
    assert "unknown: the stack has no StreamDelivery yet, or no longer" in shown


def test_a_nested_stack_that_is_gone_hides_nothing_else(place: Place) -> None:
    place.dead_letters(1)
    place.nested.status = "DELETE_COMPLETE"
    place.nested.name = "gone"
    facts = place.facts()
    assert facts["dead_letters"] == []
    assert facts["zones"]["events"] is None


def test_a_log_group_that_is_gone_is_unknown_and_said(place: Place) -> None:
    place.logs.delete_log_group(logGroupName="stream-log")
    facts = place.facts(code=1)
    assert "ResourceNotFoundException" in facts["deliveries"]["unknown"]
    (problem,) = facts["needs_a_person"]
    assert problem["what"].startswith("deliveries cannot be seen: FilterLogEvents failed")


def test_a_permission_that_is_missing_hides_its_own_part_only(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(**_: Any) -> Any:
        answer: Any = {"Error": {"Code": "AccessDenied", "Message": "no"}}
        raise ClientError(answer, "DescribeAlarms")

    place.alarm("Late", "ALARM")
    place.outcome("Received", 1)
    monkeypatch.setattr(place.cloudwatch, "describe_alarms", refuse)
    facts = place.facts(code=1)
    assert facts["alarms"] == {
        "unknown": "DescribeAlarms is not allowed: no: ask for that permission, or set AWS_PROFILE"
    }
    assert facts["last_hour"]["received"] == 1


# The person


def test_text_that_came_from_outside_steers_no_terminal(place: Place) -> None:
    evil = "\x1b[2J\u202eevil\x9b31m"
    place.log("stream-log", json.dumps({"errorCode": evil, "message": evil}))
    place.alarm("Late", "ALARM", f"{evil}\nFirst: {evil}")
    place.stack.status = "ROLLBACK_COMPLETE"
    for shown in (place.run(code=1), place.run("--json", code=1)):
        assert not {"\x1b", "\u202e", "\x9b"} & set(shown)
        assert "evil" in shown


def test_watch_looks_again_until_it_is_interrupted(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        if len(slept) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(status, "time", stand_in(time, sleep=sleep))
    documents = place.run("--json", "--watch", "2", code=130).splitlines()
    assert [json.loads(line)["stack"]["name"] for line in documents[:3]] == ["sluice"] * 3
    slept.clear()
    assert place.run("--watch", code=130).count("Nothing needs you.") == 3
    assert slept == [status.WATCH_SECONDS] * 3


MISTAKES = [
    ("no such stack", ["--stack-name", "other"], "error: stack 'other' does not exist in eu-west-1: deploy it with"),
    ("a pause that is none", ["--watch", "soon"], "'soon' is not a number of seconds from 1 to 86400"),
    ("no pause", ["--watch", "0"], "'0' is not a number of seconds from 1 to 86400"),
    ("an unknown option", ["--all"], "unrecognized arguments: --all"),
]


@pytest.mark.parametrize(("arguments", "line"), [case[1:] for case in MISTAKES], ids=[case[0] for case in MISTAKES])
def test_a_mistake_is_one_clear_line_and_exit_code_2(place: Place, arguments: list[str], line: str) -> None:
    shown = place.run(*arguments, code=2)
    assert line in shown
    assert len(shown.splitlines()) == 1


def test_no_credentials_is_one_line_and_exit_code_2(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> Any:
        raise NoCredentialsError()

    monkeypatch.setattr("scripts.commands.common.stack.describe_stack", refuse)
    assert place.run(code=2).startswith("error: no AWS credentials: run `aws configure`")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0 s"), (119, "119 s"), (120, "2 min"), (7_199, "120 min"), (90_000, "25 h"), (200_000, "2 d")],
)
def test_durations_read_as_a_person_says_them(seconds: float, text: str) -> None:
    assert duration(seconds) == text
