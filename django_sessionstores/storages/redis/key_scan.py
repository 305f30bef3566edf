"""Lists of sessions without their index, for a full Redis that has no memory to complete it."""

from __future__ import annotations

from typing import Final

from ...core.flow import Call, Flow
from ...core.records import Record
from ..base import Page, Storage
from ..threads import in_thread
from .building import IndexBuilder

_AFTER_ALL_IDS: Final = "g"


class KeyScan:
    """The sessions of a site in the order of their ids, found by looking at each key of the server.

    Each page and each count looks at all keys. One request of all processes does so at a time.
    """

    def __init__(self, storage: Storage, builder: IndexBuilder) -> None:
        self._storage = storage
        self._builder = builder

    def page(self, after: str, limit: int, user_id: str | None, live_at: int) -> Flow[Page]:
        """Return a page that begins after an id, see `Storage.scan`."""
        token = yield from self._builder.take_lock()
        found: list[Record] = yield Call(self, "find", (token, after, limit + 1, user_id, live_at))
        return Page(found[:limit], found[limit - 1].id if len(found) > limit else "")

    def count(self, now: int, user_id: str | None) -> Flow[int]:
        """See `Storage.count`."""
        token = yield from self._builder.take_lock()
        total: int = yield Call(self, "count_live", (token, now, user_id))
        return total

    def find(
        self, token: str, after: str, most: int, user_id: str | None, live_at: int
    ) -> list[Record]:
        """Return the first ``most`` live records after an id. Gives the lock back."""
        found, end = dict[str, Record](), _AFTER_ALL_IDS

        def is_wanted(session_id: str) -> bool:
            return after < session_id < end

        try:
            for records in self._builder.records(token, is_wanted):
                for each in self._own(records, user_id, live_at):
                    found[each.id] = each
                found = {each: found[each] for each in sorted(found)[:most]}
                if len(found) == most:
                    end = max(found)  # Later ones are not wanted any more.
        finally:
            self._builder.release(token)
        return list(found.values())

    async def afind(
        self, token: str, after: str, most: int, user_id: str | None, live_at: int
    ) -> list[Record]:
        """See `find`."""
        return await in_thread(self.find)(token, after, most, user_id, live_at)

    def count_live(self, token: str, now: int, user_id: str | None) -> int:
        """Return how many sessions are live. Gives the lock back."""
        try:
            return sum(
                len(self._own(records, user_id, now)) for records in self._builder.records(token)
            )
        finally:
            self._builder.release(token)

    async def acount_live(self, token: str, now: int, user_id: str | None) -> int:
        """See `count_live`."""
        return await in_thread(self.count_live)(token, now, user_id)

    def _own(self, records: list[Record], user_id: str | None, live_at: int) -> list[Record]:
        return [
            each
            for each in records
            if self._storage.is_own(each)
            and each.expires > live_at
            and user_id in {None, each.user_id}
        ]
