"""Erase one person: find their data in every zone of the bucket, remove it, prove it, and leave a receipt."""

from __future__ import annotations

import argparse
import shlex
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Final
from urllib.parse import unquote_plus

from botocore.exceptions import ClientError
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from scripts.commands.common.console import (
    CommandError,
    Parser,
    is_agreed,
    main,
    nobody_to_ask,
    printable,
    progress,
    say,
)
from scripts.commands.common.stack import (
    Aws,
    Stack,
    add_stack_arguments,
    session,
)
from scripts.commands.erase import parquet as erase_parquet
from scripts.commands.erase.parquet import WithoutUsers
from scripts.commands.erase.receipt import Receipt
from scripts.commands.erase.store import USER_FOLDER, Finding, Scan, Store, Version
from scripts.commands.erase.zones import (
    Person,
    Pool,
    Remains,
    check_marks,
    erase_errors,
    erase_raw,
    erase_rejected,
    erase_rows,
)
from scripts.commands.lake import zones
from scripts.commands.lake.delivery import RAW_SECONDS, TRANSFORM_SECONDS, TRANSFORM_TRIES
from scripts.commands.lake.objects import Corrupt
from scripts.commands.lake.zones import RESULTS, TABLES, events_of

READERS: Final = 10  # as many connections as boto3 keeps
TRIES: Final = 5
"""How often an object is read again while others keep changing it."""

SHOWN_IDS: Final = 20
_BATCH: Final = 1_000  # versions waiting for a reader
_GONE: Final = {"NoSuchKey", "NoSuchVersion", "404"}

MARGIN_SECONDS: Final = 60


def erase(arguments: list[str]) -> int:
    """scripts/erase.sh"""
    began = time.monotonic()
    options = _parse(arguments)
    aws = session(options)
    stack = Stack(aws, options.stack_name)
    parameters = stack.parameters
    store = Store(aws, stack.output("BucketName"), events_of(parameters))
    person = Person(options.anonymous_id or options.user_id, "anonymous_id" if options.anonymous_id else "user_id")
    receipt = Receipt(options.receipt, person, options.stack_name, aws.place, store.bucket)
    if not store.exists():
        raise stack.lost(store.bucket)
    if not options.yes:
        scan = look(store, person)
        show(scan, store)
        _confirm(scan, options.stack_name, aws)
    waited = wait(parameters, began)
    # Also after a first look: events on their way then are in the bucket by now.
    scan = look(store, person)
    show(scan, store)
    receipt.begin(waited)
    remove(store, person, scan, receipt)
    proof = look(store, person)
    receipt.end(scan, proof)
    return conclude(scan, proof, receipt)


# --- Looking


@dataclass(frozen=True)
class Examined:
    """One version as read: its remains without the person, or the reason why they are unknown."""

    version: Version
    remains: Remains | None = None
    why: str = ""
    """Why it is set aside."""
    is_left: bool = False
    """It is a table without users, or not one of the stack's objects."""
    similar: Mapping[str, int] = field(default_factory=dict)
    """How often it holds each id with the person's value in another form."""


def look(store: Store, person: Person) -> Scan:
    """Read every version of every object, and find the person's data."""
    scan, began = Scan(person.column), store.bytes_read
    listed = list(store.versions())
    scan.results = [version for version in listed if store.zone(version.key) == RESULTS]
    versions = [version for version in listed if store.zone(version.key) != RESULTS]
    with ThreadPoolExecutor(READERS) as executor, progress() as display:
        task = display.add_task("Reading", total=len(versions))

        def examined(chosen: list[Version]) -> Iterator[Examined]:
            for start in range(0, len(chosen), _BATCH):
                batch = chosen[start : start + _BATCH]
                for one in executor.map(lambda version: _examine(store, version, person, scan.pool), batch):
                    display.advance(task)
                    yield one

        found = {one.version: one for one in examined(versions)}
        # By now all parts of the divided texts are known.
        found |= {one.version: one for one in examined([one for one in versions if one in scan.pool.holders])}
    for version, one in found.items():
        zone = store.zone(version.key)
        if one.why:
            scan.set_aside[_name(version)] = one.why
        scan.similar.update(one.similar)
        if one.is_left:
            scan.left[_folder(version.key)] += 1
        if one.remains:
            scan.versions[zone] += 1
            scan.rows[zone] += one.remains.before
            if one.remains.found:
                scan.findings.append(Finding(version, one.remains))
    scan.bytes_read = store.bytes_read - began
    return scan


def _examine(store: Store, version: Version, whose: Person, pool: Pool) -> Examined:
    person = Person(whose.id, whose.column)  # a new one, to count the ids of this version alone
    try:
        remains = _read(store, version, person, pool)
    except WithoutUsers:
        return Examined(version, is_left=True, similar=person.similar)
    except Corrupt as corrupt:
        return Examined(version, why=str(corrupt))
    except ClientError as error:
        if error.response["Error"]["Code"] in _GONE:  # a lifecycle rule, or the sweep of a refinement
            return Examined(version)
        raise
    return Examined(version, remains, remains.obstacle, similar=person.similar)


def _read(store: Store, version: Version, person: Person, pool: Pool, content: bytes | None = None) -> Remains:
    """Return a version's remains without the person.

    Of a table, only the person's column is read unless `content` is given. Raises Corrupt and WithoutUsers.
    """
    zone = store.zone(version.key)
    if not zone:
        raise WithoutUsers
    folder = next((one[2] for one in USER_FOLDER.finditer(version.key) if one[1] == person.column), None)
    if folder is not None and person.is_meant(unquote_plus(folder)):
        raise Corrupt("its whole folder is this person's: drop the partition in Athena, and delete the folder")
    if folder:
        person.note(unquote_plus(folder))
    if zone in TABLES or (zone == store.events and ".json" not in version.key.rpartition("/")[2]):
        if content is not None:
            return erase_parquet.erase(content, person)
        return erase_parquet.count(store.open(version), person)
    if content is None:
        content, _ = store.get(version)
    match zone:
        case zones.REJECTED:
            if pool.add(content):
                pool.holders.add(version)
            return erase_rejected(content, person, pool)
        case zones.ERRORS:
            return erase_errors(content, person, zones.error_type_of(version.key))
        case zones.RAW:
            return erase_raw(content, person)
        case zones.REPLAYED:
            return check_marks(content)
        case _:
            return erase_rows(content, person)


def _name(version: Version) -> str:
    return version.key if version.is_latest else f"{version.key} (older version {version.id})"


def _folder(key: str) -> str:
    """The folder to name for a table or for a foreign object: the first two levels of its key at most."""
    return "/".join(key.split("/")[:-1][:2]) + "/"


def show(scan: Scan, store: Store) -> None:
    """Print the rows of each zone, and the fate of each object with some of the person's, on stdout."""
    found: Counter[str] = Counter()
    objects: Counter[str] = Counter()
    for finding in scan.findings:
        zone = store.zone(finding.version.key)
        found[zone] += finding.remains.found
        objects[zone] += 1
    by_zone = Table(box=box.SIMPLE_HEAD, title=f"s3://{store.bucket}/", title_justify="left")
    for name in ("zone", "versions read", "rows", "of the person", "in versions"):
        by_zone.add_column(name, justify="left" if name == "zone" else "right")
    for zone in sorted(scan.versions):
        by_zone.add_row(zone, *(f"{count[zone]:,}" for count in (scan.versions, scan.rows, found, objects)))
    touched = Table(box=box.SIMPLE_HEAD)
    for name in ("object", "rows", "of the person", "what happens"):
        touched.add_column(name, justify="right" if name == "rows" or "of" in name else "left", overflow="fold")
    for finding in scan.findings:
        remains = finding.remains
        is_rewritten = finding.version.is_latest and remains.after
        what = f"rewritten with {remains.after:,} rows" if is_rewritten else "deleted"
        touched.add_row(Text(printable(_name(finding.version))), f"{remains.before:,}", f"{remains.found:,}", what)
    console = Console()
    if not console.is_terminal:
        console.width = 250
    console.print(by_zone)
    if scan.findings:
        console.print(touched)
    if scan.results:
        say(f"{RESULTS}: all {len(scan.results):,} results of queries will be deleted, as any may name the person.")
    for folder, count in sorted(scan.left.items()):
        say(f"left alone: {count:,} objects of {printable(folder)}: no column {scan.column} tells whose their rows are")
    tell_similar(scan)
    tell_set_aside(scan.set_aside)
    scan.told.update(scan.set_aside)


def tell_similar(scan: Scan) -> None:
    """Name the ids that may be the person's in another form. Their rows are not erased."""
    similar, option = scan.similar, scan.column.replace("_", "-")
    if not similar:
        return
    say(
        f"Not erased: {sum(similar.values()):,} rows or events whose ids are equal to this one except for case, width "
        "or a decimal .0. If an id is the same person's, erase it as well:",
        style="yellow",
    )
    for one, count in similar.most_common(SHOWN_IDS):
        say(f"  {count:,} of scripts/erase.sh --{option} {shlex.quote(printable(one))}")
    if len(similar) > SHOWN_IDS:
        say(f"  and {len(similar) - SHOWN_IDS:,} more ids")


def tell_set_aside(set_aside: Mapping[str, str]) -> None:
    """Print one line for each unreadable object."""
    for key, why in set_aside.items():
        say(f"set aside: {printable(key)}: {printable(why)}", style="red")


# --- Waiting


def delivery_seconds(parameters: Mapping[str, str]) -> tuple[int, str]:
    """How long an event may be on its way, and why: through the transform and a buffer, and once more if put back.

    Rejected events go through the reject stream, and those without room in a reply through the same stream again.
    """
    timeout, interval = (
        int(parameters.get(name) or most) for name, most in (("LambdaTimeout", 300), ("FirehoseBufferingInterval", 900))
    )
    seconds = 2 * (TRANSFORM_SECONDS + TRANSFORM_TRIES * timeout + interval)
    why = (
        f"{TRANSFORM_SECONDS} s and {TRANSFORM_TRIES} tries of {timeout} s for the transform and {interval} s in a "
        "buffer, all of it twice where an event is rejected or put back"
    )
    if parameters.get("RawBackup") == "ENABLED" and seconds < RAW_SECONDS:
        seconds, why = RAW_SECONDS, f"{RAW_SECONDS} s in the buffer of raw/"
    return seconds + MARGIN_SECONDS, f"{why}, and {MARGIN_SECONDS} s to be written"


def wait(parameters: Mapping[str, str], began: float) -> float:
    """Wait until events on their way at `began` are delivered; return the seconds since then."""
    seconds, why = delivery_seconds(parameters)
    left = began + seconds - time.monotonic()
    if left > 0:
        say(f"Waiting {left:,.0f} s: an event may be on its way for {seconds:,} s ({why}).")
        time.sleep(left)
    return time.monotonic() - began


# --- Removing


def remove(store: Store, person: Person, scan: Scan, receipt: Receipt) -> None:
    """Remove the findings, one object after the other, and then the results of queries.

    It can be killed anywhere and run again: an object is replaced before its older versions are deleted, and of a
    text in several parts, the one naming the person goes last.
    """
    keys = {finding.version.key: finding.remains.goes_last for finding in scan.findings}
    with progress() as display:
        task = display.add_task("Erasing", total=len(keys))
        for key in sorted(keys, key=lambda key: (keys[key], key)):
            for _ in range(TRIES):
                if _settle(store, person, key, scan, receipt):
                    break
            else:
                raise CommandError(f"s3://{store.bucket}/{key} keeps changing: run the same command again")
            display.advance(task)
    store.delete((version.key, version.id) for version in scan.results)
    receipt.results_deleted += len(scan.results)


def _settle(store: Store, person: Person, key: str, scan: Scan, receipt: Receipt) -> bool:
    """Remove the person from every version of an object; return False if it changed meanwhile: read it again."""
    versions = [version for version in store.versions(key) if version.key == key]
    remaining = len(versions)
    for version in sorted(versions, key=lambda version: not version.is_latest):
        try:
            content, was = store.get(version)
            remains = _read(store, version, person, scan.pool, content)
            if not remains.found:
                continue
            is_replaced = version.is_latest and remains.after > 0
            if is_replaced:
                _compare(store, version, person, scan.pool, remains)
        except WithoutUsers:
            continue
        except Corrupt as corrupt:
            scan.set_aside[_name(version)] = str(corrupt)
            continue
        except ClientError as error:
            if error.response["Error"]["Code"] in _GONE:
                return False
            raise
        new_id = None
        if is_replaced:
            new_id = store.put(version, remains.content, was)
            if new_id is None:
                return False
        elif version.is_latest and remaining > 1:
            store.hide(key)
        if new_id != version.id:  # else the bucket keeps no versions, and the old one is gone
            store.delete([(key, version.id)])
        remaining -= not is_replaced
        receipt.add(version, new_id, remains, content)
    if not remaining:
        store.delete((key, marker) for marker in store.markers(key))
    return True


def _compare(store: Store, version: Version, person: Person, pool: Pool, remains: Remains) -> None:
    """Read the new content as the stored object was read. Raises Corrupt if it holds other rows than it should."""
    again = _read(store, version, person, replace(pool, holders=set()), remains.content)
    if (again.before, again.found) != (remains.after, 0):
        raise Corrupt(
            f"the counts do not agree, so it was not replaced: of {remains.before:,} rows {remains.removed:,} go, "
            f"and {again.before:,} would be left, of which {again.found:,} are the person's"
        )


def conclude(scan: Scan, proof: Scan, receipt: Receipt) -> int:
    """Report the work done and the result of the second look; return the exit code."""
    set_aside = scan.set_aside | proof.set_aside
    tell_set_aside({key: why for key, why in set_aside.items() if key not in scan.told})
    rows, read = sum(proof.rows.values()), sum(proof.versions.values())
    if not scan.findings:
        say(f"Nothing of this person was found: {read:,} objects and older versions with {rows:,} rows were read.")
    elif receipt.objects:
        count = sum(item["rows_before"] - item["rows_after"] for item in receipt.objects)
        say(f"Erased {count:,} rows of {len(receipt.objects):,} objects and older versions.")
    if receipt.results_deleted:
        say(f"Deleted {receipt.results_deleted:,} results of queries.")
    say(f"The receipt is in {receipt.path}.")
    tell_similar(proof)
    if proof.findings:
        say(
            f"{len(proof.findings):,} objects still hold something of the person, the first is "
            f"{printable(_name(proof.findings[0].version))}: see above, or an event came in meanwhile: run it again",
            style="red",
        )
        return 1
    if set_aside:
        say(f"{len(set_aside):,} objects could not be read: fix or delete them, and run it again", style="red")
        return 1
    say(f"A second look at {read:,} objects with {rows:,} rows finds nothing of the person.", style="green")
    return 0


# --- Arguments and confirmation


def _confirm(scan: Scan, name: str, aws: Aws) -> None:
    if not sys.stdin.isatty():
        raise nobody_to_ask()
    if not is_agreed(
        f"Erase this person in {len(scan.findings):,} objects and delete {len(scan.results):,} results of queries of "
        f"'{name}' in {aws.place}? It cannot be undone."
    ):
        raise CommandError("nothing was erased")


def _parse(arguments: list[str]) -> argparse.Namespace:
    parser = Parser("erase")
    add_stack_arguments(parser)
    whose = parser.add_mutually_exclusive_group(required=True)
    whose.add_argument("--user-id", type=_id)
    whose.add_argument("--anonymous-id", type=_id)
    parser.add_argument("--yes", action="store_true")
    parser.add_argument("--receipt", type=Path)
    options = parser.parse_args(arguments)
    if options.receipt is None:
        options.receipt = Path(f"erase-receipt-{datetime.now(UTC):%Y%m%dT%H%M%SZ}.json")
    return options


def _id(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise argparse.ArgumentTypeError(f"{text!r} is not text in UTF-8") from None
    if not text.strip():
        raise argparse.ArgumentTypeError(f"'{text}' is not an id: it is blank")
    return text.strip()


if __name__ == "__main__":
    main(erase)
