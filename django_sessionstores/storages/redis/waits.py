"""How long the clients of a Redis server wait, as far as that is known before they connect."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final, NamedTuple

from redis import VERSION
from redis.cluster import RedisCluster

from ..inspection import ManyTries
from .client import Server

_MOST_TRIES: Final = 2
"""The first one, and one for a connection that is lost."""


class _Client(NamedTuple):
    """The pool of a client, and how the settings name its options."""

    pool: Any
    timeout: str
    retry: str
    tries: int
    """How often it should try."""


def missing_timeout(server: Server) -> str:
    """See `Inspection.missing_timeout`."""
    for client in _clients(server):
        # It is the limit for connecting as well, if there is no other one.
        if _connection(client).socket_timeout is None:
            return client.timeout
    return ""


def many_tries(server: Server) -> ManyTries | None:
    """See `Inspection.many_tries`."""
    for client in _clients(server):
        tries = _tries(_connection(client))
        if not 0 < tries <= _MOST_TRIES:
            return ManyTries(tries, client.retry, f"Retry(NoBackoff(), {client.tries - 1})")
    return None


def _tries(connection: Any) -> int:
    """Return how often a command is sent to a server that hangs; 0 if there is no limit."""
    # Version 5 of redis gives up if the first answer to a new connection does not come.
    if VERSION[0] < 6:
        return 1
    # A negative number stands for no limit.
    retries: int = connection.retry._retries
    return max(retries + 1, 0)


def _clients(server: Server) -> Iterator[_Client]:
    """Yield the client of the server and those of the sentinels that name the server.

    Those of a cluster are not known before it is connected.
    """
    client, options = server._client, f"CACHES[{server._alias!r}]['OPTIONS']"
    if client is None or isinstance(client, RedisCluster):
        return
    pool: Any = client.connection_pool
    if server._is_djangos:
        timeout, retry = f"{options}['socket_timeout']", f"{options}['retry']"
        of_sentinels = f"{options}['sentinel_manager'].sentinel_kwargs"
    else:
        timeout = f"{options}['SOCKET_TIMEOUT']"
        retry = f"{options}['CONNECTION_POOL_KWARGS']['retry']"
        of_sentinels = f"{options}['SENTINEL_KWARGS']"
    yield _Client(pool, timeout, retry, tries=2)
    manager = getattr(pool, "sentinel_manager", None)
    for each in getattr(manager, "sentinels", ()):
        timeout, retry = f"{of_sentinels}['socket_timeout']", f"{of_sentinels}['retry']"
        # If one does not answer, another one may.
        yield _Client(each.connection_pool, timeout, retry, tries=1)


def _connection(client: _Client) -> Any:
    """Return a connection of a client, which is not open."""
    return client.pool.connection_class(**client.pool.connection_kwargs)
