"""The base class of storages whose operations are flows, written once for sync and async."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from functools import partial

from ..core.flow import Flow, arun, run
from ..core.records import Record
from .base import Outcome, Storage, Taken, Updated
from .ending import end_one_by_one, end_without_key


class FlowStorage(Storage):
    """A storage whose operations are flows, written by the subclass; see `Storage` for each."""

    def _read(self, locator: str) -> Flow[Record | None]:
        raise NotImplementedError

    def _create(self, record: Record, now: int) -> Flow[Updated | Taken]:
        raise NotImplementedError

    def _update(self, record: Record, base: Record, now: int) -> Flow[Outcome]:
        raise NotImplementedError

    def _rotate(
        self, record: Record, base: Record, tombstone: Record, now: int
    ) -> Flow[Outcome | Taken]:
        raise NotImplementedError

    def _touch(self, base: Record, expires: int, last_activity: int, now: int) -> Flow[bool]:
        raise NotImplementedError

    def _delete(self, session_id: str) -> Flow[bool]:
        raise NotImplementedError

    def _end_many(self, session_ids: Sequence[str]) -> Flow[Collection[str]]:
        return end_one_by_one(session_ids, partial(end_without_key, self))

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

    def rotate(self, record: Record, base: Record, tombstone: Record, now: int) -> Outcome | Taken:
        return run(self._rotate(record, base, tombstone, now))

    async def arotate(
        self, record: Record, base: Record, tombstone: Record, now: int
    ) -> Outcome | Taken:
        return await arun(self._rotate(record, base, tombstone, now))

    def touch(self, base: Record, expires: int, last_activity: int, now: int) -> bool:
        return run(self._touch(base, expires, last_activity, now))

    async def atouch(self, base: Record, expires: int, last_activity: int, now: int) -> bool:
        return await arun(self._touch(base, expires, last_activity, now))

    def delete(self, session_id: str) -> bool:
        return run(self._delete(session_id))

    async def adelete(self, session_id: str) -> bool:
        return await arun(self._delete(session_id))

    def end_many(self, session_ids: Sequence[str]) -> Collection[str]:
        return run(self._end_many(session_ids))

    async def aend_many(self, session_ids: Sequence[str]) -> Collection[str]:
        return await arun(self._end_many(session_ids))

    def purge(self, now: int, batch: int) -> int:
        return run(self._purge(now, batch))

    async def apurge(self, now: int, batch: int) -> int:
        return await arun(self._purge(now, batch))
