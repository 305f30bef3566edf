"""A case: one promise, and the function that finds out whether a session backend keeps it."""

from __future__ import annotations

import enum
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from .trial import Trial

Check = Callable[["Trial"], None]


class Need(enum.Enum):
    """What a case needs of a backend or a project. `Backend.lack` says whether it is missing."""

    ENDS = "ends"
    """The backend can end a session, which one that keeps all data in the key cannot."""
    USERS = "users"
    """The project has users that the command can create."""
    CLOCK = "clock"
    """The command can move the clock of the store."""
    TRANSACTIONS = "transactions"
    """The backend stores sessions in a database."""


class Failed(Exception):
    """The backend does not keep the promise. The message says what was seen, without secrets."""


class DoesNotApply(Exception):
    """The backend cannot be held to the case. The message is the reason."""


@dataclass(frozen=True)
class Case:
    """A named case."""

    name: str
    """The stable name of the case, by which results are compared."""
    promise: int
    """The number of the promise in the package's documentation."""
    meaning: str
    """What is promised, in one sentence."""
    subject: str
    """The name of the module of the case."""
    needs: tuple[Need, ...]
    check: Check


CASES: Final[dict[str, Case]] = {}
"""All cases by name, in the order of their modules."""


def case(promise: int, *needs: Need) -> Callable[[Check], Check]:
    """Add a function to `CASES`: its name is the name of the case, its docstring the promise."""

    def add(check: Check) -> Check:
        name = check.__name__.replace("_", "-")
        if name in CASES:
            raise ValueError(f"There are two cases with the name {name!r}")
        meaning = " ".join((inspect.getdoc(check) or "").split())
        subject = check.__module__.rpartition(".")[2]
        CASES[name] = Case(name, promise, meaning, subject, needs, check)
        return check

    return add


def expect(condition: object, seen: str) -> None:
    """Fail the case unless the condition is true. ``seen`` says what the backend did instead."""
    if not condition:
        raise Failed(seen)
