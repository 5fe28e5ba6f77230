"""The stack's API for its clients: connections, the API key, and the pause before a retry."""

from __future__ import annotations

import email.utils
import http.client
import urllib.request
from urllib.parse import SplitResult, urlsplit

from botocore.exceptions import ClientError

from scripts.commands.common.console import CommandError
from scripts.commands.common.stack import Aws

CONNECT_SECONDS = 5.0
ANSWER_SECONDS = 35.0  # API Gateway gives an integration 29 s


def open_later(url: SplitResult) -> http.client.HTTPConnection:
    """A connection to the URL's host, opened with its first use; HTTPS honours the environment's proxy."""
    host = url.hostname or ""
    if url.scheme != "https":
        return http.client.HTTPConnection(host, url.port, timeout=CONNECT_SECONDS)
    proxy = urllib.request.getproxies().get("https")
    if not proxy or urllib.request.proxy_bypass(host):
        return http.client.HTTPSConnection(host, url.port, timeout=CONNECT_SECONDS)
    through = urlsplit(proxy if "://" in proxy else f"http://{proxy}")
    connection = http.client.HTTPSConnection(through.hostname or "", through.port, timeout=CONNECT_SECONDS)
    connection.set_tunnel(host, url.port or 443)
    return connection


def seconds_of_retry_after(header: str | None, now: float) -> float:
    """Retry-After in either of its forms, seconds or an HTTP date, as seconds from `now`; 0 if it says nothing."""
    if not header:
        return 0.0
    if header.strip().isdigit():
        return float(header)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(header).timestamp() - now)
    except (ValueError, TypeError):
        return 0.0


def read_api_key(aws: Aws, key_id: str) -> str:
    """The value of an API key by its id: a stack's outputs have only the id."""
    try:
        return str(aws.client("apigateway").get_api_key(apiKey=key_id, includeValue=True)["value"])
    except ClientError as error:
        if error.response["Error"].get("Code") not in ("AccessDenied", "AccessDeniedException"):
            raise
        raise CommandError(
            f"the stack's API key cannot be read: apigateway:GET on /apikeys/{key_id} is not allowed to you:"
            " ask for that permission, or give the key in SLUICE_API_KEY or with --api-key"
        ) from error
