"""The index of the sessions in Redis: two sorted sets for each site, see `scripts`."""

from __future__ import annotations

import logging
import random
import re
import secrets
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from itertools import chain
from typing import Any, Final, NamedTuple

from ...core.flow import Call, Flow, Pause, run
from ...core.records import (
    ID_SIZE,
    Record,
    State,
    is_session_id,
)
from ...exceptions import StorageUnavailable
from ..base import LITTER_AGE, Page, Storage, cursor_error
from . import scripts
from .answers import find, may_evict
from .client import Server
from .scripts import Script

logger: Final = logging.getLogger("django_sessionstores")

_BATCH: Final = 1000
_CURSOR: Final = re.compile(r"(?:(\d{1,9})/)?((\d{0,18})\.((?:[0-9a-f]{2})+))?", re.ASCII)
BUILDER_SECONDS: Final = 10.0
"""How long the lock stays after a request that was killed while it rebuilt the index."""
WAIT_SECONDS: Final = 5.0
"""How long a request waits for an index that another request rebuilds."""
_BUILDER_TTL: Final = int(BUILDER_SECONDS * 1000)
_FIRST_PAUSE: Final = 0.02
_LONGEST_PAUSE: Final = 0.25
_MOST_LOOKS: Final = 1000
"""About how many members of a user one call looks at to find those that have not expired."""
_MEMBER_AGE: Final = 3_600_000
"""How many milliseconds after its expiry a member of the index is litter, by any clock."""
_SITES: Final = "{index}:sites"


class Moves(NamedTuple):
    """What a write does to the indexes."""

    removed: bytes = b""
    added: bytes = b""
    expires: int = 0
    litter: int = 0
    """Members that expired before this moment are removed, a few at a time."""
    site: int = 0
    """The mark of the site to whose index the member is added."""
    other: int | None = None
    """The mark of the site from whose index the member is removed, if it is another one."""

    @property
    def arguments(self) -> tuple[Any, ...]:
        """The arguments of the scripts."""
        return self[:4]

    @property
    def lists_anew(self) -> bool:
        """Whether a session comes into the index that was not there."""
        return bool(self.added) and self.added != self.removed


class Member(NamedTuple):
    """A session in the index."""

    id: str
    user_id: str | None
    score: bytes = b""
    """When it expires, in milliseconds as the server writes them; empty if that is not known."""

    @classmethod
    def parse(cls, name: bytes, score: bytes) -> Member:
        """Return the member with this name in the set of all sessions."""
        user = name[ID_SIZE + 1 :].decode() if len(name) > ID_SIZE else None
        return cls(name[:ID_SIZE].hex(), user, score)

    @property
    def name(self) -> bytes:
        user = b"" if self.user_id is None else b":" + self.user_id.encode()
        return bytes.fromhex(self.id) + user


class SessionIndex:
    """The indexes of the site on a server, and the lock of the request that rebuilds them.

    There is an index for each mark of the site, so more than one only while the site rotates its
    secret. ``storage`` is the storage of the records, whose ``reindex`` calls `rebuild`.
    """

    def __init__(self, server: Server, storage: Storage) -> None:
        self._server = server
        self._storage = storage
        self._fixed_keys: dict[int, tuple[str, str]] = {}

    @property
    def keys(self) -> tuple[str, ...]:
        """The keys of all indexes of the site."""
        return self.keys_of(*self._storage.sites())

    def keys_of(self, *sites: int) -> tuple[str, ...]:
        """Return the keys of the two sets of each site, one pair after the other."""
        return tuple(chain.from_iterable(map(self._keys, sites)))

    def _keys(self, site: int) -> tuple[str, str]:
        keys = self._fixed_keys.get(site)
        if keys is None:
            # In braces, so that a cluster keeps them on one node.
            name = f"{{index}}:{site & 0xFFFFFFFF:08x}"
            keys = (self._server.key(f"{name}:all"), self._server.key(f"{name}:users"))
            if self._server.has_fixed_keys:
                self._fixed_keys[site] = keys
        return keys

    def keys_for(self, moves: Moves) -> tuple[str, ...]:
        """Return the keys that a script needs for what it does to the indexes."""
        if moves.other is None:
            return self._keys(moves.site)
        return self.keys_of(moves.site, moves.other)

    @property
    def lock(self) -> str:
        """The key of the lock."""
        return self._server.key(f"{{index}}:{self._storage.sites()[0] & 0xFFFFFFFF:08x}:builder")

    def moves_of(self, base: Record | None, record: Record, now: int) -> Moves:
        """Return what the indexes have to do when ``record`` replaces ``base``."""
        removed = Member(base.id, base.user_id).name if base else b""
        added = Member(record.id, record.user_id).name if record.state is State.LIVE else b""
        site = self._site_of(record)
        other = self._site_of(base) if base else site
        litter = max(0, now - _MEMBER_AGE)
        return Moves(removed, added, record.expires, litter, site, other if other != site else None)

    def _site_of(self, record: Record) -> int:
        return record.site or self._storage.sites()[0]

    def scan(self, cursor: str, limit: int, user_id: str | None, live_at: int = 0) -> Flow[Page]:
        """See `Storage.scan`."""
        # On a cluster, a member may be behind its record, and only a list makes up for that.
        floor = 0 if self._server.spans_slots else live_at
        site, members, following = yield from self._page(cursor, limit, user_id, floor)
        found = yield from self._find(members)
        yield from self._heal(site, members, found)
        return Page(
            [
                each
                for each in found
                if each and user_id in {None, each.user_id} and each.site in {0, site}
            ],
            following,
        )

    def count(self, now: int, user_id: str | None) -> Flow[int]:
        """See `Storage.count`."""
        total, cursor = 0, ""
        if user_id is None:
            for site in self._storage.sites():
                total += yield from self._ask(site, scripts.COUNT, now)
            return total
        while True:
            _, members, cursor = yield from self._page(cursor, _BATCH, user_id, now)
            total += sum(bool(each.score) and int(each.score) > now for each in members)
            if not cursor:
                return total

    def sample(self, now: int, limit: int) -> Flow[tuple[list[Record], bool]]:
        """Return up to ``limit`` live sessions chosen at random, and whether these are all."""
        counts: dict[int, int] = {}
        for site in self._storage.sites():
            counts[site] = yield from self._ask(site, scripts.COUNT, now)
        live, names = sum(counts.values()), list[bytes]()
        for site, number in counts.items():
            if not number:
                continue  # A range from -0 would be the whole set.
            key, _ = self._keys(site)
            if live <= limit:
                names += yield Call(self._server, "ask", ("ZRANGE", key, -number, -1))
                continue
            # Not ZRANDMEMBER, which Redis has since 6.2 and which returns expired members as well.
            end = yield Call(self._server, "ask", ("ZCARD", key))
            first = max(0, end - number)
            ranks = random.sample(range(first, end), min(limit * number // live, end - first))
            commands = [("ZRANGE", key, rank, rank) for rank in sorted(ranks)]
            names += chain.from_iterable((yield Call(self._server, "ask_all", (commands,))))
        found = yield from self._find([Member.parse(each, b"") for each in names if each])
        return [each for each in found if each and each.is_live(now)], live <= limit

    def purge(self, now: int, batch: int) -> Flow[int]:
        """Remove members whose records have expired, and return how many.

        In the index of another site, a member stays for another `LITTER_AGE`.
        """
        own = self._storage.sites()
        for site in own:
            if gone := (yield from self._purge(site, now, batch)):
                return gone
        others: set[bytes] = yield Call(self._server, "ask", ("SMEMBERS", self._sites_key))
        for site in sorted(set(map(int, others)).difference(own)):
            if gone := (yield from self._purge(site, now - LITTER_AGE, batch)):
                return gone
        return 0

    def _purge(self, site: int, now: int, batch: int) -> Flow[int]:
        keys = self._keys(site)
        while expired := (yield from self._server.evaluate(scripts.EXPIRED, keys, now, batch)):
            members = [Member.parse(*pair) for pair in _pairs(expired)]
            records = yield from self._find(members)
            found = [each if each and each.is_live(now) else None for each in records]
            if gone := (yield from self._heal(site, members, found)):
                return gone
        return 0

    def move(self, moves: Moves) -> Flow[None]:
        """Let the index follow a write that did not move it in the same step."""
        try:
            yield from self._server.evaluate(scripts.MOVE, self.keys_for(moves), *moves.arguments)
        except StorageUnavailable as error:
            # A new session that nobody can find must not begin. The index of others heals.
            if moves.lists_anew:
                raise
            # Each write meets this while the node of the index fails.
            level = logging.DEBUG if error.was_logged else logging.WARNING
            logger.log(level, "The index of sessions is behind until it heals: %s", error)

    def is_complete(self) -> bool:
        """Return whether the indexes of the site have all sessions.

        The empty member of each set says so. A mark without an index is that of a new key.
        """
        begun = set(map(int, self._server.ask("SMEMBERS", self._sites_key)))
        known = [each for each in self._storage.sites() if not begun or each in begun]
        names = self.keys_of(*known)
        return all(self._server.ask("ZSCORE", name, "") is not None for name in names)

    @property
    def _sites_key(self) -> str:
        return self._server.key(_SITES)

    # --- Building --------------------------------------------------------------------------

    def rebuild(self, builder: str = "") -> int:
        """Build the index from the records, and return the number of sessions.

        Looks at each key of the server once, including the keys of others. Sessions of other sites
        are left out. Requests that need the index wait for this, and do not do the same.
        ``builder`` is the token that the lock holds, if the caller holds the lock.

        If a KEY_FUNCTION of the cache does not end in the key, sessions cannot be told from other
        keys. They come into the index when they are next used.
        """
        if not builder:
            builder = secrets.token_hex(8)
            self._server.ask("SET", self.lock, builder, "PX", _BUILDER_TTL)
        held_at, total, sites = time.monotonic(), 0, set[int]()
        try:
            for ids in _batches_of_ids(self._server):
                if time.monotonic() - held_at > BUILDER_SECONDS / 4:
                    run(self._server.evaluate(scripts.HOLD, (self.lock,), builder, _BUILDER_TTL))
                    held_at = time.monotonic()
                if ids:
                    records = [each for each in run(self._records(ids)) if each]
                    sites.update(map(self._site_of, records))
                    total += self._list(records)
            run(self._server.evaluate(scripts.NOTE_SITES, (self._sites_key,), *sites))
            for site in self._storage.sites():
                keys = (*self._keys(site), self._sites_key)
                run(self._server.evaluate(scripts.COMPLETE, keys, site))
        finally:
            with suppress(StorageUnavailable):  # The lock ends by itself.
                run(self._server.evaluate(scripts.RELEASE, (self.lock,), builder))
        return total

    def _ask(self, site: int, script: Script, *arguments: Any) -> Flow[Any]:
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
            begin = (*keys, self._sites_key)
            if (yield from self._server.evaluate(scripts.BEGIN, begin, site)):
                answer = yield from self._server.evaluate(script, keys, *arguments)
        if answer is not None:
            return answer
        deadline, pause = time.monotonic() + WAIT_SECONDS, _FIRST_PAUSE
        while True:
            builder = secrets.token_hex(8)
            lock = ("SET", self.lock, builder, "NX", "PX", _BUILDER_TTL)
            is_builder = yield Call(self._server, "ask", lock)
            # Another request may have finished just before.
            answer = yield from self._server.evaluate(script, keys, *arguments)
            if is_builder and answer is None:
                logger.info("The session index is incomplete and is being rebuilt.")
                yield Call(self._storage, "reindex", (builder,))
                answer = yield from self._server.evaluate(script, keys, *arguments)
                if answer is None:
                    raise StorageUnavailable(
                        f"{self._server.describe()} dropped the index of sessions while it was "
                        "made. Give the server more memory, or an eviction policy that keeps what "
                        "is used."
                    )
            elif is_builder:
                yield from self._server.evaluate(scripts.RELEASE, (self.lock,), builder)
            if answer is not None:
                return answer
            if time.monotonic() > deadline:
                raise StorageUnavailable(
                    f"{self._server.describe()}: another request or command makes the index of "
                    f"sessions anew, which takes longer than {WAIT_SECONDS:g} seconds. Try again "
                    "later."
                )
            yield Call(Pause, "sleep", (pause * random.uniform(0.5, 1),))  # noqa: S311
            pause = min(2 * pause, _LONGEST_PAUSE)

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
                if self._site_of(each) == site
            ]
            if names:
                keys = self._keys(site)
                run(self._server.evaluate(scripts.LIST, keys, *chain.from_iterable(names)))
            total += len(names)
        return total

    # --- Members and their records ---------------------------------------------------------

    def _page(
        self, cursor: str, limit: int, user_id: str | None, floor: int
    ) -> Flow[tuple[int, list[Member], str]]:
        """Return the mark of a site, up to ``limit`` members of its index, and the next cursor.

        Members that have expired by ``floor`` are left out.

        The pages of one index follow those of another one. The cursor has the place of the index
        among them, unless that is the first one. Raises ``ValueError`` if the cursor is not one.
        """
        sites, parts = self._storage.sites(), _CURSOR.fullmatch(cursor)
        place = int(parts[1] or 0) if parts else 0
        if parts is None or place >= len(sites):
            raise cursor_error(cursor)
        if parts[2] and bool(parts[3]) is not (user_id is None):
            raise cursor_error(cursor)
        members, following = yield from self._page_of(
            sites[place], parts[3] or "", bytes.fromhex(parts[4] or ""), limit, user_id, floor
        )
        if not following and place + 1 < len(sites):
            return sites[place], members, f"{place + 1}/"
        return sites[place], members, f"{place}/{following}" if following and place else following

    def _page_of(
        self, site: int, moment: str, after: bytes, limit: int, user_id: str | None, floor: int
    ) -> Flow[tuple[list[Member], str]]:
        """Return up to ``limit`` members of an index, and the cursor of the rest."""
        if user_id is not None:
            litter = max(0, floor - _MEMBER_AGE)
            asked = (user_id, after, limit, floor, litter, _MOST_LOOKS)
            last, found = yield from self._ask(site, scripts.PAGE_OF_USER, *asked)
            return [
                Member(name.hex(), user_id, score)
                for name, score in _pairs(found)
                if len(name) == ID_SIZE
            ], f".{last.hex()}" if last else ""
        # One more tells whether there is another page.
        start = moment or "+inf"
        answer = yield from self._ask(site, scripts.PAGE, start, after, limit + 1, floor or "-inf")
        pairs, following = _pairs(answer), ""
        if len(pairs) > limit:
            pairs = pairs[:limit]
            name, score = pairs[-1]
            following = f"{int(score)}.{name[:ID_SIZE].hex()}"
        return [Member.parse(*pair) for pair in pairs], following

    def _find(self, members: Sequence[Member]) -> Flow[list[Record | None]]:
        return (yield from self._records([each.id for each in members]))

    def _records(self, ids: Sequence[str]) -> Flow[list[Record | None]]:
        """Return the live records with these ids, without payloads."""
        found = yield from find(self._server, ids, State.LIVE)
        return [found.get(each) for each in ids]

    def _heal(
        self, site: int, members: Sequence[Member], found: Sequence[Record | None]
    ) -> Flow[int]:
        """Bring members up to date with their records, and return how many members are gone.

        A record with another mark than that of the index is in another index. One without a mark
        stays in the index that has it.
        """
        arguments: list[Any] = []
        for member, record in zip(members, found, strict=True):
            if record is not None and record.site not in {0, site}:
                record = None
            if record is None or record.user_id != member.user_id:
                arguments += (member.name, member.score, b"")
            if record is not None:
                true = Member(record.id, record.user_id, b"%d" % record.expires)
                if true != member:
                    seen = member.score if record.user_id == member.user_id else b""
                    arguments += (true.name, seen, record.expires)
        if not arguments:
            return 0
        gone: int = yield from self._server.evaluate(scripts.HEAL, self._keys(site), *arguments)
        return gone


def _batches_of_ids(server: Server) -> Iterator[list[str]]:
    """Yield the ids of all records, and perhaps of some that have gone.

    A batch may be empty: one comes after each round trip.
    """
    prefix = server.key("")
    if server.key("a") != f"{prefix}a":
        return
    ids: list[str] = []
    for keys in server.scan_pages(prefix):
        for key in keys:
            session_id = key[len(prefix.encode()) :].decode(errors="replace")
            if is_session_id(session_id):
                ids.append(session_id)
        full = len(ids) >= _BATCH
        yield ids if full else []
        if full:
            ids = []
    yield ids


def _pairs(answer: Sequence[bytes]) -> list[tuple[bytes, bytes]]:
    """Return names and scores, from a list in which they alternate."""
    return list(zip(answer[::2], answer[1::2], strict=True))
