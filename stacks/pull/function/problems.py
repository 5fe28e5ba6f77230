"""The problems with somebody's API, each by its name: people and alarms read the name of the exception.

No text here repeats a header, a query or more of a body than the API's own error message.
"""

from __future__ import annotations

from typing import ClassVar, Literal

Patience = Literal["hours", "tries", "none"]
"""How long a request is tried again: for hours, as it will pass; a few times, as it may; not at all."""


class Problem(Exception):
    """A request without the expected rows."""

    patience: ClassVar[Patience] = "none"

    def __init__(self, detail: str, wait: float = 0.0) -> None:
        super().__init__(detail)
        self.wait = wait
        """The seconds to wait, as the API itself asked."""

    @property
    def reason(self) -> str:
        """One line with the name in front: `ShapeChanged: ...`."""
        return f"{type(self).__name__}: {self}"


class Busy(Problem):
    """No whole answer, or a status for a fault of theirs: 408, 425, 429 or 5xx."""

    patience = "hours"


class UnknownSource(Problem):
    """A source not declared, or no longer."""


class BadCredentials(Problem):
    """401 or 403, or a secret with nothing for this source."""


class HttpError(Problem):
    """Any other status except 2xx."""


class NotJson(Problem):
    """A 2xx whose body is not JSON, such as an HTML page about an outage."""

    patience = "tries"


class ErrorBody(Problem):
    """A 2xx in whose body the declaration's `error` finds something."""

    patience = "tries"


class ShapeChanged(Problem):
    """JSON whose rows, or their required values, are not in the declared places."""

    patience = "tries"


class WrongTotal(Problem):
    """Rows or pages announced by the API itself are missing, or it announces more than any run may have."""

    patience = "tries"


class RepeatedPage(Problem):
    """A page with the very rows of the page before, or a cursor to itself."""

    patience = "tries"
