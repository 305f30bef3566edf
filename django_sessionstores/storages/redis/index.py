"""The index of the sessions in Redis: two sorted sets for each site, see `scripts`."""

from __future__ import annotations

import logging
import random
import re
from collections.abc import Sequence
from itertools import chain
from typing import Any, Final

from ...core.flow import Call, Flow
from ...core.records import ID_SIZE, Record, State, is_session_id
from ...exceptions import StorageFull, StorageUnavailable
from ..base import LITTER_AGE, Page, Storage, cursor_error
from . import scripts
from .answers import find
from .building import IndexBuilder
from .client import Server
from .key_scan import KeyScan
from .members import Member, Moves, pairs, site_of

logger: Final = logging.getLogger("django_sessionstores")

_BATCH: Final = 1000
_CURSOR: Final = re.compile(r"(?:(\d{1,9})/)?((\d{0,18})\.((?:[0-9a-f]{2})+))?", re.ASCII)
_MOST_LOOKS: Final = 1000
"""About how many members of a user one call looks at to find those that have not expired."""
_MEMBER_AGE: Final = 3_600_000
"""How many milliseconds after its expiry a member of the index is litter, by any clock."""


class SessionIndex:
    """The indexes of the site on a server.

    There is an index for each mark of the site, so more than one only while the site rotates its
    secret. ``storage`` is the storage of the records, whose ``reindex`` calls `rebuild`.
    """

    def __init__(self, server: Server, storage: Storage) -> None:
        self._server = server
        self._storage = storage
        self._fixed_keys: dict[int, tuple[str, str]] = {}
        self.builder = IndexBuilder(server, storage, self._keys)
        self._key_scan = KeyScan(storage, self.builder)

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

    def moves_of(self, base: Record | None, record: Record, now: int) -> Moves:
        """Return what the indexes have to do when ``record`` replaces ``base``."""
        removed = Member(base.id, base.user_id).name if base else b""
        added = Member(record.id, record.user_id).name if record.state is State.LIVE else b""
        site = site_of(self._storage, record)
        other = site_of(self._storage, base) if base else site
        litter = max(0, now - _MEMBER_AGE)
        return Moves(removed, added, record.expires, litter, site, other if other != site else None)

    def scan(self, cursor: str, limit: int, user_id: str | None, live_at: int = 0) -> Flow[Page]:
        """See `Storage.scan`."""
        if is_session_id(cursor):
            return (yield from self._key_scan.page(cursor, limit, user_id, live_at))
        try:
            return (yield from self._listed(cursor, limit, user_id, live_at))
        except StorageFull:
            if cursor:
                raise
            return (yield from self._key_scan.page("", limit, user_id, live_at))

    def _listed(self, cursor: str, limit: int, user_id: str | None, live_at: int) -> Flow[Page]:
        """Return a page of the index."""
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
        try:
            return (yield from self._count_listed(now, user_id))
        except StorageFull:
            return (yield from self._key_scan.count(now, user_id))

    def _count_listed(self, now: int, user_id: str | None) -> Flow[int]:
        total, cursor = 0, ""
        if user_id is None:
            for site in self._storage.sites():
                total += yield from self.builder.ask(site, scripts.COUNT, now)
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
            counts[site] = yield from self.builder.ask(site, scripts.COUNT, now)
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
        others: set[bytes] = yield Call(self._server, "ask", ("SMEMBERS", self.builder.sites_key))
        for site in sorted(set(map(int, others)).difference(own)):
            if gone := (yield from self._purge(site, now - LITTER_AGE, batch)):
                return gone
        return 0

    def _purge(self, site: int, now: int, batch: int) -> Flow[int]:
        keys = self._keys(site)
        while expired := (yield from self._server.evaluate(scripts.EXPIRED, keys, now, batch)):
            members = [Member.parse(*pair) for pair in pairs(expired)]
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
            of_user = (user_id, after, limit, floor, litter, _MOST_LOOKS)
            last, found = yield from self.builder.ask(site, scripts.PAGE_OF_USER, *of_user)
            return [
                Member(name.hex(), user_id, score)
                for name, score in pairs(found)
                if len(name) == ID_SIZE
            ], f".{last.hex()}" if last else ""
        # One more tells whether there is another page.
        start = moment or "+inf"
        answer = yield from self.builder.ask(
            site, scripts.PAGE, start, after, limit + 1, floor or "-inf"
        )
        found, following = pairs(answer), ""
        if len(found) > limit:
            found = found[:limit]
            name, score = found[-1]
            following = f"{int(score)}.{name[:ID_SIZE].hex()}"
        return [Member.parse(*pair) for pair in found], following

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
