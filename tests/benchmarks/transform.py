"""Compares the transform with other ways to do its work, in one run.

    python -m tests.benchmarks.transform [--series N] [--rounds N] [--python PATH] [--node PATH]... [--profile]

Each contender is a process of its own and answers the same invocations in turn, round by round, so other work on the
machine slows all of them alike. Two processes of one program may still differ by a tenth, because their memory lies
elsewhere: so all are started anew for each series. Of a series the median round counts, and of the series the median
ratio, with its range. The time is processor time, of all threads: a busy machine changes it little, and a function of
Lambda shares its part of a processor with its helper threads. First, all must give the same rows. Events have about 600
bytes, every second one brings an id of its own, and each invocation has 1,000: one to a record, as from /track, or 100
to a record, as from /batch.

    ours        the transform function
    stdlib      the same work as a plain loop with json (transform_stdlib.py)
    node        the same work as a Node function (transform.mjs); left out if there is no node
    floor       base64 in and out again with the standard library, and nothing else
    json floor  base64 in and out, each record's body parsed and its rows written, by the transform's libraries, and
                nothing else

--python names the interpreter of all contenders but Node, to measure AWS's version beside another one; it needs the
libraries of lambda/requirements.txt. --node names a Node to measure, and may be given more than once. --profile prints
the time of our own transform by function, with this interpreter.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import cProfile
import io
import json
import os
import platform
import pstats
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
EVENTS = 1_000
SHAPES = {"1 event a record": 1, "100 events a record": 100}


def event(number: int) -> dict[str, Any]:
    """An event of about 600 bytes, as a page would send it."""
    found: dict[str, Any] = {
        "name": "page_view",
        "action": "view",
        "value": number % 1_000 / 10,
        "source": "shop.example.com",
        "user_id": f"user-{number % 5_000}",
        "timestamp": f"2026-11-21T06:{number // 60 % 60:02d}:{number % 60:02d}.{number % 1_000:03d}Z",
        "url": f"https://shop.example.com/catalogue/shoes/{number % 97}?colour=red&size=42",
        "referrer": "https://search.example.org/",
        "title": "Röde Schuhe, Größe 42",
        "screen": {"width": 2560, "height": 1440, "ratio": 1.25},
        "language": "de-DE",
        "properties": {
            "plan": "pro",
            "experiment": "checkout-7",
            "items": [{"sku": f"A-{number:06d}", "quantity": 1, "price": 79.9}, {"sku": "B-2001", "price": 9.5}],
            "consent": {"analytics": True, "marketing": False},
        },
    }
    if number % 2:
        found["event_id"] = f"{number:08d}-7b1a-4c4d-9a55-bcdfab018f3c"
    return found


def invocation(events_per_record: int) -> dict[str, Any]:
    """An invocation of EVENTS events."""
    records = []
    for start in range(0, EVENTS, events_per_record):
        events = [event(number) for number in range(start, start + events_per_record)]
        body = json.dumps(events if events_per_record > 1 else events[0], separators=(",", ":"), ensure_ascii=False)
        extended = f"Ab{start:012d}="
        agent = base64.b64encode(f"Mozilla/5.0 (X11; Linux x86_64; rv:{start % 7}) Firefox/140.0".encode()).decode()
        line = (
            f"sluice/1 request_id=5d9c1b3e-1f1a-4a9b-9c7e-{start:012x} extended_request_id={extended}"
            f" time={1763706000000 + start} ip=203.0.113.{start % 251} user_agent={agent}"
        )
        data = f"{line}\n{body}\nsluice/end extended_request_id={extended}\n".encode()
        record = {"recordId": f"{start:064d}", "approximateArrivalTimestamp": 1763706000987}
        records.append({**record, "data": base64.b64encode(data).decode()})
    arn = "arn:aws:firehose:us-east-1:123456789012:deliverystream/events"
    return {"invocationId": "i", "deliveryStreamArn": arn, "region": "us-east-1", "records": records}


# --- The contenders, each in a process of its own -----------------------------------------------------------------

Handle = Callable[[dict[str, Any]], dict[str, Any]]


def ours() -> Handle:
    sys.path.insert(0, str(ROOT / "lambda"))
    from transform.handler import lambda_handler

    class Context:
        function_name = "transform"

        def get_remaining_time_in_millis(self) -> int:
            return 60_000

    context = Context()

    def handle(found: dict[str, Any]) -> dict[str, Any]:
        with contextlib.redirect_stdout(io.StringIO()):  # the line of metrics
            return dict(lambda_handler(found, context))

    return handle


def stdlib() -> Handle:
    from tests.benchmarks.transform_stdlib import handle

    return handle


def floor() -> Handle:
    from binascii import a2b_base64, b2a_base64

    def handle(found: dict[str, Any]) -> dict[str, Any]:
        return {
            "records": [
                {
                    "recordId": record["recordId"],
                    "result": "Ok",
                    "data": b2a_base64(a2b_base64(record["data"]), newline=False).decode("ascii"),
                }
                for record in found["records"]
            ]
        }

    return handle


def json_floor() -> Handle:
    import orjson
    from pybase64 import b64decode, b64encode_as_string

    def answer(record: dict[str, Any]) -> dict[str, Any]:
        body = b64decode(record["data"], validate=True).split(b"\n")[1]
        found = orjson.loads(body)
        # A row holds its properties as JSON text, so everything is written twice.
        rows = [
            orjson.dumps({"properties": orjson.dumps(sent).decode()}, option=orjson.OPT_APPEND_NEWLINE)
            for sent in (found if type(found) is list else [found])
        ]
        return {"recordId": record["recordId"], "result": "Ok", "data": b64encode_as_string(b"".join(rows))}

    return lambda found: {"records": [answer(record) for record in found["records"]]}


CONTENDERS = {"ours": ours, "stdlib": stdlib, "floor": floor, "json floor": json_floor}


def work(name: str, path: str) -> None:
    """A contender's process: it answers one invocation for each line on standard input.

    It prints the nanoseconds of processor time; for the line "reply", the reply instead.
    """
    handle = CONTENDERS[name]()
    found = json.loads(Path(path).read_bytes())
    for line in sys.stdin:
        before = time.process_time_ns()
        reply = handle(found)
        used = time.process_time_ns() - before
        print(json.dumps(reply) if line == "reply\n" else used, flush=True)


class Contender:
    """A contender's process, as seen from here."""

    def __init__(self, command: list[str], path: Path) -> None:
        self.used: list[int] = []
        self.process = subprocess.Popen(
            [*command, str(path)], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def ask(self, line: str) -> str:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        if not answer:
            raise SystemExit(f"{self.process.args!r} ended without an answer")
        return answer

    def rows(self) -> list[dict[str, Any]]:
        """Every row of its reply, without the id, because contenders make ids differently; properties as a value."""
        found = []
        for record in json.loads(self.ask("reply"))["records"]:
            for line in base64.b64decode(record["data"]).splitlines():
                row = json.loads(line)
                if len(row.pop("event_id")) not in (32, 36):
                    raise SystemExit("an event has no id")
                found.append({**row, "properties": json.loads(row["properties"])})
        return found

    def run(self) -> None:
        self.used.append(int(self.ask("run")))

    def close(self) -> None:
        self.process.terminate()
        self.process.communicate()


def version(interpreter: str) -> str:
    """An interpreter's version, as in 3.13.5 or 24.1.0."""
    answer = subprocess.run([interpreter, "--version"], check=True, capture_output=True, text=True)
    return answer.stdout.strip().removeprefix("Python ").removeprefix("v")


def measure(events_per_record: int, rounds: int, python: str, nodes: dict[str, str]) -> dict[str, float]:
    """Microseconds of processor time for one event, by contender: of the median round of one series.

    `nodes` are interpreters by the names of their contenders.
    """
    commands = {name: [python, "-m", "tests.benchmarks.transform", "--worker", name] for name in CONTENDERS}
    commands |= {name: [node, str(HERE / "transform.mjs")] for name, node in nodes.items()}
    with tempfile.TemporaryDirectory(prefix="sluice-benchmark-") as directory:
        path = Path(directory) / "invocation.json"
        path.write_text(json.dumps(invocation(events_per_record)))
        contenders = {name: Contender(command, path) for name, command in commands.items()}
        try:
            rows = contenders["ours"].rows()
            for name in contenders.keys() - {"floor", "json floor"}:
                if contenders[name].rows() != rows or len(rows) != EVENTS:
                    raise SystemExit(f"{name} does not give the same rows as ours")
            for _ in range(rounds):
                for contender in contenders.values():
                    contender.run()
        finally:
            for contender in contenders.values():
                contender.close()
    return {name: statistics.median(contender.used) / 1_000 / EVENTS for name, contender in contenders.items()}


def show(series: list[dict[str, float]]) -> None:
    """A line for each contender: its time, and how often ours it is."""
    times = {name: statistics.median(one[name] for one in series) for name in series[0]}
    for name in sorted(times, key=times.__getitem__):
        ratios = [one[name] / one["ours"] for one in series]
        print(
            f"  {name:<13} {times[name]:6.2f} µs an event, {statistics.median(ratios):5.2f} times ours"
            f" ({min(ratios):.2f} to {max(ratios):.2f})"
        )


def profile(events_per_record: int) -> None:
    """Where the time of our own transform goes, by function."""
    handle, found = ours(), invocation(events_per_record)
    handle(found)
    profiler = cProfile.Profile()
    profiler.enable()
    for _ in range(20):
        handle(found)
    profiler.disable()
    stats: Any = pstats.Stats(profiler)
    total = stats.total_tt
    lines = sorted(((own, name) for name, (_, _, own, _, _) in stats.stats.items()), reverse=True)
    for own, (path, _, name) in lines[:16]:
        print(f"  {own / total:6.1%}  {name if path == '~' else f'{Path(path).name}: {name}'}")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--series", type=int, default=8, help="times that all are started anew (default: 8)")
    parser.add_argument("--rounds", type=int, default=15, help="rounds of each series (default: 15)")
    parser.add_argument("--python", default=sys.executable, help="the interpreter to measure (default: this one)")
    parser.add_argument("--node", action="append", help="a Node to measure; repeatable (default: the installed)")
    parser.add_argument("--profile", action="store_true", help="say where our own time goes instead")
    parser.add_argument("--worker", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        work(*arguments.worker)
        return
    size = sum(len(json.dumps(event(number), separators=(",", ":")).encode()) for number in range(EVENTS)) / EVENTS
    python = platform.python_version() if arguments.profile else version(arguments.python)
    machine = f"{platform.machine()}, {os.cpu_count()} processors, Python {python}"
    print(f"{machine}; {EVENTS:,} events of {size:.0f} bytes; {arguments.series} series of {arguments.rounds} rounds")
    if arguments.profile:
        for shape, events_per_record in SHAPES.items():
            print(f"\n{shape}: where our own time goes, as a profiler sees it")
            profile(events_per_record)
        return
    installed = shutil.which("node")
    nodes = {f"node {version(node)}": node for node in arguments.node or ([installed] if installed else [])}
    if not nodes:
        print("node is left out: it is not installed")
    for shape, events_per_record in SHAPES.items():
        series = [
            measure(events_per_record, arguments.rounds, arguments.python, nodes) for _ in range(arguments.series)
        ]
        print(f"\n{shape}")
        show(series)


if __name__ == "__main__":
    main()
