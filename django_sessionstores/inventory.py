"""Which sessions there are: find them, and end them, on the engine that is in use.

The sync and the async methods of `Inventory` do the same; an async one has an ``a`` before its
name. Nothing here knows or shows a session key.
"""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Collection, Iterator
from datetime import datetime
from typing import Any, Final, NamedTuple, TypeAlias

import msgspec
from django.conf import settings as django_settings
from django.utils.translation import gettext_noop

from . import adoption, ending, session, signals
from .conf import session_store
from .exceptions import CannotList, PartlyEnded, StorageUnavailable, UnreadablePayload
from .flow import Call, Flow, arun, run
from .lifetime import aware
from .records import Record, is_beginning_of_id, is_session_id, is_storable
from .session import SessionStore, purging
from .storages.base import Page, Storage
from .words import Phrase

SHORT_ID: Final = 12
"""Characters of an id in a list: two of a million sessions share them once in 500 times."""
_PAGE: Final = 500
"""Records that are asked for at once where a caller wants all of them."""
_MOST_AT_ONCE: Final = 10_000
"""Records of one question to a store, however large a page is wanted."""
_ROUNDS: Final = 20
"""How often a user's sessions are looked for again, while new ones keep coming up."""

_But: TypeAlias = str | Collection[str] | None
"""The ids of sessions that are left."""


class SessionInfo(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of a session without its key. Times are aware, in UTC."""

    id: str
    """The session id, see ``request.session.session_id``."""
    user_id: str | None
    """The primary key of the user as text; ``None`` for an anonymous session."""
    created: datetime
    """When the session began, or its user logged in."""
    last_activity: datetime
    """When it was written last; it may lag by ``TOUCH_INTERVAL``, or more where only views that
    change it write it."""
    expires: datetime
    ip: str
    """The client's address at the last write; empty without the package's middleware."""
    user_agent: str
    is_expired: bool
    size: int | None = None
    """Bytes of what is stored, encrypted; ``None`` where the list does not know."""


class SessionPage(NamedTuple):
    """Some sessions, and the ``cursor`` for the next ones: empty after the last."""

    sessions: list[SessionInfo]
    next: str


class Inventory:
    """The sessions of an engine.

    ``engine`` is a dotted path as for ``SESSION_ENGINE``, which is the default. Users are given
    as objects or as primary keys. An outage raises ``StorageUnavailable``; an engine that cannot
    tell which sessions it has raises `CannotList`, but can `get` and `end` them. What is no
    session id, no user or no number raises ``ValueError`` or ``TypeError`` before anything is
    asked or ended.
    """

    def __init__(self, engine: str | None = None) -> None:
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

    # --- Find ------------------------------------------------------------------------------

    def list(
        self, *, cursor: str = "", limit: int = 100, within: int | None = None, **filters: Any
    ) -> SessionPage:
        """A page of sessions.

        Filters, all of which must hold: ``user``; ``logged_in`` (True or False); ``expired``
        (False unless given; None for either); ``idle_since`` (an aware datetime); ``ip``;
        ``id_prefix``.

        All but ``user`` are looked for session by session, and this one too where the storage
        has no index of users. ``within`` is how many of them are
        looked at for one page: it may then have less than ``limit``, or none, and a cursor all
        the same.

        The order is the storage's: by last use in a database, by id elsewhere. What is written
        between two pages may be missing, or be in both. Raises ``ValueError`` for a cursor that
        no page has given.
        """
        return run(self._list(cursor, limit, within, _Filter(**filters)))

    async def alist(
        self, *, cursor: str = "", limit: int = 100, within: int | None = None, **filters: Any
    ) -> SessionPage:
        """See `list`."""
        return await arun(self._list(cursor, limit, within, _Filter(**filters)))

    def iterate(self, **filters: Any) -> Iterator[SessionInfo]:
        """All sessions that `list` would page through, in bounded memory."""
        cursor = ""
        while True:
            sessions, cursor = self.list(cursor=cursor, limit=_PAGE, **filters)
            yield from sessions
            if not cursor:
                return

    async def aiterate(self, **filters: Any) -> AsyncIterator[SessionInfo]:
        """See `iterate`."""
        cursor = ""
        while True:
            sessions, cursor = await self.alist(cursor=cursor, limit=_PAGE, **filters)
            for each in sessions:
                yield each
            if not cursor:
                return

    def get(self, session_id: str) -> SessionInfo | None:
        """The live session with this id."""
        return run(self._get(_known(session_id)))

    async def aget(self, session_id: str) -> SessionInfo | None:
        """See `get`."""
        return await arun(self._get(_known(session_id)))

    def data(self, session_id: str) -> dict[str, Any] | None:
        """What the live session with this id holds, secrets included.

        Raises `UnreadablePayload` where only the key would tell, as for the ``cookie`` engine.
        """
        return run(self._data(_known(session_id)))

    async def adata(self, session_id: str) -> dict[str, Any] | None:
        """See `data`."""
        return await arun(self._data(_known(session_id)))

    def count(self, *, user: Any = None) -> int:
        """How many sessions are live, all or those of a user."""
        return run(self._count(user))

    async def acount(self, *, user: Any = None) -> int:
        """See `count`."""
        return await arun(self._count(user))

    # --- End -------------------------------------------------------------------------------

    def end(self, session_id: str, *, user: Any = None) -> bool:
        """End a session; whether it was live. The next request with its key is anonymous.

        With ``user``, only where it is that user's. An id from before the session got another key
        ends it too, for as long as requests with the former key are recognised.
        """
        return run(self._end(_known(session_id), _user_id(user)))

    async def aend(self, session_id: str, *, user: Any = None) -> bool:
        """See `end`."""
        return await arun(self._end(_known(session_id), _user_id(user)))

    def end_all(self, user: Any, *, but: _But = None, most: int | None = None) -> int:
        """End all sessions of a user, or all ``but`` those with these ids; how many were live.

        ``None`` is no user: see `end_everything`. ``request.session.stored_ids`` are the ids of a
        request. Stops after ``most`` of them, so that a caller who has only so long can go on
        later. Raises `PartlyEnded` where the store stops answering meanwhile.
        """
        return run(self._end_all(_named(user), _but(but), _at_most(most)))

    async def aend_all(self, user: Any, *, but: _But = None, most: int | None = None) -> int:
        """See `end_all`."""
        return await arun(self._end_all(_named(user), _but(but), _at_most(most)))

    def end_everything(self, *, but: _But = None, most: int | None = None) -> int:
        """End all sessions of all users and visitors; the rest as `end_all`."""
        return run(self._end_all(None, _but(but), _at_most(most)))

    async def aend_everything(self, *, but: _But = None, most: int | None = None) -> int:
        """See `end_everything`."""
        return await arun(self._end_all(None, _but(but), _at_most(most)))

    def end_for(self, reason: str, user_id: str, but: Collection[str]) -> int:
        """`end_all` for a reason of the package's own, which `session_ended` tells."""
        return run(self._end_all(user_id, but, None, reason))

    def purge(self, *, most: int | None = None) -> int:
        """Remove what has expired, in batches; how many sessions. ``most`` as for `end_all`, but
        that the last batch may exceed it."""
        return run(purging(self.storage, _at_most(most)))

    async def apurge(self, *, most: int | None = None) -> int:
        """See `purge`."""
        return await arun(purging(self.storage, _at_most(most)))

    def reindex(self) -> int | None:
        """Make the index anew that lists are taken from, while requests go on; how many sessions
        it has.

        Indexes heal by themselves: this is for who does not want to wait. ``None`` where lists
        are taken from the sessions themselves.
        """
        return run(self._reindex())

    async def areindex(self) -> int | None:
        """See `reindex`."""
        return await arun(self._reindex())

    # --- Flows -----------------------------------------------------------------------------

    def _list(
        self, cursor: str, limit: int, within: int | None, wanted: _Filter
    ) -> Flow[SessionPage]:
        _check_type("cursor", cursor, str)
        _check_number("limit", limit, least=1)
        if within is not None:
            _check_number("within", within, least=1)
        moment, found = session.now(), list[SessionInfo]()
        if not cursor and wanted.expired:
            cursor = self.storage.first_expired(moment)
        unseen = math.inf if within is None else within
        # Without an index, the storage would read on until it has enough of this user.
        is_indexed = within is None or self.storage.indexes_users
        user_id = wanted.user_id if is_indexed else None
        asked = limit
        while True:
            asked = int(min(asked, unseen, _MOST_AT_ONCE))
            page = yield from self._scan(cursor, asked, user_id)
            places = [n for n, each in enumerate(page.records, 1) if wanted.has(each, moment)]
            missing = limit - len(found)
            if len(places) > missing:
                # Once more, up to the last that is wanted: the cursor has to lead to the next.
                asked = places[missing - 1]
                continue
            found += [_info(page.records[place - 1], moment) for place in places]
            cursor, unseen = page.next, unseen - asked
            if not cursor or len(found) == limit or not unseen:
                return SessionPage(found, cursor)
            # Not only those that are missing: where few match, that would be a call for each.
            asked = max(limit - len(found), _PAGE)

    def _scan(self, cursor: str, limit: int, user_id: str | None) -> Flow[Page]:
        if not self.storage.lists:
            raise CannotList(
                Phrase(
                    gettext_noop(
                        "%(engine)s cannot tell which sessions there are: %(store)s keeps no list "
                        "of them. Name a registry in SESSIONSTORES['REGISTRY'] where the engine "
                        "takes one, or choose another SESSION_ENGINE."
                    ),
                    engine=self._engine,
                    store=self.storage.describe(),
                )
            )
        page: Page = yield Call(self.storage, "scan", (cursor, limit, user_id))
        return page

    def _reindex(self) -> Flow[int | None]:
        indexed: int | None = yield Call(self.storage, "reindex", ())
        return indexed

    def _get(self, session_id: str) -> Flow[SessionInfo | None]:
        record: Record | None = yield Call(self.storage, "lookup", (session_id,))
        moment = session.now()
        return _info(record, moment) if record and record.is_live(moment) else None

    def _data(self, session_id: str) -> Flow[dict[str, Any] | None]:
        if self.storage.holds_in_key:
            raise UnreadablePayload(
                Phrase(gettext_noop("only the browser has what is in the session"))
            )
        record: Record | None = yield Call(self.storage, "read", (session_id,))
        if record is None or not record.is_live(session.now()):
            return None
        data: dict[str, Any] = self._store.data_of(record)
        return data

    def _count(self, user: Any) -> Flow[int]:
        if not self.storage.lists:
            yield from self._scan("", 1, None)
        counted: int = yield Call(self.storage, "count", (session.now(), _user_id(user)))
        return counted

    def _end(self, session_id: str, user_id: str | None) -> Flow[bool]:
        found: Record | None = yield Call(self.storage, "lookup", (session_id,))
        if user_id is not None and (found is None or found.user_id != user_id):
            return False
        # Also where there is none: what is not live must not become so.
        ended = yield from self._remove(session_id, found)
        if found is None or ended is None or found.expires <= session.now():
            return False
        yield from self._tell_end(ended, found)
        return True

    def _remove(self, session_id: str, record: Record | None) -> Flow[str | None]:
        """End a session, known by its record or a tombstone; the id that it had, if any."""
        if self._engine == django_settings.SESSION_ENGINE:
            return (yield from adoption.end(self.storage, session_id, record, None, session.now))
        return (yield from ending.end(self.storage, session_id, record))

    def _tell_end(self, session_id: str, record: Record, reason: str = "revoked") -> Flow[None]:
        return signals.tell(
            signals.session_ended,
            self._store,
            session_id=session_id,
            user_id=record.user_id,
            reason=reason,
        )

    def _end_all(
        self,
        user_id: str | None,
        but: Collection[str],
        most: int | None,
        reason: str = "revoked",
    ) -> Flow[int]:
        done = _Done(most)
        try:
            # A request may give a session another id while this goes on. So it is over only when
            # nothing is found any more.
            for _ in range(_ROUNDS):
                found = yield from self._end_round(user_id, but, reason, done)
                if not found or done.is_enough:
                    break
        except StorageUnavailable as error:
            if done.ended:
                raise PartlyEnded(done.ended, error) from error
            raise
        return done.ended

    def _end_round(
        self, user_id: str | None, but: Collection[str], reason: str, done: _Done
    ) -> Flow[int]:
        """End all that are there now; how many were found."""
        found, cursor = 0, ""
        while True:
            page = yield from self._scan(cursor, _PAGE, user_id)
            for record in page.records:
                if record.id in but:
                    continue
                if done.is_enough:
                    return found
                found += 1
                deleted = yield from self._remove(record.id, None)
                if deleted and record.is_live(session.now()):
                    done.ended += 1
                    yield from self._tell_end(record.id, record, reason)
            cursor = page.next
            if not cursor:
                return found


class _Done:
    """How many sessions were ended so far, of those that should be."""

    def __init__(self, most: int | None) -> None:
        self.ended = 0
        self._most = most

    @property
    def is_enough(self) -> bool:
        return self._most is not None and self.ended >= self._most


_OPTIONAL: Final = {"logged_in": bool, "expired": bool, "idle_since": datetime, "ip": str}


class _Filter(msgspec.Struct, frozen=True, kw_only=True):
    user: Any = None
    logged_in: bool | None = None
    expired: bool | None = False
    idle_since: datetime | None = None
    ip: str | None = None
    id_prefix: str = ""

    def __post_init__(self) -> None:
        _user_id(self.user)
        for name, kind in _OPTIONAL.items():
            if getattr(self, name) is not None:
                _check_type(name, getattr(self, name), kind)
        _check_type("id_prefix", self.id_prefix, str)
        if self.idle_since is not None and self.idle_since.utcoffset() is None:
            raise ValueError("idle_since has no time zone; it must be aware.")
        if not is_beginning_of_id(self.id_prefix):
            raise ValueError("id_prefix is not the beginning of a session id: of 0-9 and a-f.")

    @property
    def user_id(self) -> str | None:
        return _user_id(self.user)

    def has(self, record: Record, moment: int) -> bool:
        return (
            self.user_id in {None, record.user_id}
            and self.logged_in in {None, record.user_id is not None}
            and self.expired in {None, record.expires <= moment}
            and self.ip in {None, record.ip}
            and record.id.startswith(self.id_prefix)
            and (self.idle_since is None or aware(record.last_activity) <= self.idle_since)
        )


def _known(session_id: str) -> str:
    """The id. Raises ``ValueError`` for what is none, and does not repeat it: it may be a key."""
    if not (isinstance(session_id, str) and is_session_id(session_id)):
        raise ValueError("This is no session id, which is 40 of 0-9 and a-f. Nor is a session key.")
    return session_id


def _but(but: _But) -> Collection[str]:
    if but is None:
        return ()
    return [_known(each) for each in ([but] if isinstance(but, str) else but)]


def _user_id(user: Any) -> str | None:
    """The primary key as sessions have it; ``None`` for any user. Raises ``ValueError``."""
    if user is None:
        return None
    pk = getattr(user, "pk", user)
    text = str(pk)
    if pk is None or not text or not is_storable(text):
        raise ValueError(f"{user!r} is no user: it has no primary key.")
    return text


def _named(user: Any) -> str:
    """The primary key of somebody. Raises ``ValueError`` for nobody: that would be everybody."""
    user_id = _user_id(user)
    if user_id is None:
        raise ValueError("None is no user. To end the sessions of all, call end_everything().")
    return user_id


def _at_most(most: int | None) -> int | None:
    if most is not None:
        _check_number("most", most, least=0)
    return most


def _check_type(name: str, value: object, kind: type) -> None:
    if not isinstance(value, kind):
        raise TypeError(f"{name} is {value!r}, no {kind.__name__}.")


def _check_number(name: str, number: int, *, least: int) -> None:
    _check_type(name, number, int)
    if number < least:
        raise ValueError(f"{name} is {number}; it must be {least} or more.")


def _info(record: Record, moment: int) -> SessionInfo:
    return SessionInfo(
        id=record.id,
        user_id=record.user_id,
        created=aware(record.created),
        last_activity=aware(record.last_activity),
        expires=aware(record.expires),
        ip=record.ip,
        user_agent=record.user_agent,
        is_expired=record.expires <= moment,
        size=record.size or len(record.payload) or None,
    )
