"""Django's interface to a session. The other modules of this package implement it."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any, Final, TypeVar

from django.conf import settings as django_settings
from django.utils.functional import cached_property
from django.utils.module_loading import import_string

from ..conf import settings
from ..core import lifetime
from ..core.end_notes import EndNote
from ..core.flow import arun, run
from ..core.records import Record, SecretText, as_secret, draw_key
from . import drafting
from .engine import purge_expired
from .flows import SessionFlows
from .rollback import ProvisionalStates
from .state import Dead, New, Rotating, Stored

T = TypeVar("T")

_MISSING: Final = object()


class SessionStore(SessionFlows):
    """A session in a `Storage`. An engine is a subclass that makes its storage.

    The class must be called ``SessionStore`` in each engine's module: Django looks it up by that
    name, and derives from it the salt under which its own engines read each other's data.
    """

    @cached_property
    def serializer(self) -> Any:
        # Only for encode() and decode(), the text form of Django's own engines.
        return import_string(django_settings.SESSION_SERIALIZER)

    is_end_told: bool = False
    """Whether the response says why the session has ended."""

    # --- Keys ------------------------------------------------------------------------------

    def _get_session_key(self) -> str | None:
        state = self._promise_key()
        if state.key is None or (isinstance(state, Dead) and state.outdated):
            return None
        # A plain string, because other code compares, stores and quotes it.
        return str(state.key)

    def _set_session_key(self, value: str | None) -> None:
        self._provisional = ProvisionalStates()
        self._set_state(self._state_of(value))

    session_key = property(_get_session_key)
    _session_key = property(_get_session_key, _set_session_key)

    def _get_new_session_key(self) -> str:
        # Whether the key is free is not asked here: create() finds out in the same round trip.
        return draw_key()

    async def _aget_new_session_key(self) -> str:
        return draw_key()

    def _get_or_create_session_key(self) -> str:
        if self._current_state.key is None:
            self._set_state(New(SecretText(draw_key())))
        return str(self._current_state.key)

    async def _aget_or_create_session_key(self) -> str:
        return self._get_or_create_session_key()

    @property
    def known_record(self) -> Record | None:
        """The record of the stored session, or the tombstone that was found under its key.

        ``None`` if nothing is stored, and before the session is loaded.
        """
        state = self._current_state
        known = state.previous if isinstance(state, Rotating) else state
        if isinstance(known, Stored):
            return known.record
        return known.tombstone if isinstance(known, Dead) else None

    @property
    def end_note(self) -> EndNote | None:
        """Why the session that the browser had has ended, if that was noted: ``EXPLAIN_ENDS``."""
        state = self._current_state
        return state.end if isinstance(state, New) else None

    @property
    def has_end_to_tell(self) -> bool:
        """Whether the session has ended for a reason that no response has told yet."""
        return self.end_note is not None and not self.is_end_told

    @property
    def has_logged_in(self) -> bool:
        """Whether the user has logged in with this object, and the login is stored."""
        state = self._current_state
        if not isinstance(state, Stored) or not state.drawn:
            return False
        return state.record.user_id is not None and state.record.created >= self._opened

    def is_empty(self) -> bool:
        """Return whether there is neither a key nor data. Then a middleware deletes the cookie."""
        # A dead session has a key. Its cookie stays, because the browser may have a newer one.
        return self._current_state.key is None and not getattr(self, "_session_cache", None)

    def _get_session(self, no_load: bool = False) -> dict[str, Any]:
        self.accessed = True
        if self._provisional:
            self._settle()
        if not hasattr(self, "_session_cache"):
            self._session_cache = {} if no_load or self._state.key is None else self.load()
        return self._session_cache

    _session = property(_get_session)

    async def _aget_session(self, no_load: bool = False) -> dict[str, Any]:
        # Several tasks of one request may load at the same time. The first result is the session's
        # data, because another task may use it already.
        self.accessed = True
        if self._provisional:
            self._settle()
        if not hasattr(self, "_session_cache"):
            data = {} if no_load or self._state.key is None else await self.aload()
            if not hasattr(self, "_session_cache"):
                self._session_cache = data
        return self._session_cache

    # Django's methods set ``modified`` to itself, so that a save which is only due would become one
    # that the view has asked for.

    def pop(self, key: str, default: Any = _MISSING) -> Any:
        """Remove a key; return its value, or the default. Raises ``KeyError`` if there is none."""
        return self._pop(self._session, key, default)

    async def apop(self, key: str, default: Any = _MISSING) -> Any:
        """See `pop`."""
        return self._pop(await self._aget_session(), key, default)

    def _pop(self, data: dict[str, Any], key: str, default: Any) -> Any:
        self._modified |= key in data
        return data.pop(key) if default is _MISSING else data.pop(key, default)

    async def adelete_test_cookie(self) -> None:
        # Django's method does not set ``modified``.
        await self.apop(self.TEST_COOKIE_NAME)

    # --- Expiry ----------------------------------------------------------------------------

    def get_expiry_age(self, **kwargs: Any) -> int:
        """Return the seconds until the session expires. See Django's documentation."""
        if "expiry" not in kwargs:
            kwargs["expiry"] = self.get("_session_expiry")
        return self._expiry(lifetime.expiry_age, **kwargs)

    async def aget_expiry_age(self, **kwargs: Any) -> int:
        """See `get_expiry_age`."""
        if "expiry" not in kwargs:
            kwargs["expiry"] = await self.aget("_session_expiry")
        return self._expiry(lifetime.expiry_age, **kwargs)

    def get_expiry_date(self, **kwargs: Any) -> datetime:
        """Return when the session expires. See Django's documentation."""
        if "expiry" not in kwargs:
            kwargs["expiry"] = self.get("_session_expiry")
        return self._expiry(lifetime.expiry_date, **kwargs)

    async def aget_expiry_date(self, **kwargs: Any) -> datetime:
        """See `get_expiry_date`."""
        if "expiry" not in kwargs:
            kwargs["expiry"] = await self.aget("_session_expiry")
        return self._expiry(lifetime.expiry_date, **kwargs)

    def _expiry(
        self,
        of: Callable[[lifetime.Expiry, datetime | None, int], T],
        expiry: lifetime.Expiry,
        modification: datetime | None = None,
    ) -> T:
        return of(expiry, modification, self.get_session_cookie_age())

    def deadlines(self) -> lifetime.Deadlines | None:
        """Return the times at which the session ends; ``None`` if it is not stored."""
        return self._deadlines(self.get("_session_expiry"))

    async def adeadlines(self) -> lifetime.Deadlines | None:
        """See `deadlines`."""
        return self._deadlines(await self.aget("_session_expiry"))

    def _deadlines(self, expiry: lifetime.Expiry) -> lifetime.Deadlines | None:
        state = self._current_state
        if not isinstance(state, Stored):
            return None
        record = state.record
        by_default = django_settings.SESSION_EXPIRE_AT_BROWSER_CLOSE
        at_close = by_default if expiry is None else expiry == 0
        absolute = settings.timeouts.absolute
        return lifetime.Deadlines(
            idle=lifetime.utc_datetime(drafting.ends_at(record)),
            absolute=lifetime.utc_datetime(record.created + absolute) if absolute else None,
            cookie=None if at_close else lifetime.utc_datetime(record.expires),
        )

    # --- Django's methods, each a flow and its two drivers ---------------------------------

    def load(self) -> dict[str, Any]:
        """Return the session's data from the storage; an empty dict if the key is unknown.

        Does not change an object that is loaded already: its changes are still merged against the
        data that it was loaded from. Raises `StorageUnavailable` if the store does not answer.
        """
        return run(self._load())

    async def aload(self) -> dict[str, Any]:
        """See `load`."""
        return await arun(self._load())

    def save(self, must_create: bool = False) -> None:
        """Store what changed since the session was loaded, merged with what others saved.

        Raises `SessionEnded` if the session has ended, `SessionConflict` if others kept changing
        it, `UnserializableValue`, `PayloadTooLarge` and `StorageUnavailable`. After each of
        them, the stored session is intact, and another call does what the first one would have
        done. With ``must_create``, raises ``CreateError`` if there is a session with this key.
        """
        run(self._save(must_create))

    async def asave(self, must_create: bool = False) -> None:
        """See `save`."""
        await arun(self._save(must_create))

    def create(self) -> None:
        """Store a new session under a new key.

        If `cycle_key` has drawn a key, the session is stored under that key.
        """
        run(self._create())

    async def acreate(self) -> None:
        """See `create`."""
        await arun(self._create())

    def exists(self, session_key: str | None) -> bool:
        """Return whether there is a live session with this key.

        After `cycle_key`, the new key of this object counts and the old one does not.
        """
        session_key = as_secret(session_key)
        return run(self._exists(session_key))

    async def aexists(self, session_key: str | None) -> bool:
        """See `exists`."""
        session_key = as_secret(session_key)
        return await arun(self._exists(session_key))

    def delete(self, session_key: str | None = None) -> None:
        """End the session with this key, or this session. No later save brings it back."""
        session_key = as_secret(session_key)
        run(self._delete(session_key))

    async def adelete(self, session_key: str | None = None) -> None:
        """See `delete`."""
        session_key = as_secret(session_key)
        await arun(self._delete(session_key))

    def flush(self) -> None:
        """End the session and remove its data, as a logout does.

        The next save makes another session.
        """
        run(self._flush())

    async def aflush(self) -> None:
        """See `flush`."""
        await arun(self._flush())

    def cycle_key(self) -> None:
        """Give the session a new key.

        The key of an authenticated session is stored at once, because another request could undo
        it. The key of an anonymous session is stored by the next save, which leaves a tombstone
        under the old key in the same step. So a request that fails in between loses nothing, and a
        login writes once. Outside of a request, the caller must save the session.
        """
        run(self._cycle())

    async def acycle_key(self) -> None:
        """See `cycle_key`."""
        await arun(self._cycle())

    def rotate_later(self, *, is_login: bool = False) -> None:
        """Give the session a new key as `cycle_key` does, but store it only with the next save.

        ``is_login`` is whether the session's user has logged in again. Then a login of the same
        user that still has the old key may continue the session.
        """
        run(self._cycle(at_once=False, is_login=is_login))

    async def arotate_later(self, *, is_login: bool = False) -> None:
        """See `rotate_later`."""
        await arun(self._cycle(at_once=False, is_login=is_login))

    @classmethod
    def clear_expired(cls) -> int:  # type: ignore[override]
        """Remove the expired sessions in batches; return how many were removed."""
        return run(purge_expired(cls.storage()))

    @classmethod
    async def aclear_expired(cls) -> int:  # type: ignore[override]
        """See `clear_expired`."""
        return await arun(purge_expired(cls.storage()))

    @property
    def is_settled(self) -> bool:
        """Whether `settle` has nothing to do."""
        return self._flush_to_report is None

    def settle(self) -> None:
        """Send `session_ended` for a session that was flushed, if no login has replaced it."""
        run(self._report_replaced())

    async def asettle(self) -> None:
        """See `settle`."""
        await arun(self._report_replaced())

    def record_activity(self) -> None:
        """Store that the session is in use now, for lists. Nothing else changes.

        An error of the store is ignored.
        """
        run(self._record_activity())

    async def arecord_activity(self) -> None:
        """See `record_activity`."""
        await arun(self._record_activity())

    def prove(self) -> bool:
        """Return whether there is still a live session under the key. Asks the store."""
        return run(self._prove())

    async def aprove(self) -> bool:
        """See `prove`."""
        return await arun(self._prove())
