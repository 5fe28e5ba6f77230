"""The local AWS as `python -m local.server` runs it, with delivery streams sixty times as fast.

Nothing waits long for its buffer, so at any moment some records are being transformed, written and marked as done. The
timeout of functions is as long as ever, because they are not faster.
"""

from __future__ import annotations

from functools import partial

from local import server
from local.firehose.engine import Limits
from local.firehose.service import Firehose

SECOND = 1 / 60

if __name__ == "__main__":
    limits = Limits(second=SECOND, function_timeout=Limits.function_timeout / SECOND, transform_interval=5)
    server.Firehose = partial(Firehose, limits=limits)  # the server makes one of it
    server.main()
