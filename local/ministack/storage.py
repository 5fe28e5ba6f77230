"""Objects in S3, and the databases, tables and partitions of Glue's catalog."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path
from typing import Any

from local.catalog import GluePartition, GlueTable
from local.ministack.process import ACCOUNT, REGION, Json, Process, ServiceError


class Storage(Process):
    """MiniStack's S3, with each object as a file under its key, and its Glue."""

    def __init__(self, directory: Path, port: int) -> None:
        super().__init__(directory, port)
        from ministack.services import glue, s3

        self._buckets, self._bucket_encryption = s3._buckets, s3._bucket_encryption
        self._databases, self._tables, self._partitions = glue._databases, glue._tables, glue._partitions

    async def put_object(self, bucket: str, key: str, data: bytes, encoding: str = "") -> None:
        """Write an object as a whole, with its Content-Encoding; ServiceError also when the disk does not take it."""
        headers = {"content-type": "application/octet-stream", **({"content-encoding": encoding} if encoding else {})}
        status, _, body = await self.call("s3", "PUT", f"/{bucket}/{key}", data, more_headers=headers)
        if status >= 300:
            code, message = (re.search(f"<{name}>(.*?)</{name}>", body.decode()) for name in ("Code", "Message"))
            raise ServiceError(status, code[1] if code else "", message[1] if message else "")
        path = self.directory / "s3" / ACCOUNT / bucket / key
        if not path.is_file() or path.stat().st_size != len(data):
            # MiniStack says 200 all the same, and keeps the unwritten object until the process ends.
            await self.call("s3", "DELETE", f"/{bucket}/{key}")
            raise ServiceError(500, "InternalError", f"The object could not be written to {path}")

    def bucket_key(self, bucket: str) -> str:
        """The ARN of the KMS key for a bucket's objects; empty if S3 uses a key of its own."""
        found = re.search("<KMSMasterKeyID>(.*?)<", self._bucket_encryption.get_scoped(ACCOUNT, None, bucket, ""))
        return found[1] if found else ""

    def object_paths(self, bucket: str, prefix: str) -> list[tuple[str, Path]]:
        """The objects under a prefix ending at a folder, as (key, file on disk), in the order of their keys."""
        root = self.directory / "s3" / ACCOUNT / bucket
        # Not every file on disk: some are deleted objects of a versioned bucket, or the draft of a killed process.
        objects = (self._buckets.get_scoped(ACCOUNT, None, bucket) or {"objects": {}})["objects"]
        found = [(path.relative_to(root).as_posix(), path) for path in (root / prefix).rglob("*") if path.is_file()]
        return sorted((key, path) for key, path in found if key in objects)

    def glue_table(self, database: str, table: str) -> GlueTable | None:
        """A table of the Glue catalog, as Glue's GetTable shows it."""
        found: GlueTable | None = self._tables.get_scoped(ACCOUNT, REGION, f"{database}/{table}")
        return found

    def glue_databases(self) -> list[str]:
        """The names of the databases of the Glue catalog."""
        return sorted(
            name for account, region, name in self._databases.to_dict() if (account, region) == (ACCOUNT, REGION)
        )

    def glue_tables(self, database: str) -> list[GlueTable]:
        """The tables of a database, by name."""
        found = self._tables.to_dict().items()
        mine = [(key, table) for (*scope, key), table in found if scope == [ACCOUNT, REGION]]
        return [table for key, table in sorted(mine, key=lambda one: str(one[0])) if key.startswith(f"{database}/")]

    def has_database(self, database: str) -> bool:
        """Whether the Glue catalog has the database."""
        return self._databases.get_scoped(ACCOUNT, REGION, database) is not None

    def glue_partitions(self, database: str, table: str) -> list[GluePartition]:
        """A table's partitions in the Glue catalog, each as it is at one moment."""
        while True:
            listed: list[GluePartition] = self._partitions.get_scoped(ACCOUNT, REGION, f"{database}/{table}") or []
            found = [partition.copy() for partition in list(listed)]
            # For BatchUpdatePartition, MiniStack empties a partition before it fills it.
            if all("StorageDescriptor" in partition for partition in found):
                return found
            time.sleep(0.001)

    async def glue(self, operation: str, **body: Any) -> Json:
        """Change something in Glue's catalog. Raises ServiceError."""
        request, target = json.dumps(body).encode(), f"AWSGlue.{operation}"
        status, _, content = await self.call("glue", "POST", "/", request, target=target)
        answer: Json = json.loads(content)
        if status >= 300:
            raise ServiceError(status, answer.get("__type", ""), answer.get("message", ""))
        self.on_change("glue")
        return answer
