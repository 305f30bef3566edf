"""How long the statements of a storage wait for a database, whatever its client would.

libpq has no limit for an answer, the clients of MySQL only where the project sets one. A limit of
the server's, such as ``statement_timeout``, is none while the server hangs, and TCP goes on
acknowledging what nobody reads. So one thread of the process watches the statements under way. It
shuts the socket of a connection whose server is late, and the client reports that as a lost
connection, as it would if the server had gone.

Tried or read, and left alone: options of the socket (libpq polls, and no option bounds that),
psycopg's own ``wait`` with a timeout (not public, one client of several, and the connection is
the project's), a cancel request (only a server that runs can hear it), and a signal (only the
main thread gets one).
"""

from __future__ import annotations

import os
import socket
from contextlib import suppress
from math import inf
from threading import Event, Lock, Thread
from time import monotonic
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final

from django.db import Error

from ..conf import NAME, settings
from ..exceptions import StorageUnavailable

if TYPE_CHECKING:
    from django.db.backends.base.base import BaseDatabaseWrapper
    from django.db.backends.utils import CursorWrapper


class LimitedCursor:
    """``with LimitedCursor(connection) as cursor: ...``, for the statements of one question.

    Where the database does not answer within ``DATABASE_TIMEOUT`` seconds, the block ends with
    `StorageUnavailable`. The time runs anew when Django, having found a connection broken, opens
    another for the cursor. To open one is up to the client and its ``connect_timeout``.

    The limit is none for SQLite, which has its busy timeout, and for clients that do not tell
    their socket.
    """

    __slots__ = ("_connection", "_cursor", "_driver", "_lost", "_socket", "deadline", "seconds")

    def __init__(self, connection: BaseDatabaseWrapper) -> None:
        self._connection = connection
        self.seconds = 0.0 if connection.vendor == "sqlite" else settings.DATABASE_TIMEOUT
        self._lost: object = None
        """The client's connection whose socket was shut."""

    # Run by each statement: what can be done without another call is, which halves the cost.

    def __enter__(self) -> CursorWrapper:
        connection = self._connection
        if not self.seconds:
            self._cursor = connection.cursor()
            return self._cursor
        # Not left to the watcher: mysqlclient tells nobody while a statement runs. And already
        # here, as Django may ask a connection for its health before it gives a cursor.
        driver = self._driver = connection.connection
        self._socket = _socket_of(driver)
        self.deadline = monotonic() + self.seconds
        _watcher.pending.add(self)
        if self.deadline < _watcher.wakes_at:
            _watcher.wake(self.seconds)
        try:
            self._cursor = connection.cursor()
        except BaseException as error:
            self._leave(error)
            raise
        if connection.connection is not driver:
            driver = connection.connection
            self._socket = _socket_of(driver)
            self._driver = driver
        return self._cursor

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            self._cursor.__exit__(kind, error, traceback)
        finally:
            if self.seconds:
                self._leave(error)

    def cut_off(self) -> None:
        """The deadline has passed. Called by the watcher, which holds the lock."""
        self.deadline = monotonic() + self.seconds
        # Another where Django has just opened one and asks the first questions on it, or none where
        # it is about to: the number noted may by now be that of somebody else's socket.
        driver = self._connection.connection
        number = self._socket if driver is self._driver else _socket_of(driver)
        # A copy, as the client may close its own meanwhile.
        with suppress(OSError), socket.socket(fileno=socket.dup(number)) as copy:
            self._lost = driver
            copy.shutdown(socket.SHUT_RDWR)

    def _leave(self, error: BaseException | None) -> None:
        try:
            _watcher.pending.remove(self)
        except KeyError:
            _watcher.take_back(self)
        # Another connection by now: what happened on that has nothing to do with this.
        if self._lost is None or self._lost is not self._connection.connection:
            return
        # In a transaction Django drops it at the end. On a new connection, what the caller does
        # next would succeed without what it did before.
        if self._connection.autocommit:
            with suppress(Error):
                self._connection.close()
        if isinstance(error, Error):
            raise StorageUnavailable(
                f"The database {self._connection.alias!r} ({self._connection.vendor}) did not "
                f"answer within {self.seconds:g} s, the limit that {NAME}['DATABASE_TIMEOUT'] sets."
            ) from error


def _socket_of(driver: Any) -> int:
    """The descriptor of the socket of a client's connection; -1 where it has none or is closed."""
    try:
        return int(driver.fileno())  # psycopg, psycopg2, mysqlclient
    except AttributeError:
        sock = getattr(driver, "_sock", None)  # PyMySQL
        return -1 if sock is None else int(sock.fileno())
    except Exception:  # noqa: BLE001 - clients raise what they like
        return -1


class _Watcher:
    """The cursors of the process that wait for an answer, and the thread that minds the time.

    A cursor adds itself to ``pending`` and removes itself without a lock. It does not wake the
    thread either, which sleeps until the earliest deadline there can be, ``wakes_at``. Only after
    a while with no cursor it sleeps until woken.
    """

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        """Start anew, as a forked child must: it has not the thread, and what its parent's other
        threads wait for is not its own."""
        self.pending: set[LimitedCursor] = set()
        self.wakes_at = inf
        self._lock = Lock()
        self._woken = Event()
        self._rest = 0.0
        self._thread: Thread | None = None

    def take_back(self, cursor: LimitedCursor) -> None:
        """For who does not find its cursor among the pending: the thread has it, until it gives
        the lock back."""
        with self._lock:
            self.pending.discard(cursor)

    def wake(self, rest: float) -> None:
        """Something will be due before the thread wakes, and in ``rest`` seconds at the latest."""
        with self._lock:
            self._rest = rest
            if self._thread is None:
                thread = Thread(target=self._watch, name=__name__, daemon=True)
                # While the interpreter shuts down there are no new threads. Sessions are saved
                # all the same.
                with suppress(RuntimeError):
                    thread.start()
                    self._thread = thread
        self._woken.set()

    def _watch(self) -> None:
        woken = False
        while True:
            self._woken.clear()
            # Who is added while this looks for the earliest is not overlooked: it wakes us again.
            self.wakes_at = inf
            now = monotonic()
            for cursor in list(self.pending):
                if cursor.deadline <= now:
                    self._cut_off(cursor)
            deadlines = [cursor.deadline for cursor in list(self.pending)]
            if woken:
                # Who woke us may be gone already. To sleep at once until the next one does so
                # would have each statement pay for waking us.
                deadlines.append(monotonic() + self._rest)
            self.wakes_at = min(deadlines, default=inf)
            sleep = None if self.wakes_at == inf else max(0.0, self.wakes_at - monotonic())
            woken = self._woken.wait(sleep)

    def _cut_off(self, cursor: LimitedCursor) -> None:
        with self._lock:
            try:
                self.pending.remove(cursor)
            except KeyError:
                return  # The answer came just in time.
            cursor.cut_off()
            self.pending.add(cursor)


_watcher: Final = _Watcher()

if hasattr(os, "register_at_fork"):  # Not on Windows, where nothing forks.
    os.register_at_fork(after_in_child=_watcher.forget)
