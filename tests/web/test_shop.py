"""examples/web: visits by Chromium with known figures, asked by the saved queries and by DuckDB.

The clock of the page is the test's: visits lie on days of the last three weeks and last as long as the test says.
"""

from __future__ import annotations

import os
import re
import subprocess
import urllib.request
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlsplit

import duckdb
import pytest
from playwright.sync_api import Browser

from scripts.commands.deploy.queries import read
from tests.conftest import ROOT
from tests.local_process import client, eventually

pytestmark = pytest.mark.slow

SAVED = {query.name: query.text for query in read()}
STATE = ROOT / ".sluice/examples/web/aws"
SOURCE = "'web-shop'"
# 60 visits, as the tests have little time; SLUICE_WEB_VISITORS=20 makes 200 of them.
VISITORS, VISITS = int(os.environ.get("SLUICE_WEB_VISITORS", "6")), 10
CLICK = "selector => document.querySelector(selector).click()"
STEP = timedelta(minutes=1)
VIEW = timedelta(milliseconds=200)
# The pages of a visit, by its number among the visitor's; the third one buys, and gives the visitor's id.
TOURS = [["/"], ["/", "/shoes"], ["/", "/shoes", "/cart"], ["/shoes?utm_source=news&utm_campaign=may&token=secret"]]
GAPS = [timedelta(days=2), timedelta(minutes=40), timedelta(days=3)]


@dataclass
class Visit:
    """One visit as the test made it: the time of each view, the end, and other actions."""

    visitor: int
    paths: list[str]
    times: list[datetime]
    end: datetime
    buys: bool
    campaign: bool

    @property
    def seconds(self) -> float:
        return (self.end - self.times[0]).total_seconds()


@dataclass
class Shop:
    """The running example."""

    url: str
    endpoint: str
    visits: list[Visit] = field(default_factory=list)

    def ask(self, name: str, *parameters: str) -> list[list[str | None]]:
        """The rows of a saved query over 30 days."""
        athena = client(self.endpoint, "athena")
        sql = SAVED[name].replace("${AthenaDatabaseName}", "serverless_data_pipeline")
        started = athena.start_query_execution(
            QueryString=sql.replace("${AthenaTableName}", "records"),
            ExecutionParameters=["30", SOURCE, *parameters],
            WorkGroup="sluice",
        )["QueryExecutionId"]

        def ended() -> Any:
            status = athena.get_query_execution(QueryExecutionId=started)["QueryExecution"]["Status"]
            return status if status["State"] not in ("QUEUED", "RUNNING") else None

        status = eventually(ended)
        assert status["State"] == "SUCCEEDED", status
        rows = athena.get_query_results(QueryExecutionId=started)["ResultSet"]["Rows"]
        return [[cell.get("VarCharValue") for cell in row["Data"]] for row in rows[1:]]

    def read(self, sql: str) -> list[tuple[Any, ...]]:
        """The rows of DuckDB's SQL over `web`, the objects of the bucket with each event_id once."""
        pattern = STATE / "s3/*/*/events/*/*.parquet"
        with duckdb.connect() as connection:
            connection.execute(
                f"CREATE VIEW web AS SELECT DISTINCT ON (event_id) *, path IS NOT NULL AND action = 'view' AS is_view "
                f"FROM read_parquet('{pattern}') WHERE source = 'web-shop'"
            )
            return connection.execute(sql).fetchall()


@pytest.fixture(scope="module")
def shop() -> Iterator[Shop]:
    """The example as a person runs it, up to its question; in the end its answers."""
    command = [str(ROOT / "examples/web/run.sh")]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout
        found = None
        while not (found := re.search(r"http://localhost:\d+/", process.stdout.readline())):
            assert process.poll() is None
        with urllib.request.urlopen(found[0]) as page:
            api = re.search(rb'data-url="([^"]+)"', page.read())
        assert api
        address = urlsplit(api[1].decode())
        yield Shop(found[0], f"{address.scheme}://{address.netloc}")
        output, _ = process.communicate("\n", timeout=120)
        assert process.returncode == 0, output
        assert "funnel-of-three-steps" in output and "/shoes" in output
    finally:
        process.terminate()
        process.wait(60)


def visit(shop: Shop, page: Any, visitor: int, number: int, start: datetime) -> Visit:
    """Let one visitor come once; returns the visit."""
    tour, times, now = TOURS[number % len(TOURS)], [], start
    page.clock.pause_at(now)
    referrer = "https://news.example/post?user=7" if "utm" in tour[0] else None
    page.goto(shop.url.rstrip("/") + tour[0], referer=referrer, wait_until="domcontentloaded")
    if number == 0:
        page.evaluate(CLICK, "#yes")
    for index, _ in enumerate(tour):
        if index:
            with page.expect_navigation(wait_until="domcontentloaded"):
                page.evaluate(CLICK, ["#shoes", "#cart"][index - 1])
        page.clock.run_for(200)
        times.append(now + VIEW)
        now += STEP * (index + 1)
        page.clock.pause_at(now)
    buys = len(tour) == 3
    if buys:
        page.evaluate("user => document.querySelector('[name=user]').value = user", f"customer-{visitor}")
        page.evaluate(CLICK, "#buy")
    page.goto("about:blank")
    paths = [path.split("?")[0] for path in tour]
    return Visit(visitor, paths, times, now, buys, "utm" in tour[0])


@pytest.fixture(scope="module")
def visited(shop: Shop, browser: Browser) -> Shop:
    """The shop after all visits, with a row for each event."""
    today = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    for visitor in range(VISITORS):
        now = today - timedelta(days=17 + visitor % 2 * 7) + timedelta(hours=8, minutes=visitor)
        # It stays open until all has arrived: a closed one takes its last beacon with it.
        page = browser.new_context().new_page()
        page.clock.install(time=now - timedelta(minutes=10))
        for number in range(VISITS):
            shop.visits.append(visit(shop, page, visitor, number, now))
            now = shop.visits[-1].end + GAPS[number % len(GAPS)]
    views = sum(len(one.paths) for one in shop.visits)
    wanted = [(views, views)]
    counts = "SELECT count_if(is_view), count_if(action = 'leave') FROM web"
    eventually(lambda: shop.read(counts) == wanted)
    return shop


def text(value: float) -> str:
    """A number as Athena shows it."""
    return str(round(float(value) + 1e-9, 1))


def of_days(visits: list[Visit]) -> dict[str, list[Visit]]:
    days: dict[str, list[Visit]] = {}
    for one in visits:
        days.setdefault(f"{one.times[0]:%Y-%m-%d}", []).append(one)
    return dict(sorted(days.items()))


def test_views_and_visitors_by_day(visited: Shop) -> None:
    assert visited.ask("page-views-by-day") == [
        [day, str(sum(len(one.paths) for one in visits)), str(len({one.visitor for one in visits})), "0"]
        for day, visits in of_days(visited.visits).items()
    ]


def test_top_pages_with_entries_and_exits(visited: Shop) -> None:
    views = Counter(path for one in visited.visits for path in one.paths)
    visitors = {path: {one.visitor for one in visited.visits if path in one.paths} for path in views}
    entries = Counter(one.paths[0] for one in visited.visits)
    exits = Counter(one.paths[-1] for one in visited.visits)
    seconds = {
        str(path): value
        for path, value in visited.read(
            "SELECT path, round(sum(value) FILTER (action = 'leave') / count_if(is_view), 1) FROM web GROUP BY path"
        )
    }
    assert visited.ask("top-pages") == [
        [path, str(count), str(len(visitors[path])), str(entries[path]), str(exits[path]), text(seconds[path])]
        for path, count in sorted(views.items(), key=lambda one: (-one[1], one[0]))
    ]
    # At most 30 seconds without any input count for a page.
    assert 29 <= seconds["/"] <= 31


def test_visits_with_duration_and_bounces(visited: Shop) -> None:
    found = visited.ask("visits-by-day")
    expected = []
    for day, visits in of_days(visited.visits).items():
        bounces = sum(len(one.paths) == 1 for one in visits)
        seconds = sum(one.seconds for one in visits) / len(visits)
        views = sum(len(one.paths) for one in visits)
        expected.append([day, len(visits), views, bounces, 100 * bounces / len(visits), seconds])
    assert [row[:4] for row in found] == [[str(value) for value in row[:4]] for row in expected]
    for row, wanted in zip(found, expected, strict=True):
        assert float(row[4] or 0) == pytest.approx(wanted[4], abs=0.06)
        assert float(row[5] or 0) == pytest.approx(wanted[5], abs=1)  # seconds are whole for each visit
    assert sum(int(row[1] or 0) for row in found) == VISITORS * VISITS


def test_a_second_engine_finds_the_same_visits(visited: Shop) -> None:
    rows = visited.read(
        """WITH gaps AS (
            SELECT *, coalesce(occurred_at - lag(occurred_at) OVER w >= INTERVAL 30 MINUTE, true)::int AS first
            FROM web WINDOW w AS (PARTITION BY anonymous_id ORDER BY occurred_at, event_id)),
        numbered AS (SELECT *, sum(first) OVER w AS n FROM gaps
            WINDOW w AS (PARTITION BY anonymous_id ORDER BY occurred_at, event_id))
        SELECT count(*), count(DISTINCT anonymous_id), sum(sessions) FROM (
            SELECT anonymous_id, n, count(DISTINCT session_id) AS sessions FROM numbered GROUP BY ALL)"""
    )
    assert rows == [(VISITORS * VISITS, VISITORS, VISITORS * VISITS)]
    by_day = visited.read("SELECT occurred_at::date::text, count(*)::text FROM web WHERE is_view GROUP BY 1 ORDER BY 1")
    assert [row[:2] for row in visited.ask("page-views-by-day")] == [[*row] for row in by_day]


def test_referrers_and_campaigns(visited: Shop) -> None:
    campaigns = [one for one in visited.visits if one.campaign]
    direct = [one for one in visited.visits if not one.campaign]
    row = ["news.example", "news", None, "may", str(len(campaigns)), str(len({one.visitor for one in campaigns}))]
    assert visited.ask("referrers-and-campaigns", "'%'") == [
        [None, None, None, None, str(len(direct)), str(VISITORS)],
        row,
    ]
    assert visited.ask("referrers-and-campaigns", "'may'") == [row]
    assert visited.read("SELECT count(*) FROM web WHERE properties LIKE '%secret%' OR referrer LIKE '%user%'") == [(0,)]


def test_a_funnel(visited: Shop) -> None:
    assert visited.ask("funnel-of-three-steps", "'/'", "'/shoes'", "'purchase'") == [
        ["1", "/", str(VISITORS), "100.0"],
        ["2", "/shoes", str(VISITORS), "100.0"],
        ["3", "purchase", str(VISITORS), "100.0"],
    ]
    assert visited.ask("funnel-of-three-steps", "'purchase'", "'nothing'", "'/'") == [
        ["1", "purchase", str(VISITORS), "100.0"]
    ]


def test_retention_by_week(visited: Shop) -> None:
    weeks: dict[int, set[datetime]] = {}
    for one in visited.visits:
        day = one.times[0].replace(hour=0, minute=0, microsecond=0, second=0)
        weeks.setdefault(one.visitor, set()).add(day - timedelta(days=day.weekday()))
    cells = Counter((min(own), (week - min(own)).days // 7) for own in weeks.values() for week in own)
    assert [row[:3] for row in visited.ask("retention-by-week")] == [
        [f"{first:%Y-%m-%d}", str(week), str(count)] for (first, week), count in sorted(cells.items())
    ]


def test_what_visitors_did_before_they_signed_up(visited: Shop) -> None:
    steps: Counter[str] = Counter()
    for visitor in range(VISITORS):
        for one in [one for one in visited.visits if one.visitor == visitor][:3]:
            steps.update(one.paths)
            if one.buys:
                steps["add_to_cart"] += 1
    assert visited.ask("before-signup") == [
        [step, str(VISITORS), str(count)] for step, count in sorted(steps.items(), key=lambda one: (-one[1], one[0]))
    ]
