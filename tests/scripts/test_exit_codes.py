"""Every script for a stack ends with the exit codes of docs/operating.md#exit-codes."""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError, NoCredentialsError
from fake_cloudformation import FakeAws, FakeCloudFormation, Stack

from scripts.commands.common import stack
from scripts.commands.common.console import guarded
from tests.local_process import module_of

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = {path.stem: path.read_text() for path in (ROOT / "scripts").glob("*.sh")}

CALLS: dict[str, list[str]] = {
    "console": ["--port", "0"],
    "cost": ["--from-stack"],
    "deliver": ["status"],
    "deploy": ["--yes"],
    "destroy": ["--yes"],
    "erase": ["--user-id", "42", "--yes"],
    "pull": ["status"],
    "query": ["--list"],
    "refine": [],
    "replay": ["--from", "rejected", "--yes"],
    "status": [],
    "track": ['{"name": "John"}'],
    "verify": ["--yes"],
}
"""By script: a call, right except for the stack."""

WITHOUT_A_STACK = {"deploy"}
"""It makes the missing stack."""

WITH_ANY_STACK = {"deploy", "destroy", "status"}
"""They work with a stack whose creation did not succeed."""


class Unanswering(FakeCloudFormation):
    """A CloudFormation whose every call ends with this error."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.error = error

    def describe_stacks(self, StackName: str) -> dict[str, Any]:
        raise self.error


NOBODY = ["--stack-name", "nobody"]
DENIED = ClientError({"Error": {"Code": "AccessDenied", "Message": "no"}}, "DescribeStacks")
NO_STACK = FakeCloudFormation()
HALF_MADE = FakeCloudFormation(Stack("nobody", status="ROLLBACK_COMPLETE"))


def call(name: str, *arguments: str) -> int:
    """Run the command behind `scripts/<name>.sh` as main() does; its exit code."""
    module = importlib.import_module(module_of(name))
    entry = re.search(r"^    main\((\w+)\)", Path(str(module.__file__)).read_text(), re.MULTILINE)
    assert entry
    command: Callable[[list[str]], int] = getattr(module, entry[1])
    return guarded(command, [*CALLS[name], *arguments])


@pytest.fixture
def reaches(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, FakeCloudFormation], None]:
    """Let a script reach an account with this CloudFormation."""

    def reach(name: str, cloudformation: FakeCloudFormation) -> None:
        aws = FakeAws(cloudformation=cloudformation)
        monkeypatch.setattr(f"{module_of(name)}.session", lambda _local: aws)

    return reach


def test_there_is_a_call_of_every_script_that_takes_a_stack() -> None:
    assert CALLS.keys() == {name for name, text in SCRIPTS.items() if "--stack-name" in text}


@pytest.mark.parametrize("name", CALLS)
def test_each_header_says_what_1_and_2_mean(name: str) -> None:
    header = " ".join(line.removeprefix("#").strip() for line in SCRIPTS[name].splitlines() if line.startswith("#"))
    assert re.search(r"Exit codes(, for cron)?: 0 .*1 .*2 wrong usage(,| or) no such (stack|environment)", header)


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        pytest.param(["--wrong"], "unrecognized arguments: --wrong", id="an option that there is not"),
        pytest.param(["--stack-name", "1st"], "'1st' is not a stack name", id="no name for a stack"),
    ],
)
def test_a_wrong_argument_is_2(
    name: str, arguments: list[str], complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(name, *arguments) == 2
    assert complaint in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "cloudformation", "complaint"),
    [
        *((name, NO_STACK, "stack 'nobody' does not exist") for name in sorted(CALLS.keys() - WITHOUT_A_STACK)),
        *(
            (name, HALF_MADE, "stack 'nobody' in eu-west-1 has no outputs")
            for name in sorted(CALLS.keys() - WITH_ANY_STACK)
        ),
        *((name, Unanswering(NoCredentialsError()), "no AWS credentials") for name in CALLS),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_not_there_is_2(
    name: str, cloudformation: FakeCloudFormation, complaint: str, reaches: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    reaches(name, cloudformation)
    assert call(name, *NOBODY) == 2
    assert complaint in capsys.readouterr().err


# deploy starts one.
@pytest.mark.parametrize("name", sorted(CALLS.keys() - {"deploy"}))
def test_a_local_aws_that_does_not_run_is_2(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(stack, "LOCAL_STATE", tmp_path)
    assert call(name, "--local") == 2
    assert "the local AWS is not running" in capsys.readouterr().err


@pytest.mark.parametrize("name", CALLS)
def test_what_aws_refuses_is_1(name: str, reaches: Any, capsys: pytest.CaptureFixture[str]) -> None:
    reaches(name, Unanswering(DENIED))
    assert call(name, *NOBODY) == 1
    assert "DescribeStacks is not allowed" in capsys.readouterr().err


def test_an_environment_that_there_is_not_is_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert call("deploy", "--environment", "nobody") == 2
    assert "there is no environment 'nobody'" in capsys.readouterr().err
