"""The sessions of the user of a request, in words that this user recognises them by.

What the pages of `views` show and do, for views and templates of a project's own. Nothing here
knows or tells a session key.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Final

import msgspec
from asgiref.sync import sync_to_async
from django.http import HttpRequest

from . import session
from .devices import describe_device, describe_place
from .flow import Call, Flow, arun, run
from .inventory import Inventory, SessionInfo, SessionPage
from .lifetime import aware
from .records import is_session_id
from .users import RequestUser

MOST_LISTED: Final = 200
"""How many sessions a list has: nobody recognises more, and a program may have many."""
MOST_ENDED: Final = 5000
"""How many one call ends: a request must answer before its server loses patience."""


class YourSession(msgspec.Struct, frozen=True, kw_only=True):
    """A session as its user sees it. Times are aware, in UTC.

    Device, place and address are what a client claimed: they help to recognise it.
    """

    id: str
    """The session id, which is no secret."""
    device: str
    """As "Firefox on Linux", in the language of the request. Never empty."""
    place: str
    """As "Uppsala, Sweden"; empty where it is not known."""
    ip: str
    """The address; empty without the package's middleware."""
    created: datetime
    """When its user signed in."""
    last_activity: datetime
    """When it was used last, see `SessionInfo`; of the current one, now."""
    is_current: bool
    """Whether the request came with it."""


class YourSessionList(msgspec.Struct, frozen=True, kw_only=True):
    """The current session first, then the others by last use."""

    sessions: Sequence[YourSession]
    is_complete: bool
    """Whether there are no more of them."""

    @property
    def current(self) -> YourSession | None:
        """That of the request; ``None`` where it came without one, as with a token."""
        return next((each for each in self.sessions if each.is_current), None)

    @property
    def others(self) -> list[YourSession]:
        return [each for each in self.sessions if not each.is_current]


class YourSessions:
    """The sessions of the user of a request, who has to be signed in.

    The async twins have an ``a`` before their names. An outage raises ``StorageUnavailable``, an
    engine without a list `CannotList`, and nobody being signed in ``ValueError``.
    """

    def __init__(self, request: HttpRequest) -> None:
        self._request = request

    def is_current(self, session_id: str) -> bool:
        """Whether it is the session of the request. Asks no store."""
        return session_id in self._current

    @property
    def _current(self) -> Collection[str]:
        """The ids of the session of the request."""
        # Of one that is of another engine than the package's, there are none.
        return getattr(self._request.session, "stored_ids", ())

    def list(self) -> YourSessionList:
        """At most `MOST_LISTED` of them."""
        return run(self._list())

    async def alist(self) -> YourSessionList:
        """See `list`."""
        return await arun(self._list())

    def count_others(self) -> int:
        """How many there are besides the current one. Where the store has an index of users, this
        costs less than a list."""
        return run(self._count_others())

    async def acount_others(self) -> int:
        """See `count_others`."""
        return await arun(self._count_others())

    def get(self, session_id: str) -> YourSession | None:
        """One of them, by its id."""
        return run(self._get(session_id))

    async def aget(self, session_id: str) -> YourSession | None:
        """See `get`."""
        return await arun(self._get(session_id))

    def end(self, session_id: str) -> bool:
        """End one of the others; False where there is none with this id, or was.

        Raises ``ValueError`` for the current one, which ``logout()`` ends.
        """
        return run(self._end(session_id))

    async def aend(self, session_id: str) -> bool:
        """See `end`."""
        return await arun(self._end(session_id))

    def end_others(self) -> int:
        """End all but the current one, `MOST_ENDED` at most; how many were live.

        Raises `PartlyEnded` where the store stops answering meanwhile.
        """
        return run(self._end_others())

    async def aend_others(self) -> int:
        """See `end_others`."""
        return await arun(self._end_others())

    # --- Flows -----------------------------------------------------------------------------

    def _list(self) -> Flow[YourSessionList]:
        user_id, current = yield from self._whose()
        inventory = Inventory()
        page: SessionPage = yield Call(
            inventory, "list", (), {"user": user_id, "limit": MOST_LISTED}
        )
        found = [*page.sessions]
        if page.next and not any(each.id in current for each in found):
            found += yield from self._look_up(inventory, user_id, current)
        found.sort(key=lambda each: each.last_activity, reverse=True)
        found.sort(key=lambda each: each.id not in current)
        sessions = yield Call(_Words, "describe", (found, current))
        return YourSessionList(sessions=sessions, is_complete=not page.next)

    def _count_others(self) -> Flow[int]:
        user_id, current = yield from self._whose()
        inventory = Inventory()
        number: int = yield Call(inventory, "count", (), {"user": user_id})
        own = yield from self._look_up(inventory, user_id, current)
        return number - len(own)

    def _get(self, session_id: str) -> Flow[YourSession | None]:
        user_id, current = yield from self._whose()
        if not is_session_id(session_id):
            return None
        found = yield from self._look_up(Inventory(), user_id, [session_id])
        sessions: list[YourSession] = yield Call(_Words, "describe", (found, current))
        return sessions[0] if sessions else None

    def _end(self, session_id: str) -> Flow[bool]:
        user_id, _ = yield from self._whose()
        if self.is_current(session_id):
            raise ValueError("This is the session of the request itself, which logout() ends.")
        if not is_session_id(session_id):
            return False
        ended: bool = yield Call(Inventory(), "end", (session_id,), {"user": user_id})
        return ended

    def _end_others(self) -> Flow[int]:
        user_id, current = yield from self._whose()
        ended: int = yield Call(
            Inventory(), "end_all", (user_id,), {"but": current, "most": MOST_ENDED}
        )
        return ended

    def _whose(self) -> Flow[tuple[str, Collection[str]]]:
        """The primary key of the user, and the ids of the session."""
        user = yield Call(RequestUser(self._request), "get", ())
        if not user.is_authenticated:
            raise ValueError("Nobody is signed in, so nobody's sessions are meant.")
        return str(user.pk), self._current

    def _look_up(
        self, inventory: Inventory, user_id: str, ids: Collection[str]
    ) -> Flow[Sequence[SessionInfo]]:
        """Those of the user, among the live ones with these ids."""
        found: list[SessionInfo] = []
        for session_id in ids:
            info: SessionInfo | None = yield Call(inventory, "get", (session_id,))
            if info and info.user_id == user_id:
                found.append(info)
        return found


class _Words:
    """What sessions are called, as a call that a flow can ask for."""

    @staticmethod
    def describe(sessions: Sequence[SessionInfo], current: Collection[str]) -> list[YourSession]:
        now = aware(session.now())
        return [
            YourSession(
                id=each.id,
                device=describe_device(each.user_agent),
                place=describe_place(each.ip),
                ip=each.ip,
                created=each.created,
                # What is stored of the current one is from before this request.
                last_activity=now if each.id in current else each.last_activity,
                is_current=each.id in current,
            )
            for each in sessions
        ]

    @staticmethod
    async def adescribe(
        sessions: Sequence[SessionInfo], current: Collection[str]
    ) -> list[YourSession]:
        # Parsing takes milliseconds each, and the database of places is a file.
        describe = sync_to_async(_Words.describe, thread_sensitive=False)
        return await describe(sessions, current)
