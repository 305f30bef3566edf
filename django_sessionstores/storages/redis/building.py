"""Building the index of sessions in Redis: one request does it, and the others wait."""

from __future__ import annotations

import logging
import random
import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from itertools import chain
from typing import Any, Final

from ...core.flow import Call, Flow, Pause, run
from ...core.records import Record, State, is_session_id
from ...exceptions import StorageFull, StorageUnavailable
from ..base import Storage
from . import scripts
from .answers import find, may_evict
from .client import Server
from .members import Member, site_of
from .scripts import Script

logger: Final = logging.getLogger("django_sessionstores")

_BATCH: Final = 1000
BUILDER_SECONDS: Final = 10.0
"""How long the lock stays after a request that was killed while it rebuilt the index."""
WAIT_SECONDS: Final = 5.0
"""How long a request waits for an index that another request rebuilds."""
_BUILDER_TTL: Final = int(BUILDER_SECONDS * 1000)
_FIRST_PAUSE: Final = 0.02
_LONGEST_PAUSE: Final = 0.25
_SITES: Final = "{index}:sites"


class IndexBuilder:
    """Builds the indexes of the site on a server, and has the lock of whoever looks at all keys.

    ``storage`` is the storage of the records, whose ``reindex`` calls `rebuild`. ``keys`` returns
    the keys of the two sets of a site.
    """

    def __init__(
        self, server: Server, storage: Storage, keys: Callable[[int], tuple[str, str]]
    ) -> None:
        self._server = server
        self._storage = storage
        self._keys = keys

    @property
    def lock(self) -> str:
        """The key of the lock."""
        return self._server.key(f"{{index}}:{self._storage.sites()[0] & 0xFFFFFFFF:08x}:builder")

    @property
    def sites_key(self) -> str:
        """The key of the set of all sites that have an index."""
        return self._server.key(_SITES)

    def is_complete(self) -> bool:
        """Return whether the indexes of the site have all sessions.

        The empty member of each set says so. A mark without an index is that of a new key.
        """
        begun = set(map(int, self._server.ask("SMEMBERS", self.sites_key)))
        known = [each for each in self._storage.sites() if not begun or each in begun]
        names = chain.from_iterable(map(self._keys, known))
        return all(self._server.ask("ZSCORE", name, "") is not None for name in names)

    def rebuild(self, builder: str = "") -> int:
        """Build the index from the records, and return the number of sessions.

        Looks at each key of the server once, including the keys of others. Sessions of other sites
        are left out. Requests that need the index wait for this, and do not do the same.
        ``builder`` is the token that the lock holds, if the caller holds the lock.

        If a KEY_FUNCTION of the cache does not end in the key, sessions cannot be told from other
        keys. They come into the index when they are next used.

        Raises `StorageFull` if the server has no memory for sessions that are missing. An index
        that lacks none can be completed without memory.
        """
        if not builder:
            builder = secrets.token_hex(8)
            run(self._server.evaluate(scripts.SEIZE, (self.lock,), builder, _BUILDER_TTL))
        total, sites = 0, set[int]()
        try:
            for records in self.records(builder):
                sites.update(site_of(self._storage, each) for each in records)
                total += self._list(records)
            run(self._server.evaluate(scripts.NOTE_SITES, (self.sites_key,), *sites))
            for site in self._storage.sites():
                keys = (*self._keys(site), self.sites_key)
                run(self._server.evaluate(scripts.COMPLETE, keys, site))
        except StorageFull as error:
            raise StorageFull(
                f"{self._server.describe()} has no memory left for the sessions that its index "
                "lacks. Raise maxmemory, at least until this has run: python manage.py sessions "
                "reindex"
            ) from error
        finally:
            self.release(builder)
        return total

    def ask(self, site: int, script: Script, *arguments: Any) -> Flow[Any]:
        """Return what a script reads from an index, which is rebuilt first if it is incomplete.

        One request of all processes does that, and never because the site has a new key or tenant:
        the index of a new mark is complete, see `scripts.BEGIN`. The others wait for it, and raise
        `StorageUnavailable` if it takes longer than `WAIT_SECONDS`: what they could return
        meanwhile would leave sessions out. If the builder is killed, its lock ends, and another
        request builds.
        """
        keys = self._keys(site)
        answer = yield from self._server.evaluate(script, keys, *arguments)
        if answer is None and not (yield from self._may_be_evicted()):
            begin = (*keys, self.sites_key)
            if (yield from self._server.evaluate(scripts.BEGIN, begin, site)):
                answer = yield from self._server.evaluate(script, keys, *arguments)
        if answer is not None:
            return answer
        wait = _Wait(self._server)
        while True:
            builder = yield from self._try_to_take()
            # Another request may have finished just before.
            answer = yield from self._server.evaluate(script, keys, *arguments)
            if builder and answer is None:
                logger.info("The session index is incomplete and is being rebuilt.")
                yield Call(self._storage, "reindex", (builder,))
                answer = yield from self._server.evaluate(script, keys, *arguments)
                if answer is None:
                    raise StorageUnavailable(
                        f"{self._server.describe()} dropped the index of sessions while it was "
                        "made. Give the server more memory, or an eviction policy that keeps what "
                        "is used."
                    )
            elif builder:
                yield from self._server.evaluate(scripts.RELEASE, (self.lock,), builder)
            if answer is not None:
                return answer
            yield from wait.once()

    def take_lock(self) -> Flow[str]:
        """Return the token of the lock when no other request holds it.

        Raises `StorageUnavailable` if that takes longer than `WAIT_SECONDS`.
        """
        wait = _Wait(self._server)
        while not (builder := (yield from self._try_to_take())):
            yield from wait.once()
        return builder

    def _try_to_take(self) -> Flow[str]:
        """Return the token of the lock; empty if another request holds it."""
        builder, lock = secrets.token_hex(8), (self.lock,)
        taken = yield from self._server.evaluate(scripts.TAKE, lock, builder, _BUILDER_TTL)
        return builder if taken else ""

    def release(self, builder: str) -> None:
        """Give the lock back, if it is held with this token."""
        with suppress(StorageUnavailable):  # The lock ends by itself.
            run(self._server.evaluate(scripts.RELEASE, (self.lock,), builder))

    def records(
        self, builder: str, is_wanted: Callable[[str], bool] = bool
    ) -> Iterator[list[Record]]:
        """Yield the live records with wanted ids, by looking at each key of the server once.

        The caller holds the lock with the token ``builder``. Payloads are left out. A list may be
        empty.
        """
        held_at = time.monotonic()
        for ids in _batches_of_ids(self._server, is_wanted):
            if time.monotonic() - held_at > BUILDER_SECONDS / 4:
                run(self._server.evaluate(scripts.HOLD, (self.lock,), builder, _BUILDER_TTL))
                held_at = time.monotonic()
            if ids:
                yield list(run(find(self._server, ids, State.LIVE)).values())

    def _may_be_evicted(self) -> Flow[bool]:
        """Return whether a full server may drop an index, which has no lifetime.

        If so, the index of a new mark is not known to be complete. A server that does not say what
        it does is one that may.
        """
        try:
            return may_evict((yield Call(self._server, "ask", ("INFO", "memory"))))
        except StorageUnavailable:
            return True

    def _list(self, records: Sequence[Record]) -> int:
        """Add the records of this site to its indexes, and return how many there are."""
        total = 0
        for site in self._storage.sites():
            names = [
                (Member(each.id, each.user_id).name, each.expires)
                for each in records
                if site_of(self._storage, each) == site
            ]
            if names:
                keys = self._keys(site)
                run(self._server.evaluate(scripts.LIST, keys, *chain.from_iterable(names)))
            total += len(names)
        return total


class _Wait:
    """The wait of a request for what another one does."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._deadline = time.monotonic() + WAIT_SECONDS
        self._pause = _FIRST_PAUSE

    def once(self) -> Flow[None]:
        """Wait for a moment. Raises `StorageUnavailable` when the time is over."""
        if time.monotonic() > self._deadline:
            raise StorageUnavailable(
                f"{self._server.describe()}: another request or command makes the index of "
                f"sessions anew, which takes longer than {WAIT_SECONDS:g} seconds. Try again "
                "later."
            )
        yield Call(Pause, "sleep", (self._pause * random.uniform(0.5, 1),))  # noqa: S311
        self._pause = min(2 * self._pause, _LONGEST_PAUSE)


def _batches_of_ids(server: Server, is_wanted: Callable[[str], bool]) -> Iterator[list[str]]:
    """Yield the wanted ids of all records, and perhaps of some that have gone.

    A batch may be empty: one comes after each round trip.
    """
    prefix = server.key("")
    if server.key("a") != f"{prefix}a":
        return
    ids: list[str] = []
    for keys in server.scan_pages(prefix):
        for key in keys:
            session_id = key[len(prefix.encode()) :].decode(errors="replace")
            if is_session_id(session_id) and is_wanted(session_id):
                ids.append(session_id)
        full = len(ids) >= _BATCH
        yield ids if full else []
        if full:
            ids = []
    yield ids
