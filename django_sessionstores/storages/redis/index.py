"""The index of the sessions in Redis, which lists, counts and repairs; see `bucket_lua`."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from functools import partial
from math import ceil, sqrt
from typing import Any, Final, NamedTuple

from ...core.flow import Call, Flow
from ...core.records import ID_SIZE, Record, State
from ...exceptions import StorageFull
from ..base import LITTER_AGE, Page, Storage, cursor_error
from . import index_scripts as scripts
from .answers import find
from .building import IndexBuilder
from .client import Server
from .key_scan import KeyScan
from .keys import (
    PLACES,
    TAGS,
    USER_SIZE,
    Place,
    User,
    id_of,
    member_of,
    sessions_key,
    tag_of,
    users_key,
)
from .members import Listing, day_of, last_day, litter_at
from .running import Evaluation

_BATCH: Final = 1000
_CURSOR: Final = re.compile(r"(?:[0-9a-f]{40})?", re.ASCII)
_IDS: Final = 1 << (8 * ID_SIZE)
_MOST_LOOKS: Final = 1000
"""About how many members of a user one call looks at to find those that are live."""
_MOST_MOVED: Final = 250
"""How many members one script moves at most, because it keeps all others waiting."""
_MANY: Final = 2000
"""From how many sessions of a tag on a count lets other clients in.

It looks at each bucket with expired sessions, which takes up to 0.7 ms for a tag with 20,000.
"""
_COUNTED: Final = 32
"""The tags that such a count looks at in one round trip."""
_AT_ONCE: Final = 64
"""The tags that a purge looks at in one round trip."""


class Member(NamedTuple):
    """A session in an index, with its score as the server writes it."""

    id: str
    site: int
    score: bytes


class SessionIndex:
    """The indexes of the site on a server.

    There is an index for each mark of the site, so more than one only while the site rotates its
    secret. ``storage`` is the storage of the records, whose ``reindex`` calls `rebuild`.
    """

    def __init__(self, server: Server, storage: Storage) -> None:
        self._server = server
        self._storage = storage
        self.builder = IndexBuilder(server, storage)
        self._key_scan = KeyScan(storage, self.builder)
        self._sessions_of_a_tag = float(TAGS)
        """As far as it is known. A page asks for as many tags as it will need."""
        self._first_to_purge = 0
        """The tag at which the next purge begins, because those before had nothing to remove."""

    # --- Lists and counts ------------------------------------------------------------------

    def scan(self, cursor: str, limit: int, user_id: str | None, live_at: int = 0) -> Flow[Page]:
        """See `Storage.scan`."""
        if not _CURSOR.fullmatch(cursor):
            raise cursor_error(cursor)
        try:
            return (yield from self._scan(cursor, limit, user_id, live_at))
        except StorageFull:
            return (yield from self._key_scan.page(cursor, limit, user_id, live_at))

    def _scan(self, cursor: str, limit: int, user_id: str | None, live_at: int) -> Flow[Page]:
        page = self._page if user_id is None else self._page_of_user(user_id)
        records, looks = list[Record](), 0
        while True:
            first = int(cursor, 16) + 1 if cursor else 0
            # One more tells whether there is another page.
            wanted = max(limit + 1 - len(records), looks)
            members = yield from self.builder.ask(partial(page, first, wanted, live_at))
            records += yield from self._live(members, user_id, live_at)
            looks += len(members)
            if len(members) < wanted or len(records) > limit:
                following = records[limit - 1].id if len(records) > limit else ""
                return Page(records[:limit], following)
            cursor = members[-1].id
            if looks >= _MOST_LOOKS:
                return Page(records, cursor)

    def _live(
        self, members: Sequence[Member], user_id: str | None, live_at: int
    ) -> Flow[list[Record]]:
        """Return the live records of members, which are repaired."""
        found = yield from find(self._server, [each.id for each in members], State.LIVE)
        records: list[Record | None] = []
        for member in members:
            record = found.get(member.id)
            is_here = record is not None and record.site in {0, member.site}
            records.append(record if is_here else None)
        yield from self._heal(members, records, user_id, live_at)
        return [
            each
            for each in records
            if each and each.expires > live_at and user_id in {None, each.user_id}
        ]

    def _page(self, first: int, limit: int, floor: int) -> Flow[list[Member] | None]:
        """Return up to ``limit`` members from an id on; nothing if the index is not complete."""
        found = list[Member]()
        while len(found) < limit and first < _IDS:
            part = yield from self._part(first, limit - len(found), floor)
            if part is None:
                return None
            members, first = part
            found += members
        return found[:limit]

    def _part(self, first: int, wanted: int, floor: int) -> Flow[tuple[list[Member], int] | None]:
        """Return the members from an id on under some tags, and the id from which others come."""
        place, sites, prefix = Place.of_id(first), self._storage.sites(), self._server.prefix
        # Tags do not all have the same: with three standard deviations more, one look is enough.
        expected = wanted + 3 * sqrt(wanted)
        number = ceil(expected / max(self._sessions_of_a_tag, 1 / TAGS))
        tags = range(place.tag, min(place.tag + number, TAGS))
        calls: list[Evaluation] = []
        for tag in tags:
            begin = place.number if tag == place.tag else 0
            arguments = (begin, PLACES, min(wanted, _BATCH), floor, b"")
            calls += (
                (scripts.PAGE, (sessions_key(prefix, site, tag),), arguments) for site in sites
            )
        answers = yield from self._server.evaluate_all(calls)
        if any(each[0] != scripts.COMPLETE_STATE for each in answers):
            return None
        self._sessions_of_a_tag = sum(each[1] for each in answers) / len(tags)
        found = list[Member]()
        for tag in tags:
            of_tag, answers = answers[: len(sites)], answers[len(sites) :]
            # What lies behind the place up to which each index was read comes later.
            end = Place(tag, min(int(each[2]) for each in of_tag)).first_id
            ids = f"{first:040x}", f"{end:040x}"
            members = [
                Member(id_of(tag, name), site, score)
                for site, (_, _, _, some) in zip(sites, of_tag, strict=True)
                for name, score in _pairs(some)
            ]
            found += sorted(each for each in members if _is_between(each.id, *ids))
            if end < Place(tag + 1, 0).first_id:
                return found, end
        return found, Place(tags.stop, 0).first_id

    def _page_of_user(self, user_id: str) -> Any:
        """Return what `_page` is for the sessions of a user, and perhaps of a few others."""
        user = User.of(user_id)

        def page(first: int, limit: int, floor: int) -> Flow[list[Member] | None]:
            sites, prefix = self._storage.sites(), self._server.prefix
            found = list[Member]()
            while len(found) < limit and first < _IDS:
                begin, stop = user.places_from(first)
                wanted = min(limit - len(found), _BATCH)
                arguments = (begin, stop, wanted, day_of(floor), user.prefix)
                answers = yield from self._server.evaluate_all(
                    [
                        (scripts.PAGE, (users_key(prefix, site, user.tag),), arguments)
                        for site in sites
                    ]
                )
                if any(each[0] != scripts.COMPLETE_STATE for each in answers):
                    return None
                end = user.id_at(min(stop, *(int(each[2]) for each in answers)))
                ids = f"{first:040x}", f"{end:040x}"
                members = [
                    Member(name[USER_SIZE:].hex(), site, score)
                    for site, (_, _, _, some) in zip(sites, answers, strict=True)
                    for name, score in _pairs(some)
                ]
                found += sorted(each for each in members if _is_between(each.id, *ids))
                first = end
            return found[:limit]

        return page

    def count(self, now: int, user_id: str | None) -> Flow[int]:
        """See `Storage.count`."""
        if user_id is None:
            try:
                return (yield from self.builder.ask(lambda: self._count(now)))
            except StorageFull:
                return (yield from self._key_scan.count(now, None))
        total, cursor = 0, ""
        while True:
            # The index of users may have sessions that have ended.
            page = yield from self.scan(cursor, _BATCH, user_id, now)
            total += len(page.records)
            cursor = page.next
            if not cursor:
                return total

    def _count(self, now: int) -> Flow[int | None]:
        """Return the number of live sessions; nothing if the index is not complete."""
        sites, prefix = self._storage.sites(), self._server.prefix
        looks = int((yield from self.builder.may_be_evicted()))
        calls: list[Evaluation] = [
            (scripts.COUNT, (sessions_key(prefix, site, tag),), (now, looks))
            for site in sites
            for tag in range(TAGS)
        ]
        at_once = _COUNTED if self._sessions_of_a_tag >= _MANY else len(calls)
        answers: list[Any] = []
        for at in range(0, len(calls), at_once):
            answers += yield from self._server.evaluate_all(calls[at : at + at_once])
        if any(each[0] != scripts.COMPLETE_STATE for each in answers):
            return None
        total: int = sum(each[1] for each in answers)
        self._sessions_of_a_tag = total / TAGS
        return total

    # --- Repairs ---------------------------------------------------------------------------

    def _heal(
        self,
        members: Sequence[Member],
        found: Sequence[Record | None],
        user_id: str | None,
        now: int,
    ) -> Flow[None]:
        """Bring members up to date with their records; those without a record are removed."""
        prefix, arguments = self._server.prefix, defaultdict[bytes, list[Any]](list)
        for member, record in zip(members, found, strict=True):
            expires: Any = b""
            if record and record.expires <= litter_at(now):
                record = None
            if user_id is None:
                directory = sessions_key(prefix, member.site, tag_of(member.id))
                name = member_of(member.id)
                if record:
                    expires = record.expires
            else:
                listing = Listing(member.id, user_id, member.site)
                directory, name = listing.place(prefix)
                # Another user may have the same beginning.
                if record and record.user_id is not None:
                    true = listing._replace(user_id=record.user_id)
                    if true.place(prefix) == (directory, name):
                        expires = max(last_day(record.expires), int(member.score))
            if expires != b"" and int(member.score) == expires:
                continue
            arguments[directory] += (name, member.score, expires)
        if arguments:
            yield from self._server.evaluate_all(
                [
                    (scripts.HEAL, (key,), tuple(each[at : at + 3 * _MOST_MOVED]))
                    for key, each in arguments.items()
                    for at in range(0, len(each), 3 * _MOST_MOVED)
                ]
            )

    def purge(self, now: int, batch: int) -> Flow[int]:
        """Remove members whose records have expired, and return how many sessions they were.

        In the index of another site, a member stays for another `LITTER_AGE`.
        """
        own = self._storage.sites()
        if gone := (yield from self._purge(own, now, batch)):
            return gone
        others: set[bytes] = yield Call(self._server, "ask", ("SMEMBERS", self.builder.sites_key))
        strange = tuple(sorted(set(map(int, others)).difference(own)))
        if strange and (gone := (yield from self._purge(strange, now - LITTER_AGE, batch))):
            return gone
        return 0

    def _purge(self, sites: Sequence[int], now: int, batch: int) -> Flow[int]:
        """Remove up to ``batch`` sessions from the indexes of sites, and return how many."""
        prefix, start = self._server.prefix, self._first_to_purge
        for offset in range(0, TAGS, _AT_ONCE):
            tags = [(start + offset + each) % TAGS for each in range(_AT_ONCE)]
            sessions = [sessions_key(prefix, site, tag) for site in sites for tag in tags]
            users = [users_key(prefix, site, tag) for site in sites for tag in tags]
            looks = [(key, now, True) for key in sessions]
            looks += [(key, day_of(now), False) for key in users]
            commands = [("ZRANGEBYSCORE", key, "(0", end, "LIMIT", 0, 1) for key, end, _ in looks]
            answers = yield Call(self._server, "ask_all", (commands,))
            gone = 0
            for (key, end, is_counted), some in zip(looks, answers, strict=True):
                if some and gone < batch:
                    most = min(batch - gone, _MOST_MOVED)
                    removed = yield from self._server.evaluate(scripts.PURGE, (key,), end, most)
                    gone += removed if is_counted else 0
            if gone:
                self._first_to_purge = tags[0]
                return gone
        return 0


def _pairs(answer: Sequence[bytes]) -> list[tuple[bytes, bytes]]:
    """Return names and scores, from a list in which they alternate."""
    return list(zip(answer[::2], answer[1::2], strict=True))


def _is_between(session_id: str, first: str, end: str) -> bool:
    """Return whether an id is not before the first of a range, and before its end."""
    return first <= session_id and (session_id < end or len(end) > len(session_id))
