"""The local AWS as `python -m local.server` runs it. It asks policies again after a moment, and not after a second."""

from __future__ import annotations

from local import server
from local.ministack import access

PERMISSION_CACHE_SECONDS = 0.05

if __name__ == "__main__":
    access.PERMISSION_CACHE_SECONDS = PERMISSION_CACHE_SECONDS
    server.main()
