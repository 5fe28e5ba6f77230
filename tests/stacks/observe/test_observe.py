"""Each alarm of the nested stacks fires and recovers, and tells so; the dashboard of observe shows real metrics."""

from __future__ import annotations

import asyncio
import inspect
import itertools
import json
import re
import shlex
import time
from collections.abc import Iterator
from typing import Any, NamedTuple, get_args

import pytest

from local.cloudwatch.alarms import FURTHER_PERIODS, Alarms
from local.ministack import Emulator
from scripts.commands.deploy import nested, queries
from scripts.commands.deploy import template as templates
from scripts.commands.deploy.template import TEMPLATE
from tests.conftest import ROOT
from transform import envelopes, events, records, rules

Json = dict[str, Any]

(STACK,) = (stack for stack in nested.read() if stack.name == "observe")
RESOURCES: dict[str, Json] = STACK.template["Resources"]
ALARMS = {name: one["Properties"] for name, one in RESOURCES.items() if one["Type"] == "AWS::CloudWatch::Alarm"}
# With those of the core and of the other stacks, as in `pull.RunFailedAlarm`.
TEMPLATES = {"core": templates.load(TEMPLATE.read_text()), **{stack.name: stack.template for stack in nested.read()}}
EVERY_ALARM = ALARMS | {
    f"{template}.{name}": one["Properties"]
    for template in TEMPLATES.keys() - {STACK.name}
    for name, one in TEMPLATES[template]["Resources"].items()
    if one["Type"] == "AWS::CloudWatch::Alarm"
}
TOPIC = "arn:aws:sns:us-east-1:000000000000:alarms"
PARAMETERS = {
    "AWS::Region": "us-east-1",
    "StackName": "sluice",
    "EventStream": "events",
    "RejectStream": "rejects",
    "FunctionName": "transform",
    "LogGroupName": "log",
    "BufferingInterval": "60",
    "FunctionTimeout": "60",
    "FunctionMemorySize": "512",
    "ObserveEmail": "team@example.com",
    "ObserveTopicArn": TOPIC,
    "ObserveRejectedPercent": "5",
    "ObserveSilenceInMinutes": "3",
    "ObserveDashboard": "ENABLED",
    # Of the other stacks; their resources are named by their logical ids.
    "AlarmTopicArn": TOPIC,
    "DatabaseName": "lake",
    "DeliverQuery": "latest-events",
    "DeliverUrl": "https://example.com/rows",
    "PullSilenceInHours": "3",
    "WorkGroupName": "sluice",
}
CONDITIONS = {"HasObserveTopicArn": True, "HasAlarmTopicArn": True}
# As the services document their metrics.
API = "AWS/ApiGateway", "ApiName", "sluice"
EVENTS = "AWS/Firehose", "DeliveryStreamName", "events"
REJECTS = "AWS/Firehose", "DeliveryStreamName", "rejects"
FUNCTION = "AWS/Lambda", "FunctionName", "transform"
COUNTS = "Sluice", "FunctionName", "transform"
DELIVERIES = "Sluice", "FunctionName", "DeliverFunction"
VISIBLE = "ApproximateNumberOfMessagesVisible"


def dead_letters(queue: str) -> tuple[str, str, str]:
    return "AWS/SQS", "QueueName", queue


def runs(machine: str) -> tuple[str, str, str]:
    return "AWS/States", "StateMachineArn", machine


class Case(NamedTuple):
    """The values of a period of `seconds` when all is well, and in trouble; this has to last `after` periods."""

    metric: tuple[str, str, str]
    seconds: int
    after: int
    well: dict[str, list[float]]
    trouble: dict[str, list[float]]


CASES = {
    "ObserveApiAnswersErrorsAlarm": Case(API, 60, 3, {"5XXError": [0] * 19 + [1]}, {"5XXError": [0] * 18 + [1, 1]}),
    "ObserveApiIsSlowAlarm": Case(API, 60, 3, {"Latency": [40] * 100}, {"Latency": [40] * 97 + [1001] * 3}),
    # Late values count, so it takes two minutes more than configured.
    "ObserveNothingComesInAlarm": Case(EVENTS, 60, 3 + FURTHER_PERIODS, {"IncomingRecords": [1]}, {}),
    "ObserveRecordsAreThrottledAlarm": Case(EVENTS, 300, 1, {}, {"ThrottledRecords": [1]}),
    "ObserveDataIsNotFreshAlarm": Case(
        EVENTS, 60, 3, {"DeliveryToS3.DataFreshness": [360]}, {"DeliveryToS3.DataFreshness": [10, 361]}
    ),
    "ObserveRejectsAreNotFreshAlarm": Case(
        REJECTS, 60, 3, {"DeliveryToS3.DataFreshness": [360]}, {"DeliveryToS3.DataFreshness": [10, 361]}
    ),
    "ObserveDeliveryToS3FailsAlarm": Case(
        EVENTS, 300, 1, {"DeliveryToS3.Success": [0, 1]}, {"DeliveryToS3.Success": [0, 0, 1]}
    ),
    "ObserveConversionFailsAlarm": Case(EVENTS, 300, 1, {}, {"FailedConversion.Records": [1]}),
    "ObserveTransformCannotRunAlarm": Case(
        EVENTS, 300, 1, {"ExecuteProcessing.Success": [0, 1]}, {"ExecuteProcessing.Success": [0, 0, 0, 0, 1]}
    ),
    "ObserveTransformRaisesErrorsAlarm": Case(FUNCTION, 300, 1, {"Errors": [0, 0]}, {"Errors": [0, 1]}),
    "ObserveTransformNearsItsTimeoutAlarm": Case(FUNCTION, 300, 1, {"Duration": [48_000]}, {"Duration": [9, 48_600]}),
    "ObserveEventsFailAlarm": Case(COUNTS, 300, 1, {"Failed": [0]}, {"Failed": [0, 1]}),
    "ObserveTooManyRejectsAlarm": Case(
        COUNTS, 300, 1, {"Rejected": [2, 3], "Received": [50, 50]}, {"Rejected": [6], "Received": [100]}
    ),
    "pull.FetchDeadLettersAlarm": Case(dead_letters("FetchDeadLetterQueue"), 60, 1, {VISIBLE: [0]}, {VISIBLE: [0, 1]}),
    "pull.FunctionFailsAlarm": Case(
        ("AWS/Lambda", "FunctionName", "FetchFunction"), 300, 1, {"Errors": [0, 0]}, {"Errors": [0, 1]}
    ),
    # Late values count, so it takes two hours more than configured.
    "pull.NoRunBeginsAlarm": Case(runs("RunMachine"), 3600, 3 + FURTHER_PERIODS, {"ExecutionsStarted": [1]}, {}),
    "pull.RunFailedAlarm": Case(runs("RunMachine"), 60, 1, {}, {"ExecutionsFailed": [1]}),
    "refine.RefineRunFailedAlarm": Case(runs("RefineMachine"), 300, 1, {}, {"ExecutionsFailed": [1]}),
    "refine.RefineDaysLackRowsAlarm": Case(("Sluice", "Database", "lake"), 86_400, 1, {}, {"DaysLackingRows": [1]}),
    "deliver.SendDeadLettersAlarm": Case(dead_letters("SendDeadLetterQueue"), 60, 1, {VISIBLE: [0]}, {VISIBLE: [0, 1]}),
    "deliver.SendTooSlowAlarm": Case(DELIVERIES, 3600, 1, {"RowAge": [3600]}, {"RowAge": [10, 3601]}),
    "deliver.SendErrorsAlarm": Case(DELIVERIES, 300, 1, {"SendErrors": [0, 0]}, {"SendErrors": [0, 1]}),
    "deliver.FunctionFailsAlarm": Case(
        ("AWS/Lambda", "FunctionName", "DeliverFunction"), 300, 1, {"Errors": [0, 0]}, {"Errors": [0, 1]}
    ),
    "deliver.RunFailedAlarm": Case(runs("RunMachine"), 300, 1, {}, {"ExecutionsFailed": [1]}),
}


def resolve(node: Any, parameters: dict[str, str]) -> Any:
    """A part of the template with its intrinsic functions worked out."""
    if isinstance(node, list):
        return [resolve(item, parameters) for item in node]
    if not isinstance(node, dict):
        return node
    if list(node) == ["Ref"]:
        return parameters.get(node["Ref"], node["Ref"])
    if list(node) == ["Fn::GetAtt"]:
        return node["Fn::GetAtt"][0]
    if list(node) == ["Fn::Sub"]:
        names = {*re.findall(r"\$\{([\w:]+)\}", node["Fn::Sub"])}
        assert names <= parameters.keys(), f"add {names - parameters.keys()} to PARAMETERS in this file"
        return re.sub(r"\$\{([\w:]+)\}", lambda name: parameters[name[1]], node["Fn::Sub"])
    if list(node) == ["Fn::If"]:
        condition, first, second = node["Fn::If"]
        assert condition in CONDITIONS, f"add {condition} to CONDITIONS in this file"
        return resolve(first if CONDITIONS[condition] else second, parameters)
    return {key: resolve(value, parameters) for key, value in node.items()}


class CloudWatch:
    """Alarms with their metrics, their topic, and a queue subscribed to it."""

    def __init__(self, emulator: Emulator) -> None:
        self.emulator = emulator
        self.alarms = Alarms(emulator)
        self.alarms.register()
        self.make("AWS::SNS::Topic", "Topic", {"TopicName": "alarms"})
        self.queue = self.make("AWS::SQS::Queue", "Queue", {"QueueName": "heard"})
        queue_arn = "arn:aws:sqs:us-east-1:000000000000:heard"
        sns = {"Effect": "Allow", "Principal": {"Service": "sns.amazonaws.com"}, "Action": "sqs:SendMessage"}
        policy = {"Version": "2012-10-17", "Statement": [{**sns, "Resource": queue_arn}]}
        self.make("AWS::SQS::QueuePolicy", "Policy", {"Queues": [self.queue], "PolicyDocument": policy})
        self.make("AWS::SNS::Subscription", "Heard", {"TopicArn": TOPIC, "Protocol": "sqs", "Endpoint": queue_arn})

    def call(self, service: str, target: str, request: Json) -> Json:
        headers = {"content-type": "application/x-amz-json-1.0"}
        body = json.dumps(request).encode()
        status, _, answer = asyncio.run(
            self.emulator.call(service, "POST", "/", body, target=target, more_headers=headers)
        )
        assert status == 200, answer
        return dict(json.loads(answer or b"{}"))

    def make(self, resource_type: str, logical_id: str, properties: Json) -> str:
        physical_id: str = self.emulator.resource_handlers[resource_type]["create"](logical_id, properties, "stack")[0]
        return physical_id

    def make_alarm(self, name: str) -> str:
        return self.make("AWS::CloudWatch::Alarm", name.replace(".", ""), resolve(EVERY_ALARM[name], PARAMETERS))

    def measure(self, metric: tuple[str, str, str], at: float, values: dict[str, list[float]]) -> None:
        namespace, dimension, value = metric
        data = [
            {
                "MetricName": name,
                "Dimensions": [{"Name": dimension, "Value": value}],
                "Timestamp": at,
                "Values": given,
            }
            for name, given in values.items()
        ]
        request = {"Namespace": namespace, "MetricData": data}
        self.call("monitoring", "GraniteServiceVersion20100801.PutMetricData", request)

    def state(self, name: str) -> str:
        found = self.call("monitoring", "GraniteServiceVersion20100801.DescribeAlarms", {"AlarmNames": [name]})
        (alarm,) = found["MetricAlarms"]
        state: str = alarm["StateValue"]
        return state

    def heard(self) -> list[Json]:
        """The messages since the last call."""
        messages = []
        while found := self.call(
            "sqs", "AmazonSQS.ReceiveMessage", {"QueueUrl": self.queue, "MaxNumberOfMessages": 10}
        ).get("Messages"):
            messages += [json.loads(json.loads(one["Body"])["Message"]) for one in found]
            for one in found:
                request = {"QueueUrl": self.queue, "ReceiptHandle": one["ReceiptHandle"]}
                self.call("sqs", "AmazonSQS.DeleteMessage", request)
        return messages


def reset_metrics() -> None:
    """Forget all metrics and alarms."""
    from ministack.services import cloudwatch

    cloudwatch.reset()


@pytest.fixture(scope="module")
def cloudwatch(emulator: Emulator) -> CloudWatch:
    return CloudWatch(emulator)


@pytest.fixture
def beginning(cloudwatch: CloudWatch) -> Iterator[float]:
    """A moment without alarms and metrics."""
    reset_metrics()
    yield time.time()
    cloudwatch.alarms.alarms.clear()
    cloudwatch.heard()


def test_every_alarm_is_shown_firing() -> None:
    assert CASES.keys() == EVERY_ALARM.keys(), "let each alarm fire: edit CASES in this file"


@pytest.mark.parametrize("name", CASES)
def test_an_alarm_fires_in_trouble_recovers_and_tells_both(name: str, cloudwatch: CloudWatch, beginning: float) -> None:
    case = CASES[name]
    alarm = cloudwatch.make_alarm(name)
    moments = (beginning + case.seconds * index for index in itertools.count(1))

    def state_after(values: dict[str, list[float]]) -> str:
        now = next(moments)
        cloudwatch.measure(case.metric, now - 1, values)
        # Its neighbours' values do not count.
        cloudwatch.measure((*case.metric[:2], "another"), now - 1, case.trouble)
        cloudwatch.alarms.look(now)
        return cloudwatch.state(alarm)

    assert [state_after(case.well) for _ in range(8)] == ["OK"] * 8
    assert [state_after(case.trouble) for _ in range(case.after)] == ["OK"] * (case.after - 1) + ["ALARM"]
    assert state_after(case.trouble) == "ALARM"
    recovering = [state_after(case.well) for _ in range(1 + FURTHER_PERIODS)]
    assert recovering[-1] == "OK"
    assert [(one["AlarmName"], one["NewStateValue"]) for one in cloudwatch.heard()] == [
        (alarm, "OK"),
        (alarm, "ALARM"),
        (alarm, "OK"),
    ]


def test_silence_is_told_when_nothing_ever_came(cloudwatch: CloudWatch, beginning: float) -> None:
    name = "ObserveNothingComesInAlarm"
    alarm = cloudwatch.make_alarm(name)
    cloudwatch.alarms.look(beginning)
    assert cloudwatch.state(alarm) == "ALARM"


def test_rows_that_wait_for_hours_are_told_until_they_are_delivered(cloudwatch: CloudWatch, beginning: float) -> None:
    alarm = cloudwatch.make_alarm("deliver.SendTooSlowAlarm")

    def state_at(hour: int) -> str:
        cloudwatch.alarms.look(beginning + hour * 3600)
        return cloudwatch.state(alarm)

    assert state_at(0) == "INSUFFICIENT_DATA"
    cloudwatch.measure(DELIVERIES, beginning, {"RowAge": [12 * 3600]})
    # Nothing runs until the endpoint wants the rows again.
    assert {state_at(hour) for hour in range(1, 13)} == {"ALARM"}
    cloudwatch.measure(DELIVERIES, beginning + 13 * 3600 - 1, {"RowAge": [0]})
    assert state_at(13) == "OK"


def test_without_events_there_is_no_share_of_rejected_ones(cloudwatch: CloudWatch, beginning: float) -> None:
    name = "ObserveTooManyRejectsAlarm"
    alarm = cloudwatch.make_alarm(name)
    cloudwatch.measure(COUNTS, beginning, {"Rejected": [0], "Received": [0]})
    cloudwatch.alarms.look(beginning)
    assert cloudwatch.state(alarm) == "OK"


@pytest.mark.parametrize("name", sorted(EVERY_ALARM))
def test_an_alarm_says_what_it_means_and_its_last_line_what_to_type_first(name: str) -> None:
    """scripts/status.sh shows the line as a command to copy, so a shell must be able to split it."""
    text = resolve(EVERY_ALARM[name].get("AlarmDescription", ""), PARAMETERS)
    assert 60 < len(text) < 1024, f"{name} needs an AlarmDescription of 61 to 1023 characters"
    assert all((ROOT / script).exists() for script in re.findall(r"scripts/\w+\.sh", text))
    meaning, _, last = text.rpartition("\n")
    assert "First" not in meaning
    assert last.startswith("First: scripts/"), f"the last line of {name}'s description must be `First: scripts/...`"
    _, script, *arguments = shlex.split(last)
    assert (ROOT / script).is_file()
    assert " --stack-name sluice" in last, f"write --stack-name ${{StackName}} into the last line of {name}"
    shown = (ROOT / script).read_text().partition("\nset -")[0]  # the header is the help
    for argument in arguments:
        if argument.startswith("--"):
            assert re.search(rf"^#.*(?<![\w-]){argument}\b", shown, re.MULTILINE), argument
    words = [one for one in arguments if not one.startswith("--") and one != "sluice"]
    match words:
        case [saved] if script == "scripts/query.sh":
            assert saved in [one.name for one in queries.read()]
        case [event] if script == "scripts/track.sh":
            assert json.loads(event)
        case [subcommand]:
            assert f"# usage: {script} {subcommand} " in shown or f"#        {script} {subcommand} " in shown
        case _:
            assert words == []


@pytest.mark.parametrize("name", sorted(EVERY_ALARM))
def test_an_alarm_tells_its_end_as_well_and_is_silent_when_nothing_is_measured(name: str) -> None:
    assert re.fullmatch(r"(Observe|\w+\.)([A-Z][a-z0-9]+){2,}Alarm", name), "name it as a sentence: Observe...Alarm"
    alarm = resolve(EVERY_ALARM[name], PARAMETERS)
    told = alarm.get("AlarmActions"), alarm.get("OKActions")
    assert told == ([TOPIC], [TOPIC]), f"copy AlarmActions and OKActions of another alarm to {name}"
    silence = dict.fromkeys(("ObserveNothingComesInAlarm", "pull.NoRunBeginsAlarm"), "breaching")
    expected = {**silence, "deliver.SendTooSlowAlarm": "ignore"}.get(name, "notBreaching")
    assert alarm.get("TreatMissingData") == expected, f"{name}: TreatMissingData must be {expected}"


def test_every_alarm_is_explained_and_its_price_is_right() -> None:
    page = (ROOT / "docs/observe.md").read_text()
    explained = re.findall(r"^\| `([A-Z]\w+)` \| [^|]+ \| [^|]{3,} \|$", page, re.MULTILINE)
    named = {name.removeprefix("Observe").removesuffix("Alarm") for name in ALARMS}
    assert set(explained) - STACK.parameters.keys() == named, (
        "edit the table under What each alarm means in docs/observe.md"
    )
    metrics = sum(
        len([one for one in alarm.get("Metrics", [{"MetricStat": {}}]) if "MetricStat" in one])
        for alarm in ALARMS.values()
    )
    costs = f"Together {(metrics - 1) / 10:.2f}, and {metrics / 10:.2f} with `ObserveSilenceInMinutes`"
    assert costs in page, f"edit What it costs in docs/observe.md: {costs}"


def test_a_topic_of_its_own_is_made_only_when_none_is_given_and_has_no_key_that_would_mute_it() -> None:
    assert STACK.template["Conditions"]["CreateObserveTopic"] == {"Fn::Equals": [{"Ref": "ObserveTopicArn"}, ""]}
    topic = RESOURCES["ObserveTopic"]
    assert topic["Condition"] == "CreateObserveTopic"
    # A customer's own key, or none.
    no_value = {"Ref": "AWS::NoValue"}
    assert topic["Properties"]["KmsMasterKeyId"] == {"Fn::If": ["HasKmsKeyArn", {"Ref": "KmsKeyArn"}, no_value]}
    assert RESOURCES["ObserveEmailSubscription"]["Condition"] == "HasObserveEmail"


@pytest.mark.parametrize(("minutes", "is_taken"), [("", 1), ("1", 1), ("90", 1), ("1440", 1), ("0", 0), ("1441", 0)])
def test_silence_lasts_a_day_at_most_as_an_alarm_looks_no_further_back(minutes: str, is_taken: int) -> None:
    pattern = STACK.parameters["ObserveSilenceInMinutes"]["AllowedPattern"]
    assert bool(re.fullmatch(pattern, minutes)) == bool(is_taken)


# The dashboard


def widgets() -> list[Json]:
    body = RESOURCES["ObserveOverviewDashboard"]["Properties"]["DashboardBody"]
    found: list[Json] = json.loads(resolve(body, PARAMETERS))["widgets"]
    return found


def query(title: str) -> str:
    (text,) = (one["properties"]["query"] for one in widgets() if one["properties"]["title"] == title)
    assert text.startswith("SOURCE 'log' | stats ")
    found: str = text
    return found


def test_the_dashboard_reads_from_left_to_right_like_the_picture() -> None:
    ordered = sorted(widgets(), key=lambda widget: (widget["y"], widget["x"]))
    assert [widget["properties"]["title"] for widget in ordered] == [
        *("Accepted", "Dropped, by rule", "Rejected, by reason", "Failed"),
        *("Freshness in seconds", "Latency in ms"),
        *("API requests", "Ingested", "Lambda", "Athena"),
    ]
    places = [(widget["x"] // 6, widget["y"] // 6) for widget in ordered]
    # Each is 6 wide and high, CloudWatch's default.
    assert len(set(places)) == len(places)
    assert all(widget["x"] in (0, 6, 12, 18) and widget["y"] % 6 == 0 for widget in ordered)
    assert {widget["properties"]["region"] for widget in ordered} == {"us-east-1"}


def test_the_dashboard_counts_every_reason_and_every_rule_that_drops() -> None:
    reasons = re.findall(r"RejectedByReason\.(\w+)\)", query("Rejected, by reason"))
    assert sorted(reasons) == sorted(get_args(records.Reason)), "edit the widget in stacks/observe/template.yaml"
    dropping = [name for name, rule in rules.RULES.items() if "raise Drop" in inspect.getsource(rule)]
    shown = re.findall(r"DroppedByRule\.(\w+)\)", query("Dropped, by rule"))
    assert shown == [events.EMPTY, *dropping, envelopes.METRICS], (
        "edit the widget 'Dropped, by rule' in stacks/observe/: it needs sum(DroppedByRule.<name>) for each"
    )


def test_the_dashboard_shows_metrics_as_the_services_document_them() -> None:
    known = {
        ("AWS/ApiGateway", "ApiName", "sluice"): {"Count", "4XXError", "5XXError", "Latency"},
        ("AWS/Firehose", "DeliveryStreamName", "events"): {
            *("DeliveryToS3.DataFreshness", "IncomingBytes", "IncomingRecords")
        },
        ("AWS/Firehose", "DeliveryStreamName", "rejects"): {"DeliveryToS3.DataFreshness"},
        ("AWS/Lambda", "FunctionName", "transform"): {"Duration"},
        ("Sluice", "FunctionName", "transform"): {"Accepted", "Received", "Failed"},
    }
    shown: dict[tuple[str, str, str], set[str]] = {}
    for widget in widgets():
        above: list[str] = []
        for metric in widget["properties"].get("metrics", []):
            row = [item for item in metric if isinstance(item, str)]
            if not row:
                continue
            # "." repeats one field of the metric above, "..." all but the last.
            row = [*above[: 1 - len(row)], *row[1:]] if row[0] == "..." else row
            above = [above[index] if item == "." else item for index, item in enumerate(row)]
            namespace, name, dimension, value = above
            shown.setdefault((namespace, dimension, value), set()).add(name)
    assert shown == known
