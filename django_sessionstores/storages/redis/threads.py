"""The connections of threads to Redis: a thread that stays has one of its own.

For each command, the pool of redis-py takes its lock, asks the operating system whether the
connection is still open, and keeps its counts. Together this takes as much processor time as the
command.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Final
from weakref import WeakSet

from redis import ConnectionPool, Redis, RedisError

THREAD_TRIAL: Final = 10
"""Commands of a thread that use the pool, before it gets a connection of its own.

A development server has a thread for each connection of a browser, and gevent a greenlet for each
request. They end before it is worth it.
"""
_SHARE: Final = 4
"""A quarter of a pool is what threads may keep. The project's cache may use the same pool."""


class _Thread(threading.local):
    """What a thread has."""

    client: Any = None
    process = 0
    """The process that has made the client. A forked one must not use the connection."""
    asked = 0


class ThreadClients:
    """For each thread that stays, a client of redis-py with one connection of the pool.

    A thread that ends gives its connection back to the pool, and so does one whose command got no
    answer, whatever was the reason. Commands that begin while another command of the thread is
    under way, as in the handler of a signal, use the pool.

    Pools and clients of a project's own are left alone: the pool of sentinels, for example, looks
    for the primary each time it gives out a connection.
    """

    def __init__(self, client: Any) -> None:
        self._pooled = client
        pool = _pool_of(client)
        is_plain = type(client) is Redis and type(pool) is ConnectionPool
        self._most = pool.max_connections // _SHARE if is_plain else 0
        self._all = WeakSet[Any]()
        self._thread = _Thread()

    def execute(self, command: Sequence[Any]) -> Any:
        """Return the answer to a command. Raises what ``execute_command`` raises.

        Not the methods named like the commands, which take longer to get there. Nor the connections
        themselves, which are faster still: tracing of Redis hooks in there.
        """
        client = self._take()
        try:
            answer = client.execute_command(*command)
        except BaseException as error:
            self._drop(client, error)
            raise
        if client is not self._pooled:
            self._thread.client = client
        return answer

    def execute_all(self, commands: Sequence[Sequence[Any]]) -> list[Any]:
        """Return the answers to several commands in one round trip. An error is an answer."""
        pipeline = filled(self._pooled.pipeline(transaction=False), commands)
        try:
            return list(pipeline.execute(raise_on_error=False))
        except BaseException as error:
            self._drop(self._pooled, error)
            raise

    def _take(self) -> Any:
        """Return the client for a command, which the thread has until it is answered."""
        thread = self._thread
        client, thread.client = thread.client, None
        if client is not None and thread.process == os.getpid():
            return client
        if thread.asked < THREAD_TRIAL:
            thread.asked += 1
            return self._pooled
        thread.asked = 0
        if len(self._all) >= self._most:
            return self._pooled
        client = self._pooled.client()
        self._all.add(client)
        thread.process = os.getpid()
        return client

    def _drop(self, client: Any, error: BaseException) -> None:
        """Close the connection on which a command has failed, because its answer may still come.

        redis-py closes it after errors of its own. But the handler of a signal may raise an
        exception after the command was sent and before its answer is read, and the pools of
        redis-py 8 give out a connection that has an unread answer. The next command would get that.
        """
        if client is not self._pooled:
            client.connection.disconnect()
            client.close()
        elif not isinstance(error, (RedisError, OSError)) and (pool := _pool_of(client)):
            # BlockingConnectionPool of redis-py 5 does not have this argument, and looks itself.
            with suppress(TypeError):
                pool.disconnect(inuse_connections=False)


def filled(pipeline: Any, commands: Sequence[Sequence[Any]]) -> Any:
    """Return a pipeline of any client with these commands."""
    for command in commands:
        pipeline.execute_command(*command)
    return pipeline


def _pool_of(client: Any) -> Any:
    """Return the pool of a client; ``None`` for the client of a cluster, which has several."""
    return getattr(client, "connection_pool", None)
