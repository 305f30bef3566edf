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
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from django.db import Error

from ..conf import NAME, settings
from ..exceptions import StorageUnavailable

if TYPE_CHECKING:
    from django.db.backends.base.base import BaseDatabaseWrapper
    from django.db.backends.utils import CursorWrapper


class LimitedCursor:
    """``with LimitedCursor(connection) as cursor: ...``, for the statements of one question.

    Where the database does not answer within ``DATABASE_TIMEOUT`` seconds, the block ends with
    `StorageUnavailable`. Where Django opens a connection for the cursor, the time runs from when it
    is there. To open one is up to the client and its ``connect_timeout``.

    The limit is none for SQLite, which has its busy timeout, and for clients that do not tell
    their socket.
    """

    __slots__ = ("_connection", "_cursor", "_lost", "_socket", "deadline", "seconds")

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
        noted = self._socket = _socket_of(connection)
        self.deadline = monotonic() + self.seconds
        _watcher.pending.add(self)
        if self.deadline < _watcher.wakes_at:
            _watcher.wake(self.seconds)
        try:
            self._cursor = connection.cursor()
        except BaseException as error:
            self._leave(error)
            raise
        if _owner_of(connection) is not noted.owner:
            # Not while the watcher looks, which would find the new socket and the old deadline.
            with _watcher.lock:
                self._start()
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
        """End the wait, if the deadline has passed. Called by the watcher, which holds the lock."""
        if self.deadline > monotonic():
            return
        noted = self._socket
        self._start()
        # Opened for the cursor, and in use for Django's first questions: that has not had its time.
        if self._socket.owner is not noted.owner:
            return
        with suppress(OSError):
            # A copy, as the client may close its own meanwhile. It may have done so before: then
            # the number is that of somebody else's socket, or file.
            copy = socket.dup(noted.number)
            if _identity(copy) != noted.identity:
                socket.close(copy)
                return
            with socket.socket(fileno=copy) as opened:
                self._lost = self._connection.connection
                opened.shutdown(socket.SHUT_RDWR)

    def _start(self) -> None:
        """Let the time run from now, on the socket there is now."""
        self._socket = _socket_of(self._connection)
        self.deadline = monotonic() + self.seconds

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


class _Socket(NamedTuple):
    """The socket of a client's connection, as it was found when that was new."""

    owner: Any
    """Another one means another socket."""
    number: int
    """Of the descriptor; -1 where the client tells none."""
    identity: tuple[int, int] | None


_NOTED: Final = "_django_sessionstores_socket"
"""The attribute of Django's connection that keeps its `_Socket`: to find it out at each statement
would cost as much as all the rest."""


def _socket_of(connection: BaseDatabaseWrapper) -> _Socket:
    owner = _owner_of(connection)
    noted: _Socket | None = getattr(connection, _NOTED, None)
    if noted is None or noted.owner is not owner:
        try:
            number = int(owner.fileno())
        except Exception:  # noqa: BLE001 - clients raise what they like
            number = -1
        noted = _Socket(owner, number, _identity(number))
        setattr(connection, _NOTED, noted)
    return noted


def _owner_of(connection: BaseDatabaseWrapper) -> Any:
    driver = connection.connection  # psycopg, psycopg2, mysqlclient
    return getattr(driver, "_sock", driver)  # PyMySQL, whose connection may open another socket


def _identity(number: int) -> tuple[int, int] | None:
    """What no two sockets have in common; None on Windows, where a socket is no file."""
    try:
        status = os.fstat(number)
    except OSError:
        return None
    return status.st_dev, status.st_ino


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
        self.lock = Lock()
        self._woken = Event()
        self._rest = 0.0
        self._thread: Thread | None = None

    def take_back(self, cursor: LimitedCursor) -> None:
        """For who does not find its cursor among the pending: the thread has it, until it gives
        the lock back."""
        with self.lock:
            self.pending.discard(cursor)

    def wake(self, rest: float) -> None:
        """Something will be due before the thread wakes, and in ``rest`` seconds at the latest."""
        with self.lock:
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
        with self.lock:
            try:
                self.pending.remove(cursor)
            except KeyError:
                return  # The answer came just in time.
            cursor.cut_off()
            self.pending.add(cursor)


_watcher: Final = _Watcher()

if hasattr(os, "register_at_fork"):  # Not on Windows, where nothing forks.
    os.register_at_fork(after_in_child=_watcher.forget)
