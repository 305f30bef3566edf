"""Statements that lost a race against another transaction, and what that means for a session.

At a stricter isolation level than Django's default, and in a deadlock at any, the database answers
the second of two statements with an error instead of "no row". In autocommit the statement is tried
again, and sees what the other one wrote. In the caller's transaction it cannot be tried again: the
transaction is lost with it. That is a `SessionConflict`, and not an outage.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final, TypeVar

from django.db import Error
from django.db.transaction import TransactionManagementError

from ...exceptions import SessionConflict
from . import transactions

if TYPE_CHECKING:
    from django.db.backends.base.base import BaseDatabaseWrapper

T = TypeVar("T")

_RETRIES: Final = 10

_SQLITE_BUSY_SNAPSHOT: Final = 517
"""The transaction has read, and another one has written since."""
# The codes of five characters are PostgreSQL's: serialization failure and deadlock. The numbers are
# MySQL's: deadlock, and MariaDB's "record has changed since last read".
_LOST_A_RACE: Final = frozenset({"40001", "40P01", 1213, 1020})
_LAST_WORDS: Final = frozenset({"57P01", "57P02", "57P05"})
"""What PostgreSQL says to a client whose connection it closes."""
_CODES_OF_CLIENTS: Final = frozenset({0, *range(2000, 3000)})
"""What the clients of MySQL call errors of their own, such as a lost connection."""


def code_of(error: BaseException) -> object:
    """Return what the server calls the error, or ``None`` if the driver does not tell."""
    if error.args and isinstance(error.args[0], int):
        return error.args[0]
    cause = error.__cause__
    return getattr(cause, "sqlstate", None) or getattr(cause, "pgcode", None)  # psycopg 3 and 2.


def has_lost_race(error: BaseException) -> bool:
    """Return whether the error of a statement means that another transaction came first."""
    if getattr(error.__cause__, "sqlite_errorcode", None) == _SQLITE_BUSY_SNAPSHOT:
        return True
    return code_of(error) in _LOST_A_RACE


def is_answer(error: Error) -> bool:
    """Return whether the server has sent an error. If not, the client has made it."""
    code = code_of(error)
    return code is not None and code not in _CODES_OF_CLIENTS


def _is_last(error: Error) -> bool:
    """Return whether nothing more is heard on a connection after an error."""
    return code_of(error) in _LAST_WORDS or not is_answer(error)


def retry(
    connection: BaseDatabaseWrapper, statement: Callable[[], T], *, only_reads: bool = False
) -> T:
    """Return what a statement returns, which is tried again if it loses a race in autocommit.

    If it ``only_reads``, it is also tried again, once, on a new connection if the connection was
    lost. Some proxies and firewalls forget a connection that is idle, and only say so when
    something is sent.
    """
    may_repeat = only_reads and connection.vendor != "sqlite"
    for _ in range(_RETRIES):
        try:
            return statement()
        except Error as error:
            if transactions.is_open(connection):
                raise
            if may_repeat and connection.connection is not None and _is_last(error):
                may_repeat = False
            elif not has_lost_race(error):
                raise
    return statement()


def conflict_in_transaction(
    connection: BaseDatabaseWrapper, error: BaseException
) -> SessionConflict | None:
    """Return the conflict that an error means in the caller's transaction, if it is one.

    Marks the transaction for rollback. The database has undone it, all of it on MySQL: whoever
    catches the conflict and goes on must not take what was done before for stored.
    """
    if not (has_lost_race(error) and transactions.is_open(connection)):
        return None
    conflict = SessionConflict(
        f"Another transaction changed the same rows of the database {connection.alias!r} "
        f"({connection.vendor}), which ended this transaction. Nothing of it is stored: roll it "
        "back and try again, or save the session outside of transaction.atomic()."
    )
    if connection.in_atomic_block:
        connection.needs_rollback = True
        # Django names it as the cause of what fails after it.
        connection.rollback_exc = conflict  # type: ignore[attr-defined]
    return conflict


@contextmanager
def conflict_before_cleanup() -> Generator[None]:
    """Raise the conflict that ended a transaction, not the error of the cleanup that follows it.

    The rollback removes what would have been cleaned up.
    """
    try:
        yield
    except (Error, TransactionManagementError) as error:
        conflict = _conflict_behind(error)
        if conflict is None:
            raise
        raise conflict from conflict.__cause__


def _conflict_behind(error: BaseException | None) -> SessionConflict | None:
    while error is not None and not isinstance(error, SessionConflict):
        error = error.__cause__ or error.__context__
    return error


def summary_of(error: Exception) -> str:
    """Return the part of a driver's error that does not quote data.

    SQLite has a fixed text for each of its result codes, in which at most a table or a column is
    named. Other drivers put values of the statement into theirs.
    """
    kind, cause = type(error).__name__, error.__cause__
    return f"{kind}: {cause}" if hasattr(cause, "sqlite_errorname") else kind
