"""Transactions of the caller on a Django connection, also those that ``atomic()`` did not open.

The only place that touches what Django keeps to itself: ``run_on_commit``, ``savepoint_ids``,
``savepoint_state`` and ``commit_on_exit`` of ``BaseDatabaseWrapper``, read in Django 5.2, 6.0 and
6.1. Tests notice when Django changes them.
"""

from __future__ import annotations

import logging
from _thread import get_ident
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final, cast
from weakref import ref

from django.db import transaction

if TYPE_CHECKING:
    from django.db.backends.base.base import BaseDatabaseWrapper


logger: Final = logging.getLogger("django_sessionstores")


def is_open(connection: BaseDatabaseWrapper) -> bool:
    """Return whether what was just written is still the caller's to commit or roll back."""
    if _has_transactions_of_its_own(connection):
        return False
    # A connection that is not open has written nothing, and its ``autocommit`` says nothing yet.
    is_manual = connection.connection is not None and not connection.autocommit
    return bool(connection.in_atomic_block or is_manual)


def _has_transactions_of_its_own(connection: BaseDatabaseWrapper) -> bool:
    """Return whether ``atomic()`` of Django is not a transaction, and no callback waits for it.

    This is so with django-mongodb-backend, whose ``on_commit()`` knows when to call.
    """
    return connection.vendor == "mongodb"


def after_commit(
    connection: BaseDatabaseWrapper, action: Callable[[], object]
) -> Callable[[], bool | None]:
    """Call ``action`` when the transaction commits that `is_open`; at once if none is.

    Return a function that tells whether the transaction has committed: ``None`` while it is open,
    ``False`` after a rollback, also one to a savepoint from before this call.

    ``transaction.on_commit()`` does not do for two cases. With autocommit off it raises an error.
    And it does not know savepoints that were made by ``transaction.savepoint()``.
    """
    hook = _Hook(connection, action)
    if is_open(connection):
        _watch_of(connection)
        hook.enlist(connection)
    else:
        transaction.on_commit(hook, using=connection.alias)
    return hook.has_committed


def after_rollback(connection: BaseDatabaseWrapper, action: Callable[[], object]) -> None:
    """Call ``action`` if what was just written is rolled back, when the transaction is over.

    Only if it `is_open`. The action runs in autocommit. If the connection was lost, it runs after
    the next transaction of the same thread.
    """
    hook = _Hook(connection, lambda: None)
    _watch_of(connection).undoing.append((hook, action))
    hook.enlist(connection)


class _Hook:
    """A callback in Django's list of those that wait for the commit.

    Django takes it out of the list when the transaction, or a savepoint, is rolled back. So a
    rollback, of which Django has no signal, is seen by looking into the list.
    """

    __slots__ = ("_action", "_connection", "_place", "is_committed", "is_manual")

    def __init__(self, connection: BaseDatabaseWrapper, action: Callable[[], object]) -> None:
        self._action = action
        # Sessions outlive connections, and must not keep them.
        self._connection = ref(connection)
        self._place = 0
        self.is_committed = False
        # In such a transaction, Django leaves the commit to the caller, and calls no hook after it.
        self.is_manual = not (connection.in_atomic_block and connection.commit_on_exit)

    def __call__(self) -> None:
        self.is_committed = True
        self._action()

    def enlist(self, connection: BaseDatabaseWrapper) -> None:
        hooks: list[Any] = connection.run_on_commit
        self._place = len(hooks)
        # Savepoints, the callback, and whether its errors are only logged.
        hooks.append((_Savepoints(connection), self, False))

    def has_committed(self) -> bool | None:
        if self.is_committed:
            return True
        connection = self._connection()
        if connection is not None and self._is_listed(connection.run_on_commit):
            return None
        # Another thread may have committed since the first look.
        return self.is_committed

    def _is_listed(self, hooks: list[Any]) -> bool:
        """Return whether the hook is in Django's list, from which others before it may be gone."""
        # In another thread, the list may become empty at any moment.
        if any(hook is self for _, hook, _ in hooks[self._place : self._place + 1]):
            return True
        for place, (_, hook, _) in enumerate(hooks[: self._place]):
            if hook is self:
                self._place = place
                return True
        return False


class _Savepoints(set[str]):
    """The savepoints whose rollback undoes the writes from before this object was made.

    Those of ``atomic()`` are listed. ``transaction.savepoint()`` lists its own nowhere, but counts
    them: each one from before may still be open, and one that is not cannot be rolled back.
    """

    def __init__(self, connection: BaseDatabaseWrapper) -> None:
        super().__init__(connection.savepoint_ids)
        self._prefix = f"s{str(get_ident()).replace('-', '')}_x"
        self._last = connection.savepoint_state

    def __contains__(self, savepoint: object) -> bool:
        if super().__contains__(savepoint):
            return True
        prefix, _, number = str(savepoint).rpartition("_x")
        return f"{prefix}_x" == self._prefix and number.isdecimal() and int(number) <= self._last


class _Watch:
    """Takes the place of ``commit()`` and ``rollback()`` of a connection, from the first
    transaction on that matters.

    Django calls the hooks of a commit only when autocommit is turned on again. With
    ``atomic()`` that is right after the commit; if one of the callbacks raises an error, those
    after it are never called. So those of this package are called first: after an error of the
    project, sessions that had to end would stay. In manual transactions it may be never, and a
    rollback of the next transaction makes Django forget them.
    """

    def __init__(self, connection: BaseDatabaseWrapper) -> None:
        # Kept by the connection, and must not keep it.
        self._connection = ref(connection)
        self._replaced = {name: vars(connection).get(name) for name in ("commit", "rollback")}
        self.undoing: list[tuple[_Hook, Callable[[], object]]] = []
        """What to call for each hook that a rollback drops."""

    def commit(self) -> None:
        connection = self._call("commit")
        waiting: list[Any] = connection.run_on_commit
        hooks = [hook for _, hook, _ in waiting if isinstance(hook, _Hook)]
        for hook in hooks:
            hook.is_committed = True
        waiting.sort(key=lambda each: not isinstance(each[1], _Hook))
        if any(hook.is_manual for hook in hooks):
            # Django calls the hooks. What they write must not wait for another commit.
            with _autocommit(connection):
                pass
        self._undo(connection)

    def rollback(self) -> None:
        self._undo(self._call("rollback"))

    def _call(self, name: str) -> BaseDatabaseWrapper:
        connection = cast("BaseDatabaseWrapper", self._connection())
        replaced = self._replaced[name]
        if replaced is not None:
            replaced()
        else:
            getattr(type(connection), name)(connection)
        return connection

    def _undo(self, connection: BaseDatabaseWrapper) -> None:
        """Call the actions for a rollback, also for a rollback to a savepoint."""
        if not self.undoing:
            return
        undoing, self.undoing = self.undoing, []
        actions = [action for hook, action in undoing if hook.has_committed() is False]
        if not actions:
            return
        try:
            with _autocommit(connection):
                for action in actions:
                    action()
        except Exception as error:  # noqa: BLE001 - the caller's own error must not be replaced.
            logger.error(  # noqa: TRY400 - the error says it; a traceback adds frames with secrets.
                "What was to follow the rollback of a transaction of the database %r failed: %s",
                connection.alias,
                error,
            )


def _watch_of(connection: BaseDatabaseWrapper) -> _Watch:
    watch = getattr(vars(connection).get("commit"), "__self__", None)
    if not isinstance(watch, _Watch):
        watch = _Watch(connection)
        connection.commit = watch.commit  # type: ignore[method-assign]
        connection.rollback = watch.rollback  # type: ignore[method-assign]
    return watch


@contextmanager
def _autocommit(connection: BaseDatabaseWrapper) -> Generator[None]:
    try:
        connection.set_autocommit(True)
        yield
    finally:
        connection.set_autocommit(False)
