"""The stack's bucket: its listings, and how versions of its objects are deleted for good."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, TypedDict

from botocore.exceptions import ClientError

from scripts.commands.common.console import CommandError

_BATCH: Final = 1_000  # as many as one DeleteObjects takes
_GONE: Final = ("404", "NoSuchBucket", "NoSuchKey")


class S3Marker(TypedDict):
    """A delete marker."""

    Key: str
    VersionId: str


class S3Object(TypedDict):
    """An object in a listing."""

    Key: str
    LastModified: datetime
    ETag: str
    Size: int


class S3Version(S3Object):
    """A version of an object."""

    VersionId: str
    IsLatest: bool


class VersionsPage(TypedDict, total=False):
    """ListObjectVersions's answer."""

    Versions: list[S3Version]
    DeleteMarkers: list[S3Marker]


@dataclass(frozen=True)
class Bucket:
    """A bucket by its name, and the client to reach it."""

    s3: Any
    name: str

    def exists(self) -> bool:
        """Whether it is there."""
        return _is_there(self.s3.head_bucket, Bucket=self.name)

    def holds(self, key: str) -> bool:
        """Whether there is an object with this key."""
        return _is_there(self.s3.head_object, Bucket=self.name, Key=key)

    def read(self, key: str, **more: str) -> bytes:
        """An object's content."""
        return bytes(self.s3.get_object(Bucket=self.name, Key=key, **more)["Body"].read())

    def objects(self, prefix: str = "") -> Iterator[S3Object]:
        """The objects under a prefix."""
        for page in self.s3.get_paginator("list_objects_v2").paginate(Bucket=self.name, Prefix=prefix):
            yield from page.get("Contents", [])

    def folders(self, prefix: str = "") -> list[str]:
        """The folders directly under a prefix."""
        pages = self.s3.get_paginator("list_objects_v2").paginate(Bucket=self.name, Prefix=prefix, Delimiter="/")
        return [item["Prefix"] for page in pages for item in page.get("CommonPrefixes", [])]

    def versions(self, prefix: str = "") -> Iterator[S3Version]:
        """Every version of every object under a prefix, without delete markers."""
        for page in self._history(prefix):
            yield from page.get("Versions", [])

    def markers(self, prefix: str = "") -> Iterator[S3Marker]:
        """The delete markers under a prefix."""
        for page in self._history(prefix):
            yield from page.get("DeleteMarkers", [])

    def _history(self, prefix: str) -> Iterator[VersionsPage]:
        yield from self.s3.get_paginator("list_object_versions").paginate(Bucket=self.name, Prefix=prefix)

    def history(self, prefix: str = "") -> Iterator[tuple[str, str]]:
        """Key and id of every version and every delete marker, for `delete`."""
        for page in self._history(prefix):
            for item in (*page.get("Versions", []), *page.get("DeleteMarkers", [])):
                yield item["Key"], item["VersionId"]

    def delete(self, versions: Iterable[tuple[str, str]]) -> int:
        """Delete versions and delete markers for good, by key and id; returns how many.

        Raises:
            CommandError: S3 refused one of them. The others are deleted.
        """
        objects = [{"Key": key, "VersionId": version_id} for key, version_id in versions]
        faults = []
        for start in range(0, len(objects), _BATCH):
            batch = {"Objects": objects[start : start + _BATCH], "Quiet": True}
            faults += self.s3.delete_objects(Bucket=self.name, Delete=batch).get("Errors", [])
        for fault in faults:
            raise CommandError(
                f"s3://{self.name}/{fault['Key']} cannot be deleted: {fault['Code']}: {fault['Message']}"
            )
        return len(objects)


def _is_there(head: Any, **place: str) -> bool:
    try:
        head(**place)
    except ClientError as error:
        if error.response["Error"]["Code"] in _GONE:
            return False
        raise
    return True
