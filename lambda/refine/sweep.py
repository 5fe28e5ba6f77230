"""Removing what no partition points at any more: objects of earlier runs, and what failed attempts left behind.

Only what is older than a day goes: by then no query still reads it, and no attempt can still publish it. Objects are
deleted without their versions, so that the bucket keeps them for as long as it keeps deleted versions.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any, Final

from refine.plan import RUN_MARK, Target, folder, run_time
from refine.publish import delete_table, get_partitions, get_table

AGE: Final = timedelta(days=1)
MAX_OBJECTS: Final = 20_000
"""Objects that one run deletes at most; the next goes on."""
BATCH: Final = 1000

logger = logging.getLogger(__name__)


def sweep(
    glue: Any,
    s3: Any,
    database: str,
    bucket: str,
    targets: list[Target],
    now: datetime,
    has_time: Callable[[], bool],
) -> dict[str, int]:
    """Remove what is left over of these targets; returns how many objects and temporary tables it was."""
    tables = _drop_temporary_tables(glue, database, targets, now)
    objects = 0
    for target in targets:
        if has_time() and objects < MAX_OBJECTS and get_table(glue, database, target.table):
            objects += _delete_objects(glue, s3, database, bucket, target, now, MAX_OBJECTS - objects, has_time)
    return {"objects": objects, "tables": tables}


def _is_old(run: str, now: datetime) -> bool:
    began = run_time(run)
    return began is not None and now - began > AGE


def _drop_temporary_tables(glue: Any, database: str, targets: list[Target], now: datetime) -> int:
    ours = {target.table for target in targets}
    pages = glue.get_paginator("get_tables").paginate(DatabaseName=database, Expression=f".*{RUN_MARK}.*")
    names = [table["Name"] for page in pages for table in page["TableList"]]
    old = [name for name in names if name.partition(RUN_MARK)[0] in ours and _is_old(name.partition(RUN_MARK)[2], now)]
    for name in old:
        delete_table(glue, database, name)
    return len(old)


def _delete_objects(
    glue: Any,
    s3: Any,
    database: str,
    bucket: str,
    target: Target,
    now: datetime,
    most: int,
    has_time: Callable[[], bool],
) -> int:
    """Delete a table's objects in folders that are old and that no partition points at."""
    base = folder(bucket, target)
    # The partitions first: what is old and not among them now will not be later.
    used = {location.rstrip("/") + "/" for location in get_partitions(glue, database, target.table, "").values()}
    folders: dict[str, list[str]] = defaultdict(list)
    prefix = base.removeprefix(f"s3://{bucket}/") + "run="
    for page in s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix):
        for item in page.get("Contents", []):
            folders[f"s3://{bucket}/{item['Key'].rpartition('/')[0]}/"].append(item["Key"])
        if not has_time():
            return 0
    if missing := used - folders.keys():
        # Either somebody else moved partitions, or we read locations wrongly: no reason to delete anything.
        logger.warning("%s is not swept: its partition at %s has no objects", target.table, min(missing))
        return 0
    left_over = [
        key
        for place, keys in folders.items()
        if place not in used and _is_old(place.removeprefix(base).removeprefix("run=").partition("/")[0], now)
        for key in keys
    ][:most]
    for start in range(0, len(left_over), BATCH):
        keys = [{"Key": key} for key in left_over[start : start + BATCH]]
        answer = s3.delete_objects(Bucket=bucket, Delete={"Objects": keys, "Quiet": True})
        for error in answer.get("Errors", []):
            logger.warning("%s cannot be deleted: %s: %s", error["Key"], error["Code"], error["Message"])
    return len(left_over)
