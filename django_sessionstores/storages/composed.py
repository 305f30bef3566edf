"""Storages made of storages."""

from __future__ import annotations

from ..records import Record, listed
from .base import Page, Storage
from .flows import FlowStorage


class ComposedStorage(FlowStorage):
    """A storage whose operations take several calls of others.

    ``listing`` is the one of its storages that knows which sessions there are.
    """

    def __init__(self, listing: Storage) -> None:
        self._listing = listing
        self.lists = listing.lists
        self.indexes_users = listing.indexes_users

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

    def index_is_complete(self) -> bool | None:
        return self._listing.index_is_complete()

    def eviction_policy(self) -> str:
        return self._listing.eviction_policy()

    def reindex(self) -> int | None:
        return self._listing.reindex()

    async def areindex(self) -> int | None:
        return await self._listing.areindex()
