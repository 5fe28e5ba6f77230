"""Measures a replay killed twice: every rejected and failed event must come back, and count once.

    python -m tests.benchmarks.replay [--events N]

One run starts a local AWS of its own and deploys a transform with two faults: a schema rejects one half of the events,
and a rule raises for the other. Then it deploys the right transform, and replays both zones. The first two replays of
each are killed (SIGKILL): one between a call and its mark, one in the middle. The ids of the rows are compared with the
events' own.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import tempfile
import time
from base64 import b64decode
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from tests import factories
from tests.conftest import ROOT
from tests.local_process import Bucket, LocalProcess, eventually
from transform.events import Settings, transform

SCHEMA = ("lambda/transform/schema.json", '"max_length": 256', '"max_length": 12')
RULE = (
    "lambda/transform/rules.py",
    "    for field in TRIMMED_FIELDS:\n        value = event.get(field)\n",
    '    for field in TRIMMED_FIELDS:\n        value = event.get(field)\n        if value == "breaks":\n'
    "            raise KeyError(field)\n",
)
BREAKAGES = (SCHEMA, RULE)
KILL = (
    "scripts/commands/replay/send.py",
    "            marks.add(taken)\n",
    "            __import__('os').kill(__import__('os').getpid(), 9)\n",
)
COUNT = """WITH deliveries AS (
    SELECT row_number() OVER (PARTITION BY event_id ORDER BY received_at) AS delivery
    FROM "${AthenaDatabaseName}"."${AthenaTableName}"
    WHERE dt >= date_format(current_date - interval '30' day, '%Y-%m-%d')
)
SELECT count(*) AS events FROM deliveries WHERE delivery = 1"""
LONG_NAME = "a name of more than twelve characters"
CALL = 500  # records in a call, and so in a mark


def records(number_of_events: int) -> Iterator[bytes]:
    """Records of so many events in every form; one half is rejected, and the other fails."""
    number = 0
    while number < number_of_events:
        name = LONG_NAME if number % 2 else "breaks"
        event: dict[str, Any] = {"name": name, "number": number}
        context = {"extended_request_id": f"extended-{number}", "request_id": f"request-{number}"}
        match number // 2 % 10:
            case 0 | 1 | 2 | 3:
                yield factories.record({**event, "event_id": f"own-{number}"}, **context)
            case 4 | 5 | 6:
                yield factories.record(event, **context)
            case 7:
                yield factories.record(urlencode(event), **context, form="query")
            case 8 if number + 2 <= number_of_events:
                yield factories.record([{**event, "value": 1}, {**event, "value": 2}], **context)
                number += 1
            case _:
                yield json.dumps(event).encode()  # as an SDK puts it
        number += 1


@dataclass
class Result:
    """Figures of one run; times in seconds."""

    rejected: int = 0
    failed: int = 0
    expected: set[str] = field(default_factory=set)
    ids: Counter[str] = field(default_factory=Counter)
    """How often each event_id is in the events table's objects."""
    deduplicated: int = 0
    """The count of a query with one row for each event_id, like the saved queries."""
    marked_before_kill: list[int] = field(default_factory=list)
    """How many items each killed replay had marked."""
    seconds: dict[str, float] = field(default_factory=dict)
    second_runs: list[str] = field(default_factory=list)
    """The messages of a further replay of each zone."""


def copy_repository(directory: Path, breakages: Iterable[tuple[str, str, str]] = ()) -> Path:
    """Copy everything needed for a deployment to `directory`, with these things broken; returns `directory`."""
    for folder in ("scripts", "lambda", "stacks"):
        shutil.copytree(ROOT / folder, directory / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("template.yaml", "queries.sql"):
        shutil.copy(ROOT / name, directory / name)
    (directory / ".sluice").symlink_to(ROOT / ".sluice")
    for file, old, new in breakages:
        text = (directory / file).read_text()
        assert text.count(old) == 1, f"{file} does not hold what is to be broken: {old}"
        (directory / file).write_text(text.replace(old, new))
    return directory


def run_script(home: Path, state: Path, name: str, *arguments: str) -> subprocess.Popen[str]:
    """Start `scripts/<name>.sh --local` of a copy of the repository."""
    command = ["bash", str(home / "scripts" / f"{name}.sh"), "--local", *arguments]
    environment = {**os.environ, "SLUICE_LOCAL_STATE": str(state)}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def finish(process: subprocess.Popen[str], code: int = 0) -> tuple[str, str]:
    """Wait for a script to exit with this code; returns its standard output and error."""
    out, err = process.communicate(timeout=900)
    assert process.returncode == code, out + err
    return out, err


def put_all(aws: LocalProcess, stream: str, events: int) -> None:
    """Put the records on the stream, a full call at a time."""
    firehose, waiting = aws.client("firehose"), []
    for record in records(events):
        waiting.append({"Data": record})
        if len(waiting) == CALL:
            assert not firehose.put_record_batch(DeliveryStreamName=stream, Records=waiting)["FailedPutCount"]
            waiting = []
    if waiting:
        assert not firehose.put_record_batch(DeliveryStreamName=stream, Records=waiting)["FailedPutCount"]


def expected_ids(bucket: Bucket) -> tuple[list[str], list[str]]:
    """The ids in the rows of rejected events, and the ids given to the events of failed records."""
    rejected = [row["event_id"] for row in bucket.documents("rejected/")]
    failed = [
        json.loads(row)["event_id"]
        for envelope in bucket.documents("errors/")
        for row in transform(b64decode(envelope["rawData"]), envelope["arrivalTimestamp"], Settings())
        if isinstance(row, bytes)
    ]
    return rejected, failed


def marked(bucket: Bucket) -> int:
    """How many items the marks hold."""
    return sum(len(path.read_bytes().split()) for path in bucket.files("replayed/"))


def run(directory: Path, events: int) -> Result:
    """One run, with all of its state in `directory`."""
    result = Result()
    with LocalProcess(directory / "aws") as aws:
        broken, home = copy_repository(directory / "broken", BREAKAGES), copy_repository(directory / "fixed")
        killed = copy_repository(directory / "killed", [KILL])
        options = ("--yes", "--parameter", "FirehoseBufferingInterval=1")
        out, _ = finish(run_script(broken, aws.directory, "deploy", *options))
        outputs = dict(line.split("\t") for line in out.splitlines())
        bucket = aws.bucket(outputs["BucketName"])
        put_all(aws, outputs["StreamName"], events)

        def is_delivered() -> bool:
            found = expected_ids(bucket)
            return len(found[0]) + len(found[1]) >= events

        eventually(is_delivered, seconds=60 + events / 200, pause=1 + events / 20_000)
        rejected, failed = expected_ids(bucket)
        result.rejected, result.failed, result.expected = len(rejected), len(failed), {*rejected, *failed}
        assert not list(bucket.event_ids())
        finish(run_script(home, aws.directory, "deploy", "--yes"))
        for zone in ("rejected", "errors"):
            began = time.monotonic()
            kill_before_the_mark(killed, aws, bucket, zone, result)
            kill_in_the_middle(home, aws, bucket, zone, events // 2, result)
            finish(run_script(home, aws.directory, "replay", "--from", zone))
            result.seconds[zone] = time.monotonic() - began
            result.second_runs.append(finish(run_script(home, aws.directory, "replay", "--from", zone))[1])
        eventually(lambda: len(bucket.event_ids()) >= events, seconds=60 + events / 500, pause=1 + events / 50_000)
        result.ids, result.deduplicated = bucket.event_ids(), count(home, aws)
    return result


def count(home: Path, aws: LocalProcess) -> int:
    """The answer of the de-duplicated query."""
    out, _ = finish(run_script(home, aws.directory, "query", "--format", "json", "--sql", COUNT))
    events: int = json.loads(out)["events"]
    return events


def kill_before_the_mark(killed: Path, aws: LocalProcess, bucket: Bucket, zone: str, result: Result) -> None:
    """Let a replay die after its first call, before it writes the mark."""
    before = marked(bucket)
    process = run_script(killed, aws.directory, "replay", "--from", zone)
    said = process.communicate(timeout=900)
    assert process.returncode == -signal.SIGKILL, said
    assert marked(bucket) == before
    result.marked_before_kill.append(0)


def kill_in_the_middle(home: Path, aws: LocalProcess, bucket: Bucket, zone: str, events: int, result: Result) -> None:
    """Start a replay, and kill it when it has marked a quarter more."""
    before = marked(bucket)
    process = run_script(home, aws.directory, "replay", "--from", zone)
    while process.poll() is None and marked(bucket) < before + events // 4:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    said = process.communicate()
    assert process.returncode == -signal.SIGKILL, f"it was through before it could be killed: {said}"
    result.marked_before_kill.append(marked(bucket) - before)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--events", type=int, default=100_000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        result = run(Path(directory), options.events)
    missing, strange = result.expected - result.ids.keys(), result.ids.keys() - result.expected
    print(f"{result.rejected:,} events rejected, {result.failed:,} events failed: {len(result.expected):,} ids")
    print(f"{len(result.ids):,} ids came back, {len(missing):,} did not, {len(strange):,} are new")
    print(f"the de-duplicated query counts {result.deduplicated:,}")
    print(f"{result.ids.total():,} rows, {result.ids.total() - len(result.ids):,} of them copies of an id")
    print(f"marked when killed: {', '.join(f'{count:,}' for count in result.marked_before_kill)}")
    for zone, seconds in result.seconds.items():
        print(f"replaying {zone}, killed twice: {seconds:.1f} s")
    for text in result.second_runs:
        print(text.strip().splitlines()[-1])


if __name__ == "__main__":
    main()
