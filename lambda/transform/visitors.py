"""The salts of visitors' ids. An id is a hash (see events.py), and needs nothing stored at the visitor.

The salt of a day (UTC, by when the request was received) is 32 random bytes in one object of the bucket. Its first
user writes it, on condition of being the first, so two functions never make two. S3 deletes it later, in all
versions, and nobody can compute the ids again. An event never fails for its visitor's id: without a salt it has none.
"""

from __future__ import annotations

import logging
import secrets
import time
from functools import lru_cache
from typing import Final, Protocol, TypedDict

from transform.records import describe

FOLDER: Final = "salts/"
MILLISECONDS_A_DAY: Final = 86_400_000
PAUSE_SECONDS: Final = 60
"""How long to wait before another try for a missing salt."""

logger = logging.getLogger(__name__)


class Body(Protocol):
    """An object's content."""

    def read(self) -> bytes: ...


class FoundObject(TypedDict):
    """GetObject's answer."""

    Body: Body


class S3(Protocol):
    """The used part of boto3's S3 client."""

    def put_object(self, *, Bucket: str, Key: str, Body: bytes, IfNoneMatch: str) -> None: ...

    def get_object(self, *, Bucket: str, Key: str) -> FoundObject: ...


@lru_cache(maxsize=1)
def connect() -> S3:
    """The S3 client. boto3 is imported only here: a stack without these ids would start later for it."""
    import boto3
    from botocore.config import Config

    # Two calls at most, and an answer in time even if neither has one.
    config = Config(connect_timeout=1, read_timeout=1, retries={"total_max_attempts": 1})
    client: S3 = boto3.client("s3", config=config)
    return client


class Salts:
    """The salts of a bucket, each asked for once a day and container."""

    def __init__(self, bucket: str) -> None:
        self.bucket = bucket
        self._found: dict[int, bytes] = {}
        self._paused: dict[int, float] = {}

    def find(self, received_at: int) -> bytes | None:
        """The salt of the day of these epoch milliseconds; None without one. Never raises.

        A clock may be wrong around midnight, so the days beside today have one, too. Older ones are deleted, and a
        new one in their place would make one visitor two.
        """
        day = received_at // MILLISECONDS_A_DAY
        if day in self._found:
            return self._found[day]
        now = time.time()
        if abs(day - int(now) // 86_400) > 1 or now < self._paused.get(day, 0):
            return None
        try:
            self._found[day] = self._keep(day)
        except Exception as error:
            logger.error("no salt for the ids of visitors: %s", describe(error))
            self._paused[day] = now + PAUSE_SECONDS
            return None
        for old in [known for known in self._found if known < day - 1]:
            del self._found[old]
        return self._found[day]

    def _keep(self, day: int) -> bytes:
        """Write a new salt unless there is one; returns the stored one."""
        key = FOLDER + time.strftime("%Y-%m-%d", time.gmtime(day * 86_400))
        salt = secrets.token_bytes(32)
        s3 = connect()
        try:
            s3.put_object(Bucket=self.bucket, Key=key, Body=salt, IfNoneMatch="*")
        except Exception:  # most often, another function was first
            salt = s3.get_object(Bucket=self.bucket, Key=key)["Body"].read()
        return salt
