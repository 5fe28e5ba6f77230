"""A run: its window, its query of Athena, and every row of the result in the queue."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import pytest
from botocore.exceptions import ClientError
from moto import mock_aws

from scripts.commands.deploy import template as templates
from stacks.deliver.function import messages, run
from stacks.deliver.function.messages import Message, Row
from stacks.deliver.function.settings import Clients, Settings
from tests.conftest import ROOT
from tests.deliver_fakes import Athena, Killed, Killer, settings
from tests.moto_clients import client

NOW = datetime(2026, 11, 21, 10, 0, 0, 500_000, UTC)
PLENTY = 900_000  # milliseconds
WINDOW = "{from},{to},10"


class Aws:
    """The deployed resources, in moto; Athena is a fake."""

    def __init__(self) -> None:
        services = ("sqs", "dynamodb", "cloudwatch")
        self.sqs, self.dynamodb, self.cloudwatch = (client(service, "eu-central-1") for service in services)
        self.dynamodb.create_table(
            TableName="runs",
            AttributeDefinitions=[{"AttributeName": "id", "AttributeType": "S"}],
            KeySchema=[{"AttributeName": "id", "KeyType": "HASH"}],
            BillingMode="PAY_PER_REQUEST",
        )
        self.athena = Athena(
            {"other": "SELECT 2", "new-rows": "SELECT ?"}, [("number", "bigint")], [["1"], ["2"], ["3"]]
        )
        self.queue = self.sqs.create_queue(QueueName="queue")["QueueUrl"]
        self.dead = self.sqs.create_queue(QueueName="dead")["QueueUrl"]
        self.clients = Clients(self.athena, self.cloudwatch, self.dynamodb, self.sqs)

    def settings(self, parameters: str = WINDOW, **changes: Any) -> Settings:
        urls = {"queue_url": self.queue, "dead_letter_queue_url": self.dead}
        return settings(parameters=parameters, **urls, **changes)

    def prepare(self, given: dict[str, Any] | None = None, *, now: datetime = NOW, **changes: Any) -> dict[str, Any]:
        started = {"Name": "run-1", "Input": given or {}}
        return run.prepare(started, self.settings(**changes), self.clients, now)

    def enqueue(self, prepared: dict[str, Any], *, milliseconds: int = PLENTY) -> dict[str, Any]:
        """Make all of the state machine's calls of enqueue; return the last answer."""
        state: dict[str, Any] = {"execution": "execution-1", "delivery": prepared["delivery"], "next": "enqueue"}
        while state["next"] == "enqueue":
            # As the state machine hands it on.
            state = json.loads(json.dumps(state))
            state = run.enqueue({**state, "step": "enqueue"}, self.settings(), self.clients, NOW, lambda: milliseconds)
        return state

    def messages(self, url: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        while batch := self.sqs.receive_message(
            QueueUrl=url, MaxNumberOfMessages=10, MessageAttributeNames=["All"]
        ).get("Messages"):
            found += batch
        return found

    def rows(self) -> list[Row]:
        return [Row.read(message["Body"]) for message in self.messages(self.queue)]

    def figures(self) -> dict[str, int]:
        item = self.dynamodb.get_item(TableName="runs", Key={"id": {"S": "run run-1"}})["Item"]
        return {name: int(item[name]["N"]) for name in ("queued", "refused")}


@pytest.fixture
def aws(monkeypatch: pytest.MonkeyPatch) -> Iterator[Aws]:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-central-1")
    with mock_aws():
        yield Aws()


def values(prepared: dict[str, Any]) -> list[str]:
    found: list[str] = prepared["request"]["ExecutionParameters"]
    return found


def test_the_first_window_begins_at_the_beginning_and_ends_where_all_is_delivered(aws: Aws) -> None:
    prepared = aws.prepare()

    assert prepared["request"] == {
        "QueryString": "SELECT ?",
        "QueryExecutionContext": {"Database": "db"},
        "WorkGroup": "sluice",
        # Allowed for are the buffering of 60 s, five minutes for late metrics, and 15 s.
        "ExecutionParameters": ["timestamp '1970-01-01 00:00:00'", "timestamp '2026-11-21 09:53:45'", "10"],
    }


def test_a_stream_that_is_behind_holds_the_window_back(aws: Aws) -> None:
    for minutes, age in ((20, 9000.0), (10, 600.0), (2, 90.0)):
        aws.cloudwatch.put_metric_data(
            Namespace="AWS/Firehose",
            MetricData=[
                {
                    "MetricName": "DeliveryToS3.DataFreshness",
                    "Dimensions": [{"Name": "DeliveryStreamName", "Value": "stream"}],
                    "Timestamp": NOW - timedelta(minutes=minutes),
                    "Value": age,
                }
            ],
        )

    # The oldest to count is from ten minutes ago: 600 s, taken twice.
    assert values(aws.prepare())[1] == "timestamp '2026-11-21 09:39:45'"


def test_a_stream_that_got_stuck_after_its_last_metric_loses_nothing(aws: Aws) -> None:
    # Five minutes ago, CloudWatch heard of an event of 70 seconds as the oldest. It has not been delivered since.
    heard = NOW - timedelta(minutes=5)
    aws.cloudwatch.put_metric_data(
        Namespace="AWS/Firehose",
        MetricData=[
            {
                "MetricName": "DeliveryToS3.DataFreshness",
                "Dimensions": [{"Name": "DeliveryStreamName", "Value": "stream"}],
                "Timestamp": heard,
                "Value": 70.0,
            }
        ],
    )

    assert run.complete_until(aws.settings(), aws.cloudwatch, NOW) < heard - timedelta(seconds=70)


def test_windows_follow_each_other_without_a_gap(aws: Aws) -> None:
    found = []
    for minutes in (0, 5, 60):
        prepared = aws.prepare(now=NOW + timedelta(minutes=minutes))
        found.append(values(prepared)[:2])
        assert aws.enqueue(prepared)["next"] == "end"

    assert found[0][1] == found[1][0] and found[1][1] == found[2][0]


def test_there_is_nothing_to_do_while_the_window_would_be_empty(aws: Aws) -> None:
    aws.enqueue(aws.prepare())

    assert aws.prepare() == {"waiting": False}
    assert aws.prepare(now=NOW + timedelta(seconds=1))["waiting"]


def test_a_window_that_was_begun_is_finished_first_and_then_the_next_begins(aws: Aws) -> None:
    killed = values(aws.prepare())
    later = NOW + timedelta(hours=1)

    again = aws.prepare(now=later)
    assert values(again) == killed
    assert aws.enqueue(again)["next"] == "prepare"

    following = aws.prepare(now=later)
    assert values(following)[0] == killed[1] and values(following)[1] != killed[1]
    assert aws.enqueue(following)["next"] == "end"


def test_two_runs_at_once_take_the_same_window_and_move_the_watermark_once(aws: Aws) -> None:
    first, second = aws.prepare(), aws.prepare(now=NOW + timedelta(minutes=9))
    assert values(first) == values(second)

    aws.enqueue(first)
    # The second one finishes later, when a third has begun already.
    third = aws.prepare(now=NOW + timedelta(minutes=10))
    aws.enqueue(second)

    assert values(aws.prepare(now=NOW + timedelta(hours=9))) == values(third)


def test_a_run_that_loses_the_race_for_a_window_takes_the_window_of_the_other(
    aws: Aws, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = aws.dynamodb.get_item
    others: list[Any] = []

    def read_and_be_overtaken(**arguments: Any) -> Any:
        item = real(**arguments)
        if not others and arguments["Key"]["id"]["S"].startswith("watermark"):
            others.append(None)
            others.append(values(aws.prepare(now=NOW - timedelta(minutes=5))))
        return item

    monkeypatch.setattr(aws.dynamodb, "get_item", read_and_be_overtaken)

    assert values(aws.prepare()) == others[1]


def test_other_queries_and_other_values_have_watermarks_of_their_own(aws: Aws) -> None:
    aws.enqueue(aws.prepare())

    for given in ({"query": "other"}, {"parameters": ["{from}", "{to}", "11"]}):
        assert values(aws.prepare(given))[0] == "timestamp '1970-01-01 00:00:00'"
    assert not aws.prepare({"parameters": ["{from}", "{to}", "10"]})["waiting"]


def test_a_window_by_hand_neither_reads_nor_moves_the_watermark(aws: Aws) -> None:
    given = {"from": "2026-11-01 00:00:00", "to": "2026-11-02 00:00:00"}
    prepared = aws.prepare(given)

    assert values(prepared)[:2] == ["timestamp '2026-11-01 00:00:00'", "timestamp '2026-11-02 00:00:00'"]
    assert aws.enqueue(prepared)["next"] == "end"
    assert values(aws.prepare())[0] == "timestamp '1970-01-01 00:00:00'"


def test_a_query_without_a_window_delivers_its_whole_result_each_time(aws: Aws) -> None:
    for _ in range(2):
        prepared = aws.prepare(parameters="")
        assert "ExecutionParameters" not in prepared["request"]
        assert aws.enqueue(prepared)["next"] == "end"

    assert len(aws.rows()) == 6


@pytest.mark.parametrize(
    ("given", "parameters", "says"),
    [
        pytest.param(
            {"query": "mising"}, WINDOW, "no saved query 'mising': it has new-rows, other", id="no such query"
        ),
        pytest.param({"from": "2026-01-01 00:00:00"}, WINDOW, "from and to must both", id="from without to"),
        pytest.param({"from": "yesterday", "to": "today"}, WINDOW, "yesterday", id="words for times"),
        pytest.param(
            {"from": "2026-01-01 00:00:00", "to": "2026-01-02 00:00:00"},
            "5,'x'",
            r"no window: .*5, 'x'",
            id="no window",
        ),
    ],
)
def test_what_cannot_succeed_is_refused_and_says_why(
    aws: Aws, given: dict[str, Any], parameters: str, says: str
) -> None:
    with pytest.raises(run.Unusable, match=says):
        aws.prepare(given, parameters=parameters)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", []),
        ("1", ["1"]),
        ("{from}, {to} ,5", ["{from}", "{to}", "5"]),
        ("'a,b','it''s',-1.5e3", ["'a,b'", "'it''s'", "-1.5e3"]),
        ("date '2026-01-01',NULL", ["date '2026-01-01'", "NULL"]),
    ],
)
def test_parameters_are_parted_at_the_commas_outside_of_strings(text: str, found: list[str]) -> None:
    assert run.split(text) == found


def test_a_row_is_a_message_with_its_values_by_name(aws: Aws) -> None:
    aws.athena.columns = [("id", "bigint"), ("Größe", "varchar"), ("at", "timestamp")]
    aws.athena.rows = [["1", None, "2026-11-21 10:00:00.000"], ["2", "\ufffe\U0001f600'\n", None]]
    aws.enqueue(aws.prepare())

    found = sorted(aws.rows(), key=lambda row: str(row.values["id"]))
    assert [row.values for row in found] == [
        {"id": 1, "Größe": None, "at": "2026-11-21 10:00:00.000"},
        {"id": 2, "Größe": "\ufffe\U0001f600'\n", "at": None},
    ]
    assert {(row.run, row.query) for row in found} == {("run-1", "new-rows")}


def test_a_large_result_is_queued_in_several_calls_which_go_on_where_the_last_one_ended(aws: Aws) -> None:
    aws.athena.rows = [[str(number)] for number in range(95)]
    aws.athena.page_rows = 10
    prepared = aws.prepare()

    state = aws.enqueue(prepared, milliseconds=run.ENQUEUE_MILLISECONDS - 1)

    assert state["next"] == "end" and state["position"] is None
    assert sorted(int(str(row.values["number"])) for row in aws.rows()) == list(range(95))
    assert aws.figures() == {"queued": 95, "refused": 0}


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("step", range(1, 13), ids=lambda step: f"step {step}")
def test_killed_at_any_step_and_started_again_the_same_rows_are_queued(aws: Aws, step: int, after: bool) -> None:
    aws.athena.rows = [[str(number)] for number in range(15)]
    aws.athena.page_rows = 10
    killer, whole = Killer(step, after=after), aws.clients
    aws.clients = killer.clients(whole)
    try:
        aws.enqueue(aws.prepare())
    except Killed:
        aws.clients = whole
        while (prepared := aws.prepare(now=NOW + timedelta(hours=1)))["waiting"]:
            if aws.enqueue(prepared)["next"] == "end":
                break

    rows = aws.rows()
    assert killer.left <= 0
    assert {row.values["number"] for row in rows} == set(range(15))
    # However often a row is queued, its receiver takes it for the same one.
    assert len({row.row_id for row in rows}) == 15
    assert (
        not whole.dynamodb.get_item(TableName="runs", Key={"id": {"S": f"watermark new-rows {WINDOW}"}})
        .get("Item", {})
        .get("begun_to")
    )


def test_the_watermark_stays_while_a_row_is_not_in_the_queue(aws: Aws, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "send", partial(messages.send, tries=1))
    real, calls = aws.sqs.send_message_batch, iter([0, 0, 0])

    def busy(**arguments: Any) -> Any:
        if next(calls, None) is not None:
            failed = [{"Id": entry["Id"], "Code": "Busy", "SenderFault": False} for entry in arguments["Entries"]]
            return {"Failed": failed}
        return real(**arguments)

    monkeypatch.setattr(aws.sqs, "send_message_batch", busy)
    prepared = aws.prepare()
    for _ in range(3):
        with pytest.raises(messages.NotSent, match="Busy"):
            aws.enqueue(prepared)
        assert values(aws.prepare(now=NOW + timedelta(hours=1))) == values(prepared)
    assert aws.enqueue(prepared)["next"] == "end"


def test_a_row_that_no_message_holds_is_noted_among_the_dead_letters(aws: Aws) -> None:
    aws.athena.columns, aws.athena.rows = [("text", "varchar")], [["x" * messages.MAX_MESSAGE_BYTES], ["short"]]
    aws.enqueue(aws.prepare())

    assert [row.values for row in aws.rows()] == [{"text": "short"}]
    (letter,) = aws.messages(aws.dead)
    reason = letter["MessageAttributes"]["reason"]["StringValue"]
    assert "and 1,044,480 fit into" in reason and "execution-1" in reason
    assert aws.figures() == {"queued": 1, "refused": 1}
    # Put back into the queue, it is not posted as a row without its values.
    with pytest.raises(ValueError):
        Row.read(letter["Body"])


def test_two_columns_of_one_name_are_refused(aws: Aws) -> None:
    aws.athena.columns, aws.athena.rows = [("a", "bigint"), ("a", "bigint")], [["1", "2"]]
    with pytest.raises(run.Unusable, match="two columns of one name"):
        aws.enqueue(aws.prepare())


# --- Messages into a queue ----------------------------------------------------------------------------------------


class Busy:
    """A queue: each message's first `times` sends fail at a rate of `share`, by the sender's `fault` or not."""

    def __init__(self, times: int, *, share: float = 0.9, fault: bool = False) -> None:
        self.times, self.share, self.fault = times, share, fault
        self.random = random.Random(1)
        self.tried: dict[str, int] = {}
        self.taken: list[str] = []
        self.calls: list[list[str]] = []

    def send_message_batch(self, *, QueueUrl: str, Entries: list[dict[str, Any]]) -> dict[str, Any]:
        self.calls.append([entry["MessageBody"] for entry in Entries])
        failed = []
        for entry in Entries:
            body = entry["MessageBody"]
            self.tried[body] = self.tried.get(body, 0) + 1
            if self.tried[body] <= self.times and self.random.random() < self.share:
                failed.append({"Id": entry["Id"], "Code": "Busy", "SenderFault": self.fault})
            else:
                self.taken.append(body)
        return {"Failed": failed} if failed else {}


def test_messages_that_fail_are_sent_again_and_no_other() -> None:
    queue = Busy(times=3)
    bodies = [str(number) for number in range(105)]

    messages.send(queue, "queue", [Message(body) for body in bodies], sleep=lambda seconds: None)

    assert sorted(queue.taken) == sorted(bodies)
    assert max(len(call) for call in queue.calls) == 10


def test_messages_that_keep_failing_are_an_error_and_the_others_are_sent() -> None:
    queue = Busy(times=1000, share=1)
    pauses: list[float] = []

    with pytest.raises(messages.NotSent, match="Busy"):
        messages.send(queue, "queue", [Message("a")] * 3, sleep=pauses.append)
    assert len(pauses) <= messages.TRIES and all(pause <= 3 for pause in pauses)


def test_messages_of_a_call_that_is_refused_are_named_and_the_others_are_sent() -> None:
    queue = Busy(times=0)
    real = queue.send_message_batch

    def refuse_e(**arguments: Any) -> Any:
        if any(entry["MessageBody"] == "e" for entry in arguments["Entries"]):
            raise ClientError({"Error": {"Code": "KMS.DisabledException"}}, "SendMessageBatch")
        return real(**arguments)

    queue.send_message_batch = refuse_e
    given = [Message(letter * 400_000 if letter != "e" else letter) for letter in "abcde"]
    with pytest.raises(messages.NotSent, match="DisabledException") as caught:
        messages.send(queue, "queue", given)

    assert {body[0] for body in queue.taken} == {"a", "b"} and caught.value.unsent == given[2:]


def test_a_call_holds_no_more_bytes_than_sqs_takes() -> None:
    queue = Busy(times=0)
    messages.send(queue, "queue", [Message(str(number) + "x" * 400_000) for number in range(5)])

    assert sorted(len(call) for call in queue.calls) == [1, 2, 2]


@pytest.mark.parametrize(
    ("text", "is_allowed"),
    [
        ("", True),
        ("{from},{to},5", True),
        ("'a,b','it''s',date '2026-01-01'", True),
        ("1,,2", False),
        (",1", False),
        ("1,", False),
        ("'open", False),
        ("''" * 40 + ",", False),
    ],
    ids=str,
)
def test_the_template_takes_parameters_that_can_be_parted(text: str, is_allowed: bool) -> None:
    template = templates.load((ROOT / "stacks" / "deliver" / "template.yaml").read_text())
    pattern = template["Parameters"]["DeliverParameters"]["AllowedPattern"]

    assert bool(re.fullmatch(pattern, text)) is is_allowed
    if is_allowed:
        assert ",".join(run.split(text)) == text
