"""The templates of the console, and their filters."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from scripts.commands.common.console import printable
from scripts.commands.common.tables import duration

FOLDER: Final = Path(__file__).with_name("templates")


def templates() -> Environment:
    """The templates. Every text is escaped, and its control characters are shown as text."""
    environment = Environment(
        loader=FileSystemLoader(FOLDER),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        # Markup comes from a template already.
        finalize=lambda value: printable(value) if type(value) is str else value,
    )
    environment.filters |= {"zip": zip, "duration": duration}
    return environment
