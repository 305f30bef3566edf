"""PostgreSQL tells which sessions have ended: with NOTIFY, in the transaction that ends them."""

# ruff: noqa: S608 - the statements are made of names from the model.

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from ...conf import settings
from ...core.records import is_session_id
from ...exceptions import StorageUnavailable
from ..loops import stop_if_cancelled

if TYPE_CHECKING:
    from django.db.backends.base.base import BaseDatabaseWrapper

CHANNEL: Final = "django_sessionstores_ends"
_KEEPALIVE: Final = {
    "connect_timeout": 10,
    "keepalives_idle": 20,
    "keepalives_interval": 5,
    "keepalives_count": 2,
}
"""What tells a connection that is quiet from one that is lost."""


class Database(NamedTuple):
    """A database that can be listened to."""

    alias: str
    module: Any
    """psycopg 3."""
    parameters: dict[str, Any]
    """Those of its ``connect``."""


def tells(connection: BaseDatabaseWrapper) -> bool:
    """Return whether a database tells which rows were deleted."""
    return connection.vendor == "postgresql" and settings.TELL_ENDS


def telling(delete: str, key: str, returned: str = "") -> str:
    """Return a DELETE that tells the keys of the rows, which it must return.

    It returns the column ``returned``, or the key, and another one of no interest. Those who listen
    are told when the transaction commits.
    """
    notify = f"pg_notify('{CHANNEL}', encode({key}, 'hex'))"
    return f"WITH ended AS ({delete}) SELECT {returned or key}, {notify} FROM ended"


def database_of(connection: BaseDatabaseWrapper) -> Database | None:
    """Return the database of a connection, if it can be listened to.

    That takes psycopg 3, whose connections an event loop can wait for.
    """
    module = getattr(connection, "Database", None)
    if not tells(connection) or not hasattr(module, "AsyncConnection"):
        return None
    parameters = {**_KEEPALIVE, **connection.get_connection_params()}
    # Its cursors are for connections that block.
    parameters.pop("cursor_factory", None)
    return Database(connection.alias, module, parameters)


async def hear(database: Database, tell: Callable[[str], object]) -> None:
    """Call ``tell`` with the id of each session that ends, until cancelled.

    Takes one connection. Raises `StorageUnavailable` when the connection is lost.
    """
    try:
        connection = await database.module.AsyncConnection.connect(
            **database.parameters, autocommit=True
        )
        try:
            await connection.execute(f"LISTEN {CHANNEL}")
            server = connection.pgconn
            while True:
                stop_if_cancelled()
                # Before the first wait: what was told may have come with an answer.
                while notification := server.notifies():
                    if is_session_id(payload := notification.extra.decode()):
                        tell(payload)
                await _readable(server.socket)
                server.consume_input()
        finally:
            # At once, without waiting: a second cancellation would leave it open.
            connection.pgconn.finish()
    except (database.module.Error, OSError) as error:
        raise StorageUnavailable(
            f"The database {database.alias!r} no longer tells which sessions end."
        ) from error


async def _readable(socket: int) -> None:
    """Wait until a socket can be read.

    psycopg's own wait is by ``asyncio.wait_for()``, see `stop_if_cancelled`.
    """
    loop = asyncio.get_running_loop()
    ready: asyncio.Future[None] = loop.create_future()

    def note() -> None:
        if not ready.done():
            ready.set_result(None)

    loop.add_reader(socket, note)
    try:
        await ready
    finally:
        loop.remove_reader(socket)
