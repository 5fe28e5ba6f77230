"""The local CloudWatch judges alarms as the documentation has it, and has their metrics."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path
from typing import Any

import pytest

from local.cloudwatch.alarms import calculate, describe, embedded_metrics, judge, parse
from local.cloudwatch.metrics import Metrics
from local.ministack import Emulator, MetricDatum, Statistic
from tests.gateway import Gateway
from tests.stacks.observe.test_observe import CloudWatch, reset_metrics

Json = dict[str, Any]

# The documentation's own examples: a period with a value within the threshold (0), beyond it (X), or without one (-),
# the newest last; the states of an alarm over three periods with missing data as breaching, and as not breaching.
EXAMPLES = [
    ("0 - X - X", "OK OK"),
    ("- - - - 0", "OK OK"),
    ("- - - - -", "ALARM OK"),
    ("0 X X - X", "ALARM ALARM"),
    ("- - X - -", "ALARM OK"),
]


@pytest.mark.parametrize(("data", "states"), EXAMPLES)
def test_missing_data_counts_as_in_the_examples_of_the_documentation(data: str, states: str) -> None:
    newest = [value for value in reversed(data.split()) if value != "-"][:3]
    found = [judge(len(newest), newest.count("X"), 3, missing_breach) for missing_breach in (True, False)]
    assert found == states.split()


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("100 * a / b", 25.0),
        ("a - (b - 2.5) * 2", -2.0),
        ("a / zero", None),
        ("a + none", None),
        ("none", None),
    ],
)
def test_metric_math(expression: str, expected: float | None) -> None:
    assert calculate(parse(expression), {"a": 1, "b": 4, "zero": 0, "none": None}) == expected


@pytest.mark.parametrize(
    "expression",
    ["MAX([a, b])", "a if b else 1", "a ** b", "'text'", "a.b", "__import__('os')", "a -", "True", "a < b"],
)
def test_metric_math_that_is_not_implemented_is_refused_by_name(expression: str) -> None:
    with pytest.raises(ValueError, match=r"does not implement|is not an expression") as refused:
        parse(expression)
    assert expression in str(refused.value)


PLAIN: Json = {
    "Namespace": "N",
    "MetricName": "M",
    "Statistic": "Sum",
    "Period": "60",
    "EvaluationPeriods": "2",
    "Threshold": "1",
    "ComparisonOperator": "GreaterThanThreshold",
    "TreatMissingData": "notBreaching",
}
MATH: Json = {
    "Metrics": [
        {"Id": "share", "Expression": "100 * m"},
        {"Id": "m", "ReturnData": "false", "MetricStat": {"Metric": {}, "Stat": "Sum", "Period": "60"}},
    ]
}
WITHOUT_METRIC = {name: PLAIN[name] for name in list(PLAIN)[4:]}


def test_what_a_template_says_in_text_is_shown_in_numbers() -> None:
    alarm = describe({**PLAIN, "Tags": [{"Key": "aws:cloudformation:stack-name", "Value": "sluice"}]})
    assert "Tags" not in alarm
    assert (alarm["Period"], alarm["EvaluationPeriods"], alarm["Threshold"]) == (60, 2, 1.0)
    metrics = describe({**WITHOUT_METRIC, **MATH})["Metrics"]
    assert [one["ReturnData"] for one in metrics] == [True, False]
    assert metrics[1]["MetricStat"]["Period"] == 60


@pytest.mark.parametrize(
    ("properties", "words"),
    [
        ({**PLAIN, "ThresholdMetricId": "t"}, "ThresholdMetricId"),
        ({**PLAIN, **MATH}, "either MetricName or Metrics"),
        (WITHOUT_METRIC, "either MetricName or Metrics"),
        ({**PLAIN, "Period": 45}, "implements a Period"),
        ({**PLAIN, "Period": 0}, "implements a Period"),
        ({**PLAIN, "EvaluationPeriods": 1441}, "more than a day"),
        ({**PLAIN, "ComparisonOperator": "LessThanLowerThreshold"}, "implements ComparisonOperator"),
        ({**PLAIN, "TreatMissingData": "ignore"}, "implements TreatMissingData"),
        ({**PLAIN, "AlarmActions": [""]}, "Invalid arn"),
        ({**WITHOUT_METRIC, "Metrics": [{"Id": "share", "Expression": "100 * m"}]}, "there is no metric m"),
        ({**WITHOUT_METRIC, "Metrics": [*MATH["Metrics"], {"Id": "b", "Expression": "m"}]}, "Exactly one"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_cloudwatch_refuses_or_is_not_implemented_fails_the_alarm(properties: Json, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        describe(properties)


def test_the_lines_of_the_transform_become_metrics(emulator: Emulator) -> None:
    line = {
        "_aws": {
            "Timestamp": 0,
            "CloudWatchMetrics": [
                {
                    "Namespace": "Sluice",
                    "Dimensions": [["FunctionName"]],
                    "Metrics": [{"Name": "Failed", "Unit": "Count"}, {"Name": "Age"}],
                }
            ],
        },
        "FunctionName": "transform",
        "Failed": 3,
        "Age": [2, 5, 1.5],
        "FailedByReason": {"rule": 3},
    }
    assert embedded_metrics(json.dumps(line)) == [
        (
            "Sluice",
            {"FunctionName": "transform"},
            [MetricDatum("Failed", "Count", 1, 3, 3, 3), MetricDatum("Age", "None", 3, 8.5, 1.5, 5)],
        )
    ]


@pytest.mark.parametrize(
    "line",
    [
        "{",
        "[" * 30_000,
        "[]",
        '{"_aws": {}}',
        '{"_aws": {"CloudWatchMetrics": [{"Dimensions": [["Gone"]], "Metrics": []}]}}',
        '{"_aws": 1}',
    ],
    ids=lambda line: line[:40],
)
def test_a_line_that_only_looks_like_metrics_is_a_line(line: str) -> None:
    assert embedded_metrics(line) == []


@pytest.fixture
def cloudwatch(emulator: Emulator) -> CloudWatch:
    reset_metrics()
    return CloudWatch(emulator)


def test_a_line_in_any_log_group_is_read(cloudwatch: CloudWatch) -> None:
    group = cloudwatch.make("AWS::Logs::LogGroup", "Group", {"LogGroupName": "group"})
    cloudwatch.make("AWS::Logs::LogStream", "Stream", {"LogGroupName": group, "LogStreamName": "stream"})
    definition = {"Namespace": "Sluice", "Dimensions": [[]], "Metrics": [{"Name": "Failed"}]}
    line = {"_aws": {"CloudWatchMetrics": [definition]}, "Failed": 7}
    cloudwatch.emulator.log("group", "stream", json.dumps(line))
    failed = Statistic("Sluice", "Failed", {}, "Sum", 60)
    assert cloudwatch.emulator.statistics(failed, 1, time.time() + 1) == [7]


def test_an_alarm_on_a_dead_letter_queue_sees_its_messages(cloudwatch: CloudWatch) -> None:
    queue = cloudwatch.make("AWS::SQS::Queue", "Letters", {"QueueName": "letters"})
    alarm = cloudwatch.make(
        "AWS::CloudWatch::Alarm",
        "LettersAreDead",
        {
            **PLAIN,
            "Namespace": "AWS/SQS",
            "MetricName": "ApproximateNumberOfMessagesVisible",
            "Dimensions": [{"Name": "QueueName", "Value": "letters"}],
            "Statistic": "Maximum",
            "EvaluationPeriods": 1,
            "Threshold": 0,
            "TreatMissingData": "notBreaching",
        },
    )
    states = []
    for count in (0, 1):
        for _ in range(count):
            cloudwatch.call("sqs", "AmazonSQS.SendMessage", {"QueueUrl": queue, "MessageBody": "x"})
        cloudwatch.alarms.measure_queues()
        cloudwatch.alarms.look(time.time())
        states.append(cloudwatch.state(alarm))
    assert states == ["OK", "ALARM"]


def test_percentiles_are_those_of_the_values_that_were_put(cloudwatch: CloudWatch) -> None:
    async def scenario() -> None:
        metrics = Metrics(cloudwatch.emulator, "AWS/ApiGateway", {"ApiName": "a"}, distributions=("Latency",))
        for value in range(1, 101):
            metrics.add(Latency=value, Count=1)
        metrics.flush()

    asyncio.run(scenario())
    at = time.time()

    def statistic(name: str, statistic: str) -> list[float | None]:
        of = Statistic("AWS/ApiGateway", name, {"ApiName": "a"}, statistic, 60)
        return cloudwatch.emulator.statistics(of, 2, at + 1)

    assert statistic("Latency", "p50") == [50.5, None]
    assert statistic("Latency", "p99") == [pytest.approx(99.01), None]
    assert statistic("Count", "Sum") == [100, None]


def test_api_gateway_counts_its_answers_and_how_long_they_took(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gateway = Gateway(tmp_path)
    put: list[tuple[str, dict[str, str], list[MetricDatum]]] = []
    monkeypatch.setattr(gateway.emulator, "put_metric_data", lambda *call: put.append(call), raising=False)
    gateway.deploy_product()
    for answer in ((200, {"RecordId": "1"}), (200, {"RecordId": "2"}), (500, {"message": "Slow down."})):
        gateway.firehose.answer = answer
        gateway.request()
    gateway.request(body=b"{")
    (stage,) = gateway.engine.live.values()
    stage.metrics.flush()
    ((namespace, dimensions, data),) = put
    assert (namespace, dimensions) == ("AWS/ApiGateway", {"ApiName": "stack"})
    sums = {datum.name: (datum.count, datum.sum) for datum in data if datum.name != "Latency"}
    assert sums == {"Count": (4, 4), "4XXError": (4, 1), "5XXError": (4, 1)}
    latencies = [datum for datum in data if datum.name == "Latency"]
    assert sum(datum.count for datum in latencies) == 4
    assert all(datum.minimum == datum.maximum for datum in latencies)
    assert {datum.unit for datum in latencies} == {"Milliseconds"}


def test_api_gateway_counts_by_method_only_where_detailed_metrics_are_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gateway = Gateway(tmp_path)
    put: list[tuple[dict[str, str], dict[str, float]]] = []

    def record(namespace: str, dimensions: dict[str, str], data: list[MetricDatum]) -> None:
        put.append((dimensions, {datum.name: datum.sum for datum in data if datum.name != "Latency"}))

    monkeypatch.setattr(gateway.emulator, "put_metric_data", record, raising=False)

    def counted() -> dict[str, dict[str, float]]:
        gateway.request(body=b"{")
        gateway.request(path="/batch", body=b"[1]")
        gateway.request(path="/nowhere")
        (stage,) = gateway.engine.live.values()
        for metrics in (stage.metrics, *stage.method_metrics.values()):
            metrics.flush()
        found = {" ".join(dimensions.values()): sums for dimensions, sums in put}
        put.clear()
        return found

    gateway.deploy_product()
    whole = {"Count": 3, "4XXError": 2, "5XXError": 0}
    assert counted() == {
        "stack": whole,
        "stack POST /track prod": {"Count": 1, "4XXError": 1, "5XXError": 0},
        "stack POST /batch prod": {"Count": 1, "4XXError": 0, "5XXError": 0},
    }
    for settings in ([], [{"ResourcePath": "/*", "HttpMethod": "*", "MetricsEnabled": False}]):
        (properties,) = gateway.engine.stages.values()
        gateway.update("Stage", "prod", **{**properties, "MethodSettings": settings})
        assert counted() == {"stack": whole}
