"""The local AWS's process: one at a time in a directory, on one port of this machine."""

from __future__ import annotations

import asyncio
import errno
import fcntl
import json
import os
import socket
import stat
import tempfile
import threading
from pathlib import Path
from typing import Any

import pytest
import uvicorn

from local import server
from tests.factories import stand_in
from tests.local_process import LocalProcess, eventually


def test_a_directory_is_locked_by_one_process_which_says_its_id(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "LOCK_SECONDS", 0.05)
    (tmp_path / "lock").write_text("99999999")
    locked = server.lock(tmp_path)
    with pytest.raises(SystemExit, match=r"runs already: stop it with scripts/local\.sh stop"):
        server.lock(tmp_path)
    assert (tmp_path / "lock").read_text() == str(os.getpid())
    os.close(locked)
    os.close(server.lock(tmp_path))


@pytest.mark.parametrize("mode", [0o755, 0o777, 0o500, None], ids=lambda mode: "new" if mode is None else f"{mode:o}")
def test_only_its_owner_enters_the_directory(tmp_path: Path, mode: int | None) -> None:
    directory = tmp_path / "state"
    if mode is not None:
        directory.mkdir()
        directory.chmod(mode)
    os.close(server.lock(directory))
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700


def test_a_directory_of_somebody_else_is_refused_with_the_way_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path, mode: int) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted", str(path))

    monkeypatch.setattr(Path, "chmod", refuse)
    with pytest.raises(SystemExit) as refused:
        server.lock(tmp_path)
    assert refused.value.code == (
        f"error: {tmp_path} cannot be made private (Operation not permitted): "
        "let SLUICE_LOCAL_STATE name a folder of your own"
    )


def test_somebody_who_looks_at_the_lock_stops_no_start(tmp_path: Path) -> None:
    with (tmp_path / "lock").open("w") as looking:
        fcntl.flock(looking, fcntl.LOCK_SH)
        timer = threading.Timer(0.1, fcntl.flock, (looking, fcntl.LOCK_UN))
        timer.start()
        os.close(server.lock(tmp_path))
        timer.join()


def test_a_taken_port_is_named_with_the_way_out(tmp_path: Path) -> None:
    with server.listen(0) as listener:
        port = listener.getsockname()[1]
        with pytest.raises(SystemExit, match=rf"port {port} cannot be used \(.+\): choose another with --port"):
            server.listen(port)


def test_it_listens_on_this_machine_alone() -> None:
    with server.listen(0) as listener:
        host, port = listener.getsockname()
        assert host == "127.0.0.1"
        # The same machine by another address.
        with pytest.raises(OSError):
            socket.create_connection(("127.0.0.2", port), timeout=1).close()


def test_what_a_killed_process_left_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = stand_in(tempfile)
    monkeypatch.setattr(server, "tempfile", own)
    (tmp_path / "server.json").write_text('{"endpoint": "http://127.0.0.1:4566"}')
    (tmp_path / "tmp" / "function").mkdir(parents=True)
    server.tidy(tmp_path)
    assert [path.name for path in tmp_path.rglob("*")] == ["tmp"]
    assert own.tempdir == str(tmp_path / "tmp")


def test_an_application_that_fails_to_start_is_not_served() -> None:
    async def fail(scope: Any, receive: Any, send: Any) -> None:
        raise OSError("a stream's log cannot be read")

    async def serve() -> None:
        with server.listen(0) as listener, pytest.raises(SystemExit):
            await uvicorn.Server(server.configuration(fail)).serve(sockets=[listener])

    asyncio.run(asyncio.wait_for(serve(), 10))


@pytest.mark.slow
def test_a_stop_does_not_wait_for_an_execution_that_waits(tmp_path: Path) -> None:
    wait = {"StartAt": "Wait", "States": {"Wait": {"Type": "Wait", "Seconds": 3600, "End": True}}}
    each = {"Type": "Map", "ItemsPath": "$.items", "ItemProcessor": wait, "End": True}
    trust = {"Effect": "Allow", "Principal": {"Service": "states.amazonaws.com"}, "Action": "sts:AssumeRole"}
    with LocalProcess(tmp_path) as local:
        document = json.dumps({"Version": "2012-10-17", "Statement": [trust]})
        role = local.client("iam").create_role(RoleName="waits", AssumeRolePolicyDocument=document)["Role"]["Arn"]
        states = local.client("stepfunctions")
        definition = json.dumps({"StartAt": "Each", "States": {"Each": each}})
        machine = states.create_state_machine(name="waits", definition=definition, roleArn=role)["stateMachineArn"]
        run = states.start_execution(stateMachineArn=machine, input='{"items": [1, 2]}')["executionArn"]

        def entered() -> list[str]:
            return [event["type"] for event in states.get_execution_history(executionArn=run)["events"]]

        eventually(lambda: "MapStateEntered" in entered())
        local.stop()
