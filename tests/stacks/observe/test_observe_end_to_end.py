"""Alarms firing for real: a local AWS, a stack with alarms, a queue for their messages, and trouble."""

from __future__ import annotations

import functools
import io
import json
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.local_process import LocalProcess, eventually, post

pytestmark = pytest.mark.slow

A_RULE_THAT_RAISES = "\nRULES = {**RULES, 'broken': lambda event, context: 1 / 0}\n"
RULES_THAT_CANNOT_BE_READ = "\ndef broken(event, context)\n"


class Listener:
    """A topic with a queue, and the alarms heard there."""

    def __init__(self, aws: LocalProcess) -> None:
        self.sqs = aws.client("sqs")
        self.topic = aws.client("sns").create_topic(Name="on-call")["TopicArn"]
        self.queue = self.sqs.create_queue(QueueName="on-call")["QueueUrl"]
        arn = self.topic.replace(":sns:", ":sqs:")
        statement = {"Effect": "Allow", "Principal": {"Service": "sns.amazonaws.com"}, "Action": "sqs:SendMessage"}
        policy = {"Version": "2012-10-17", "Statement": [{**statement, "Resource": arn}]}
        self.sqs.set_queue_attributes(QueueUrl=self.queue, Attributes={"Policy": json.dumps(policy)})
        aws.client("sns").subscribe(TopicArn=self.topic, Protocol="sqs", Endpoint=arn)
        self.states: dict[str, list[str]] = {}

    def heard(self, alarm: str, *states: str) -> bool:
        """Whether an alarm of the stack has told these states, one after the other."""
        for message in self.sqs.receive_message(QueueUrl=self.queue, MaxNumberOfMessages=10).get("Messages", []):
            told = json.loads(json.loads(message["Body"])["Message"])
            name = told["AlarmName"].rpartition("-Observe")[2]
            self.states.setdefault(name, []).append(told["NewStateValue"])
            self.sqs.delete_message(QueueUrl=self.queue, ReceiptHandle=message["ReceiptHandle"])
        return self.states.get(alarm, []) == list(states)


@pytest.fixture
def aws(tmp_path: Path) -> Iterator[LocalProcess]:
    with LocalProcess(tmp_path / "aws") as process:
        yield process


def wait(until: Callable[[], bool]) -> None:
    """Longer than buffers and looks take together, on a busy machine."""
    eventually(until)


def with_rules(code: bytes, more: str) -> bytes:
    """The function's zip with more text at the end of the rules."""
    changed = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(code)) as old, zipfile.ZipFile(changed, "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            new.writestr(name, old.read(name) + (more.encode() if name == "transform/rules.py" else b""))
    return changed.getvalue()


def test_silence_rejects_and_a_broken_rule_raise_alarms_and_their_end_is_told(aws: LocalProcess) -> None:
    listener = Listener(aws)
    topic = f"ObserveTopicArn={listener.topic}"
    outputs = aws.deploy(topic, "ObserveSilenceInMinutes=1", "FirehoseBufferingInterval=1")
    assert outputs["ObserveAlarmTopicArn"] == listener.topic

    def send(*events: dict[str, Any]) -> None:
        assert post(outputs["BatchURL"], json.dumps(events).encode())[0] == 202

    wait(lambda: listener.heard("NothingComesInAlarm", "ALARM"))
    send(*[{"name": "good"}] * 9, {"name": "bad", "value": "abc"})
    wait(lambda: listener.heard("NothingComesInAlarm", "ALARM", "OK"))
    wait(lambda: listener.heard("TooManyRejectsAlarm", "OK", "ALARM"))
    # One of forty is less than five percent.
    send(*[{"name": "good"}] * 30)
    wait(lambda: listener.heard("TooManyRejectsAlarm", "OK", "ALARM", "OK"))

    (stack,) = aws.client("cloudformation").describe_stacks(StackName="sluice")["Stacks"]
    given = {one["ParameterKey"]: one["ParameterValue"] for one in stack["Parameters"]}
    code = aws.client("s3").get_object(Bucket=given["ArtifactBucket"], Key=given["TransformCodeKey"])["Body"].read()
    function = aws.client("lambda")
    for rules, alarm in (
        (A_RULE_THAT_RAISES, "EventsFailAlarm"),
        (RULES_THAT_CANNOT_BE_READ, "TransformRaisesErrorsAlarm"),
    ):
        function.update_function_code(FunctionName=outputs["FunctionName"], ZipFile=with_rules(code, rules))
        send({"name": "victim"})
        wait(functools.partial(listener.heard, alarm, "OK", "ALARM"))
    found = aws.client("cloudwatch").describe_alarms(StateValue="ALARM")["MetricAlarms"]
    names = {one["AlarmName"].rpartition("-Observe")[2] for one in found}
    assert names - {"TransformCannotRunAlarm"} == {"EventsFailAlarm", "TransformRaisesErrorsAlarm"}
