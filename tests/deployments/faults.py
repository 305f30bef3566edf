"""What happens to stores: they close connections, restart, go away or are full."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextlib import closing
from functools import singledispatch
from typing import Any

import psycopg
import pymysql
from pymemcache.client.base import Client as MemcachedClient
from pymemcache.exceptions import MemcacheServerError

from tests.disks import Disk, owner_of
from tests.services import (
    HOST,
    MariaDB,
    Memcached,
    PostgreSQL,
    Redis,
    Service,
    answer,
    wait_until,
)

MEMCACHED_FLAGS = ("-M", "-m", "4", "-o", "idle_timeout=1")
"""It says that it is full instead of dropping sessions, and closes connections that are idle."""


# Connections that the server closes ----------------------------------------------------------


@singledispatch
def close_connections(service: Service) -> None:
    """Have the server close all connections, as it or a firewall does with those that are idle."""
    raise NotImplementedError(f"A {service.name} has no connections, or has no command for it.")


def closes_connections(service: Service) -> bool:
    """Return whether `close_connections` is known for this kind of server."""
    return close_connections.dispatch(type(service)) is not close_connections.dispatch(Service)


@close_connections.register
def _(service: Redis) -> None:
    service.cli("client", "kill", "type", "normal")


@close_connections.register
def _(service: PostgreSQL) -> None:
    others = (
        "FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid != pg_backend_pid()"
    )
    with psycopg.connect(service.url(), autocommit=True) as connection:
        connection.execute(f"SELECT pg_terminate_backend(pid) {others}")
        wait_until(
            lambda: connection.execute(f"SELECT count(*) {others}").fetchone() == (0,),
            "the connections are closed",
        )


@close_connections.register
def _(service: MariaDB) -> None:
    with closing(_mariadb(service)) as connection, connection.cursor() as cursor:
        cursor.execute(
            "SELECT id FROM information_schema.processlist"
            " WHERE id != connection_id() AND command != 'Daemon'"
        )
        for (number,) in cursor.fetchall():
            with contextlib.suppress(pymysql.MySQLError):  # It has ended meanwhile.
                cursor.execute(f"KILL {number}")


@close_connections.register
def _(service: Memcached) -> None:
    """Wait until it has: see `MEMCACHED_FLAGS`."""
    wait_until(lambda: _connections_of(service) == 0, "the connections are closed", seconds=20)


def _connections_of(service: Memcached) -> int:
    """Return the connections of memcached without the one that asks."""
    said = answer(service.port, b"stats\r\n", 4096)
    return int(said.partition(b"STAT curr_connections ")[2].split()[0]) - 1


def _mariadb(service: MariaDB) -> Any:
    return pymysql.connect(
        host=HOST, port=service.port, user=service.USER, database=service.DATABASE, autocommit=True
    )


# Full ------------------------------------------------------------------------------------------


@singledispatch
@contextlib.contextmanager
def full(service: Service) -> Iterator[None]:
    """Let the store have no room for another byte meanwhile. Raises `CannotMount`."""
    raise NotImplementedError(f"A {service.name} that is full cannot be made here.")
    yield


@full.register
@contextlib.contextmanager
def _(service: Redis) -> Iterator[None]:
    service.cli("config", "set", "maxmemory", "1")
    try:
        yield
    finally:
        service.cli("config", "set", "maxmemory", "0")


@full.register
@contextlib.contextmanager
def _(service: Memcached) -> Iterator[None]:
    with closing(MemcachedClient((HOST, service.port), default_noreply=False)) as client:
        names = []
        for size in range(300, 1500, 50):  # Each range of sizes has memory of its own.
            with contextlib.suppress(MemcacheServerError):
                for batch in range(100):
                    values = {f"{size}-{batch}-{number}": b"x" * size for number in range(500)}
                    names += values
                    client.set_many(values)
    try:
        yield
    finally:
        with closing(MemcachedClient((HOST, service.port))) as client:
            client.delete_many(names, noreply=True)
            client.version()  # It has worked them off when it answers.


@full.register
@contextlib.contextmanager
def _(service: PostgreSQL) -> Iterator[None]:
    """The tables are on a disk that is full. Its log is not, or the server would stop."""
    with (
        Disk(owner=owner_of(service.folder)) as disk,
        psycopg.connect(service.url(), autocommit=True) as connection,
    ):
        connection.execute(f"CREATE TABLESPACE small LOCATION '{disk.path}'")  # type: ignore[arg-type]
        _move_tables(connection, "pg_default", "small")
        try:
            with disk.full():
                yield
        finally:
            _move_tables(connection, "small", "pg_default")
            connection.execute("DROP TABLESPACE small")


def _move_tables(connection: psycopg.Connection[Any], origin: str, target: str) -> None:
    for kind in ("TABLE", "INDEX"):
        connection.execute(
            f"ALTER {kind} ALL IN TABLESPACE {origin} SET TABLESPACE {target}"  # type: ignore[arg-type]
        )


@full.register
@contextlib.contextmanager
def _(service: Disk) -> Iterator[None]:
    with service.full():
        yield
