"""Records in memcached, on the nodes of a Django cache but through clients of our own."""

from __future__ import annotations

import hashlib
import os
import socket
from contextlib import ExitStack, suppress
from typing import Any, Final, NamedTuple

import msgspec
from django.core.cache import caches
from django.core.cache.backends.base import BaseCache
from django.utils.translation import gettext_noop

from ..exceptions import (
    PayloadTooLarge,
    StorageFull,
    StorageUnavailable,
    UnreadablePayload,
    missing_extra,
)
from ..records import Record, moved, pack, unpack
from ..words import Phrase
from .base import NAMESPACE, CacheStorage, Conflict, Gone, Outcome, Taken, Updated
from .copies import is_refused

try:
    from pymemcache.client.base import PooledClient
    from pymemcache.exceptions import (
        MemcacheError,
        MemcacheServerError,
        MemcacheUnexpectedCloseError,
    )
except ImportError as error:
    raise missing_extra("pymemcache", "memcached") from error

# pymemcache has none: a node that hangs would hang its clients for ever.
TIMEOUT_SECONDS: Final = 2.0

# The options of ``CACHES`` that a client of one node has a use for. The others tune the way in
# which HashClient hides that a node is down, or would have it unpickle what it reads.
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

# What the client raises when the node does not answer, or not as it should: its own errors, those
# of the socket, RuntimeError when the pool is used up, and the last two when it parses garbage.
_FAILURES: Final = (MemcacheError, OSError, RuntimeError, ValueError, LookupError)
# What an idle connection that the node has closed meanwhile ends in.
_BROKEN: Final = (ConnectionError, MemcacheUnexpectedCloseError)

_STORED: Final = b"STORED"
_UNDERSTOOD: Final = frozenset({_STORED, b"NOT_STORED", b"EXISTS", b"NOT_FOUND"})
"""The answers to ``add`` and ``cas``, but for errors."""

# memcached takes larger numbers for a moment since the epoch.
_LONGEST_RELATIVE: Final = 30 * 24 * 60 * 60

# A round is lost only to someone who touched or filled the same session at that very moment.
_ROUNDS: Final = 50


class _Answer(NamedTuple):
    """What a node said to a command that stores."""

    stored: bool | None
    """``False`` if the item is there, or not the one it was; ``None`` if there is none."""
    sent_twice: bool
    """Whether the node may have carried out the command already when it answered this."""


_Said = bytes | Exception | None
"""The line that a node answers a command with, or what failed; ``None`` if it was not sent."""


class _Exchange:
    """Commands that store, for one node over one connection, and what it says to each."""

    def __init__(self, client: Any, commands: list[bytes]) -> None:
        self._client = client
        self._commands = commands
        self._is_due = False
        self.said: list[_Said] = [None] * len(commands)

    @property
    def is_open(self) -> bool:
        return self._client.sock is not None

    def send(self) -> bool:
        """Whether the commands could be sent."""
        try:
            self._client.sock.sendall(b"".join(self._commands))
        except _FAILURES as error:
            self._fail(error)
        else:
            self._is_due = True
        return self._is_due

    def receive(self) -> None:
        """Wait for the answers, if the commands were sent."""
        if not self._is_due:
            return
        try:
            lines = _lines(self._client.sock, len(self._commands))
        except _FAILURES as error:
            self._fail(error)
            return
        self.said = [*lines]
        if not _UNDERSTOOD.issuperset(lines):
            # There may be more to come, which the next command would take for its answer.
            self._client.close()

    def _fail(self, error: Exception) -> None:
        self._client.close()
        self.said = [error] * len(self._commands)


class _Stored(NamedTuple):
    """An item as a node has it."""

    data: bytes
    cas: bytes


def from_cache(alias: str) -> MemcachedStorage:
    """The storage for sessions in the PyMemcacheCache with this alias. Opens no connection."""
    # An instance of our own, for its keys and its list of servers only. Its HashClient unpickles
    # what it reads, answers "no such key" for a node that is down, and then moves the node's keys
    # to others: who logged out meanwhile is logged in again when the node is back.
    return MemcachedStorage(
        caches.create_connection(alias), caches.settings[alias].get("OPTIONS") or {}
    )


class MemcachedStorage(CacheStorage):
    """Records as items in their packed form. Every change of one is a compare-and-set.

    A session belongs to one node, chosen from the whole list whether nodes are up or not. While
    its node is down, the session is unavailable, and no other.
    """

    self_expiring = True
    deletes_blindly = True

    def __init__(self, cache: BaseCache, options: dict[str, Any]) -> None:
        self._cache = cache
        self._options = {
            "allow_unicode_keys": True,
            "connect_timeout": TIMEOUT_SECONDS,
            "timeout": TIMEOUT_SECONDS,
            "no_delay": True,
            **{name: value for name, value in options.items() if name in _CLIENT_OPTIONS},
        }
        self._open()
        # The client would call a bad prefix an outage, at each request.
        cache.make_and_validate_key(NAMESPACE + "0" * 40)

    def describe(self) -> str:
        return Phrase(
            gettext_noop("memcached at %(nodes)s through pymemcache"),
            nodes=", ".join(sorted(self._nodes)),
        )

    def read(self, session_id: str) -> Record | None:
        return _record(session_id, self._find(session_id))

    def create(self, record: Record, now: int) -> Updated | Taken:
        data = pack(record)
        answer = self._store("add", record, data, record.expires, now)
        if not answer.stored and not (answer.sent_twice and self._holds(record.id, data)):
            return Taken()
        return Updated(_without_handle(record))

    def update(self, record: Record, base: Record, now: int) -> Outcome:
        data = pack(record)
        current = self._current(base, now)
        for _ in range(_ROUNDS):
            if current is None or current.expires <= now:
                return Gone()
            if current.version != base.version:
                return Conflict(current)
            answer = self._store("cas", record, data, record.expires, now, current.handle)
            if answer.stored:
                return Updated(_without_handle(record))
            if answer.stored is None:
                return Gone()
            found = self._find(base.id)
            if answer.sent_twice and found is not None and found.data == data:
                return Updated(_without_handle(record))
            # If the version is still the same, someone has only moved the expiry.
            current = _record(base.id, found)
        raise self._contended(base.id)

    def touch(self, base: Record, expires: int, last_activity: int, now: int) -> bool:
        # Not memcached's own ``touch``, which looks at no version and leaves the times in the
        # record as they are.
        current = self._current(base, now)
        if current is None or current.expires <= now or current.version != base.version:
            return False
        touched = moved(current, expires, last_activity)
        answer = self._store("cas", touched, pack(touched), touched.expires, now, current.handle)
        return answer.stored is True

    def delete(self, session_id: str) -> bool:
        deleted, was_sent_twice = self._call(session_id, "delete")
        return bool(deleted or was_sent_twice)

    def rotate(self, record: Record, base: Record, grave: Record, now: int) -> Outcome | Taken:
        # One trip: the second write does not wait for the first. If only one was done, it is
        # undone, and why the other was refused is found out the long way.
        if base.handle is not None and base.expires > now:
            data = pack(record)
            end = _padded(grave, record.id, len(data))
            created, superseded = self._add_and_cas(record, data, base, end, grave.expires, now)
            if created and superseded:
                return Updated(_without_handle(record))
            if superseded:
                self._put_back(base, end, now)
            elif created:
                self.delete(record.id)
        return super().rotate(record, base, grave, now)

    def purge(self, now: int, batch: int) -> int:
        return 0

    def fill(self, record: Record, until: int, now: int) -> None:
        data = pack(record)
        for _ in range(_ROUNDS):
            found = self._find(record.id)
            if found is None:
                answer = self._store("add", record, data, until, now)
            elif self._is_refused(record, found, now):
                return
            else:
                answer = self._store("cas", record, data, until, now, found.cas)
            if answer.stored:
                return
        raise self._contended(record.id)

    def bury(self, grave: Record, now: int) -> None:
        self._store("set", grave, pack(grave), grave.expires, now)

    def close(self) -> None:
        for node in self._nodes.values():
            node.close()

    # --- Records and items ------------------------------------------------------------------

    def _current(self, base: Record, now: int) -> Record | None:
        """The record to compare with ``base``: itself, where it came with its cas token."""
        if base.handle is not None and base.expires > now:
            return base
        return self.read(base.id)

    def _find(self, session_id: str) -> _Stored | None:
        (data, cas), _ = self._call(session_id, "gets")
        if data is None:
            return None
        if cas == b"0":
            raise StorageUnavailable(
                f"memcached at {self._node_of(session_id)} was started with -C, which takes "
                "compare-and-set from it. Start it without."
            )
        return _Stored(data, cas)

    def _holds(self, session_id: str, data: bytes) -> bool:
        found = self._find(session_id)
        return found is not None and found.data == data

    def _is_refused(self, copy: Record, found: _Stored, now: int) -> bool:
        try:
            return is_refused(copy, unpack(copy.id, found.data), now)
        except UnreadablePayload:
            return False

    def _store(
        self,
        command: str,
        record: Record,
        data: bytes,
        until: int,
        now: int,
        cas: bytes | None = None,
    ) -> _Answer:
        arguments = (data,) if cas is None else (data, cas)
        return _Answer(*self._call(record.id, command, *arguments, expire=_lifetime(until, now)))

    def _add_and_cas(
        self, record: Record, data: bytes, base: Record, end: bytes, end_expires: int, now: int
    ) -> tuple[bool, bool]:
        """Add ``data`` and put ``end`` in place of ``base``, in one trip; which of them was done.

        Raises what the failure of a node is. What such a failure, or a crash, leads to:

        * A connection is not open, as after an outage that is known: nothing is sent. The long way
          begins with the new record.
        * The new session's node fails: the old session is put back, and was superseded until then.
          The new record may yet turn up, under a key that nobody knows.
        * The old session's node fails: the new record is removed. Whether the old session is
          superseded is not known, as on the long way.
        * This process dies between the sends: the old session is as it was. That is why the new
          record is sent first.
        * This process dies later: as if it had died before it could answer the login. Only if a
          node fails in that very moment, nobody is left to put the old session back.
        """
        new, old = self._node_of(record.id), self._node_of(base.id)
        add = b"add %b 0 %d %d\r\n%b\r\n" % (
            self._nodes[new].check_key(self._key(record.id)),
            *(_lifetime(record.expires, now), len(data), data),
        )
        cas = b"cas %b 0 %d %d %b\r\n%b\r\n" % (
            self._nodes[old].check_key(self._key(base.id)),
            *(_lifetime(end_expires, now), len(end), base.handle, end),
        )
        commands = {new: [add, cas]} if new == old else {new: [add], old: [cas]}
        added, swapped = self._say_at_once(commands)
        try:
            created = self._was_done(added, record.id, data)
        except StorageUnavailable:
            if new != old:
                with suppress(StorageUnavailable):
                    if self._was_done(swapped, base.id, end):
                        self._put_back(base, end, now)
            raise
        try:
            superseded = self._was_done(swapped, base.id, end)
        except StorageUnavailable:
            if created and new != old:
                with suppress(StorageUnavailable):
                    self.delete(record.id)
            raise
        return created, superseded

    def _say_at_once(self, commands: dict[str, list[bytes]]) -> list[_Said]:
        """What each command is answered with; all are sent before an answer is waited for.

        Nothing is sent unless all connections are open: to open them is the client's business.
        pymemcache itself sends one command at a time, or several of one kind to one node.
        """
        exchanges = []
        with ExitStack() as taken:
            for node, sent in commands.items():
                pool = self._pool(node)
                try:
                    client = taken.enter_context(pool.get_and_release(destroy_on_fail=True))
                except _FAILURES as error:  # The pool is used up.
                    raise _explained(error, node, ()) from error
                exchanges.append(_Exchange(client, sent))
            if all(exchange.is_open for exchange in exchanges):
                for exchange in exchanges:
                    if not exchange.send():
                        break
                for exchange in exchanges:
                    exchange.receive()
        return [said for exchange in exchanges for said in exchange.said]

    def _was_done(self, said: bytes | Exception | None, session_id: str, data: bytes) -> bool:
        """Whether a command that stores ``data`` was carried out, from what answered it.

        Raises what the failure of a node is.
        """
        if isinstance(said, _BROKEN):
            # Closed while it was idle, most likely; but the answer may have been lost.
            return self._holds(session_id, data)
        if isinstance(said, Exception):
            raise _explained(said, self._node_of(session_id), (data,)) from said
        return said == _STORED

    def _put_back(self, base: Record, end: bytes, now: int) -> None:
        """Undo the tombstone of a session that got no successor, if it is still there."""
        found = self._find(base.id)
        if found is not None and found.data == end:
            self._store("cas", base, pack(base), base.expires, now, found.cas)

    # --- Nodes ------------------------------------------------------------------------------

    def _open(self) -> None:
        clients = [
            # Without a serde, values are the bytes that were sent: nothing is unpickled.
            PooledClient(server, default_noreply=False, **self._options)
            for server in self._cache.client_servers  # type: ignore[attr-defined]
        ]
        self._nodes: dict[str, PooledClient] = {_name(client): client for client in clients}
        self._process = os.getpid()

    def _node_of(self, session_id: str) -> str:
        """The node with the highest score for the session (rendezvous hashing).

        The order of the list does not matter, and a node more or less moves only its own share.
        Not pymemcache's RendezvousHash, which is the same in twenty times as long.
        """
        if len(self._nodes) == 1:
            return next(iter(self._nodes))
        return max(
            self._nodes,
            key=lambda name: hashlib.blake2b(
                f"{name} {session_id}".encode(), digest_size=8
            ).digest(),
        )

    def _key(self, session_id: str) -> str:
        key: str = self._cache.make_key(NAMESPACE + session_id)
        return key

    def _pool(self, node: str) -> Any:
        if self._process != os.getpid():
            # A fork shares its parent's sockets, and would read the answers to its questions.
            self._open()
        return self._nodes[node].client_pool

    def _call(
        self, session_id: str, command: str, *arguments: Any, **options: Any
    ) -> tuple[Any, bool]:
        """The answer to one command, and whether it was sent twice.

        Raises `StorageUnavailable`, `StorageFull` and `PayloadTooLarge`.
        """
        name = self._node_of(session_id)
        key = self._key(session_id)
        pool = self._pool(name)
        try:
            # Not get_and_release(): its context manager takes 4 % of the time of a read.
            client = pool.get()
            try:
                answer = _ask(client, command, key, arguments, options)
            except BaseException:
                pool.destroy(client)
                raise
            pool.release(client)
        except _FAILURES as error:
            raise _explained(error, name, arguments) from error
        return answer

    def _contended(self, session_id: str) -> StorageUnavailable:
        return StorageUnavailable(
            f"memcached at {self._node_of(session_id)}: others changed the item of a session "
            f"{_ROUNDS} times in a row"
        )


def _name(client: PooledClient) -> str:
    server = client.server
    return server if isinstance(server, str) else ":".join(map(str, server))


def _ask(
    client: Any, command: str, key: str, arguments: tuple[Any, ...], options: dict[str, Any]
) -> tuple[Any, bool]:
    method = getattr(client, command)
    was_idle = client.sock is not None
    try:
        return method(key, *arguments, **options), False
    except _BROKEN:
        # A node that was restarted has closed what was open, which costs nobody a request. The
        # client connects anew; a second failure is an outage.
        if not was_idle:
            raise
        return method(key, *arguments, **options), True


def _lines(connection: socket.socket, count: int) -> list[bytes]:
    """What a node says to commands that store: a line each."""
    said = b""
    while said.count(b"\r\n") < count:
        piece = connection.recv(4096)
        if not piece:
            raise MemcacheUnexpectedCloseError
        said += piece
    *lines, rest = said.split(b"\r\n", count)
    if rest:
        raise MemcacheError(f"{rest!r} after the last answer")
    return lines


def _record(session_id: str, found: _Stored | None) -> Record | None:
    return None if found is None else unpack(session_id, found.data, found.cas)


def _without_handle(record: Record) -> Record:
    # memcached does not tell the token of what it has just stored.
    return record if record.handle is None else msgspec.structs.replace(record, handle=None)


def _padded(grave: Record, successor: str, size: int) -> bytes:
    """A packed tombstone of ``size`` bytes, those of the session that takes its place.

    A node that refuses the session, as too large or for want of memory, then refuses the tombstone
    as well. A small one it might take, which ends a session that nothing has replaced. The id of
    the successor tells it from the tombstone of another request in the same millisecond.
    """
    filling = successor.encode()
    padding, packed = 0, pack(grave)
    for _ in range(2):  # To tell the length of the padding takes some bytes, too.
        padding = max(0, padding + size - len(packed))
        packed = pack(
            msgspec.structs.replace(grave, payload=filling[:padding].ljust(padding, b"\0"))
        )
    return packed


def _lifetime(until: int, now: int) -> int:
    """The time as memcached wants to be told it; never too short, as the record itself decides.

    Seconds from now while that is possible, as the clock of a node may differ.
    """
    seconds = -((now - until) // 1000)
    if seconds <= 0:
        return -1
    # memcached counts from its last tick, up to a second ago.
    seconds += 1
    return seconds if seconds <= _LONGEST_RELATIVE else -(-until // 1000)


def _explained(
    error: Exception, node: str, arguments: tuple[Any, ...]
) -> StorageUnavailable | PayloadTooLarge:
    said = b" ".join(arg for arg in error.args if isinstance(arg, bytes))
    if isinstance(error, MemcacheServerError):
        if b"too large" in said:
            return PayloadTooLarge(
                f"The session takes {len(arguments[0])} bytes, more than memcached at {node} "
                "keeps in one item. Store less in the session, or start memcached with a larger "
                "-I (1 MB by default)."
            )
        if b"out of memory" in said:
            return StorageFull(f"memcached at {node} has no memory left: give it more with -m")
    reason = said.decode("ascii", "replace") or str(error)
    return StorageUnavailable(f"memcached at {node}: {type(error).__name__}: {reason}")
