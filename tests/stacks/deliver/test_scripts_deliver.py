"""scripts/deliver.sh: start, follow, look, put back, and the token."""

from __future__ import annotations

import io
import json
import time
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import pytest
from moto import mock_aws

from scripts.commands.common import runs
from scripts.commands.common.console import CommandError
from scripts.commands.common.stack import Aws, Stack
from stacks.deliver import command as deliver
from stacks.deliver.function.messages import dead_letter
from tests.deliver_fakes import row
from tests.factories import session_in, stand_in
from tests.moto_clients import client


class Machine:
    """Step Functions with one state machine: its executions go through these states, one at each look."""

    def __init__(self, *states: dict[str, Any]) -> None:
        self.states = list(states)
        self.started: list[dict[str, Any]] = []

    def start_execution(self, *, stateMachineArn: str, name: str, input: str) -> dict[str, str]:
        self.started.append({"name": name, **json.loads(input)})
        return {"executionArn": f"{stateMachineArn}:{name}"}

    def describe_execution(self, *, executionArn: str) -> dict[str, Any]:
        return self.states.pop(0) if len(self.states) > 1 else self.states[0]

    def list_executions(self, *, stateMachineArn: str, maxResults: int) -> dict[str, Any]:
        started = datetime(2026, 11, 21, 10, tzinfo=UTC)
        return {
            "executions": [
                {"name": item["name"], "executionArn": "arn", "startDate": started, **self.states[-1]}
                for item in self.started[-maxResults:]
            ]
        }


class Saved:
    """Athena with the saved queries of the stack."""

    def get_paginator(self, operation: str) -> Saved:
        return self

    def paginate(self, *, WorkGroup: str) -> list[dict[str, Any]]:
        return [{"NamedQueryIds": ["latest-events", "celsius-readings"]}]

    def get_named_query(self, *, NamedQueryId: str) -> dict[str, Any]:
        return {"NamedQuery": {"Name": NamedQueryId, "QueryString": "SELECT 1", "Database": "db"}}


class Deployed:
    """The stack's parts in moto, except for the state machine and Athena."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        services = ("sqs", "dynamodb", "secretsmanager")
        self.sqs, self.dynamodb, self.secrets = (client(service, "eu-central-1") for service in services)
        self.dynamodb.create_table(
            TableName="runs",
            AttributeDefinitions=[{"AttributeName": "id", "AttributeType": "S"}],
            KeySchema=[{"AttributeName": "id", "KeyType": "HASH"}],
            BillingMode="PAY_PER_REQUEST",
        )
        self.queue = self.sqs.create_queue(QueueName="queue")["QueueUrl"]
        self.dead = self.sqs.create_queue(QueueName="dead")["QueueUrl"]
        self.secret = self.secrets.create_secret(Name="token")["ARN"]
        clients = {"stepfunctions": machine, "athena": Saved()}
        clients |= {"sqs": self.sqs, "dynamodb": self.dynamodb, "secretsmanager": self.secrets}
        self.aws = Aws(session_in("eu-central-1"), "eu-central-1")
        self.clients = clients

    def figures(self, name: str, queued: int, delivered: int, refused: int) -> None:
        counts = {"queued": queued, "delivered": delivered, "refused": refused}
        item = {"id": {"S": f"run {name}"}, **{key: {"N": str(count)} for key, count in counts.items()}}
        self.dynamodb.put_item(TableName="runs", Item=item)

    def refuse(self, number: int, reason: str, status: int | None = None, answer: str = "") -> None:
        letter = dead_letter(row(number).body(), reason, status, answer)
        self.sqs.send_message(QueueUrl=self.dead, MessageBody=letter.body, MessageAttributes=letter.attributes)


@pytest.fixture
def deployed(monkeypatch: pytest.MonkeyPatch) -> Iterator[Deployed]:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-central-1")
    with mock_aws():
        stack = Deployed(Machine({"status": "SUCCEEDED"}))
        outputs = {
            "DeliverMachineArn": "machine",
            "DeliverTableName": "runs",
            "DeliverQueueUrl": stack.queue,
            "DeliverDeadLetterQueueUrl": stack.dead,
            "DeliverSecretArn": stack.secret,
            "WorkGroupName": "sluice",
        }
        monkeypatch.setattr(deliver, "session", lambda local: stack.aws)
        monkeypatch.setattr(deliver, "Stack", lambda aws, name: SimpleNamespace(outputs=outputs))
        monkeypatch.setattr(Aws, "client", lambda self, service: stack.clients[service])
        monkeypatch.setattr(deliver, "uuid", stand_in(uuid, uuid4=lambda: uuid.UUID(int=0)))
        monkeypatch.setattr(runs, "time", stand_in(time, sleep=lambda seconds: None))
        yield stack


NAME = "by-hand-000000000000"


@pytest.mark.parametrize(
    ("arguments", "given"),
    [
        pytest.param([], {}, id="as deployed"),
        pytest.param(["--query", "Celsius Readings"], {"query": "celsius-readings"}, id="another query"),
        pytest.param(
            ["--parameter", "{from}", "--parameter", "{to}", "--parameter", "50", "--parameter", "it's"],
            {"parameters": ["{from}", "{to}", "50", "'it''s'"]},
            id="other values",
        ),
        pytest.param(
            ["--from", "2026-01-31", "--to", "2026-01-31T20:00:00+02:00"],
            {"from": "2026-01-31 00:00:00", "to": "2026-01-31 18:00:00"},
            id="a window",
        ),
    ],
)
def test_run_starts_the_state_machine_with_what_was_asked_for(
    deployed: Deployed, capsys: pytest.CaptureFixture[str], arguments: list[str], given: dict[str, Any]
) -> None:
    assert deliver.deliver(["run", "--no-wait", *arguments]) == 0

    assert deployed.machine.started == [{"name": NAME, **given}]
    assert capsys.readouterr().out == f"{NAME}\n"


@pytest.mark.parametrize(
    ("figures", "code"), [((10, 10, 0), 0), ((10, 7, 3), 1), ((0, 0, 0), 0)], ids=["all", "some refused", "no row"]
)
def test_run_ends_when_each_row_is_delivered_or_refused(
    deployed: Deployed, capsys: pytest.CaptureFixture[str], figures: tuple[int, int, int], code: int
) -> None:
    deployed.machine.states = [{"status": "RUNNING"}, {"status": "SUCCEEDED"}]
    deployed.figures(NAME, *figures)

    assert deliver.deliver(["run"]) == code
    assert f"Delivered {figures[1]} rows, refused {figures[2]}, waiting 0" in capsys.readouterr().err


def test_run_waits_while_the_queue_has_rows_and_not_for_ever_when_it_has_none(
    deployed: Deployed, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    deployed.figures(NAME, 10, 4, 0)
    deployed.sqs.send_message(QueueUrl=deployed.queue, MessageBody="row")
    clock = iter(range(0, 100_000, 20))
    looks = []

    def look(seconds: float) -> None:
        looks.append(seconds)
        if len(looks) == 5:
            deployed.sqs.purge_queue(QueueUrl=deployed.queue)

    monkeypatch.setattr(runs, "time", stand_in(time, sleep=look))
    monkeypatch.setattr(deliver, "time", stand_in(time, monotonic=lambda: next(clock)))

    assert deliver.deliver(["run"]) == 1
    assert len(looks) > 5
    assert "waiting 6" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("cause", "says"),
    [
        ('{"errorMessage": "no saved query", "errorType": "Unusable"}', "the run failed: no saved query"),
        (
            '{"QueryExecution": {"Status": {"StateChangeReason": "COLUMN_NOT_FOUND"}}}',
            "the run failed: COLUMN_NOT_FOUND",
        ),
        ("[1]", r"the run failed: \[1\]"),
        ("a \x1b[31mplain text", r"the run failed: a \\x1b\[31mplain text"),
    ],
    ids=["a function", "the query", "a list", "text"],
)
def test_a_run_that_fails_says_why(deployed: Deployed, cause: str, says: str) -> None:
    deployed.machine.states = [{"status": "FAILED", "error": "E", "cause": cause}]

    with pytest.raises(CommandError, match=says):
        deliver.deliver(["run"])


def test_status_shows_runs_and_why_rows_were_refused_and_leaves_them_there(
    deployed: Deployed, capsys: pytest.CaptureFixture[str]
) -> None:
    deliver.deliver(["run", "--no-wait"])
    deployed.figures(NAME, 1234, 1230, 3)
    for number in range(12):
        deployed.refuse(number, "no such sensor", 207)
    deployed.refuse(13, "the endpoint answered 400", 400, "\x1b[31mred [bold]")
    capsys.readouterr()

    for _ in range(2):
        assert deliver.deliver(["status"]) == 0
        shown = capsys.readouterr().out.splitlines()
        assert any(
            line.split() == [NAME, "2026-11-21", "10:00:00", "succeeded", "1,234", "1,230", "3", "1"] for line in shown
        )
        assert "Dead letters: 13" in shown
        assert any(line.split()[:5] == ["12", "207", "no", "such", "sensor"] for line in shown)
        assert any("\ufffd[31mred [bold]" in line for line in shown)
        for url in (deployed.queue, deployed.dead):  # as if the moment of the look were over
            reset_visibility(url)


def reset_visibility(url: str) -> None:
    from moto.sqs.models import sqs_backends

    for message in sqs_backends["123456789012"]["eu-central-1"].queues[url.rpartition("/")[2]]._messages:
        message.visible_at = 0


def test_redrive_puts_every_dead_letter_back_as_the_row_that_it_was(
    deployed: Deployed, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in range(25):
        deployed.refuse(number, "no such sensor", 207)

    assert deliver.deliver(["redrive"]) == 0

    assert capsys.readouterr().out == "25\n"
    assert (runs.depth(deployed.sqs, deployed.dead).total, runs.depth(deployed.sqs, deployed.queue).total) == (
        0,
        25,
    )
    message = deployed.sqs.receive_message(QueueUrl=deployed.queue, MessageAttributeNames=["All"])["Messages"][0]
    assert "MessageAttributes" not in message and message["Body"] in {row(number).body() for number in range(25)}


def test_a_dead_letter_that_does_not_reach_the_queue_stays_one(
    deployed: Deployed, monkeypatch: pytest.MonkeyPatch
) -> None:
    deployed.refuse(1, "no such sensor")
    monkeypatch.setattr(
        deployed.sqs, "send_message_batch", lambda **arguments: {"Successful": [], "Failed": [{"Id": "0"}]}
    )

    assert deliver.deliver(["redrive"]) == 0
    assert runs.depth(deployed.sqs, deployed.dead).total == 1


def test_the_token_is_read_from_standard_input_and_shown_nowhere(
    deployed: Deployed, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("hidden-1\n"))

    assert deliver.deliver(["token"]) == 0

    kept = deployed.secrets.get_secret_value(SecretId=deployed.secret)["SecretString"]
    assert json.loads(kept) == {"token": "hidden-1"}
    captured = capsys.readouterr()
    assert "hidden" not in captured.out + captured.err


@pytest.mark.parametrize("text", ["", "\n", "two words", "two\nlines", "bell\x07", "ümlaut"], ids=ascii)
def test_a_token_that_no_header_can_carry_is_refused(
    deployed: Deployed, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(text))

    with pytest.raises(CommandError, match="one line of visible ASCII") as raised:
        deliver.deliver(["token"])
    assert raised.value.exit_code == 2


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["start"], "invalid choice: 'start'"),
        ([], "required: command"),
        (["run", "--from", "2026-01-31"], "--from and --to go together"),
        (["run", "--from", "2026-01-31", "--to", "soon"], "'soon' is not a time"),
        (["run", "--from", "2026-01-31", "--to", "2026-01-30"], "--to must be later"),
        (["status", "--query", "x"], "--query goes with run, not with status"),
        (["redrive", "--from", "2026-01-31", "--to", "2026-02-01"], "--from goes with run"),
        (["run", "--query", "celsius"], "did you mean 'celsius-readings'"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_usage_is_named(deployed: Deployed, arguments: list[str], says: str) -> None:
    with pytest.raises(CommandError, match=says) as raised:
        deliver.deliver(arguments)
    assert raised.value.exit_code == 2 and not deployed.machine.started


def test_a_stack_that_delivers_nothing_is_told_how_to_begin(
    deployed: Deployed, monkeypatch: pytest.MonkeyPatch
) -> None:
    def without_delivery(aws: Aws, name: str) -> Stack:
        stack = Stack(aws, name)
        stack.outputs = {"WorkGroupName": "sluice"}
        return stack

    monkeypatch.setattr(deliver, "Stack", without_delivery)

    with pytest.raises(CommandError, match=r"has no optional stack 'deliver': .* --parameter DeliverUrl=https://"):
        deliver.deliver(["status"])
