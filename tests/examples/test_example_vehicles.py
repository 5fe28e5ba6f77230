"""examples/vehicles: its service, its figures, and the whole of it on a local AWS."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from examples.vehicles import api, check, fleet
from stacks.pull.folder import compile_folder
from stacks.refine.folder import compile_folder as compile_refine_folder

HERE = Path(fleet.__file__).parent
WHOLE = {"fromCreationDate": str(fleet.BEGIN), "toCreationDate": str(fleet.END)}


def ask(path: str, query: dict[str, str], *, token: str = "sesame", is_broken: bool = False) -> api.Answer:
    return api.answer(path, query, f"Bearer {token}", "sesame", is_broken)


def test_the_pages_of_the_service_hold_every_measurement_once() -> None:
    pages = [ask("/sensor-data", {**WHOLE, "page": str(page)})[1] for page in (1, 2, 3)]
    assert {page["total_pages"] for page in pages} == {3}
    assert [len(page["data"]) for page in pages[:2]] == [50_000, 50_000]
    keys = [(row["vehicle_id"], row["timestamp"]) for page in pages for row in page["data"]]
    assert len(keys) == len(set(keys)) == len(fleet.measurements())
    assert ask("/vehicles", WHOLE)[1]["total_pages"] == 1


REFUSED = {
    "no token": (ask("/vehicles", WHOLE, token=""), 401),
    "another token": (ask("/vehicles", WHOLE, token="sésame"), 401),
    "another path": (ask("/", WHOLE), 404),
    "no time": (ask("/vehicles", {}), 400),
    "a page below the first": (ask("/vehicles", {**WHOLE, "page": "0"}), 400),
    "too large a page": (ask("/vehicles", {**WHOLE, "pageSize": "50001"}), 400),
    "the broken page": (ask("/sensor-data", {**WHOLE, "page": "2"}, is_broken=True), 422),
}


@pytest.mark.parametrize(("answer", "status"), REFUSED.values(), ids=REFUSED)
def test_the_service_refuses_what_it_does_not_serve(answer: api.Answer, status: int) -> None:
    assert answer[0] == status
    assert "data" not in answer[1]


def test_the_check_finds_what_differs() -> None:
    gaps = [{"vehicle_type": kind, "mean_gap_seconds": gap} for kind, gap in check.mean_gaps().items()]
    found = [
        {"dt": dt, "vehicle_type": kind, "measurements": every, "measured": measured}
        for (dt, kind), (every, measured) in check.counts().items()
    ]
    assert check.differences(gaps, found) == []
    assert len(check.differences(gaps[1:], found[1:])) == 3
    assert len(check.differences([{**gaps[0], "mean_gap_seconds": 20.0}, *gaps[1:]], found)) == 1


def test_its_sources_and_its_sql_files_can_be_deployed() -> None:
    assert sorted(json.loads(compile_folder(HERE / "sources"))["sources"]) == ["sensor_data", "vehicles"]
    targets = json.loads(compile_refine_folder(HERE / "refine"))["targets"]
    assert [target["table"] for target in targets] == ["vehicles", "sensor_data"]


@pytest.mark.slow
def test_the_example_runs_from_end_to_end() -> None:
    done = subprocess.run([HERE / "run.sh"], capture_output=True, text=True, timeout=500, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"Both queries say what the generator says, of {len(fleet.measurements()):,} measurements" in done.stdout
