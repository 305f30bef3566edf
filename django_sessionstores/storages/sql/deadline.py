"""A limit for how long a storage waits for the answer of a database, with any client library.

libpq does not limit that time, and the clients of MySQL only do if the project says so. A limit of
the server, such as ``statement_timeout``, does not help while the server hangs, and the operating
system of the server continues to acknowledge packets. So one thread of the process watches the
running statements. It shuts down the socket of a connection whose server is late, and the client
reports a lost connection, as it would if the server had stopped.

Rejected alternatives: options of the socket, because libpq polls, and no option limits that;
psycopg's own ``wait`` with a timeout, because it is not public, is one client of several, and
belongs to a connection of the project; a cancel request, because only a running server can process
it; and a signal, because only the main thread gets it.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from math import inf
from threading import Event, Lock, Thread, local
from time import monotonic
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Protocol

from django.db import Error

from ...conf import NAME, settings
from ...exceptions import StorageUnavailable
from ..breaker import Breaker
from ..outage_log import OutageLog
from .connection_errors import connection_error, handshake_error
from .liveness import Socket, has_pool, may_be_closed, owner_of, renew, socket_of
from .lost_races import is_answer, summary_of

if TYPE_CHECKING:
    from django.db.backends.base.base import BaseDatabaseWrapper
    from django.db.backends.utils import CursorWrapper


class _Breakers(dict[tuple[str, Any, Any], Breaker]):
    """The breaker of each database, by its alias and its address, which tests may change."""

    def __missing__(self, key: tuple[str, Any, Any]) -> Breaker:
        log = OutageLog(lambda: f"the database {key[0]!r}")
        return self.setdefault(key, Breaker(log))


_breakers: Final = _Breakers()


def breaker_of(connection: BaseDatabaseWrapper) -> Breaker:
    """Return what this process knows of the server of a database."""
    entry = connection.settings_dict
    return _breakers[connection.alias, entry["HOST"], entry["PORT"]]


class LimitedCursor:
    """A cursor with a limit of time: ``with LimitedCursor(connection) as cursor: ...``.

    If the database does not answer the statements of the block within ``DATABASE_TIMEOUT`` seconds,
    the block ends with `StorageUnavailable`. If Django opens a connection for the cursor, the time
    begins when the connection is open; the client's ``connect_timeout`` limits how long that takes.
    While the database does not answer, most blocks end at once, see `Breaker`.

    ``only_reads`` means that the statements wait for no row. If others are late, another
    transaction may have locked theirs, which must not keep anyone from the rest.

    There is no limit for SQLite, which has its busy timeout, and for clients that do not show their
    socket.
    """

    __slots__ = (
        "_began",
        "_breaker",
        "_connection",
        "_cursor",
        "_lost",
        "_may_wait",
        "_socket",
        "deadline",
        "seconds",
    )

    def __init__(self, connection: BaseDatabaseWrapper, *, only_reads: bool = False) -> None:
        self._connection = connection
        self._may_wait = not only_reads
        self.seconds = 0.0 if connection.vendor == "sqlite" else settings.DATABASE_TIMEOUT
        self._lost: object = None
        """The client's connection whose socket was shut down."""

    # The next methods run for each statement. They make as few calls as possible, which halves
    # their cost.

    def __enter__(self) -> CursorWrapper:
        connection = self._connection
        if not self.seconds:
            renew_if_closed(connection)
            self._cursor = connection.cursor()
            return self._cursor
        # The watcher cannot find the socket, because mysqlclient does not show it while a statement
        # runs. It is found before the cursor is made, because Django may check the health of the
        # connection then.
        self._breaker = breaker_of(connection)
        self._began = self._breaker.begin(may_wait=self._may_wait)
        noted = self._socket = socket_of(connection)
        self.deadline = monotonic() + self.seconds
        _watcher.pending.add(self)
        if self.deadline < _watcher.wakes_at:
            _watcher.wake(self.seconds)
        try:
            if may_be_closed(connection, noted):
                _renew(connection, self.seconds)
            self._cursor = connection.cursor()
        except BaseException as error:
            unopened = handshake_error(connection, error)
            self._leave(unopened or error)
            if unopened is not None:
                raise unopened from None
            raise
        if owner_of(connection) is not noted.owner:
            # Under the lock, so that the watcher does not see the new socket and the old deadline.
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
        """End the wait if the deadline has passed. The watcher calls this under its lock."""
        if self.deadline > monotonic():
            return
        noted = self._socket
        self._start()
        # The connection was opened for the cursor, and Django uses it for its first statements. Its
        # time has only begun.
        if self._socket.owner is not noted.owner:
            return
        lost = self._connection.connection
        if noted.shut_down():
            self._lost = lost

    def _start(self) -> None:
        """Start the time now, for the socket that the connection has now."""
        self._socket = socket_of(self._connection)
        self.deadline = monotonic() + self.seconds

    def _leave(self, error: BaseException | None) -> None:
        _watcher.leave(self)
        # If the connection is another one by now, its errors have another cause.
        was_cut_off = self._lost is not None and self._lost is self._connection.connection
        if error is None:
            self._breaker.answered()
        else:
            if isinstance(error, Error):
                self._note(error, was_cut_off)
            self._breaker.ended(self._began)
        if not was_cut_off:
            return
        # In a transaction, Django closes the connection at the end. It must not be closed earlier:
        # on a new connection, the next statements of the caller would succeed without those before.
        if self._connection.autocommit:
            with suppress(Error):
                self._connection.close()
        if isinstance(error, Error):
            raise StorageUnavailable(self._late()) from error

    def _note(self, error: Error, was_cut_off: bool) -> None:
        """Tell the breaker what an error says about the server."""
        if is_answer(error):
            self._breaker.answered()
        elif unopened := connection_error(self._connection, error):
            # PyMySQL loads certificates before it connects, which takes as long as a slow server.
            # A PostgreSQL that starts up takes its time to say so.
            has_answered = "refused" in str(error) or "FATAL" in str(error)
            began = inf if has_answered else self._began
            self._breaker.failed(began, unopened)
        elif not self._may_wait:
            # The client may have a limit of its own, which is shorter.
            reason = self._late() if was_cut_off else f"{self._database}: {summary_of(error)}."
            self._breaker.failed(self._began, reason)

    def _late(self) -> str:
        return (
            f"{self._database} did not answer within {self.seconds:g} s, the limit that "
            f"{NAME}['DATABASE_TIMEOUT'] sets. Look at the load and the locks of the database, or "
            "raise the limit."
        )

    @property
    def _database(self) -> str:
        return f"The database {self._connection.alias!r} ({self._connection.vendor})"


def renew_if_closed(connection: BaseDatabaseWrapper) -> None:
    """Replace a connection that the server has closed while nothing was asked on it.

    This does not ask the server unless the socket says so. In a transaction, nothing is done.
    """
    if connection.vendor != "sqlite" and may_be_closed(connection, socket_of(connection)):
        _renew(connection, settings.DATABASE_TIMEOUT or inf)


def _renew(connection: BaseDatabaseWrapper, seconds: float) -> None:
    """See `renew_if_closed`. The server has so many seconds for each answer."""
    if has_pool(connection):
        _limit_check_of_pool(connection)
    _opening.deadline = monotonic() + seconds
    try:
        renew(connection, partial(_is_usable, connection, seconds))
    finally:
        _opening.deadline = None


def _is_usable(connection: BaseDatabaseWrapper, seconds: float) -> bool:
    with _Question(socket_of(connection), monotonic() + seconds):
        return bool(connection.is_usable())


class _Opening(local):
    """What a thread does while it gets a connection for this package."""

    deadline: float | None = None
    """When the connections of a pool must have answered."""


_opening: Final = _Opening()


def _limit_check_of_pool(connection: Any) -> None:
    """Limit the time for which a pool waits for a connection that it checks (CONN_HEALTH_CHECKS).

    The pool has no limit for that, and Django accepts no check of the project's. The check of a
    connection that the project gets for itself stays as it is.
    """
    pool = connection.pool
    check = getattr(pool, "_check", None)
    if check is not None and not isinstance(check, _LimitedCheck):
        pool._check = _LimitedCheck(check)


class _LimitedCheck:
    """The check of a pool, with the limit of the thread that waits for it."""

    def __init__(self, check: Callable[[Any], None]) -> None:
        self._check = check

    def __call__(self, driver: Any) -> None:
        if _opening.deadline is None:
            self._check(driver)
            return
        with _Question(Socket.of(driver), _opening.deadline):
            self._check(driver)


class _Question:
    """A context in which a client's connection waits for an answer, until a moment."""

    __slots__ = ("_socket", "deadline")

    def __init__(self, asked: Socket, deadline: float) -> None:
        self._socket = asked
        self.deadline = deadline

    def __enter__(self) -> None:
        _watcher.pending.add(self)
        if self.deadline < _watcher.wakes_at:
            _watcher.wake(self.deadline - monotonic())

    def __exit__(self, *exc_info: object) -> None:
        _watcher.leave(self)

    def cut_off(self) -> None:
        """See `LimitedCursor.cut_off`."""
        if self.deadline <= monotonic():
            self._socket.shut_down()


class _Watched(Protocol):
    """What the watcher watches."""

    deadline: float

    def cut_off(self) -> None: ...


class _Watcher:
    """The cursors of the process that wait for an answer, and the thread that watches their time.

    A cursor adds itself to ``pending`` and removes itself without a lock. It need not wake the
    thread, which sleeps until the earliest possible deadline, ``wakes_at``. Only after some time
    without a cursor, the thread sleeps until it is woken.
    """

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        """Start without cursors and without a thread, as a forked process must.

        It does not have the thread of its parent, nor the statements of its parent's threads.
        """
        self.pending: set[_Watched] = set()
        self.wakes_at = inf
        self.lock = Lock()
        self._woken = Event()
        self._rest = 0.0
        self._thread: Thread | None = None

    def leave(self, cursor: _Watched) -> None:
        """Remove a cursor from ``pending``."""
        try:
            self.pending.remove(cursor)
        except KeyError:
            # The thread has taken it out, and adds it again before it releases the lock.
            with self.lock:
                self.pending.discard(cursor)

    def wake(self, rest: float) -> None:
        """Wake the thread for a deadline in ``rest`` seconds, which is before it would wake."""
        with self.lock:
            self._rest = rest
            if self._thread is None:
                thread = Thread(target=self._watch, name=__name__, daemon=True)
                # While the interpreter shuts down, no thread can start. Sessions are still saved.
                with suppress(RuntimeError):
                    thread.start()
                    self._thread = thread
        self._woken.set()

    def _watch(self) -> None:
        woken = False
        while True:
            self._woken.clear()
            # A cursor that is added while the earliest deadline is computed wakes the thread again.
            self.wakes_at = inf
            now = monotonic()
            for cursor in list(self.pending):
                if cursor.deadline <= now:
                    self._cut_off(cursor)
            deadlines = [cursor.deadline for cursor in list(self.pending)]
            if woken:
                # The statement that woke the thread may have ended already. If the thread slept
                # until it is woken again, each statement would pay for waking it.
                deadlines.append(monotonic() + self._rest)
            self.wakes_at = min(deadlines, default=inf)
            sleep = None if self.wakes_at == inf else max(0.0, self.wakes_at - monotonic())
            woken = self._woken.wait(sleep)

    def _cut_off(self, cursor: _Watched) -> None:
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
