"""How long an event may be on its way: the template's buffers and tries without a parameter."""

from __future__ import annotations

from typing import Final

TRANSFORM_SECONDS: Final = 5
"""BufferIntervalInSeconds of the transform."""
TRANSFORM_TRIES: Final = 4
"""NumberOfRetries of the transform, with the first try."""
TRANSFORM_PASSES: Final = 3
"""How often an event passes the transform at most: it may be requeued."""
RAW_SECONDS: Final = 300
"""The buffer of raw/."""

_SLACK_SECONDS: Final = 120
_LOCAL_SLACK_SECONDS: Final = 12


def slack_seconds(is_local: bool) -> int:
    """Seconds of delivery allowed beyond the buffers."""
    return _LOCAL_SLACK_SECONDS if is_local else _SLACK_SECONDS
