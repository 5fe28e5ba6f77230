"""The stack's bucket with all of its versions, as scripts/erase.sh reads and changes it, and its findings there."""

from __future__ import annotations

import io
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from threading import Lock
from typing import Any, Final
from urllib.parse import urlencode

from botocore.exceptions import ClientError

from scripts.commands.common.stack import Aws
from scripts.commands.erase.zones import Pool, Remains
from scripts.commands.lake.bucket import Bucket
from scripts.commands.lake.objects import Corrupt
from scripts.commands.lake.zones import BESIDE_EVENTS, SALTS, TURN
from shared.documents import Json

WHOLE_BYTES: Final = 256 * 1024
"""Up to this size an object is read at once: a request costs as much as this many bytes cost to fetch."""

USER_FOLDER: Final = re.compile(r"/(user_id|anonymous_id)=([^/]*)")
_ARCHIVED: Final = {"InvalidObjectState"}
_CHANGED: Final = {"PreconditionFailed", "ConditionalRequestConflict", "NoSuchKey", "412", "409", "404"}
_KEPT_HEADERS: Final = (
    "CacheControl",
    "ContentDisposition",
    "ContentEncoding",
    "ContentLanguage",
    "ContentType",
    "Metadata",
    "StorageClass",
)


@dataclass(frozen=True)
class Version:
    """A version of an object, as the listing has it; `size` in bytes."""

    key: str
    id: str
    etag: str
    size: int
    is_latest: bool


@dataclass(frozen=True)
class Finding:
    """A version with data of the person, and its remains without."""

    version: Version
    remains: Remains


@dataclass
class Scan:
    """The result of reading every object."""

    column: str
    """The column of the person's id."""
    findings: list[Finding] = field(default_factory=list)
    versions: Counter[str] = field(default_factory=Counter)
    """How many were read, by zone."""
    rows: Counter[str] = field(default_factory=Counter)
    """How many rows or events they hold, by zone."""
    bytes_read: int = 0
    set_aside: dict[str, str] = field(default_factory=dict)
    """Why, by key."""
    left: Counter[str] = field(default_factory=Counter)
    """Versions without the column of the person's id, and those of other folders, by folder."""
    similar: Counter[str] = field(default_factory=Counter)
    """How many rows or events have the person's id in another form, by that form."""
    results: list[Version] = field(default_factory=list)
    pool: Pool = field(default_factory=Pool)
    told: set[str] = field(default_factory=set)
    """The keys of `set_aside` already shown."""


class Store:
    """The stack's bucket with all of its versions; counts the bytes read."""

    def __init__(self, aws: Aws, bucket: str, events: str) -> None:
        self.s3, self.bucket, self.events = aws.client("s3"), bucket, events
        self._bucket = Bucket(self.s3, bucket)
        self.bytes_read, self._lock = 0, Lock()

    def exists(self) -> bool:
        return self._bucket.exists()

    def zone(self, key: str) -> str:
        """The stack's folder with this key; '' if it is in none."""
        return next((folder for folder in (self.events, *BESIDE_EVENTS) if key.startswith(folder)), "")

    def versions(self, prefix: str = "") -> Iterator[Version]:
        """Every version of every object except delete markers and objects without anybody's data."""
        for item in self._bucket.versions(prefix):
            is_folder = item["Key"].endswith("/") and item["Size"] == 0  # made by the console
            if not is_folder and not item["Key"].startswith((TURN, SALTS)):
                yield Version(item["Key"], item["VersionId"], item["ETag"], item["Size"], item["IsLatest"])

    def markers(self, key: str) -> list[str]:
        """The ids of an object's delete markers."""
        return [item["VersionId"] for item in self._bucket.markers(key) if item["Key"] == key]

    def open(self, version: Version) -> io.IOBase:
        """A version as a file. A large one is fetched range by range, as far as it is read."""
        if version.size <= WHOLE_BYTES:
            return io.BytesIO(self.get(version)[0])
        return _Remote(self, version)

    def get(self, version: Version, byte_range: str = "") -> tuple[bytes, Json]:
        """A version's content, or a range of it, and S3's response. Raises Corrupt if it is in an archive."""
        more = {"Range": byte_range} if byte_range else {}
        try:
            answer = self.s3.get_object(Bucket=self.bucket, Key=version.key, VersionId=version.id, **more)
        except ClientError as error:
            if error.response["Error"]["Code"] in _ARCHIVED:
                raise Corrupt("it lies in an archive: restore it first") from None
            raise
        content: bytes = answer["Body"].read()
        with self._lock:
            self.bytes_read += len(content)
        return content, answer

    def put(self, version: Version, content: bytes, was: Json) -> str | None:
        """Replace the latest version's content; return the new id, or None if it is not the latest any more."""
        more = {name: was[name] for name in _KEPT_HEADERS if was.get(name)}
        if was.get("TagCount"):
            tags = self.s3.get_object_tagging(Bucket=self.bucket, Key=version.key, VersionId=version.id)["TagSet"]
            more["Tagging"] = urlencode({tag["Key"]: tag["Value"] for tag in tags})
        try:
            answer = self.s3.put_object(Bucket=self.bucket, Key=version.key, Body=content, IfMatch=version.etag, **more)
        except ClientError as error:
            if error.response["Error"]["Code"] in _CHANGED:
                return None
            raise
        return str(answer.get("VersionId", "null"))

    def delete(self, versions: Iterable[tuple[str, str]]) -> None:
        """Delete versions and markers for good, by key and id."""
        self._bucket.delete(versions)

    def hide(self, key: str) -> None:
        """Put a delete marker, to keep older versions hidden when the latest is deleted."""
        self.s3.delete_object(Bucket=self.bucket, Key=key)


class _Remote(io.RawIOBase):
    """A version behind ranged reads."""

    def __init__(self, store: Store, version: Version) -> None:
        self.store, self.version, self.position = store, version, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self.position, io.SEEK_END: self.version.size}[whence]
        self.position = base + offset
        return self.position

    def tell(self) -> int:
        return self.position

    def readinto(self, buffer: Any) -> int:
        end = min(self.position + len(buffer), self.version.size)
        if self.position >= end:
            return 0
        content, answer = self.store.get(self.version, f"bytes={self.position}-{end - 1}")
        if "ContentRange" not in answer:  # HTTP allows to answer with everything
            content = content[self.position : end]
        buffer[: len(content)] = content
        self.position += len(content)
        return len(content)
