"""The error tree of everything a user can get wrong or a machine can refuse.

AdvisorError
 +- InputError         a file, value or option that cannot be used (CLI: exit 2)
 |   +- PlanError      a set of values that cannot run together
 |   +- UnknownNameError   a name that is not in a table; carries the nearest ones
 +- SimulationError    the question is right, the answer is "unknown" (never a guess)
 +- WorkerError        the worker process died or did not answer in time

Messages say what, got what, do what, in that order. `str(error)` is the sentence that is shown.
"""


class AdvisorError(Exception):
    """Base of the tree; catch it at the edge (CLI, UI) and show its sentence."""

    def __init__(self, message: str, *, field: str | None = None) -> None:
        super().__init__(message)
        self.field = field
        """Name of the plan field or option the message belongs beside, or None."""


class InputError(AdvisorError):
    """A file, value or option of the user's cannot be used."""


class PlanError(InputError):
    """Values that are each valid cannot run together."""


class UnknownNameError(InputError):
    """A name that a table does not hold."""

    def __init__(
        self, message: str, *, nearest: tuple[str, ...] = (), field: str | None = None
    ) -> None:
        super().__init__(message, field=field)
        self.nearest = nearest
        """The closest names the table does hold, best first."""


class SimulationError(AdvisorError):
    """The simulator cannot answer this question exactly; the reason is the message."""


class WorkerError(AdvisorError):
    """The worker process died or did not answer in time."""
