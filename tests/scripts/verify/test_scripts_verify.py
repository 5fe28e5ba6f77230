"""scripts/verify.sh against a local AWS: a sound stack passes, and whatever is broken in one is named."""

from __future__ import annotations

import base64
import contextlib
import json
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from scripts.commands.common.console import EXIT_USAGE, CommandError
from scripts.commands.common.stack import Aws, Stack
from scripts.commands.deploy import build
from scripts.commands.deploy import template as templates
from scripts.commands.verify import command as verify
from scripts.commands.verify.canaries import Accepted, Access, Canary, Dropped, Flock, Like, Request
from scripts.commands.verify.checks import Answer, Check, accounting, address, check_not_throttled, compare
from scripts.commands.verify.evidence import Evidence, join_parts
from tests.aws import compare as compare_reports
from tests.conftest import ROOT, environment_of_a_new_machine
from tests.factories import session_in

FAST = ("--parameter", "FirehoseBufferingInterval=1")
AT_ONCE = 4  # stacks verified at the same time: they wait as much as they work

CORS = """\
                    responseParameters:
                      method.response.header.Access-Control-Allow-Origin:
                        !Join ["'", ['', !Select [0, !Split [',', !Ref CorsAllowOrigin]], '']]
"""
TAKEN = """\
                    responseTemplates:
                      application/json: !Join ['', [!FindInMap [Vtl, Answer, Cors], !FindInMap [Vtl, Answer, Taken]]]
"""
BEACON = "# what navigator.sendBeacon sends\n"

Break = tuple[str, str, str]  # a file of the repository, a text in it, once or more, and the replacement of the first
# By the stack that has them. The faults of a stack do not cause or hide each other's lines.
BREAKAGES: dict[str, dict[str, tuple[Break, str]]] = {
    "answers": {
        "a pixel may be cached": (
            ("template.yaml", "                      method.response.header.Cache-Control: \"'no-store'\"\n", ""),
            r"GET /pixel: cache-control +no-store +nothing +DIFFERS",
        ),
        "a throttled client is not told when to come again": (
            ("template.yaml", "              gatewayresponse.header.Retry-After: \"'1'\"\n", ""),
            r"OPTIONS /track too often: retry-after +1 +nothing +DIFFERS",
        ),
    },
    "records": {
        "a taken event is answered without the CORS header": (
            ("template.yaml", f"{CORS}{TAKEN}", TAKEN),
            r"POST /track hello: access-control-allow-origin +\* +nothing +DIFFERS",
        ),
        "records have no end line": (
            ("template.yaml", "${newline}sluice/end $extended$newline", "$newline"),
            r"row hello +1 row +0 rows +DIFFERS",
        ),
    },
    "rows": {
        "a PutRecord of the client's own passes as it is": (
            ("template.yaml", BEACON, f"{BEACON}                  application/x-amz-json-1.1: '$input.body'\n"),
            r"row smuggled +no row +a row with name None +DIFFERS",
        ),
        "a rule has another name": (
            ("lambda/transform/rules.py", '"debug": drop_debug,\n    "bot"', '"trial": drop_debug,\n    "bot"'),
            r'metrics: DroppedByRule +\{"bot": 1, "debug": 10003, .*\} +\{"bot": 1, .* "trial": 10003\} ',
        ),
        "addresses are not truncated": (
            ("template.yaml", "IP_HANDLING: !Ref IpHandling", "IP_HANDLING: FULL"),
            r"row hello: ip +a network \(/24, /48\) +127\.0\.0\.1 +DIFFERS",
        ),
        "a column is missing from the table": (
            (
                "template.yaml",
                '            - {Name: user_agent, Type: string, Comment: "The sender\'s User-Agent"}\n',
                "",
            ),
            r"columns of the events table: user_agent +varchar +nothing +DIFFERS",
        ),
        "the transform may not put anything back": (
            ("template.yaml", "Action: firehose:PutRecordBatch, Resource: !GetAtt StreamDelivery.Arn", "Action: "
             "firehose:PutRecord, Resource: !GetAtt StreamDelivery.Arn"),
            r"rows that were requeued +8,000 different events +[^8][\d,]* different events +DIFFERS",
        ),
        "every object is written twice": (
            (
                "local/firehose/delivery.py",
                "                await self.writer.put_object(configuration, main, fitting, body)\n",
                "                for _ in range(2):\n"
                "                    await self.writer.put_object(configuration, main, fitting, body)\n",
            ),
            r"rows of events/ that came more than once +fewer than half +(\d+) of \1 +DIFFERS",
        ),
        "Parquet has another codec than the parameter says": (
            (
                "template.yaml",
                "ParquetSerDe: {Compression: !Ref FirehoseCompressionFormat}",
                "ParquetSerDe: {Compression: SNAPPY}",
            ),
            r"objects of events/ +dt=.* parquet GZIP +parquet SNAPPY: events/dt=.* +DIFFERS",
        ),
    },
    "places": {
        "an event that is too large is answered as our own fault": (
            ("template.yaml", "length less than or equal to 1024000", "length less than 1024000"),
            r"POST /track over 1,024,000 bytes: status +413 +503 +DIFFERS",
        ),
        "bodies are not validated": (
            ("template.yaml", "validateRequestBody: true", "validateRequestBody: false"),
            r"POST /track not JSON: status +400 +202 +DIFFERS",
        ),
        "the transform may not put rejects": (
            ("template.yaml", "Action: firehose:PutRecordBatch, Resource: !GetAtt StreamRejects.Arn", "Action: "
             "firehose:PutRecord, Resource: !GetAtt StreamRejects.Arn"),
            r"rejected by POST /track not_a_number to be rejected +1 events +0 events +DIFFERS",
        ),
        "objects stand where the table does not look": (
            ("template.yaml", "${FirehoseS3Prefix}dt=!{timestamp", "${FirehoseS3Prefix}day=!{timestamp"),
            r"folders of the bucket +as the tables say +events/day=\d{4}-\d\d-\d\d/ +DIFFERS",
        ),
    },
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
# Buffers without a parameter: the transform's and the one of raw/.
HURRY = {
    "BufferIntervalInSeconds, ParameterValue: '5'": "BufferIntervalInSeconds, ParameterValue: '1'",
    "{IntervalInSeconds: 300, SizeInMBs: 64}": "{IntervalInSeconds: 1, SizeInMBs: 64}",
}
Verified = Callable[[str], subprocess.CompletedProcess[str]]


def copy_repository(directory: Path, *breaks: Break) -> Path:
    """A copy of the files of a deployment, with short waits, and with these things broken in it."""
    for folder in ("scripts", "lambda", "local"):
        shutil.copytree(ROOT / folder, directory / folder)
    for name in ("template.yaml", "queries.sql"):
        shutil.copy(ROOT / name, directory / name)
    for patient, impatient in HURRY.items():
        replace(directory / "template.yaml", patient, impatient)
    least = "_LEAST_BACKUP_INTERVAL = "
    replace(directory / "local/firehose/configuration.py", f"{least}60", f"{least}1")
    for file, old, new in breaks:
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


def deploy_and_verify(
    repository: Path, parameters: Iterable[str], options: Iterable[str]
) -> subprocess.CompletedProcess[str]:
    """In a local AWS without other work."""
    with running(repository) as run:
        run("deploy", "--local", "--yes", *FAST, *parameters)
        return run("verify", "--local", *options, "--report", str(repository / "report.json"), check=False)


@contextlib.contextmanager
def running(repository: Path) -> Iterator[Callable[..., subprocess.CompletedProcess[str]]]:
    """A local AWS of the repository's own; run its scripts with this."""
    environment = environment_of_a_new_machine(SLUICE_LOCAL_STATE=str(repository / "aws"))

    def run(name: str, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        command = ["bash", str(repository / "scripts" / f"{name}.sh"), *arguments]
        return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=500, check=check)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    run("local", "start", "--port", str(port))
    try:
        yield run
    finally:
        run("local", "stop")


ROUTES = templates.load(templates.TEMPLATE.read_text())["Resources"]["IngestApi"]["Properties"]["Body"]["paths"]


@pytest.mark.parametrize(
    "route", [f"{method.upper()} {path}" for path, operations in ROUTES.items() for method in operations]
)
def test_every_route_has_a_canary_and_one_that_may_become_an_event(route: str) -> None:
    requests = [canary for canary in Flock("verify-1", {}, "stream").all() if isinstance(canary.sent, Request)]
    pattern = re.sub(r"\{[^}]+}", "[^/]+", route)
    sent = [one for one in requests if re.fullmatch(pattern, f"{one.sent.method} {one.sent.path.split('?')[0]}")]
    assert sent, f"send a canary to {route}: add one to scripts/commands/verify/canaries.py"
    assert route.startswith("OPTIONS ") or any(one.outcomes for one in sent), (
        f"no canary to {route} has an outcome: add one to accepted() in scripts/commands/verify/canaries.py"
    )


@pytest.fixture(scope="module")
def verified(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Verified]:
    """The run of verify.sh, by the name of a stack or of the fault in it."""
    runs: dict[str, Future[subprocess.CompletedProcess[str]]] = {}
    build.build(build.LOCAL)  # the libraries, shared by all
    with ThreadPoolExecutor(AT_ONCE) as executor:
        # The broken ones first: they wait for what never comes, while others work.
        for name, faults in BREAKAGES.items():
            copy = copy_repository(tmp_path_factory.mktemp("broken"), *(breakage for breakage, _ in faults.values()))
            options = ["--throttle"] if name == "answers" else []
            runs[name] = executor.submit(deploy_and_verify, copy, [], options)
        for name, parameters in OTHER_STACKS.items():
            copy = copy_repository(tmp_path_factory.mktemp(name))
            runs[name] = executor.submit(deploy_and_verify, copy, parameters, ["--throttle"])
        yield lambda name: runs[name].result()


@pytest.mark.slow
@pytest.mark.parametrize("name", OTHER_STACKS)
def test_a_sound_stack_passes_every_check_and_all_events_are_accounted_for(verified: Verified, name: str) -> None:
    done = verified(name)
    assert done.returncode == 0, differences(done)
    assert differences(done) == []
    assert sum(line.endswith(" ok") for line in map(str.rstrip, done.stdout.splitlines())) > 90
    counted = re.search(
        r"(\S+) acknowledged = (\S+) accepted \+ (\S+) dropped \+ (\S+) rejected \+ 2 failed", done.stderr
    )
    assert counted, done.stderr
    acknowledged, *outcomes = [int(count.replace(",", "")) for count in counted.groups()]
    assert acknowledged == sum(outcomes) + 2 > 18_000


@pytest.mark.slow
@pytest.mark.parametrize(
    ("stack", "line"),
    [pytest.param(stack, line, id=name) for stack, faults in BREAKAGES.items() for name, (_, line) in faults.items()],
)
def test_what_is_broken_is_named(verified: Verified, stack: str, line: str) -> None:
    done = verified(stack)
    assert done.returncode == 1, done.stderr
    assert any(re.search(line, difference) for difference in differences(done)), (differences(done), done.stderr)


@pytest.mark.slow
def test_two_reports_are_compared_without_their_ids_and_times(
    verified: Verified, capsys: pytest.CaptureFixture[str]
) -> None:
    sound, broken = (Path(verified(name).args[-1]) for name in ("sound", "answers"))
    assert compare_reports.compare(sound, broken) == 1
    told = [line.split()[0] for line in capsys.readouterr().out.splitlines() if line.startswith("  /")]
    assert "/answers/GET" in told
    assert all(re.match("/(answers|checks)/(GET|OPTIONS)", line) for line in told), told


@pytest.mark.slow
def test_what_hangs_on_buffering_is_not_a_difference(verified: Verified, tmp_path: Path) -> None:
    sound = Path(verified("sound").args[-1])
    report = json.loads(sound.read_text())
    checks = report["checks"]
    for name in ("Requeued", "IncomingRecords", "received = accepted + dropped + rejected + failed"):
        checks[f"metrics: {name}"]["seen"] += "0"
    del report["metrics"][0]
    other = tmp_path / "other.json"
    other.write_text(json.dumps(report))
    assert compare_reports.compare(sound, other) == 0
    checks["metrics: Requeued"]["is_ok"] = False
    other.write_text(json.dumps(report))
    assert compare_reports.compare(sound, other) == 1


@pytest.mark.slow
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


@pytest.mark.slow
def test_nothing_of_a_run_is_left_in_the_bucket(verified: Verified) -> None:
    repository = Path(verified("sound").args[1]).parents[1]
    stored = [path for path in (repository / "aws" / "s3").rglob("*") if path.is_file()]
    assert any(path.suffix == ".zip" for path in stored)
    assert [path for path in stored if "/dt=" in str(path) or "athena-results" in str(path)] == []


@pytest.mark.slow
def test_what_a_run_left_is_removed_by_its_name_and_nothing_else(verified: Verified, tmp_path: Path) -> None:
    def rows(run: Callable[..., subprocess.CompletedProcess[str]]) -> set[str]:
        sql = "SELECT DISTINCT source FROM ${AthenaTableName}"
        return set(run("query", "--local", "--format", "csv", "--sql", sql).stdout.split()[1:])

    sound = Path(verified("sound").args[1]).parents[1]
    name = f"verify-{int(time.time()):08x}abcd"
    with running(shutil.copytree(sound, tmp_path / "copy", symlinks=True)) as run:
        for source in ("shop", name):
            run("track", "--local", "--wait", json.dumps({"source": source}))
        assert rows(run) == {"shop", name}
        run("verify", "--local", "--remove", name)
        assert rows(run) == {"shop"}


def known(stack: Stack, outputs: dict[str, str], parameters: dict[str, str] | None = None) -> Stack:
    """A stack known without asking CloudFormation."""
    vars(stack).update(outputs=outputs, parameters=parameters or {}, ids={})
    return stack


@pytest.mark.parametrize("stage", ["send_all", "wait"])
def test_an_interrupted_run_removes_what_it_can_and_tells_how_to_remove_the_rest(
    stage: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    removed = []
    outputs = {"TrackURL": "http://127.0.0.1/v1/track", "StreamName": "s", "BucketName": "b"}
    aws = Aws(session_in("us-east-1"), "us-east-1", "http://127.0.0.1:1")
    monkeypatch.setattr(verify, "session", lambda local: aws)
    monkeypatch.setattr(verify, "Stack", lambda aws, name: known(Stack(aws, name), outputs=outputs))
    monkeypatch.setattr(verify.Door, "send_all", lambda door, canaries: [])
    monkeypatch.setattr(verify, "remove", lambda reader: removed.append(reader.run))
    monkeypatch.setattr(verify.Door if stage == "send_all" else verify, stage, interrupted)
    with pytest.raises(KeyboardInterrupt):
        verify.verify(["--local", "--stack-name", "shop"])
    [run] = removed
    assert f"scripts/verify.sh --local --stack-name shop --remove {run}" in capsys.readouterr().err


def differences(done: subprocess.CompletedProcess[str]) -> list[str]:
    return [line.strip() for line in done.stdout.splitlines() if line.rstrip().endswith("DIFFERS")]


# --- The parts


def test_the_parts_of_a_rejected_text_are_joined_across_objects_and_a_part_that_came_twice_counts_once() -> None:
    def part(number: int, text: bytes, place: str, **fields: Any) -> dict[str, Any]:
        body = base64.b64encode(text).decode()
        row = {"event_id": "e", "extended_request_id": "r", "position": 0, "parts": 2, "part": number, "body": body}
        return {**row, "object": place, **fields}

    first, second = part(1, b"verify-1 ", "a"), part(2, b"and the rest", "b")
    others = [
        part(1, b"of others", "a", extended_request_id="s"),
        part(2, b"verify-1 but no first part", "b", position=1),
    ]
    whole, rest = join_parts([second, *others, first, {**second, "object": "c"}], "verify-1")
    assert (whole["text"], whole["is_whole"], whole["rows"]) == (b"verify-1 and the rest", True, 2)
    assert whole["objects"] == {"a": 1, "b": 1, "c": 1}
    assert not rest["is_whole"]
    assert Evidence(rejected=[whole, rest]).events == 1
    cut_off = {**second, "rejected_at": "before"}
    assert {found["is_whole"] for found in join_parts([first, second, cut_off], "verify-1")} == {True, False}


@pytest.mark.parametrize(("mode", "header"), [("API_KEY", "x-api-key"), ("AWS_IAM", "Authorization")])
def test_a_wrong_key_or_signature_is_sent_not_none_and_not_the_right_one(
    mode: str, header: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verify, "read_api_key", lambda aws, key: "right")
    outputs = {"TrackURL": "http://127.0.0.1/v1/track", "StreamName": "s", "ApiKeyId": "k"}
    session = session_in("us-east-1", "AKIA", "secret")
    stack = Stack(Aws(session, "us-east-1", "http://127.0.0.1:1"), "shop")
    door = verify.Door(known(stack, outputs=outputs, parameters={"ApiAuth": mode}))
    accesses: list[Access] = ["right", "wrong", "none"]
    right, wrong, none = (door.headers(Request("GET", "/pixel", access=one)).get(header) for one in accesses)
    assert right and wrong and right != wrong
    assert none is None


@pytest.mark.parametrize(
    ("handling", "text", "is_fine"),
    [
        ("TRUNCATE", "198.51.100.0", True),
        ("TRUNCATE", "198.51.100.7", False),
        ("TRUNCATE", "2001:db8:1::", True),
        ("TRUNCATE", "2001:db8:1::1", False),
        ("TRUNCATE", None, False),
        ("FULL", "198.51.100.7", True),
        ("FULL", None, False),
    ],
)
def test_an_address_is_truncated_or_not_as_the_parameter_says(handling: str, text: str | None, is_fine: bool) -> None:
    expected = address(handling)
    assert expected is not None
    assert expected.test(text) is is_fine


def test_the_same_values_make_one_good_line_and_each_other_value_a_bad_one() -> None:
    expected = {"a": 1, "b": Like("long", lambda text: len(text) > 3), "c": None}
    assert [*compare("x", expected, {"a": 1, "b": "long", "d": 5}, "fine")] == [Check("x", "fine", "fine", True)]
    assert [*compare("x", expected, {"a": 2, "b": "no", "c": "y"}, "fine")] == [
        Check("x: a", "1", "2", False),
        Check("x: b", "long", "no", False),
        Check("x: c", "nothing", "y", False),
    ]


@pytest.mark.parametrize(("rate", "seen"), [("1000", []), ("100", ["none in 6,000 requests, 1,000 a second"])])
def test_a_limit_that_was_not_reached_is_not_a_difference(rate: str, seen: list[str]) -> None:
    parameters = {"ThrottleRateLimit": rate, "ThrottleBurstLimit": rate}
    assert [check.seen for check in check_not_throttled(6_000, 6.0, parameters)] == seen


def test_events_that_are_missing_leave_the_account_unbalanced() -> None:
    canary = Canary("c", (b"{}",), None, (Accepted("1", {}), Dropped("bot", 2)))
    counts = Evidence(rows=[{"event_id": "1"}], metrics=[{"DroppedByRule": {"bot": 2}}])
    answers = [Answer(canary, 200, {}, "", 0.0), Answer(canary, 503, {}, "", 0.0)]
    assert accounting(answers, counts) == (
        "3 acknowledged = 1 accepted + 2 dropped + 0 rejected + 0 failed",
        True,
    )
    assert accounting(answers, Evidence(metrics=counts.metrics)) == (
        "3 acknowledged but 0 accepted + 2 dropped + 0 rejected + 0 failed = 2",
        False,
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--report", "/nowhere/report.json"], "cannot write '/nowhere/report.json'"),
        (["--remove", "verify-7"], "'verify-7' is not a run of verify.sh"),
        (["--stack-name", "1st"], "'1st' is not a stack name"),
    ],
)
def test_wrong_usage_is_told_in_one_line(arguments: list[str], message: str) -> None:
    with pytest.raises(CommandError, match=re.escape(message)) as caught:
        verify.verify(arguments)
    assert caught.value.exit_code == EXIT_USAGE
