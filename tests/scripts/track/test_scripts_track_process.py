"""scripts/track.sh in a process of its own: its memory, and its output when interrupted."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ROOT
from tests.local_process import eventually
from tests.track_api import Api, events_in, file_of, numbers_in

DRIVER = """
import sys
sys.path[:0] = ["tests", "lambda"]
from fake_cloudformation import FakeAws, FakeCloudFormation, Stack
from scripts.commands.common import console
from scripts.commands.track import command as track, sender
aws = FakeAws(cloudformation=FakeCloudFormation(Stack("sluice", outputs={outputs!r})))
track.session = lambda local: aws
"""
RUN = "console.main(track.command)"
IN_FIVES = "track.PACKED = sender.Packing('application/x-ndjson', 5, 10_000, 4)\n"


# Prints its peak memory in kB, before and after. Not ru_maxrss: it includes the parent's memory.
PEAK = """
import re
peak = lambda: re.search(r"VmHWM:\\s+([0-9]+) kB", open("/proc/self/status").read())[1]
before = peak()
code = console.guarded(track.command, sys.argv[1:])
print(before, peak(), file=sys.stderr)
sys.exit(code)
"""


@pytest.fixture
def start(api: Api) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Start the command in a process of its own; it ends with the test."""
    with contextlib.ExitStack() as started:

        def process(*arguments: str, code: str = DRIVER + IN_FIVES + RUN, **options: Any) -> subprocess.Popen[str]:
            command = [sys.executable, "-c", code.format(outputs=api.stack.outputs), *arguments]
            pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
            process = started.enter_context(subprocess.Popen(command, cwd=ROOT, text=True, **pipes, **options))
            started.callback(process.kill)
            return process

        yield process


# Memory


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="only Linux tells the peak of its memory")
def test_a_large_file_is_sent_in_the_memory_of_a_small_one(api: Api, start: Any, tmp_path: Path) -> None:
    path = tmp_path / "large.ndjson"
    with path.open("w") as file:
        file.writelines(f'{{"name": "temperature", "note": "{"x" * 1_500}", "value": {n}}}\n' for n in range(30_000))
    api.accepted = Forgetful()
    api.bodies = Forgetful()
    process = start("--file", str(path), "--rate", "100000", code=DRIVER + PEAK)
    out, err = process.communicate()
    assert process.returncode == 0, err
    assert json.loads(out)["accepted"] == api.accepted.count == 30_000
    before, after = map(int, err.split()[-2:])
    assert after - before < 30_000, "kB more than it has before it reads anything"


class Forgetful(list[Any]):
    """A list that only counts its items."""

    count = 0

    def append(self, item: Any) -> None:
        self.count += 1

    def __iadd__(self, items: Any) -> Forgetful:
        self.count += len(items)
        return self

    def __len__(self) -> int:
        return self.count


# Interruption


@pytest.mark.parametrize(
    ("number", "exit_code"),
    [pytest.param(signal.SIGINT, 130, id="Ctrl-C"), pytest.param(signal.SIGTERM, 143, id="kill")],
)
def test_an_interrupted_file_goes_on_without_a_loss_or_a_second_id(
    api: Api, start: Any, tmp_path: Path, number: int, exit_code: int
) -> None:
    interrupted = threading.Event()
    api.answer = lambda number, body: (202 if number <= 30 or interrupted.wait() else 0, {}, b"{}")
    path = file_of(tmp_path, *[json.dumps({"n": n}) for n in range(2000)])
    process = start("--file", path, "--rate", "400")
    eventually(lambda: len(api.bodies) > 30, pause=0.005)
    process.send_signal(number)
    interrupted.set()
    out, err = process.communicate()
    assert process.returncode == exit_code
    summary = json.loads(out)
    done = summary["next_line"] - 1
    assert summary["accepted"] == done < 2000
    # Events after a gap may have arrived as well: they come again, with their ids.
    assert set(range(done)) <= {event["n"] for event in api.accepted}
    assert f"sent {done:,} lines; go on with: scripts/track.sh --rate 400 --file {path} --from-line {done + 1}" in err
    assert "Traceback" not in err

    again = start("--file", path, "--rate", "5000", "--from-line", str(done + 1))
    again.communicate()
    assert again.returncode == 0
    ids = {(event["n"], event["event_id"]) for event in api.accepted}
    assert sorted(number for number, _ in ids) == list(range(2000))
    assert len({event_id for _, event_id in ids}) == 2000


def test_an_interruption_counts_only_what_is_settled_without_a_gap(api: Api, start: Any, tmp_path: Path) -> None:
    # Line 14 is never accepted: later packs are, but whoever goes on from there must not leave its pack out.
    api.answer = lambda number, body: (503 if 14 in numbers_in(body) else 202, {"Retry-After": "30"}, b"{}")
    path = file_of(tmp_path, *[json.dumps({"n": n}) for n in range(1, 200)])
    process = start("--file", path, "--rate", "2000")
    eventually(lambda: {*range(1, 11), 16} <= {event["n"] for event in api.accepted.copy()}, pause=0.005)
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate()
    assert process.returncode == 130
    assert json.loads(out)["next_line"] == 11


def test_what_a_pipe_brings_is_told_while_it_is_waited_for(api: Api, start: Any) -> None:
    process = start("-", "--rate", "2000", stdin=subprocess.PIPE)
    assert process.stdin is not None
    api.answer = lambda number, body: (413 if len(events_in(body)) > 1 else 400, {}, b'{"message": "no"}')
    process.stdin.write('{"n": 1}\n{"n": 2}\n{"n": ')
    process.stdin.flush()
    assert process.stderr is not None
    assert process.stderr.readline() == "line 1: 400 no\n"  # the pipe is still open, and a line half there
    assert process.stderr.readline() == "line 2: 400 no\n"
    out, _ = process.communicate("3}\n")
    assert json.loads(out)["refused"] == 3
    assert [numbers_in(body) for body in api.bodies if len(events_in(body)) > 1] == [[1, 2]]


def test_ctrl_c_ends_a_wait_for_standard_input(api: Api, start: Any) -> None:
    process = start("-", stdin=subprocess.PIPE)
    assert process.stdin is not None
    process.stdin.write('{"n": 1}\n')
    process.stdin.flush()
    eventually(lambda: len(api.accepted) == 1, pause=0.005)
    process.send_signal(signal.SIGINT)
    process.wait()
    out, err = process.stdout.read(), process.stderr.read()
    process.stdin.close()
    assert process.returncode == 130
    assert json.loads(out)["accepted"] == 1
    assert "sent 1 line; go on with: scripts/track.sh - --from-line 2" in err


def test_standard_input_is_sent_to_its_end(api: Api, start: Any) -> None:
    process = start("-", "--rate", "2000", stdin=subprocess.PIPE)
    out, _ = process.communicate('{"n": 1}\n{"n": 2}')
    assert process.returncode == 0
    assert json.loads(out)["accepted"] == 2
    assert len({event["event_id"] for event in api.accepted}) == 2


def test_an_interrupted_single_event_says_that_it_was_not_accepted(api: Api, start: Any) -> None:
    api.answer = lambda number, body: (503, {"Retry-After": "60"}, b"{}")
    process = start('{"n": 1}')
    eventually(lambda: len(api.bodies) == 1, pause=0.005)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate()
    assert process.returncode == 130
    assert err == "interrupted: the event was not accepted\n"
