"""MiniStack's services are loaded at their first use, so that the local AWS starts sooner.

MiniStack's CloudFormation imports all of them: half of a start, although a stack uses a dozen of sixty.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Sequence
from importlib.abc import Loader
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any

SERVICES = "ministack.services"
LOADER = "__loader_of_first_use__"
LOADING = threading.RLock()


class Unused(ModuleType):
    """A service until its first use."""

    def __getattr__(self, name: str) -> Any:
        with LOADING:  # a second thread gets the service as a whole
            if name == "get_state" and LOADER in vars(self):
                raise AttributeError(name)  # MiniStack saves services with a state
            if loader := vars(self).pop(LOADER, None):
                loader.exec_module(self)
                object.__setattr__(self, "__class__", ModuleType)
        return self.__getattribute__(name)


class AtFirstUse(Loader):
    """Loads a module at its first use."""

    def __init__(self, loader: Loader) -> None:
        self.loader = loader

    def exec_module(self, module: ModuleType) -> None:
        """Leave the module empty."""
        vars(module)[LOADER] = self.loader
        module.__class__ = Unused


class Services:
    """Finds the services for `import`."""

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        """What Python finds, with a loader at first use. A package is loaded at once."""
        spec = PathFinder.find_spec(name, path, target) if name.rpartition(".")[0] == SERVICES else None
        if spec and spec.loader and spec.submodule_search_locations is None:
            spec.loader = AtFirstUse(spec.loader)
        return spec


def load_at_first_use() -> None:
    """Load the services of MiniStack at their first use, from now on."""
    sys.meta_path.insert(0, Services())
