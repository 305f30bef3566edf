"""The operations of a session, each written once as a flow for the sync and the async driver."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import Any

from msgspec.structs import replace

from .. import signals
from ..conf import codec, merge_functions
from ..core import clock
from ..core.flow import Flow
from ..core.records import SecretDict, SecretText, draw_key
from ..exceptions import PayloadTooLarge, SessionEnded, SessionStoresError, StorageUnavailable
from ..payloads.merge import merge
from ..storages.base import Storage
from ..storages.calls import Calls
from ..storages.revocation import EndedSession, is_in_grace
from . import (
    activity,
    conflicts,
    drafting,
    ending,
    loading,
    request_sessions,
    rotation,
    saving,
)
from .knowledge import KnownSession, drawn_by_others, replace_data
from .rollback import Merge
from .state import (
    Dead,
    Event,
    New,
    Refused,
    ReplacedSession,
    Rotating,
    RotationCause,
    State,
    Stored,
    Unreachable,
    Unread,
    before_reading,
)
from .user_ids import user_id_of


class SessionFlows(KnownSession):
    """A session object with its operations: load, save, rotate, end.

    `store.SessionStore` has a sync and an async method for each of them.
    """

    def _load(self) -> Flow[dict[str, Any]]:
        state = self._current_state  # First, because a rollback discards the data at hand.
        is_loaded = hasattr(self, "_session_cache")
        match state:
            case New():
                return {}
            case Rotating(previous=previous):
                return codec().deserialize(previous.base)
            case Unread() as unread:
                pass
            case Unreachable(key=key, cookie=cookie):
                unread = Unread(key, cookie)
            case _:
                unread = Unread(state.key, state.key)
        loaded = yield from self._read(unread)
        if is_loaded:
            return loaded.data
        if hasattr(self, "_session_cache"):
            return self._session_cache  # Another task of the request was faster.
        self._session_cache = loaded.data
        if loaded.events or loaded.is_provisional:
            yield from self._set_loaded(unread, loaded)
        else:
            self._set_state(loaded.state)
        return loaded.data

    def _read(self, unread: Unread) -> Flow[loading.LoadResult]:
        """Read the session from the store, also by a key that another object has drawn.

        That object stores it now. It may be no longer the session of the request, so the browser
        needs a cookie for this one.
        """
        known = unread
        if request_sessions.cycled():
            known = yield from _store_drawn_key(self, unread)
        try:
            loaded = yield from loading.load(self._environment(), known)
        except SessionStoresError as error:
            yield from self._tell_failure(error)
            raise
        if isinstance(loaded.state, Refused):
            self.refused = loaded.state
        elif known is not unread and isinstance(loaded.state, Stored):
            self.cookie_is_due = True
            return replace(loaded, state=replace(loaded.state, is_announced=False))
        return loaded

    def _set_loaded(self, unread: Unread, loaded: loading.LoadResult) -> Flow[None]:
        """Set the state that was read from the store."""
        before = unread
        if loaded.is_provisional and isinstance(loaded.state, Stored):
            before = replace(unread, base=loaded.state.base)
        yield from self._advance(before, loaded.state, loaded.events, loaded.is_provisional)

    def _load_behind_data(self, unread: Unread) -> Flow[None]:
        """Load the record of a session whose data is at hand already.

        The data was replaced without loading it, or the write of its record was rolled back.
        """
        loaded = yield from self._read(unread)
        if unread.base is not None and isinstance(loaded.state, Stored):
            base, mine = drafting.data_of(unread.base), SecretDict(self._session_cache)
            merged = yield from conflicts.merge_with_stored(base, mine, loaded.state.base)
            replace_data(self._session_cache, merged)
        yield from self._set_loaded(unread, loaded)
        if unread.base is not None and not isinstance(self._current_state, Stored):
            # The user in the data comes from a session that no longer exists. That is not a login.
            raise conflicts.no_longer_stored()
        if unread.is_cycled and isinstance(self._current_state, Stored):
            self._set_state(rotation.begin_rotation(self._current_state, RotationCause.CYCLED))

    def _save(self, must_create: bool = False) -> Flow[None]:
        self.is_proved = False
        if self._provisional:
            self._settle()
        if not hasattr(self, "_session_cache"):
            if must_create:
                self._session_cache = {}
            else:
                self._session_cache = yield from self._load()
        if not must_create and isinstance(unread := self._current_state, Unread):
            yield from self._load_behind_data(unread)
            if isinstance(self._current_state, New):
                raise SessionEnded("The session was deleted, or expired, before this save.")
        known, given = self._current_state, SecretDict(self._session_cache)
        # Even if this save fails, the store may have the key from now on.
        if isinstance(known, Rotating):
            known = self._note(replace(known, is_tried=True))
        elif isinstance(known, New) and known.key is None:
            known = self._note(replace(known, key=SecretText(draw_key())))
        began = known
        if must_create and not isinstance(known, New | Rotating):
            began = New(known.key, is_given=True)
        intent = saving.Intent(
            is_asked_for=self._modified,
            has_changes=self._modified or self._has_changed(began),
            must_create=must_create,
        )
        try:
            saved = yield from saving.save(self._environment(), began, given, intent)
        except BaseException as error:
            if isinstance(known, New) and self._state is known:
                known = self._note(replace(known, is_tried=True))
            if not isinstance(error, SessionStoresError):
                raise
            yield from self._tell_failure(error)
            if isinstance(error, PayloadTooLarge):
                raise PayloadTooLarge(f"{error} {drafting.largest_keys(given)}") from error
            has_other_key = self._state is not known and bool(getattr(self, "_session_cache", {}))
            if not (isinstance(error, SessionEnded) and has_other_key):
                raise
            # Another task of the request has given the session a new key. Save under that one.
            yield from self._save(must_create)
            return
        yield from self._set_saved(known, given, saved)

    def _set_saved(
        self, began: State, given: dict[str, Any], saved: saving.SaveResult
    ) -> Flow[None]:
        """Set the state and the data that a save has led to."""
        if saved.data is not None and _is_continued(saved.state, began, self._state):
            # Another task of the request may have changed the session while this one saved it. The
            # values that were given are the same objects as in the data at hand.
            given = given if saved.merged is None else drafting.data_of(saved.merged)
            functions, is_same = merge_functions(), codec().is_same
            merged = merge(given, self._session_cache, saved.data, functions, is_same)
            replace_data(self._session_cache, merged)
        self.is_proved = saved.is_proved
        if saved.is_written:
            # ``modified`` stays true: Django's middleware sends the cookie because of it.
            self._modified = True
        self.cookie_is_due |= saved.is_news
        if self.sign_in is not None:
            saved = _with_sign_in(self, saved)
        is_mine = self._state is began or _is_newer(saved.state, self._state)
        if is_mine and not (saved.is_provisional or saved.events):
            self._set_state(saved.state)
            return
        with signals.noting_ended() as ended:
            if is_mine:
                made, is_provisional = _merge_in(saved, given), saved.is_provisional
                yield from self._advance(began, saved.state, saved.events, is_provisional, made)
            else:
                yield from self._send(saved.events)
        if not is_mine:
            yield from _end_surplus(self, began, saved.state)
        elif ended:
            _note_end(self, ended)

    def _create(self) -> Flow[None]:
        match self._current_state:
            case New(is_promised=True) | New(is_tried=True) | Rotating():
                pass
            case Stored() if (yield from _keeps_drawn_key(self)):
                return
            case New(replaces=replaces):
                self._set_state(New(SecretText(draw_key()), replaces=replaces))
            case _:
                self._set_state(New(SecretText(draw_key())))
        yield from self._save(must_create=True)
        self.modified = True

    def _cycle(self, *, at_once: bool = True, is_login: bool = False) -> Flow[None]:
        cause = RotationCause.LOGIN if is_login else RotationCause.CYCLED
        request_sessions.add_cycled(self)
        if self._provisional:
            self._settle()
        if not hasattr(self, "_session_cache"):
            self._session_cache = yield from self._load()
        self.accessed = True
        if isinstance(unread := self._current_state, Unread):
            yield from self._load_behind_data(unread)
        match self._current_state:
            case Stored() as previous:
                self._set_state(rotation.begin_rotation(previous, cause))
                yield from self._store_key(at_once)
            case Unreachable(outage=outage):
                raise outage  # Without the store, the old key would stay valid.
            case Rotating() as rotating:
                if cause is not rotating.cause:
                    rotating = replace(rotating, cause=RotationCause.CYCLED)
                again = rotating if rotating.is_tried else rotation.redraw_key(rotating)
                self._set_state(replace(again, cycles=rotating.cycles + 1))
                yield from self._store_key(at_once)
            case New() as new:
                key = new.key if new.is_tried else SecretText(draw_key())
                self._set_state(replace(new, key=key, is_promised=True))
            case state:
                self._set_state(_with_fresh_key(state))
        self._modified = True

    def _store_key(self, at_once: bool) -> Flow[None]:
        """Store an authenticated session under its new key at once.

        If that waited for the next save, another request could undo the rotation.
        """
        rotating = self._current_state
        if not isinstance(rotating, Rotating) or not at_once:
            return
        previous = rotating.previous
        if previous.record.user_id is None:
            return
        data = SecretDict(self._session_cache)
        if rotating.cycles == 1 and (
            yield from rotation.is_secret_rotation(previous, data, is_begun=True)
        ):
            self._set_state(replace(rotating, is_optional=True))
            return
        # A login may have ended the session, or a parallel request that found the login outdated,
        # because this request has set a new password. The next save finds out, and may succeed.
        with suppress(SessionEnded):
            yield from self._save()

    def _exists(self, key: str | None) -> Flow[bool]:
        state = self._current_state
        match state:
            case New(is_promised=True) | Rotating() if key == state.key:
                return True
            case Rotating(previous=previous) if key == previous.key:
                return False
        valid = self.storage().key_of(key) if isinstance(key, str) else None
        if valid is None:
            return False
        env, secret = self._environment(), SecretText(valid)
        secret = (yield from _store_drawn_key(self, Unread(secret, secret))).key
        try:
            record = yield from env.calls.peek(secret)
            if record is not None and is_in_grace(record):
                _, record = yield from rotation.follow(env, record, secret)
        except ValueError:  # UnreadablePayload, which is one.
            return False
        moment = clock.now()
        return record is not None and record.is_live(moment) and drafting.ends_at(record) > moment

    def _delete(self, key: str | None) -> Flow[None]:
        state, env = self._current_state, self._environment()
        if key is None or key == state.key:
            if isinstance(state, Unread):
                state = yield from _store_rotation_from(self, state)
            try:
                ended = yield from ending.end_state(env, state)
            except SessionStoresError as error:
                yield from self._tell_failure(error)
                raise
            if state.key is not None:
                yield from self._report_replaced()
                baseline = self._baseline or state.base
                dead = Dead(state.key)
                yield from self._set_ended(state, dead, _end_events(ended, "logout"))
                self._baseline = baseline  # The data at hand has not changed by that.
            return
        if isinstance(state, Rotating) and key == state.previous.key:
            # Not left to the next save: the key must not be valid if the request fails.
            with suppress(SessionEnded):
                yield from self._save()
            return
        known = self.storage().key_of(key)
        if known is not None:
            unread = Unread(SecretText(known), SecretText(key))
            unread = yield from _store_rotation_from(self, unread)
            own_id = self.drawn_id
            ended = yield from ending.end_key(env, unread.key, unread.cookie, own_id)
            yield from self._send(_end_events(ended, "logout"))

    def _flush(self) -> Flow[None]:
        state, env = self._current_state, self._environment()
        if isinstance(state, Unread):
            state = yield from _store_rotation_from(self, state)
        is_logout, self.is_logging_out = self.is_logging_out, False
        try:
            flushed = yield from ending.flush(env, state, is_logout=is_logout)
        except SessionStoresError as error:
            yield from self._tell_failure(error)
            raise
        yield from self._report_replaced()
        self.clear()
        if flushed.is_outdated and state.key is not None:
            # The request is anonymous, and its cookie stays, as with every superseded key.
            self._modified = False
            outdated = state.record if isinstance(state, Stored) else None
            dead = Dead(state.key, outdated=outdated)
            to_send = _end_events(flushed.ended, "password")
            yield from self._set_ended(state, dead, to_send, is_flushed=True)
            return
        ended = flushed.ended
        replaces = None
        if ended is not None:
            # A login may follow, so the reason of the end is known only later, and is sent then.
            is_reported = is_logout or request_sessions.is_over() or not _will_settle(self)
            replaces = ReplacedSession(ended.id, ended.user_id, is_reported)
            if not is_reported:
                yield from request_sessions.keep(self)
        to_send = _end_events(ended, "logout") if replaces and replaces.is_reported else ()
        yield from self._set_ended(state, New(replaces=replaces), to_send, is_flushed=True)

    def _set_ended(
        self, before: State, after: State, events: Sequence[Event], *, is_flushed: bool = False
    ) -> Flow[None]:
        """Set the state after an end, which a rollback of the caller's transaction may undo."""
        is_provisional = False
        if not (isinstance(before, New) and isinstance(after, New)):
            is_provisional = yield from Calls(self.storage()).in_transaction()
        newer = yield from _end_newer(self, before)
        if is_provisional and is_flushed:
            before = _state_before_flush(before)
        yield from self._advance(before, after, (*events, *newer), is_provisional)

    @property
    def _flush_to_report(self) -> ReplacedSession | None:
        """The session that was flushed, if it has ended and `session_ended` was not sent."""
        state = self._current_state
        replaced = state.replaces if isinstance(state, New) else None
        return replaced if replaced and replaced.is_over and not replaced.is_reported else None

    def _report_replaced(self) -> Flow[None]:
        replaced, state = self._flush_to_report, self._state
        if replaced is None:
            return
        # If there is a user, a login has ended the session, even if that login was refused.
        is_login = drafting.user_of(getattr(self, "_session_cache", {})) is not None
        reason = "replaced" if is_login else "logout"
        event = loading.end_event(replaced.id, reason, replaced.user_id)
        # Before anything is awaited, because another task of the request may come here as well.
        self._set_state(replace(state, replaces=replace(replaced, is_reported=True)))
        is_provisional = yield from Calls(self.storage()).in_transaction()
        yield from self._advance(state, self._state, (event,), is_provisional)

    def _record_activity(self) -> Flow[None]:
        state = self._current_state
        if isinstance(state, Stored):
            yield from activity.store(self.storage(), state.record)

    def _prove(self) -> Flow[bool]:
        state = self._current_state
        if not isinstance(state, Stored):
            return False
        return (yield from _confirm(self.storage(), state.key))


def _keeps_drawn_key(session: SessionFlows) -> Flow[bool]:
    """Save a session under the key that its object has drawn; return whether it is live.

    For another user there must be another session.
    """
    state = session._current_state
    if not isinstance(state, Stored) or not state.drawn:
        return False
    if drafting.user_of(getattr(session, "_session_cache", {})) != state.record.user_id:
        return False
    session.modified = True  # So that the save asks the store.
    with suppress(SessionEnded):
        yield from session._save()
        return session.is_proved or (yield from session._prove())
    return False


def _will_settle(session: KnownSession) -> bool:
    """Return whether ``settle()`` will be called for a session that is flushed now.

    A thread of a view does not know the request, and may use its session after the response.
    """
    if request_sessions.is_in_request():
        return True
    return session.policy is not None and session.policy.settles and not session.is_copy


def _note_end(session: SessionFlows, ended: set[str]) -> None:
    """Take into account which sessions ended while the signals of a save were received.

    Raises `SessionEnded` if Django's middleware would send the key of one of them. That of the
    package asks the store before it sends a key that is not proved.
    """
    session.is_proved = False
    is_over = not session.is_stored or bool(session.stored_ids & ended)
    if is_over and session.policy is None:
        raise conflicts.no_longer_stored()


def _confirm(storage: Storage, key: SecretText) -> Flow[bool]:
    """Return whether the store says now that a session lives under a key."""
    calls, locator = Calls(storage), storage.locate(key)
    try:
        record = yield from calls.read_latest(locator)
    except StorageUnavailable:
        # A copy decides. Without the new key, the user would lose the session if the outage lasts.
        record = yield from calls.read(locator)
    return record is not None and record.is_live(clock.now())


def _store_rotation_from(session: SessionFlows, unread: Unread) -> Flow[Unread]:
    """Store the new key that another object of the request has drawn for the session of this one.

    The caller ends the session by its old key, which the new one has replaced, or by the new one.
    Return its state with the key under which it is stored now.
    """
    known = yield from _store_drawn_key(session, unread)
    if known is unread:
        session_id = session.storage().identify(unread.key)
        others = [each for each in request_sessions.cycled() if each is not session]
        yield from _store_new_keys(each for each in others if session_id in each.stored_ids)
    return known


def _store_drawn_key(session: SessionFlows, unread: Unread) -> Flow[Unread]:
    """Store a key that another object of the request has drawn.

    Return the state with the key under which the session is stored now: another key if keys hold
    the data. If no other object has drawn the key, return the same state.
    """
    drawn = drawn_by_others(session, unread.key)
    yield from _store_new_keys(drawn)
    for each in drawn:
        if each.is_stored:
            return replace(unread, key=each._state.key, cookie=each._state.key)
    return unread


def _store_new_keys(sessions: Iterable[Any]) -> Flow[None]:
    for each in sessions:
        if each.has_new_key:
            with suppress(SessionEnded):
                yield from each._save()


def _end_events(ended: EndedSession | None, reason: str) -> tuple[Event, ...]:
    return () if ended is None else (loading.end_event(ended.id, reason, ended.user_id),)


def _with_fresh_key(state: State) -> New:
    """Return the state of a session that gets a new key because its key is not accepted."""
    key = SecretText(draw_key())
    if isinstance(state, Dead) and state.is_superseded:
        return New(key, is_promised=True, superseded=state)
    return New(key, is_promised=True)


def _state_before_flush(state: State) -> State:
    """Return the state to restore if the flush of a session is rolled back."""
    before = before_reading(state)
    if isinstance(before, New):
        return before
    known = state.previous if isinstance(state, Rotating) else state
    record = known.record if isinstance(known, Stored) else None
    replaced = ReplacedSession(record.id, record.user_id, is_reported=False) if record else None
    return replace(before, flushed=replaced or ReplacedSession("", None, is_reported=True))


def _is_continued(saved: State, began: State, known: State) -> bool:
    """Return whether the object still has the session that was saved.

    Another task of the request may have flushed it meanwhile, and may have begun another one.
    """
    if known is began:
        return True
    known = known.previous if isinstance(known, Rotating) else known
    return (
        isinstance(saved, Stored)
        and isinstance(known, Stored)
        and saved.record.lineage == known.record.lineage
    )


def _end_newer(session: SessionFlows, known: State) -> Flow[list[Event]]:
    """End what other tasks of the request have stored while the session ``known`` was ended.

    Return the events. The object is about to forget it, so nothing else would end it.
    """
    events = list[Event]()
    while session._state is not known:
        known = session._state
        if isinstance(known, Stored | Rotating):
            ended = yield from ending.end_state(session._environment(), known)
            events += _end_events(ended, "logout")
    return events


def _end_surplus(session: SessionFlows, began: State, saved: State) -> Flow[None]:
    """End the session that a save has begun, if its object has another one by now, or none.

    Another task of the request has saved the session first, has given it another key, or has
    flushed it. No response will have the key of this one. The data at hand belongs to the other
    one, and the caller has asked to save it.
    """
    if not isinstance(saved, Stored) or _is_continued(saved, began, session._state):
        return
    is_of_state = session._id_of(session._state) == saved.record.id
    if is_of_state or (isinstance(began, Stored) and began.record.id == saved.record.id):
        return
    ended = yield from ending.end_state(session._environment(), saved)
    data = getattr(session, "_session_cache", None)
    yield from session._send(_end_events(ended, "replaced" if data else "logout"))
    if data:
        yield from session._save()


def _with_sign_in(session: SessionFlows, saved: saving.SaveResult) -> saving.SaveResult:
    """Return the result of a save with the event of a login that it has stored."""
    sign_in, session.sign_in = session.sign_in, None
    state = saved.state
    if sign_in is None or not isinstance(state, Stored):
        return saved
    if state.record.user_id != user_id_of(sign_in.facts["user"]):
        return saved  # The user was logged out since, or has signed in to something else.
    return replace(saved, events=(*saved.events, sign_in))


def _merge_in(saved: saving.SaveResult, given: dict[str, Any]) -> Merge | None:
    """Return what a rollback has to undo in the data at hand; ``None`` if the save left it alone.

    ``given`` is the data that was given to the save.
    """
    stored = saved.state.base
    if not saved.is_provisional or saved.data is None or stored is None:
        return None
    return Merge(saved.merged or codec().serialize(given), stored)


def _is_newer(saved: State, known: State) -> bool:
    """Return whether the saved record is newer than the one that another task's save has set."""
    return (
        isinstance(saved, Stored)
        and isinstance(known, Stored)
        and saved.record.id == known.record.id
        and saved.record.version > known.record.version
    )
