"""Questions that are asked at the same time, each in a thread of its own, with a limit of time."""

from __future__ import annotations

import contextvars
from collections.abc import Callable
from concurrent.futures import Future, wait
from functools import partial
from threading import Thread
from time import monotonic
from types import TracebackType
from typing import Any, Self, TypeVar

from django.db import connections
from django.utils.translation import get_language, override

T = TypeVar("T")


class Tasks:
    """Threads whose results are awaited for ``seconds`` at most: ``with Tasks(20) as tasks: ...``.

    The process can end while a store keeps one of them waiting, which it cannot with the threads
    of an executor.

    They use the database connections of the thread that starts them: a transaction may be open on
    one, and one may be that of a tenant. So no two tasks may ask the same database, and the thread
    that waits for them must not ask one either.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._until = monotonic() + seconds
        self._shared = connections.all(initialized_only=True)
        self._language = get_language()
        self._asked: list[tuple[Future[Any], str]] = []

    def __enter__(self) -> Self:
        for each in self._shared:
            each.inc_thread_sharing()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for each in self._shared:
            each.dec_thread_sharing()
        for future, alias in self._asked:
            # A thread still waits for an answer on this connection. Django opens another one, on
            # which the statements of a transaction would not be.
            if not future.done() and not connections[alias].in_atomic_block:
                del connections[alias]

    def start(self, task: Callable[[], T], *, database: str | None = None) -> Future[T]:
        """Begin a task, and return the future of its result.

        ``database`` is the alias of the database that the task asks. A task can start others.
        """
        future = Future[T]()
        if database is not None:
            self._asked.append((future, database))
        # With what the project keeps in variables of the context, such as the tenant.
        run = partial(contextvars.copy_context().run, self._run, task, future)
        Thread(target=run, name=__name__, daemon=True).start()
        return future

    def result(self, future: Future[T], *, margin: float = 0.0) -> T | None:
        """Return the result of a task, or ``None`` if there is none in time.

        ``margin`` is how many seconds earlier to give up, in a task that must be done in time
        itself.
        """
        wait([future], max(0.0, self._until - margin - monotonic()))
        return future.result() if future.done() else None

    def _run(self, task: Callable[[], T], future: Future[T]) -> None:
        for each in self._shared:
            connections[each.alias] = each
        try:
            with override(self._language):
                result = task()
        except BaseException as error:  # noqa: BLE001 - it is raised by who asks for the result
            self._close_own()
            future.set_exception(error)
        else:
            self._close_own()
            future.set_result(result)

    def _close_own(self) -> None:
        """Close the connections that belong to this thread."""
        for each in connections.all(initialized_only=True):
            if each not in self._shared:
                each.close()
