"""scripts/pull.sh: start, follow, look, send again, and the credentials."""

from __future__ import annotations

import argparse
import io
import json
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import boto3
import pytest
from moto import mock_aws

from scripts.commands.common.console import CommandError
from scripts.commands.common.stack import Aws
from stacks.pull import command as pull
from stacks.pull.function.pages import Page
from stacks.pull.function.source import Window, read_time
from stacks.pull.function.store import NewTask, Store, TaskKey
from tests.factories import session_in


class Machine:
    """Step Functions: each look at an execution gets the next of these states, and the last one ever after."""

    exceptions = SimpleNamespace(ExecutionDoesNotExist=KeyError)

    def __init__(self) -> None:
        self.states: list[dict[str, Any]] = [{"status": "SUCCEEDED", "output": '{"planned": [], "runs": []}'}]
        self.inputs: list[Any] = []

    def start_execution(self, *, stateMachineArn: str, input: str) -> dict[str, str]:
        self.inputs.append(json.loads(input))
        return {"executionArn": "execution"}

    def describe_execution(self, *, executionArn: str) -> dict[str, Any]:
        return self.states.pop(0) if len(self.states) > 1 else self.states[0]

    def list_executions(self, *, stateMachineArn: str, maxResults: int) -> dict[str, Any]:
        started = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
        return {"executions": [{"startDate": started, "executionArn": "execution", **self.states[-1]}]}


@pytest.fixture
def machine() -> Machine:
    return Machine()


@pytest.fixture
def deployed(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> Iterator[pull.Pull]:
    """Two sources: of `cars` one request has landed, one is dead, one waits; `bikes` has never run."""
    for name, value in (("ACCESS_KEY_ID", "test"), ("SECRET_ACCESS_KEY", "test"), ("DEFAULT_REGION", "eu-central-1")):
        monkeypatch.setenv(f"AWS_{name}", value)
    with mock_aws():
        aws = Aws(session_in("eu-central-1"), "eu-central-1")
        clients = {
            "stepfunctions": machine,
            "sqs": boto3.client("sqs"),
            "secretsmanager": boto3.client("secretsmanager"),
        }
        monkeypatch.setattr(Aws, "client", lambda self, service: clients[service])
        table = boto3.resource("dynamodb").create_table(
            TableName="pull",
            BillingMode="PAY_PER_REQUEST",
            AttributeDefinitions=[{"AttributeName": name, "AttributeType": "S"} for name in ("source", "item")],
            KeySchema=[{"AttributeName": "source", "KeyType": "HASH"}, {"AttributeName": "item", "KeyType": "RANGE"}],
        )
        sqs = clients["sqs"]
        store = Store(table)
        store.open_run("cars", "run", Window(read_time("2026-01-01"), read_time("2026-01-02")))
        store.add(NewTask(key(number), {}, 3) for number in range(3))
        store.land(key(0), Page([{}] * 50_000, "digest", None, None), range(0), "")
        store.bury(key(1), "HttpError: the API answers 404")
        yield pull.Pull(
            aws,
            "sluice",
            machine="machine",
            store=store,
            queue=sqs.create_queue(QueueName="queue")["QueueUrl"],
            dead_letters=sqs.create_queue(QueueName="dead")["QueueUrl"],
            secret=clients["secretsmanager"].create_secret(Name="credentials")["ARN"],
            sources=["bikes", "cars"],
        )


def key(number: int, source: str = "cars") -> TaskKey:
    return TaskKey(source, "run", 0, number)


def options(**given: Any) -> argparse.Namespace:
    return argparse.Namespace(**{"source": [], "no_wait": False, "discard": False, "name": None, **given})


def bodies(deployed: pull.Pull, url: str) -> list[str]:
    answer = deployed.aws.client("sqs").receive_message(QueueUrl=url, MaxNumberOfMessages=10)
    return [message["Body"] for message in answer.get("Messages", [])]


def bury(deployed: pull.Pull, *texts: str) -> None:
    for text in texts:
        deployed.aws.client("sqs").send_message(QueueUrl=deployed.dead_letters, MessageBody=text)


def test_run_follows_to_the_end_and_shows_each_source(
    deployed: pull.Pull, machine: Machine, capsys: pytest.CaptureFixture[str]
) -> None:
    run = {"source": "cars", "discarded": 1, "outcome": "Discarded: 1 of 3 requests were given up"}
    output = {"planned": [{"source": "bikes", "skip": "there is nothing new"}], "runs": [run]}
    machine.states[0]["output"] = json.dumps(output)
    assert pull.run(deployed, options()) == 0
    assert machine.inputs == [{}]
    shown = capsys.readouterr()
    assert ["cars", "NULL", "run", "running", "3", "1", "1", "1", "50,000"] in [
        line.split() for line in shown.out.splitlines()
    ]
    assert ["bikes", "NULL", "NULL", "never", "run", "0", "0", "0", "0", "0"] in [
        line.split() for line in shown.out.splitlines()
    ]
    assert "bikes: there is nothing new" in shown.err
    assert "cars: Discarded: 1 of 3 requests were given up" in shown.err


def test_run_names_the_sources_that_it_was_given(deployed: pull.Pull, machine: Machine) -> None:
    assert pull.run(deployed, options(source=["cars"], no_wait=True)) == 0
    assert machine.inputs == [{"sources": ["cars"]}]


def test_a_run_that_fails_says_why(deployed: pull.Pull, machine: Machine) -> None:
    machine.states = [{"status": "FAILED", "error": "BadCredentials", "cause": "cars: BadCredentials: 401"}]
    with pytest.raises(CommandError, match="the run failed: cars: BadCredentials: 401"):
        pull.run(deployed, options())


@pytest.mark.parametrize(("status", "is_left"), [("RUNNING", True), ("ABORTED", False)])
def test_a_source_is_given_free_when_the_execution_that_held_it_was_stopped(
    deployed: pull.Pull, machine: Machine, status: str, is_left: bool
) -> None:
    deployed.store.acquire("cars", "stopped", 900)
    machine.states.insert(0, {"status": status})
    pull.run(deployed, options(no_wait=True))
    assert ("lease_by" in deployed.store.state("cars")) is is_left


def test_status_tells_reasons_queues_and_the_last_failure(
    deployed: pull.Pull, machine: Machine, capsys: pytest.CaptureFixture[str]
) -> None:
    machine.states = [{"status": "FAILED", "cause": '{"errorMessage": "no such bucket"}'}]
    bury(deployed, key(1).text)
    assert pull.status(deployed, options()) == 0
    shown = capsys.readouterr()
    assert "HttpError: the API answers 404" in shown.out
    assert "The last execution, of 2026-01-02 03:04:05, failed: no such bucket" in shown.out
    assert "Dead letters: 1" in shown.out
    assert "scripts/pull.sh redrive --stack-name sluice" in shown.err


def test_redrive_plans_dead_requests_anew_and_leaves_those_of_other_sources(deployed: pull.Pull) -> None:
    other = key(0, "bikes").text
    bury(deployed, key(1).text, other)
    assert pull.redrive(deployed, options(source=["cars"])) == 0
    assert bodies(deployed, deployed.queue) == [key(1).text]
    task = deployed.store.task(key(1))
    assert task is not None and task["state"] == "planned" and "reason" not in task
    assert pull.runs.depth(deployed.aws.client("sqs"), deployed.dead_letters).total == 1


def test_redrive_starts_a_series_again_whose_dead_page_only_the_page_before_knew(deployed: pull.Pull) -> None:
    deployed.store.add([NewTask(key(1), {"cursor": "expired"}, 3)])
    deployed.store.bury(key(1), "HttpError: the API answers 410")
    bury(deployed, key(1).text)
    assert pull.redrive(deployed, options()) == 0
    again = replace(key(0), start=1)
    assert bodies(deployed, deployed.queue) == [again.text]
    (task,) = deployed.store.tasks("cars", "run")
    assert TaskKey.of(task) == again and task["state"] == "planned"


def test_redrive_can_give_requests_up_for_good_and_removes_what_is_not_a_request(
    deployed: pull.Pull, capsys: pytest.CaptureFixture[str]
) -> None:
    bury(deployed, key(1).text, "hello", "[" * 30_000)
    assert pull.redrive(deployed, options(discard=True)) == 0
    assert "The next run moves the checkpoint past 1 requests: their rows will be missing" in capsys.readouterr().err
    assert bodies(deployed, deployed.queue) == []
    task = deployed.store.task(key(1))
    assert task is not None and task["state"] == "discarded"
    assert pull.runs.depth(deployed.aws.client("sqs"), deployed.dead_letters).total == 0


def test_a_token_is_kept_beside_the_others_and_never_shown(
    deployed: pull.Pull, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, text in (("cars", "sesame\n"), ("bikes", '{"client_id": "me", "client_secret": "hidden"}')):
        monkeypatch.setattr("sys.stdin", io.StringIO(text))
        assert pull.token(deployed, options(name=name)) == 0
    kept = deployed.aws.client("secretsmanager").get_secret_value(SecretId=deployed.secret)["SecretString"]
    assert json.loads(kept) == {"cars": "sesame", "bikes": {"client_id": "me", "client_secret": "hidden"}}
    shown = "".join(capsys.readouterr())
    assert "sesame" not in shown and "hidden" not in shown


@pytest.mark.parametrize(
    "text", ["", "two words", "two\nlines", "ü", '{"client_id": "me"}', '{"client_id": 1, "client_secret": ""}', "{"]
)
def test_what_cannot_be_a_token_is_refused(deployed: pull.Pull, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(text))
    with pytest.raises(CommandError, match="must"):
        pull.token(deployed, options(name="cars"))


@pytest.mark.parametrize("text", ["hello", '["cars"]', "[" * 30_000], ids=lambda text: text[:10])
def test_a_secret_that_holds_something_else_is_left_as_it_is(
    deployed: pull.Pull, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    secrets = deployed.aws.client("secretsmanager")
    secrets.put_secret_value(SecretId=deployed.secret, SecretString=text)
    monkeypatch.setattr("sys.stdin", io.StringIO("sesame"))
    with pytest.raises(CommandError, match=r"was left as it is\. To begin anew: aws secretsmanager put-secret-value"):
        pull.token(deployed, options(name="cars"))
    assert secrets.get_secret_value(SecretId=deployed.secret)["SecretString"] == text


WRONG = {
    "no command": [],
    "another command": ["pull"],
    "a token of nothing": ["token"],
    "a name for run": ["run", "cars"],
    "no-wait with status": ["status", "--no-wait"],
    "discard with run": ["run", "--discard"],
    "source with token": ["token", "cars", "--source", "cars"],
}


@pytest.mark.parametrize("arguments", WRONG.values(), ids=WRONG)
def test_wrong_arguments_are_refused_before_anything_is_asked(arguments: list[str]) -> None:
    with pytest.raises(CommandError) as raised:
        pull.pull(arguments)
    assert raised.value.exit_code == 2
