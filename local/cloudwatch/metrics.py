"""An engine's metrics for CloudWatch, under the service's documented names.

Values are collected in memory and put every few seconds, so counting one costs a few additions. A killed process
loses the values not put yet: metrics are not durable.
"""

from __future__ import annotations

import asyncio

from local.ministack import Emulator, MetricDatum

FLUSH_SECONDS = 2.0


class Metrics:
    """The metrics of one stream or stage, as one statistic set a metric.

    In `distributions`, each value has a set of its own, as percentiles need. The end of a name gives its unit.
    """

    def __init__(
        self, emulator: Emulator, namespace: str, dimensions: dict[str, str], distributions: tuple[str, ...] = ()
    ) -> None:
        self.emulator, self.namespace, self.dimensions = emulator, namespace, dimensions
        self.distributions = distributions
        self.values: dict[tuple[str, float | None], MetricDatum] = {}
        self.timer: asyncio.TimerHandle | None = None

    def add(self, **values: float) -> None:
        """Add one value to each metric; in its name here, an underscore means the dot."""
        for argument, value in values.items():
            name = argument.replace("_", ".")
            key = name, value if name in self.distributions else None
            known = self.values.get(key)
            if known is None:
                self.values[key] = MetricDatum.of(name, _unit(name), value)
            else:
                known.add(value)
        if self.timer is None:
            self.timer = asyncio.get_running_loop().call_later(FLUSH_SECONDS, self.flush)

    def flush(self) -> None:
        """Put the collected values."""
        if self.timer:
            self.timer.cancel()
            self.timer = None
        collected, self.values = list(self.values.values()), {}
        if collected:
            self.emulator.put_metric_data(self.namespace, self.dimensions, collected)


def _unit(name: str) -> str:
    endings = {"Bytes": "Bytes", "Duration": "Milliseconds", "Latency": "Milliseconds", "DataFreshness": "Seconds"}
    return next((unit for ending, unit in endings.items() if name.endswith(ending)), "Count")
