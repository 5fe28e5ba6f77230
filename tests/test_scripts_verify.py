"""scripts/verify.sh against a local AWS: a sound stack passes, and whatever is broken in one is named."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest

from scripts.commands import build, verify_report
from tests.conftest import ROOT

pytestmark = pytest.mark.slow

FAST = ("--parameter", "FirehoseBufferingInterval=1")
AT_ONCE = 4  # stacks that are verified at the same time: they wait as much as they work

CORS = "                      method.response.header.Access-Control-Allow-Origin: !Sub \"'${CorsAllowOrigin}'\"\n"
TAKEN = "                    responseTemplates: {application/json: !FindInMap [MappingTemplates, Response, Taken]}"
BEACON = "# what navigator.sendBeacon sends\n"

Break = tuple[str, str, str]  # a file of the repository, a text that stands in it once or more, what replaces the first
BREAKAGES: dict[str, tuple[Break, str]] = {
    "a taken event is answered without the CORS header": (
        ("template.yaml", f"                    responseParameters:\n{CORS}{TAKEN}", TAKEN),
        r"POST /track hello: access-control-allow-origin +\* +nothing +DIFFERS",
    ),
    "an event that is too large is answered as our own fault": (
        ("template.yaml", "        #set($context.responseOverride.status = 413)\n", ""),
        r"POST /track over 1,024,000 bytes: status +413 +503 +DIFFERS",
    ),
    "a PutRecord of the client's own passes as it is": (
        ("template.yaml", BEACON, f"{BEACON}                  application/x-amz-json-1.1: '$input.body'\n"),
        r"row smuggled +no row +a row with name None +DIFFERS",
    ),
    "bodies are not validated": (
        ("template.yaml", "validateRequestBody: true", "validateRequestBody: false"),
        r"POST /track not JSON: status +400 +202 +DIFFERS",
    ),
    "a pixel may be cached": (
        ("template.yaml", "                      method.response.header.Cache-Control: \"'no-store'\"\n", ""),
        r"GET /pixel: cache-control +no-store +nothing +DIFFERS",
    ),
    "a throttled client is not told when to come again": (
        ("template.yaml", "              gatewayresponse.header.Retry-After: \"'1'\"\n", ""),
        r"OPTIONS /track too often: retry-after +1 +nothing +DIFFERS",
    ),
    "records have no end line": (
        ("template.yaml", "${newline}sluice/end $extended$newline", "$newline"),
        r"row hello +1 row +0 rows +DIFFERS",
    ),
    "a rule has another name": (
        ("lambda/transform/rules.py", '"debug": drop_debug,\n    "bot"', '"trial": drop_debug,\n    "bot"'),
        r'metrics: DroppedByRule +\{"bot": 1, "debug": 10003\} +\{"bot": 1, "trial": 10003\} +DIFFERS',
    ),
    "addresses are not truncated": (
        ("template.yaml", "IP_HANDLING: !Ref IpHandling", "IP_HANDLING: FULL"),
        r"row hello: ip +a network \(/24, /48\) +127\.0\.0\.1 +DIFFERS",
    ),
    "a column is missing from the table": (
        (
            "template.yaml",
            '            - {Name: user_agent, Type: string, Comment: "The sender\'s User-Agent"}\n            - {Name: '
            "request_id, Type: string, Comment: The API request that brought it}\n\n  CatalogRejectedTable:",
            "            - {Name: request_id, Type: string, Comment: The API request that brought it}\n\n"
            "  CatalogRejectedTable:",
        ),
        r"columns of the events table: user_agent +varchar +nothing +DIFFERS",
    ),
    "the transform may not put rejects": (
        ("template.yaml", "Action: firehose:PutRecordBatch, Resource: !GetAtt StreamRejects.Arn", "Action: "
         "firehose:PutRecord, Resource: !GetAtt StreamRejects.Arn"),
        r"rejected by POST /track not_a_number to be rejected +1 events +0 events +DIFFERS",
    ),
    "the transform may not put anything back": (
        ("template.yaml", "Action: firehose:PutRecordBatch, Resource: !GetAtt StreamDelivery.Arn", "Action: "
         "firehose:PutRecord, Resource: !GetAtt StreamDelivery.Arn"),
        r"rows that were requeued +7,000 different events +[^7][\d,]* different events +DIFFERS",
    ),
    "objects stand where the table does not look": (
        ("template.yaml", "${FirehoseS3Prefix}dt=!{timestamp", "${FirehoseS3Prefix}day=!{timestamp"),
        r"folders of the bucket +as the tables say +events/day=\d{4}-\d\d-\d\d/ +DIFFERS",
    ),
}  # fmt: skip


OTHER_STACKS = {
    "sound": (),
    "keyed": ("--parameter", "ApiAuth=API_KEY", "--parameter", "OutputFormat=JSON", "--parameter", "RawBackup=ENABLED"),
    "signed": (
        "--parameter",
        "ApiAuth=AWS_IAM",
        "--parameter",
        "IpHandling=FULL",
        "--parameter",
        "RedactFields=user_id",
    ),
}
# Buffers that no parameter sets: the transform's and that of raw/.
HURRY = {
    "BufferIntervalInSeconds, ParameterValue: '5'": "BufferIntervalInSeconds, ParameterValue: '1'",
    "{IntervalInSeconds: 300, SizeInMBs: 64}": "{IntervalInSeconds: 1, SizeInMBs: 64}",
}
Verified = Callable[[str], subprocess.CompletedProcess[str]]


def copy_repository(directory: Path, file: str, old: str, new: str) -> Path:
    """A copy of what a deployment needs of the repository, impatient, and with one thing broken in it."""
    for folder in ("scripts", "lambda", "local"):
        shutil.copytree(ROOT / folder, directory / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("template.yaml", "queries.sql"):
        shutil.copy(ROOT / name, directory / name)
    for patient, impatient in HURRY.items():
        replace(directory / "template.yaml", patient, impatient)
    replace(directory / file, old, new)
    build = directory / ".sluice" / "build"
    build.mkdir(parents=True)
    (directory / ".sluice" / "venv").symlink_to(ROOT / ".sluice" / "venv")
    for libraries in (ROOT / ".sluice" / "build").glob("libraries-*[0-9a-f]"):
        (build / libraries.name).symlink_to(libraries)
    return directory


def replace(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text, f"{path.name} does not hold what is to be broken: {old}"
    path.write_text(text.replace(old, new, 1))


def deploy_and_verify(repository: Path, *parameters: str) -> subprocess.CompletedProcess[str]:
    """Both in a local AWS that nobody else keeps busy."""
    environment = {"PATH": os.environ["PATH"], "SLUICE_LOCAL_STATE": str(repository / "aws")}

    def run(name: str, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        command = ["bash", str(repository / "scripts" / f"{name}.sh"), *arguments]
        return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=170, check=check)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    run("local", "start", "--port", str(port))
    try:
        run("deploy", "--local", "--yes", *FAST, *parameters)
        return run("verify", "--local", "--throttle", "--report", str(repository / "report.json"), check=False)
    finally:
        run("local", "stop")


@pytest.fixture(scope="module")
def verified(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Verified]:
    """What verify.sh says, by the name of a stack or of what is broken in it."""
    runs: dict[str, Future[subprocess.CompletedProcess[str]]] = {}
    build.build(build.LOCAL)  # the libraries, which all share
    with ThreadPoolExecutor(AT_ONCE) as executor:
        for name, parameters in OTHER_STACKS.items():
            copy = copy_repository(tmp_path_factory.mktemp(name), "template.yaml", "", "")
            runs[name] = executor.submit(deploy_and_verify, copy, *parameters)
        for name, (breakage, _) in BREAKAGES.items():
            copy = copy_repository(tmp_path_factory.mktemp("broken"), *breakage)
            runs[name] = executor.submit(deploy_and_verify, copy)
        yield lambda name: runs[name].result()


@pytest.mark.parametrize("name", OTHER_STACKS)
def test_a_sound_stack_passes_every_check_and_all_events_are_accounted_for(verified: Verified, name: str) -> None:
    done = verified(name)
    assert done.returncode == 0, differences(done)
    assert differences(done) == []
    assert sum(line.endswith(" ok") for line in map(str.rstrip, done.stdout.splitlines())) > 90
    assert re.search(r"17,543 acknowledged = 7,025 accepted \+ 10,004 dropped \+ 512 rejected \+ 2 failed", done.stderr)


@pytest.mark.parametrize("name", BREAKAGES)
def test_what_is_broken_is_named(verified: Verified, name: str) -> None:
    done = verified(name)
    assert done.returncode == 1, done.stderr
    _, line = BREAKAGES[name]
    assert any(re.search(line, difference) for difference in differences(done)), (differences(done), done.stderr)


def test_two_reports_are_compared_without_their_ids_and_times(
    verified: Verified, capsys: pytest.CaptureFixture[str]
) -> None:
    sound, broken = (Path(verified(name).args[-1]) for name in ("sound", "a pixel may be cached"))
    assert verify_report.compare(sound, broken) == 1
    told = [line.split()[0] for line in capsys.readouterr().out.splitlines() if line.startswith("  /")]
    assert "/answers/GET" in told
    assert all(re.match("/(answers|checks)/GET", line) for line in told), told


def test_a_report_answers_what_aws_does_not_document(verified: Verified) -> None:
    answers = json.loads(Path(verified("sound").args[-1]).read_text())["unsourced"]
    assert {one["status"] for one in answers["put errors"]["of Firehose itself"]} == {400}
    assert answers["put errors"]["too large, through API Gateway"]["status"] == 413
    assert answers["error objects"]["separators"] == ["\n"]
    assert answers["error objects"]["value types"]["attemptsMade"] == "int"
    assert answers["text/plain that no model describes"]["status"] == 202
    assert answers["#foreach over a query string prints every value"] is True
    assert answers["$util.urlDecode makes a newline that #set keeps"] is True
    assert answers["extensions of event objects"] == [".parquet"]


def test_nothing_of_a_run_is_left_in_the_bucket(verified: Verified) -> None:
    repository = Path(verified("sound").args[1]).parents[1]
    left = [path for path in (repository / "aws" / "s3").rglob("*verify-*") if path.is_file()]
    data = [path for path in (repository / "aws" / "s3").rglob("*") if path.is_file() and "/dt=" in str(path)]
    results = [path for path in (repository / "aws" / "s3").rglob("athena-results/*") if path.is_file()]
    assert (left, data, results) == ([], [], [])


def differences(done: subprocess.CompletedProcess[str]) -> list[str]:
    return [line.strip() for line in done.stdout.splitlines() if line.rstrip().endswith("DIFFERS")]
