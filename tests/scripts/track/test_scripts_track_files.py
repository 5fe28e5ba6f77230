"""scripts/track.sh reads files: their packing, encoding and layout, and the ids of their events."""

from __future__ import annotations

import contextlib
import gzip
import io
import json
import os
import threading
import tracemalloc
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scripts.commands.track.event_files import Collector, Events, event_line, split, unpack
from scripts.commands.track.sender import Line
from tests.track_api import Api
from transform.events import transform
from transform.records import read_id
from transform.rules import Settings

_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text() | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)

EVENTS = [{"n": 1}, {"n": 2, "t": 'a "b" \\ [c], {d}: é'}, {"n": 2, "t": {"deep": [[{}], [1.5, None]]}}, {}]
LINES = "".join(json.dumps(event) + "\n" for event in EVENTS)


@pytest.fixture
def send(run: Any, tmp_path: Path) -> Callable[..., tuple[int, str, str]]:
    """Send a file of this content: (exit code, stdout, stderr)."""

    def command(content: bytes, *options: str, name: str = "events") -> tuple[int, str, str]:
        path = tmp_path / name
        path.write_bytes(content)
        done: tuple[int, str, str] = run("--file", str(path), *options)
        return done

    return command


@pytest.fixture
def standard_input() -> Iterator[Callable[[bytes], None]]:
    """Gives the process these bytes as its standard input, through a pipe."""
    before, threads = os.dup(0), []

    def give(content: bytes) -> None:
        readable, writable = os.pipe()
        os.dup2(readable, 0)
        os.close(readable)
        threads.append(threading.Thread(target=_write, args=(writable, content)))
        threads[-1].start()

    yield give
    os.dup2(before, 0)
    os.close(before)
    for thread in threads:
        thread.join()


def _write(descriptor: int, content: bytes) -> None:
    with contextlib.suppress(BrokenPipeError), os.fdopen(descriptor, "wb") as pipe:
        pipe.write(content)


def ids(api: Api) -> list[str]:
    return [event["event_id"] for event in api.accepted]


def lines_read(content: bytes, directory: Path, first: int = 1, spool: IO[bytes] | None = None) -> list[Line]:
    path = directory / "content"
    path.write_bytes(content)
    with path.open("rb", buffering=0) as stream:
        lines = Events(stream, "content", threading.Event(), spool=spool).lines(first)
        return [line for line in lines if line is not None]


def texts_of(*chunks: bytes | None) -> list[bytes]:
    """The texts except blank ones."""
    _, texts = split(unpack(iter(chunks), "-"), Collector(None))
    return [text.strip() for text in texts if isinstance(text, bytes) and text.strip()]


# Ids


def test_a_file_that_grew_keeps_the_ids_that_it_had(send: Any, api: Api) -> None:
    lines = b"".join(b'{"name": "f20", "i": %d}\n' % i for i in range(1, 101))
    send(lines)
    send(lines + b'{"name": "f20", "i": 101}\n')
    assert (len(api.accepted), len({*ids(api)})) == (201, 101)


def test_a_file_has_the_same_ids_on_standard_input(
    send: Any, run: Any, api: Api, standard_input: Callable[[bytes], None]
) -> None:
    send(LINES.encode())
    standard_input(LINES.encode())
    assert run("-")[0] == 0
    assert len(ids(api)) == 8 and ids(api)[:4] == ids(api)[4:]


def test_whoever_goes_on_from_a_line_of_standard_input_sends_the_same_ids(
    send: Any, run: Any, api: Api, standard_input: Callable[[bytes], None]
) -> None:
    send(LINES.encode())
    standard_input(LINES.encode())
    run("-", "--from-line", "3")
    assert ids(api)[2:4] == ids(api)[4:]


def pretty(*values: object) -> str:
    return "\n".join(json.dumps(value, indent=2, ensure_ascii=False) for value in values)


LAYOUTS = {
    "lines": LINES.encode(),
    "no newline at the end": LINES.rstrip().encode(),
    "CRLF": LINES.replace("\n", "\r\n").encode(),
    "blank lines": ("\n \n" + LINES.replace("\n", "\n\r\n\t\n")).encode(),
    "a byte order mark": b"\xef\xbb\xbf" + LINES.encode(),
    "no space between tokens": "\n".join(json.dumps(event, separators=(",", ":")) for event in EVENTS).encode(),
    "an array, one event a line": ("[\n" + LINES.strip().replace("\n", ",\n") + "\n]\n").encode(),
    "commas at the start of the lines": ("[ " + LINES.strip().replace("\n", "\n, ") + "\n]").encode(),
    "an array on one line": json.dumps(EVENTS).encode(),
    "an array on each line": f"{json.dumps(EVENTS[:2])}\n{json.dumps(EVENTS[2:])}\n".encode(),
    "a pretty array": json.dumps(EVENTS, indent=2).encode(),
    "a pretty array, CRLF": json.dumps(EVENTS, indent="\t").replace("\n", "\r\n").encode(),
    "pretty objects": "\n".join(json.dumps(event, indent=2) for event in EVENTS).encode(),
    "gzip": gzip.compress(LINES.encode()),
    "two gzip files as one": gzip.compress(LINES[:20].encode()) + gzip.compress(LINES[20:].encode()) + b"\0" * 512,
    "gzip of an array": gzip.compress(json.dumps(EVENTS).encode()),
    "UTF-16": LINES.encode("utf-16"),
    "UTF-16, big endian": b"\xfe\xff" + LINES.encode("utf-16-be"),
    "UTF-16 of a pretty array": json.dumps(EVENTS, indent=4).encode("utf-16"),
    "gzip of UTF-16": gzip.compress(LINES.encode("utf-16")),
    "UTF-32": LINES.encode("utf-32"),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_same_events_have_the_same_ids_in_every_layout(
    send: Any, api: Api, standard_input: Callable[[bytes], None], run: Any, layout: str
) -> None:
    send(LAYOUTS["lines"])
    expected, api.accepted[:] = [*api.accepted], []
    assert send(LAYOUTS[layout])[0] == 0
    assert api.accepted == expected
    standard_input(LAYOUTS[layout])
    assert run("-")[0] == 0
    assert api.accepted == expected * 2
    assert [{**event, "event_id": None} for event in expected] == [{**event, "event_id": None} for event in EVENTS]


def test_a_changed_line_changes_the_ids_of_all_later_ones_and_of_no_earlier_one(tmp_path: Path) -> None:
    before, after = (lines_read(b'{"n":1}\n{"n":%s}\n{"n":3}\n{"n":3}\n' % two, tmp_path) for two in (b"2", b"0"))
    same = [one.body == other.body for one, other in zip(before, after, strict=True)]
    assert same == [True, False, False, False]
    assert before[2].body != before[3].body  # equal lines are two events


def test_a_line_that_is_not_an_event_counts_for_the_ids_as_others_do(tmp_path: Path) -> None:
    whole = lines_read(b'{"n":1}\n{broken\n{"n":3}\n', tmp_path)
    rest = lines_read(b'{"n":1}\n{broken\n{"n":3}\n', tmp_path, first=3)
    assert rest == whole[2:]


def test_another_seed_gives_other_ids_and_the_same_seed_the_same(send: Any, api: Api) -> None:
    for options in ((), ("--seed", "monday"), ("--seed", "monday"), ("--seed", "tuesday")):
        send(b'{"name": "tick"}\n', *options)
    plain, monday, again, tuesday = ids(api)
    assert monday == again and len({plain, monday, tuesday}) == 3


def test_the_command_to_go_on_with_has_the_seed(send: Any, api: Api) -> None:
    api.answer = lambda number, body: (0, {}, b"")
    _, _, err = send(b"{}\n", "--seed", "it's monday")
    assert """--seed 'it'"'"'s monday' --file""" in err


# Ids from the sender


def rows(text: bytes) -> list[dict[str, Any] | str]:
    """The transform's rows of a record with this text, without the ids; other outcomes by type."""
    outcomes = transform(text, 1_790_000_000_000, Settings())
    return [
        {**json.loads(outcome), "event_id": None} if isinstance(outcome, bytes) else type(outcome).__name__
        for outcome in outcomes
    ]


def test_what_is_not_an_id_counts_once_however_often_its_file_is_sent(send: Any, api: Api) -> None:
    lines = (
        b'{"event_id":"  ","name":"blank text"}\n'
        b'{"event_id":12345.0,"name":"pandas writes whole numbers so as soon as one of a column is missing"}\n'
        b'{"event_id":{"$oid":"507f1f77bcf86cd799439011"},"name":"a MongoDB export"}\n'
    )
    for _ in range(2):
        assert send(lines)[0] == 0
    found = [
        json.loads(row)["event_id"]
        for arrived_at, body in enumerate(api.bodies)
        for row in transform(body, arrived_at, Settings())
        if isinstance(row, bytes)
    ]
    assert len(found) == 6 and len({*found}) == 3 and "12345" in found
    assert rows(api.bodies[0]) == rows(lines)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{"event_id": {"$oid": "a"}}', '{"properties":{"event_id":{"$oid":"a"}}}'),
        ('{"event_id": 1.50, "properties": null}', '{"properties":{"event_id":1.50}}'),
        ('{"event_id": [1], "properties": {"a": 1.0}}', '{"properties":{"event_id":[1],"a":1.0}}'),
        ('{"event_id": true, "properties": "x"}', '{"properties":{"event_id":true,"properties":"x"}}'),
        (
            '{"event_id": false, "properties": {"event_id": 7, "é": {}}}',
            '{"properties":{"event_id":false,"\\u00e9":{},"properties":{"event_id":7}}}',
        ),
        (
            '{"event_id": "a", "b": 99999999999999999999, "event_id": []}',
            '{"b":99999999999999999999,"properties":{"event_id":[]}}',
        ),
        ('{"\\u0065vent_id": {":": ",}"}, "a": "}"}', '{"a":"}","properties":{"event_id":{":":",}"}}}'),
    ],
)
def test_what_is_not_an_id_moves_to_properties_as_in_the_transform(text: str, expected: str) -> None:
    line = event_line(1, text.encode(), "X")
    assert line.body.decode() == expected[:-1] + ',"event_id":"X"}'
    assert rows(line.body) == rows(text.encode())


@given(
    st.dictionaries(st.text() | st.sampled_from(["name", "value", "timestamp", "properties"]), _JSON, min_size=1),
    _JSON,
    st.sampled_from([None, {}, {"event_id": 1}, {"properties": {"event_id": 1}, "a": 2.50}]) | _JSON,
)
def test_track_sends_what_gives_the_row_that_the_transform_makes(
    event: dict[str, Any], event_id: Any, properties: Any
) -> None:
    text = json.dumps({**event, "event_id": event_id, "properties": properties}).encode()
    line = event_line(1, text, "X")
    assert line.problem is None and rows(line.body) == rows(text)
    [outcome] = transform(line.body, 0, Settings())
    if isinstance(outcome, bytes) and read_id(event_id) is None:
        assert json.loads(outcome)["event_id"] == "X"


# Layouts


def test_the_keys_and_values_of_a_pretty_event_are_sent_as_they_were_written(tmp_path: Path) -> None:
    [line] = lines_read(b'{\n  "a" : 1.10,\n  "b": " x  y\\n",\n\t"c": [ ]\r\n}\n', tmp_path)
    assert line.body.startswith(b'{"a":1.10,"b":" x  y\\n","c":[],"event_id":"')


@pytest.mark.parametrize(
    ("text", "texts"),
    [
        pytest.param("[]", [], id="an empty array"),
        pytest.param("[{}", ["{}"], id="an array that is not closed"),
        pytest.param('[{"a":1},{"b":tru},{"c":3}]', ['{"a":1}', '{"b":tru}', '{"c":3}'], id="a bad value"),
        pytest.param(
            '[{"a":1},17,"x, [y",[2,{}],null]', ['{"a":1}', "17", '"x, [y"', "[2,{}]", "null"], id="no objects"
        ),
        pytest.param('[{"a":1}\n{"b":2}]', ['{"a":1}', '{"b":2}'], id="no comma"),
        pytest.param('[{"a":1},,\n,{"b":2},]', ['{"a":1}', '{"b":2}'], id="too many commas"),
        pytest.param('{\n"a":1},\n{\n"b":2}', ['{\n"a":1}', '{\n"b":2}'], id="objects with commas between"),
        pytest.param("{\n}\nrubbish\n{\n}", ["{\n}", "rubbish", "{\n}"], id="rubbish between objects"),
        pytest.param('[\n{"a":1,\n{"b":2},\n{"c":3}\n]', ['{"a":1,', '{"b":2},', '{"c":3}'], id="a brace is missing"),
        pytest.param('[\n{"a":"x\n,{"b":2}\n]', ['{"a":"x\n,', '{"b":2}'], id="a quote is missing"),
        pytest.param('[\n{"a":[1,2\n,{"b":2}\n]', ['{"a":[1,2\n,{"b":2}\n]'], id="a bracket is missing"),
        pytest.param('[{"a":1}}, {"b":2}]', ['{"a":1}', "}", '{"b":2}'], id="a brace too many"),
        pytest.param('[{"a":{"b":2}, {"c":3}]', ['{"a":{"b":2},', '{"c":3}'], id="an inner brace is missing"),
        pytest.param(
            '[{"a":\n\n{"b":{}}},{"c":[{},{}]}]', ['{"a":\n\n{"b":{}}}', '{"c":[{},{}]}'], id="braces as they may be"
        ),
        pytest.param('[{"a":"\\\\"},{"b":"\\""}]', ['{"a":"\\\\"}', '{"b":"\\""}'], id="escapes"),
        pytest.param('[{"a":1}]{"b":2}\n[{"c":3}]', ['{"a":1}', '{"b":2}', '{"c":3}'], id="arrays and objects"),
    ],
)
def test_a_bad_value_harms_no_other(text: str, texts: list[str]) -> None:
    expected = [one.encode() for one in texts]
    whole = texts_of(text.encode())
    assert [one.rstrip(b",") for one in whole] == [one.rstrip(b",") for one in expected]
    assert texts_of(*(bytes([byte]) for byte in text.encode())) == whole  # wherever a chunk ends


@given(
    st.lists(st.dictionaries(st.text(), _JSON, max_size=4), min_size=1, max_size=5),
    st.sampled_from([None, 0, 2]),
    st.booleans(),
    st.lists(st.integers(1, 40), min_size=1, max_size=8),
)
def test_every_layout_gives_the_events_wherever_its_chunks_end(
    events: list[Any], indent: int | None, as_array: bool, sizes: list[int]
) -> None:
    if as_array:
        text = json.dumps(events, indent=indent)
    else:
        text = "\n".join(json.dumps(event, indent=indent) for event in [{"first": 1}, *events])
        events = [{"first": 1}, *events]
    content, chunks = text.encode(), []
    while content:
        size = sizes[len(chunks) % len(sizes)]
        chunks += [content[:size]]
        content = content[size:]
    assert [json.loads(one) for one in texts_of(*chunks)] == events


@given(st.binary(max_size=200))
def test_nothing_of_an_array_is_left_out_but_space_commas_and_brackets(noise: bytes) -> None:
    _, texts = split(iter([b"[" + noise]), Collector(None))
    kept = b"".join(text for text in texts if isinstance(text, bytes))
    left_out = bytes.maketrans(b"", b""), b" \t\r\n\x0b\x0c,[]"
    assert kept.translate(*left_out) == noise.translate(*left_out)


@pytest.mark.parametrize(("text", "unit"), [('{"n": 1}\n[2]\n', "line"), ('[{"n": 1}, [2]]', "event")])
def test_what_is_refused_is_named_by_what_is_counted(send: Any, text: str, unit: str) -> None:
    code, out, err = send(text.encode())
    assert code == 1 and (json.loads(out)["accepted"], json.loads(out)["refused"]) == (1, 1)
    assert f"{unit} 2: an event is a JSON object, this is an array\n" in err


@pytest.mark.usefixtures("in_fives")
def test_an_array_can_be_gone_on_with_from_an_event(send: Any, api: Api) -> None:
    content = json.dumps([{"n": n} for n in range(12)]).encode()
    api.answer = lambda number, body: (202 if b'"n": 9' not in body else 0, {}, b"{}")
    code, out, err = send(content)
    assert (code, json.loads(out)["next_line"]) == (1, 6) and "sent 5 events; go on with:" in err
    api.answer = lambda number, body: (202, {}, b"{}")
    assert send(content, "--from-line", "6")[0] == 0
    assert sorted({event["n"] for event in api.accepted}) == [*range(12)] and len({*ids(api)}) == 12


def test_an_event_of_an_array_is_sent_while_the_next_one_is_waited_for() -> None:
    readable, writable = os.pipe()
    with os.fdopen(writable, "wb", buffering=0) as pipe, os.fdopen(readable, "rb", buffering=0) as stream:
        lines = Events(stream, "-", threading.Event()).lines()
        pipe.write(b'[\n{"n": 1},\n')
        first = next(lines)
        assert first is not None and first.number == 1
        assert next(lines) is None
        pipe.write(b'{"n": 2}')
        assert next(line for line in lines if line is not None).number == 2
        lines.close()


# Damaged inputs, or other than text


def zipped(name: str) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr(name, LINES)
    return packed.getvalue()


@pytest.mark.parametrize(
    ("content", "kind", "command"),
    [
        pytest.param(zipped("events.ndjson"), "a zip archive", "unzip -p {}", id="zip"),
        pytest.param(zipped("[Content_Types].xml"), "an Excel workbook", "duckdb -c \"COPY (FROM '{}')", id="xlsx"),
        pytest.param(b"\x28\xb5\x2f\xfd" + bytes(9), "zstd", "zstd -dc {}", id="zstd"),
        pytest.param(b"BZh91AY", "bzip2", "bzip2 -dc {}", id="bzip2"),
        pytest.param(b"\xfd7zXZ\0\0", "xz", "xz -dc {}", id="xz"),
        pytest.param(b"PAR1\x15\x04", "Parquet", "duckdb -c \"COPY (FROM '{}')", id="parquet"),
        pytest.param(gzip.compress(gzip.compress(b"{}")), "gzip inside gzip", "zcat {} | zcat", id="gzip twice"),
        pytest.param(
            LINES.encode("utf-16-le"),
            "binary, or UTF-16 without a byte order mark",
            "iconv -f UTF-16LE -t UTF-8 {}",
            id="no mark",
        ),
    ],
)
def test_what_is_not_text_is_refused_in_one_line_with_what_to_type(
    send: Any, api: Api, tmp_path: Path, content: bytes, kind: str, command: str
) -> None:
    code, _, err = send(content)
    path = tmp_path / "events"
    assert (code, api.bodies, err.count("\n")) == (2, [], 1)
    assert err.startswith(f"error: {path} is {kind}: type {command.format(path)}")
    assert err.endswith(" | scripts/track.sh -\n")


def test_the_command_does_not_repeat_a_name_that_it_would_have_to_quote(
    run: Any, send: Any, standard_input: Callable[[bytes], None]
) -> None:
    standard_input(b"BZh91AY")
    assert run("-")[2] == "error: standard input is bzip2: type bzip2 -dc FILE | scripts/track.sh -\n"
    assert send(b"BZh91AY", name="a; b")[2].endswith("/a; b is bzip2: type bzip2 -dc FILE | scripts/track.sh -\n")


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        pytest.param(gzip.compress(LINES.encode())[:-6], "the gzip data is cut off", id="gzip, cut off"),
        pytest.param(gzip.compress(LINES.encode()) + b"rubbish", "the gzip data is damaged", id="gzip, damaged"),
        pytest.param(LINES.encode("utf-16") + b"\n", "the UTF-16 text is damaged or cut off", id="UTF-16, cut off"),
    ],
)
def test_what_comes_before_the_damage_is_sent_and_the_damage_told(
    send: Any, api: Api, content: bytes, complaint: str
) -> None:
    code, out, err = send(content)
    assert (code, json.loads(out)["accepted"], len(api.accepted)) == (1, 4, 4)
    assert "4 accepted, 0 refused" in err and f"cannot be read after line 4: {complaint}" in err


def test_half_a_surrogate_pair_in_utf_16_is_refused_with_its_event_alone(send: Any, api: Api) -> None:
    content = '{"n": 1}\n{"n": "\ud800"}\n{"n": 3}\n'.encode("utf-16", "surrogatepass")
    code, _, err = send(content)
    assert code == 1 and "line 2: not UTF-8: byte 0xed at column 8" in err
    assert [event["n"] for event in api.accepted] == [1, 3]


def test_gzip_that_unpacks_to_much_is_read_in_little_memory(tmp_path: Path) -> None:
    content = gzip.compress(b'{"n": 1}\n' + b" " * 60_000_000 + b'\n{"n": 2}\n')
    tracemalloc.start()
    lines = lines_read(content, tmp_path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert [line.number for line in lines] == [1, 2, 3] and peak < 8_000_000


# Refused events


HUGE = b'{"name": "f21", "p": "' + b"x" * 3_000_000 + b'"}'
LAYOUTS_OF_HUGE = {
    "lines": b'{"n": 1}\n' + HUGE + b'\n{"n": 3}\n' + HUGE,
    "an array": b'[{"n": 1},\n' + HUGE + b',{"n": 3},' + HUGE + b"]",
}


@pytest.mark.parametrize("layout", LAYOUTS_OF_HUGE)
@pytest.mark.parametrize("source", ["a file", "standard input"])
def test_a_refused_event_of_any_size_is_written_whole(
    run: Any, tmp_path: Path, standard_input: Callable[[bytes], None], layout: str, source: str
) -> None:
    refused, path = tmp_path / "refused", tmp_path / "events"
    path.write_bytes(LAYOUTS_OF_HUGE[layout])
    standard_input(LAYOUTS_OF_HUGE[layout])
    code, out, err = run(*(["-"] if source == "standard input" else ["--file", str(path)]), "--refused", str(refused))
    assert (code, json.loads(out)["accepted"], json.loads(out)["refused"]) == (1, 2, 2)
    assert err.count("larger than 1,024,000 bytes") == 2
    assert refused.read_bytes() == HUGE + b"\n" + HUGE + b"\n"


@pytest.mark.parametrize("text", [b'{"n": 1}\n%b\n{"n": 3}', b'[{"n": 1}, %b, {"n": 3}]'])
def test_no_text_is_held_that_is_too_long(tmp_path: Path, text: bytes) -> None:
    content = text % (b'{"a": "' + b"y, " * 10_000_000 + b'"}')
    with (tmp_path / "spool").open("w+b") as spool:
        tracemalloc.start()
        lines = lines_read(content, tmp_path, spool=spool)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert [line.number for line in lines] == [1, 2, 3] and peak < 8_000_000
        assert spool.tell() >= 30_000_009


def test_a_pretty_event_that_is_refused_becomes_one_line(send: Any, api: Api, tmp_path: Path) -> None:
    api.answer = lambda number, body: (400, {}, b"{}")
    refused = tmp_path / "refused"
    send(b'[\n{\n "a": 1\n},\n{\r\n "b": tru\r\n}\n]', "--refused", str(refused))
    first, second = refused.read_text().splitlines()
    assert json.loads(first)["a"] == 1 and second == '{   "b": tru  }'


def test_a_file_of_refused_events_is_never_written_over(send: Any, api: Api, tmp_path: Path) -> None:
    refused = tmp_path / "refused"
    refused.write_text("{}\n")
    code, _, err = send(b"{}\n", "--refused", str(refused))
    assert (code, api.bodies, refused.read_text()) == (2, [], "{}\n")
    assert err == f"error: --refused {refused}: the file has events already: name another, or remove it\n"


def test_who_has_refused_events_is_told_to_fix_them_in_a_file_of_their_own(send: Any, tmp_path: Path) -> None:
    assert "in a file of their own" in send(b"{}\n{\n")[2]
    assert "in a file of their own" not in send(b"{}\n{\n", "--refused", str(tmp_path / "refused"))[2]
    assert "in a file of their own" not in send(b"{}\n{}\n")[2]
