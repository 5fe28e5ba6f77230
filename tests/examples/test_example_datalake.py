"""The example of a data lake: its check can fail, and the whole of it runs with one command."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from examples.datalake.check import COMPARED, differences, expected, found
from examples.datalake.records import records
from stacks.refine.folder import compile_folder
from tests.conftest import ROOT, environment_of_a_new_machine

EXAMPLE = ROOT / "examples" / "datalake"


def rows() -> list[dict[str, Any]]:
    """The rows of daily-by-source as they should be."""
    return [{"day": day, "source": source, **figures} for (day, source), figures in expected().items()]


def compare(changed: list[dict[str, Any]]) -> list[str]:
    return differences(expected(), found([json.dumps(row) for row in changed]))


def test_the_records_are_the_same_each_time_and_as_many_as_it_says() -> None:
    assert list(records()) == list(records())
    assert len(list(records())) == 2592 + 576 + 144


def test_the_check_takes_what_is_right_and_means_that_are_rounded() -> None:
    rounded = [
        {**row, "mean_temperature": row["mean_temperature"] and round(row["mean_temperature"], 2)} for row in rows()
    ]
    assert compare(rounded) == []


@pytest.mark.parametrize("name", COMPARED)
def test_the_check_finds_a_figure_that_is_wrong(name: str) -> None:
    wrong = rows()
    row = next(row for row in wrong if row["source"] == "iot_sensors")
    row[name] += 1
    assert [line.split(":")[1].split()[0] for line in compare(wrong)] == [name]


def test_the_check_finds_rows_that_are_missing_and_rows_too_many() -> None:
    assert compare(rows()[1:]) == ["2025-11-25 iot_sensors: no such row"]
    extra = {**rows()[0], "source": "other"}
    assert compare([*rows(), extra]) == ["2025-11-25 other: a row too many"]


def test_its_sql_files_are_compiled() -> None:
    targets = json.loads(compile_folder(EXAMPLE / "refine"))["targets"]
    assert [target["table"] for target in targets] == ["processed_data", "daily_by_source", "device_days"]


@pytest.fixture
def stopped() -> Iterator[None]:
    """Whatever happens, no local AWS of the example goes on running."""
    yield
    environment = {**os.environ, "SLUICE_LOCAL_STATE": str(ROOT / ".sluice/examples/datalake/aws")}
    subprocess.run(["bash", str(ROOT / "scripts/local.sh"), "stop"], env=environment, capture_output=True, check=False)


@pytest.mark.slow
def test_one_command_runs_it_from_end_to_end(stopped: None, tmp_path: Path) -> None:
    environment = environment_of_a_new_machine(HOME=str(tmp_path))
    command = ["bash", str(EXAMPLE / "run.sh")]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path, timeout=500)
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"^(\d+) of \1 checks are as expected$", done.stdout, re.MULTILINE), done.stdout
    assert "All 3,313 records are there, each once, and the 9 daily figures are those of the records" in done.stdout


def test_it_refuses_an_option_that_it_does_not_have() -> None:
    done = subprocess.run(["bash", str(EXAMPLE / "run.sh"), "--kep"], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (
        2,
        "error: '--kep' is not an option (see examples/datalake/run.sh --help)\n",
    )
