"""scripts/local.sh with processes of its own, and every script's answer to a person's mistakes."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from scripts.commands import local
from scripts.commands.common.console import CommandError
from tests.conftest import ROOT, Run, environment_of_a_new_machine, free_port
from tests.factories import stand_in
from tests.local_process import client, eventually


class Person:
    """Somebody with a local AWS of their own: runs scripts, and knows their processes."""

    def __init__(self, directory: Path) -> None:
        self.state = directory / "state"
        self.environment = environment_of_a_new_machine(
            HOME=str(directory / "home"), TMPDIR=str(directory / "tmp"), SLUICE_LOCAL_STATE=str(self.state)
        )
        (directory / "tmp").mkdir()
        with socket.create_server(("127.0.0.1", 0)) as listener:
            self.port = listener.getsockname()[1]

    def start(self, name: str, *arguments: str, **environment: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            ["bash", str(ROOT / "scripts" / f"{name}.sh"), *arguments],
            env=self.environment | environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, name: str, *arguments: str, **environment: str) -> tuple[int, str, str]:
        process = self.start(name, *arguments, **environment)
        out, err = process.communicate(timeout=500)
        return process.returncode, out, err

    def local(self, *arguments: str) -> tuple[int, str, str]:
        return self.run("local", *arguments)

    @property
    def server(self) -> int:
        """The process id of the local AWS."""
        return int((self.state / "lock").read_text())

    def servers(self) -> list[int]:
        """Every process with this state, even if the scripts do not know of it."""
        found = []
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                words = path.read_bytes().decode().split("\0")
            except OSError:
                continue
            if "local.server" in words and str(self.state) in words:
                found.append(int(path.parent.name))
        return found


@pytest.fixture
def person(tmp_path: Path) -> Iterator[Person]:
    person = Person(tmp_path)
    yield person
    if person.state.is_dir():
        person.local("stop")


# One process


@pytest.mark.slow
def test_it_starts_once_tells_where_it_is_and_stops(person: Person) -> None:
    endpoint = f"http://127.0.0.1:{person.port}"
    assert person.local("status")[:2] == (3, "not running\n")
    assert person.local("start", "--port", str(person.port)) == (0, "", f"The local AWS runs on {endpoint}\n")
    server = person.server
    assert person.local("start", "--port", str(person.port + 1))[2] == f"The local AWS runs on {endpoint}\n"
    assert person.servers() == [person.server] == [server]
    assert person.local("status")[:2] == (0, f"{endpoint}\n")
    assert person.local("stop") == (0, "", "Stopped the local AWS.\n")
    assert person.servers() == []
    assert not (person.state / "server.json").exists()
    assert person.local("stop") == (0, "", "The local AWS was not running.\n")
    assert person.local("status")[:2] == (3, "not running\n")


@pytest.mark.slow
def test_nobody_else_reads_its_state(person: Person) -> None:
    person.state.mkdir()
    person.state.chmod(0o777)
    before = os.umask(0)
    try:
        assert person.local("start", "--port", str(person.port))[0] == 0
    finally:
        os.umask(before)
    endpoint = f"http://127.0.0.1:{person.port}"
    client(endpoint, "secretsmanager").create_secret(Name="name", SecretString="secret")
    client(endpoint, "s3").create_bucket(Bucket="bucket")
    client(endpoint, "s3").put_object(Bucket="bucket", Key="key", Body=b"secret")
    assert person.state.stat().st_mode & 0o777 == 0o700
    wide = set()
    for path in person.state.rglob("*"):
        with contextlib.suppress(FileNotFoundError):  # a draft has got its name meanwhile
            wide |= {path.name} if path.stat().st_mode & 0o077 else set()
    # The script opens this one before the server starts, and the folder protects it.
    assert wide <= {"server.log"}


@pytest.mark.slow
def test_two_who_start_it_at_once_get_one_process(person: Person) -> None:
    both = [person.start("local", "start", "--port", str(person.port)) for _ in range(2)]
    told = [process.communicate(timeout=500)[1] for process in both]
    assert [process.returncode for process in both] == [0, 0], told
    deadline = time.monotonic() + 10
    while person.servers() != [person.server]:
        assert time.monotonic() < deadline, "two processes serve one state"
        time.sleep(0.05)


def test_who_starts_it_while_somebody_else_does_waits_until_it_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = ["not yet", "not yet", "http://127.0.0.1:1"]

    def local_endpoint() -> str:
        if (found := looks.pop(0)) == "not yet":
            raise CommandError(found)
        return found

    monkeypatch.setattr(local, "LOCAL_STATE", tmp_path)
    monkeypatch.setattr(local, "local_endpoint", local_endpoint)
    with (tmp_path / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        local.start(1)
    assert looks == []


@pytest.mark.slow
def test_a_taken_port_is_told_and_leaves_no_process(person: Person) -> None:
    person.state.mkdir()
    (person.state / "lock").touch()
    # A killed process's: it is gone before anything listens.
    (person.state / "server.json").write_text(json.dumps({"endpoint": f"http://127.0.0.1:{free_port()}"}))
    with socket.create_server(("127.0.0.1", person.port)):
        code, out, err = person.local("start", "--port", str(person.port))
    assert (code, out) == (1, "")
    assert f"port {person.port} cannot be used (Address already in use): choose another with --port" in err
    assert err.count("\n") == 1
    assert person.servers() == [] and not (person.state / "server.json").exists()
    assert person.local("start", "--port", str(person.port))[0] == 0


@pytest.mark.slow
def test_ctrl_c_while_it_starts_leaves_no_process(person: Person) -> None:
    process = person.start("local", "start", "--port", str(person.port))
    deadline = time.monotonic() + 20
    while not person.servers():
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.01)
    time.sleep(0.1)  # it knows its process by now
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=20)
    assert (process.returncode, err) == (130, "interrupted\n")
    assert person.servers() == []
    assert person.local("status")[:2] == (3, "not running\n")


@pytest.mark.slow
def test_reset_removes_the_state_and_nothing_beside_it(person: Person) -> None:
    beside = person.state.parent / "mine.txt"
    beside.write_text("mine")
    person.local("start", "--port", str(person.port))
    assert person.local("reset")[::2] == (
        0,
        "Stopped the local AWS.\nRemoved its state: stacks, objects, everything.\n",
    )
    assert not person.state.exists() and beside.exists()
    assert person.local("reset") == (0, "", "The local AWS was not running.\n")


@pytest.mark.parametrize("action", ["start", "reset"])
def test_a_folder_with_files_of_somebody_else_is_never_taken_for_its_state(person: Person, action: str) -> None:
    person.state.mkdir()
    (person.state / "thesis.txt").write_text("mine")
    code, _, err = person.local(action)
    assert code == 1 and err.splitlines()[-1].startswith(f"error: {person.state} holds other files")
    assert [path.name for path in person.state.iterdir()] == ["thesis.txt"]


def test_a_folder_that_cannot_be_made_is_told(person: Person) -> None:
    person.state.write_text("a file")
    code, _, err = person.local("start")
    assert (code, err) == (1, f"error: {person.state} cannot hold the local AWS's state: File exists\n")


def test_a_server_that_never_answers_is_told_and_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sleeper = tmp_path / "sleeper"
    sleeper.write_text("#!/usr/bin/env bash\nexec sleep 60\n")
    sleeper.chmod(0o755)
    monkeypatch.setattr(local, "LOCAL_STATE", tmp_path / "state")
    monkeypatch.setattr(local, "START_SECONDS", 0.1)
    monkeypatch.setattr("sys.executable", str(sleeper))
    started: list[subprocess.Popen[bytes]] = []
    make = subprocess.Popen
    watched = stand_in(subprocess, Popen=lambda *a, **options: started.append(make(*a, **options)) or started[0])
    monkeypatch.setattr(local, "subprocess", watched)
    with pytest.raises(CommandError, match=r"did not answer within 0.1 s: see .*server\.log"):
        local.start(4566)
    assert started[0].returncode == -signal.SIGKILL


# Survival


@pytest.mark.slow
def test_a_killed_local_aws_has_lost_nothing_that_it_acknowledged(person: Person) -> None:
    """It is killed at once after a deployment, and again at once after an event was taken."""
    port = str(person.port)
    person.local("start", "--port", port)
    code, out, err = person.run("deploy", "--local", "--yes", "--parameter", "FirehoseBufferingInterval=1")
    kill(person.server)
    assert code == 0, err
    assert person.local("status")[:2] == (3, "not running\n")
    code, _, err = person.run("query", "--local", "--list")
    assert (code, err) == (2, "error: the local AWS is not running: start it with scripts/local.sh start\n")

    assert person.local("start", "--port", port)[0] == 0
    assert person.run("deploy", "--local", "--yes")[:2] == (0, out)
    event = {"event_id": "one", "name": "survivor"}
    assert person.run("track", "--local", json.dumps(event))[0] == 0
    kill(person.server)

    assert person.local("start", "--port", port)[0] == 0
    outputs = dict(line.split("\t") for line in out.splitlines())
    sql = f'SELECT event_id, name FROM "{outputs["DatabaseName"]}"."{outputs["TableName"]}"'
    deadline = time.monotonic() + 30
    while not (rows := person.run("query", "--local", "--format", "json", "--sql", sql)[1]):
        assert time.monotonic() < deadline, "the event was not delivered"
        time.sleep(0.3)
    assert [json.loads(line) for line in rows.splitlines()] == [event]

    # One directory has it all, and one port is open, to this machine alone.
    assert not (person.state.parent / "home").exists()
    assert list((person.state.parent / "tmp").iterdir()) == []
    assert listening(person.server) == [("127.0.0.1", person.port)]


def kill(process: int) -> None:
    """Kill a process, not a child of this one, and wait until the kernel has closed its files."""
    os.kill(process, signal.SIGKILL)
    eventually(lambda: not open_files(process), pause=0.01)


def open_files(process: int) -> list[Path]:
    """The open files of a process; none if it has ended, even if nobody has waited for it yet."""
    try:
        return list(Path(f"/proc/{process}/fd").iterdir())
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return []


def listening(process: int) -> list[tuple[str, int]]:
    """The addresses where a process takes connections, as the kernel knows them."""
    links = [str(path.readlink()) for path in open_files(process)]
    inodes = {link.removeprefix("socket:[").removesuffix("]") for link in links if link.startswith("socket:[")}
    found = []
    for table, length in (("tcp", 8), ("tcp6", 32)):
        for line in Path(f"/proc/{process}/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and fields[9] in inodes:
                address, _, port = fields[1].partition(":")
                host = socket.inet_ntoa(bytes.fromhex(address)[::-1]) if length == 8 else address
                found.append((host, int(port, 16)))
    return found


# Mistakes of a person

WRONG: list[Any] = [
    *[
        pytest.param([name, "--oops"], 2, "unrecognized arguments: --oops", id=f"{name}, option")
        for name in ("demo", "deploy", "destroy", "local stop", "query --list", "track {}")
    ],
    pytest.param(["test", "--oops"], 1, "unknown option '--oops'", id="test, option"),
    pytest.param(["destroy", "--stack-name"], 2, "--stack-name: expected one argument", id="destroy, no value"),
    *[
        pytest.param([name, "--port", port], 2, words, id=f"{name.split()[0]}, port {port}")
        for name, port, words in (
            ("demo", "70000", "--port: must be 1 to 65535 (got '70000')"),
            ("local start", "x", "--port: must be 1 to 65535 (got 'x')"),
            ("local start", "0", "--port: must be 1 to 65535 (got '0')"),
        )
    ],
    pytest.param(["local"], 2, "the following arguments are required: action", id="local, nothing"),
    pytest.param(["local restart"], 2, "invalid choice: 'restart'", id="local, unknown action"),
    pytest.param(["query"], 2, "", id="query, nothing"),
    pytest.param(["query", "--format", "xml", "--list"], 2, "'xml'", id="query, format"),
    pytest.param(["track"], 2, "", id="track, nothing"),
    pytest.param(["track", '{"name": '], 2, "JSON", id="track, half a JSON object"),
    pytest.param(["track", "--file", "/nonexistent.ndjson"], 2, "/nonexistent.ndjson", id="track, no file"),
    pytest.param(["track", "--rate", "-1", "{}"], 2, "-1", id="track, rate"),
    pytest.param(["deploy", "--yes", "--parameter", "x"], 2, "'x' is not of the form Key=Value", id="deploy, pair"),
]
COMMANDS = [["deploy", "--yes"], ["destroy", "--yes"], ["query", "--list"], ["track", "{}"]]
NAMES = [command[0] for command in COMMANDS]


def assert_one_line(done: tuple[int, str, str], code: int, words: str) -> None:
    assert done[:2] == (code, ""), done
    assert done[2].startswith("error: ") and done[2].count("\n") == 1, done[2]
    assert words in done[2] and "Traceback" not in done[2], done[2]


@pytest.mark.parametrize(("command", "code", "words"), WRONG)
def test_a_wrong_command_line_is_one_line_with_the_bad_value(
    person: Person, command: list[str], code: int, words: str
) -> None:
    name, *rest = command[0].split()
    assert_one_line(person.run(name, *rest, *command[1:]), code, words)
    assert not person.state.exists()


@pytest.mark.parametrize("command", COMMANDS[1:], ids=NAMES[1:])
def test_without_a_local_aws_a_script_says_how_to_start_it(person: Person, command: list[str]) -> None:
    words = "the local AWS is not running: start it with scripts/local.sh start"
    assert_one_line(person.run(*command, "--local"), 2, words)
    assert_one_line(person.run(*command, SLUICE_LOCAL="1"), 2, words)


@pytest.mark.slow
def test_the_first_deployment_starts_the_local_aws(person: Person) -> None:
    code, out, err = person.run("deploy", "--yes", SLUICE_LOCAL="1", SLUICE_LOCAL_PORT=str(person.port))
    assert code == 0, err
    assert f"TrackURL\thttp://127.0.0.1:{person.port}/" in out
    assert person.local("status") == (0, f"http://127.0.0.1:{person.port}\n", "")


def test_a_deployment_whose_local_aws_cannot_start_says_so(person: Person) -> None:
    code, out, err = person.run("deploy", "--local", "--yes", SLUICE_LOCAL_PORT="none")
    assert (code, out) == (1, "")
    assert err.splitlines() == [
        "error: argument --port: must be 1 to 65535 (got 'none') (see scripts/local.sh --help)",
        "error: there is no local AWS to deploy to: scripts/local.sh start has failed",
    ]


@pytest.mark.parametrize("command", COMMANDS, ids=NAMES)
def test_without_a_region_a_script_says_how_to_name_one(person: Person, command: list[str]) -> None:
    words = "no AWS region: run `aws configure` or set AWS_REGION, or add --local"
    assert_one_line(person.run(*command), 2, words)


@pytest.mark.parametrize(
    ("environment", "words"),
    [
        pytest.param(
            {"AWS_REGION": "eu-west-1", "AWS_EC2_METADATA_DISABLED": "true"},
            "no AWS credentials: run `aws configure` or set AWS_PROFILE, or add --local",
            id="no credentials",
        ),
        pytest.param({"AWS_PROFILE": "nobody"}, "The config profile (nobody) could not be found", id="no profile"),
    ],
)
def test_without_an_account_deploy_says_how_to_name_one(
    person: Person, environment: dict[str, str], words: str
) -> None:
    assert_one_line(person.run("deploy", "--yes", **environment), 2, words)


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS[1:], ids=NAMES[1:])
def test_a_stack_that_does_not_exist_is_named(script: Run, local_aws: str, command: list[str]) -> None:
    done = script(*command, "--local", "--stack-name", "nobodys", check=False)
    words = "stack 'nobodys' does not exist in us-east-1 [local]: deploy it with scripts/deploy.sh --local"
    assert_one_line((done.returncode, done.stdout, done.stderr), 2, words)


@pytest.mark.slow
def test_a_deployment_that_nobody_can_agree_to_begins_nothing(script: Run, local_aws: str) -> None:
    done = script("deploy", "--local", "--stack-name", "unasked", check=False)
    assert_one_line((done.returncode, done.stdout, done.stderr), 2, "stdin is not a terminal to ask at: add --yes")
    missing = script("query", "--local", "--stack-name", "unasked", "--list", check=False)
    assert "does not exist" in missing.stderr
