"""Rollback: the states and the data to return to if the caller's transaction is rolled back."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any, Final, NamedTuple

from ..conf import codec, merge_functions
from ..payloads.codec import Snapshot
from ..payloads.merge import merge
from . import drafting
from .state import State

HasCommitted = Callable[[], bool | None]
"""Tells whether a transaction has committed, see `Storage.after_commit`."""


def _report_open() -> None:
    """Return ``None``, which means that the transaction is still open."""


class Merge(NamedTuple):
    """The data at hand before and after a write merged it with what others had saved."""

    before: Snapshot
    after: Snapshot

    def undo(self, data: dict[str, Any]) -> dict[str, Any]:
        """Return the data at hand without what others had saved, and with the changes since."""
        base, before = drafting.data_of(self.after), drafting.data_of(self.before)
        try:
            return merge(base, data, before, merge_functions(), codec().is_same)
        except Exception:  # noqa: BLE001 - of the project, and a rollback must not fail
            return merge(base, data, before, is_same=codec().is_same)


class ProvisionalWrite:
    """A write that may be rolled back: what the object knew before it."""

    __slots__ = ("before", "has_committed", "merge")

    def __init__(self, before: State, merge: Merge | None = None) -> None:
        self.before: Final = before
        self.merge: Final = merge
        """``None`` if the write has not changed the data at hand."""
        self.has_committed: HasCommitted = _report_open


class ProvisionalStates(list[ProvisionalWrite]):
    """The states of an object before each write in a transaction that is still open.

    Django has no signal for a rollback. So the object looks for one whenever it reads its state.
    Nearly always this list is empty then.
    """

    __slots__ = ()

    @contextmanager
    def note_write(self, before: State, merge: Merge | None = None) -> Generator[ProvisionalWrite]:
        """Note the state before a write. The block must set the note's ``has_committed``."""
        note = ProvisionalWrite(before, merge)
        self.append(note)
        try:
            yield note
        except BaseException:
            # Without it, the write counts as rolled back.
            note.has_committed = lambda: False
            raise

    def settle(self) -> list[ProvisionalWrite]:
        """Forget the writes that were committed; return those that were rolled back."""
        # A rollback to a savepoint undoes the last writes. So if the last one is still open, then
        # all of them are.
        if self and self[-1].has_committed() is None:
            return []
        waiting: list[ProvisionalWrite] = []
        for place, note in enumerate(self):
            has_committed = note.has_committed()
            if has_committed is False:
                undone = self[place:]
                self[:] = waiting
                return undone
            if has_committed is None:
                waiting.append(note)
        self[:] = waiting
        return []
