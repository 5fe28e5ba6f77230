"""The objects and tables Sweep deletes, and those it leaves."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import pytest

from stacks.refine.function.plan import Target, new_run
from stacks.refine.function.sweep import Clients, sweep
from tests.stacks.refine.refine_tables import BUCKET, BY_KIND, EVENTS, LAKE, NOW, publish_run, tables, write


def put(s3: Any, run: str, day: str, count: int = 1, target: Target = EVENTS) -> None:
    for number in range(count):
        key = f"{target.zone}/{target.table}/run={run}/dt={day}/{number}"
        s3.put_object(Bucket=BUCKET, Key=key, Body=b"rows")


def keys(s3: Any) -> list[str]:
    return [item["Key"] for item in s3.list_objects_v2(Bucket=BUCKET).get("Contents", [])]


def swept(aws: Any, now: datetime = NOW, has_time: Callable[[], bool] = lambda: True) -> dict[str, int]:
    return sweep(Clients(aws("glue"), aws("s3")), LAKE, [EVENTS], now, has_time)


OLD, OLDER, NEW = (
    new_run(NOW - age, "00000000") for age in (timedelta(days=2), timedelta(days=3), timedelta(hours=23))
)


def test_what_no_partition_points_at_goes_after_a_day(aws: Any) -> None:
    glue, s3 = aws("glue"), aws("s3")
    for run, days in ((OLDER, ("2026-01-01", "2026-01-02")), (OLD, ("2026-01-02", "2026-01-03"))):
        publish_run(glue, run, *days, first=days[0], last=days[1])
        for day in days:
            put(s3, run, day)
    put(s3, NEW, "2026-01-02")  # of an attempt not published yet
    put(s3, "by-hand", "2026-01-02")
    s3.put_object(Bucket=BUCKET, Key="events/dt=2026-01-01/x", Body=b"rows")
    assert swept(aws) == {"objects": 1, "tables": 0}
    assert f"processed/events_clean/run={OLDER}/dt=2026-01-02/0" not in keys(s3)
    assert len(keys(s3)) == 6
    assert swept(aws) == {"objects": 0, "tables": 0}
    assert swept(aws, NOW + timedelta(days=1)) == {"objects": 1, "tables": 0}


def test_temporary_tables_of_attempts_that_were_not_published_go_after_a_day(aws: Any) -> None:
    glue = aws("glue")
    publish_run(glue, OLD, "2026-01-01")
    put(aws("s3"), OLD, "2026-01-01")
    for run in (OLD, NEW, "by_hand"):
        write(glue, run)
    write(glue, OLD, target=BY_KIND)  # of a file missing in this stack
    assert swept(aws) == {"objects": 0, "tables": 1}
    assert f"events_clean__run_{OLD}" not in tables(glue)
    assert len(tables(glue)) == 4


def test_nothing_is_deleted_when_partitions_do_not_point_at_what_is_there(
    aws: Any, caplog: pytest.LogCaptureFixture
) -> None:
    publish_run(aws("glue"), OLD, "2026-01-01")
    put(aws("s3"), OLDER, "2026-01-01")
    assert swept(aws)["objects"] == 0
    assert f"events_clean is not swept: its partition at s3://store/processed/events_clean/run={OLD}/" in caplog.text


def test_sweeping_ends_in_time_and_the_next_run_goes_on(aws: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    glue, s3 = aws("glue"), aws("s3")
    publish_run(glue, OLD, "2026-01-01")
    put(s3, OLD, "2026-01-01")
    put(s3, OLDER, "2026-01-01", 5)
    assert swept(aws, has_time=lambda: False)["objects"] == 0
    monkeypatch.setattr("stacks.refine.function.sweep.MAX_OBJECTS", 3)
    monkeypatch.setattr("stacks.refine.function.sweep.BATCH", 2)
    assert [swept(aws)["objects"] for _ in range(3)] == [3, 2, 0]
