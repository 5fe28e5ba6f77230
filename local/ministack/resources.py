"""An engine's resources, on disk."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

Json = dict[str, Any]


class Resources(dict[str, Json]):
    """The resources of one kind by physical id, as JSON values in a file; `save` replaces it as a whole."""

    def __init__(self, path: Path) -> None:
        super().__init__(json.loads(path.read_text()) if path.exists() else {})
        self.path = path

    def save(self) -> None:
        """Write the resources: a killed process finds either the old or the new state, never half of one."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        draft = self.path.with_suffix(".draft")
        with draft.open("w") as file:
            json.dump(self, file)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(self.path)
