"""Let all tests of a process share what each of them would compute anew.

Nearly each test makes a session and clients of its own, as each script does, and each deployment reads the templates.
"""

from __future__ import annotations

import pickle
import time
from collections.abc import Callable
from functools import cache
from typing import Any

import botocore.hooks
import botocore.regions
import botocore.session
import moto.core.models
from moto.core.base_backend import BaseBackend
from moto.sqs.models import SQSBackend

from scripts.commands.deploy import template


def _by_code(accepts_kwargs: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Look at the signature of an event's handler once for each function, and not for each session."""
    found: dict[Any, Any] = {}

    def once(handler: Any) -> Any:
        code = getattr(handler, "__code__", handler)
        if code not in found:
            found[code] = accepts_kwargs(handler)
        return found[code]

    return once


def _by_name(alias: Callable[[Any, str], str]) -> Callable[[Any, str], str]:
    """Every session has the same aliases of events."""
    found: dict[str, str] = {}

    def once(aliaser: Any, name: str) -> str:
        if name not in found:
            found[name] = alias(aliaser, name)
        return found[name]

    return once


def _by_rules(provider: Callable[..., Any]) -> Callable[..., Any]:
    """Make the rules for a service's addresses once: the shared loader returns the same data again and again."""
    found: dict[Any, Any] = {}

    def once(*, ruleset_data: Any, partition_data: Any, excluded_params: Any) -> Any:
        given = (ruleset_data, partition_data, excluded_params)
        key = tuple(map(id, given))
        if key not in found:
            found[key] = (provider(*given), given)  # no other object gets an id while its object is kept
        return found[key][0]

    return once


def _by_class(urls: Any) -> property:
    """moto imports S3's addresses anew for each request."""
    found: dict[type, Any] = {}

    def once(backend: Any) -> Any:
        if type(backend) not in found:
            found[type(backend)] = urls.fget(backend)
        return found[type(backend)]

    return property(once)


def _is_retained(backend: SQSBackend, queue: str, message: Any) -> bool:
    """Whether a queue still has a message; moto counts all messages for each of them, to find the queue's setting."""
    seconds: float = backend.get_queue(queue).message_retention_period
    return seconds + message.sent_timestamp / 1000 > time.time()


def _by_text(load: Callable[[str], Any]) -> Callable[[str], Any]:
    """Parse a template once; each caller gets a copy of its own."""
    found: dict[str, bytes] = {}

    def once(text: str) -> Any:
        if text not in found:
            found[text] = pickle.dumps(load(text))
        return pickle.loads(found[text])

    return once


botocore.session.create_loader = cache(botocore.session.create_loader)
botocore.regions.EndpointProvider = _by_rules(botocore.regions.EndpointProvider)
botocore.hooks.accepts_kwargs = _by_code(botocore.hooks.accepts_kwargs)
botocore.hooks.EventAliaser._alias_event_name = _by_name(botocore.hooks.EventAliaser._alias_event_name)
moto.core.models.CallbackResponse = cache(moto.core.models.CallbackResponse)
SQSBackend.is_message_valid_based_on_retention_period = _is_retained
BaseBackend.urls = _by_class(BaseBackend.urls)
template.load = _by_text(template.load)
