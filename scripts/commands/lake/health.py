"""The facts of a running stack, and its faults for a person to fix, each with the first command to type.

Each part of the facts is gathered by itself. If it cannot be seen, because a stack is being created or deleted or a
permission is missing, its `unknown` says so, and the other parts are unharmed.
"""

from __future__ import annotations

import re
import shlex
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Final, TypedDict, TypeVar

from botocore.exceptions import BotoCoreError, ClientError

from scripts.commands.common.cloudformation import StackDescription
from scripts.commands.common.console import CommandError, explain
from scripts.commands.common.paths import REPOSITORY
from scripts.commands.common.stack import (
    Aws,
    Stack,
    listed_metrics,
    reachable_url,
    resources,
    stack_option,
    stack_parameters,
)
from scripts.commands.common.tables import counts, many
from scripts.commands.lake import zones
from scripts.commands.lake.bucket import Bucket
from scripts.commands.lake.facts import (
    Alarm,
    DeadLetters,
    Deliveries,
    DeliveryError,
    Drops,
    Facts,
    FailedRecords,
    Freshness,
    LastEvent,
    LastHour,
    Need,
    Newest,
    Refusals,
    StackFacts,
    Unseen,
)
from shared.documents import parse_json

T = TypeVar("T")

OUTCOMES: Final = ("Received", "Accepted", "Dropped", "Rejected", "Failed", "Requeued")
SERVICES: Final = ("cloudformation", "cloudwatch", "logs", "s3", "sqs")
FRESHNESS_MINUTES: Final = 15
"""How far back a freshness is looked for: an idle stream reports none."""
LATE_SECONDS: Final = 300
"""How much older than buffering explains the oldest undelivered record may be: as the alarms of stacks/observe/."""
SHOWN_LINES: Final = 3
MOST_LINES: Final = 10_000
"""The most log lines read: a stream unable to deliver writes them all day."""

# States in which a stack does not work, and nothing under way could change it.
_BROKEN: Final = re.compile(r".*_FAILED|ROLLBACK_COMPLETE|REVIEW_IN_PROGRESS")
_CODES_OF_FAILED_RECORDS: Final = ("Lambda.", "DataFormatConversion.")
# The last line of an alarm's description. tests/stacks/observe/test_observe.py holds every alarm to it.
_FIRST_COMMAND: Final = re.compile(r"(?:\A|\n)First: ([^\n]+)\s*\Z")


@dataclass(frozen=True)
class Resource:
    """A resource of the stack or of a nested one; `owner` is the nested stack's logical id, or nothing."""

    owner: str
    logical_id: str
    type: str
    physical_id: str


@dataclass(frozen=True)
class Metric:
    """A metric of CloudWatch."""

    namespace: str
    name: str
    dimensions: dict[str, str]


class LogEvent(TypedDict):
    """A line of a log, as FilterLogEvents has it; `timestamp` is in milliseconds since 1970."""

    timestamp: int
    message: str


class Unknown(Exception):
    """This part cannot be seen; the text is the reason."""


def gather(aws: Aws, name: str, now: datetime) -> Facts:
    """Every fact about the stack at this moment. Raises CommandError if the stack does not exist."""
    look = _Look(aws, Stack(aws, name).description, now)
    with ThreadPoolExecutor(10) as executor:
        last_event = executor.submit(_attempt, look.last_event)
        last_hour = executor.submit(_attempt, look.last_hour)
        drops = executor.submit(_attempt, look.drops)
        refusals = executor.submit(_attempt, look.refusals)
        freshness = executor.submit(_attempt, look.freshness)
        alarms = executor.submit(_attempt, look.alarms)
        deliveries = executor.submit(_attempt, look.deliveries)
        failed_records = executor.submit(_attempt, look.failed_records)
        newest_of_zones = executor.submit(_attempt, look.zones)
        dead_letters = executor.submit(_attempt, look.dead_letters)
    facts = Facts(
        at=_text(now),
        stack=look.stack_facts(),
        last_event=last_event.result(),
        last_hour=last_hour.result(),
        drops=drops.result(),
        refusals=refusals.result(),
        freshness=freshness.result(),
        alarms=alarms.result(),
        deliveries=deliveries.result(),
        failed_records=failed_records.result(),
        zones=newest_of_zones.result(),
        dead_letters=dead_letters.result(),
    )
    return replace(facts, needs_a_person=[*look.needs(facts)])


def _attempt(look: Callable[[], T]) -> T | Unseen:
    try:
        return look()
    except (BotoCoreError, ClientError) as error:
        return Unseen(explain(error))
    except (CommandError, Unknown) as error:
        return Unseen(str(error))


class _Look:
    """Looks at one stack. `now` is the present."""

    def __init__(self, aws: Aws, stack: StackDescription, now: datetime) -> None:
        self.aws, self.stack, self.now = aws, stack, now
        self.name: str = stack["StackName"]
        self.parameters = stack_parameters(stack)
        self.outputs = {item["OutputKey"]: item["OutputValue"] for item in stack.get("Outputs", [])}
        # Made here, as a session makes no two clients at the same time.
        self.clients = {service: aws.client(service) for service in SERVICES}
        self.resources = [*self._resources("", self.name)]
        self.ids = {resource.logical_id: resource.physical_id for resource in self.resources if not resource.owner}
        self.options = aws.flag + stack_option(self.name)
        endpoint = f" --endpoint-url {aws.endpoint}" if aws.is_local else ""
        profile = "".join(f" {name} {shlex.quote(value)}" for name, value in aws.chosen if name == "--profile")
        self.aws_cli = f"aws{endpoint}{profile} --region {aws.region}"

    def _resources(self, owner: str, name: str) -> Iterator[Resource]:
        """The stack's resources, and those of its nested stacks; a stack deleted meanwhile has none."""
        try:
            found = resources(self.aws, name)
        except (BotoCoreError, ClientError, CommandError):
            return
        for item in found:
            resource = Resource(owner, item["LogicalResourceId"], item["ResourceType"], item["PhysicalResourceId"])
            yield resource
            if resource.type == "AWS::CloudFormation::Stack":
                yield from self._resources(resource.logical_id, resource.physical_id)

    def _id(self, logical_id: str) -> str:
        if logical_id not in self.ids:
            raise Unknown(f"the stack has no {logical_id} yet, or no longer")
        return self.ids[logical_id]

    def stack_facts(self) -> StackFacts:
        changed = self.stack.get("LastUpdatedTime") or self.stack.get("CreationTime")
        url = self.outputs.get("TrackURL")
        return StackFacts(
            name=self.name,
            place=self.aws.place,
            status=self.stack["StackStatus"],
            reason=self.stack.get("StackStatusReason"),
            changed_at=_text(changed) if changed else None,
            endpoint=reachable_url(self.aws, url) if url else None,
            nested=sorted({item.logical_id for item in self.resources if item.type == "AWS::CloudFormation::Stack"}),
        )

    # --- CloudWatch

    def _metric(self, metric: Metric, stat: str, back: timedelta) -> list[tuple[datetime, float]]:
        """A metric's values by the minute, the oldest first."""
        answer = self.clients["cloudwatch"].get_metric_statistics(
            Namespace=metric.namespace,
            MetricName=metric.name,
            Dimensions=[{"Name": name, "Value": value} for name, value in metric.dimensions.items()],
            StartTime=self.now - back,
            EndTime=self.now + timedelta(minutes=1),
            Period=60,
            Statistics=[stat],
        )
        return sorted((point["Timestamp"].astimezone(UTC), point[stat]) for point in answer.get("Datapoints", []))

    def last_event(self) -> LastEvent:
        """When the last record came in, to the minute, in the last 12 hours; else when one was delivered at last."""
        stream = {"DeliveryStreamName": self._id("StreamDelivery")}
        minute, half_a_day = timedelta(minutes=1), timedelta(hours=12)  # CloudWatch gives 1,440 values at most
        points = self._metric(Metric("AWS/Firehose", "IncomingRecords", stream), "Sum", half_a_day)
        came = [moment for moment, count in points if count]
        if came:
            # A point covers the minute after its time.
            moment = min(came[-1] + minute, self.now)
            return LastEvent(_text(moment), _seconds(self.now - moment), "IncomingRecords")
        newest = self._newest(zones.events_of(self.parameters))
        if newest is None:
            return LastEvent()
        age = _seconds(self.now - datetime.fromisoformat(newest.newest_at))
        return LastEvent(newest.newest_at, age, "the newest object")

    def last_hour(self) -> LastHour:
        """The transform's outcomes, by its metrics; by its log lines if CloudWatch has made no metrics of them."""
        function = {"FunctionName": self._id("TransformFunction")}
        by_outcome: dict[str, int] = {}
        for outcome in OUTCOMES:
            found = self._sum_of_last_hour("Sluice", outcome, function)
            if outcome == "Received" and found is None:
                return self._last_hour_by_log()
            by_outcome[outcome.lower()] = found or 0
        return LastHour(**by_outcome, known_by="metrics")

    def _sum_of_last_hour(self, namespace: str, metric: str, dimensions: dict[str, str]) -> int | None:
        points = self._metric(Metric(namespace, metric, dimensions), "Sum", timedelta(hours=1))
        return int(sum(value for _, value in points)) if points else None

    def _last_hour_by_log(self) -> LastHour:
        counter: Counter[str] = Counter()
        for line in self._log("TransformLogGroup", timedelta(hours=1), '"CloudWatchMetrics"'):
            try:
                logged = parse_json(line["message"])
                counter.update({outcome: int(logged[outcome]) for outcome in OUTCOMES})
            except (ValueError, KeyError, TypeError):
                continue  # a line of another program with the word in it
        return LastHour(**{outcome.lower(): counter[outcome] for outcome in OUTCOMES}, known_by="log")

    def drops(self) -> Drops:
        """The last hour's dropped events by rule. Only the log has them, as each metric costs money every month."""
        counter: Counter[str] = Counter()
        lines = self._log("TransformLogGroup", timedelta(hours=1), "{ $.Dropped > 0 }")
        for line in islice(lines, MOST_LINES):
            try:
                by_rule = parse_json(line["message"])["DroppedByRule"]
                counter.update({rule: int(count) for rule, count in by_rule.items()})
            except (ValueError, KeyError, TypeError, AttributeError):
                continue  # a line of another program
        return Drops(dict(counter.most_common()), lines_left_out=next(lines, None) is not None)

    def refusals(self) -> Refusals:
        """The last hour's requests answered with a 4xx, by route. CloudWatch does not tell one 4xx from another.

        `elsewhere` are those at no route, and those at a route not yet listed by CloudWatch: a new metric is listed
        within 15 minutes.
        """
        api = {"ApiName": self.name}

        def count(metric: str, dimensions: dict[str, str]) -> int:
            return self._sum_of_last_hour("AWS/ApiGateway", metric, dimensions) or 0

        by_route: Counter[str] = Counter()
        for listed in listed_metrics(self.aws, "AWS/ApiGateway", "ApiName", self.name, "4XXError"):
            if "Method" in listed:
                by_route[f"{listed['Method']} {listed['Resource']}"] += count("4XXError", listed)
        total = count("4XXError", api)
        return Refusals(
            requests=count("Count", api),
            answered_4xx=total,
            by_route={route: refused for route, refused in by_route.most_common() if refused},
            elsewhere=max(0, total - by_route.total()),
        )

    def freshness(self) -> Freshness:
        """How long records wait in both streams."""
        return Freshness(self._freshness("StreamDelivery"), self._freshness("StreamRejects"))

    def _freshness(self, stream: str) -> float | None:
        metric = Metric("AWS/Firehose", "DeliveryToS3.DataFreshness", {"DeliveryStreamName": self._id(stream)})
        points = self._metric(metric, "Maximum", timedelta(minutes=FRESHNESS_MINUTES))
        return round(points[-1][1], 1) if points else None

    def alarms(self) -> list[Alarm]:
        """Every alarm of the stack and its nested ones, ringing ones first."""
        owners = {item.physical_id: item.owner for item in self.resources if item.type.endswith("Alarm")}
        names, found = sorted(owners), []
        for start in range(0, len(names), 100):
            answer = self.clients["cloudwatch"].describe_alarms(
                AlarmNames=names[start : start + 100], AlarmTypes=["MetricAlarm", "CompositeAlarm"]
            )
            for alarm in (*answer.get("MetricAlarms", []), *answer.get("CompositeAlarms", [])):
                found.append(
                    Alarm(
                        name=alarm["AlarmName"],
                        state=alarm["StateValue"],
                        since=_text(alarm["StateUpdatedTimestamp"]) if alarm.get("StateUpdatedTimestamp") else None,
                        description=alarm.get("AlarmDescription", ""),
                        stack=owners.get(alarm["AlarmName"]) or self.name,
                    )
                )
        return sorted(found, key=lambda alarm: (alarm.state != "ALARM", alarm.name))

    # --- Deliveries

    def _log(self, group: str, back: timedelta, pattern: str = "") -> Iterator[LogEvent]:
        arguments = {"filterPattern": pattern} if pattern else {}
        since = int((self.now - back).timestamp() * 1000)
        pages = self.clients["logs"].get_paginator("filter_log_events")
        for page in pages.paginate(logGroupName=self._id(group), startTime=since, **arguments):
            yield from page["events"]

    def deliveries(self) -> Deliveries:
        """Firehose's error log of the last day: the number of lines by code, and the last lines."""
        events = islice(self._log("StreamLogGroup", timedelta(days=1)), MOST_LINES)
        lines = [_line(event) for event in sorted(events, key=lambda event: int(event["timestamp"]))]
        return Deliveries(dict(Counter(line.code for line in lines).most_common()), lines[-SHOWN_LINES:][::-1])

    def failed_records(self) -> FailedRecords:
        """The last day's objects of errors/, by kind, and the time of a replay after the newest of them, if any."""
        by_type: Counter[str] = Counter()
        newest: datetime | None = None
        for folder in self._bucket.folders(zones.ERRORS):
            for moment in (self.now - timedelta(days=1), self.now):
                for item in self._bucket.objects(zones.day_folder(folder, moment)):
                    if item["LastModified"] >= self.now - timedelta(days=1):
                        by_type[zones.error_type_of(folder)] += 1
                        newest = max(newest or item["LastModified"], item["LastModified"])
        replayed = (
            [item["LastModified"] for item in self._bucket.objects(zones.REPLAYED + zones.ERRORS)] if newest else []
        )
        return FailedRecords(
            objects_by_type=dict(by_type),
            newest_at=_text(newest) if newest else None,
            replayed_at=_text(max(replayed)) if newest and replayed and max(replayed) > newest else None,
        )

    # --- The bucket

    @property
    def _bucket(self) -> Bucket:
        return Bucket(self.clients["s3"], self._id("StoreBucket"))

    def _newest(self, prefix: str) -> Newest | None:
        """The newest object of the newest day under a prefix, and the day's objects and bytes."""
        days = [folder for folder in self._bucket.folders(prefix) if "/dt=" in folder]
        objects = [*self._bucket.objects(max(days))] if days else []
        if not objects:
            return None
        newest = max(objects, key=lambda item: item["LastModified"])
        return Newest(
            key=newest["Key"],
            newest_at=_text(newest["LastModified"]),
            objects_of_that_day=len(objects),
            bytes_of_that_day=sum(item["Size"] for item in objects),
        )

    def zones(self) -> dict[str, Newest | None]:
        """Each zone's newest object; None for an empty zone."""
        found = {"events": self._newest(zones.events_of(self.parameters)), "rejected": self._newest(zones.REJECTED)}
        failed = [newest for folder in self._bucket.folders(zones.ERRORS) if (newest := self._newest(folder))]
        found["errors"] = max(failed, key=lambda newest: newest.newest_at) if failed else None
        found["raw"] = self._newest(zones.RAW)
        return found

    # --- Dead letters

    def dead_letters(self) -> list[DeadLetters]:
        """The dead-letter queues of the stack and its nested ones, with how many messages wait in each."""
        found = []
        for item in self.resources:
            if item.type == "AWS::SQS::Queue" and "DeadLetter" in item.logical_id:
                answer = self.clients["sqs"].get_queue_attributes(
                    QueueUrl=item.physical_id, AttributeNames=["ApproximateNumberOfMessages"]
                )
                depth = int(answer["Attributes"]["ApproximateNumberOfMessages"])
                owner = item.owner or self.name
                found.append(DeadLetters(item.logical_id, owner, depth, item.physical_id))
        return found

    # --- Needs

    def needs(self, facts: Facts) -> Iterator[Need]:
        """Each fault, the worst first, and the first command to type."""
        status, reason = facts.stack.status, facts.stack.reason
        if _BROKEN.fullmatch(status):
            script = "destroy" if status.startswith("DELETE") else "deploy"
            yield Need(
                f"the stack is {status}" + (f": {reason}" if reason else ""), f"scripts/{script}.sh{self.options}"
            )
        for alarm in _seen(facts.alarms) or []:
            if alarm.state == "ALARM":
                proposed = _FIRST_COMMAND.search(alarm.description)
                first = proposed[1] + self.aws.flag if proposed else ""
                if not first or first.startswith("scripts/status.sh"):  # this is status.sh
                    first = f"{self.aws_cli} cloudwatch describe-alarm-history --alarm-name {shlex.quote(alarm.name)}"
                meaning = " ".join(_FIRST_COMMAND.sub("", alarm.description).split())
                yield Need(f"alarm {alarm.name}" + (f": {meaning}" if meaning else ""), first)
        hour, records = _seen(facts.last_hour), _seen(facts.failed_records)
        if hour and hour.failed and not (records and records.replayed_at):
            yield Need(
                f"{many(hour.failed, 'event')} failed in the last hour", f"scripts/query.sh{self.options} failures"
            )
        yield from self._delivery_needs(facts)
        for queue in _seen(facts.dead_letters) or []:
            if queue.messages:
                script = queue.stack.removesuffix("Stack").lower()
                command = f"{self.aws_cli} sqs receive-message --queue-url {shlex.quote(queue.url)}"
                if (REPOSITORY / "scripts" / f"{script}.sh").exists():
                    command = f"scripts/{script}.sh redrive{self.options}"
                yield Need(f"{many(queue.messages, 'dead letter')} in {queue.name} of {queue.stack}", command)
        if not status.endswith("_IN_PROGRESS") and not _BROKEN.fullmatch(status):
            for part, found in vars(facts).items():
                if isinstance(found, Unseen):
                    yield Need(f"{part} cannot be seen: {found.unknown}", f"{self.aws_cli} sts get-caller-identity")

    def _delivery_needs(self, facts: Facts) -> Iterator[Need]:
        tail = f"{self.aws_cli} logs tail {shlex.quote(self.ids.get('StreamLogGroup', ''))} --since 1d"
        interval = self.parameters.get("FirehoseBufferingInterval", "")
        late = LATE_SECONDS + (int(interval) if interval.isdigit() else 0)
        freshness, deliveries = _seen(facts.freshness), _seen(facts.deliveries)
        for zone, seconds in freshness.by_zone.items() if freshness else ():
            if seconds is not None and seconds > late:
                yield Need(f"{zone} wait {seconds:,.0f} s for delivery, and {late:,} s at most are usual", tail)
        records = _seen(facts.failed_records) or FailedRecords({}, None, None)
        # Replayed records are settled, and so is their log line.
        settled = max(_text(self.now - timedelta(hours=1)), records.replayed_at or "")
        waits = bool(records.objects_by_type) and not records.replayed_at
        for line in deliveries.last_errors[:1] if deliveries else ():
            is_told_below = waits and line.code.startswith(_CODES_OF_FAILED_RECORDS)
            if line.at > settled and not is_told_below:
                yield Need(f"Firehose logged an error in the last hour: {line.code}: {line.message}", tail)
        if waits:
            yield Need(
                f"records failed in the last day and wait for a replay (objects: {counts(records.objects_by_type)})",
                f"scripts/replay.sh{self.options} --from errors --dry-run",
            )


def _seen(part: T | Unseen) -> T | None:
    """A part of the facts, unless it is unknown."""
    return None if isinstance(part, Unseen) else part


def _line(event: LogEvent) -> DeliveryError:
    at = _text(datetime.fromtimestamp(event["timestamp"] / 1000, UTC))
    try:
        line = parse_json(event["message"])
        return DeliveryError(at, str(line.get("errorCode", "unknown")), str(line.get("message", "")))
    except (ValueError, AttributeError):
        return DeliveryError(at, "unknown", str(event["message"]))


def _text(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(timespec="seconds")


def _seconds(duration: timedelta) -> int:
    return max(0, int(duration.total_seconds()))
