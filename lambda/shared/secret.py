"""Secrets of other people's services, kept in AWS Secrets Manager."""

from __future__ import annotations

import time
from functools import lru_cache
from typing import Any, Final

from shared.documents import parse_json

CACHE_SECONDS: Final = 300

cache: Final[dict[str, tuple[float, dict[str, Any]]]] = {}
"""By secret: until when its values count, in monotonic seconds, and the values."""


class SecretMissing(Exception):
    """The secret has no such key. Names the key and says how to set it; shows nothing of the secret."""


def read(secret_arn: str, key: str, *, fresh: bool = False) -> Any:
    """The value of a key of the secret, whose text is a JSON object.

    A value is kept for five minutes, unless `fresh` is asked for: when a service refuses a token, a newer one may have
    been set. Raises SecretMissing if there is no such key, or no text yet, or it is not a JSON object.
    """
    until, values = cache.get(secret_arn, (0.0, {}))
    # A missing key is looked for again: somebody may be setting it right now.
    if fresh or time.monotonic() >= until or key not in values:
        values = _fetch(secret_arn)
        cache[secret_arn] = (time.monotonic() + CACHE_SECONDS, values)
    if key not in values:
        raise SecretMissing(
            f'the secret {secret_arn} has no key "{key}". Write {{"{key}": "..."}} into a file, '
            f"and run: aws secretsmanager put-secret-value --secret-id {secret_arn} --secret-string file://FILE"
        )
    return values[key]


def _fetch(secret_arn: str) -> dict[str, Any]:
    client = connect()
    try:
        text = client.get_secret_value(SecretId=secret_arn).get("SecretString", "")
    except client.exceptions.ResourceNotFoundException:
        # The secret has no text yet.
        return {}
    try:
        values = parse_json(text)
    except ValueError:
        return {}
    return values if isinstance(values, dict) else {}


@lru_cache(maxsize=1)
def connect() -> Any:
    """The client. boto3 is imported only here: a function without secrets starts without it."""
    import boto3

    return boto3.client("secretsmanager")
