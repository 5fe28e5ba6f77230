"""scripts/console.sh: its pages, their cost, and the clients they answer."""

from __future__ import annotations

import base64
import hashlib
import html.parser
import re
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from moto import mock_aws
from starlette.testclient import TestClient
from starlette.websockets import WebSocketDisconnect

from scripts.commands.common.console import guarded
from scripts.commands.common.tables import Column
from scripts.commands.console import app, charts, command, now
from scripts.commands.console.questions import SHOWN_ROWS, parameters_of
from tests import console_fakes
from tests.console_fakes import EVENT_COLUMNS, REJECTED_COLUMNS, Place, Table, moment, refused, rejected_row

PORT = 8321
HOME = f"http://127.0.0.1:{PORT}"
HOSTILE = "<script>alert(1)</script><img src=x onerror=alert(1)>\"'&\x1b[31m\u202e{{7*7}}"
TAGS = """
    html head meta title link style body a header p strong span nav main h1 h2 form input button textarea label br ul li
    section dl div dt dd figure figcaption svg path rect details summary table caption thead tbody tr th td pre code
"""
ELEMENTS = set(TAGS.split())
PATHS = ["/", "/questions", "/questions/by-day", "/sql", "/rejected", "/csv?run=run-1", "/console.css", "/none"]


@pytest.fixture(autouse=True)
def _moto(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(app, "WAIT_SECONDS", 60.0)  # as long as it takes
    with mock_aws():
        yield


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A console whose pages do not wait for running queries."""
    monkeypatch.setattr(app, "WAIT_SECONDS", 0.0)


@pytest.fixture
def local() -> Place:
    return Place()


@pytest.fixture
def aws() -> Place:
    return Place(is_local=False)


def browser(place: Place, **headers: str) -> TestClient:
    return TestClient(place.console.app(PORT), base_url=HOME, headers=headers)


def press(place: Place, address: str, **fields: str) -> Any:
    """Send a form of the console."""
    return browser(place, Origin=HOME).post(address, data={"token": place.console.token, **fields})


class Elements(html.parser.HTMLParser):
    """The elements and attributes of a page, as a browser finds them."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: set[str] = set()
        self.attributes: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.add(tag)
        self.attributes |= {name for name, _ in attrs}


# Whom it answers


@pytest.mark.parametrize(
    ("method", "headers"),
    [
        pytest.param("GET", {"Host": f"rebound.test:{PORT}"}, id="another Host"),
        pytest.param("GET", {"Host": "127.0.0.1:80"}, id="another port"),
        pytest.param("GET", {"Host": ""}, id="no Host"),
        pytest.param("GET", {"Origin": "http://evil.test"}, id="another Origin"),
        pytest.param("GET", {"Origin": "null"}, id="Origin null"),
        pytest.param("GET", {"Origin": f"http://localhost:{PORT}"}, id="the Origin of its other name"),
        pytest.param("GET", {"Sec-Fetch-Site": "same-site", "Sec-Fetch-Mode": "no-cors"}, id="another port's image"),
        pytest.param(
            "GET",
            {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "iframe"},
            id="a frame",
        ),
        pytest.param("POST", {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}, id="another's form"),
        pytest.param("POST", {}, id="a POST without Origin"),
        pytest.param("OPTIONS", {"Origin": "http://evil.test"}, id="a preflight"),
    ],
)
def test_a_stranger_gets_nothing_on_any_path(local: Place, method: str, headers: dict[str, str]) -> None:
    for path in PATHS:
        answer = browser(local, **headers).request(method, path)
        assert answer.status_code == 403, path
        assert "sluice" not in answer.text
        assert not [name for name in answer.headers if name.startswith("access-control")]
    assert local.athena.started == []


def test_every_address_is_among_those_that_strangers_tried(local: Place) -> None:
    routes = {re.sub(r"\{.*", "", route.path) for route in local.console.app(PORT).app.routes}
    tried = {re.sub(r"(by-day|\?.*)", "", path) for path in PATHS} | {"/stop"}
    assert routes <= tried


@pytest.mark.parametrize("address", ["http://127.0.0.1:8321", "http://localhost:8321"])
def test_a_person_comes_by_either_name_and_by_a_link(local: Place, address: str) -> None:
    link = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}
    client = TestClient(local.console.app(PORT), base_url=address, headers=link)
    assert client.get("/questions").status_code == 200


def test_a_socket_is_closed(local: Place) -> None:
    with pytest.raises(WebSocketDisconnect) as closed, browser(local).websocket_connect("/"):
        pass
    assert closed.value.code == 1008


def test_no_page_runs_a_script_or_is_kept(local: Place) -> None:
    for path in PATHS:
        headers = browser(local).get(path).headers
        assert headers["content-security-policy"].startswith("default-src 'none'; style-src 'self'; "), path
        assert headers["x-frame-options"] == "DENY"
        assert headers["cache-control"] == "no-store"


def test_a_form_without_the_token_does_nothing(local: Place) -> None:
    for address in ("/", "/sql", "/questions/by-day", "/rejected", "/stop"):
        for token in ("", "guessed", "é"):
            form = {"token": token, "sql": "SELECT 1", "run": "run-1"}
            answer = browser(local, Origin=HOME).post(address, data=form)
            assert answer.status_code == 403, address
            assert "load the page again" in answer.text
    assert local.athena.started == local.athena.stopped == []


def test_a_form_has_an_end(local: Place) -> None:
    assert press(local, "/sql", sql="x" * 1_100_000).status_code == 413


def test_it_listens_on_this_machine_alone_and_says_when_its_port_is_taken(
    aws: Place, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(command, "session", lambda _local: aws.connect())
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        assert guarded(command.console, ["--port", str(port)]) == 1
    assert f"if another console has it, add --port {port + 1}" in capsys.readouterr().err
    assert guarded(command.console, ["--port", "65535"]) == 2


# Costs


def test_on_aws_a_page_costs_nothing_before_a_click_and_says_the_price(aws: Place) -> None:
    def fail(*_: Any, **__: Any) -> Any:
        raise AssertionError("a call that costs")

    for client in (console_fakes.clients()[name] for name in ("s3", "logs", "cloudwatch", "sqs")):
        client.meta.events.register_first("before-call", fail, unique_id="costs")
    try:
        for path in ("/", "/questions", "/questions/by-day", "/questions/one-event?p=a&p=1", "/sql", "/rejected"):
            answer = browser(aws).get(path)
            assert answer.status_code == 200
            assert "refresh" not in answer.headers
            if path != "/questions":
                assert "at least 0.00005 and at most 0.05 USD" in answer.text
    finally:
        for client in (console_fakes.clients()[name] for name in ("s3", "logs", "cloudwatch", "sqs")):
            client.meta.events.unregister("before-call", unique_id="costs")
    assert aws.athena.started == []


def test_on_aws_a_click_looks_once_and_a_reload_does_not_look_again(aws: Place) -> None:
    aws.athena.tables = {"AS outcome": Table(EVENT_COLUMNS, [])}
    first = press(aws, "/")
    assert "No event was delivered since yesterday" in first.text
    assert browser(aws).get("/").text == first.text
    assert len(aws.athena.started) == 1


# Now


def test_now_shows_events_outcomes_and_what_needs_a_person(local: Place) -> None:
    local.counted(Accepted=7, Dropped=2, DroppedByRule={"bot": 2}, Rejected=1, RejectedByReason={"not_json": 1})
    row = [moment(), "row", "order", "paid", "12.5", "u-1", "{}", "e-1"]
    local.athena.tables = {"AS outcome": Table(EVENT_COLUMNS, [row])}
    local.stack.status = "UPDATE_ROLLBACK_FAILED"
    page = browser(local).get("/")
    assert page.headers["refresh"] == "5"
    assert "<td>order</td>" in page.text
    assert re.search(r"newest row</dt><dd>\d+ s<", page.text)
    assert "dropped by 2 bot; rejected: 1 not_json" in page.text
    assert "the stack is UPDATE_ROLLBACK_FAILED" in page.text
    assert "scripts/deploy.sh --local" in page.text
    assert "refresh" not in browser(local).get("/?pause=1").headers


def test_now_shows_the_rest_when_the_workgroup_refuses(local: Place) -> None:
    local.athena.refusal = refused("InvalidRequestException", "WorkGroup is disabled")
    local.counted(Accepted=7)
    page = browser(local).get("/").text
    assert "The last events cannot be read: Athena refuses the query: WorkGroup is disabled" in page
    assert re.search(r"accepted</dt><dd[^>]*>7<", page)


@pytest.mark.usefixtures("impatient")
def test_while_athena_runs_now_starts_no_second_query(local: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(now, "FRESH_SECONDS", -1.0)
    local.athena.states = ["RUNNING"]
    for _ in range(3):
        page = browser(local).get("/")
        assert page.headers["refresh"] == "2"
        assert "This page shows it by itself" in page.text
    assert len(local.athena.started) == 1
    local.athena.states = ["SUCCEEDED"]
    monkeypatch.setattr(app, "WAIT_SECONDS", 60.0)
    assert browser(local).get("/").headers["refresh"] == "5"
    assert len(local.athena.started) == 1


def test_now_stops_a_query_that_does_not_end(local: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(now, "ATHENA_SECONDS", 0.0)
    local.athena.states = ["RUNNING"]
    assert "Athena did not answer within 0 s" in browser(local).get("/").text
    assert local.athena.stopped == ["run-1"]


# Questions


def test_a_saved_query_is_a_table_with_its_chart_and_account(local: Place) -> None:
    local.athena.tables = {"SELECT day": Table([("day", "date"), ("events", "bigint")], [["2026-01-02", "5"]] * 1)}
    local.athena.tables["SELECT day"].rows.insert(0, ["2026-01-01", "3"])
    page = browser(local).get("/questions/by-day")
    assert page.url.query == b"run=run-1"
    assert "<td>2026-01-01</td>" in page.text
    assert 'class="curve"' in page.text
    assert "2 rows. 123.5 MB scanned in 1.2 s, about 0.00062 USD" in page.text
    assert "Athena console" not in page.text


def test_the_address_carries_the_values_of_the_parameters(local: Place) -> None:
    page = browser(local).get("/questions/one-event", params={"p": ["it's", "42"]})
    assert local.athena.started[0]["ExecutionParameters"] == ["'it''s'", "42"]
    assert 'value="it&#39;s"' in page.text
    assert 'href="/questions/one-event?p=it%27s&amp;p=42"' in page.text
    assert ">event_id</label>" in page.text
    assert browser(local).get("/questions/one-event?p=a").status_code == 200
    assert len(local.athena.started) == 1


def test_on_aws_a_link_fills_the_form_and_the_click_asks(aws: Place) -> None:
    form = browser(aws).get("/questions/one-event?p=a&p=1").text
    assert 'method="post"' in form
    assert 'value="a"' in form
    answer = press(aws, "/questions/in-all")
    assert "eu-west-1.console.aws.amazon.com/athena/home?region=eu-west-1#/query-editor/history/run-1" in answer.text
    assert '<span class="large">1</span>' in answer.text
    assert press(aws, "/questions/one-event", p="a").status_code == 404


def test_own_sql_runs_by_its_form_alone(local: Place) -> None:
    assert browser(local).get("/sql?sql=SELECT 1").status_code == 200
    assert local.athena.started == []
    page = press(local, "/sql", sql="SELECT 1\r\nFROM ${AthenaTableName}")
    assert local.athena.started[0]["QueryString"] == "SELECT 1\nFROM records"
    assert page.url.path == "/sql"
    assert press(local, "/sql", sql=" ").status_code == 404


@pytest.mark.parametrize(
    ("states", "reason", "shown"),
    [
        pytest.param(["FAILED"], "SYNTAX_ERROR: line 1", "The query failed: SYNTAX_ERROR: line 1", id="failed"),
        pytest.param(["CANCELLED"], "Bytes scanned limit", "The query cancelled: Bytes scanned limit", id="cancelled"),
        pytest.param(["RUNNING"], "", "looks again by itself", id="running"),
    ],
)
@pytest.mark.parametrize("address", ["/questions/by-day", "/rejected"])
@pytest.mark.usefixtures("impatient")
def test_a_query_without_a_result_says_why(
    local: Place, states: list[str], reason: str, shown: str, address: str
) -> None:
    local.athena.states, local.athena.reason = states, reason
    page = browser(local).get(address)
    assert shown in page.text
    assert ("refresh" in page.headers) == (states == ["RUNNING"])
    assert browser(local).get("/csv?run=run-1").status_code == 404


@pytest.mark.usefixtures("impatient")
def test_a_running_query_can_be_stopped(local: Place) -> None:
    local.athena.states = ["RUNNING"]
    browser(local).get("/questions/by-day")
    client = browser(local, Origin=HOME)
    for back, leads in (("/sql", "/sql"), ("//evil.test", "/"), ("https://evil.test", "/"), ("/\\evil.test", "/")):
        form = {"token": local.console.token, "run": "run-1", "back": back}
        assert client.post("/stop", data=form, follow_redirects=False).headers["location"] == leads
    assert local.athena.stopped == ["run-1"] * 4


def test_no_rows_are_told(local: Place) -> None:
    local.athena.tables = {"SELECT day": Table([("day", "date"), ("events", "bigint")], [])}
    assert "The query returned no rows." in browser(local).get("/questions/by-day").text
    local.athena.tables = {"of_reason": Table(REJECTED_COLUMNS, [])}
    assert "No event was rejected." in browser(local).get("/rejected").text


def test_many_rows_are_a_page_and_a_download(local: Place) -> None:
    rows: console_fakes.Rows = [[str(number), "=1+1"] for number in range(20_000)]
    local.athena.tables = {"SELECT day": Table([("n", "bigint"), ("text", "varchar")], rows)}
    page = browser(local).get("/questions/by-day").text
    assert page.count("<tr>") == SHOWN_ROWS + 1
    assert "The first 500 rows; CSV has all." in page
    assert local.athena.pages_read <= 6
    answer = browser(local).get("/csv?run=run-1")
    assert answer.headers["content-disposition"] == 'attachment; filename="run-1.csv"'
    lines = answer.text.splitlines()
    assert (len(lines), lines[0], lines[-1]) == (20_001, "n,text", "19999,'=1+1")


def test_a_long_text_is_cut_on_the_page_and_whole_in_the_download(local: Place) -> None:
    local.athena.tables = {"SELECT day": Table([("text", "varchar")], [["x" * 1_000_000]] * 10)}
    page = browser(local).get("/questions/by-day").text
    assert "(1,000,000 characters; CSV has them all)" in page
    assert len(page) < 20_000
    assert len(browser(local).get("/csv?run=run-1").text) > 10_000_000


@pytest.mark.parametrize("path", ["/questions/by-name?run=run-1", "/rejected?run=run-1", "/csv?run=run-9"])
def test_a_run_of_something_else_is_not_shown(local: Place, path: str) -> None:
    browser(local).get("/questions/by-day")
    answer = browser(local).get(path)
    assert answer.status_code == 404
    assert "ask again" in answer.text


def test_a_run_of_another_workgroup_is_not_shown(local: Place) -> None:
    browser(local).get("/questions/by-day")
    local.athena.workgroup = "finance"
    for path in ("/questions/by-day?run=run-1", "/sql?run=run-1", "/csv?run=run-1"):
        assert browser(local).get(path).status_code == 404
    assert press(local, "/stop", run="run-1").status_code == 404


# Rejected


def test_rejected_events_come_by_reason_with_text_context_and_the_replay(local: Place) -> None:
    rows = [rejected_row("not_json", '{"a": ', 5), rejected_row("not_a_number", '{"value": "abc"}', 2)]
    local.athena.tables = {"of_reason": Table(REJECTED_COLUMNS, rows)}
    page = browser(local).get("/rejected").text
    assert ">not_json: 5</h2>" in page
    assert "scripts/replay.sh --local --from rejected --reason not_a_number --dry-run" in page
    assert "203.0.113.0" in page
    assert "{&#34;value&#34;: &#34;abc&#34;}" in page


# Texts of senders


def test_nothing_of_an_event_is_markup(local: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    row: list[str | None] = [moment(), "row", HOSTILE, HOSTILE, "1", HOSTILE, HOSTILE, HOSTILE]
    named = Table([(HOSTILE, "varchar"), ("events", "bigint")], [[HOSTILE, "2"], ["b", "1"]])
    local.athena.tables = {
        "AS outcome": Table(EVENT_COLUMNS, [row]),
        "of_reason": Table(REJECTED_COLUMNS, [rejected_row(HOSTILE, HOSTILE, user_agent=HOSTILE)]),
        "SELECT name": named,
        "FROM own": named,
    }
    monkeypatch.setitem(console_fakes.SAVED, "by-name", (HOSTILE, f"SELECT name -- {HOSTILE}"))
    local.counted(Dropped=1, DroppedByRule={HOSTILE: 1})
    pages = [browser(local).get(path).text for path in ("/", "/questions", "/questions/by-name", "/rejected")]
    pages.append(press(local, "/sql", sql="SELECT * FROM own").text)
    local.athena.reason, local.athena.states = HOSTILE, ["FAILED"]
    paths = ("/questions/by-name", f"/questions/{quote(HOSTILE)}", "/rejected")
    pages += [browser(local).get(path).text for path in paths]
    for page in pages:
        elements = Elements(page)
        assert elements.found <= ELEMENTS
        assert not {name for name in elements.attributes if name.startswith("on") or name in ("src", "style")}
        assert "\x1b" not in page
        assert "\u202e" not in page
        assert "&lt;script&gt;alert(1)" in page


# Errors


def test_a_stack_that_is_gone_is_told_with_the_way_out(local: Place) -> None:
    local.cloudformation.stacks = ()
    for path in ("/", "/questions"):
        answer = browser(local).get(path)
        assert answer.status_code == 404
        assert "deploy it with scripts/deploy.sh --local --stack-name sluice" in answer.text


def test_a_stack_that_is_being_deployed_works_and_says_so(local: Place) -> None:
    local.stack.status = "UPDATE_IN_PROGRESS"
    assert "UPDATE_IN_PROGRESS" in browser(local).get("/questions").text
    local.stack.status, local.stack.outputs = "CREATE_IN_PROGRESS", {}
    assert "its status is CREATE_IN_PROGRESS" in browser(local).get("/questions").text


def test_after_expired_credentials_the_next_request_logs_in_anew(aws: Place) -> None:
    aws.athena.refusal = refused("ExpiredTokenException", "The security token is expired")
    answer = press(aws, "/questions/by-day")
    assert answer.status_code == 502
    assert "log in again (`aws sso login`)" in answer.text
    assert aws.logins == 2
    aws.athena.refusal = None
    assert press(aws, "/questions/by-day").status_code == 200


def test_an_address_that_is_none_is_told(local: Place) -> None:
    assert browser(local).get("/none").status_code == 404
    answer = browser(local).get("/questions/by-nam")
    assert answer.status_code == 404
    assert "did you mean &#39;by-name&#39;?" in answer.text


# The file


def test_the_export_is_one_file_that_needs_nothing(
    aws: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(command, "session", lambda _local: aws.connect())
    aws.athena.tables = {
        "SELECT name": Table([("name", "varchar"), ("events", "bigint")], [[HOSTILE, "2"], ["b", "1"]])
    }
    path = tmp_path / "week.html"
    assert guarded(command.console, ["--export", str(path)]) == 0
    assert "3 saved queries run, each at least 0.00005 and at most 0.05 USD." in capsys.readouterr().err
    text = path.read_text()
    elements = Elements(text)
    assert elements.found <= ELEMENTS - {"link", "form"}
    assert "src" not in elements.attributes
    assert set(re.findall(r'href="([^"]*)"', text)) == {"#by-day", "#by-name", "#in-all"}
    (style,) = re.findall(r"<style>(.*?)</style>", text, re.DOTALL)
    assert f"sha256-{base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()}'" in text
    assert "How many of each?" in text
    aws.athena.states, aws.athena.reason = ["FAILED"], "too much"
    assert guarded(command.console, ["--export", str(path)]) == 1
    assert "the query failed: too much" in path.read_text()
    assert guarded(command.console, ["--export", str(tmp_path)]) == 1
    assert "cannot be written: Is a directory" in capsys.readouterr().err


# Parameters and charts


@pytest.mark.parametrize(
    ("sql", "labels"),
    [
        ("SELECT 1", []),
        ("SELECT * FROM t WHERE event_id = ? AND value>=?", ["event_id", "value"]),
        ("SELECT '?', \"?\" /* ? */ -- ?\nFROM t WHERE lower(name) LIKE ?", ["name"]),
        ("SELECT 'it''s ?' WHERE ? = name", ["parameter 1"]),
    ],
)
def test_parameters_are_named_after_what_they_are_compared_with(sql: str, labels: list[str]) -> None:
    assert parameters_of(sql) == labels


DAY, NAME, N, TEXT = Column("day", "date"), Column("name", "varchar"), Column("n", "bigint"), Column("x", "varchar")


@pytest.mark.parametrize(
    ("columns", "rows", "kind"),
    [
        pytest.param([DAY, N], [["2026-01-02", "1"], ["2026-01-01", "2"]], "line", id="days"),
        pytest.param([TEXT, N], [["2026-01-02 10:00:00.000", "1"], ["2026-01-02 11:00", "-2"]], "line", id="hours"),
        pytest.param([NAME, N], [["a", "1"], ["b", None], [None, "1e308"]], "bars", id="names"),
        pytest.param([NAME, TEXT, N], [["a", "x", "1"], ["a", "y", "0"]], "bars", id="two texts"),
        pytest.param([N], [["1"]], "number", id="a number"),
        pytest.param([N], [[None]], None, id="no number"),
        pytest.param([NAME, N], [["a", "1"]], None, id="one row"),
        pytest.param([NAME, N], [["a", "1"], ["a", "2"]], None, id="a name twice"),
        pytest.param([NAME, N], [["a", "NaN"], ["b", "Infinity"]], None, id="not finite"),
        pytest.param([NAME, TEXT], [["a", "1"], ["b", "2"]], None, id="texts"),
        pytest.param([NAME, N], [], None, id="nothing"),
    ],
)
def test_the_chart_is_the_one_that_fits(columns: list[Column], rows: Any, kind: str | None) -> None:
    chart = charts.chart_of(columns, rows)
    assert (chart.kind if chart else None) == kind


def test_a_line_goes_from_the_first_time_to_the_last() -> None:
    chart = charts.chart_of([DAY, N], [["2026-01-03", "10"], ["2026-01-01", "-10"], ["2026-01-02", "0"]])
    assert chart
    assert chart.labels[0] == "2026-01-01"
    assert chart.path == "M0.00 100.0 L50.00 50.0 L100.00 0.0"


def test_values_at_both_ends_of_a_double_have_a_place() -> None:
    chart = charts.chart_of([NAME, N], [["a", "-1.7e308"], ["b", "1.7e308"], ["c", "0"]])
    assert chart
    assert [chart.share(value) for value in chart.values] == [0.0, 100.0, 50.0]
