"""The parts of a deployment, read and checked before any of it reaches AWS, and their union in one template."""

from __future__ import annotations

import functools
import hashlib
import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from scripts.commands.common.console import UsageError
from scripts.commands.common.paths import STACKS
from scripts.commands.common.stack import DEFAULT_STACK_NAME
from scripts.commands.deploy import nested, queries, template

FOLDERS = tuple(
    path.parent.name for path in sorted(STACKS.glob("*/template.yaml")) if path.with_name("folder.py").exists()
)
"""The nested stacks switched on by a user's folder: their folder.py makes one artifact of it."""
OFF = "off"


@dataclass(frozen=True)
class Product:
    """The nested stacks, the saved queries, and the artifacts of the users' folders."""

    stacks: list[nested.NestedStack]
    saved_queries: list[queries.SavedQuery]
    artifacts: dict[str, bytes]
    """The content of the file for each parameter. An empty file switches the stack off."""

    @functools.cached_property
    def template(self) -> template.Template:
        """The template with its nested stacks, as data: parsed once, because it takes a while. It has no keys yet."""
        return template.load(nested.insert(template.TEMPLATE.read_text(), self.stacks, lambda stack: ""))

    def check_delivered_query(self, parameters: Mapping[str, str]) -> None:
        """Refuse parameters for a delivery whose query is not among the saved ones."""
        query, names = parameters.get("DeliverQuery"), sorted(query.name for query in self.saved_queries)
        if parameters.get("DeliverUrl") and query not in (None, *names):
            raise UsageError(
                f"DeliverQuery must be the name of a saved query (got '{query}'): there are {', '.join(names)}; "
                f"add your own with --queries FILE"
            )

    def complete(
        self, archive: Path, previous: Mapping[str, str], given: Mapping[str, str], put: Callable[[str, bytes], object]
    ) -> tuple[str, dict[str, str]]:
        """The whole template, and the value of each parameter. `put` stores the files named in them."""

        def stored(name: str, content: bytes) -> str:
            put(name, content)
            return name

        given = {**given, "TransformCodeKey": stored(archive.name, archive.read_bytes())}
        for parameter, content in self.artifacts.items():
            given[parameter] = stored(file_name(f"{parameter.lower()}.json", content), content) if content else ""
        text = nested.insert(
            template.TEMPLATE.read_text(),
            self.stacks,
            lambda stack: stored(file_name(f"{stack.name}.yaml", stack.text.encode()), stack.text.encode()),
        )
        parameters = template.effective_parameters(self.template, previous, given)
        return template.render(queries.save(text, self.saved_queries), self.template, parameters), parameters


def read_product(folders: Mapping[str, str] | None = None, more_queries: Sequence[Path] = ()) -> Product:
    """Read the parts of a deployment. `folders` has a folder, or `off`, by the option's name; raises CommandError."""
    stacks, artifacts = nested.read(), {}
    for stack in stacks:
        if folder := (folders or {}).get(stack.name):
            module = importlib.import_module(f"stacks.{stack.name}.folder")
            artifacts[stack.switches[0]] = b"" if folder == OFF else module.compile_folder(Path(folder))
    queries.check(template.TEMPLATE.read_text())
    return Product(stacks, queries.read_all([queries.QUERIES, *more_queries]), artifacts)


def own_database(name: str) -> dict[str, str]:
    """The parameter for a new stack's database: each stack has its own, the first the template's default."""
    return {} if name == DEFAULT_STACK_NAME else {"AthenaDatabaseName": name.lower().replace("-", "_")}


def file_name(name: str, content: bytes) -> str:
    """The name with the content's hash in it, to store the same content once."""
    stem, _, suffix = name.partition(".")
    return f"{stem}-{hashlib.sha256(content).hexdigest()[:16]}.{suffix}"
