"""A delivery stream's metrics in CloudWatch, under the names that Firehose documents.

https://docs.aws.amazon.com/firehose/latest/dev/monitoring-with-cloudwatch-metrics.html. Values are collected in memory
and put as one statistic set a metric every few seconds, so that a put costs a few additions. A killed process loses
the values that it had not put yet: metrics are not part of what is durable.
"""

from __future__ import annotations

import asyncio

from local.emulator import Emulator, MetricDatum

NAMESPACE = "AWS/Firehose"
FLUSH_SECONDS = 2.0


class Metrics:
    """The metrics of one stream. A name ends in what it measures, which gives its unit."""

    def __init__(self, emulator: Emulator, stream: str) -> None:
        self.emulator, self.dimensions = emulator, {"DeliveryStreamName": stream}
        self.values: dict[str, MetricDatum] = {}
        self.timer: asyncio.TimerHandle | None = None

    def add(self, **values: float) -> None:
        """Add one value to each metric; in its name here, an underscore stands for the dot."""
        for argument, value in values.items():
            name = argument.replace("_", ".")
            known = self.values.get(name)
            if known is None:
                self.values[name] = MetricDatum(name, _unit(name), 1, value, value, value)
            else:
                known.add(value)
        if self.timer is None:
            self.timer = asyncio.get_running_loop().call_later(FLUSH_SECONDS, self.flush)

    def flush(self) -> None:
        """Put what has been collected."""
        if self.timer:
            self.timer.cancel()
            self.timer = None
        collected, self.values = list(self.values.values()), {}
        if collected:
            self.emulator.put_metric_data(NAMESPACE, self.dimensions, collected)


def _unit(name: str) -> str:
    endings = {"Bytes": "Bytes", "Duration": "Milliseconds", "DataFreshness": "Seconds"}
    return next((unit for ending, unit in endings.items() if name.endswith(ending)), "Count")
