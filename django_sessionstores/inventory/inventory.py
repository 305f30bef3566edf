"""The public class that finds the sessions of an engine and ends them.

The sync and the async methods of `Inventory` do the same; an async method has an ``a`` before its
name. Nothing here knows or shows a session key.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Iterable, Iterator, Sequence
from typing import Any

from django.conf import settings as django_settings
from django.utils.translation import gettext_noop

from ..conf import session_store
from ..core import clock
from ..core.flow import Call, Flow, arun, run
from ..core.phrases import Phrase
from ..core.records import Record
from ..core.summary import Numbers, Summary
from ..exceptions import CannotList, UnreadablePayload
from ..sessions import SessionStore, Total, purge_expired
from ..storages.base import MOST_AT_ONCE, Storage
from ..storages.calls import Calls
from .arguments import (
    KeptIds,
    checked_id,
    checked_ids,
    checked_limits,
    required_user_id,
    user_id_or_any,
)
from .ending import Ending, IsOutdated, Selection
from .filters import Filters
from .listing import PAGE_SIZE, Listing
from .session_info import SessionInfo, SessionPage, session_info


class Inventory:
    """The sessions of an engine.

    ``engine`` is a dotted path like ``SESSION_ENGINE``, which is the default. Users are passed as
    objects or as primary keys. An outage raises ``StorageUnavailable``. An engine that keeps no
    list of its sessions raises `CannotList`, but `get` and `end` work with it. An argument that is
    not a session id, a user or a number raises ``ValueError`` or ``TypeError`` before anything is
    read or ended. ``by`` is who ends sessions with this object: ``"user"`` for the user of the
    sessions, ``"staff"``, or empty. Only users are told, see ``EXPLAIN_ENDS``.
    """

    def __init__(self, engine: str | None = None, *, by: str = "") -> None:
        if by not in {"", "user", "staff"}:
            raise ValueError(f"by is {by!r}; it must be 'user', 'staff' or empty.")
        self._engine = django_settings.SESSION_ENGINE if engine is None else engine
        self._store: Any = session_store(self._engine)
        if not (isinstance(self._store, type) and issubclass(self._store, SessionStore)):
            raise CannotList(
                Phrase(
                    gettext_noop("%(engine)s is not an engine of django_sessionstores."),
                    engine=self._engine,
                )
            )
        self.storage: Storage = self._store.storage()
        self._listing = Listing(self._engine, self.storage)
        self._ending = Ending(self._store, self.storage, self._listing, by)

    # --- Find ------------------------------------------------------------------------------

    def list(
        self, *, cursor: str = "", limit: int = 100, within: int | None = None, **filters: Any
    ) -> SessionPage:
        """Return a page of up to ``limit`` sessions, and the ``cursor`` of the next page.

        Filters, all of which must match: ``user``; ``logged_in`` (True or False); ``expired``
        (False unless given; None for either); ``idle_since`` (an aware datetime); ``ip`` (an
        address, or a network such as ``"192.0.2.0/24"``); ``id_prefix``; ``where`` (a function that
        gets a `SessionInfo` and returns whether it matches).

        All filters but ``user`` are applied session by session, and so is ``user`` if the storage
        has no index of users. ``within`` limits how many sessions are read for one page: the page
        may then have less than ``limit`` sessions, or none, and still have a cursor.

        The order is the storage's: the last to expire come first in a database and in MongoDB, and
        elsewhere sessions are in the order of their ids. A session that is
        written between two pages may be missing, or be on both. Raises ``ValueError`` for a cursor
        that does not come from a page.
        """
        return run(self._listing.page(cursor, limit, within, Filters(**filters)))

    async def alist(
        self, *, cursor: str = "", limit: int = 100, within: int | None = None, **filters: Any
    ) -> SessionPage:
        """See `list`."""
        return await arun(self._listing.page(cursor, limit, within, Filters(**filters)))

    def iterate(self, **filters: Any) -> Iterator[SessionInfo]:
        """Yield all sessions that `list` would page through, in bounded memory."""
        cursor = ""
        while True:
            sessions, cursor = self.list(cursor=cursor, limit=PAGE_SIZE, **filters)
            yield from sessions
            if not cursor:
                return

    async def aiterate(self, **filters: Any) -> AsyncIterator[SessionInfo]:
        """See `iterate`."""
        cursor = ""
        while True:
            sessions, cursor = await self.alist(cursor=cursor, limit=PAGE_SIZE, **filters)
            for each in sessions:
                yield each
            if not cursor:
                return

    def get(self, session_id: str) -> SessionInfo | None:
        """Return the live session with this id; ``None`` if there is none."""
        return run(self._get(checked_id(session_id)))

    async def aget(self, session_id: str) -> SessionInfo | None:
        """See `get`."""
        return await arun(self._get(checked_id(session_id)))

    def get_many(self, session_ids: Iterable[str]) -> dict[str, SessionInfo]:
        """Return the live sessions with these ids, by their ids.

        The store is asked once for several hundred ids, if it can answer that.
        """
        return run(self._get_many(checked_ids(session_ids)))

    async def aget_many(self, session_ids: Iterable[str]) -> dict[str, SessionInfo]:
        """See `get_many`."""
        return await arun(self._get_many(checked_ids(session_ids)))

    def data(self, session_id: str) -> dict[str, Any] | None:
        """Return the data of the live session with this id, secrets included.

        ``None`` if there is no such session. Raises `UnreadablePayload` if the data can only be
        read with the session key, as with the ``cookie`` engine.
        """
        return run(self._data(checked_id(session_id)))

    async def adata(self, session_id: str) -> dict[str, Any] | None:
        """See `data`."""
        return await arun(self._data(checked_id(session_id)))

    def count(self, *, user: Any = None) -> int:
        """Return the number of live sessions, of all users and visitors or of one user."""
        return run(self._count(user))

    async def acount(self, *, user: Any = None) -> int:
        """See `count`."""
        return await arun(self._count(user))

    def summarize(self, limit: int) -> Summary:
        """Return counts of all sessions, or of a random sample of at least ``limit`` of them if the
        store cannot count in groups, or would take long."""
        self._listing.check()
        return self.storage.summarize(clock.now(), limit)

    def numbers(self, most: int) -> Numbers | None:
        """Return the numbers of all sessions, and the ``most`` users with the most sessions.

        ``None`` if the store would have to read each session for that.
        """
        self._listing.check()
        return self.storage.numbers(clock.now(), most)

    def lineages(self, user_id: str) -> set[str]:
        """Return the lineages of a user's sessions.

        A lineage identifies a session, and stays the same while its key rotates.
        """
        return run(self._listing.lineages(user_id))

    # --- End -------------------------------------------------------------------------------

    def end(self, session_id: str, *, user: Any = None) -> bool:
        """End a session, and return whether it was live. The next request with its key is
        anonymous.

        With ``user``, the session only ends if it is that user's. An id that the session had
        before also ends it, for at least ``TOMBSTONE_AGE`` seconds after ``cycle_key()`` or a new
        password, and ``ROTATION_GRACE`` seconds more after a rotation for age. The id from before a
        login ends nothing, because a login begins another session.

        During a migration, a session that one of Django's backends still has ends as well, but the
        result is false, because those backends find sessions by their keys only.
        """
        return run(self._ending.end(checked_id(session_id), user_id_or_any(user)))

    async def aend(self, session_id: str, *, user: Any = None) -> bool:
        """See `end`."""
        return await arun(self._ending.end(checked_id(session_id), user_id_or_any(user)))

    def end_many(self, session_ids: Iterable[str]) -> Sequence[SessionInfo]:
        """End several sessions in batches, each as `end` does; return those that were live.

        Raises `PartlyEnded`, whose ``sessions`` are those that have ended, if the store stops
        answering after the first ones.
        """
        return _infos(run(self._ending.end_many(checked_ids(session_ids))))

    async def aend_many(self, session_ids: Iterable[str]) -> Sequence[SessionInfo]:
        """See `end_many`."""
        return _infos(await arun(self._ending.end_many(checked_ids(session_ids))))

    def end_all(
        self,
        user: Any,
        *,
        but: KeptIds = None,
        most: int | None = None,
        seconds: float | None = None,
    ) -> Total:
        """End the sessions of a user, and return how many were live.

        ``but`` is an id, or several, of sessions that must not end; ``request.session.stored_ids``
        are the ids of a request. Ends ``most`` sessions at most, and begins no other batch after
        ``seconds``. A caller with limited time can repeat the call until the result, a number,
        ``is_complete``. ``None`` is not a user: see `end_everything`. Raises `PartlyEnded` if the
        store stops answering after some sessions have ended.
        """
        user_id, limits = required_user_id(user), checked_limits(most, seconds)
        return run(self._ending.end_all(user_id, checked_ids(but), limits))

    async def aend_all(
        self,
        user: Any,
        *,
        but: KeptIds = None,
        most: int | None = None,
        seconds: float | None = None,
    ) -> Total:
        """See `end_all`."""
        user_id, limits = required_user_id(user), checked_limits(most, seconds)
        return await arun(self._ending.end_all(user_id, checked_ids(but), limits))

    def end_everything(
        self, *, but: KeptIds = None, most: int | None = None, seconds: float | None = None
    ) -> Total:
        """End the sessions of all users and visitors; see `end_all` for the rest."""
        limits = checked_limits(most, seconds)
        return run(self._ending.end_all(None, checked_ids(but), limits))

    async def aend_everything(
        self, *, but: KeptIds = None, most: int | None = None, seconds: float | None = None
    ) -> Total:
        """See `end_everything`."""
        limits = checked_limits(most, seconds)
        return await arun(self._ending.end_all(None, checked_ids(but), limits))

    def end_for(
        self,
        reason: str,
        user_id: str,
        but: Collection[str],
        *,
        only: Collection[str] | None = None,
        is_outdated: IsOutdated = lambda record, data: False,
    ) -> int:
        """End a user's sessions as `end_all` does, with a reason for ``session_ended``.

        ``only`` are the lineages of the sessions to end, see `lineages`; ``None`` for all. Other
        sessions end as well if ``is_outdated`` returns true for their record and their data. The
        data is empty if it cannot be read here.
        """
        selection = None if only is None else Selection(only, is_outdated)
        flow = self._ending.end_all(user_id, but, reason=reason, selection=selection)
        return run(flow)

    # --- Maintain --------------------------------------------------------------------------

    def purge(self, *, most: int | None = None, seconds: float | None = None) -> Total:
        """Remove expired sessions in batches, and return how many.

        Stops after ``most`` sessions, which the last batch may exceed, and begins no other batch
        after ``seconds``. The result, a number, ``is_complete`` if no expired session is left.
        """
        return run(purge_expired(self.storage, *checked_limits(most, seconds)))

    async def apurge(self, *, most: int | None = None, seconds: float | None = None) -> Total:
        """See `purge`."""
        return await arun(purge_expired(self.storage, *checked_limits(most, seconds)))

    def reindex(self) -> int | None:
        """Rebuild the index of sessions, and return how many it has. Requests can go on meanwhile.

        Indexes repair themselves; call this if you do not want to wait for that. ``None`` if the
        storage has no index, because it lists the sessions themselves.
        """
        return run(self._reindex())

    async def areindex(self) -> int | None:
        """See `reindex`."""
        return await arun(self._reindex())

    # --- Flows -----------------------------------------------------------------------------

    def _get(self, session_id: str) -> Flow[SessionInfo | None]:
        record = yield from Calls(self.storage).lookup_as_listed(session_id)
        return None if record is None else self._info_if_live(record)

    def _get_many(self, session_ids: Sequence[str]) -> Flow[dict[str, SessionInfo]]:
        found: dict[str, SessionInfo] = {}
        for start in range(0, len(session_ids), MOST_AT_ONCE):
            batch = session_ids[start : start + MOST_AT_ONCE]
            known = yield from Calls(self.storage).lookup_many(batch)
            for each in batch:
                if each in known and (info := self._info_if_live(known[each])):
                    found[each] = info
        return found

    def _info_if_live(self, record: Record) -> SessionInfo | None:
        """Return the information about a live session of this site; ``None`` for any other."""
        moment = clock.now()
        if not (record.is_live(moment) and self.storage.is_own(record)):
            return None
        return session_info(record, moment)

    def _data(self, session_id: str) -> Flow[dict[str, Any] | None]:
        if self.storage.holds_in_key:
            raise UnreadablePayload(Phrase(gettext_noop("the session data is only in the browser")))
        record: Record | None = yield Call(self.storage, "read", (session_id,))
        if record is None or not (record.is_live(clock.now()) and self.storage.is_own(record)):
            return None
        data: dict[str, Any] = self._store.data_of(record)
        return data

    def _count(self, user: Any) -> Flow[int]:
        self._listing.check()
        counted: int = yield Call(self.storage, "count", (clock.now(), user_id_or_any(user)))
        return counted

    def _reindex(self) -> Flow[int | None]:
        indexed: int | None = yield Call(self.storage, "reindex", ())
        return indexed


def _infos(records: Iterable[Record]) -> list[SessionInfo]:
    moment = clock.now()
    return [session_info(each, moment) for each in records]
