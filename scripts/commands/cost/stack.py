"""A stack's use in the last week, from its own metrics and its bucket, scaled to a month.

Some services publish no metric for a quantity, for example for S3's read requests. The model estimates these.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from scripts.commands.common import stack
from scripts.commands.common.console import UsageError
from scripts.commands.common.stack import Aws
from scripts.commands.cost import model
from scripts.commands.lake.bucket import Bucket
from shared.athena import SMALLEST_CHARGE

DAYS = 7

PRICED = {
    *("AWS::ApiGateway", "AWS::Athena", "AWS::CloudWatch", "AWS::KinesisFirehose", "AWS::Lambda", "AWS::Logs"),
    *("AWS::S3", "AWS::SecretsManager", "AWS::CloudFormation", "AWS::Glue", "AWS::IAM"),
}
"""Services whose resources are in the bill; the last three cost nothing here."""

COUNTED = {
    "AWS::CloudWatch::Alarm": "cloudwatch-alarms",
    "AWS::CloudWatch::Dashboard": "cloudwatch-dashboards",
    "AWS::SecretsManager::Secret": "secrets",
}
"""Resources with a fixed price each, whether they are used or not."""


@dataclass(frozen=True)
class Measured:
    """A stack's month: its workload and its quantities by the key of their price; `known` are the measured ones.

    It was measured for so many `seconds`. `unpriced` are the types of its resources missing from the bill.
    """

    workload: model.Workload
    quantities: dict[str, float]
    known: set[str]
    seconds: float
    unpriced: list[str]


class Metric(NamedTuple):
    """A metric of CloudWatch, and the label under which its sum is added up."""

    label: str
    namespace: str
    name: str
    dimensions: dict[str, str]
    statistic: str = "Sum"

    @property
    def request(self) -> dict[str, str | list[dict[str, str]]]:
        dimensions = [{"Name": key, "Value": value} for key, value in self.dimensions.items()]
        return {"Namespace": self.namespace, "MetricName": self.name, "Dimensions": dimensions}


def measure(aws: Aws, name: str, now: datetime | None = None) -> Measured:
    """Measure the stack's use in the last week, or since it was made.

    Raises:
        UsageError: the stack does not exist, or nothing came in.
    """
    measured = stack.Stack(aws, name)
    described, bucket = measured.description, measured.output("BucketName")
    found, now = list(_resources(aws, name)), now or datetime.now(UTC)
    since = max(now - timedelta(days=DAYS), described["CreationTime"])
    seconds = max((now - since).total_seconds(), 1.0)
    monthly = model.SECONDS_PER_MONTH / seconds
    sums = _add_up(aws, _metrics(aws, name, found), since, now)
    if not sums.get("records"):
        raise UsageError(
            f"nothing came into stack '{name}' in {aws.place} since {since:%Y-%m-%d %H:%M} UTC: estimate with "
            "--events-per-month"
        )
    workload = _workload(measured.parameters, sums, monthly)
    stored = _stored(aws, bucket, now)
    known = _measured(sums, workload, monthly) | {
        "s3-storage": _listed(aws, bucket) if stored is None else stored,
        "cloudwatch-metrics": _charged_metrics(aws, name, found),
    }
    for kind, _ in found:
        if key := COUNTED.get(kind):
            known[key] = known.get(key, 0) + 1
    unpriced = sorted({kind for kind, _ in found if kind.rpartition("::")[0] not in PRICED})
    return Measured(workload, model.quantities(workload) | known, set(known), seconds, unpriced)


def _resources(aws: Aws, name: str) -> Iterator[tuple[str, str]]:
    """Type and physical id of every resource, those of nested stacks included."""
    for item in stack.resources(aws, name):
        if item["ResourceType"] == "AWS::CloudFormation::Stack":
            yield from _resources(aws, item["PhysicalResourceId"])
        yield item["ResourceType"], item["PhysicalResourceId"]


def _metrics(aws: Aws, name: str, found: list[tuple[str, str]]) -> list[Metric]:
    ids = stack.Stack(aws, name).ids
    metrics = [
        Metric("requests", "AWS/ApiGateway", "Count", {"ApiName": name}),
        Metric("events", "Sluice", "Received", {"FunctionName": ids["TransformFunction"]}),
    ]
    for prefix, stream in (("", ids["StreamDelivery"]), ("rejects' ", ids["StreamRejects"])):
        dimensions = {"DeliveryStreamName": stream}
        metrics += [
            Metric(f"{prefix}records", "AWS/Firehose", "IncomingRecords", dimensions),
            Metric(f"{prefix}bytes", "AWS/Firehose", "IncomingBytes", dimensions),
        ]
    for kind, identifier in found:
        if kind == "AWS::Lambda::Function":
            dimensions = {"FunctionName": identifier}
            configuration = aws.client("lambda").get_function_configuration(FunctionName=identifier)
            metrics += [
                Metric("invocations", "AWS/Lambda", "Invocations", dimensions),
                Metric(f"ms at {configuration['MemorySize']}", "AWS/Lambda", "Duration", dimensions),
            ]
        if kind == "AWS::Logs::LogGroup":
            metrics.append(Metric("log bytes", "AWS/Logs", "IncomingBytes", {"LogGroupName": identifier}))
    for workgroup in (identifier for kind, identifier in found if kind == "AWS::Athena::WorkGroup"):
        # A refinement scans, too, but it reads few days: the model of requests to S3 is for people's queries.
        count = "queries" if workgroup == ids["QueryWorkGroup"] else "refinements"
        for dimensions in stack.listed_metrics(aws, "AWS/Athena", "WorkGroup", workgroup, "ProcessedBytes"):
            # Athena charges neither for DDL nor for failed queries.
            if dimensions.get("QueryType") == "DML" and dimensions.get("QueryState") != "FAILED":
                metrics += [
                    Metric("scanned", "AWS/Athena", "ProcessedBytes", dimensions),
                    Metric(count, "AWS/Athena", "ProcessedBytes", dimensions, "SampleCount"),
                ]
    return metrics


def _charged_metrics(aws: Aws, name: str, found: list[tuple[str, str]]) -> int:
    """The number of the functions' own metrics and of the API's metrics by method."""
    own = (
        stack.listed_metrics(aws, "Sluice", "FunctionName", identifier)
        for kind, identifier in found
        if kind == "AWS::Lambda::Function"
    )
    of_the_api = stack.listed_metrics(aws, "AWS/ApiGateway", "ApiName", name)
    return sum(len(list(listed)) for listed in own) + len([item for item in of_the_api if "Method" in item])


def _add_up(aws: Aws, metrics: list[Metric], since: datetime, now: datetime) -> dict[str, float]:
    """The sums by label. A label without any value is left out: it may be unpublished, and so is not zero."""
    queries = [
        {"Id": f"m{index}", "MetricStat": {"Metric": metric.request, "Period": 3600, "Stat": metric.statistic}}
        for index, metric in enumerate(metrics)
    ]
    sums: dict[str, float] = {}
    pages = aws.client("cloudwatch").get_paginator("get_metric_data")
    for page in pages.paginate(MetricDataQueries=queries, StartTime=since, EndTime=now):
        for result in page["MetricDataResults"]:
            if result["Values"]:
                label = metrics[int(result["Id"][1:])].label
                sums[label] = sums.get(label, 0.0) + sum(result["Values"])
    return sums


def _workload(parameters: dict[str, str], sums: dict[str, float], monthly: float) -> model.Workload:
    """Events, their bytes and how they were packed: a record of an SDK counts as a free request.

    A user agent counts as part of the events, because no metric has its length.
    """
    records, events = sums["records"], sums.get("events", sums["records"])
    # A record of an SDK has no lines of ours.
    lines = min(sums.get("requests", 0.0), records) * model.LINES_WITHOUT_AGENT
    workload = model.Workload(
        events_per_month=events * monthly,
        bytes_per_event=max((sums["bytes"] - lines) / events, 1.0),
        events_per_request=events / records,
        output_format=parameters["OutputFormat"],
        buffering_interval=int(parameters["FirehoseBufferingInterval"]),
        requests_per_second=float(parameters["ThrottleRateLimit"]),
        lines_per_record=model.LINES_WITHOUT_AGENT,
    )
    return replace(workload, queries_per_month=sums["queries"] * monthly) if "queries" in sums else workload


def _measured(sums: dict[str, float], workload: model.Workload, monthly: float) -> dict[str, float]:
    """The quantities known from metrics; records are rounded up by their average size."""

    def counted(prefix: str) -> float:
        records = sums.get(f"{prefix}records", 0.0)
        return records * model.counted(sums[f"{prefix}bytes"] / records) if records else 0.0

    found = {"firehose-ingest": counted("") + counted("rejects' ")}
    if workload.output_format == "PARQUET":
        found["firehose-conversion"] = counted("")
    gigabyte_seconds = [
        milliseconds / 1000 * int(label.removeprefix("ms at ")) / 1024
        for label, milliseconds in sums.items()
        if label.startswith("ms at ")
    ]
    if gigabyte_seconds:
        found |= {"lambda-requests": sums["invocations"], "lambda-gb-seconds": sum(gigabyte_seconds)}
    found["api-requests"] = sums.get("requests", 0.0)
    found["data-out"] = found["api-requests"] * model.ANSWER_BYTES
    if "log bytes" in sums:
        found |= {"cloudwatch-logs": sums["log bytes"], "cloudwatch-log-storage": sums["log bytes"]}
    if "scanned" in sums:
        count = sums.get("queries", 0.0) + sums.get("refinements", 0.0)
        found["athena-scans"] = max(sums["scanned"], count * SMALLEST_CHARGE)
    return {key: quantity * monthly for key, quantity in found.items()}


def _stored(aws: Aws, bucket: str, now: datetime) -> float | None:
    """Bytes in the bucket as S3 publishes them once a day; None where it has not yet."""
    metric = Metric("", "AWS/S3", "BucketSizeBytes", {"BucketName": bucket, "StorageType": "StandardStorage"})
    points = aws.client("cloudwatch").get_metric_statistics(
        **metric.request, StartTime=now - timedelta(days=3), EndTime=now, Period=86_400, Statistics=["Average"]
    )["Datapoints"]
    return float(max(points, key=lambda point: point["Timestamp"])["Average"]) if points else None


def _listed(aws: Aws, bucket: str) -> float:
    return float(sum(item["Size"] for item in Bucket(aws.client("s3"), bucket).objects()))
