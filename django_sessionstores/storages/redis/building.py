"""Building the index of sessions in Redis: one request does it, and the others wait."""

from __future__ import annotations

import logging
import random
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Final, TypeVar

from ...core.flow import Call, Flow, Pause, run
from ...core.records import Record, State
from ...exceptions import StorageFull, StorageUnavailable
from ..base import Storage
from . import index_scripts as scripts
from .answers import find, may_evict
from .client import Server
from .keys import ids_in, lock_key, sites_key
from .rebuilding import Rebuild, directories_of
from .running import Evaluation

logger: Final = logging.getLogger("django_sessionstores")

_BATCH: Final = 1000
BUILDER_SECONDS: Final = 10.0
"""How long the lock stays after a request that was killed while it rebuilt the index."""
BUILD_SECONDS: Final = 5.0
"""How long one request rebuilds the index. The next one goes on with it."""
WAIT_SECONDS: Final = 5.0
"""How long a request waits for an index that another request rebuilds."""
POLICY_SECONDS: Final = 60.0
"""How long a process relies on what the server has said it does when it is full."""
_BUILDER_TTL: Final = int(BUILDER_SECONDS * 1000)
_FIRST_PAUSE: Final = 0.02
_LONGEST_PAUSE: Final = 0.25
T = TypeVar("T")


class IndexBuilder:
    """Builds the indexes of the site on a server, and has the lock of whoever looks at all keys.

    ``storage`` is the storage of the records, whose ``reindex`` calls `rebuild`.
    """

    def __init__(self, server: Server, storage: Storage) -> None:
        self._server = server
        self._storage = storage
        self._is_evicting = True
        self._policy_until = 0.0

    @property
    def lock(self) -> bytes:
        """The key of the lock."""
        return lock_key(self._server.prefix, self._storage.sites()[0])

    @property
    def sites_key(self) -> bytes:
        """The key of the set of all sites that have an index."""
        return sites_key(self._server.prefix)

    def is_complete(self) -> bool:
        """Return whether the indexes of the site have all sessions.

        A mark without an index is that of a new key.
        """
        begun = set(map(int, self._server.ask("SMEMBERS", self.sites_key)))
        known = [each for each in self._storage.sites() if not begun or each in begun]
        calls: list[Evaluation] = [
            (scripts.COUNT, (key,), (0, 1)) for key in self.directories(*known)
        ]
        answers = run(self._server.evaluate_all(calls)) if known else []
        return all(each[0] == scripts.COMPLETE_STATE for each in answers)

    def rebuild(self, builder: str = "") -> int:
        """Build the index from the records, and return the number of sessions.

        Looks at each key of the server once, including the keys of others. Sessions of other sites
        are left out. Requests that need the index wait for this, and do not do the same.
        ``builder`` is the token that the lock holds, if the caller holds the lock. Such a caller is
        a request: after `BUILD_SECONDS` this raises `StorageUnavailable`, and the next one goes on.

        Raises `StorageFull` if the server has no memory for sessions that are missing. An index
        that lacks none can be completed without memory.
        """
        is_request = bool(builder)
        if not is_request:
            builder = secrets.token_hex(8)
            run(self._server.evaluate(scripts.SEIZE, (self.lock,), builder, _BUILDER_TTL))
        rebuild = Rebuild(self._server, self._storage, self._keep_lock(builder))
        try:
            return rebuild.run(BUILD_SECONDS if is_request else None)
        except StorageFull as error:
            raise StorageFull(
                f"{self._server.describe()} has no memory left for the sessions that its index "
                "lacks. Raise maxmemory, at least until this has run: python manage.py sessions "
                "reindex"
            ) from error
        finally:
            self.release(builder)

    def ask(self, read: Callable[[], Flow[T | None]]) -> Flow[T]:
        """Return what a flow reads from an index, which is rebuilt first if it is incomplete.

        The flow returns nothing then. One request of all processes rebuilds the index, and never
        because the site has a new key or tenant: the index of a new mark is complete, see `_begin`.
        The others wait for it, and raise `StorageUnavailable` if it takes longer than
        `WAIT_SECONDS`: what they could return meanwhile would leave sessions out. If the builder is
        killed, its lock ends, and another request builds.
        """
        answer = yield from read()
        if answer is None and (yield from self._begin()):
            answer = yield from read()
        if answer is not None:
            return answer
        wait = _Wait(self._server)
        while True:
            builder = yield from self._try_to_take()
            # Another request may have finished just before.
            answer = yield from read()
            if builder and answer is None:
                logger.info("The session index is incomplete and is being rebuilt.")
                yield Call(self._storage, "reindex", (builder,))
                answer = yield from read()
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
        for ids in self._all_ids(builder, is_wanted):
            if ids:
                yield list(run(find(self._server, ids, State.LIVE)).values())

    def _all_ids(self, builder: str, is_wanted: Callable[[str], bool]) -> Iterator[list[str]]:
        """Yield the wanted ids of all records, and keep the lock meanwhile."""
        keep_lock = self._keep_lock(builder)
        for ids in _batches_of_ids(self._server, is_wanted):
            keep_lock()
            yield ids

    def _keep_lock(self, builder: str) -> Callable[[], None]:
        """Return a function that keeps the lock, if it is called from time to time."""
        held_at = time.monotonic()

        def keep() -> None:
            nonlocal held_at
            if time.monotonic() - held_at > BUILDER_SECONDS / 4:
                run(self._server.evaluate(scripts.HOLD, (self.lock,), builder, _BUILDER_TTL))
                held_at = time.monotonic()

        return keep

    def may_be_evicted(self) -> Flow[bool]:
        """Return whether a full server may drop an index, which has no lifetime.

        If so, the index of a new mark is not known to be complete. A server that does not say what
        it does is one that may. What it has said counts for a while.
        """
        if time.monotonic() >= self._policy_until:
            try:
                memory = yield Call(self._server, "ask", ("INFO", "memory"))
                self._is_evicting = may_evict(memory)
            except StorageUnavailable:
                self._is_evicting = True
            self._policy_until = time.monotonic() + POLICY_SECONDS
        return self._is_evicting

    def _begin(self) -> Flow[bool]:
        """Complete the indexes of new marks, and return whether there were any.

        A mark that is not in the set of sites has no records but those whose writes have listed
        them, unless the server drops keys. That is so because a rebuild makes the set with the
        marks of all records that there are.
        """
        begun = set(map(int, (yield Call(self._server, "ask", ("SMEMBERS", self.sites_key)))))
        new = [each for each in self._storage.sites() if each not in begun]
        if not begun or not new or (yield from self.may_be_evicted()):
            return False
        calls: list[Evaluation] = [
            (scripts.COMPLETE, (key,), (0,)) for key in self.directories(*new)
        ]
        yield from self._server.evaluate_all(calls)
        yield from self._note_sites(*new)
        return True

    def _note_sites(self, *sites: int) -> Flow[None]:
        yield from self._server.evaluate(scripts.NOTE_SITES, (self.sites_key,), *sites)

    def directories(self, *sites: int) -> list[bytes]:
        """Return the keys of all directories of sites, or of this site."""
        return directories_of(self._server, sites or self._storage.sites())


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
    prefix, ids = server.prefix, list[str]()
    for keys in server.scan_pages(prefix + b"{"):
        ids += filter(is_wanted, ids_in(prefix, keys))
        full = len(ids) >= _BATCH
        yield ids if full else []
        if full:
            ids = []
    yield ids
