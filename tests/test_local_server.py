"""The local AWS's process: one at a time in a directory, on one port of this machine."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import socket
import tempfile
import threading
import time
from pathlib import Path

import pytest

from local import server


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
    monkeypatch.setattr(tempfile, "tempdir", None)
    (tmp_path / "server.json").write_text('{"endpoint": "http://127.0.0.1:4566"}')
    (tmp_path / "tmp" / "function").mkdir(parents=True)
    server.tidy(tmp_path)
    assert [path.name for path in tmp_path.rglob("*")] == ["tmp"]
    assert Path(tempfile.mkdtemp()).parent == tmp_path / "tmp"


class Emulator:
    """Answers every request with this body; remembers after how many messages its state was saved."""

    def __init__(self, body: bytes) -> None:
        self.body = body
        self.sent: list[str] = []
        self.saved_after: list[int] = []

    def save(self) -> None:
        self.saved_after.append(len(self.sent))

    async def app(self, scope: server.Message, receive: object, send: object) -> None:
        await send({"type": "http.response.start", "status": 200})  # type: ignore[operator]
        await send({"type": "http.response.body", "body": self.body})  # type: ignore[operator]


@pytest.mark.parametrize(
    ("status", "saved_after"),
    [("UPDATE_COMPLETE", [1]), ("ROLLBACK_COMPLETE", [1]), ("CREATE_IN_PROGRESS", [])],
)
def test_a_stack_is_on_disk_before_anybody_reads_that_it_is_complete(status: str, saved_after: list[int]) -> None:

    emulator = Emulator(f"<StackStatus>{status}</StackStatus>".encode())
    aws = server.LocalAws.__new__(server.LocalAws)
    aws.emulator, aws.changed = emulator, False  # type: ignore[assignment]

    async def send(message: server.Message) -> None:
        emulator.sent.append(message["type"])

    asyncio.run(aws({"type": "http", "path": "/", "method": "POST"}, None, send))
    assert emulator.sent == ["http.response.start", "http.response.body"]
    assert emulator.saved_after == saved_after


def test_the_state_is_saved_once_more_after_the_last_call(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stack operation goes on after the call that began it."""

    monkeypatch.setattr(server, "SAVE_INTERVAL_SECONDS", 0.01)
    emulator = Emulator(b"")
    aws = server.LocalAws.__new__(server.LocalAws)
    aws.emulator, aws.changed = emulator, True  # type: ignore[assignment]

    async def live() -> None:
        saving = asyncio.create_task(aws._save_changes())
        deadline = time.monotonic() + 0.2
        while time.monotonic() < deadline:
            await asyncio.sleep(0.01)
        saving.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await saving

    asyncio.run(live())
    assert len(emulator.saved_after) == 2
