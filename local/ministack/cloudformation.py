"""CloudFormation's types of resources, and the rights to make them.

A type is an engine's own, or MiniStack's with checked properties. CloudFormation makes, changes and deletes a resource
with the deployer's rights; MiniStack does so with its own.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from local.ministack.access import Access, AccessDenied
from local.ministack.deployer import CALLS, calls, new_name
from local.ministack.process import Json

Create = Callable[[str, Json, str], tuple[str, Json]]
Update = Callable[[str, Json, Json, str], tuple[str, Json]]
Delete = Callable[[str, Json], None]


class CloudFormation(Access):
    """MiniStack's CloudFormation, with a handler for each type of resource."""

    def __init__(self, directory: Path, port: int) -> None:
        super().__init__(directory, port)
        from ministack.services.cloudformation import provisioners

        self.resource_handlers: dict[str, dict[str, Any]] = provisioners._RESOURCE_HANDLERS
        """By type of resource, the functions to make, change and delete one."""
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
        fails the resource, with its text as the reason shown to the user.
        """
        handlers: dict[str, Any] = {"create": create, "delete": delete}
        if update:
            handlers["update"] = update
        self.resource_handlers[resource_type] = self._authorized(resource_type, handlers)
        self._replacing_properties[resource_type] = replacing

    def check_resource(self, resource_type: str, check: Callable[[Json], None]) -> None:
        """Let MiniStack make a type of resource as it does, unless `check` raises an error for the properties."""
        handlers = dict(self.resource_handlers[resource_type])

        def checked(name: str, position: int) -> Callable[..., Any]:
            def handle(*arguments: Any) -> Any:
                check(arguments[position])
                return handlers[name](*arguments)

            return handle

        # create(logical id, properties, stack) and update(physical id, old properties, properties, stack).
        positions = {name: position for name, position in (("create", 1), ("update", 2)) if name in handlers}
        replaced = {name: checked(name, position) for name, position in positions.items()}
        self.resource_handlers[resource_type] = {**handlers, **replaced}

    def authorize_resources(self) -> None:
        """Let MiniStack make, change and delete its types of resources only with the rights of the caller."""
        for resource_type in CALLS.keys() & self.resource_handlers.keys():
            handlers = self.resource_handlers[resource_type]
            self.resource_handlers[resource_type] = self._authorized(resource_type, handlers)

    def _authorized(self, resource_type: str, handlers: dict[str, Any]) -> dict[str, Any]:
        """The handlers of a type; each first checks the caller's right to CloudFormation's calls."""

        def authorize(operation: str, name: str, properties: Json) -> None:
            try:
                self.authorize_caller(calls(operation, resource_type, name, properties))
            except AccessDenied as denied:
                reason = f'Resource handler returned message: "{denied}" (HandlerErrorCode: AccessDenied)'
                raise AccessDenied(reason) from None

        def create(logical_id: str, properties: Json, stack: str) -> Any:
            authorize("create", new_name(resource_type, logical_id, properties, stack), properties)
            return handlers["create"](logical_id, properties, stack)

        def update(physical_id: str, before: Json, properties: Json, *more: str) -> Any:
            authorize("update", physical_id, properties)
            return handlers["update"](physical_id, before, properties, *more)

        def delete(physical_id: str, properties: Json) -> Any:
            authorize("delete", physical_id, properties)
            return handlers["delete"](physical_id, properties)

        authorized = {"create": create, "update": update, "delete": delete}
        return handlers | {name: handler for name, handler in authorized.items() if name in handlers}
