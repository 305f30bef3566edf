"""Connections that the server has closed while nothing was asked on them.

A server closes its connections when it is restarted, and those that were idle for longer than it
allows. Django finds out by the error of the next statement, or asks before the first statement of
each request (``CONN_HEALTH_CHECKS``), which costs a round trip.

The client's socket tells it without one: if it has something to read although nothing was asked,
the server has closed the connection, or has something to say. Only then the connection is asked
whether it works, and replaced if it does not. So no statement is ever sent twice for that.
"""

from __future__ import annotations

import os
import select
import socket
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from django.db import Error

from . import transactions

if TYPE_CHECKING:
    from django.db.backends.base.base import BaseDatabaseWrapper

_MOST_CLOSED: Final = 100
"""How many connections from a pool are looked at until one of them works."""


class Socket(NamedTuple):
    """The socket of a client's connection, as it was when the connection was new."""

    owner: Any
    """The object that has the socket. Another owner means another socket."""
    number: int
    """The file descriptor; -1 if the client does not show it."""
    identity: tuple[int, int] | None

    @classmethod
    def of(cls, owner: Any) -> Socket:
        """Return the socket of an object that may have one."""
        try:
            number = int(owner.fileno())
        except Exception:  # noqa: BLE001 - clients raise what they like
            number = -1
        return cls(owner, number, _identity(number))

    def shut_down(self) -> bool:
        """Shut down the socket, so that the client stops waiting; return whether it was there."""
        try:
            # A copy, because the client may close its own meanwhile. If it has already done so, the
            # number may be that of another socket or file.
            copy = socket.dup(self.number)
        except OSError:
            return False
        if _identity(copy) != self.identity:
            socket.close(copy)
            return False
        with suppress(OSError), socket.socket(fileno=copy) as opened:
            opened.shutdown(socket.SHUT_RDWR)
        return True


_NOTED: Final = "_django_sessionstores_socket"
"""The attribute of Django's connection that keeps its `Socket`. To find the socket again for each
statement would cost as much as everything else here."""


def socket_of(connection: BaseDatabaseWrapper) -> Socket:
    """Return the socket that a connection has now."""
    owner = owner_of(connection)
    noted: Socket | None = getattr(connection, _NOTED, None)
    if noted is None or noted.owner is not owner:
        noted = Socket.of(owner)
        setattr(connection, _NOTED, noted)
    return noted


def owner_of(connection: BaseDatabaseWrapper) -> Any:
    """Return the object that has the socket of a connection; ``None`` if it is not open."""
    driver = connection.connection  # psycopg, psycopg2, mysqlclient
    return getattr(driver, "_sock", driver)  # PyMySQL, whose connection may open another socket


def _identity(number: int) -> tuple[int, int] | None:
    """Return what differs between any two sockets.

    Return ``None`` on Windows, where a socket is not a file.
    """
    try:
        status = os.fstat(number)
    except OSError:
        return None
    return status.st_dev, status.st_ino


def may_be_closed(connection: BaseDatabaseWrapper, noted: Socket) -> bool:
    """Return whether `renew` has to look at a connection with this socket. Asks no server."""
    if noted.owner is None:
        # A connection from a pool may have been idle there.
        return connection.connection is not None or has_pool(connection)
    return bool(connection.errors_occurred) or _has_news(noted.number)


def has_pool(connection: BaseDatabaseWrapper) -> bool:
    """Return whether the connection is one of a pool of psycopg."""
    return bool(connection.settings_dict.get("OPTIONS", {}).get("pool"))


def renew(connection: BaseDatabaseWrapper, is_usable: Callable[[], bool]) -> None:
    """Replace a connection that the server has closed, unless it is in a transaction.

    ``is_usable`` asks the connection whether it works.
    """
    if transactions.is_open(connection):
        return
    for _ in range(_MOST_CLOSED):
        if connection.connection is None:
            if not has_pool(connection):
                return
            connection.ensure_connection()
        if not may_be_closed(connection, socket_of(connection)):
            return
        if is_usable():
            connection.errors_occurred = False
            return
        with suppress(Error):
            connection.close()


def _poll(number: int) -> bool:
    poll = select.poll()
    poll.register(number, select.POLLIN)
    return bool(poll.poll(0))


def _select(number: int) -> bool:
    return bool(select.select([number], [], [], 0)[0])


_ask: Final = _poll if hasattr(select, "poll") else _select  # The first one is not on Windows.


def _has_news(number: int) -> bool:
    """Return whether a socket has something to read, or is closed."""
    try:
        return number >= 0 and _ask(number)
    except (OSError, ValueError):
        return True
