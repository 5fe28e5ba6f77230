"""Which types of resources CloudFormation makes: an engine's own, and MiniStack's with properties that are checked."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from local.emulator.process import Json, Process

Create = Callable[[str, Json, str], tuple[str, Json]]
Update = Callable[[str, Json, Json, str], tuple[str, Json]]
Delete = Callable[[str, Json], None]


class CloudFormation(Process):
    """MiniStack's CloudFormation, which calls a handler for each type of resource."""

    def __init__(self, directory: Path, port: int) -> None:
        super().__init__(directory, port)
        from ministack.services.cloudformation import provisioners

        self._resource_handlers = provisioners._RESOURCE_HANDLERS
        self._replacing_properties = provisioners._REPLACING_PROPERTIES

    def add_resource(
        self,
        resource_type: str,
        *,
        create: Create,
        delete: Delete,
        update: Update | None = None,
        replacing: tuple[str, ...] = (),
    ) -> None:
        """Let CloudFormation make a type of resource; a change of a `replacing` property makes a new one.

        The functions get resolved properties and return a physical id (Ref) with attributes (Fn::GetAtt). A ValueError
        fails the resource, with its text as the reason that the user sees.
        """
        handlers: dict[str, Any] = {"create": create, "delete": delete}
        if update:
            handlers["update"] = update
        self._resource_handlers[resource_type] = handlers
        self._replacing_properties[resource_type] = replacing

    def check_resource(self, resource_type: str, check: Callable[[Json], None]) -> None:
        """Let MiniStack make a type of resource as it does, but only of properties for which `check` raises nothing."""
        handlers = dict(self._resource_handlers[resource_type])

        def checked(name: str, position: int) -> Callable[..., Any]:
            def handle(*arguments: Any) -> Any:
                check(arguments[position])
                return handlers[name](*arguments)

            return handle

        # create(logical id, properties, stack) and update(physical id, old properties, properties, stack).
        positions = {name: position for name, position in (("create", 1), ("update", 2)) if name in handlers}
        replaced = {name: checked(name, position) for name, position in positions.items()}
        self._resource_handlers[resource_type] = {**handlers, **replaced}
