"""examples/weather: its archive, its check, its environments, and the whole of it on a local AWS."""

from __future__ import annotations

import json
import re
import subprocess
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from examples.weather import api, archive, check, declare
from scripts.commands.common.console import CommandError
from scripts.commands.deploy import environments
from scripts.commands.deploy.command import FILLED_IN
from scripts.commands.deploy.product import read_product
from scripts.commands.deploy.template import effective_parameters
from stacks.pull.folder import compile_folder
from stacks.refine.folder import compile_folder as compile_refine_folder

HERE = Path(archive.__file__).parent
ENVIRONMENTS = {name: environments.read(str(HERE / f"environments/{name}.json")) for name in ("dev", "prod")}

END = date(2014, 12, 31)
QUERY = {
    "latitude": ["47.2"],
    "longitude": ["-122.8"],
    "start_date": ["2014-12-28"],
    "end_date": ["2014-12-31"],
    "daily": ["temperature_2m_max,precipitation_sum"],
    "timezone": ["UTC"],
}


def ask(changes: dict[str, list[str]], end: date = END) -> api.Answer:
    return api.answer("/v1/archive", {**QUERY, **changes}, end)


def test_the_archive_answers_with_a_list_for_each_variable() -> None:
    status, document = ask({})
    assert (status, document["daily_units"]) == (
        200,
        {"time": "iso8601", "temperature_2m_max": "°C", "precipitation_sum": "mm"},
    )
    assert list(document["daily"]) == ["time", "temperature_2m_max", "precipitation_sum"]
    assert document["daily"]["time"] == ["2014-12-28", "2014-12-29", "2014-12-30", "2014-12-31"]
    assert {len(column) for column in document["daily"].values()} == {4}


def test_the_last_two_days_are_preliminary_until_the_archive_goes_on() -> None:
    before, after = (ask({}, end)[1]["daily"]["temperature_2m_max"] for end in (END, date(2015, 1, 7)))
    assert before[:2] == after[:2]
    assert before[2:] == [round(value) for value in after[2:]] != after[2:]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        pytest.param({"latitude": []}, "Parameter 'latitude' must be given once", id="no place"),
        pytest.param({"latitude": ["47.2,47.3"]}, "Parameter 'latitude' must be one number", id="two places"),
        pytest.param({"longitude": ["181"]}, "Longitude must be in range of -180 to 180°. Given: 181.0.", id="too far"),
        pytest.param(
            {"start_date": ["31.12.2014"]}, "Parameter 'start_date' must be a day, such as 2014-01-31", id="day"
        ),
        pytest.param(
            {"end_date": ["2015-01-01"]},
            "Parameter 'end_date' is out of allowed range from 2012-01-01 to 2014-12-31",
            id="behind the end",
        ),
        pytest.param(
            {"end_date": ["2014-12-01"]}, "End-date must be larger or equals than start-date", id="the wrong way round"
        ),
        pytest.param({"timezone": ["CET"]}, "'CET' is not a timezone here: there are GMT and UTC", id="timezone"),
        pytest.param(
            {"daily": ["snow"]}, f"'snow' is not a daily variable here: there are {', '.join(api.UNITS)}", id="snow"
        ),
    ],
)
def test_the_archive_says_what_is_wrong_with_a_request(changes: dict[str, list[str]], reason: str) -> None:
    assert ask(changes) == (400, {"error": True, "reason": reason})


def test_there_is_nothing_at_another_path() -> None:
    assert api.answer("/v1/forecast", QUERY, END)[0] == 404


def test_a_year_of_the_grid_is_36_500_rows_some_of_which_have_gaps() -> None:
    grid = archive.sensors()
    assert len({(sensor.latitude, sensor.longitude) for sensor in grid}) == len({each.id for each in grid}) == 100
    assert len({sensor.region for sensor in grid}) == 25
    year = archive.days(archive.FIRST_DAY, archive.LAST_DAY)
    rows = [archive.weather(each.latitude, each.longitude, day, END) for each in grid for day in year]
    assert (len(rows), sum(None in row for row in rows)) == (36_500, 73)


def test_the_declared_source_is_what_its_program_writes_and_can_be_deployed() -> None:
    assert (HERE / "sources/weather.json").read_text() == declare.declare()
    assert list(json.loads(compile_folder(HERE / "sources"))["sources"]) == ["weather"]


def test_its_sql_files_can_be_deployed() -> None:
    targets = json.loads(compile_refine_folder(HERE / "refine"))["targets"]
    assert [target["table"] for target in targets] == ["sensor_days", "region_days"]


@pytest.fixture(scope="module")
def wanted() -> list[dict[str, Any]]:
    """The rows of sensor_days for two sensors."""
    return check.sensor_days(2)


def test_the_check_takes_numbers_that_are_rounded(wanted: list[dict[str, Any]]) -> None:
    def shown(name: str, value: Any) -> Any:
        return round(value, check.DIGITS.get(name, 9)) if isinstance(value, float) else value

    rounded = [{name: shown(name, value) for name, value in row.items()} for row in wanted]
    assert check.differences(wanted, rounded, "dt", "sensor_id") == []


def test_the_check_finds_every_figure_that_is_wrong(wanted: list[dict[str, Any]]) -> None:
    def falsify(value: Any) -> Any:
        return f"not {value}" if isinstance(value, str) else not value if isinstance(value, bool) else value + 0.2

    names = wanted[0].keys() - {"dt", "sensor_id"}
    for name in names:
        wrong = [wanted[0] | {name: falsify(wanted[0][name])}, *wanted[1:]]
        [line] = check.differences(wanted, wrong, "dt", "sensor_id")
        assert line.startswith(f"2014-01-01 SENSOR_0000: {name} is ")
    assert len(names) > 5


def test_the_check_finds_rows_that_are_missing_doubled_or_too_many(wanted: list[dict[str, Any]]) -> None:
    def compare(rows: list[dict[str, Any]]) -> list[str]:
        return check.differences(wanted, rows, "dt", "sensor_id")

    assert compare(wanted[1:]) == ["2014-01-01 SENSOR_0000: no such row"]
    assert compare([*wanted, wanted[0]]) == ["2014-01-01 SENSOR_0000: 2 rows, and one is right"]
    assert compare([*wanted, {**wanted[0], "sensor_id": "X"}]) == ["2014-01-01 X: a row that should not be"]


def test_the_check_counts_the_warmest_region_from_one_and_a_week_from_its_first_day(
    wanted: list[dict[str, Any]],
) -> None:
    regions = check.region_days(check.sensor_days(4))
    first = [row for row in regions if row["dt"] == "2014-01-01"]
    assert {row["warmest"] for row in first} == {1, 2}
    assert [row["week_precipitation"] for row in first] == [row["precipitation"] for row in first]


def test_dev_and_prod_set_the_same_parameters() -> None:
    assert ENVIRONMENTS["dev"].parameters.keys() == ENVIRONMENTS["prod"].parameters.keys()


@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_what_an_environment_sets_is_what_the_template_takes(name: str) -> None:
    needs = dict.fromkeys(ENVIRONMENTS[name].needs_one_of, "")
    product = read_product().template
    effective_parameters(product, {}, {**FILLED_IN, **needs, **ENVIRONMENTS[name].parameters})
    assert ENVIRONMENTS[name].stack_name == f"sluice-{name}"


@pytest.mark.parametrize("parameter", ENVIRONMENTS["dev"].parameters)
def test_every_difference_stands_in_its_readme(parameter: str) -> None:
    values = [environment.parameters[parameter] for environment in ENVIRONMENTS.values()]
    shown = " | ".join(f"`{value}`" if value else "empty" for value in values)
    row = rf"^\| .+ \| .+ \| .+ \| `{parameter}` \| {re.escape(shown)} \| .+ \|$"
    assert re.search(row, (HERE / "README.md").read_text(), re.MULTILINE), f"`{parameter}` | {shown}"


def test_a_file_of_an_environment_that_is_not_there_is_named() -> None:
    with pytest.raises(CommandError, match=r"there is no environment 'nowhere/prod\.json'$"):
        environments.read("nowhere/prod.json")


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["--kep"], "error: '--kep' is not an option (see examples/weather/run.sh --help)\n"),
        (["--sensors", "101"], "error: --sensors takes a number from 1 to 100 (got '101')\n"),
        (["--sensors"], "error: --sensors takes a number from 1 to 100 (got '')\n"),
    ],
    ids=str,
)
def test_it_refuses_options_that_it_does_not_have(arguments: list[str], error: str) -> None:
    done = subprocess.run([HERE / "run.sh", *arguments], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (2, error)


@pytest.mark.slow
def test_the_example_runs_from_end_to_end() -> None:
    done = subprocess.run([HERE / "run.sh", "--sensors", "12"], capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "weather: there is nothing new since the checkpoint" in done.stdout
    # A week, and two days once more; then all nine once more.
    assert re.findall(r"^ +(\d+) +(\d+) +(\d+) +$", done.stdout, re.MULTILINE) == [
        ("4488", "4464", "4464"),
        ("4596", "4464", "4464"),
    ]
    assert "All 4,464 days of sensors and 1,860 of regions are as the archive makes them" in done.stdout
