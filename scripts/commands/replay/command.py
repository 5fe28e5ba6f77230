"""Bring rejected events and failed records back: survey them, try them on today's transform, send them."""

from __future__ import annotations

import argparse
import io
import re
import sys
import time
import zipfile
from collections import Counter
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from typing import Any, get_args

from botocore.exceptions import ClientError
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from scripts.commands.common.console import (
    CommandError,
    Parser,
    UsageError,
    is_agreed,
    main,
    nobody_to_ask,
    printable,
    progress,
    say,
)
from scripts.commands.common.paths import LAMBDA
from scripts.commands.common.stack import (
    Aws,
    Stack,
    add_stack_arguments,
    session,
)
from scripts.commands.lake.bucket import Bucket
from scripts.commands.lake.objects import Corrupt
from scripts.commands.lake.rejected import Texts
from scripts.commands.lake.zones import CONVERSION_FAILED, PROCESSING_FAILED, Zone, day_of, error_type_of
from scripts.commands.replay.send import READERS, Marks, send
from scripts.commands.replay.zones import (
    Item,
    Verdict,
    judge,
    read_errors,
    read_raw,
    read_rejected,
)
from transform.rules import Settings

READ_AHEAD_BYTES = 64_000_000
SHOWN = 10  # objects and obstacles named one by one

_MOMENT = re.compile(r"-(\d{4}-\d\d-\d\d-\d\d-\d\d-\d\d)-[0-9a-f-]{36}[^/]*$")
_RETENTION = {"rejected": "RejectedRetentionInDays", "errors": "ErrorsRetentionInDays", "raw": "RawRetentionInDays"}


@dataclass(frozen=True)
class StoredObject:
    """An object of a zone, as the listing has it; `size` in bytes."""

    key: str
    size: int
    modified: datetime


@dataclass
class Group:
    """The items found under one reason."""

    found: int = 0
    replayed: int = 0
    to_send: int = 0
    verdict: Verdict = field(default_factory=Verdict)
    """Of the items to send."""
    obstacles: Counter[str] = field(default_factory=Counter)
    """Why the others are held back."""

    @property
    def held_back(self) -> int:
        return self.obstacles.total()


@dataclass
class Survey:
    """A zone's items by reason, the digests to send, and the objects set aside."""

    groups: dict[str, Group] = field(default_factory=dict)
    chosen: set[str] = field(default_factory=set)
    set_aside: dict[str, str] = field(default_factory=dict)
    """Why, by key."""
    is_cut: bool = False
    """Whether --limit ended it."""

    def total(self, name: str) -> int:
        """One of the figures, of all reasons together."""
        return sum(getattr(group, name) for group in self.groups.values())


def replay(arguments: list[str]) -> int:
    """scripts/replay.sh"""
    options = _parse(arguments)
    aws = session(options)
    stack = Stack(aws, options.stack_name)
    bucket, stream, parameters = stack.output("BucketName"), stack.output("StreamName"), stack.parameters
    zone = ZoneReader(Bucket(aws.client("s3"), bucket), options.zone)
    try:
        objects = zone.objects(options.since, options.until)
    except zone.bucket.s3.exceptions.NoSuchBucket as error:
        raise stack.lost(bucket) from error
    if not objects:
        raise UsageError(_nothing(zone, options, parameters))
    difference = differing_transform(aws, parameters)
    settings = _settings(parameters)
    work = Work(zone, objects, Marks(zone.bucket, options.zone))
    survey = look(work, settings, options.reason, options.limit)
    if options.reason and options.reason not in survey.groups and not survey.set_aside:
        seen = ", ".join(sorted(zone.reasons)) or "none"
        raise UsageError(f"nothing has the reason '{options.reason}' there: the reasons are {seen}")
    show(survey, zone)
    if difference:
        line = f"the stack runs another transform than this folder's ({difference})"
        if not options.dry_run:
            raise UsageError(f"{line}: deploy it first with scripts/deploy.sh{aws.flag}, or add --dry-run")
        say(f"What is foretold above may not be so: {line}.", style="yellow")
    if not survey.chosen:
        replayed, held_back = survey.total("replayed"), survey.total("held_back")
        say(f"Nothing to send: {replayed:,} sent before, {held_back:,} held back.")
    elif options.dry_run:
        say("Nothing was sent: leave --dry-run out to send it.")
    else:
        if not (options.yes or aws.is_local):
            _confirm(len(survey.chosen), options.stack_name, aws)
        _send(work, survey, aws, stream)
    return 1 if survey.set_aside else 0


# --- The zone


class ZoneReader:
    """Reads one zone of the bucket. `reasons` are all those found, also of items not asked for."""

    def __init__(self, bucket: Bucket, zone: Zone) -> None:
        self.bucket, self.zone = bucket, zone
        self.reasons: set[str] = set()

    def objects(self, since: date | None, until: date | None) -> list[StoredObject]:
        """The zone's objects of these days of delivery, oldest first, including keys without a day."""
        found = []
        for item in self.bucket.objects(f"{self.zone}/"):
            day = day_of(item["Key"])
            is_asked_for = not day or (
                (since is None or day >= since.isoformat()) and (until is None or day <= until.isoformat())
            )
            if is_asked_for:
                found.append((day, StoredObject(item["Key"], item["Size"], item["LastModified"])))
        return [stored for _, stored in sorted(found, key=lambda pair: (pair[0], pair[1].key))]

    def read(self, objects: list[StoredObject], set_aside: dict[str, str]) -> Iterator[Item]:
        """Every item of the objects once, in their order. Unreadable objects go into `set_aside`, by key."""
        texts, seen = Texts(), set[str]()
        with ThreadPoolExecutor(READERS) as executor:
            for together in _read_together(objects):
                for stored, content in zip(together, executor.map(self._get, together), strict=True):
                    try:
                        if content is None:
                            raise Corrupt("it was deleted meanwhile")
                        items = self._items(stored, content, texts)
                    except Corrupt as corrupt:
                        set_aside[stored.key] = str(corrupt)
                        continue
                    for item in items:
                        self.reasons.add(item.reason)
                        if item.digest not in seen:  # else it was delivered twice
                            seen.add(item.digest)
                            yield item
        for reason, lack in texts.incomplete():
            self.reasons.add(reason)
            set_aside[f"an event rejected as {reason}"] = f"{lack}: it may lie on a day before --since or after --until"

    def _get(self, stored: StoredObject) -> bytes | None:
        try:
            return self.bucket.read(stored.key)
        except ClientError as error:
            if error.response["Error"]["Code"] == "NoSuchKey":
                return None
            raise

    def _items(self, stored: StoredObject, content: bytes, texts: Texts) -> list[Item]:
        if not day_of(stored.key):
            raise Corrupt("its key names no day (dt=...): Firehose did not write it")
        if self.zone == "rejected":
            return read_rejected(content, texts)
        if self.zone == "raw":
            return read_raw(content, _stored_at(stored))
        error_type = error_type_of(stored.key)
        if error_type not in (PROCESSING_FAILED, CONVERSION_FAILED):
            raise Corrupt(f"what failed as {error_type} cannot be replayed")
        return read_errors(content, error_type)


def _read_together(objects: list[StoredObject]) -> Iterator[list[StoredObject]]:
    """Objects to be read at once: many small ones, or a large one by itself."""
    together: list[StoredObject] = []
    for stored in objects:
        if together and (
            len(together) == READERS or sum(one.size for one in together) + stored.size > READ_AHEAD_BYTES
        ):
            yield together
            together = []
        together.append(stored)
    if together:
        yield together


def _stored_at(stored: StoredObject) -> int:
    """When an object's oldest record arrived, in epoch milliseconds: its key says so."""
    match = _MOMENT.search(stored.key)
    moment = datetime.strptime(match[1], "%Y-%m-%d-%H-%M-%S").replace(tzinfo=UTC) if match else stored.modified
    return int(moment.timestamp() * 1000)


def differing_transform(aws: Aws, parameters: Mapping[str, str]) -> str:
    """The names of files that differ between the deployed transform and this folder's; empty if none."""
    bucket, key = parameters.get("ArtifactBucket", ""), parameters.get("TransformCodeKey", "")
    try:
        content = aws.client("s3").get_object(Bucket=bucket, Key=key)["Body"].read()
    except ClientError:
        return f"s3://{bucket}/{key} cannot be read, so nobody can tell"
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        deployed = {name: archive.read(name) for name in archive.namelist() if name.startswith("transform/")}
    paths = [path for path in (LAMBDA / "transform").iterdir() if path.is_file()]
    own = {f"transform/{path.name}": path.read_bytes() for path in paths}
    return ", ".join(sorted(name for name in own.keys() | deployed.keys() if own.get(name) != deployed.get(name)))


# --- Looking


@dataclass(frozen=True)
class Work:
    """A zone, its objects of the chosen days, and the marks of items sent before."""

    zone: ZoneReader
    objects: list[StoredObject]
    marks: Marks


def look(work: Work, settings: Settings, reason: str | None, limit: int | None) -> Survey:
    """Read everything, ask today's transform, and choose at most `limit` items to send."""
    survey = Survey()
    with progress() as display:
        task = display.add_task("Reading", total=None)
        for item in work.zone.read(work.objects, survey.set_aside):
            display.advance(task)
            if reason and item.reason != reason:
                continue
            group = survey.groups.setdefault(item.reason, Group())
            group.found += 1
            if item.digest in work.marks.digests:
                group.replayed += 1
                continue
            verdict = judge(item, settings, work.zone.zone)
            if verdict.obstacle:
                group.obstacles[verdict.obstacle] += 1
                continue
            if limit is not None and len(survey.chosen) == limit:
                group.found -= 1
                survey.is_cut = True
                break
            survey.chosen.add(item.digest)
            group.to_send += 1
            group.verdict.accepted += verdict.accepted
            group.verdict.dropped += verdict.dropped
            group.verdict.rejected += verdict.rejected
    return survey


def show(survey: Survey, zone: ZoneReader) -> None:
    """Print a table by reason to stdout; on stderr, the items held back or set aside."""
    unit = {"rejected": "rejected events", "errors": "failed records", "raw": "raw records"}[zone.zone]
    table = Table(box=box.SIMPLE_HEAD, title=f"{unit} of s3://{zone.bucket.name}/{zone.zone}/", title_justify="left")
    for name in ("reason", "found", "sent before", "held back", "to send", "accepted"):
        table.add_column(name, justify="left" if name == "reason" else "right", overflow="fold")
    table.add_column("dropped by rule", overflow="fold")
    table.add_column("rejected by reason", overflow="fold")
    for reason, group in sorted(survey.groups.items(), key=lambda pair: (-pair[1].found, pair[0])):
        counts = (group.found, group.replayed, group.held_back, group.to_send, group.verdict.accepted)
        by_name = (_counted(group.verdict.dropped), _counted(group.verdict.rejected))
        table.add_row(Text(printable(reason)), *(f"{count:,}" for count in counts), *by_name)
    console = Console()
    if not console.is_terminal:
        console.width = 200
    if survey.groups:
        console.print(table)
    if survey.is_cut:
        say("--limit is reached: further events were not read.")
    obstacles: Counter[str] = Counter()
    for group in survey.groups.values():
        obstacles += group.obstacles
    for obstacle, count in obstacles.most_common(SHOWN):
        say(f"held back: {count:,} {printable(obstacle)}", style="yellow")
    for key, lack in list(survey.set_aside.items())[:SHOWN]:
        say(f"set aside: {printable(key)}: {printable(lack)}", style="red")
    if len(survey.set_aside) > SHOWN:
        say(f"set aside: {len(survey.set_aside) - SHOWN:,} more", style="red")


def _counted(counter: Counter[str]) -> Text:
    return Text(printable(", ".join(f"{count:,} {name}" for name, count in counter.most_common())) or "0")


# --- Sending


def _send(work: Work, survey: Survey, aws: Aws, stream: str) -> None:
    began = time.monotonic()
    with progress() as display:
        task = display.add_task("Sending", total=len(survey.chosen))
        chosen = (item for item in work.zone.read(work.objects, survey.set_aside) if item.digest in survey.chosen)
        count, records = send(chosen, aws.client("firehose"), stream, work.marks, lambda n: display.advance(task, n))
    seconds = time.monotonic() - began
    say(f"Sent {count:,} as {records:,} records in {seconds:.1f} s, and marked them under replayed/.")
    say(f"They become rows once the stream has delivered them: see scripts/status.sh{aws.flag}")


def _confirm(count: int, name: str, aws: Aws) -> None:
    if not sys.stdin.isatty():
        raise nobody_to_ask()
    if not is_agreed(f"Send {count:,} to '{name}' in {aws.place}?"):
        raise CommandError("nothing was sent")


# --- Arguments


def _parse(arguments: list[str]) -> argparse.Namespace:
    parser = Parser("replay")
    add_stack_arguments(parser)
    parser.add_argument("--from", dest="zone", choices=get_args(Zone), required=True)
    parser.add_argument("--since", type=_day)
    parser.add_argument("--until", type=_day)
    parser.add_argument("--reason")
    parser.add_argument("--limit", type=_positive)
    parser.add_argument("--dry-run", action="store_true")
    parser.add_argument("--yes", action="store_true")
    options = parser.parse_args(arguments)
    if options.since and options.until and options.since > options.until:
        parser.error(f"--since {options.since} is after --until {options.until}")
    if options.reason and options.zone == "raw":
        parser.error("--reason goes with rejected and errors: records of raw/ have none")
    return options


def _day(text: str) -> date:
    try:
        if len(text) != 10:
            raise ValueError(text)
        return date.fromisoformat(text)
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"'{text}' is not a day: write it as in 2026-01-31 (UTC, the day of delivery)"
        ) from None


def _positive(text: str) -> int:
    if not re.fullmatch(r"[1-9]\d{0,17}", text, re.ASCII):
        raise argparse.ArgumentTypeError(f"'{text}' is not a number of events above 0")
    return int(text)


def _settings(parameters: Mapping[str, str]) -> Settings:
    """The settings in the stack's parameters, as the function reads them from its environment."""
    names = (name.strip().lower() for name in parameters.get("RedactFields", "").split(","))
    handling: Any = parameters.get("IpHandling") or "TRUNCATE"
    return Settings(handling, frozenset(name for name in names if name))


def _nothing(zone: ZoneReader, options: argparse.Namespace, parameters: Mapping[str, str]) -> str:
    place = f"s3://{zone.bucket.name}/{zone.zone}/"
    if options.since or options.until:
        days = " ".join(f"{name} {day}" for name, day in (("from", options.since), ("to", options.until)) if day)
        return f"{place} has no object {days}: these are days of delivery in UTC; leave --since and --until out"
    if zone.zone == "raw" and parameters.get("RawBackup") != "ENABLED":
        return f"{place} is empty: RawBackup is off, so records are not kept as they came"
    retention = _RETENTION[zone.zone]
    return f"{place} is empty: there is nothing to replay ({retention} is {parameters.get(retention, 'unknown')})"


if __name__ == "__main__":
    main(replay)
