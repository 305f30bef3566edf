"""The nodes of a cache on memcached, and the commands that are sent to them."""

from __future__ import annotations

import hashlib
import os
from collections import defaultdict
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from inspect import signature
from itertools import chain
from typing import Any, Final

from django.core.cache.backends.base import BaseCache
from django.core.exceptions import ImproperlyConfigured

from ...core import clock
from ...exceptions import PayloadTooLarge, StorageFull, StorageUnavailable
from ..base import NAMESPACE
from ..breaker import Breaker
from ..outage_log import OutageLog
from ..pool_waits import pauses
from .client import BROKEN, FAILURES, TIMEOUT_SECONDS, HashClient, PooledClient, translate_error
from .exchange import Answer, Exchange

# The options of ``CACHES`` that a client of one node accepts and needs. The others tune the way in
# which HashClient hides that a node is down, or would make it unpickle what it reads.
_CLIENT_OPTIONS: Final = frozenset(
    {
        "allow_unicode_keys",
        "connect_timeout",
        "key_prefix",
        "lock_generator",
        "max_pool_size",
        "no_delay",
        "pool_idle_timeout",
        "socket_keepalive",
        "socket_module",
        "timeout",
        "tls_context",
    }
)


def _check_options(alias: str, options: dict[str, Any]) -> None:
    """Raise ``ImproperlyConfigured`` if pymemcache does not know an option."""
    unknown = options.keys() - signature(HashClient.__init__).parameters.keys()
    if unknown:
        raise ImproperlyConfigured(
            f"CACHES[{alias!r}]['OPTIONS'] has options that pymemcache does not know: "
            f"{', '.join(map(repr, sorted(unknown)))}. Correct their names, or remove them."
        )


class Nodes:
    """The nodes of ``cache``, with a pool of connections for each.

    A session belongs to one node, chosen from the whole list whether nodes are up or not.
    ``alias`` is that of the cache, and ``options`` are its ``OPTIONS``.
    """

    def __init__(self, alias: str, cache: BaseCache, options: dict[str, Any]) -> None:
        self.alias = alias
        self._cache = cache
        _check_options(alias, options)
        self._options = {
            "allow_unicode_keys": True,
            "connect_timeout": TIMEOUT_SECONDS,
            "timeout": TIMEOUT_SECONDS,
            "no_delay": True,
            **{name: value for name, value in options.items() if name in _CLIENT_OPTIONS},
        }
        self._open()
        # The client would report a bad prefix as an outage, at each request.
        cache.make_and_validate_key(NAMESPACE + "0" * 40)

    def node_of(self, session_id: str) -> str:
        """Return the node with the highest score for the session (rendezvous hashing).

        The order of the list does not matter, and adding or removing a node moves only its own
        share. Not pymemcache's RendezvousHash, which does the same in twenty times as long.
        """
        if len(self.clients) == 1:
            return next(iter(self.clients))
        return max(
            self.clients,
            key=lambda name: hashlib.blake2b(
                f"{name} {session_id}".encode(), digest_size=8
            ).digest(),
        )

    def missing_timeout(self) -> str:
        """See `Inspection.missing_timeout`."""
        for option in ("connect_timeout", "timeout"):
            if self._options[option] is None:
                return f"CACHES[{self.alias!r}]['OPTIONS'][{option!r}]"
        return ""

    def call(
        self, session_id: str, command: str, *arguments: Any, **options: Any
    ) -> tuple[Any, bool]:
        """Return the answer to one command, and whether the command was sent twice.

        Raises `StorageUnavailable`, `StorageFull` and `PayloadTooLarge`.
        """
        return self._call_node(
            self.node_of(session_id), command, self.key(session_id), arguments, options
        )

    def items(self, session_ids: Sequence[str]) -> dict[str, tuple[bytes, bytes]]:
        """Return the value and the cas token of each session that has an item.

        One round trip for each node. Raises `StorageUnavailable`.
        """
        keys = defaultdict[str, dict[str, str]](dict)
        for each in session_ids:
            keys[self.node_of(each)][self.key(each)] = each
        found: dict[str, tuple[bytes, bytes]] = {}
        for node, ids in keys.items():
            items, _ = self._call_node(node, "gets_many", list(ids), (), {})
            found |= {ids[key]: item for key, item in items.items()}
        return found

    def command(
        self, name: str, session_id: str, data: bytes, lifetime: int, cas: bytes = b""
    ) -> bytes:
        """Return a command that stores an item, for `call_at_once`.

        ``lifetime`` is as memcached expects it.
        """
        key = self.clients[self.node_of(session_id)].check_key(self.key(session_id))
        size = b"%d %b" % (len(data), cas) if cas else b"%d" % len(data)
        return b"%b %b 0 %d %b\r\n%b\r\n" % (name.encode(), key, lifetime, size, data)

    def store_at_once(self, commands: dict[str, bytes]) -> dict[str, Answer]:
        """Return the answers to a command for each of several sessions, see `call_at_once`."""
        ids = defaultdict[str, list[str]](list)
        for each in commands:
            ids[self.node_of(each)].append(each)
        answers = self.call_at_once(
            {node: [commands[each] for each in of_node] for node, of_node in ids.items()}
        )
        return dict(zip(chain.from_iterable(ids.values()), answers, strict=True))

    def _call_node(
        self,
        name: str,
        command: str,
        key: str | list[str],
        arguments: tuple[Any, ...],
        options: dict[str, Any],
    ) -> tuple[Any, bool]:
        """See `call`."""
        pool, breaker = self._pool(name), self._breakers[name]
        began = breaker.begin()
        try:
            # Not get_and_release(): its context manager takes 4 % of the time of a read.
            client = self._take(pool, breaker)
            try:
                answer = _ask(client, command, key, arguments, options)
            except BaseException:
                pool.destroy(client)
                raise
            pool.release(client)
        except FAILURES as error:
            failure = translate_error(error, name, self.alias, arguments)
            # A pool that is used up fails at once and is not an answer of the node.
            if not isinstance(error, RuntimeError):
                breaker.failed(began, failure)
            breaker.ended(began)
            self.note(name, failure, command if isinstance(failure, StorageFull) else None)
            raise failure from error
        except BaseException:
            breaker.ended(began)
            raise
        breaker.answered()
        if breaker.log.is_open:
            breaker.log.succeeded(command)
        return answer

    def _take(self, pool: Any, breaker: Breaker) -> Any:
        """Return a client from the pool of a node, and wait for one if all are in use.

        Not longer than for an answer. Raises ``RuntimeError``.
        """
        try:
            return pool.get()
        except RuntimeError:
            for _ in pauses(self._options["timeout"] or TIMEOUT_SECONDS):
                breaker.check()
                with suppress(RuntimeError):
                    return pool.get()
            raise

    def note(
        self,
        node: str,
        failure: StorageUnavailable | PayloadTooLarge,
        refused: str | None = None,
    ) -> None:
        """Count a failure of a node in the log of outages.

        ``refused`` is the command that the node refuses, if it answers others.
        """
        if isinstance(failure, StorageUnavailable):
            self._breakers[node].log.failed(failure, refused)

    def call_at_once(self, commands: dict[str, list[bytes]]) -> list[Answer]:
        """Return the answers to commands for several nodes, which are sent before the first answer.

        Nothing is sent unless all connections are open and not in use: only the client opens
        connections, and `call` is the one that waits for one.
        pymemcache itself sends one command at a time, or several of one kind to one node.
        """
        exchanges = dict[str, Exchange]()
        # `call` is the one that tries whether a node answers again.
        if any(self._breakers[node].is_open for node in commands):
            return [None for sent in commands.values() for _ in sent]
        with ExitStack() as taken:
            for node, sent in commands.items():
                pool = self._pool(node)
                try:
                    client = taken.enter_context(pool.get_and_release(destroy_on_fail=True))
                except RuntimeError:  # The pool is used up.
                    return [None for sent in commands.values() for _ in sent]
                exchanges[node] = Exchange(client, sent)
            if all(exchange.is_open for exchange in exchanges.values()):
                self._send_all(exchanges)
        return [answer for exchange in exchanges.values() for answer in exchange.answers]

    def _send_all(self, exchanges: dict[str, Exchange]) -> None:
        began = clock.monotonic()
        for exchange in exchanges.values():
            if not exchange.send():
                break
        for node, exchange in exchanges.items():
            exchange.receive()
            if isinstance(error := exchange.answers[0], Exception):
                failure = translate_error(error, node, self.alias, ())
                self._breakers[node].failed(began, failure)
            elif error is not None:
                self._breakers[node].answered()

    def close(self) -> None:
        """Close all connections."""
        for node in self.clients.values():
            node.close()

    def _open(self) -> None:
        clients = [
            # Without a serde, values are the bytes that were sent: nothing is unpickled.
            PooledClient(server, default_noreply=False, **self._options)
            for server in self._cache.client_servers  # type: ignore[attr-defined]
        ]
        self.clients: dict[str, PooledClient] = {_name(client): client for client in clients}
        self._breakers = {name: Breaker(self._log(name)) for name in self.clients}
        self._process = os.getpid()

    def _log(self, node: str) -> OutageLog:
        return OutageLog(lambda: f"memcached at {node} (cache alias {self.alias!r})")

    def key(self, session_id: str) -> str:
        """Return the key of a session's item."""
        key: str = self._cache.make_key(NAMESPACE + session_id)
        return key

    def _pool(self, node: str) -> Any:
        if self._process != os.getpid():
            # A fork shares its parent's sockets, and would read the answers to its questions.
            self._open()
        return self.clients[node].client_pool


def _name(client: PooledClient) -> str:
    server = client.server
    return server if isinstance(server, str) else ":".join(map(str, server))


def _ask(
    client: Any,
    command: str,
    key: str | list[str],
    arguments: tuple[Any, ...],
    options: dict[str, Any],
) -> tuple[Any, bool]:
    method = getattr(client, command)
    was_idle = client.sock is not None
    try:
        return method(key, *arguments, **options), False
    except BROKEN:
        # A node that was restarted has closed its connections, which must not fail a request. The
        # client connects anew; a second failure is an outage.
        if not was_idle:
            raise
        return method(key, *arguments, **options), True
