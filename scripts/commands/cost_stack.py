"""What a stack has used of late, out of its own metrics and its bucket, scaled to a month.

Where a service publishes nothing (requests that read objects, traces; locally also Athena and the logs), the quantity
is worked out from what is known.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Literal, NamedTuple

from scripts.commands import cost_model as model
from scripts.commands import cost_optional, stack
from scripts.commands.console import UsageError
from scripts.commands.query import SMALLEST_CHARGE
from scripts.commands.stack import Aws, stack_parameters

Basis = Literal["metric", "listing", "model"]

PRICED = {
    *("AWS::ApiGateway", "AWS::Athena", "AWS::CloudWatch", "AWS::KinesisFirehose", "AWS::Lambda", "AWS::Logs"),
    *("AWS::S3", "AWS::SecretsManager", "AWS::StepFunctions", "AWS::SQS", "AWS::DynamoDB", "AWS::SNS"),
    *("AWS::CloudFormation", "AWS::Glue", "AWS::IAM"),
}
"""Services whose resources stand in the bill; the last three cost nothing here."""

OPTIONAL = {
    "AWS::SQS::Queue": (
        *("AWS/SQS", "QueueName"),
        {
            "NumberOfEmptyReceives": "sqs-requests",
            "NumberOfMessagesSent": "sqs-requests",
            "NumberOfMessagesReceived": "sqs-requests",
            "NumberOfMessagesDeleted": "sqs-requests",
        },
    ),
    "AWS::DynamoDB::Table": (
        *("AWS/DynamoDB", "TableName"),
        {"ConsumedReadCapacityUnits": "dynamodb-reads", "ConsumedWriteCapacityUnits": "dynamodb-writes"},
    ),
    "AWS::SNS::Topic": (
        *("AWS/SNS", "TopicName"),
        {"NumberOfMessagesPublished": "sns-publishes", "NumberOfNotificationsDelivered": "sns-emails"},
    ),
}
"""What only optional stacks have: by type its namespace and dimension, and of each metric the price that it counts for.

SQS tells messages, not requests, which hold up to ten of them: each counts as one, which is too much rather than too
little."""

MACHINES = {"RefineMachineArn": "refine_runs", "PullMachineArn": "pull_runs", "DeliverMachineArn": "deliver_runs"}
"""By the output that names the state machine: the name of its runs in cost_optional.Use."""


@dataclass(frozen=True)
class Measured:
    """A stack's month: the workload that its metrics amount to, quantities by the key of the price, how each is known.

    `seconds` is for how long it was measured. `unpriced` are the types of its resources that the bill leaves out.
    """

    workload: model.Workload
    quantities: dict[str, float]
    basis: dict[str, Basis]
    seconds: float
    unpriced: list[str]


class Metric(NamedTuple):
    """A metric of CloudWatch, and under what name its sum is added up."""

    label: str
    namespace: str
    name: str
    dimensions: dict[str, str]
    statistic: str = "Sum"

    @property
    def request(self) -> dict[str, Any]:
        dimensions = [{"Name": key, "Value": value} for key, value in self.dimensions.items()]
        return {"Namespace": self.namespace, "MetricName": self.name, "Dimensions": dimensions}


def measure(
    aws: Aws, name: str, days: int, workload: model.Workload, optional: cost_optional.Use, now: datetime | None = None
) -> Measured:
    """What the stack used in the last days, or since it was made. `workload` and `optional` say what no metric tells.

    Raises:
        CommandError: there is no such stack, or nothing came in.
    """
    described = stack.describe_stack(aws, name)
    if described is None:
        raise stack.missing(aws, name)
    bucket = stack.stack_output(aws, name, "BucketName")
    found, now = list(_resources(aws, name)), now or datetime.now(UTC)
    since = max(now - timedelta(days=days), described["CreationTime"])
    seconds = max((now - since).total_seconds(), 1.0)
    monthly = model.SECONDS_PER_MONTH / seconds
    sums = _add_up(aws, _metrics(aws, name, found), since, now)
    if not sums.get("records"):
        raise UsageError(
            f"nothing came into stack '{name}' in {aws.place} since {since:%Y-%m-%d %H:%M} UTC: look back further with "
            "--days, or estimate with --events-per-month"
        )
    parameters = stack_parameters(described)
    workload = replace(
        _came_in(workload, sums, monthly),
        output_format=parameters["OutputFormat"],
        buffering_interval=int(parameters["FirehoseBufferingInterval"]),
        memory=int(parameters["LambdaMemorySize"]),
        # A stack of 0.1.0 has no such parameter, and traces.
        tracing=parameters.get("Tracing", "ENABLED") == "ENABLED",
        retention_in_days=int(parameters.get("EventsRetentionInDays") or workload.retention_in_days),
        queries_per_month=sums["queries"] * monthly if "queries" in sums else workload.queries_per_month,
    )
    quantities = model.quantities(workload)
    basis: dict[str, Basis] = dict.fromkeys(quantities, "model")
    for key, quantity in _measured(sums, workload, monthly).items():
        quantities[key], basis[key] = quantity, "metric"
    for key, counted in (
        ("cloudwatch-alarms", "AWS::CloudWatch::Alarm"),
        ("cloudwatch-dashboards", "AWS::CloudWatch::Dashboard"),
        ("secrets", "AWS::SecretsManager::Secret"),
    ):
        if count := sum(kind == counted for kind, _ in found):
            quantities[key], basis[key] = count, "listing"
    for key, (quantity, how) in _optional(sums, [kind for kind, _ in found], optional, monthly).items():
        quantities[key], basis[key] = quantity, how
    stored = _stored(aws, bucket, now)
    quantities["s3-storage"] = _listed(aws, bucket) if stored is None else stored
    basis["s3-storage"] = "listing" if stored is None else "metric"
    quantities["cloudwatch-metrics"], basis["cloudwatch-metrics"] = _charged_metrics(aws, name, found), "listing"
    unpriced = sorted({kind for kind, _ in found if kind.rpartition("::")[0] not in PRICED})
    return Measured(workload, quantities, basis, seconds, unpriced)


def _resources(aws: Aws, name: str) -> Iterator[tuple[str, str]]:
    """Type and physical id of every resource, those of nested stacks included."""
    for item in stack.resources(aws, name):
        if item["ResourceType"] == "AWS::CloudFormation::Stack":
            yield from _resources(aws, item["PhysicalResourceId"])
        yield item["ResourceType"], item["PhysicalResourceId"]


def _metrics(aws: Aws, name: str, found: list[tuple[str, str]]) -> list[Metric]:
    ids = stack.physical_ids(aws, name)
    metrics = [
        Metric("requests", "AWS/ApiGateway", "Count", {"ApiName": name}),
        Metric("events", "Sluice", "Received", {"FunctionName": ids["TransformFunction"]}),
    ]
    for prefix, stream in (("", ids["StreamDelivery"]), ("rejects' ", ids["StreamRejects"])):
        dimensions = {"DeliveryStreamName": stream}
        metrics += [
            Metric(f"{prefix}records", "AWS/Firehose", "IncomingRecords", dimensions),
            Metric(f"{prefix}bytes", "AWS/Firehose", "IncomingBytes", dimensions),
            Metric("objects", "AWS/Firehose", "DeliveryToS3.Success", dimensions),
        ]
    for kind, identifier in found:
        if kind == "AWS::Lambda::Function":
            dimensions = {"FunctionName": identifier}
            configuration = aws.client("lambda").get_function_configuration(FunctionName=identifier)
            metrics += [
                Metric("invocations", "AWS/Lambda", "Invocations", dimensions),
                Metric(f"ms at {configuration['MemorySize']}", "AWS/Lambda", "Duration", dimensions),
            ]
        if kind in OPTIONAL:
            namespace, dimension, labels = OPTIONAL[kind]
            # A queue is known by its URL, a topic by its ARN.
            dimensions = {dimension: re.split("[/:]", identifier)[-1]}
            metrics += [Metric(label, namespace, metric, dimensions) for metric, label in labels.items()]
        if kind == "AWS::Logs::LogGroup":
            metrics.append(Metric("log bytes", "AWS/Logs", "IncomingBytes", {"LogGroupName": identifier}))
    outputs = stack.stack_outputs(aws, name)
    metrics += [
        Metric(label, "AWS/States", "ExecutionsStarted", {"StateMachineArn": outputs[key]})
        for key, label in MACHINES.items()
        if key in outputs
    ]
    for workgroup in (identifier for kind, identifier in found if kind == "AWS::Athena::WorkGroup"):
        # A refinement is a query as well; how often people ask is what the levers are tried on.
        count = "queries" if workgroup == ids["QueryWorkGroup"] else "refinements"
        for dimensions in _listed_metrics(aws, "AWS/Athena", "WorkGroup", workgroup, "ProcessedBytes"):
            # Athena charges for no DDL, and for no query that failed.
            if dimensions.get("QueryType") == "DML" and dimensions.get("QueryState") != "FAILED":
                metrics += [
                    Metric("scanned", "AWS/Athena", "ProcessedBytes", dimensions),
                    Metric(count, "AWS/Athena", "ProcessedBytes", dimensions, "SampleCount"),
                ]
    return metrics


def _charged_metrics(aws: Aws, name: str, found: list[tuple[str, str]]) -> int:
    """How many metrics the functions write of their own, and the API for each of its methods."""
    own = (
        _listed_metrics(aws, "Sluice", "FunctionName", identifier)
        for kind, identifier in found
        if kind == "AWS::Lambda::Function"
    )
    detailed = (item for item in _listed_metrics(aws, "AWS/ApiGateway", "ApiName", name) if "Method" in item)
    return sum(len(list(listed)) for listed in own) + len(list(detailed))


def _listed_metrics(aws: Aws, namespace: str, dimension: str, value: str, *names: str) -> Iterator[dict[str, str]]:
    """The dimensions of each metric that has this one and was written in the last two weeks."""
    wanted = {"Namespace": namespace, "Dimensions": [{"Name": dimension, "Value": value}]}
    pages = aws.client("cloudwatch").get_paginator("list_metrics")
    for page in pages.paginate(**wanted, **({"MetricName": names[0]} if names else {})):
        for listed in page["Metrics"]:
            yield {item["Name"]: item["Value"] for item in listed["Dimensions"]}


def _add_up(aws: Aws, metrics: list[Metric], since: datetime, now: datetime) -> dict[str, float]:
    """The sums by label. What has no value at all is left out: it may not be published, and so is no zero."""
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


def _came_in(workload: model.Workload, sums: dict[str, float], monthly: float) -> model.Workload:
    """Events, their bytes and how they were packed: a record of an SDK counts as a request that costs nothing.

    A user agent counts as part of the events, as its length is published nowhere.
    """
    records, events = sums["records"], sums.get("events", sums["records"])
    # What an SDK puts has no lines of ours.
    lines = min(sums.get("requests", 0.0), records) * model.LINES_WITHOUT_AGENT
    return replace(
        workload,
        lines_per_record=model.LINES_WITHOUT_AGENT,
        events_per_month=events * monthly,
        bytes_per_event=max((sums["bytes"] - lines) / events, 1.0),
        events_per_request=events / records,
    )


def _measured(sums: dict[str, float], workload: model.Workload, monthly: float) -> dict[str, float]:
    """The quantities that are known from metrics; records are rounded up by their average size."""

    def counted(prefix: str) -> float:
        records = sums.get(f"{prefix}records", 0.0)
        return records * model.steps(sums[f"{prefix}bytes"] / records, model.FIREHOSE_STEP) if records else 0.0

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


def _optional(
    sums: dict[str, float], kinds: list[str], optional: cost_optional.Use, monthly: float
) -> dict[str, tuple[float, Basis]]:
    """What the optional stacks use, and how it is known. What is published nowhere did not happen, but for the requests
    to queues at which a function waits."""
    found: dict[str, tuple[float, Basis]] = {}
    for kind, (_, _, labels) in OPTIONAL.items():
        for key in labels.values() if kind in kinds else ():
            found[key] = (sums[key] * monthly, "metric") if key in sums else (0.0, "model")
    if "sqs-requests" in found and "sqs-requests" not in sums:
        polls = cost_optional.POLLS_PER_MONTH * kinds.count("AWS::Lambda::EventSourceMapping")
        found["sqs-requests"] = polls, "model"
    if "AWS::StepFunctions::StateMachine" in kinds:
        runs = {label: sums.get(label, 0.0) * monthly for label in MACHINES.values()}
        found["step-functions-transitions"] = cost_optional.transitions(replace(optional, **runs)), "model"
    return found


def _stored(aws: Aws, bucket: str, now: datetime) -> float | None:
    """Bytes in the bucket as S3 publishes them once a day; None where it has not yet."""
    metric = Metric("", "AWS/S3", "BucketSizeBytes", {"BucketName": bucket, "StorageType": "StandardStorage"})
    points = aws.client("cloudwatch").get_metric_statistics(
        **metric.request, StartTime=now - timedelta(days=3), EndTime=now, Period=86_400, Statistics=["Average"]
    )["Datapoints"]
    return float(max(points, key=lambda point: point["Timestamp"])["Average"]) if points else None


def _listed(aws: Aws, bucket: str) -> float:
    pages = aws.client("s3").get_paginator("list_objects_v2").paginate(Bucket=bucket)
    return float(sum(item["Size"] for page in pages for item in page.get("Contents", [])))
