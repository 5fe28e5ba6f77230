"""A killed worker or a repeated step changes nothing in the end."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from stacks.pull.function import fetch
from stacks.pull.function.store import TaskKey
from tests.pull_api import Api, Asked, Json, Told, serving
from tests.stacks.pull.pulled import PAGES, RETRY_HOURS, ROWS_A_PAGE, THINGS, Killed, Pulled, declare, honest, page_of

FEW = THINGS[:5]


def few_announced(asked: Asked) -> Told:
    start = (page_of(asked) - 1) * ROWS_A_PAGE
    # The first answer knows of one page only, so a worker has to plan the other.
    return Told(200, {"data": FEW[start : start + ROWS_A_PAGE], "pages": 2 if start or asked.query["try"] else 1})


def few_by_cursor(asked: Asked) -> Told:
    start = int(asked.query.get("after", "0"))
    end = start + ROWS_A_PAGE
    return Told(200, {"data": FEW[start:end], "next": str(end) if end < len(FEW) else None})


def dying(pulled: Pulled, at: int) -> list[str]:
    """Let the worker's process end right after its n-th call to AWS or to the API; returns the calls as they come.

    Dying before a call is dying after the one before it.
    """
    calls: list[str] = []

    def deadly(name: str, call: Any) -> Any:
        def wrapped(*arguments: Any, **options: Any) -> Any:
            result = call(*arguments, **options)
            result = list(result) if name == "tasks" else result
            calls.append(name)
            if len(calls) == at:
                raise Killed
            return result

        return wrapped

    for name in ("task", "tasks", "add", "land", "wait"):
        setattr(pulled.store, name, deadly(name, getattr(pulled.store, name)))
    pulled.queue.__dict__["send"] = deadly("send", pulled.queue.send)
    pulled.put = deadly("put", pulled.put)  # on purpose
    pulled.client.get = deadly("get", pulled.client.get)  # on purpose
    return calls


DYING: dict[str, tuple[Api, Json]] = {
    "pages that are announced": (few_announced, {"query": {"page": "{page}", "try": "{from:epoch}"}}),
    "cursor": (few_by_cursor, {"query": {"after": "{cursor}"}, "pagination": {"style": "cursor", "next": "next"}}),
}


@pytest.mark.parametrize(("api", "changes"), DYING.values(), ids=DYING)
def test_a_worker_that_dies_after_any_call_changes_nothing_in_the_end(table: Any, api: Api, changes: Json) -> None:
    with serving(api) as url:

        def declared(name: str) -> Json:
            return declare(url, name=name, auth={"type": "none"}, **changes)

        clean = Pulled(table, declared("clean"))
        clean.run()
        for at in itertools.count(1):
            pulled = Pulled(table, declared(f"dies-{at}"))
            seen = {"planned": pulled.runner.plan("one", pulled.runner.check([]))}
            calls = dying(pulled, at)
            pulled.work()
            alive = Pulled(table, pulled.source.declaration)
            end = alive.runner.look("one", seen)
            assert end["is_done"] and end["failed"] == [], f"died after {calls[at - 1]}"
            assert pulled.things == clean.things == {thing["id"] for thing in FEW}
            assert len(pulled.ids) == len(clean.ids) == len(FEW)
            assert alive.states() == clean.states()
            assert end["rows"] == len(FEW)
            if len(calls) < at:
                break
    assert {"task", "get", "put", "land"} | ({"add", "send"} if "pagination" in changes else set()) <= set(calls)
    assert at > 10


def test_a_step_that_is_done_twice_is_done_once(table: Any) -> None:
    with serving(honest) as url:
        pulled = Pulled(table, declare(url))
        checked = pulled.runner.check([])
        first = pulled.runner.plan("execution", checked)
        pulled.work(2)
        assert pulled.runner.plan("execution", checked) == first
        assert pulled.states().total() == PAGES
        pulled.work()
        seen = {"planned": first}
        assert pulled.runner.look("execution", seen)["runs"] == pulled.runner.look("execution", seen)["runs"]
    assert pulled.things == {thing["id"] for thing in THINGS}


def test_two_executions_do_not_pull_one_source_at_the_same_time(table: Any) -> None:
    with serving(honest) as url:
        pulled = Pulled(table, declare(url))
        checked = pulled.runner.check([])
        assert "run" in pulled.runner.plan("one", checked)[0]
        other = pulled.runner.plan("two", checked)
        pulled.clock.sleep(901)
        later = pulled.runner.plan("two", checked)
    assert other == [{"source": "things", "skip": "another execution is pulling this source"}]
    assert "run" in later[0]


def test_a_run_whose_messages_are_gone_is_reported_and_the_next_one_queues_them_anew(table: Any) -> None:
    with serving(honest) as url:
        pulled = Pulled(table, declare(url))
        seen: Json = {"planned": pulled.runner.plan("one", pulled.runner.check([]))}
        pulled.work(1)
        pulled.queue.waiting.clear()
        while not seen.get("is_done"):
            seen = pulled.runner.look("one", seen)
            pulled.clock.sleep(seen["pause"])
        assert seen["failed"][0]["error"].startswith("Lost: 3 requests have no message in the queue: run it again")
        assert pulled.run("two")["failed"] == []
    assert pulled.things == {thing["id"] for thing in THINGS}


def test_what_fails_for_longer_than_the_retry_hours_dies(table: Any) -> None:
    with serving(lambda asked: Told(503, {}) if page_of(asked) == 2 else honest(asked)) as url:
        pulled = Pulled(table, declare(url))
        begin = pulled.clock.now
        end = pulled.run()
    assert RETRY_HOURS * 3600 <= pulled.clock.now - begin < (RETRY_HOURS + 1) * 3600
    assert "Busy: the API answers 503" in end["failed"][0]["error"]
    assert pulled.states() == {"landed": PAGES - 1, "dead": 1}


def test_a_discarded_request_lets_its_run_end_without_it(table: Any) -> None:
    with serving(lambda asked: Told(404, {}) if page_of(asked) == 2 else honest(asked)) as url:
        pulled = Pulled(table, declare(url))
        pulled.run()
        assert pulled.store.discard(TaskKey.read(pulled.queue.dead[0][0]))
        end = pulled.run("two")
    assert end["failed"] == []
    assert end["runs"][0]["outcome"] == "Discarded: 1 of 4 requests were given up, and their rows are missing"
    assert pulled.states() == {"landed": PAGES - 1, "discarded": 1}
    assert "checkpoint" in pulled.store.state("things")


def test_a_source_that_is_no_longer_declared_has_its_requests_given_up(table: Any) -> None:
    with serving(honest) as url:
        pulled = Pulled(table, declare(url))
        pulled.runner.plan("one", pulled.runner.check([]))
        pulled.sources.clear()
        pulled.work()
    assert {reason for _, reason in pulled.queue.dead} == {"UnknownSource: 'things' is no longer declared"}
    assert pulled.states() == {"dead": 1}


def test_a_stream_that_takes_not_everything_has_the_page_fetched_again(table: Any) -> None:
    with serving(honest) as url:
        pulled = Pulled(table, declare(url))
        pulled.refusals = 3
        assert pulled.run()["failed"] == []
    assert pulled.things == {thing["id"] for thing in THINGS}


def test_a_row_that_no_record_can_hold_is_a_dead_letter(table: Any) -> None:
    rows = [{"id": "small"}, {"id": "large", "text": "x" * 1_100_000}]
    with serving(lambda asked: Told(200, {"data": rows})) as url:
        pulled = Pulled(table, declare(url, query={}, pagination=None))
        end = pulled.run()
    assert "RowTooLarge: a row makes an event of 1,100,1" in end["failed"][0]["error"]


def test_a_fault_of_ours_leaves_the_message_in_the_queue(table: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    faults = iter([RuntimeError("throttled"), None, None])
    plain = fetch.to_records

    def faulty(events: Any) -> Any:
        if fault := next(faults, None):
            raise fault
        return plain(events)

    monkeypatch.setattr(fetch, "to_records", faulty)
    with serving(honest) as url:
        pulled = Pulled(table, declare(url))
        assert pulled.run()["failed"] == []
    assert pulled.things == {thing["id"] for thing in THINGS}


def test_a_large_page_is_packed_into_records_that_firehose_and_the_transform_take(table: Any) -> None:
    rows = [{"id": number, "text": "x" * 200} for number in range(12_000)]
    sizes: list[tuple[int, int]] = []

    def put(connect: Any, stream: str, records: list[bytes], left: Any) -> list[str | None]:
        sizes.extend((len(record), record.count(b"\n")) for record in records)
        return [None] * len(records)

    with serving(lambda asked: Told(200, {"data": rows})) as url:
        pulled = Pulled(table, declare(url, query={}, pagination=None))
        pulled.put = put
        assert pulled.run()["rows"] == 12_000
    assert sum(count for _, count in sizes) == 12_000
    assert all(size <= 500_000 and count <= 5_000 for size, count in sizes)


def test_what_has_landed_stays_landed_whatever_a_second_delivery_of_its_message_finds(table: Any) -> None:
    with serving(honest) as url:
        pulled = Pulled(table, declare(url))
        pulled.run()
    key = TaskKey("things", pulled.store.state("things")["last_run"], 0, 0)
    pulled.store.land(key, fetch.NOTHING, range(0), "")
    assert not pulled.store.bury(key, "HttpError: too late")
    assert not pulled.store.revive(key) and not pulled.store.discard(key)
    task = pulled.store.task(key)
    assert task is not None and (task["state"], task["rows"]) == ("landed", ROWS_A_PAGE)
