"""List the sessions of a storage, page by page."""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import Final

import msgspec
from django.utils.translation import gettext_noop

from ..core import clock
from ..core.flow import Call, Flow
from ..core.phrases import Phrase
from ..core.records import Record, last_write
from ..exceptions import CannotList
from ..storages.base import Page, Storage
from .arguments import check_number, check_type
from .filters import Filters
from .session_info import SessionInfo, SessionPage, session_info

PAGE_SIZE: Final = 500
"""How many records one call requests if the caller wants all of them."""
_MAX_AT_ONCE: Final = 10_000
"""How many records one call requests at most, however long a page the caller wants."""


class Listing(msgspec.Struct, frozen=True):
    """The list of the sessions of an engine. Its methods raise `CannotList` if there is none."""

    engine: str
    storage: Storage

    def page(
        self, cursor: str, limit: int, within: int | None, filters: Filters
    ) -> Flow[SessionPage]:
        """Return up to ``limit`` sessions that match, see `Inventory.list`."""
        check_type("cursor", cursor, str)
        check_number("limit", limit, least=1)
        if within is not None:
            check_number("within", within, least=1)
        moment, found = clock.now(), list[SessionInfo]()
        if not cursor and filters.expired:
            cursor = self.storage.first_expired(moment)
        unseen = math.inf if within is None else within
        # Without an index, the storage would read on until it has enough sessions of this user.
        is_indexed = within is None or self.storage.indexes_users
        user_id = filters.user_id if is_indexed else None
        live_at = moment if filters.expired is False else 0
        requested = limit
        while True:
            requested = int(min(requested, unseen, _MAX_AT_ONCE))
            page = yield from self.scan(cursor, requested, user_id, live_at)
            previous = _previous_ids(page.records)
            places = [
                place
                for place, each in enumerate(page.records, 1)
                if each.id not in previous and filters.match(each, moment)
            ]
            missing = limit - len(found)
            if len(places) > missing:
                # Repeat the call up to the last wanted record, because the cursor must lead to
                # the record after it.
                requested = places[missing - 1]
                continue
            found += [session_info(page.records[place - 1], moment) for place in places]
            cursor, unseen = page.next, unseen - requested
            if not cursor or len(found) == limit or not unseen:
                return SessionPage(found, cursor)
            # Request more than the missing ones: if few match, each would cost a call.
            requested = max(limit - len(found), PAGE_SIZE)

    def scan(self, cursor: str, limit: int, user_id: str | None, live_at: int = 0) -> Flow[Page]:
        """Return a page of records, see `Storage.scan`. Raises `CannotList`."""
        self.check()
        page: Page = yield Call(self.storage, "scan", (cursor, limit, user_id, live_at))
        return page

    def check(self) -> None:
        """Raise `CannotList` if the storage keeps no list of its sessions."""
        if not self.storage.lists:
            raise CannotList(
                Phrase(
                    gettext_noop(
                        "%(engine)s cannot list sessions, because %(store)s keeps no list of "
                        "them. With the cookie or cache engine, set SESSIONSTORES['REGISTRY'], for "
                        "example to 'db'. Otherwise choose another SESSION_ENGINE."
                    ),
                    engine=self.engine,
                    store=self.storage.describe(),
                )
            )

    def lineages(self, user_id: str) -> Flow[set[str]]:
        """Return the lineages of a user's sessions, see `Inventory.lineages`."""
        found, cursor = set[str](), ""
        while True:
            page = yield from self.scan(cursor, PAGE_SIZE, user_id)
            found |= {record.lineage for record in page.records}
            cursor = page.next
            if not cursor:
                return found


def _previous_ids(records: Collection[Record]) -> set[str]:
    """Return the ids of records whose sessions are also listed under a newer id.

    While a key rotates, a store that needs two steps has the session twice for a moment.
    """
    newest: dict[str, Record] = {}
    previous = set[str]()
    for each in records:
        other = newest.setdefault(each.lineage, each)
        if other is not each:
            # If the rotation was interrupted, requests may go on to use the older record.
            older, newer = sorted((other, each), key=last_write)
            newest[each.lineage] = newer
            previous.add(older.id)
    return previous
