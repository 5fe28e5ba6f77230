"""Removing leftovers: objects of earlier runs without a partition, and the remains of failed attempts.

Only leftovers older than a day go: by then no query still reads them, and no attempt can still publish them. Objects
are deleted without their versions: the bucket keeps them for as long as it keeps deleted versions.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from .catalog import Glue
from .plan import RUN_MARK, Lake, Target, folder, run_time
from .publish import delete_table, get_partitions, get_table

AGE: Final = timedelta(days=1)
MAX_OBJECTS: Final = 20_000
"""Objects deleted by one run at most; the next goes on."""
BATCH: Final = 1000

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Clients:
    """boto3's clients."""

    glue: Glue
    s3: Any


def sweep(
    clients: Clients, lake: Lake, targets: list[Target], now: datetime, has_time: Callable[[], bool]
) -> dict[str, int]:
    """Remove the leftovers of these targets; returns the numbers of objects and temporary tables."""
    tables = _drop_temporary_tables(clients.glue, lake.database, targets, now)
    objects = 0
    for target in targets:
        if has_time() and objects < MAX_OBJECTS and get_table(clients.glue, lake.database, target.table):
            keys = _left_over(clients, lake, target, now, has_time)[: MAX_OBJECTS - objects]
            _delete(clients.s3, lake.bucket, keys)
            objects += len(keys)
    return {"objects": objects, "tables": tables}


def _is_old(run: str, now: datetime) -> bool:
    began = run_time(run)
    return began is not None and now - began > AGE


def _drop_temporary_tables(glue: Glue, database: str, targets: list[Target], now: datetime) -> int:
    ours = {target.table for target in targets}
    pages = glue.get_paginator("get_tables").paginate(DatabaseName=database, Expression=f".*{RUN_MARK}.*")
    names = [table["Name"] for page in pages for table in page["TableList"]]
    old = [name for name in names if name.partition(RUN_MARK)[0] in ours and _is_old(name.partition(RUN_MARK)[2], now)]
    for name in old:
        delete_table(glue, database, name)
    return len(old)


def _left_over(clients: Clients, lake: Lake, target: Target, now: datetime, has_time: Callable[[], bool]) -> list[str]:
    """The keys of a table's objects in old folders without a partition; none if the time ends."""
    bucket, base = lake.bucket, folder(lake.bucket, target)
    # The partitions first: an old folder not among them now will not be later.
    used = {
        location.rstrip("/") + "/"
        for location in get_partitions(clients.glue, lake.database, target.table, "").values()
    }
    folders: dict[str, list[str]] = defaultdict(list)
    prefix = base.removeprefix(f"s3://{bucket}/") + "run="
    for page in clients.s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix):
        for item in page.get("Contents", []):
            folders[f"s3://{bucket}/{item['Key'].rpartition('/')[0]}/"].append(item["Key"])
        if not has_time():
            return []
    if missing := used - folders.keys():
        # Either somebody else moved partitions, or we read locations wrongly: no reason to delete anything.
        logger.warning("%s is not swept: its partition at %s has no objects", target.table, min(missing))
        return []
    return [
        key
        for place, keys in folders.items()
        if place not in used and _is_old(place.removeprefix(base).removeprefix("run=").partition("/")[0], now)
        for key in keys
    ]


def _delete(s3: Any, bucket: str, keys: list[str]) -> None:
    for start in range(0, len(keys), BATCH):
        batch = [{"Key": key} for key in keys[start : start + BATCH]]
        answer = s3.delete_objects(Bucket=bucket, Delete={"Objects": batch, "Quiet": True})
        for error in answer.get("Errors", []):
            logger.warning("%s cannot be deleted: %s: %s", error["Key"], error["Code"], error["Message"])
