"""A storage of records beside a registry that lists them, and says which have ended."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import TYPE_CHECKING

from django.utils.translation import gettext_noop

from ...core.flow import Call, Flow, arun, run
from ...core.lifetime import CLOCK_SKEW
from ...core.phrases import Phrase
from ...core.records import Record, without_payload
from ..base import Outcome, Storage, Taken, Updated
from ..composed import ComposedStorage
from .entries import entry_of, without_entry
from .key_records import KeyRecords
from .stored_records import StoredRecords

if TYPE_CHECKING:
    from ...payloads.codec import Codec


class RegisteredStorage(ComposedStorage):
    """Records in ``data``, and an entry without data for each of them in ``registry``.

    A record counts only while the registry has its entry. So ending a session is deleting its
    entry, wherever the data is; and a registry that does not answer is an outage.

    The operations are in `StoredRecords` if ``data`` compares versions itself, and in `KeyRecords`
    if the session key holds the record. ``window`` is for how many seconds the registry remembers
    what a save changed; only `KeyRecords` needs it.
    """

    def __init__(self, data: Storage, registry: Storage, *, window: float) -> None:
        super().__init__(listing=registry)
        self.data = data
        self.registry = registry
        data.marked_by = registry
        registry.mark_by(data.namespace)
        self._records: StoredRecords | KeyRecords
        if data.holds_in_key:
            # The clock of a request that prunes may be ahead of the clock of one that saves.
            self._records = KeyRecords(data, registry, int(window * 1000) + CLOCK_SKEW)
        else:
            self._records = StoredRecords(data, registry)
        self.shared = data.shared and registry.shared
        self.durable = data.durable and registry.durable
        self.lists_lost = not (data.durable or data.holds_in_key)
        self.self_expiring = data.self_expiring and registry.self_expiring
        self.max_payload = data.max_payload
        self.holds_in_key = self.keeps_changes = data.holds_in_key

    def parts(self) -> tuple[Storage, ...]:
        return self.data, self.registry

    def namespace(self) -> str:
        return self.data.namespace() + self.registry.namespace()

    @property
    def codec(self) -> Codec:
        return self.data.codec

    def key_of(self, cookie: str) -> str | None:
        return self.data.key_of(cookie)

    @property
    def native_async(self) -> bool:
        return self.data.native_async and self.registry.native_async

    def eviction_policy(self) -> str:
        return self.data.eviction_policy() or self.registry.eviction_policy()

    def describe(self) -> str:
        return Phrase(
            gettext_noop("%(store)s, registered in %(registry)s"),
            store=self.data.describe(),
            registry=self.registry.describe(),
        )

    def identify(self, key: str) -> str | None:
        return self.data.identify(key)

    def stated_id(self, key: str) -> str | None:
        return self.data.stated_id(key)

    def locate(self, key: str) -> str:
        return self.data.locate(key)

    def is_outdated(self, record: Record) -> bool:
        return bool(record.pending) or self.data.is_outdated(without_entry(record))

    # --- Reading ---------------------------------------------------------------------------

    def _read(self, locator: str) -> Flow[Record | None]:
        return self._records.read(locator)

    def read_latest(self, session_id: str) -> Record | None:
        return run(self._records.read(session_id, "read_latest"))

    async def aread_latest(self, session_id: str) -> Record | None:
        return await arun(self._records.read(session_id, "read_latest"))

    def follow(self, base: Record, successor: str) -> Record | None:
        return run(self._records.follow(base, successor))

    async def afollow(self, base: Record, successor: str) -> Record | None:
        return await arun(self._records.follow(base, successor))

    def _session_of_entry(self, entry: Record) -> Record:
        # Its size is that of the entry, not of the session.
        return without_payload(entry)

    # --- Writing ---------------------------------------------------------------------------

    def _create(self, record: Record, now: int) -> Flow[Updated | Taken]:
        return self._records.create(record, now)

    def _update(self, record: Record, base: Record, now: int) -> Flow[Outcome]:
        return self._records.update(record, base, now)

    def _rotate(
        self, record: Record, base: Record, tombstone: Record, now: int
    ) -> Flow[Outcome | Taken]:
        return self._records.rotate(record, base, tombstone, now)

    def _touch(self, base: Record, expires: int, last_activity: int, now: int) -> Flow[bool]:
        if expires <= base.expires:
            # Only the activity moves, which lists take from the registry.
            entry = entry_of(base)
            is_touched: bool = yield Call(
                self.registry, "touch", (entry, entry.expires, last_activity, now)
            )
            return is_touched
        times = (expires, last_activity, now)
        touched: bool = yield Call(self.data, "touch", (without_entry(base), *times))
        return touched and (yield Call(self.registry, "touch", (entry_of(base), *times)))

    def _delete(self, session_id: str) -> Flow[bool]:
        return self._records.delete(session_id)

    def _end_many(self, session_ids: Sequence[str]) -> Flow[Collection[str]]:
        return self._records.end_many(session_ids)

    def _purge(self, now: int, batch: int) -> Flow[int]:
        purged: int = yield Call(self.data, "purge", (now, batch))
        entries: int = yield Call(self.registry, "purge", (now, batch))
        return purged + entries

    def issue(self, record: Record, now: int) -> Updated:
        return run(self._records.issue(record, now))

    async def aissue(self, record: Record, now: int) -> Updated:
        return await arun(self._records.issue(record, now))

    # --- Transactions ----------------------------------------------------------------------

    def in_transaction(self) -> bool:
        return self.registry.in_transaction() or self.data.in_transaction()

    async def ain_transaction(self) -> bool:
        return await self.registry.ain_transaction() or await self.data.ain_transaction()

    def after_commit(self, action: Callable[[], object]) -> Callable[[], bool | None]:
        part = self.registry if self.registry.in_transaction() else self.data
        return part.after_commit(action)

    async def aafter_commit(self, action: Callable[[], object]) -> Callable[[], bool | None]:
        part = self.registry if await self.registry.ain_transaction() else self.data
        return await part.aafter_commit(action)

    def after_rollback(self, action: Callable[[], object]) -> None:
        part = self.registry if self.registry.in_transaction() else self.data
        part.after_rollback(action)
