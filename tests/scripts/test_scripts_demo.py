"""scripts/demo.sh: its events and how it accounts for them; and the whole of it, interrupted and run again."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from scripts.commands import demo
from scripts.commands.common.stack import Stack
from scripts.commands.track.sender import Answer, Line
from tests.conftest import ROOT, environment_of_a_new_machine
from tests.factories import stand_in

CSV = "temp,date\n47.8,2010/01/01 00:00\n47.4,2010/01/01 01:00\n"
NOTHING = dict.fromkeys(("Received", "Accepted", "Dropped", "Rejected", "Failed"), 0)


def test_a_temperature_is_an_event_with_its_time_and_an_id_that_stays(tmp_path: Path) -> None:
    path = tmp_path / "sf-temps.csv"
    path.write_text(CSV)
    first, second = demo.read_temperatures(path)
    assert {**first, "event_id": ""} == {
        "event_id": "",
        "source": "sf",
        "name": "temperature",
        "value": "47.8",
        "timestamp": "2010-01-01T00:00Z",
    }
    assert first["event_id"] != second["event_id"]
    assert list(demo.read_temperatures(path)) == [first, second]


class Logs:
    """CloudWatch Logs with these lines, one a page."""

    def __init__(self, *lines: str) -> None:
        self.lines = lines

    def client(self, service: str) -> Logs:
        assert service == "logs"
        return self

    def get_paginator(self, operation: str) -> Logs:
        assert operation == "filter_log_events"
        return self

    def paginate(self, logGroupName: str) -> list[dict[str, Any]]:
        assert logGroupName == "the-group"
        return [{"events": [{"message": line}]} for line in self.lines]


def test_outcomes_are_the_sum_over_what_the_transform_printed() -> None:
    line = json.dumps({"_aws": {}, "Received": 3, "Accepted": 2, "Rejected": 1, "Reason": "x"})
    aws: Any = Logs(line, "START RequestId: 1", '{"level": "INFO", "Received": 99}', line)
    stack = Stack(aws, "sluice")
    vars(stack)["ids"] = {"TransformLogGroup": "the-group"}
    assert demo.count_outcomes(stack) == {**NOTHING, "Received": 6, "Accepted": 4, "Rejected": 2}


def answers(accepted: int, refused: int) -> list[Answer]:
    line = Line(1, b"{}")
    return [Answer(line, 202, "")] * accepted + [Answer(line, 400, "")] * refused


BEFORE = {"Received": 100, "Accepted": 90, "Dropped": 5, "Rejected": 5, "Failed": 0}


@pytest.mark.parametrize(
    ("more", "adds_up", "words"),
    [
        pytest.param({"Accepted": 5, "Dropped": 2, "Rejected": 1}, True, "", id="every event has one outcome"),
        pytest.param({"Accepted": 5, "Dropped": 1, "Failed": 1, "Rejected": 1}, True, "", id="a failed one has, too"),
        pytest.param({"Accepted": 5, "Dropped": 2}, False, "but 8 accounted for", id="one is missing"),
        pytest.param({"Accepted": 7, "Dropped": 2, "Rejected": 1}, False, "but 11 accounted for", id="two are double"),
    ],
)
def test_figures_of_this_run_add_up_or_it_says_so(
    more: dict[str, int], adds_up: bool, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    after = {outcome: count + more.get(outcome, 0) for outcome, count in BEFORE.items()}
    assert demo.account_for(answers(8, 1), BEFORE, after) is adds_up
    out = capsys.readouterr().out
    assert ("accounted for" in out) is not adds_up
    if not adds_up:
        assert words in out


def test_two_demos_at_once_fetch_their_data_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data, commands = tmp_path / "home" / "demo", []

    def pip(command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        commands.append(command)
        time.sleep(0.1)  # so that the other asks meanwhile
        (data / "vega_datasets" / "_data").mkdir(parents=True)
        (data / "vega_datasets" / "_data" / "a.csv").write_text("x")
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(demo, "DATA", data)
    monkeypatch.setattr(demo, "subprocess", stand_in(subprocess, run=pip))
    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(demo.fetch_dataset, ["a.csv", "a.csv"])
    assert first.read_text() == second.read_text() == "x"
    assert len(commands) == 1


def table(text: str) -> dict[str, str]:
    """The table of outcomes: events by outcome."""
    rows = [line.strip("│ ").split("│") for line in text.splitlines() if line.startswith("│")]
    return {row[0].strip(): row[1].strip() for row in rows}


@pytest.mark.slow
def test_it_may_be_interrupted_and_run_again_and_adds_up(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    environment = environment_of_a_new_machine(HOME=str(tmp_path), SLUICE_LOCAL_STATE=str(tmp_path / "aws"))
    command = ["bash", str(ROOT / "scripts" / "demo.sh"), "--port", str(port)]

    def start() -> subprocess.Popen[str]:
        return subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
        )

    try:
        first = start()
        assert first.stderr
        told = ""
        while "3. Events over HTTP" not in told:
            line = first.stderr.readline()
            assert line, told
            told += line
        # To the whole group, as a terminal sends Ctrl-C.
        os.killpg(first.pid, signal.SIGINT)
        assert "interrupted" in first.communicate(timeout=30)[1]
        assert first.returncode == 130
        with pytest.raises(ProcessLookupError):
            os.killpg(first.pid, 0)

        second = start()
        out, err = second.communicate(timeout=500)
        assert second.returncode == 0, err
        assert table(out) == {
            "a row in the table": "8,760",
            "dropped by a rule": "2",
            "rejected with a reason": "1",
            "failed": "0",
            "refused at the door": "1",
            "posted": "8,764",
        }
        assert "temperature" in out and "8759" in out
    finally:
        subprocess.run(["bash", str(ROOT / "scripts" / "local.sh"), "stop"], env=environment, check=True)
