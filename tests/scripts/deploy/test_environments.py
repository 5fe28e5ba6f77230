"""scripts/environments/: the files, their use by deploy.sh, and their place in the reference."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from scripts.commands.common.console import CommandError
from scripts.commands.deploy import environments
from scripts.commands.deploy.command import FILLED_IN
from scripts.commands.deploy.product import read_product
from scripts.commands.deploy.template import TEMPLATE, effective_parameters

ROOT = TEMPLATE.parent
NAMES = ("dev", "prod")
SETTINGS: dict[str, dict[str, Any]] = {
    name: json.loads((ROOT / f"scripts/environments/{name}.json").read_text()) for name in NAMES
}
REFERENCE = (ROOT / "docs/reference.md").read_text()


def test_dev_and_prod_set_the_same_parameters_so_that_neither_keeps_what_the_other_would_change() -> None:
    assert SETTINGS["dev"]["parameters"].keys() == SETTINGS["prod"]["parameters"].keys()


@pytest.mark.parametrize("name", NAMES)
def test_what_an_environment_sets_is_what_the_template_takes(name: str) -> None:
    template = read_product().template
    needs = dict.fromkeys(SETTINGS[name]["needsOneOf"], "")
    effective_parameters(template, {}, {**FILLED_IN, **needs, **SETTINGS[name]["parameters"]})


@pytest.mark.parametrize("parameter", SETTINGS["dev"]["parameters"])
def test_every_difference_is_in_the_reference_with_its_reason(parameter: str) -> None:
    values = [SETTINGS[name]["parameters"][parameter] for name in NAMES]
    shown = " | ".join(f"`{value}`" if value else "empty" for value in values)
    row = re.search(rf"^\| `{parameter}` \| {re.escape(shown)} \| (.+) \|$", REFERENCE, re.MULTILINE)
    assert row, f"edit the table under Environments in docs/reference.md: | `{parameter}` | {shown} | why |"
    assert len(row[1]) > 5


def test_an_unknown_environment_is_named_with_those_that_there_are() -> None:
    with pytest.raises(CommandError, match="there is no environment 'prd' in scripts/environments: dev, prod") as error:
        environments.read("prd")
    assert error.value.exit_code == 2


WHOLE = '{"parameters": {"RawBackup": "ENABLED"}, "needsOneOf": [], "terminationProtection": false}'
WRONG = {
    # fault: (the replaced text, its replacement, the error's text)
    "no JSON": (WHOLE, "hello", "cannot be read as JSON: Expecting value: line 1 column 1"),
    "nested too deeply": (WHOLE, "[" * 100_000, "cannot be read as JSON: it is nested too deeply"),
    "a list": (WHOLE, "[]", "must be a JSON object"),
    "no parameters": ('"parameters": {"RawBackup": "ENABLED"}, ', "", 'has no key "parameters"; write it like'),
    "nobody to tell": (
        '"needsOneOf": [], ',
        "",
        'has no key "needsOneOf"; write it like scripts/env',
    ),
    "no protection": (', "terminationProtection": false', "", 'has no key "terminationProtection"'),
    "parameters in a list": ('{"RawBackup": "ENABLED"}', "[]", 'must have an object as "parameters" (got [])'),
    "one text instead of a list": ("[]", '"ObserveEmail"', 'must have a list as "needsOneOf" (got "ObserveEmail")'),
    "protection as a text": ("false", '"no"', 'must have true or false as "terminationProtection" (got "no")'),
    "a number": ('"ENABLED"', "20", 'must have a text in quotes for "RawBackup" (got 20)'),
    "a number among the names": ("[]", "[1]", 'must have a text in quotes for "needsOneOf" (got 1)'),
    "an unknown key": ("false", 'false, "tags": {}', 'has the key "tags", and only parameters, needsOneOf, term'),
}


@pytest.mark.parametrize(("old", "new", "error"), WRONG.values(), ids=WRONG)
def test_a_file_that_is_not_an_environment_is_refused_in_one_line(
    tmp_path: Path, old: str, new: str, error: str
) -> None:
    assert old in WHOLE
    path = tmp_path / "mine.json"
    path.write_text(WHOLE)
    assert environments.read(str(path)).stack_name == "sluice-mine"
    path.write_text(WHOLE.replace(old, new))
    with pytest.raises(CommandError) as raised:
        environments.read(str(path))
    assert str(raised.value).startswith(f"{path} ") and error in str(raised.value)
    assert "\n" not in str(raised.value) and raised.value.exit_code == 2


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


A_WORKFLOW = pytest.mark.parametrize(
    "path", sorted((ROOT / "examples/workflows").glob("*.yml")), ids=lambda path: path.stem
)


def jobs(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(path.read_text())["jobs"]
    return found


def typed_by(job: dict[str, Any]) -> list[list[str]]:
    """The commands of a job's scripts."""
    lines = [line for step in job["steps"] for line in step.get("run", "").splitlines()]
    return [line.split() for line in lines if "scripts/" in line]


@A_WORKFLOW
def test_the_workflows_type_what_the_scripts_take(path: Path) -> None:
    typed = [line for job in jobs(path).values() for line in typed_by(job)]
    name = path.stem.removeprefix("deploy-")
    assert ["scripts/deploy.sh", "--environment", name, "--yes"] in typed
    assert ["scripts/verify.sh", "--stack-name", f"sluice-{name}", "--yes"] in typed
    for script, *words in typed:
        shown = (ROOT / script).read_text()
        assert [word for word in words if word.startswith("--") and f"{word} " not in shown] == []


@A_WORKFLOW
def test_a_workflow_tests_what_it_deploys_before_there_are_credentials(path: Path) -> None:
    """Tests run code of others, so their job can get neither a token of OpenID Connect nor a secret."""
    assert yaml.safe_load(path.read_text())["permissions"] == {}
    assert list(jobs(path)) == ["test", "deploy"]
    test, deploy = jobs(path).values()
    assert typed_by(test) == [["scripts/test.sh"]]
    assert (test["permissions"], "environment" in test, "secrets." in str(test)) == ({"contents": "read"}, False, False)
    assert (deploy["needs"], deploy["permissions"]["id-token"]) == ("test", "write")
    assert ["scripts/test.sh"] not in typed_by(deploy)


@A_WORKFLOW
def test_an_action_is_pinned_by_its_commit_and_says_its_version(path: Path) -> None:
    uses = re.findall(r"\buses:(.*)", path.read_text())
    assert uses
    assert [line for line in uses if not re.fullmatch(r" [\w/-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", line)] == []
