"""Base classes of storages that consist of other storages."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING

from ..core.flow import Flow
from ..core.records import Record, list_entry
from ..core.summary import IndexReport, Numbers, Summary
from .base import Found, Outcome, Page, Storage, Taken, Updated
from .calls import Calls
from .contract import TRAITS
from .flows import FlowStorage

if TYPE_CHECKING:
    from ..payloads.codec import Codec


class ComposedStorage(FlowStorage):
    """A storage whose operations make calls of other storages.

    ``listing`` is the one of them that lists sessions, and whose transactions count.
    """

    def __init__(self, listing: Storage) -> None:
        self._listing = listing
        self.lists = listing.lists
        self.indexes_users = listing.indexes_users
        self.indexes_counts = listing.indexes_counts

    def sites(self) -> tuple[int, ...]:
        return (self.marked_by or self._listing).sites()

    def mark_by(self, namespace_of_data: Callable[[], str]) -> None:
        self._listing.mark_by(namespace_of_data)

    def namespace(self) -> str:
        return self._listing.namespace()

    def lookup(self, session_id: str) -> Record | None:
        return self._session_or_none(self._listing.lookup(session_id))

    async def alookup(self, session_id: str) -> Record | None:
        return self._session_or_none(await self._listing.alookup(session_id))

    def lookup_many(self, session_ids: Sequence[str]) -> Mapping[str, Record]:
        return self._sessions(self._listing.lookup_many(session_ids))

    async def alookup_many(self, session_ids: Sequence[str]) -> Mapping[str, Record]:
        return self._sessions(await self._listing.alookup_many(session_ids))

    def _sessions(self, entries: Mapping[str, Record]) -> Mapping[str, Record]:
        return {key: self._session_of_entry(entry) for key, entry in entries.items()}

    def _session_or_none(self, entry: Record | None) -> Record | None:
        return None if entry is None else self._session_of_entry(entry)

    def scan(self, cursor: str, limit: int, user_id: str | None, live_at: int = 0) -> Page:
        return self._page_of_sessions(self._listing.scan(cursor, limit, user_id, live_at))

    async def ascan(self, cursor: str, limit: int, user_id: str | None, live_at: int = 0) -> Page:
        return self._page_of_sessions(await self._listing.ascan(cursor, limit, user_id, live_at))

    async def hear_ends(self, tell: Callable[[str], object]) -> None:
        await self._listing.hear_ends(tell)

    def first_expired(self, now: int) -> str:
        return self._listing.first_expired(now)

    def _page_of_sessions(self, page: Page) -> Page:
        return Page([self._session_of_entry(entry) for entry in page.records], page.next)

    def _session_of_entry(self, entry: Record) -> Record:
        """Return the session for an entry of the listing, as lists show it."""
        return list_entry(entry)

    def count(self, now: int, user_id: str | None) -> int:
        return self._listing.count(now, user_id)

    async def acount(self, now: int, user_id: str | None) -> int:
        return await self._listing.acount(now, user_id)

    def summarize(self, now: int, limit: int) -> Summary:
        return self._listing.summarize(now, limit)

    def numbers(self, now: int, most: int) -> Numbers | None:
        return self._listing.numbers(now, most)

    def index_is_complete(self) -> bool | None:
        return self._listing.index_is_complete()

    def index_report(self) -> IndexReport | None:
        return self._listing.index_report()

    def eviction_policy(self) -> str:
        return self._listing.eviction_policy()

    def reindex(self) -> int | None:
        return self._listing.reindex()

    async def areindex(self) -> int | None:
        return await self._listing.areindex()

    def in_transaction(self) -> bool:
        return self._listing.in_transaction()

    async def ain_transaction(self) -> bool:
        return await self._listing.ain_transaction()

    def after_commit(self, action: Callable[[], object]) -> Callable[[], bool | None]:
        return self._listing.after_commit(action)

    async def aafter_commit(self, action: Callable[[], object]) -> Callable[[], bool | None]:
        return await self._listing.aafter_commit(action)

    def after_rollback(self, action: Callable[[], object]) -> None:
        self._listing.after_rollback(action)

    def end_each(
        self, session_ids: Sequence[str], end: Callable[[str], Flow[bool]]
    ) -> Collection[str]:
        return self._listing.end_each(session_ids, end)

    def close(self) -> None:
        for part in self.parts():
            part.close()


class Wrapper(ComposedStorage):
    """A storage around another one, which does everything that a subclass does not change."""

    def __init__(self, inner: Storage) -> None:
        super().__init__(listing=inner)
        self.inner = inner
        self._calls = Calls(inner)
        for trait in TRAITS:
            setattr(self, trait, getattr(inner, trait))

    def parts(self) -> tuple[Storage, ...]:
        return (self.inner,)

    @property
    def native_async(self) -> bool:
        return self.inner.native_async

    @property
    def codec(self) -> Codec:
        return self.inner.codec

    def describe(self) -> str:
        return self.inner.describe()

    def key_of(self, cookie: str) -> str | None:
        return self.inner.key_of(cookie)

    def identify(self, key: str) -> str | None:
        return self.inner.identify(key)

    def stated_id(self, key: str) -> str | None:
        return self.inner.stated_id(key)

    def locate(self, key: str) -> str:
        return self.inner.locate(key)

    def mark(self, record: Record) -> bytes:
        return self.inner.mark(record)

    def is_outdated(self, record: Record) -> bool:
        return self.inner.is_outdated(record)

    def find(self, key: str, cookie: str) -> Found:
        return self.inner.find(key, cookie)

    async def afind(self, key: str, cookie: str) -> Found:
        return await self.inner.afind(key, cookie)

    def peek(self, key: str) -> Record | None:
        return self.inner.peek(key)

    async def apeek(self, key: str) -> Record | None:
        return await self.inner.apeek(key)

    def end(self, session_id: str, presented: str | None) -> bool:
        return self.inner.end(session_id, presented)

    async def aend(self, session_id: str, presented: str | None) -> bool:
        return await self.inner.aend(session_id, presented)

    def issue(self, record: Record, now: int) -> Updated:
        return self.inner.issue(record, now)

    async def aissue(self, record: Record, now: int) -> Updated:
        return await self.inner.aissue(record, now)

    def read_latest(self, session_id: str) -> Record | None:
        return self.inner.read_latest(session_id)

    async def aread_latest(self, session_id: str) -> Record | None:
        return await self.inner.aread_latest(session_id)

    def follow(self, base: Record, successor: str) -> Record | None:
        return self.inner.follow(base, successor)

    async def afollow(self, base: Record, successor: str) -> Record | None:
        return await self.inner.afollow(base, successor)

    def _session_of_entry(self, entry: Record) -> Record:
        return entry

    def _read(self, locator: str) -> Flow[Record | None]:
        return self._calls.read(locator)

    def _create(self, record: Record, now: int) -> Flow[Updated | Taken]:
        return self._calls.create(record, now)

    def _update(self, record: Record, base: Record, now: int) -> Flow[Outcome]:
        return self._calls.update(record, base, now)

    def _rotate(
        self, record: Record, base: Record, tombstone: Record, now: int
    ) -> Flow[Outcome | Taken]:
        return self._calls.rotate(record, base, tombstone, now)

    def _touch(self, base: Record, expires: int, last_activity: int, now: int) -> Flow[bool]:
        return self._calls.touch(base, expires, last_activity, now)

    def _delete(self, session_id: str) -> Flow[bool]:
        return self._calls.delete(session_id)

    def _end_many(self, session_ids: Sequence[str]) -> Flow[Collection[str]]:
        return self._calls.end_many(session_ids)

    def _purge(self, now: int, batch: int) -> Flow[int]:
        return self._calls.purge(now, batch)
