"""CloudWatch's alarms, because MiniStack evaluates them without dimensions, missing data and metric math. Beside
them, metrics from log lines in the embedded metric format, and the depth of queues.

An alarm looks at its last `EvaluationPeriods` periods. CloudWatch looks a little further back, so late values count;
how far is documented only by an example of two periods. If there are values enough, the newest decide; else the
missing ones count as `TreatMissingData` says.
https://docs.aws.amazon.com/AmazonCloudWatch/latest/monitoring/alarms-and-missing-data.html

CloudWatch looks once a minute at whole minutes, and this every two seconds at periods up to now, so nobody has to
wait. A property not implemented is refused by name when the alarm is made.
"""

from __future__ import annotations

import ast
import asyncio
import functools
import json
import logging
import operator
import time
from collections.abc import Callable, Iterable
from typing import Any

from local.ministack import Emulator, MetricDatum, Statistic

Json = dict[str, Any]
Series = list[float | None]

LOOK_SECONDS = 2.0
FURTHER_PERIODS = 2
DAY_SECONDS = 86_400
COMPARISONS: dict[str, Callable[[float, float], bool]] = {
    "GreaterThanThreshold": operator.gt,
    "LessThanThreshold": operator.lt,
}
OPERATIONS: dict[type[ast.operator], Callable[[float, float], float]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}
# Whether a missing value counts as one beyond the threshold.
MISSING_DATA = {"breaching": True, "notBreaching": False}
# The state stays as it is while nothing is measured.
IGNORE = "ignore"
# Properties of an alarm: those about its metric, and the others.
WATCHED = ("Namespace", "MetricName", "Dimensions", "Statistic", "ExtendedStatistic", "Period")
ACTIONS = ("AlarmActions", "OKActions")
OTHERS = ("AlarmDescription", "EvaluationPeriods", "Threshold", "ComparisonOperator", "TreatMissingData", "Metrics")
PROPERTIES = (*WATCHED, *ACTIONS, *OTHERS, "Tags")

logger = logging.getLogger(__name__)


class Alarms:
    """The alarms of an emulator: the resource type for templates, and the loop to evaluate them."""

    def __init__(self, emulator: Emulator) -> None:
        self.emulator = emulator
        self.alarms = emulator.replace_alarms()
        self.depths: dict[str, tuple[int, int]] = {}

    def register(self) -> None:
        """Give CloudFormation the resource type; from now on, log lines become metrics."""
        self.emulator.add_resource(
            "AWS::CloudWatch::Alarm",
            create=lambda logical_id, properties, stack: self._put(f"{stack}-{logical_id}", properties),
            update=lambda name, old, properties, stack: self._put(name, properties),
            delete=lambda name, properties: self._delete(name),
        )
        self.emulator.watch_log(self._read_metrics)

    def _put(self, name: str, properties: Json) -> tuple[str, Json]:
        now = int(time.time())
        arn = f"arn:aws:cloudwatch:{self.emulator.region}:{self.emulator.account}:alarm:{name}"
        state: Json = {
            "StateValue": "INSUFFICIENT_DATA",
            "StateReason": "Unchecked: Initial alarm creation",
            "StateUpdatedTimestamp": now,
        }
        kept = {key: value for key, value in self.alarms.get(name, {}).items() if key in state}
        identity = {"AlarmName": name, "AlarmArn": arn, "AlarmConfigurationUpdatedTimestamp": now}
        self.alarms[name] = {**describe(properties), **identity, **state, **kept}
        return name, {"Arn": arn}

    def _delete(self, name: str) -> None:
        self.alarms.pop(name, None)

    def _read_metrics(self, line: str) -> None:
        if line.startswith("{") and '"CloudWatchMetrics"' in line:
            for namespace, dimensions, data in embedded_metrics(line):
                self.emulator.put_metric_data(namespace, dimensions, data)

    async def run(self) -> None:
        """Look at every alarm again and again."""
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            self.measure_queues()
            self.look(time.time())

    def measure_queues(self) -> None:
        """Put the number of messages in each queue: once a minute, as SQS does, and as soon as it changes."""
        minute = int(time.time() // 60)
        for queue, depth in self.emulator.queue_depths().items():
            if self.depths.get(queue) != (depth, minute):
                self.depths[queue] = depth, minute
                datum = MetricDatum.of("ApproximateNumberOfMessagesVisible", "Count", depth)
                self.emulator.put_metric_data("AWS/SQS", {"QueueName": queue}, [datum])

    def look(self, now: float) -> None:
        """Set the state of each alarm as of `now` (epoch seconds); a change is published to its topics."""
        for name, alarm in list(self.alarms.items()):
            try:
                state, reason = self._evaluate(alarm, now)
            except Exception:  # One alarm, made by a call of PutMetricAlarm, may not end the watch over the others.
                logger.exception("alarm %s", name)
                continue
            if state != alarm["StateValue"]:
                self.emulator.set_alarm_state(name, state, reason)

    def _evaluate(self, alarm: Json, now: float) -> tuple[str, str]:
        wanted: int = alarm["EvaluationPeriods"]
        series = self._watched(alarm, wanted + FURTHER_PERIODS, now)
        values = [value for value in series if value is not None][:wanted]
        if not values and alarm["TreatMissingData"] == IGNORE:
            return alarm["StateValue"], "all values are missing"
        threshold, comparison = alarm["Threshold"], alarm["ComparisonOperator"]
        breaching = sum(COMPARISONS[comparison](value, threshold) for value in values)
        state = judge(len(values), breaching, wanted, MISSING_DATA.get(alarm["TreatMissingData"], False))
        shown = ", ".join(f"{value:g}" for value in values[:5])
        crossed = f"{breaching} of the newest {len(values)} values [{shown}] are {comparison} {threshold:g}"
        return state, f"{crossed}; {wanted - len(values)} are missing"

    def _watched(self, alarm: Json, periods: int, now: float) -> Series:
        """An alarm's values, one for each of the last periods, the newest first."""
        if "Metrics" not in alarm:
            stat = {"Metric": alarm, "Stat": alarm.get("ExtendedStatistic") or alarm["Statistic"]}
            return self._series({**stat, "Period": alarm["Period"]}, periods, now)
        stats = {query["Id"]: query["MetricStat"] for query in alarm["Metrics"] if "MetricStat" in query}
        series = {name: self._series(stat, periods, now) for name, stat in stats.items()}
        (watched,) = (query for query in alarm["Metrics"] if query["ReturnData"])
        node = parse(watched.get("Expression", watched["Id"]))
        return [calculate(node, {name: one[index] for name, one in series.items()}) for index in range(periods)]

    def _series(self, stat: Json, periods: int, now: float) -> Series:
        metric = stat["Metric"]
        dimensions = {one["Name"]: one["Value"] for one in metric.get("Dimensions", [])}
        of = Statistic(metric["Namespace"], metric["MetricName"], dimensions, stat["Stat"], stat["Period"])
        return self.emulator.statistics(of, periods, now)


def judge(values: int, breaching: int, wanted: int, missing_breach: bool) -> str:
    """The state of an alarm with so many known values, so many of them breaching, and the others missing."""
    return "ALARM" if breaching + (wanted - values) * missing_breach == wanted else "OK"


def describe(properties: Json) -> Json:
    """A template's alarm as DescribeAlarms shows it; ValueError if CloudWatch refuses it or a part is missing here."""
    if unknown := ", ".join(sorted(set(properties) - set(PROPERTIES))):
        raise ValueError(f"AWS::CloudWatch::Alarm: the local AWS does not implement {unknown}")
    if not ("MetricName" in properties) ^ ("Metrics" in properties):
        raise ValueError("AWS::CloudWatch::Alarm must have either MetricName or Metrics")
    alarm: Json = {"TreatMissingData": "missing", "ActionsEnabled": True, "AlarmDescription": "", **properties}
    alarm.pop("Tags", None)  # CloudFormation adds its own to every alarm.
    alarm["Threshold"] = float(alarm["Threshold"])
    for name in ("EvaluationPeriods", "Period"):
        if name in alarm:
            alarm[name] = int(alarm[name])
    if "Metrics" in alarm:
        alarm["Metrics"], periods = _queries(alarm["Metrics"])
    else:
        alarm["Dimensions"], periods = alarm.get("Dimensions", []), {alarm["Period"]}
    (period, *others) = periods
    if others or not period % 60 == 0 < period:
        raise ValueError(f"the local AWS implements a Period of whole minutes, the same for all (got {periods})")
    if period * alarm["EvaluationPeriods"] > (DAY_SECONDS if period < 3600 else 7 * DAY_SECONDS):
        raise ValueError("Metrics cannot be checked across more than a day (with a Period of an hour, seven days)")
    _one_of("ComparisonOperator", alarm["ComparisonOperator"], COMPARISONS)
    # The documentation does not cover missing values among several periods.
    _one_of(
        "TreatMissingData", alarm["TreatMissingData"], (*MISSING_DATA, *[IGNORE][: alarm["EvaluationPeriods"] == 1])
    )
    for action in (action for name in ACTIONS for action in alarm.setdefault(name, [])):
        if not action.startswith("arn:"):
            raise ValueError(f"Invalid arn syntax: {action!r}")
    return alarm


def _one_of(name: str, value: str, known: Iterable[str]) -> None:
    if value not in known:
        raise ValueError(f"the local AWS implements {name} {' and '.join(known)} (got {value!r})")


def _queries(given: list[Json]) -> tuple[list[Json], set[int]]:
    """The queries of `Metrics` with CloudWatch's types, and the periods of their metrics."""
    queries, periods = [], set()
    for query in given:
        query = {**query, "ReturnData": str(query.get("ReturnData", True)).lower() == "true"}
        if "MetricStat" in query:
            stat = {**query["MetricStat"], "Period": int(query["MetricStat"]["Period"])}
            query["MetricStat"] = stat
            periods.add(stat["Period"])
        queries.append(query)
    metrics = {query["Id"] for query in queries if "MetricStat" in query}
    if sum(query["ReturnData"] for query in queries) != 1:
        raise ValueError("Exactly one element of Metrics must return data")
    for query in queries:
        if "MetricStat" not in query:
            names = {node.id for node in ast.walk(parse(query["Expression"])) if isinstance(node, ast.Name)}
            if names - metrics:
                raise ValueError(f"{query['Expression']!r}: there is no metric {', '.join(sorted(names - metrics))}")
    return queries, periods


@functools.cache
def parse(expression: str) -> ast.expr:
    """A metric math expression of numbers, ids of metrics, + - * / and parentheses; ValueError for any other."""
    try:
        tree = ast.parse(expression, mode="eval").body
    except SyntaxError as error:
        raise ValueError(f"{expression!r} is not an expression: {error.msg}") from None
    for node in ast.walk(tree):
        number = isinstance(node, ast.Constant) and type(node.value) in (int, float)
        operation = isinstance(node, ast.BinOp) and type(node.op) in OPERATIONS
        if not (number or operation or isinstance(node, ast.Name | ast.Load | ast.operator)):
            raise ValueError(f"the local AWS does not implement {ast.unparse(node)!r} in {expression!r}")
    return tree


def calculate(node: ast.expr, values: dict[str, float | None]) -> float | None:
    """The value of a parsed expression; none where a value is missing, or the divisor is 0."""
    if isinstance(node, ast.Name):
        return values[node.id]
    if isinstance(node, ast.Constant):
        return float(node.value)  # type: ignore[arg-type]  # parse lets only numbers in
    assert isinstance(node, ast.BinOp)
    left, right = calculate(node.left, values), calculate(node.right, values)
    if left is None or right is None or (isinstance(node.op, ast.Div) and right == 0):
        return None
    return OPERATIONS[type(node.op)](left, right)


def embedded_metrics(line: str) -> list[tuple[str, dict[str, str], list[MetricDatum]]]:
    """The metrics in a log line, as (namespace, dimensions, statistic sets); none if it is not such a line.

    https://docs.aws.amazon.com/AmazonCloudWatch/latest/monitoring/CloudWatch_Embedded_Metric_Format_Specification.html
    """
    found = []
    try:
        document = json.loads(line)
        for directive in document["_aws"]["CloudWatchMetrics"]:
            for names in directive["Dimensions"]:
                data = []
                for metric in directive["Metrics"]:
                    given = document[metric["Name"]]
                    values = given if isinstance(given, list) else [given]
                    data.append(MetricDatum.of(metric["Name"], metric.get("Unit", "None"), *values))
                found.append((directive["Namespace"], {name: str(document[name]) for name in names}, data))
    except (ValueError, RecursionError, KeyError, TypeError):
        return []  # CloudWatch counts them in a metric of its own, used by nobody here.
    return found
