"""The receipt of scripts/erase.sh: evidence of the erasure that does not name the person."""

from __future__ import annotations

import json
import os
import secrets
from datetime import UTC, datetime
from hashlib import scrypt, sha256
from pathlib import Path
from typing import Final, NotRequired, TypedDict

from scripts.commands.common.console import UsageError
from scripts.commands.erase.store import USER_FOLDER, Scan, Version
from scripts.commands.erase.zones import Person, Remains
from shared.documents import parse_json

RECEIPT_FORMAT: Final = "sluice erase receipt 1"


class ScryptCost(TypedDict):
    """scrypt's cost parameters."""

    n: int
    r: int
    p: int


class ReceiptUser(ScryptCost):
    """The erased person: the column of the id, its hash and the hash's salt, both in hexadecimal digits."""

    column: str
    scrypt: str
    salt: str


class ErasedVersion(TypedDict):
    """A deleted version, and its replacement, if any."""

    key: str
    version_before: str
    version_after: str | None
    was_latest: bool
    rows_before: int
    rows_after: int
    sha256_before: str
    sha256_after: str | None
    at: str


class Proof(TypedDict):
    """The second look: its reads and its findings."""

    versions_read: int
    rows_read: int
    versions_that_hold_the_person: int


class ReceiptRun(TypedDict):
    """One run; the keys after `objects` are there once it has ended."""

    began: str
    waited_seconds: int
    objects: list[ErasedVersion]
    results_deleted: NotRequired[int]
    left_alone: NotRequired[dict[str, int]]
    set_aside: NotRequired[list[str]]
    similar_ids_left: NotRequired[int]
    proof: NotRequired[Proof]
    ended: NotRequired[str]


class ReceiptDocument(TypedDict):
    """The file."""

    format: str
    stack: str
    place: str
    bucket: str
    runs: list[ReceiptRun]
    user: NotRequired[ReceiptUser]


_SCRYPT: Final = ScryptCost(n=2**14, r=8, p=1)  # slow, because ids are few enough to be tried out


class Receipt:
    """The file that proves an erasure: the id as a slow hash with a salt, objects by key.

    An existing receipt of the same person is continued, as after a killed run.
    """

    def __init__(self, path: Path, person: Person, stack: str, place: str, bucket: str) -> None:
        self.path = path
        self.document = ReceiptDocument(format=RECEIPT_FORMAT, stack=stack, place=place, bucket=bucket, runs=[])
        if path.exists():
            self.document = self._of_same(person, bucket)
        else:
            if not (path.parent.is_dir() and os.access(path.parent, os.W_OK)):
                raise UsageError(f"--receipt {path}: there is no folder '{path.parent}' to write to")
            salt = secrets.token_bytes(16)
            self.document["user"] = {
                "column": person.column,
                "scrypt": _hash(person.id, salt),
                "salt": salt.hex(),
                **_SCRYPT,
            }
        self.runs = self.document["runs"]

    def _of_same(self, person: Person, bucket: str) -> ReceiptDocument:
        try:
            document: ReceiptDocument = parse_json(self.path.read_text())
            user = document["user"]
            is_same = (
                document["format"] == RECEIPT_FORMAT
                and document["bucket"] == bucket
                and user.get("column", "user_id") == person.column  # older receipts name none
                and user["scrypt"] == _hash(person.id, bytes.fromhex(user["salt"]))
            )
        except (OSError, ValueError, KeyError, TypeError):
            is_same = False
        if not is_same:
            raise UsageError(
                f"--receipt {self.path}: the file exists and is not a receipt of this person and bucket: name another"
            )
        return document

    @property
    def objects(self) -> list[ErasedVersion]:
        """The versions erased in this run."""
        return self.runs[-1]["objects"]

    def begin(self, waited: float) -> None:
        """Begin a run, before anything is changed."""
        self.results_deleted = 0
        self.runs.append({"began": _now(), "waited_seconds": round(waited), "objects": []})
        self.write()

    def add(self, version: Version, new_id: str | None, remains: Remains, content: bytes) -> None:
        """Add a deleted version, and its replacement, if any."""
        self.objects.append(
            {
                "key": without_ids(version.key),
                "version_before": version.id,
                "version_after": new_id,
                "was_latest": version.is_latest,
                "rows_before": remains.before,
                "rows_after": remains.after if new_id else 0,
                "sha256_before": sha256(content).hexdigest(),
                "sha256_after": sha256(remains.content).hexdigest() if new_id else None,
                "at": _now(),
            }
        )
        self.write()

    def end(self, scan: Scan, proof: Scan) -> None:
        """End the run with the findings of the second look."""
        self.runs[-1] |= {
            "results_deleted": self.results_deleted,
            "left_alone": {without_ids(f"/{key}")[1:]: count for key, count in proof.left.items()},
            # Without the reason: an error may repeat the person's data.
            "set_aside": sorted(without_ids(key) for key in scan.set_aside | proof.set_aside),
            "similar_ids_left": len(proof.similar),
            "proof": {
                "versions_read": sum(proof.versions.values()),
                "rows_read": sum(proof.rows.values()),
                "versions_that_hold_the_person": len(proof.findings),
            },
            "ended": _now(),
        }
        self.write()

    def write(self) -> None:
        """Write it in one step."""
        draft = self.path.with_name(f"{self.path.name}.part")
        draft.write_text(json.dumps(self.document, indent=2) + "\n")
        draft.replace(self.path)


def without_ids(key: str) -> str:
    """An object's key without the user id or anonymous id of its folder."""
    return USER_FOLDER.sub(r"/\1=?", key)


def _hash(id: str, salt: bytes) -> str:
    return scrypt(id.encode(), salt=salt, **_SCRYPT).hex()


def _now() -> str:
    return f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}"
