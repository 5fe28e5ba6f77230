"""The tools for comparing AWS with the local AWS, tried on the local AWS and on made-up reports."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from scripts.commands.common.console import UsageError
from scripts.commands.common.stack import Aws
from tests.aws import compare, probe
from tests.factories import session_in
from tests.local_process import LocalProcess


@pytest.mark.slow
def test_firehose_treats_each_broken_reply_as_the_probe_tells(tmp_path: Path) -> None:
    with LocalProcess(tmp_path) as process:
        aws = Aws(session_in("us-east-1", "test", "test"), "us-east-1", process.endpoint)
        assert probe.probe(aws) == {
            "missing recordId": "good: delivered, of 2; bad: Lambda.MissingRecordId after 1 attempts",
            "unknown result": "good: Lambda.FunctionError after 1 attempts; bad: Lambda.FunctionError after 1 attempts",
            "not base64": "good: Lambda.FunctionError after 1 attempts; bad: Lambda.FunctionError after 1 attempts",
            "exception": "good: Lambda.FunctionError after 4 attempts; bad: Lambda.FunctionError after 4 attempts",
        }
        assert aws.client("cloudformation").describe_stacks()["Stacks"] == []


def test_a_report_of_somebody_else_does_not_steer_the_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = [tmp_path / name for name in ("left.json", "right.json")]
    for path, seen in zip(paths, ("fine", "\x1b]0;owned\x07"), strict=True):
        path.write_text(json.dumps({"run": {}, "checks": {}, "answers": {"GET": seen}}))
    assert compare.compare(*paths) == 1
    out, _ = capsys.readouterr()
    assert r"\x1b]0;owned\x07" in out and not {"\x1b", "\x07"} & set(out)


@pytest.mark.parametrize("text", ["[1]", '"report"', "{}", "{", "[" * 30_000], ids=lambda text: text[:10])
def test_a_file_that_is_not_a_report_is_refused(text: str, tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_text(text)
    with pytest.raises(UsageError, match=r"x\.json' is not a report of verify\.sh"):
        compare.compare(path, path)


def test_a_report_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"cannot read '.*no\.json'"):
        compare.run([str(tmp_path / "no.json")] * 2)
