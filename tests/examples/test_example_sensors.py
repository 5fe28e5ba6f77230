"""The sensors example: its receiver, and the whole of it on a local AWS with an outage in the middle."""

from __future__ import annotations

import json
import subprocess
import threading
from collections.abc import Callable, Iterator
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from examples.sensors import check, warehouse
from shared import web
from tests.conftest import ROOT

GOOD = {
    "event_id": "e1",
    "sensor": "sf",
    "measured_at": "2010-01-01 00:00:00.000",
    "celsius": 8.8,
    "object": "s3://b/k",
}
Post = Callable[..., tuple[int, Any]]


@pytest.fixture
def post(tmp_path: Path) -> Iterator[Post]:
    """Post to a warehouse with the sensor sf; returns the status and the answer."""

    class Handler(warehouse.Handler):
        database, sensors, token = tmp_path / "rows.db", {"sf"}, "t-1"

        def log_message(self, format: str, *arguments: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}/rows"

    def post(content: Any, token: str = "t-1") -> tuple[int, Any]:
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        answer = web.ask("POST", url, {"Authorization": f"Bearer {token}"}, body)
        return answer.status, json.loads(answer.body)

    yield post
    server.shutdown()
    server.server_close()


def held(tmp_path: Path) -> list[Any]:
    return warehouse.connect(tmp_path / "rows.db").execute("SELECT row_id FROM readings ORDER BY 1").fetchall()


def row(row_id: str, **changes: Any) -> dict[str, Any]:
    return {"row_id": row_id, "query": "q", "values": {**GOOD, **changes}}


def test_the_warehouse_keeps_a_row_once_however_often_it_comes(post: Post, tmp_path: Path) -> None:
    for rows in ([row("1")], [row("1"), row("2")], [row("2"), row("2")]):
        assert post({"rows": rows}) == (200, {"refused": []})

    assert held(tmp_path) == [("1",), ("2",)]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"sensor": "cellar"}, "no sensor is named 'cellar'"),
        ({"celsius": "8.8"}, "celsius must be a number from -90 to 60"),
        ({"celsius": 61}, "celsius must be a number from -90 to 60"),
        ({"celsius": True}, "celsius must be a number from -90 to 60"),
        ({"celsius": None}, "celsius must be a number from -90 to 60"),
        ({"object": None}, "object must be a text"),
        ({"measured_at": ""}, "measured_at must be a text"),
    ],
    ids=str,
)
def test_the_warehouse_refuses_a_wrong_row_and_keeps_the_others(
    post: Post, tmp_path: Path, changes: dict[str, Any], reason: str
) -> None:
    assert post({"rows": [row("1"), row("2", **changes)]}) == (207, {"refused": [{"row_id": "2", "reason": reason}]})
    assert held(tmp_path) == [("1",)]


@pytest.mark.parametrize(
    ("content", "status"),
    [
        pytest.param(b"{", 400, id="no JSON"),
        pytest.param([], 400, id="a list"),
        pytest.param({"rows": {}}, 400, id="rows that are no list"),
        pytest.param({"rows": [row("1"), {"values": GOOD}]}, 400, id="a row without an id"),
        pytest.param({"rows": [row("1"), 7]}, 400, id="a number for a row"),
        pytest.param({"rows": [{"row_id": "1", "values": 7}]}, 207, id="values that are no object"),
        pytest.param({"rows": []}, 200, id="no rows"),
    ],
)
def test_a_body_that_is_not_a_list_of_rows_changes_nothing(
    post: Post, tmp_path: Path, content: Any, status: int
) -> None:
    assert post(content)[0] == status
    assert held(tmp_path) == []


@pytest.mark.parametrize("token", ["", "t-2", "t-11", "tü"[:1]])
def test_the_warehouse_takes_nothing_without_its_token(post: Post, tmp_path: Path, token: str) -> None:
    assert post({"rows": [row("1")]}, token)[0] == 401
    assert held(tmp_path) == []


def test_the_check_counts_what_is_missing_and_what_is_too_much() -> None:
    count = check.Counter
    a, b = ("a",), ("b",)
    assert check.compare(count([a, b]), count([b, a])) is None
    assert (
        check.compare(count([a, a]), count([a])) == "1 rows are missing, 0 are too many; one only in the query: ('a',)"
    )
    assert check.compare(count([a]), count([a, b])) == (
        "0 rows are missing, 1 are too many; one only in the warehouse: ('b',)"
    )


@pytest.mark.slow
def test_the_warehouse_holds_exactly_the_rows_of_the_query_after_an_outage() -> None:
    command = [str(ROOT / "examples" / "sensors" / "run.sh"), "--outage"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=500)

    assert done.returncode == 0, done.stdout + done.stderr
    assert "The warehouse is killed; it holds" in done.stdout
    assert "Delivered 3,554 rows, refused 3, waiting 0" in done.stdout
    assert "$ scripts/deliver.sh redrive --local\n3\n" in done.stdout
    assert "The warehouse holds exactly the 7,063 rows of the query" in done.stdout
