"""scripts/environments/: what is in the files, what deploy.sh makes of them, and what the README says of them."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from scripts.commands import deploy, environments
from scripts.commands.console import CommandError
from scripts.commands.template import TEMPLATE, effective_parameters, load

ROOT = TEMPLATE.parent
NAMES = ("dev", "prod")
SETTINGS: dict[str, dict[str, Any]] = {
    name: json.loads((ROOT / f"scripts/environments/{name}.json").read_text()) for name in NAMES
}
README = (ROOT / "README.md").read_text()


def test_dev_and_prod_set_the_same_parameters_so_that_neither_keeps_what_the_other_would_change() -> None:
    assert SETTINGS["dev"]["parameters"].keys() == SETTINGS["prod"]["parameters"].keys()


@pytest.mark.parametrize("name", NAMES)
def test_what_an_environment_sets_is_what_the_template_takes(name: str) -> None:
    template = load(deploy.read_product().text)
    needs = dict.fromkeys(SETTINGS[name]["needsOneOf"], "")
    effective_parameters(template, {}, {**deploy.FILLED_IN, **needs, **SETTINGS[name]["parameters"]})


@pytest.mark.parametrize("parameter", SETTINGS["dev"]["parameters"])
def test_every_difference_stands_in_the_readme_with_its_reason(parameter: str) -> None:
    values = [SETTINGS[name]["parameters"][parameter] for name in NAMES]
    shown = " | ".join(f"`{value}`" if value else "empty" for value in values)
    row = re.search(rf"^\| `{parameter}` \| {re.escape(shown)} \| (.+) \|$", README, re.MULTILINE)
    assert row, f"edit the table under Environments in README.md: | `{parameter}` | {shown} | why |"
    assert len(row[1]) > 5


def test_an_unknown_environment_is_named_with_those_that_there_are() -> None:
    with pytest.raises(CommandError, match="there is no environment 'prd' in scripts/environments: dev, prod") as error:
        environments.read("prd")
    assert error.value.exit_code == 2


@pytest.mark.parametrize(
    ("parameters", "is_enough"),
    [
        pytest.param({}, False, id="nothing"),
        pytest.param({"ObserveEmail": "", "ObserveTopicArn": ""}, False, id="both empty"),
        pytest.param({"ObserveEmail": "a@example.com", "ObserveTopicArn": ""}, True, id="an e-mail address"),
        pytest.param({"ObserveTopicArn": "arn:aws:sns:eu-west-1:123456789012:t"}, True, id="a topic"),
    ],
)
def test_prod_is_not_deployed_without_somebody_to_tell(parameters: dict[str, str], is_enough: bool) -> None:
    prod = environments.read("prod")
    assert (prod.stack_name, prod.has_termination_protection) == ("sluice-prod", True)
    if is_enough:
        prod.check(parameters)
    else:
        with pytest.raises(CommandError, match="environment prod needs ObserveEmail or ObserveTopicArn: give it once"):
            prod.check(parameters)


@pytest.mark.parametrize("path", sorted((ROOT / "examples/workflows").glob("*.yml")), ids=lambda path: path.stem)
def test_the_workflows_type_what_the_scripts_take(path: Path) -> None:
    [job] = yaml.safe_load(path.read_text())["jobs"].values()
    typed = [line.split() for step in job["steps"] for line in step.get("run", "").splitlines() if "scripts/" in line]
    name = path.stem.removeprefix("deploy-")
    assert ["scripts/deploy.sh", "--environment", name, "--yes"] in typed
    assert ["scripts/verify.sh", "--stack-name", f"sluice-{name}", "--yes"] in typed
    for script, *words in typed:
        shown = (ROOT / script).read_text()
        assert [word for word in words if word.startswith("--") and f"{word} " not in shown] == []
