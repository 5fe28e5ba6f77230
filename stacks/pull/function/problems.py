"""What can be wrong with somebody's API, each by its name: the name of the exception is what people and alarms read.

No text here repeats a header, a query or more of a body than the API's own error message.
"""

from __future__ import annotations

from typing import ClassVar, Literal

Patience = Literal["hours", "tries", "none"]
"""How long a request is tried again: for hours, as it will pass; a few times, as it may; not at all."""


class Problem(Exception):
    """A request that did not bring the rows that it should have brought."""

    patience: ClassVar[Patience] = "none"

    def __init__(self, detail: str, wait: float = 0.0) -> None:
        super().__init__(detail)
        self.wait = wait
        """The seconds that the API itself asked to wait."""

    @property
    def reason(self) -> str:
        """One line with the name in front: `ShapeChanged: ...`."""
        return f"{type(self).__name__}: {self}"


class Busy(Problem):
    """No whole answer, or one that says that it is not our fault: 408, 425, 429 or 5xx."""

    patience = "hours"


class UnknownSource(Problem):
    """A source that is not declared, or no longer."""


class BadCredentials(Problem):
    """401 or 403, or a secret that has nothing for this source."""


class HttpError(Problem):
    """Any other status that is not 2xx."""


class NotJson(Problem):
    """A 2xx whose body is not JSON, such as the HTML of a page that says that the service is down."""

    patience = "tries"


class ErrorBody(Problem):
    """A 2xx in whose body the declaration's `error` finds something."""

    patience = "tries"


class ShapeChanged(Problem):
    """JSON in which the rows, or what each of them must have, do not be where the declaration says."""

    patience = "tries"


class WrongTotal(Problem):
    """Rows or pages are missing that the API itself announces, or it announces more than any run may have."""

    patience = "tries"


class RepeatedPage(Problem):
    """A page with the very rows of the page before, or a cursor that leads to itself."""

    patience = "tries"
