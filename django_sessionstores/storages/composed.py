"""Storages made of storages: each operation a flow over several calls, for both drivers."""

from __future__ import annotations

from ..flow import Flow, arun, run
from ..records import Record, listed
from .base import Outcome, Page, Storage, Taken, Updated


class ComposedStorage(Storage):
    """A storage whose operations are flows, written by the subclass; see `Storage` for each.

    ``listing`` is the one of its storages that knows which sessions there are.
    """

    def __init__(self, listing: Storage) -> None:
        self._listing = listing
        self.lists = listing.lists
        self.indexes_users = listing.indexes_users

    def _read(self, locator: str) -> Flow[Record | None]:
        raise NotImplementedError

    def _create(self, record: Record, now: int) -> Flow[Updated | Taken]:
        raise NotImplementedError

    def _update(self, record: Record, base: Record, now: int) -> Flow[Outcome]:
        raise NotImplementedError

    def _rotate(
        self, record: Record, base: Record, grave: Record, now: int
    ) -> Flow[Outcome | Taken]:
        raise NotImplementedError

    def _touch(self, base: Record, expires: int, last_activity: int, now: int) -> Flow[bool]:
        raise NotImplementedError

    def _delete(self, session_id: str) -> Flow[bool]:
        raise NotImplementedError

    def _purge(self, now: int, batch: int) -> Flow[int]:
        raise NotImplementedError

    def read(self, locator: str) -> Record | None:
        return run(self._read(locator))

    async def aread(self, locator: str) -> Record | None:
        return await arun(self._read(locator))

    def create(self, record: Record, now: int) -> Updated | Taken:
        return run(self._create(record, now))

    async def acreate(self, record: Record, now: int) -> Updated | Taken:
        return await arun(self._create(record, now))

    def update(self, record: Record, base: Record, now: int) -> Outcome:
        return run(self._update(record, base, now))

    async def aupdate(self, record: Record, base: Record, now: int) -> Outcome:
        return await arun(self._update(record, base, now))

    def rotate(self, record: Record, base: Record, grave: Record, now: int) -> Outcome | Taken:
        return run(self._rotate(record, base, grave, now))

    async def arotate(
        self, record: Record, base: Record, grave: Record, now: int
    ) -> Outcome | Taken:
        return await arun(self._rotate(record, base, grave, now))

    def touch(self, base: Record, expires: int, last_activity: int, now: int) -> bool:
        return run(self._touch(base, expires, last_activity, now))

    async def atouch(self, base: Record, expires: int, last_activity: int, now: int) -> bool:
        return await arun(self._touch(base, expires, last_activity, now))

    def delete(self, session_id: str) -> bool:
        return run(self._delete(session_id))

    async def adelete(self, session_id: str) -> bool:
        return await arun(self._delete(session_id))

    def purge(self, now: int, batch: int) -> int:
        return run(self._purge(now, batch))

    async def apurge(self, now: int, batch: int) -> int:
        return await arun(self._purge(now, batch))

    def lookup(self, session_id: str) -> Record | None:
        return self._listed(self._listing.lookup(session_id))

    async def alookup(self, session_id: str) -> Record | None:
        return self._listed(await self._listing.alookup(session_id))

    def _listed(self, entry: Record | None) -> Record | None:
        return None if entry is None else self._told(entry)

    def scan(self, cursor: str, limit: int, user_id: str | None) -> Page:
        return self._listed_page(self._listing.scan(cursor, limit, user_id))

    async def ascan(self, cursor: str, limit: int, user_id: str | None) -> Page:
        return self._listed_page(await self._listing.ascan(cursor, limit, user_id))

    def first_expired(self, now: int) -> str:
        return self._listing.first_expired(now)

    def _listed_page(self, page: Page) -> Page:
        return Page([self._told(entry) for entry in page.records], page.next)

    def _told(self, entry: Record) -> Record:
        """What an entry of the listing tells of the session."""
        return listed(entry)

    def count(self, now: int, user_id: str | None) -> int:
        return self._listing.count(now, user_id)

    async def acount(self, now: int, user_id: str | None) -> int:
        return await self._listing.acount(now, user_id)

    def reindex(self) -> int | None:
        return self._listing.reindex()

    async def areindex(self) -> int | None:
        return await self._listing.areindex()
