"""What a month of the optional stacks uses of Step Functions, SQS and DynamoDB: all pure, as in cost_model.

The figures of one run, one row and one page are those of stacks/*.yaml and lambda/: tests hold them against both. An
alarm's message (SNS) is not foreseen; `--from-stack` counts them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from scripts.commands.cost_model import SECONDS_PER_MONTH

REFINE_TRANSITIONS: Final = 3
"""Plan, Refine and Sweep."""

REFINE_TRANSITIONS_PER_STATEMENT: Final = 5
"""Prepare, Write, Count, Read and Publish."""

DELIVER_TRANSITIONS: Final = 6
"""Prepare, IsAnythingWaiting, Query, Enqueue, IsAnythingLeft and Done, for a result that one Enqueue queues."""

PULL_LOOKS: Final = 13
"""Looks at a run of five minutes, which is assumed: the pauses between two of them grow from 1 second by half."""

PULL_TRANSITIONS: Final = 3 * PULL_LOOKS + 5
"""Check and Plan; each Look with its IsDone and, but for the last, its Pause; AwaitDelivery, Refine, Judge and Done."""

POLLS_PER_MONTH: Final = 5 * SECONDS_PER_MONTH / 20
"""Requests to a queue at which a function waits: five at the same time, of 20 seconds each: assumed."""

REQUESTS_PER_ROW: Final = 3 / 10
"""Sent, received and deleted, ten rows in a request."""

REQUESTS_PER_PAGE: Final = 3
"""Sent, received and deleted, each alone: each page is planned by the one before it, and BatchSize is 1."""

ROWS_PER_RESULT_PAGE: Final = 1_000
ROWS_PER_POST: Final = 100
"""As GetQueryResults gives them, and DeliverBatchSize."""

DELIVER_READS: Final = 1
DELIVER_WRITES: Final = 3
"""Of a run: the watermark is read, the window begun, the figures made and the watermark moved. Beside that, each page
of the result and each POST adds to the figures."""

PULL_READS: Final = 7
PULL_WRITES: Final = 6
"""Of a run of one source without its looks, each of which reads the requests and renews the lease."""

PULL_READS_PER_PAGE: Final = 3
PULL_WRITES_PER_PAGE: Final = 3
"""The page's item, its turn and that it has landed are written; the item and, twice, that of the next page are read."""

PAGES_PER_READ: Final = 10
"""A look reads the items of all pages: so many of 400 bytes in the 4 KB that DynamoDB counts as one read."""


@dataclass(frozen=True)
class Use:
    """What the optional stacks do in a month; pages, rows and runs may be fractions, as averages are."""

    refine_runs: float = 0
    refine_statements: float = 3
    """Statements of a run: one for each table, with the files of refine/ and the default RefineDays."""
    pull_runs: float = 0
    pull_pages: float = 0
    deliver_runs: float = 0
    deliver_rows: float = 0


def quantities(use: Use) -> dict[str, float]:
    """What a month uses, by the key of the price."""
    pulls, delivers = bool(use.pull_runs or use.pull_pages), bool(use.deliver_runs or use.deliver_rows)
    looks = PULL_LOOKS * (use.pull_runs + use.pull_pages / PAGES_PER_READ)
    result_pages = max(use.deliver_runs, use.deliver_rows / ROWS_PER_RESULT_PAGE)
    found = {
        "step-functions-transitions": transitions(use),
        "sqs-requests": POLLS_PER_MONTH * (pulls + delivers)
        + REQUESTS_PER_ROW * use.deliver_rows
        + REQUESTS_PER_PAGE * use.pull_pages
        + PULL_LOOKS * use.pull_runs,
        "dynamodb-reads": DELIVER_READS * use.deliver_runs
        + PULL_READS * use.pull_runs
        + PULL_READS_PER_PAGE * use.pull_pages
        + looks,
        "dynamodb-writes": DELIVER_WRITES * use.deliver_runs
        + result_pages
        + use.deliver_rows / ROWS_PER_POST
        + (PULL_WRITES + PULL_LOOKS) * use.pull_runs
        + PULL_WRITES_PER_PAGE * use.pull_pages,
    }
    return {key: quantity for key, quantity in found.items() if quantity}


def transitions(use: Use) -> float:
    """State transitions of all runs; a run that finds nothing to do makes fewer."""
    refine = REFINE_TRANSITIONS + REFINE_TRANSITIONS_PER_STATEMENT * use.refine_statements
    return refine * use.refine_runs + PULL_TRANSITIONS * use.pull_runs + DELIVER_TRANSITIONS * use.deliver_runs
