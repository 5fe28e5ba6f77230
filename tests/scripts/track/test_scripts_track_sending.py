"""scripts/track.sh sends a file: in packs, in the order of its lines, in little memory, and tells of refused events."""

from __future__ import annotations

import json
import threading
import time
import tracemalloc
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from scripts.commands.track import sender
from scripts.commands.track.event_files import Events, event_line
from scripts.commands.track.sender import PACKED, SINGLE, Entrance, Line, Packing, Unreachable, packs, send
from tests.factories import stand_in
from tests.track_api import FIVES, QUICK, Api, events_in, file_of, lines_of, numbers_in

# Files


def test_a_file_goes_to_batch_in_packs_and_is_summed_up(run: Any, api: Api, tmp_path: Path) -> None:
    path = file_of(tmp_path, *[json.dumps({"n": n}) for n in range(12_000)])
    code, out, err = run("--file", path)
    assert code == 0
    assert json.loads(out) | {"seconds": 0} == {"accepted": 12_000, "refused": 0, "seconds": 0, "next_line": None}
    assert sorted(event["n"] for event in api.accepted) == list(range(12_000))
    assert len({event["event_id"] for event in api.accepted}) == 12_000
    assert sorted(len(events_in(body)) for body in api.bodies) == [2_000, 5_000, 5_000]
    assert set(api.paths) == {"/prod/batch"}
    assert set(api.sent("Content-Type")) == {"application/x-ndjson"}
    assert "12,000 accepted, 0 refused" in err


@pytest.mark.usefixtures("one_by_one")
def test_a_stack_without_batch_gets_each_event_on_track(run: Any, api: Api, tmp_path: Path) -> None:
    code, out, _ = run("--file", file_of(tmp_path, *[json.dumps({"n": n}) for n in range(200)]))
    assert (code, json.loads(out)["accepted"], len(api.bodies)) == (0, 200, 200)
    assert set(api.paths) == {"/prod/track"}
    assert set(api.sent("Content-Type")) == {"application/json"}
    assert api.connections <= SINGLE.connections


@pytest.mark.parametrize("packing", [pytest.param(SINGLE, id="single"), pytest.param(FIVES, id="packed")])
def test_answers_come_in_the_order_of_the_lines_however_the_requests_overtake_each_other(
    api: Api, packing: Packing
) -> None:
    def answer(number: int, body: bytes) -> tuple[int, dict[str, str], bytes]:
        time.sleep(0.02 if any(n % 15 == 0 for n in numbers_in(body)) else 0)
        return 202, {}, b"{}"

    api.answer = answer
    answers = [*send(Entrance(api.url, packing), lines_of(*[{"n": n} for n in range(60)]), rate=5000)]
    assert [answer.line.number for answer in answers] == list(range(1, 61))
    assert [event["n"] for event in api.accepted] != list(range(60))


def test_a_line_that_is_not_an_event_is_refused_here_and_the_rest_goes_on(run: Any, api: Api, tmp_path: Path) -> None:
    code, out, err = run("--file", file_of(tmp_path, '{"n": 1}', '{"n": ', "", "[2]", '{"n": 3}'))
    assert code == 1
    assert json.loads(out)["accepted"] == 2 and json.loads(out)["refused"] == 2
    assert "line 2: not JSON: Expecting value at column 7" in err
    assert "line 4: an event is a JSON object, this is an array" in err
    assert sorted(event["n"] for event in api.accepted) == [1, 3]


@pytest.mark.usefixtures("one_by_one")
def test_no_answer_steers_the_terminal(run: Any, api: Api, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    api.answer = lambda number, body: (400, {}, b"\x1b]0;owned\x07 no")
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    for arguments in (["{}"], ["--file", file_of(tmp_path, "{}")]):
        _, out, err = run(*arguments)
        assert r"400 \x1b]0;owned\x07 no" in err
        assert not {"\x1b", "\x07"} & set(out + err)


@pytest.mark.usefixtures("one_by_one")
def test_the_first_ten_refusals_are_told_and_all_are_written_to_a_file(run: Any, api: Api, tmp_path: Path) -> None:
    api.answer = lambda number, body: (400, {}, b'{"message": "no"}') if b"bad" in body else (202, {}, b"{}")
    path = file_of(tmp_path, *['{"n": "bad"}'] * 12, "{not json", '{"n": "good"}')
    refused = tmp_path / "refused.ndjson"
    code, _, err = run("--file", path, "--refused", str(refused))
    assert code == 1
    assert err.count("400 no") == 10
    assert "... and 3 more refused" in err
    written = refused.read_text().splitlines()
    assert len(written) == 13
    assert written[-1] == "{not json"
    assert json.loads(written[0])["event_id"]  # sent again from there, it is still the same event


def test_the_file_of_refusals_cannot_be_the_file_to_send(run: Any, tmp_path: Path) -> None:
    path = file_of(tmp_path, '{"n": 1}')
    code, _, err = run("--file", path, "--refused", path)
    assert code == 2 and "that is the file to send" in err
    assert Path(path).read_text() == '{"n": 1}\n'


def test_the_same_file_gives_the_same_ids(run: Any, api: Api, tmp_path: Path) -> None:
    path = file_of(tmp_path, '{"n": 1}', '{"n": 1}', '{"n": 2}')
    run("--file", path)
    first = Counter(event["event_id"] for event in api.accepted)
    run("--file", path, "--from-line", "2")
    again = Counter(event["event_id"] for event in api.accepted[3:])
    assert len(first) == 3  # equal lines are two events
    assert len(again) == 2 and again.keys() < first.keys()


def test_sending_can_begin_at_a_line(run: Any, api: Api, tmp_path: Path) -> None:
    path = file_of(tmp_path, '{"n": 1}', "{broken", '{"n": 3}', '{"n": 4}')
    code, out, _ = run("--file", path, "--from-line", "3")
    assert (code, json.loads(out)["accepted"]) == (0, 2)
    assert sorted(event["n"] for event in api.accepted) == [3, 4]


def test_a_line_beyond_the_end_of_the_file_is_an_error(run: Any, tmp_path: Path) -> None:
    path = file_of(tmp_path, '{"n": 1}')
    code, _, err = run("--file", path, "--from-line", "3")
    assert (code, err) == (2, f"error: --from-line 3: {path} has 1 line\n")
    assert run("--file", path, "--from-line", "2")[0] == 0  # all of it was sent


def test_an_empty_file_sends_nothing_and_succeeds(run: Any, api: Api, tmp_path: Path) -> None:
    code, out, _ = run("--file", file_of(tmp_path))
    assert (code, json.loads(out)["accepted"], api.bodies) == (0, 0, [])


@pytest.mark.usefixtures("in_fives")
def test_when_the_api_goes_away_it_says_how_far_it_came(run: Any, api: Api, tmp_path: Path) -> None:
    api.answer = lambda number, body: (202 if max(numbers_in(body)) < 20 else 0, {}, b"{}")
    path = file_of(tmp_path, *[json.dumps({"n": n}) for n in range(100)])
    code, out, err = run("--file", path)
    assert code == 1
    assert json.loads(out)["next_line"] == 21
    assert f"sent 20 lines; go on with: scripts/track.sh --rate 5000 --file {path} --from-line 21" in err
    assert "error: cannot reach http://127.0.0.1:" in err


def lines_read(content: bytes, directory: Path) -> list[Line]:
    path = directory / "content"
    path.write_bytes(content)
    with path.open("rb", buffering=0) as stream:
        return [line for line in Events(stream, "content", threading.Event()).lines() if line is not None]


def test_lines_are_read_as_they_are(tmp_path: Path) -> None:
    filler = b"".join(b'{"n": %d}\n' % n for n in range(100_000))
    lines = lines_read(b'\xef\xbb\xbf{"n": 1}\r\n  \n' + filler + b'{"n": 4}', tmp_path)
    assert (lines[0].number, events_in(lines[0].body)[0]["n"]) == (1, 1)
    assert [line.number for line in lines[1:]] == list(range(3, 100_004))
    assert lines[70_001].body.startswith(b'{"n": 70000,"event_id":"')
    assert (lines[-1].number, events_in(lines[-1].body)[0]["n"]) == (100_003, 4)


def test_no_line_is_held_that_is_too_long(tmp_path: Path) -> None:
    most = b'{"a": "' + b"x" * (sender.LARGEST_EVENT - 30) + b'","event_id":"own"}'
    content = b'{"n": 1}\n' + b"y" * 30_000_000 + b"\n" + most + b'\n{"n": 4}\n'
    tracemalloc.start()
    lines = lines_read(content, tmp_path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert [(line.number, line.body[:5]) for line in lines] == [(1, b'{"n":'), (2, b""), (3, b'{"a":'), (4, b'{"n":')]
    assert lines[1].problem == "larger than 1,024,000 bytes, which one Firehose record holds"
    assert lines[2].problem is None
    assert peak < 8_000_000


@pytest.mark.parametrize("packing", [pytest.param(SINGLE, id="single"), pytest.param(FIVES, id="packed")])
def test_a_file_is_read_no_faster_than_it_is_sent(api: Api, packing: Packing) -> None:
    read = 0

    def endless() -> Iterator[Line]:
        nonlocal read
        while True:
            read += 1
            yield event_line(read, b"{}", f"id-{read}")

    before = senders()
    answers = send(Entrance(api.url, packing), endless(), rate=5000)
    for _ in range(100):
        next(answers)
    assert read <= 100 + packing.most_events * (packing.window + 1)
    assert senders() > before
    answers.close()
    assert senders() == before  # nothing goes on behind its back


def senders() -> set[threading.Thread]:
    """The sending threads, and those of any other pool."""
    return {thread for thread in threading.enumerate() if thread.name.startswith("ThreadPoolExecutor")}


def test_whoever_stops_reading_the_answers_gets_the_error_of_the_line_it_belongs_to(api: Api) -> None:
    api.answer = lambda number, body: (202 if json.loads(body)["n"] < 3 else 0, {}, b"{}")
    answers = send(Entrance(api.url), lines_of(*[{"n": n} for n in range(5)]), rate=5000, patience=QUICK)
    assert [next(answers).line.number for _ in range(3)] == [1, 2, 3]
    with pytest.raises(Unreachable, match="cannot reach"):
        next(answers)


# Packs


def sizes(packing: Packing, *lengths: int) -> list[list[int]]:
    """The lengths of the events in each pack."""
    lines = [Line(number, b"x" * length) for number, length in enumerate(lengths, 1)]
    return [[len(line.body) for line in pack] for pack in packs(lines, packing)]


@pytest.mark.parametrize(
    ("lengths", "expected"),
    [
        pytest.param([], [], id="nothing"),
        pytest.param([1], [[1]], id="one event"),
        pytest.param([9] * 3, [[9, 9, 9]], id="as many as are allowed"),
        pytest.param([9] * 4, [[9, 9, 9], [9]], id="one more"),
        pytest.param([49, 50], [[49, 50]], id="exactly full with the newline between"),
        pytest.param([50, 50], [[50], [50]], id="one byte too many"),
        pytest.param([10, 999, 10], [[10], [999], [10]], id="one that is larger than a pack goes alone"),
        pytest.param([100, 1], [[100], [1]], id="one that fills a pack"),
    ],
)
def test_a_pack_holds_so_many_bytes_and_so_many_events(lengths: list[int], expected: list[list[int]]) -> None:
    assert sizes(Packing("x", most_events=3, most_bytes=100, connections=1), *lengths) == expected


def test_no_default_pack_passes_what_a_request_may_carry() -> None:
    assert PACKED.most_bytes < sender.LARGEST_EVENT and PACKED.most_events < 10_000
    assert [len(pack) for pack in sizes(PACKED, *[60] * 12_000)] == [5_000, 5_000, 2_000]
    assert all(sum(pack) + len(pack) - 1 <= 500_000 for pack in sizes(PACKED, *range(1, 3_000)))


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time by the sender's clock, to be set by a test."""
    clock = [100.0]
    monkeypatch.setattr(sender, "time", stand_in(time, monotonic=lambda: clock[0]))
    return clock


def test_a_pack_waits_only_so_long_for_more_lines(clock: list[float]) -> None:
    def slow() -> Iterator[Line | None]:
        for number in range(1, 7):
            yield Line(number, b"{}")
            clock[0] += sender.LINGER_SECONDS / 2
            yield None
        yield None

    found = [[line.number for line in pack] for pack in packs(slow(), PACKED)]
    assert found == [[], [1, 2], [], [], [3, 4], [], [], [5, 6], [], []]


def test_lines_that_are_there_are_packed_in_full_however_slowly(clock: list[float]) -> None:
    def read_by_a_busy_machine() -> Iterator[Line]:
        for number in range(6_000):
            yield Line(number, b"{}")
            clock[0] += 60

    assert [len(pack) for pack in packs(read_by_a_busy_machine(), PACKED)] == [5_000, 1_000]


def answer_413_above(events: int) -> Callable[[int, bytes], tuple[int, dict[str, str], bytes]]:
    def answer(number: int, body: bytes) -> tuple[int, dict[str, str], bytes]:
        too_large = len(events_in(body)) > events or b'"huge"' in body
        return (413, {}, b'{"message": "too large"}') if too_large else (202, {}, b"{}")

    return answer


@pytest.mark.usefixtures("in_fives")
def test_a_pack_that_is_too_large_is_posted_again_in_halves(run: Any, api: Api, tmp_path: Path) -> None:
    api.answer = answer_413_above(2)
    path = file_of(tmp_path, *[json.dumps({"n": n}) for n in range(12)])
    code, out, _ = run("--file", path)
    assert (code, json.loads(out)["accepted"]) == (0, 12)
    assert sorted(event["n"] for event in api.accepted) == list(range(12))
    assert sorted(map(numbers_in, api.bodies)) == sorted(
        [[0, 1, 2, 3, 4], [0, 1], [2, 3, 4], [2], [3, 4], [5, 6, 7, 8, 9], [5, 6], [7, 8, 9], [7], [8, 9], [10, 11]]
    )


def test_the_halves_keep_the_order_and_only_the_event_that_is_too_large_is_refused(api: Api) -> None:
    api.answer = answer_413_above(5)
    lines = lines_of(*[{"n": "huge" if n == 6 else n} for n in range(20)])
    answers = [*send(Entrance(api.url, FIVES), lines, rate=5000)]
    assert [answer.line.number for answer in answers] == list(range(1, 21))
    assert [(answer.line.number, answer.reason) for answer in answers if not answer.is_accepted] == [
        (7, "413 too large")
    ]
    assert len(api.accepted) == 19


def test_what_follows_a_half_that_no_answer_came_for_is_not_settled(api: Api) -> None:
    def answer(number: int, body: bytes) -> tuple[int, dict[str, str], bytes]:
        if len(events_in(body)) > 3:
            return 413, {}, b"{}"
        return (0 if 4 in numbers_in(body) else 202), {}, b"{}"

    api.answer = answer
    answers = send(Entrance(api.url, FIVES), lines_of(*[{"n": n} for n in range(10)]), rate=5000, patience=QUICK)
    assert [next(answers).line.number for _ in range(2)] == [1, 2]
    with pytest.raises(Unreachable):
        next(answers)


@pytest.mark.usefixtures("in_fives")
@pytest.mark.parametrize("status", [400, 415])
def test_a_pack_is_refused_as_a_whole_and_the_others_go_on(run: Any, api: Api, tmp_path: Path, status: int) -> None:
    api.answer = lambda number, body: (status if 7 in numbers_in(body) else 202, {}, b'{"message": "no"}')
    refused = tmp_path / "refused.ndjson"
    path = file_of(tmp_path, *[json.dumps({"n": n}) for n in range(15)])
    code, out, err = run("--file", path, "--refused", str(refused))
    assert code == 1
    assert json.loads(out) | {"seconds": 0} == {"accepted": 10, "refused": 5, "seconds": 0, "next_line": None}
    assert [line for line in err.splitlines() if f"{status} no" in line] == [
        f"line {line}: {status} no" for line in (6, 7, 8, 9, 10)
    ]
    assert numbers_in(refused.read_bytes().rstrip()) == [5, 6, 7, 8, 9]
    assert len(api.bodies) == 3


@pytest.mark.usefixtures("in_fives")
def test_a_pack_that_passed_its_last_try_is_refused_and_told(run: Any, api: Api, tmp_path: Path) -> None:
    api.answer = lambda number, body: (503 if 1 in numbers_in(body) else 202, {}, b'{"message": "slow down"}')
    code, out, err = run("--file", file_of(tmp_path, *[json.dumps({"n": n}) for n in range(10)]))
    assert (code, json.loads(out)["accepted"], json.loads(out)["refused"]) == (1, 5, 5)
    assert "line 5: 503 slow down" in err
    tries = [body for body in api.bodies if 1 in numbers_in(body)]
    assert len(tries) == QUICK.tries and len(set(tries)) == 1
