"""A database that hangs is waited for so long and no longer; one that answers is never cut off.

The mechanics run on a pair of sockets, whose other end answers when the test lets it. What real
clients make of a socket that is shut is tested on the servers, and in the tests of outages.
"""

import itertools
import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from time import monotonic
from types import SimpleNamespace
from typing import Any, ClassVar, NoReturn

import pytest
from django.db import (
    Error,
    IntegrityError,
    OperationalError,
    close_old_connections,
    connections,
    transaction,
)
from django.test import override_settings

from django_sessionstores.core import clock
from django_sessionstores.exceptions import StorageUnavailable
from django_sessionstores.storages.breaker import Breaker
from django_sessionstores.storages.outage_log import OutageLog
from django_sessionstores.storages.sql import deadline, liveness
from django_sessionstores.storages.sql.deadline import LimitedCursor
from django_sessionstores.storages.sql.rows import key_of
from tests.cases import Engine
from tests.services import wait_until
from tests.storages.sql.test_storage import NOW, a_record, next_version, other_connection, stored

TIMEOUT = 0.3
on_servers = pytest.mark.engines("db:postgresql", "db:mariadb")


@pytest.fixture(autouse=True)
def _impatient() -> Iterator[None]:
    with override_settings(SESSIONSTORES={"DATABASE_TIMEOUT": TIMEOUT}):
        yield


class Line:
    """What `LimitedCursor` uses of Django's connection, over a pair of sockets."""

    vendor = "postgresql"
    alias = "sessions"
    settings_dict: ClassVar = {"HOST": "", "PORT": ""}

    def __init__(self) -> None:
        self.connection: Any
        self.connection, self.server = socket.socketpair()
        # What hangs for ever fails in the end.
        self.connection.settimeout(20)
        self.autocommit = True
        self.in_atomic_block = self.errors_occurred = False
        self.closed = 0

    def cursor(self) -> Any:
        return self

    def __exit__(self, *exc_info: object) -> None:
        pass

    def execute(self) -> bytes:
        if answer := self.connection.recv(100):
            return bytes(answer)
        raise OperationalError("server closed the connection unexpectedly")

    def is_usable(self) -> bool:
        return True  # What it has to say before it is asked is the answer of a test.

    def close(self) -> None:
        self.closed += 1


@pytest.fixture
def line() -> Iterator[Line]:
    line = Line()
    connection = line.connection
    yield line
    connection.close()
    line.server.close()


def ask(line: Any) -> bytes:
    with LimitedCursor(line) as cursor:
        return bytes(cursor.execute())  # type: ignore[attr-defined]


def is_open(line: Line) -> bool:
    line.server.send(b"still there")
    return bool(line.execute() == b"still there")


def time_is_up(cursor: LimitedCursor) -> None:
    """Let the watcher find that the deadline has passed, or that the cursor is closed."""
    cursor.deadline = 0
    deadline._watcher._cut_off(cursor)


# Too late -----------------------------------------------------------------------------------------


def test_no_answer_is_an_outage(line: Line) -> None:
    """The request ends, and whoever reads the error learns which setting it was."""
    with pytest.raises(StorageUnavailable, match=r"0\.3 s.*DATABASE_TIMEOUT"):
        ask(line)


def test_a_connection_that_was_cut_off_is_dropped(line: Line) -> None:
    """Kept, it would fail the next statement, too: in tests and commands nothing else drops it."""
    with pytest.raises(StorageUnavailable):
        ask(line)
    assert line.closed == 1


def test_in_a_transaction_the_connection_is_left_to_django(line: Line) -> None:
    """On a new one, the rest of the transaction would succeed without its beginning."""
    line.autocommit = False
    with pytest.raises(StorageUnavailable):
        ask(line)
    assert line.closed == 0


def test_an_answer_that_came_while_it_was_cut_off_counts(line: Line) -> None:
    """The write was done: to report it as failed would be as wrong as the opposite."""
    cursor = LimitedCursor(line)  # type: ignore[arg-type]
    line.server.send(b"done")
    with cursor:
        time_is_up(cursor)
        assert line.execute() == b"done"
    assert line.closed == 1


def test_an_error_that_is_not_the_databases_passes(line: Line) -> None:
    """A task that is cancelled, or an interrupt, must not turn into an outage."""
    cursor = LimitedCursor(line)  # type: ignore[arg-type]

    def interrupt() -> bytes:
        time_is_up(cursor)
        raise KeyboardInterrupt

    line.execute = interrupt  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt), cursor:
        line.execute()


def test_several_wait_at_once_each_its_own_time() -> None:
    """One server that hangs must not use up the time of the others."""
    lines = [Line() for _ in range(5)]
    outcomes: list[str] = []

    def run(line: Line) -> None:
        try:
            outcomes.append(ask(line).decode())
        except StorageUnavailable:
            outcomes.append("cut off")

    threads = [threading.Thread(target=run, args=[line]) for line in lines]
    for thread in threads:
        thread.start()
    lines[0].server.send(b"answer")
    for thread in threads:
        thread.join(20)
    assert sorted(outcomes) == ["answer"] + ["cut off"] * 4


# What the breaker learns -------------------------------------------------------------------------


_seconds = itertools.count(1)
"""A clock by which each call takes a second."""


@pytest.fixture
def breaker(line: Line, monkeypatch: pytest.MonkeyPatch) -> Breaker:
    breaker = Breaker(OutageLog(lambda: "the server"))
    monkeypatch.setitem(deadline._breakers, (line.alias, "", ""), breaker)
    return breaker


def end_slowly(line: Line, error: Exception, *, only_reads: bool = True) -> None:
    """Run a statement that ends in an error after a second."""

    def execute() -> NoReturn:
        raise error

    cursor = LimitedCursor(line, only_reads=only_reads)  # type: ignore[arg-type]
    with clock.use(monotonic=partial(next, _seconds)), pytest.raises(type(error)), cursor:
        execute()


def test_a_limit_of_the_client_counts_like_that_of_the_package(
    line: Line, breaker: Breaker
) -> None:
    """Whichever is shorter ends the wait."""
    end_slowly(line, OperationalError("timed out"), only_reads=False)
    assert not breaker.is_open
    end_slowly(line, OperationalError("timed out"))
    assert breaker.is_open


def test_a_connection_that_cannot_be_opened_counts_for_each_statement(
    line: Line, breaker: Breaker
) -> None:
    """No lock is in its way."""
    line.connection, connection = None, line.connection
    end_slowly(line, OperationalError("timeout expired"), only_reads=False)
    assert breaker.is_open
    line.connection = connection


@pytest.mark.parametrize(
    "text",
    [
        "[Errno 111] Connection refused",
        'connection to server at "127.0.0.1" failed: FATAL:  the database system is starting up',
    ],
)
def test_a_server_that_refuses_does_not_hang(line: Line, breaker: Breaker, text: str) -> None:
    """PyMySQL takes long to get ready for TLS before it is refused, and a PostgreSQL that starts up
    to say so. When the server is back, it must be asked at once."""
    line.connection, connection = None, line.connection
    for _ in range(3):
        end_slowly(line, OperationalError(2003, text))
        assert not breaker.is_open
    line.connection = connection


def canceled() -> OperationalError:
    """Return the error that Django makes of one of psycopg's."""
    error = OperationalError("canceling statement due to statement timeout")
    error.__cause__ = Exception()
    error.__cause__.sqlstate = "57014"  # type: ignore[attr-defined]
    return error


@pytest.mark.parametrize(
    "error",
    [
        IntegrityError(1062, "Duplicate entry"),
        OperationalError(1205, "Lock wait timeout exceeded"),
        canceled(),
    ],
)
def test_an_error_of_the_server_is_an_answer(line: Line, breaker: Breaker, error: Any) -> None:
    """However late it comes, the server does not hang."""
    end_slowly(line, OperationalError(2013, "Lost connection to MySQL server during query"))
    assert breaker.is_open
    end_slowly(line, error)
    assert not breaker.is_open


# In time ------------------------------------------------------------------------------------------


def test_who_has_left_is_not_cut_off(line: Line) -> None:
    """The connection serves others by then: what they wait for would be lost."""
    line.server.send(b"answer")
    cursor = LimitedCursor(line)  # type: ignore[arg-type]
    with cursor:
        line.execute()
    time_is_up(cursor)
    assert is_open(line)


def test_an_error_takes_the_cursor_back(line: Line) -> None:
    """Otherwise the connection would be cut off during another statement."""
    with pytest.raises(ZeroDivisionError), LimitedCursor(line):  # type: ignore[arg-type]
        raise ZeroDivisionError
    line.cursor = lambda: 1 / 0  # type: ignore[method-assign]
    with pytest.raises(ZeroDivisionError), LimitedCursor(line):  # type: ignore[arg-type]
        pass
    assert deadline._watcher.pending == set()


def test_the_socket_of_a_connection_that_was_replaced_is_left_alone(line: Line) -> None:
    """Its number may by now be that of somebody else's socket."""
    cursor = LimitedCursor(line)  # type: ignore[arg-type]
    with cursor:
        before, line.connection = line.connection, None
        time_is_up(cursor)
        line.connection = before
    assert is_open(line)


on_posix = pytest.mark.skipif(sys.platform == "win32", reason="sockets are no files there")


@on_posix
def test_a_number_that_the_client_gave_back_is_left_alone(line: Line) -> None:
    """A client closes the socket of a connection that it finds lost, before anybody knows. The next
    thread to open one gets the number, and would lose a connection that is well."""
    cursor = LimitedCursor(line)  # type: ignore[arg-type]
    innocent, peer = socket.socketpair()
    with innocent, peer:
        with cursor:
            os.dup2(innocent.fileno(), line.connection.fileno())
            time_is_up(cursor)
        assert innocent.send(b"still there") == 11
    assert line.closed == 0


@on_posix
def test_no_copy_is_left_of_what_is_somebody_elses(
    line: Line, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The number may be that of a file by then. Open, it would keep the other's from closing."""
    copies: list[int] = []
    dup = socket.dup

    def noted(number: int) -> int:
        copies.append(dup(number))
        return copies[-1]

    monkeypatch.setattr(socket, "dup", noted)
    cursor = LimitedCursor(line)  # type: ignore[arg-type]
    with (tmp_path / "file").open("w") as file, cursor:
        os.dup2(file.fileno(), line.connection.fileno())
        time_is_up(cursor)
    (copy,) = copies
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(copy)


def test_a_client_that_opens_another_socket_is_watched_on_that(line: Line) -> None:
    """PyMySQL does, when Django asks it for the health of a connection. The socket before is gone,
    and a server that hangs would be waited for without end."""
    opened, line.connection = line.connection, SimpleNamespace(_sock=None)

    def cursor() -> Line:
        line.connection._sock = opened
        return line

    line.cursor = cursor  # type: ignore[method-assign]
    with LimitedCursor(line) as watched:  # type: ignore[arg-type]
        assert watched is line
        (pending,) = deadline._watcher.pending
        time_is_up(pending)
        assert opened.recv(1) == b""


@pytest.mark.parametrize("asks_first", [False, True], ids=["statement", "first-questions"])
def test_a_slow_connect_leaves_the_statement_its_time(line: Line, asks_first: bool) -> None:
    """To connect has a limit of its own. What it took would be missing for the answer, and a
    database that is merely far away would be reported as lost. Nor do the first questions end the
    connection, which Django asks before the cursor is there, when that time has passed already."""
    opened, line.connection = line.connection, None
    cursor = LimitedCursor(line)  # type: ignore[arg-type]

    def connect() -> Line:
        line.connection = opened
        if asks_first:
            time_is_up(cursor)
            assert is_open(line)
        else:
            cursor.deadline = 0
        return line

    line.cursor = connect  # type: ignore[method-assign]
    before = monotonic()
    with cursor:
        assert cursor.deadline >= before + TIMEOUT


def test_a_deadline_that_has_moved_is_kept(line: Line) -> None:
    """The connection may come just when the watcher has found that its time is over."""
    cursor = LimitedCursor(line)  # type: ignore[arg-type]
    with cursor:
        deadline._watcher._cut_off(cursor)
        assert is_open(line)


def test_a_connection_is_asked_for_its_socket_once(
    line: Line, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To learn it anew would double what a statement pays for its limit."""
    answered(line)
    asked: list[int] = []
    monkeypatch.setattr(liveness, "_identity", asked.append)
    for _ in range(3):
        answered(line)
    assert asked == []


def test_a_connection_that_is_opened_for_the_cursor_is_watched(line: Line) -> None:
    """Django opens one at the first statement of most requests."""
    opened, line.connection = line.connection, None

    def cursor() -> Line:
        line.connection = opened
        return line

    line.cursor = cursor  # type: ignore[method-assign]
    with pytest.raises(StorageUnavailable, match="DATABASE_TIMEOUT"):
        ask(line)


def test_the_first_questions_on_a_new_connection_are_limited(line: Line) -> None:
    """Django sets the time zone and the like before it gives a cursor."""
    opened, line.connection = line.connection, None

    def cursor() -> Line:
        line.connection = opened
        line.execute()
        return line

    line.cursor = cursor  # type: ignore[method-assign]
    with pytest.raises(StorageUnavailable, match="DATABASE_TIMEOUT"):
        ask(line)
    assert line.closed == 1


@pytest.mark.parametrize(
    "client", [object(), SimpleNamespace(_sock=None), None], ids=["none", "closed", "not open"]
)
def test_a_client_that_tells_no_socket_is_let_be(line: Line, client: Any) -> None:
    """There is nothing to shut; the statement must run all the same."""
    line.connection = client
    cursor = LimitedCursor(line)  # type: ignore[arg-type]
    with cursor:
        time_is_up(cursor)
    assert line.closed == 0


def test_zero_is_no_limit(line: Line) -> None:
    """For who would rather wait, and as the way out should a client not bear it."""
    with (
        override_settings(SESSIONSTORES={"DATABASE_TIMEOUT": 0}),
        LimitedCursor(line),  # type: ignore[arg-type]
    ):
        assert deadline._watcher.pending == set()


def test_sqlite_needs_none(django_db_setup: None, django_db_blocker: Any) -> None:
    """Sites without a server get no thread."""
    with django_db_blocker.unblock(), LimitedCursor(connections["default"]):
        assert deadline._watcher.pending == set()


# The thread ---------------------------------------------------------------------------------------


def answered(line: Line) -> None:
    line.server.send(b"answer")
    assert ask(line) == b"answer"


@pytest.fixture
def watcher(monkeypatch: pytest.MonkeyPatch) -> deadline._Watcher:
    """Return a watcher whose thread has not been started yet."""
    watcher = deadline._Watcher()
    monkeypatch.setattr(deadline, "_watcher", watcher)
    return watcher


def minds_the_time(watcher: deadline._Watcher) -> None:
    """Returns when the thread has looked and sleeps until a moment that it has chosen."""

    def sleeps() -> bool:
        return not watcher._woken.is_set() and watcher.wakes_at < float("inf")

    wait_until(sleeps, "the thread minds the time", seconds=20)


def test_statements_do_not_wake_the_thread(
    line: Line, watcher: deadline._Watcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To wake it takes longer than all the rest, and a switch between threads at each statement."""
    answered(line)
    minds_the_time(watcher)
    woken: list[float] = []
    monkeypatch.setattr(watcher, "wake", woken.append)
    with override_settings(SESSIONSTORES={"DATABASE_TIMEOUT": 60}):
        for _ in range(100):
            answered(line)
    assert woken == []


def test_the_thread_sleeps_when_nobody_asks(line: Line) -> None:
    """A process that is idle must not be kept awake."""
    answered(line)
    wait_until(lambda: deadline._watcher.wakes_at == float("inf"), "the thread sleeps", seconds=20)


def test_the_thread_rests_before_it_sleeps(watcher: deadline._Watcher) -> None:
    """Statements are mostly over before it has looked. Were that enough to sleep, each of them
    would have to wake it."""
    watcher.wake(rest=60)
    minds_the_time(watcher)


def test_a_shorter_limit_wakes_the_thread(line: Line, watcher: deadline._Watcher) -> None:
    """The thread may be asleep until a deadline that lies further off."""
    with override_settings(SESSIONSTORES={"DATABASE_TIMEOUT": 600}):
        answered(line)
    minds_the_time(watcher)
    test_no_answer_is_an_outage(line)


@pytest.mark.usefixtures("watcher")
def test_without_a_thread_statements_still_run(line: Line, monkeypatch: pytest.MonkeyPatch) -> None:
    """There are no new threads while the interpreter shuts down, but sessions may be saved."""

    def start(thread: threading.Thread) -> None:
        raise RuntimeError("can't create new thread at interpreter shutdown")

    monkeypatch.setattr(threading.Thread, "start", start)
    answered(line)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="nothing forks here")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_has_a_watcher_of_its_own(line: Line) -> None:
    """Servers fork after the first statement. The thread does not come along, and what the parent
    waits for at that moment is not the child's to cut off: they share the socket."""
    parents = Line()
    answered(line)
    with LimitedCursor(parents):  # type: ignore[arg-type]
        child = os.fork()
        if not child:
            signal.alarm(20)
            done = 1
            try:
                assert deadline._watcher.pending == set()
                test_no_answer_is_an_outage(line)
                done = 0
            finally:
                sys.stderr.flush()
                os._exit(done)
        _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0


# On servers ---------------------------------------------------------------------------------------


@on_servers
def test_a_row_that_somebody_locks_is_waited_for_so_long(engine: Engine) -> None:
    """A transaction somewhere that is never ended would hang every request of that user."""
    record = stored(engine)
    with other_connection(engine) as other:
        other.set_autocommit(False)
        with other.cursor() as cursor:
            cursor.execute(
                "SELECT id FROM django_sessionstores_storedsession WHERE id = %s FOR UPDATE",
                [key_of(record.id)],
            )
        with pytest.raises(StorageUnavailable, match="DATABASE_TIMEOUT"):
            engine.storage.update(next_version(record), record, NOW)
        assert engine.storage.read(record.id) == record
        other.rollback()


@on_servers
def test_a_transaction_that_was_cut_off_fails_as_a_whole(engine: Engine) -> None:
    """A caller that swallows the error must not commit the rest on another connection."""
    locked, written = stored(engine), a_record()
    with other_connection(engine) as other:
        other.set_autocommit(False)
        with other.cursor() as cursor:
            cursor.execute(
                "DELETE FROM django_sessionstores_storedsession WHERE id = %s", [key_of(locked.id)]
            )

        def write_and_go_on() -> None:
            with transaction.atomic(engine.database):
                engine.storage.create(written, NOW)
                with pytest.raises(StorageUnavailable, match="DATABASE_TIMEOUT"):
                    engine.storage.delete(locked.id)

        with pytest.raises(Error):
            write_and_go_on()
        other.rollback()
    close_old_connections()  # As Django does between requests.
    assert engine.storage.read(written.id) is None
    assert engine.storage.read(locked.id) == locked
