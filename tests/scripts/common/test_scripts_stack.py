"""Code shared by the scripts: the shell's environment, errors in one line, and the stack's whereabouts."""

from __future__ import annotations

import argparse
import contextlib
import json
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from botocore import exceptions
from fake_cloudformation import FakeAws, FakeCloudFormation, Stack

from scripts.commands.common import console, stack
from scripts.commands.common.console import CommandError, Parser, Terminated, UsageError, guarded
from scripts.commands.common.stack import Aws
from tests.conftest import environment_of_a_new_machine
from tests.factories import session_in, stand_in

ROOT = Path(__file__).resolve().parents[3]
LOCAL = Aws(session_in("us-east-1"), "us-east-1", "http://127.0.0.1:4566")
REAL = Aws(session_in("eu-west-1"), "eu-west-1")
ONE = Stack(
    "one",
    outputs={"BucketName": "a-bucket", "TrackURL": "https://x/prod/track"},
    resources=[
        ("Store", "AWS::S3::Bucket", "a-bucket", "CREATE_COMPLETE"),
        ("Queue", "AWS::SQS::Queue", "a-queue", "UPDATE_COMPLETE"),
        ("Failed", "AWS::SQS::Queue", None, "CREATE_FAILED"),
        ("Removed", "AWS::SQS::Queue", "old-queue", "DELETE_COMPLETE"),
        ("Topic", "AWS::SNS::Topic", "a-topic", "CREATE_COMPLETE"),
    ],
)
BARE = Stack("bare", status="ROLLBACK_COMPLETE")


def options(*given: str) -> argparse.Namespace:
    """A command's arguments, parsed."""
    parser = Parser("x")
    stack.add_stack_arguments(parser)
    return parser.parse_args(given)


@pytest.fixture
def account() -> Aws:
    return FakeAws(cloudformation=FakeCloudFormation(ONE, BARE))


@pytest.fixture
def listening() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


# Errors in one line


def refused(operation: str, code: str, message: str = "the reason") -> exceptions.ClientError:
    return exceptions.ClientError({"Error": {"Code": code, "Message": message}}, operation)


@pytest.mark.parametrize(
    ("error", "words", "code"),
    [
        pytest.param(CommandError("bad value 'x'"), "error: bad value 'x'", 1, id="a command's own"),
        pytest.param(UsageError("wrong"), "error: wrong", 2, id="a wrong call"),
        pytest.param(CommandError("two\nlines"), "error: two lines", 1, id="kept to one line"),
        pytest.param(KeyboardInterrupt(), "interrupted", 130, id="Ctrl-C"),
        pytest.param(Terminated(), "terminated", 143, id="SIGTERM"),
        pytest.param(
            exceptions.NoCredentialsError(),
            "run `aws configure` or set AWS_PROFILE, or add --local",
            2,
            id="no credentials",
        ),
        pytest.param(
            exceptions.NoRegionError(), "no AWS region: run `aws configure` or set AWS_REGION", 2, id="no region"
        ),
        pytest.param(
            exceptions.ProfileNotFound(profile="p"),
            "(p) could not be found: see `aws configure list-profiles`",
            2,
            id="profile",
        ),
        pytest.param(refused("X", "ExpiredToken"), "the AWS credentials have expired: log in again", 1, id="expired"),
        pytest.param(refused("X", "InvalidClientTokenId"), "AWS does not accept these credentials", 1, id="invalid"),
        pytest.param(refused("PutRole", "AccessDenied", "User: x"), "PutRole is not allowed: User: x", 1, id="denied"),
        pytest.param(
            refused("HeadObject", "403", "Forbidden"),
            "HeadObject is not allowed: it takes s3:GetObject",
            1,
            id="no body",
        ),
        pytest.param(refused("PutIt", "Throttling"), "PutIt failed: Throttling: the reason", 1, id="any other code"),
        pytest.param(exceptions.SSOTokenLoadError(error_msg="gone"), "run `aws sso login`", 1, id="single sign-on"),
        pytest.param(
            exceptions.EndpointConnectionError(endpoint_url="https://s3.mars"),
            'Could not connect to the endpoint URL: "https://s3.mars": check the network',
            1,
            id="unreachable",
        ),
    ],
)
def test_what_stops_a_command_is_one_line_with_the_way_out(
    error: BaseException, words: str, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    def command(_arguments: list[str]) -> int:
        raise error

    assert guarded(command, []) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert words in err and err.count("\n") == 1


def test_debug_shows_the_traceback(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def command(_arguments: list[str]) -> int:
        raise CommandError("bad")

    guarded(command, [])
    assert "Traceback" not in capsys.readouterr().err
    monkeypatch.setenv("DEBUG", "1")
    guarded(command, [])
    assert "Traceback" in capsys.readouterr().err


def test_a_reader_that_goes_away_is_not_an_error() -> None:
    write = "console.main(lambda a: [print('x' * 99) for _ in range(99999)] and 0)"
    code = f"from scripts.commands.common import console\n{write}"
    process = subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None and process.stderr is not None
    process.stdout.readline()
    process.stdout.close()
    assert process.stderr.read() == ""
    process.stderr.close()
    assert process.wait(10) == console.EXIT_BROKEN_PIPE


def test_talk_is_never_read_as_markup(capsys: pytest.CaptureFixture[str]) -> None:
    console.say("us-east-1 [local] [/] [red]x")
    out, err = capsys.readouterr()
    assert (out, err) == ("", "us-east-1 [local] [/] [red]x\n")


def test_talk_never_steers_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    console.say("first\n\x1b]0;owned\x07 \x9b2J \u202eevil")
    assert capsys.readouterr().err == "first\n\\x1b]0;owned\\x07 \\x9b2J \\u202eevil\n"


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--stack-name", "has space"], "'has space' is not a stack name"),
        (["--stack-name", "9lives"], "'9lives' is not a stack name"),
        (["--stack-name", "a" * 129], "is not a stack name"),
        (["--stack-name"], "expected one argument"),
        (["--stack", "x"], "unrecognized arguments: --stack x"),
    ],
)
def test_a_wrong_stack_option_is_named(arguments: list[str], complaint: str) -> None:
    parser = Parser("deploy")
    stack.add_stack_arguments(parser)
    with pytest.raises(CommandError) as raised:
        parser.parse_args(arguments)
    assert complaint in str(raised.value)
    assert "see scripts/deploy.sh --help" in str(raised.value)
    assert raised.value.exit_code == 2


def test_the_stack_is_sluice_in_your_account_unless_you_say_otherwise() -> None:
    nowhere = {"profile": None, "region": None}
    assert vars(options()) == {"local": False, "stack_name": "sluice", **nowhere}
    assert vars(options("--local", "--stack-name", "b-2")) == {"local": True, "stack_name": "b-2", **nowhere}


# The stack


def test_outputs_are_read_by_key(account: Aws) -> None:
    assert stack.Stack(account, "one").outputs == {"BucketName": "a-bucket", "TrackURL": "https://x/prod/track"}
    assert stack.Stack(account, "one").output("BucketName") == "a-bucket"


def test_what_cloudformation_says_of_a_stack_is_asked_once() -> None:
    class Counting(FakeCloudFormation):
        calls = 0

        def describe_stacks(self, StackName: str) -> dict[str, Any]:
            self.calls += 1
            return super().describe_stacks(StackName)

    cloudformation = Counting(Stack("one", outputs={"BucketName": "b"}, parameters={"RedactFields": "ip, User_Agent"}))
    found = stack.Stack(FakeAws(cloudformation=cloudformation), "one")
    assert (found.output("BucketName"), found.redacted_fields) == ("b", {"ip", "user_agent"})
    assert found.outputs and found.parameters and cloudformation.calls == 1


def test_an_output_that_the_stack_lacks_is_named(account: Aws) -> None:
    with pytest.raises(CommandError, match="stack 'one' in eu-west-1 has no output WorkGroupName"):
        stack.Stack(account, "one").output("WorkGroupName")


def test_a_stack_without_outputs_tells_its_status(account: Aws) -> None:
    with pytest.raises(CommandError, match="stack 'bare' in eu-west-1 has no outputs: its status is ROLLBACK_COMPLETE"):
        _ = stack.Stack(account, "bare").outputs


@pytest.mark.parametrize("asked", ["outputs", "ids", "parameters"])
def test_a_stack_that_does_not_exist_says_how_to_deploy_it(account: Aws, asked: str) -> None:
    with pytest.raises(CommandError) as raised:
        getattr(stack.Stack(account, "nope"), asked)
    assert str(raised.value) == (
        "stack 'nope' does not exist in eu-west-1: deploy it with scripts/deploy.sh --stack-name nope"
    )


def test_any_other_refusal_is_not_taken_for_a_missing_stack() -> None:
    class Denying(FakeCloudFormation):
        def describe_stacks(self, StackName: str) -> dict[str, Any]:
            raise refused("DescribeStacks", "AccessDenied", "User: x is not authorized")

    with pytest.raises(exceptions.ClientError, match="not authorized"):
        _ = stack.Stack(FakeAws(cloudformation=Denying()), "one").outputs


def test_a_missing_local_stack_says_so() -> None:
    assert str(stack.Stack(LOCAL, "x").missing) == (
        "stack 'x' does not exist in us-east-1 [local]: deploy it with scripts/deploy.sh --local --stack-name x"
    )


def test_physical_ids_of_what_exists_are_found_by_logical_id_over_all_pages(account: Aws) -> None:
    assert stack.Stack(account, "one").ids == {"Store": "a-bucket", "Queue": "a-queue", "Topic": "a-topic"}


@pytest.fixture
def going(monkeypatch: pytest.MonkeyPatch) -> Stack:
    """A stack with a long history, to be deleted."""
    monkeypatch.setattr("scripts.commands.common.stack.time", stand_in(time, sleep=lambda seconds: None))
    stack = Stack("one", deletion=[(name, "DELETE_COMPLETE", "") for name in ("Topic", "Queue", "Store")])
    for _ in range(200):
        stack.tell("Store", "UPDATE_COMPLETE")
    return stack


def test_events_are_followed_oldest_first_and_told_once(going: Stack) -> None:
    aws = FakeAws(cloudformation=FakeCloudFormation(going))
    newest = stack.newest_event(aws, going.id)
    aws.client("cloudformation").delete_stack(StackName="one")
    told = [event["LogicalResourceId"] for event in stack.follow(aws, going.id, newest)]
    assert told == ["one", "Topic", "Queue", "Store", "one"]
    assert [*stack.follow(aws, going.id, stack.newest_event(aws, going.id))] == []


def test_no_look_reads_the_history_of_before(going: Stack) -> None:
    cloudformation = FakeCloudFormation(going)
    aws = FakeAws(cloudformation=cloudformation)
    newest = stack.newest_event(aws, going.id)
    assert len(cloudformation.asked) == 1
    cloudformation.delete_stack(StackName="one")
    assert len([*stack.follow(aws, going.id, newest)]) == 5
    # Five looks. The first finds two events: a full page, without the one to stop at.
    assert len(cloudformation.asked) <= 1 + 5 + 1


def test_a_stack_without_events_has_no_newest_one() -> None:
    assert stack.newest_event(FakeAws(cloudformation=FakeCloudFormation(Stack("one"))), Stack("one").id) == ""


def test_the_status_of_before_is_not_taken_for_the_end(going: Stack) -> None:
    """CloudFormation may answer with it for a moment after it has been told to change the stack."""

    class Late(FakeCloudFormation):
        looks = 0

        def describe_stacks(self, StackName: str) -> dict[str, Any]:
            self.looks += 1
            if self.looks == 3:
                self.delete_stack(StackName)
            return super().describe_stacks(StackName)

    aws = FakeAws(cloudformation=Late(going))
    told = [event["LogicalResourceId"] for event in stack.follow(aws, going.id, stack.newest_event(aws, going.id))]
    assert told == ["one", "Topic", "Queue", "Store", "one"]


# Whereabouts


@pytest.mark.parametrize(
    ("aws", "url", "expected"),
    [
        pytest.param(
            LOCAL,
            "https://a1b2.execute-api.us-east-1.amazonaws.com/prod/track",
            "http://127.0.0.1:4566/_aws/execute-api/a1b2/prod/track",
            id="local",
        ),
        pytest.param(
            LOCAL,
            "https://a1b2.execute-api.cn-north-1.amazonaws.com.cn/v1/pixel?a=b",
            "http://127.0.0.1:4566/_aws/execute-api/a1b2/v1/pixel?a=b",
            id="local with a query, in China",
        ),
        pytest.param(LOCAL, "https://example.com/x", "https://example.com/x", id="local, another URL"),
        pytest.param(
            REAL,
            "https://a1b2.execute-api.eu-west-1.amazonaws.com/prod/track",
            "https://a1b2.execute-api.eu-west-1.amazonaws.com/prod/track",
            id="on AWS",
        ),
    ],
)
def test_the_url_is_one_that_this_machine_reaches(aws: Aws, url: str, expected: str) -> None:
    assert stack.reachable_url(aws, url) == expected


def serve(directory: Path, monkeypatch: pytest.MonkeyPatch, text: str | None) -> None:
    monkeypatch.setattr(stack, "LOCAL_STATE", directory)
    if text is not None:
        (directory / "server.json").write_text(text)


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(None, id="never started"),
        pytest.param('{"endpoint": "http://127.0.0.1:1", "pid": 1}', id="started once, gone now"),
        pytest.param("{", id="a file cut off"),
        pytest.param("{}", id="a file without the endpoint"),
        pytest.param("[]", id="a file of another kind"),
    ],
)
def test_a_local_aws_that_is_not_running_says_how_to_start_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str | None
) -> None:
    serve(tmp_path, monkeypatch, text)
    with pytest.raises(CommandError, match=r"the local AWS is not running: start it with scripts/local\.sh start"):
        stack.session(options("--local"))


def test_the_local_aws_is_reached_whatever_the_environment_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, listening: int
) -> None:
    serve(tmp_path, monkeypatch, json.dumps({"endpoint": f"http://127.0.0.1:{listening}", "pid": 1}))
    for name, value in {
        "AWS_PROFILE": "missing",
        "AWS_DEFAULT_REGION": "mars-1",
        "AWS_REGION": "mars-1",
        "AWS_ENDPOINT_URL": "https://elsewhere.example",
        "AWS_ACCESS_KEY_ID": "AKIAREAL",
        "AWS_SECRET_ACCESS_KEY": "real",
        "AWS_SESSION_TOKEN": "real",
        "AWS_USE_FIPS_ENDPOINT": "true",
        "AWS_CA_BUNDLE": "/missing",
        "AWS_MAX_ATTEMPTS": "many",
        "HTTP_PROXY": "http://proxy.example:3128",
        "http_proxy": "http://proxy.example:3128",
    }.items():
        monkeypatch.setenv(name, value)
    aws = stack.session(options("--local"))
    credentials = aws.session.get_credentials()
    assert (credentials.access_key, credentials.secret_key, credentials.token) == ("test", "test", None)
    for service in ("s3", "athena"):
        meta = aws.client(service).meta
        assert (meta.endpoint_url, meta.region_name) == (f"http://127.0.0.1:{listening}", "us-east-1")
        assert meta.config.proxies == {}
    assert (aws.place, aws.flag) == ("us-east-1 [local]", " --local")


def test_the_real_aws_is_the_one_that_the_environment_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_CONFIG_FILE", "/missing")
    monkeypatch.delenv("AWS_PROFILE", raising=False)
    monkeypatch.delenv("AWS_DEFAULT_REGION", raising=False)
    monkeypatch.delenv("AWS_REGION", raising=False)
    with pytest.raises(exceptions.NoRegionError):
        stack.session(options())
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-north-1")
    assert stack.session(options()).region == "eu-north-1"
    monkeypatch.setenv("AWS_REGION", "eu-south-1")
    aws = stack.session(options())
    assert (aws.region, aws.place, aws.flag) == ("eu-south-1", "eu-south-1", "")
    assert aws.client("s3").meta.region_name == "eu-south-1"


def test_a_profile_and_a_region_that_are_given_win_and_are_in_the_commands_to_type(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = "aws_access_key_id = {0}\naws_secret_access_key = {0}\nregion = eu-west-3\n"
    (tmp_path / "config").write_text("".join(f'[profile "{name}"]\n{keys.format(name)}' for name in ("one", "my two")))
    for name, value in {"AWS_CONFIG_FILE": tmp_path / "config", "AWS_PROFILE": "one", "AWS_ACCESS_KEY_ID": "x"}.items():
        monkeypatch.setenv(name, str(value))
    monkeypatch.delenv("AWS_REGION", raising=False)
    monkeypatch.delenv("AWS_DEFAULT_REGION", raising=False)
    aws = stack.session(options("--profile", "my two"))
    assert (aws.region, aws.session.get_credentials().access_key) == ("eu-west-3", "my two")
    assert aws.flag == " --profile 'my two'"
    monkeypatch.setenv("AWS_REGION", "eu-south-1")
    given = ["--profile", "my two", "--region", "eu-north-1"]
    assert stack.session(options(*given)).region == "eu-north-1"
    assert stack.command_options(options(*given)) == " --profile 'my two' --region eu-north-1"
    with pytest.raises(exceptions.ProfileNotFound):
        stack.session(options("--profile", "three"))


@pytest.mark.parametrize("given", [["--profile", "one"], ["--region", "eu-west-1"]], ids=" ".join)
def test_a_profile_or_region_is_not_for_the_local_aws(given: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLUICE_LOCAL", "1")
    with pytest.raises(UsageError, match="cannot go with --local or SLUICE_LOCAL=1"):
        stack.session(options(*given))


def test_a_variable_names_the_stack_unless_an_option_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SLUICE_STACK_NAME", raising=False)
    assert options().stack_name == "sluice"
    monkeypatch.setenv("SLUICE_STACK_NAME", "mine")
    assert (options().stack_name, stack.command_options(options())) == ("mine", "")
    yours = options("--stack-name", "yours", "--local")
    assert stack.command_options(yours) == " --local --stack-name yours"
    monkeypatch.setenv("SLUICE_STACK_NAME", "1st")
    with pytest.raises(UsageError, match="'1st' is not a stack name"):
        options()


# scripts/environment.sh


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A repository with one command and nothing to install: its requirements are empty. Its path is a long one."""
    root = tmp_path / "a repository" / ("deep" * 50) / "in a folder"
    (root / "scripts" / "commands").mkdir(parents=True)
    shutil.copy(ROOT / "scripts" / "commands" / "__main__.py", root / "scripts" / "commands")
    (root / "scripts" / "requirements").mkdir()
    (root / "lambda").mkdir()
    shutil.copy(ROOT / "scripts" / "environment.sh", root / "scripts")
    for name in ("scripts/requirements/aws.txt", "scripts/requirements/local.txt", "lambda/requirements.txt"):
        (root / name).write_text("")
    (root / "scripts" / "commands" / "hello.py").write_text(
        "import os, sys\nprint(os.getcwd(), sys.prefix, *sys.argv[1:], sep='|')\n"
    )
    hello = root / "scripts" / "hello.sh"
    hello.write_text(
        "#!/usr/bin/env bash\n# Say hello.\n#\n#   indented --to NAME\nset -euo pipefail\n# not this\n"
        'source "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/environment.sh"\nrun scripts.commands.hello aws "$@"\n'
    )
    hello.chmod(0o755)
    return root


def hello(repository: Path, *arguments: str, path: str = "", **options: Any) -> subprocess.CompletedProcess[str]:
    """Run the command with only PATH, HOME and the given variables in its environment."""
    variables = options.pop("variables", {})
    path = path or f"{Path(sys.executable).resolve().parent}:/usr/bin:/bin"
    return subprocess.run(
        [repository / "scripts" / "hello.sh", *arguments],
        env={"PATH": path, "HOME": "/nonexistent", **variables},
        capture_output=True,
        text=True,
        timeout=500,
        **options,
    )


def tools(directory: Path, **scripts: str) -> str:
    """A PATH with the usual tools, without any Python but those given as shell scripts."""
    directory.mkdir()
    for name in ("bash", "env", "dirname", "readlink", "cat", "cksum", "mkdir", "rm", "tail", "grep"):
        (directory / name).symlink_to(shutil.which(name) or name)
    for name, text in scripts.items():
        (directory / name).write_text(f"#!/bin/bash\n{text}\n")
        (directory / name).chmod(0o755)
    return str(directory)


@pytest.fixture
def ready(repository: Path) -> Path:
    """The same, with its environment already made; pip is left out, because nothing here asks for it again."""
    venv = repository / ".sluice" / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", venv], check=True)
    total = subprocess.run(["cksum"], input="", capture_output=True, text=True, check=True).stdout
    (venv / ".installed-aws").write_text(total)
    return repository


@pytest.mark.parametrize("option", ["-h", "--help"])
def test_help_is_the_header_comment_and_needs_no_environment(repository: Path, option: str, tmp_path: Path) -> None:
    done = hello(repository, "x", option, path=tools(tmp_path / "bin"))
    assert (done.returncode, done.stdout, done.stderr) == (0, "Say hello.\n\n  indented --to NAME\n", "")
    assert not (repository / ".sluice").exists()


def test_a_command_runs_where_its_caller_is_and_installs_nothing_twice(ready: Path, tmp_path: Path) -> None:
    (tmp_path / "json.py").write_text("raise SystemExit('imported from the working directory')")
    (tmp_path / "os.py").write_text("raise SystemExit('imported from the working directory')")
    done = hello(ready, "a b", "--", "-h", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"{tmp_path}|{ready / '.sluice' / 'venv'}|a b|--|-h\n"


@pytest.mark.parametrize("option", ["--too", "--t", "--to-whom=Ada", "--wrong=1"])
def test_an_option_that_the_help_lacks_is_refused_before_an_install(
    repository: Path, option: str, tmp_path: Path
) -> None:
    done = hello(repository, "--to", "Ada", option, path=tools(tmp_path / "bin"))
    complaint = f"error: unrecognized arguments: {option} (see scripts/hello.sh --help)\n"
    assert (done.returncode, done.stdout, done.stderr) == (2, "", complaint)


def test_values_that_look_like_options_reach_the_command(ready: Path) -> None:
    values = ["--to=--x", "-- a comment\nSELECT 1", "-1", "--", "--after"]
    assert hello(ready, *values, cwd=ready).stdout.endswith("|".join(["", *values]) + "\n")


def files(folder: Path) -> set[Path]:
    return {path for path in folder.rglob("*") if "__pycache__" not in path.parts}


def test_a_checkout_by_a_symlink_stays_as_it_is_if_another_folder_is_the_home(ready: Path, tmp_path: Path) -> None:
    (ready / ".sluice").rename(tmp_path / "a home")
    before = files(ready)
    (tmp_path / "link").symlink_to(ready)
    for home in (tmp_path / "a home", Path("a home")):
        done = hello(tmp_path / "link", variables={"SLUICE_HOME": str(home)}, cwd=tmp_path)
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout == f"{tmp_path}|{tmp_path / 'a home' / 'venv'}\n"
    assert files(ready) == before


def test_a_home_that_cannot_be_written_is_one_line(repository: Path) -> None:
    done = hello(repository, variables={"SLUICE_HOME": "/dev/null/home"})
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        "error: /dev/null/home cannot be written: let SLUICE_HOME name a folder for the environment and its state\n"
    )


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        pytest.param(None, "No module named scripts.commands.hello", id="gone"),
        pytest.param("import folder_of_mine\n", "No module named 'folder_of_mine'", id="half there"),
        pytest.param("def broken(:\n", "invalid syntax (hello.py, line 1)", id="broken"),
    ],
)
def test_a_command_that_cannot_be_loaded_is_one_line(ready: Path, text: str | None, complaint: str) -> None:
    command = ready / "scripts" / "commands" / "hello.py"
    command.unlink() if text is None else command.write_text(text)
    done = hello(ready)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert done.stderr.startswith(f"error: scripts.commands.hello cannot be loaded: {complaint}")


def test_changed_requirements_are_installed_and_a_failure_leaves_them_to_install(ready: Path) -> None:
    (ready / "scripts" / "requirements" / "aws.txt").write_text("./missing\n")
    site = next((ready / ".sluice" / "venv" / "lib").glob("python*/site-packages"))
    pip = site / "pip"
    pip.mkdir()
    (pip / "__main__.py").write_text(
        "import sys\nif 'install' in sys.argv: sys.exit('noise\\nERROR: No matching distribution found for x\\nnoise')"
    )
    for _ in range(2):
        done = hello(ready)
        assert done.returncode == 1
        assert (
            "error: pip could not install scripts/requirements/aws.txt: ERROR: No matching distribution" in done.stderr
        )
        assert "check the network" in done.stderr
    (pip / "__main__.py").write_text("")
    assert hello(ready).returncode == 0
    assert hello(ready).stderr == ""


@pytest.mark.parametrize(
    ("python", "complaint"),
    [
        pytest.param({}, "Python 3.11 or newer is needed (found: no python3 on PATH)", id="no python3"),
        pytest.param(
            {"python3": '[[ $1 == -V ]] && echo "Python 3.9.2"; exit 1'},
            "Python 3.11 or newer is needed (found: Python 3.9.2)",
            id="too old",
        ),
        pytest.param(
            {"python3": '[[ $2 == *ensurepip* ]] && exit 1; [[ $2 == "venv" ]] && touch "$0.ran"; exit 0'},
            "python3 comes without venv: on Debian and Ubuntu `apt-get install python3-venv` fixes it",
            id="no venv",
        ),
        pytest.param(
            {
                "python3": '[[ $1 == -m ]] && { mkdir -p "$3/bin"; echo noise; echo disk full; exit 1; }; exit 0',
            },
            "python3 -m venv failed: disk full",
            id="venv fails",
        ),
    ],
)
def test_a_python_that_will_not_do_is_one_line_and_leaves_nothing_half_made(
    repository: Path, tmp_path: Path, python: dict[str, str], complaint: str
) -> None:
    done = hello(repository, path=tools(tmp_path / "bin", **python))
    assert done.returncode == 1
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1 and complaint in errors[0]
    assert not (repository / ".sluice" / "venv").exists()


def test_a_newer_python_beside_an_old_one_is_found(ready: Path, tmp_path: Path) -> None:
    path = tools(tmp_path / "bin", python3="exit 1", **{"python3.12": 'echo "$@" >>"$0.log"; exit 0'})
    (ready / ".sluice" / "venv" / ".installed-aws").unlink()
    hello(ready, path=path)
    assert "sys.version_info" in (tmp_path / "bin" / "python3.12.log").read_text()


def test_two_callers_make_one_environment(repository: Path) -> None:
    command = [repository / "scripts" / "hello.sh"]
    environment = environment_of_a_new_machine(HOME="/nonexistent")
    both = [
        subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    with contextlib.ExitStack() as cleanup:
        for process in both:
            cleanup.callback(process.kill)
        told = "".join(process.communicate(timeout=500)[1] for process in both)
        assert [process.returncode for process in both] == [0, 0]
    assert told.count("Making a Python environment in .sluice/venv") == 1
    assert told.count("Installing scripts/requirements/aws.txt") == 1
    assert hello(repository).stderr == ""
