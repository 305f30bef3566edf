"""End sessions, one by its id or many in batches, and send ``session_ended`` for each."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from typing import Any, Final, NamedTuple, TypeAlias

import msgspec

from ..core import clock
from ..core.flow import Call, Flow
from ..core.records import Record, State, last_write
from ..exceptions import PartlyEnded, StorageUnavailable, UnreadablePayload
from ..sessions import SessionStore, Total, events, loading
from ..storages import revocation
from ..storages.base import MOST_AT_ONCE, Storage
from ..storages.calls import Calls
from ..storages.revocation import EndedSession
from ..storages.tombstones import leave_end_notes
from .arguments import Limits
from .listing import PAGE_SIZE, Listing
from .session_info import session_info

_ROUNDS: Final = 20
"""How often the sessions are searched again while new ones keep appearing."""

_MOST_REMEMBERED: Final = 100_000
"""How many of the sessions that one call has ended it remembers, so that none counts twice."""

IsOutdated: TypeAlias = Callable[[Record, Mapping[str, Any]], bool]
"""Return whether a session must end, by its record and its data, which may be empty."""


class Selection(NamedTuple):
    """Which sessions of a user are to end: those of the lineages, and all that are outdated.

    A lineage is the id under which a session began, see `Record.lineage`.
    """

    lineages: Collection[str]
    is_outdated: IsOutdated


class _Progress:
    """How many sessions have ended, and how many may still end."""

    def __init__(self, limits: Limits) -> None:
        self.ended = 0
        self.batches = 0
        self._lineages: dict[str, None] = {}
        self._limits = limits
        self._began = clock.monotonic()

    @property
    def is_enough(self) -> bool:
        most, seconds = self._limits
        if most is not None and self.ended >= most:
            return True
        # At least one batch: a call that ends nothing would be repeated for ever.
        has_time = seconds is None or clock.monotonic() - self._began < seconds
        return self.batches > 0 and not has_time

    def batch(self, records: Sequence[Record]) -> Sequence[Record]:
        """Return as many of the records as may end now."""
        most = self._limits.most
        return records[: MOST_AT_ONCE if most is None else min(MOST_AT_ONCE, most - self.ended)]

    def add(self, records: Sequence[Record]) -> list[Record]:
        """Count the sessions with these records, which have ended; return one record of each.

        While a session rotates in two steps, it has two records. Both end, and perhaps not in one
        batch.
        """
        oldest: dict[str, Record] = {}
        for each in records:
            other = oldest.get(each.lineage, each)
            # If both were live, the rotation is not over and fails now, so nobody gets the new id.
            oldest[each.lineage] = min(other, each, key=last_write)
        added = [each for lineage, each in oldest.items() if lineage not in self._lineages]
        self._lineages.update(dict.fromkeys(oldest))
        if len(self._lineages) > 2 * _MOST_REMEMBERED:
            self._lineages = dict.fromkeys(list(self._lineages)[-_MOST_REMEMBERED:])
        self.ended += len(added)
        return added


class Ending(msgspec.Struct, frozen=True):
    """Ends the sessions of an engine."""

    store: type[SessionStore]
    storage: Storage
    listing: Listing
    by: str = ""
    """Who ends the sessions, see `Inventory`."""

    def end(self, session_id: str, user_id: str | None) -> Flow[bool]:
        """End a session, and return whether it was live, see `Inventory.end`."""
        # What cannot be read must end nevertheless.
        found = yield from Calls(self.storage).lookup_as_listed(session_id)
        if user_id is not None and (found is None or found.user_id != user_id):
            return False
        ended = yield from self._end_one(session_id, found)
        if ended is None:
            return False
        yield from self._send([ended.record or Record(id=ended.id)], "revoked")
        return True

    def end_many(self, session_ids: Sequence[str]) -> Flow[list[Record]]:
        """End sessions, and return the records of those that were live.

        See `Inventory.end_many`.
        """
        progress, ended = _Progress(Limits()), list[Record]()
        try:
            for start in range(0, len(session_ids), MOST_AT_ONCE):
                batch = session_ids[start : start + MOST_AT_ONCE]
                yield from self._end_some(batch, progress, ended)
        except StorageUnavailable as error:
            if ended:
                moment = clock.now()
                sessions = [session_info(each, moment) for each in ended]
                raise PartlyEnded(len(ended), error, sessions) from error
            raise
        return ended

    def _end_some(
        self, session_ids: Sequence[str], progress: _Progress, ended: list[Record]
    ) -> Flow[None]:
        """End sessions in one batch, and add the records of those that were live to ``ended``."""
        known = yield from Calls(self.storage).lookup_many(session_ids)
        now = clock.now()
        # Also without a record, see `_end_one`.
        found = [known.get(each) or Record(id=each) for each in session_ids]
        own = [each for each in found if each.id not in known or self.storage.is_own(each)]
        batch = [each for each in own if each.state is State.LIVE]
        if batch:
            ended += yield from self._end_batch(batch, "revoked", progress)
        # The others have ended, or have other ids, perhaps since they were looked up.
        in_batch = {each.id for each in ended}
        for each in own:
            if each.id in in_batch or (each.state is State.LIVE and not each.is_live(now)):
                continue  # Without a record, it is not live.
            followed = yield from self._end_one(each.id, each)
            if followed is not None:
                added = progress.add([followed.record or Record(id=followed.id)])
                yield from self._send(added, "revoked")
                ended += added

    def _end_one(self, session_id: str, known: Record | None) -> Flow[EndedSession | None]:
        """End the session with an id, and return it; ``None`` if it was not live."""
        if known is not None and not self.storage.is_own(known):
            return None
        # Also without a record: a session that was not found must not become live afterwards, as by
        # a migration or a save that is under way.
        return (yield from revocation.end(self.storage, session_id, known=known))

    def end_all(
        self,
        user_id: str | None,
        kept_ids: Collection[str],
        limits: Limits | None = None,
        reason: str = "revoked",
        selection: Selection | None = None,
    ) -> Flow[Total]:
        """End the sessions of a user, or of everybody; return how many were live.

        ``None`` for ``user_id`` is everybody, and for ``selection`` all sessions. See
        `Inventory.end_all`.
        """
        progress, kept, found = _Progress(limits or Limits()), set[str](), 0
        try:
            # The lineages are kept as well, because a parallel request may rotate a session to
            # another id meanwhile; no rotation changes the lineage.
            for each in kept_ids:
                kept |= yield from revocation.follow_ids(self.storage, each)
            # Such a request can also move a session to a place that was already read. So all are
            # searched again until nothing is found.
            for _ in range(_ROUNDS):
                found = yield from self._end_round(user_id, kept, reason, progress, selection)
                if not found or progress.is_enough:
                    break
            is_left = False
            if found and progress.is_enough:
                is_left = yield from self._is_left(user_id, kept)
        except StorageUnavailable as error:
            if progress.ended:
                raise PartlyEnded(progress.ended, error) from error
            raise
        # Without limits, what still appears has begun after this call.
        return Total(progress.ended, is_complete=not is_left)

    def _is_left(self, user_id: str | None, kept: Collection[str]) -> Flow[bool]:
        """Return whether a session may be left to end, by one page of the list."""
        page = yield from self.listing.scan("", PAGE_SIZE, user_id)
        return bool(page.next) or any(
            each.id not in kept and each.lineage not in kept for each in page.records
        )

    def _end_round(
        self,
        user_id: str | None,
        kept: set[str],
        reason: str,
        progress: _Progress,
        selection: Selection | None,
    ) -> Flow[int]:
        """End the sessions that are listed now; return how many were found to end.

        ``kept`` are ids and lineages; those of sessions that are not outdated are added.
        """
        found, cursor = 0, ""
        while True:
            page = yield from self.listing.scan(cursor, PAGE_SIZE, user_id)
            ending: list[Record] = []
            for record in page.records:
                if record.id in kept or record.lineage in kept:
                    continue
                if selection is not None and record.lineage not in selection.lineages:
                    is_outdated = yield from self._is_outdated(record, selection)
                    if is_outdated is None:
                        found += 1  # If the session lives, the next round finds its newer id.
                        continue
                    if not is_outdated:
                        kept.add(record.lineage)
                        continue
                ending.append(record)
            found += len(ending)
            while ending:
                if progress.is_enough:
                    return found
                batch = progress.batch(ending)
                yield from self._end_batch(batch, reason, progress)
                ending = ending[len(batch) :]
            cursor = page.next
            if not cursor:
                return found

    def _end_batch(
        self, records: Sequence[Record], reason: str, progress: _Progress
    ) -> Flow[list[Record]]:
        """End sessions, count and tell those that were live, and return them.

        Those that have got other ids at this moment are not among them. A record without an expiry
        stands for one that could not be read.
        """
        progress.batches += 1
        ids = frozenset((yield from Calls(self.storage).end_many([each.id for each in records])))
        now = clock.now()
        gone = [each for each in records if each.id in ids]
        ended = progress.add([each for each in gone if not each.expires or each.is_live(now)])
        yield from self._send(ended, reason)
        return ended

    def _is_outdated(self, record: Record, selection: Selection) -> Flow[bool | None]:
        """Return whether a session is outdated; ``None`` if it has another id by now, or none."""
        if self.storage.holds_in_key:
            return selection.is_outdated(record, {})
        data: dict[str, Any] = {}
        with suppress(UnreadablePayload):
            current: Record | None = yield Call(self.storage, "read", (record.id,))
            if current is None or current.state is not State.LIVE:
                return None
            data = self.store.data_of(current)
        return selection.is_outdated(record, data)

    def _send(self, ended: Sequence[Record], reason: str) -> Flow[None]:
        """Send ``session_ended`` for each, after the commit if the caller is in a transaction.

        Before, the reason is noted for the browsers that had the sessions, see ``EXPLAIN_ENDS``.
        """
        cause = self.by if self.by and reason == "revoked" else reason
        yield from leave_end_notes(self.storage, ended, cause)
        end_events = [loading.end_event(each.id, reason, each.user_id) for each in ended]
        yield from events.send_if_committed(self.store, self.storage, end_events)
