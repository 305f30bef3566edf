"""A storage of data and a registry, of which only the registry may be in a transaction."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final

from ...core.flow import Call, Flow, run
from ...core.records import Record
from ...exceptions import StorageUnavailable
from ..base import Storage

logger: Final = logging.getLogger("django_sessionstores")


class Pair:
    """The storage of the data and the registry.

    The registry may be in a transaction of which the data is not a part. A write of data that a
    rollback could not undo then waits for the commit.
    """

    def __init__(self, data: Storage, registry: Storage) -> None:
        self._data = data
        self._registry = registry

    def _is_ahead(self) -> Flow[bool]:
        """Return whether data is written at once, but an entry may still be rolled back."""
        if not (yield Call(self._registry, "in_transaction", ())):
            return False
        is_behind: bool = yield Call(self._data, "in_transaction", ())
        return not is_behind

    def _call_after_commit(self, name: str, subject: Record | str, *args: Any) -> Flow[None]:
        """Call a method of the data's storage when the transaction of the registry commits."""
        session_id = subject if isinstance(subject, str) else subject.id
        yield from self._run_after_commit(
            session_id, lambda: call_of(self._data, name, subject, *args)
        )

    def _run_after_commit(self, session_id: str, step: Callable[[], Flow[object]]) -> Flow[None]:
        """Run a flow when the transaction of the registry commits."""

        def take() -> None:
            # Nothing can be undone any more, and an error would skip the hooks that the project has
            # for the same commit. Without its entry, the data counts for nothing.
            try:
                with suppress(StorageUnavailable):
                    run(step())
            except Exception as error:  # noqa: BLE001 - whatever it is
                logger.warning(
                    "Session %s: its data was not brought up to date after a commit (%s).",
                    session_id,
                    type(error).__name__,
                )

        yield Call(self._registry, "after_commit", (take,))


def call_of(storage: Storage, name: str, *args: Any) -> Flow[object]:
    """Call a method of a storage; return its result."""
    return (yield Call(storage, name, args))
