"""The sessions of the user of a request, with names by which the user recognises them.

The pages of `views` use this module, and so can a project's own views and templates. It never
exposes a session key.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Final, NamedTuple

import msgspec
from asgiref.sync import sync_to_async
from django.http import HttpRequest

from ..accounts.users import RequestUser
from ..core import clock
from ..core.flow import Call, Flow, arun, run
from ..core.lifetime import utc_datetime
from ..core.records import is_session_id
from ..inventory import REQUEST_SECONDS, Inventory, SessionInfo, SessionPage, Total
from ..middleware.installed import records_reads
from ..sessions.user_ids import user_id_of
from .names import DeviceKind, describe_device, describe_place, device_kind

MAX_LISTED: Final = 200
"""The most sessions in a list. Users do not recognise more, and a program may have many."""
PER_PAGE: Final = 50
"""How many other sessions a page has."""
MAX_SORTED: Final = 2000
"""The most sessions that are read to sort them. A page says if there are more."""


class YourSession(msgspec.Struct, frozen=True, kw_only=True):
    """A session as its user sees it. Times are aware datetimes in UTC.

    The device, the place and the address come from what the client sent. They help the user to
    recognise the session, but do not prove anything.
    """

    id: str
    """The session id, which is not a secret."""
    device: str
    """The device, such as "Firefox on Linux", in the language of the request. Never empty."""
    kind: DeviceKind
    """The kind of device: "computer", "phone", "tablet", "program" or "unknown"."""
    place: str
    """The place, such as "Uppsala, Sweden". Empty if it is not known."""
    ip: str
    """The IP address. Empty without the package's middleware."""
    created: datetime
    """When the user signed in."""
    last_activity: datetime
    """When the session was last active, see `SessionInfo`. For the current session: now."""
    is_current: bool
    """Whether it is the session of the request."""
    is_bound: bool
    """Whether the session is bound to its device, so that a copied cookie works for minutes."""
    was_refused: bool
    """Whether its cookie was used without the proof of the device, see `SessionInfo`."""


class YourSessionList(msgspec.Struct, frozen=True, kw_only=True):
    """A list of sessions: the current session first, then the others by last activity."""

    sessions: Sequence[YourSession]
    is_complete: bool
    """Whether the list has all sessions of the user."""
    records_reads: bool
    """Whether a request that only reads its session counts as activity.

    If not, call ``last_activity`` "last change" on your pages, as the package's pages do.
    """

    @property
    def current(self) -> YourSession | None:
        """Return the session of the request; ``None`` if it has none, for example with a token."""
        return next((each for each in self.sessions if each.is_current), None)

    @property
    def others(self) -> list[YourSession]:
        return [each for each in self.sessions if not each.is_current]


class YourSessionPage(YourSessionList, frozen=True, kw_only=True):
    """A page of the list: the current session, and `PER_PAGE` of the others."""

    number: int
    """The number of the page, from 1."""
    pages: int
    """How many pages there are."""
    total_others: int
    """How many other sessions the user has, on all pages."""

    @property
    def previous(self) -> int | None:
        return self.number - 1 if self.number > 1 else None

    @property
    def next(self) -> int | None:
        return self.number + 1 if self.number < self.pages else None


class YourSessions:
    """The sessions of the user of a request, who must be authenticated.

    Each method has an async twin with an ``a`` before its name. The methods raise
    `StorageUnavailable` if the store does not answer, `CannotList` if the session engine cannot
    list sessions, and ``ValueError`` if the user is anonymous.
    """

    def __init__(self, request: HttpRequest) -> None:
        self._request = request

    def is_current(self, session_id: str) -> bool:
        """Return whether this is the id of the request's session, without asking the store."""
        return session_id in ids_of_request(self._request)

    def list(self) -> YourSessionList:
        """Return the sessions of the user, at most `MAX_LISTED`."""
        return run(self._list())

    async def alist(self) -> YourSessionList:
        """See `list`."""
        return await arun(self._list())

    def page(self, number: int = 1) -> YourSessionPage:
        """Return a page of the list, whose others are sorted across all pages.

        If there is no page with this number, return the last one. ``is_complete`` is false if the
        user has more than `MAX_SORTED` sessions; the pages then have that many of them.
        """
        return run(self._page(number))

    async def apage(self, number: int = 1) -> YourSessionPage:
        """See `page`."""
        return await arun(self._page(number))

    def count_others(self) -> int:
        """Return the number of sessions besides the current one.

        If the store has an index of users, this costs less than a list.
        """
        return run(self._count_others())

    async def acount_others(self) -> int:
        """See `count_others`."""
        return await arun(self._count_others())

    def get(self, session_id: str) -> YourSession | None:
        """Return the session of the user with this id; ``None`` if there is none."""
        return run(self._get(session_id))

    async def aget(self, session_id: str) -> YourSession | None:
        """See `get`."""
        return await arun(self._get(session_id))

    def end(self, session_id: str) -> bool:
        """End another session of the user; return False if there is no live session with this id.

        Raises ``ValueError`` for the current session. Call ``logout()`` to end that one.
        """
        return run(self._end(session_id))

    async def aend(self, session_id: str) -> bool:
        """See `end`."""
        return await arun(self._end(session_id))

    def end_others(self) -> Total:
        """End all sessions except the current one; return how many were live.

        Stops after `REQUEST_SECONDS`, so that the request ends before its server times out. Repeat
        the call until the result, a number, ``is_complete``. Raises `PartlyEnded` if the store
        stops answering after some of them.
        """
        return run(self._end_others())

    async def aend_others(self) -> Total:
        """See `end_others`."""
        return await arun(self._end_others())

    # --- Flows -----------------------------------------------------------------------------

    def _list(self) -> Flow[YourSessionList]:
        _, current, found, is_complete = yield from self._sorted(MAX_LISTED)
        sessions = yield Call(_Descriptions, "describe", (found, current))
        return YourSessionList(
            sessions=sessions, is_complete=is_complete, records_reads=records_reads()
        )

    def _page(self, number: int) -> Flow[YourSessionPage]:
        user_id, current, found, is_complete = yield from self._sorted(MAX_SORTED)
        own = [each for each in found if each.id in current]
        others = found[len(own) :]
        total = len(others)
        if not is_complete:
            counted: int = yield Call(Inventory(), "count", (), {"user": user_id})
            total = max(total, counted - len(own))
        pages = max(1, math.ceil(len(others) / PER_PAGE))
        number = min(max(1, number), pages)
        shown = [*own, *others[(number - 1) * PER_PAGE : number * PER_PAGE]]
        return YourSessionPage(
            sessions=(yield Call(_Descriptions, "describe", (shown, current))),
            is_complete=is_complete,
            records_reads=records_reads(),
            number=number,
            pages=pages,
            total_others=total,
        )

    def _sorted(self, limit: int) -> Flow[_Sorted]:
        """Return the sessions of the user, the current one first and the others by activity."""
        user_id, current = yield from self._user_and_ids()
        inventory = Inventory()
        page: SessionPage = yield Call(inventory, "list", (), {"user": user_id, "limit": limit})
        found = [*page.sessions]
        if page.next and not any(each.id in current for each in found):
            found += yield from self._look_up(inventory, user_id, current)
        found.sort(key=lambda each: each.last_activity, reverse=True)
        found.sort(key=lambda each: each.id not in current)
        return _Sorted(user_id, current, found, not page.next)

    def _count_others(self) -> Flow[int]:
        user_id, current = yield from self._user_and_ids()
        inventory = Inventory()
        number: int = yield Call(inventory, "count", (), {"user": user_id})
        own = yield from self._look_up(inventory, user_id, current)
        return number - len(own)

    def _get(self, session_id: str) -> Flow[YourSession | None]:
        user_id, current = yield from self._user_and_ids()
        if not is_session_id(session_id):
            return None
        found = yield from self._look_up(Inventory(), user_id, [session_id])
        sessions: list[YourSession] = yield Call(_Descriptions, "describe", (found, current))
        return sessions[0] if sessions else None

    def _end(self, session_id: str) -> Flow[bool]:
        user_id, _ = yield from self._user_and_ids()
        if self.is_current(session_id):
            raise ValueError("This is the session of the request itself, which logout() ends.")
        if not is_session_id(session_id):
            return False
        ended: bool = yield Call(Inventory(by="user"), "end", (session_id,), {"user": user_id})
        return ended

    def _end_others(self) -> Flow[Total]:
        user_id, current = yield from self._user_and_ids()
        ended: Total = yield Call(
            Inventory(by="user"),
            "end_all",
            (user_id,),
            {"but": current, "seconds": REQUEST_SECONDS},
        )
        return ended

    def _user_and_ids(self) -> Flow[tuple[str, Collection[str]]]:
        """Return the primary key of the user, and the ids of the current session."""
        user = yield Call(RequestUser(self._request), "get", ())
        if not user.is_authenticated:
            raise ValueError("The user of the request is anonymous; log the user in first.")
        return user_id_of(user), ids_of_request(self._request)

    def _look_up(
        self, inventory: Inventory, user_id: str, ids: Collection[str]
    ) -> Flow[Sequence[SessionInfo]]:
        """Return the live sessions with these ids that belong to the user."""
        found: dict[str, SessionInfo] = yield Call(inventory, "get_many", (ids,))
        return [each for each in found.values() if each.user_id == user_id]


class _Sorted(NamedTuple):
    """The sessions of a user, see `YourSessions._sorted`."""

    user_id: str
    current: Collection[str]
    """The ids of the current session."""
    found: list[SessionInfo]
    is_complete: bool


def ids_of_request(request: HttpRequest) -> Collection[str]:
    """Return the ids of the session of a request.

    There are none if the session engine is from another package.
    """
    return getattr(request.session, "stored_ids", ())


class _Descriptions:
    """Sessions with their names, with a sync and an async method for a flow to call."""

    @staticmethod
    def describe(sessions: Sequence[SessionInfo], current: Collection[str]) -> list[YourSession]:
        now = utc_datetime(clock.now())
        return [
            YourSession(
                id=each.id,
                device=describe_device(each.user_agent),
                kind=device_kind(each.user_agent),
                place=describe_place(each.ip),
                ip=each.ip,
                created=each.created,
                # The stored time of the current session is from before this request.
                last_activity=now if each.id in current else each.last_activity,
                is_current=each.id in current,
                is_bound=each.is_bound,
                was_refused=each.was_refused,
            )
            for each in sessions
        ]

    @staticmethod
    async def adescribe(
        sessions: Sequence[SessionInfo], current: Collection[str]
    ) -> list[YourSession]:
        # Parsing a user agent takes milliseconds, and the database of places is a file.
        describe = sync_to_async(_Descriptions.describe, thread_sensitive=False)
        return await describe(sessions, current)
