"""Lines of logs, metrics, alarms, and the numbers of messages in queues."""

from __future__ import annotations

import time
from collections.abc import Callable, MutableMapping
from dataclasses import dataclass
from pathlib import Path

from local.ministack.process import Json, Process


@dataclass
class MetricDatum:
    """The statistic set of one metric: how many values there were, their sum, the least and the greatest."""

    name: str
    unit: str
    count: int
    sum: float
    minimum: float
    maximum: float

    @classmethod
    def of(cls, name: str, unit: str, *values: float) -> MetricDatum:
        """The statistic set of these values."""
        return cls(name, unit, len(values), sum(values), min(values), max(values))

    def add(self, value: float) -> None:
        """Count one more value."""
        self.count, self.sum = self.count + 1, self.sum + value
        self.minimum, self.maximum = min(self.minimum, value), max(self.maximum, value)


@dataclass(frozen=True)
class Statistic:
    """A metric and a statistic of it, as in Sum or p99, over periods of so many seconds."""

    namespace: str
    name: str
    dimensions: dict[str, str]
    statistic: str
    period: int


class Monitoring(Process):
    """MiniStack's CloudWatch, CloudWatch Logs and SQS."""

    def __init__(self, directory: Path, port: int) -> None:
        super().__init__(directory, port)
        from ministack.services import cloudwatch, cloudwatch_logs, sqs

        self._logs, self._append_log_events = cloudwatch_logs, cloudwatch_logs._append_log_events
        self._put_log_events = cloudwatch_logs._put_log_events
        self._put_metric_data = cloudwatch._put_metric_data
        self._metrics, self._dimensions_key = cloudwatch._metrics, cloudwatch._dims_key
        self._statistics, self._statistic = cloudwatch._calc_stats, cloudwatch._stat_value
        self._cloudwatch, self._evaluate_alarm = cloudwatch, cloudwatch._evaluate_alarm
        self._alarms, self._set_alarm_state = cloudwatch._alarms, cloudwatch._set_alarm_state
        self._queues, self._queues_lock, self._refresh_counts = sqs._queues, sqs._queues_lock, sqs._refresh_counts

    def log(self, group: str, stream: str, message: str) -> None:
        """Put one line into CloudWatch Logs. Without the group or stream it is lost, as on AWS."""
        event = {"timestamp": int(time.time() * 1000), "message": message}
        self._put_log_events({"logGroupName": group, "logStreamName": stream, "logEvents": [event]})

    def watch_log(self, watch: Callable[[str], None]) -> None:
        """Show `watch` each line written to CloudWatch Logs, by any writer."""

        def append(stream: Json, events: list[Json]) -> None:
            self._append_log_events(stream, events)
            for event in events:
                watch(event["message"])

        self._logs._append_log_events = append

    def put_metric_data(self, namespace: str, dimensions: dict[str, str], data: list[MetricDatum]) -> None:
        """Put statistic sets into CloudWatch."""
        pairs = [{"Name": name, "Value": value} for name, value in dimensions.items()]
        metric_data = [
            {
                "MetricName": datum.name,
                "Unit": datum.unit,
                "Dimensions": pairs,
                "StatisticValues": {
                    "SampleCount": datum.count,
                    "Sum": datum.sum,
                    "Minimum": datum.minimum,
                    "Maximum": datum.maximum,
                },
            }
            for datum in data
        ]
        self._put_metric_data({}, {"Namespace": namespace, "MetricData": metric_data}, False, is_json=True)

    def statistics(self, statistic: Statistic, periods: int, now: float) -> list[float | None]:
        """The statistic in each of the last periods up to `now` (epoch seconds); the newest first, and None for a
        period without values."""
        points = self._metrics.get(
            (statistic.namespace, statistic.name, self._dimensions_key(statistic.dimensions)), []
        )
        by_age: dict[int, list[Json]] = {}
        for point in list(points):
            by_age.setdefault(int((now - point["Timestamp"]) // statistic.period), []).append(point)
        found = [by_age.get(age) for age in range(periods)]
        return [self._statistic(self._statistics(one), statistic.statistic, one) if one else None for one in found]

    def queue_depths(self) -> dict[str, int]:
        """How many messages wait in each queue, by its name."""
        with self._queues_lock:
            queues = list(self._queues.values())
            for queue in queues:
                self._refresh_counts(queue)
        return {queue["name"]: int(queue["attributes"]["ApproximateNumberOfMessages"]) for queue in queues}

    def replace_alarms(self) -> MutableMapping[str, Json]:
        """The alarms by name, as DescribeAlarms shows them; MiniStack evaluates them no more."""
        self._cloudwatch._evaluate_alarm = lambda alarm: None
        alarms: MutableMapping[str, Json] = self._alarms
        return alarms

    def set_alarm_state(self, name: str, state: str, reason: str) -> None:
        """Change an alarm's state, and publish it to its topics."""
        request = {"AlarmName": name, "StateValue": state, "StateReason": reason}
        self._set_alarm_state({}, request, False, is_json=True)
        self.on_change("cloudwatch")
