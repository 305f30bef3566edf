"""The calls of a storage as typed flows, for behaviour that is written once for sync and async."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence

import msgspec

from ..core.flow import Call, Flow
from ..core.records import Record
from ..exceptions import UnreadablePayload
from ..signals import note_ended
from .base import Found, Outcome, Page, Storage, Taken, Updated


class Calls(msgspec.Struct, frozen=True):
    """The methods of a storage, each as a flow that asks for one call of it."""

    storage: Storage

    def find(self, key: str, cookie: str) -> Flow[Found]:
        """See `Storage.find`."""
        found: Found = yield Call(self.storage, "find", (key, cookie))
        return found

    def read(self, locator: str) -> Flow[Record | None]:
        """See `Storage.read`."""
        record: Record | None = yield Call(self.storage, "read", (locator,))
        return record

    def peek(self, key: str) -> Flow[Record | None]:
        """See `Storage.peek`."""
        record: Record | None = yield Call(self.storage, "peek", (key,))
        return record

    def end(self, session_id: str, presented: str | None) -> Flow[bool]:
        """See `Storage.end`."""
        ended: bool = yield Call(self.storage, "end", (session_id, presented))
        return ended

    def end_many(self, session_ids: Sequence[str]) -> Flow[Collection[str]]:
        """See `Storage.end_many`."""
        ended: Collection[str] = yield Call(self.storage, "end_many", (session_ids,))
        note_ended(ended)
        return ended

    def issue(self, record: Record, now: int) -> Flow[Updated]:
        """See `Storage.issue`."""
        issued: Updated = yield Call(self.storage, "issue", (record, now))
        return issued

    def read_latest(self, session_id: str) -> Flow[Record | None]:
        """See `Storage.read_latest`."""
        record: Record | None = yield Call(self.storage, "read_latest", (session_id,))
        return record

    def follow(self, base: Record, successor: str) -> Flow[Record | None]:
        """See `Storage.follow`."""
        record: Record | None = yield Call(self.storage, "follow", (base, successor))
        return record

    def lookup(self, session_id: str) -> Flow[Record | None]:
        """See `Storage.lookup`."""
        record: Record | None = yield Call(self.storage, "lookup", (session_id,))
        return record

    def lookup_as_listed(self, session_id: str) -> Flow[Record | None]:
        """See `Storage.lookup`. A record that cannot be read is returned as lists show it."""
        try:
            return (yield from self.lookup(session_id))
        except UnreadablePayload:
            return (yield from self.lookup_many([session_id])).get(session_id)

    def lookup_many(self, session_ids: Sequence[str]) -> Flow[Mapping[str, Record]]:
        """See `Storage.lookup_many`."""
        found: Mapping[str, Record] = yield Call(self.storage, "lookup_many", (session_ids,))
        return found

    def create(self, record: Record, now: int) -> Flow[Updated | Taken]:
        """See `Storage.create`."""
        outcome: Updated | Taken = yield Call(self.storage, "create", (record, now))
        return outcome

    def update(self, record: Record, base: Record, now: int) -> Flow[Outcome]:
        """See `Storage.update`."""
        outcome: Outcome = yield Call(self.storage, "update", (record, base, now))
        return outcome

    def rotate(
        self, record: Record, base: Record, tombstone: Record, now: int
    ) -> Flow[Outcome | Taken]:
        """See `Storage.rotate`."""
        outcome: Outcome | Taken = yield Call(
            self.storage, "rotate", (record, base, tombstone, now)
        )
        return outcome

    def touch(self, base: Record, expires: int, last_activity: int, now: int) -> Flow[bool]:
        """See `Storage.touch`."""
        touched: bool = yield Call(self.storage, "touch", (base, expires, last_activity, now))
        return touched

    def delete(self, session_id: str) -> Flow[bool]:
        """See `Storage.delete`."""
        deleted: bool = yield Call(self.storage, "delete", (session_id,))
        return deleted

    def purge(self, now: int, batch: int) -> Flow[int]:
        """See `Storage.purge`."""
        removed: int = yield Call(self.storage, "purge", (now, batch))
        return removed

    def scan(self, cursor: str, limit: int, user_id: str | None, live_at: int = 0) -> Flow[Page]:
        """See `Storage.scan`."""
        page: Page = yield Call(self.storage, "scan", (cursor, limit, user_id, live_at))
        return page

    def in_transaction(self) -> Flow[bool]:
        """See `Storage.in_transaction`."""
        is_open: bool = yield Call(self.storage, "in_transaction", ())
        return is_open

    def after_commit(self, action: Callable[[], object]) -> Flow[Callable[[], bool | None]]:
        """See `Storage.after_commit`."""
        has_committed: Callable[[], bool | None]
        has_committed = yield Call(self.storage, "after_commit", (action,))
        return has_committed
