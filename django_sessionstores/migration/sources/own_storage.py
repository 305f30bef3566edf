"""A previous backend of this package."""

from __future__ import annotations

import msgspec

from ...conf import codec, settings, unencrypted_codec
from ...core.records import Record, State, make_tombstone
from ...exceptions import UnreadablePayload
from ...payloads.codec import newest_data
from ...storages.base import Conflict, Storage, Updated
from .base import Claim, Entry, ForeignSession, PreviousSession, Source


class OwnSource(Source):
    """A backend of this package, with another storage than the one in use.

    ``is_shared`` says whether the storage is also used elsewhere, and must not be closed.
    """

    def __init__(self, storage: Storage, *, is_shared: bool) -> None:
        self.storage = storage
        self._is_shared = is_shared
        self.in_key = storage.holds_in_key
        self.lists = storage.lists and not storage.holds_in_key

    def describe(self) -> str:
        return self.storage.describe()

    def find(self, key: str) -> PreviousSession | None:
        return self._session(self.storage.read(self.storage.locate(key)))

    async def afind(self, key: str) -> PreviousSession | None:
        return self._session(await self.storage.aread(self.storage.locate(key)))

    def find_at(self, locator: str) -> PreviousSession | None:
        return self._session(self.storage.read(locator))

    def remove(self, key: str) -> None:
        if record_id := self.storage.identify(key):
            self.storage.delete(record_id)

    async def aremove(self, key: str) -> None:
        if record_id := self.storage.identify(key):
            await self.storage.adelete(record_id)

    def lookup(self, record_id: str) -> Record | None:
        return self._own(self.storage.lookup(record_id))

    async def alookup(self, record_id: str) -> Record | None:
        return self._own(await self.storage.alookup(record_id))

    def remove_id(self, record_id: str) -> None:
        self.storage.delete(record_id)

    def remove_at(self, locator: str) -> None:
        self.storage.delete(locator)

    async def aremove_id(self, record_id: str) -> None:
        await self.storage.adelete(record_id)

    def scan(self, cursor: str, limit: int) -> tuple[list[Entry], str]:
        page = self.storage.scan(cursor, limit, None)
        entries = []
        for record in page.records:
            found: PreviousSession | UnreadablePayload | None
            try:
                found = self.find_at(record.id)
            except UnreadablePayload as error:
                found = error
            entries.append(Entry(record.id, record.id, found))
        return entries, page.next

    def count(self) -> int:
        return self.storage.count(0, None)

    def claim(self, locator: str, found: PreviousSession) -> Claim:
        # A tombstone that expires at once does not stay, and does not prevent a move back.
        removal = make_tombstone(locator, State.ENDED, now=0, seconds=0)
        outcome = self.storage.update(removal, found.record, 0)
        if isinstance(outcome, Updated):
            return Claim.REMOVED
        if isinstance(outcome, Conflict) and outcome.current.state is State.LIVE:
            return Claim.CHANGED
        return Claim.GONE

    def _session(self, record: Record | None) -> PreviousSession | None:
        if record is None:
            return None
        record = _with_timeouts(record)
        if self.in_key and record.state is State.LIVE:
            return PreviousSession(record, newest_data(record, unencrypted_codec(), codec()))
        return PreviousSession(record, None)

    def _own(self, record: Record | None) -> Record | None:
        """Return a record with its expiry. Raises `ForeignSession` for that of another site."""
        if record is None:
            return None
        if not self.storage.is_own(record):
            raise ForeignSession("it belongs to another site")
        return _with_timeouts(record)

    def close(self) -> None:
        if not self._is_shared:
            self.storage.close()


def _with_timeouts(record: Record) -> Record:
    """Return a record that expires no later than the timeouts in the settings allow."""
    expires = min(record.expires, settings.timeouts.end(record.created, record.last_activity))
    if record.state is not State.LIVE or expires == record.expires:
        return record
    return msgspec.structs.replace(record, expires=expires)
