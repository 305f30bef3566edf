"""Rollback: the states to return to if the caller's transaction is rolled back."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Final

from .state import State

HasCommitted = Callable[[], bool | None]
"""Tells whether a transaction has committed, see `Storage.after_commit`."""


def _report_open() -> None:
    """Return ``None``, which means that the transaction is still open."""


class _Note:
    __slots__ = ("before", "has_committed")

    def __init__(self, before: State) -> None:
        self.before: Final = before
        self.has_committed: HasCommitted = _report_open


class ProvisionalStates(list[_Note]):
    """The states of an object before each write in a transaction that is still open.

    Django has no signal for a rollback. So the object looks for one whenever it reads its state.
    Nearly always this list is empty then.
    """

    __slots__ = ()

    @contextmanager
    def note_write(self, before: State) -> Generator[_Note]:
        """Note the state before a write. The block must set the note's ``has_committed``."""
        note = _Note(before)
        self.append(note)
        try:
            yield note
        except BaseException:
            # Without it, the write counts as rolled back.
            note.has_committed = lambda: False
            raise

    def settle(self) -> list[State]:
        """Forget the writes that were committed; return the state before each write that was
        rolled back."""
        # A rollback to a savepoint undoes the last writes. So if the last one is still open, then
        # all of them are.
        if self and self[-1].has_committed() is None:
            return []
        waiting: list[_Note] = []
        for place, note in enumerate(self):
            has_committed = note.has_committed()
            if has_committed is False:
                undone = [each.before for each in self[place:]]
                self[:] = waiting
                return undone
            if has_committed is None:
                waiting.append(note)
        self[:] = waiting
        return []
