"""Knowledge: the state of one session object, its data, and whether the data has changed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from copy import copy, deepcopy
from typing import Any, Self, TypeVar

from msgspec.structs import replace

from ..conf import codec
from ..core import clock
from ..core.flow import Flow
from ..core.records import SecretDict, SecretText, draw_key, session_id
from ..exceptions import SessionStoresError, StorageUnavailable, UnserializableValue
from ..payloads.codec import Snapshot
from ..storages.calls import Calls
from . import activity, drafting, events, loading, request_sessions
from .engine import Engine
from .rollback import Merge, ProvisionalStates, ProvisionalWrite
from .state import (
    Environment,
    Event,
    New,
    Refused,
    RequestPolicy,
    Rotating,
    RotationCause,
    State,
    Stored,
    Unreachable,
    Unread,
    before_reading,
    count,
)

S = TypeVar("S", New, Rotating)


class KnownSession(Engine):
    """A session object: its state, its data, and the writes that may be rolled back.

    Only `_set_state` and `_note` assign the state. `_advance` also sends the events.
    """

    _session_cache: dict[str, Any]
    """The data at hand. Missing until it is loaded. Django's tests and other code read it.

    Ask with ``hasattr()`` whether it is there: as long as nobody asks for the ``__dict__`` of an
    object, Python need not make one, and reads the attributes faster.
    """

    policy: RequestPolicy | None = None
    """The policy that the package's middleware has set; ``None`` without that middleware."""
    cookie_is_due: bool = False
    """Whether the browser needs a new cookie after a save: with another key, or a later expiry."""
    is_proved: bool = False
    """Whether the store confirmed, during the last save, that the session is live."""
    outage: StorageUnavailable | None = None
    """The outage in which the last call of the store failed, or because of which the data at hand
    is empty. ``None`` as soon as a call has succeeded."""
    refused: Refused | None = None
    """The state of a session that was read without its device's proof, until it is reported."""
    sign_in: Event | None = None
    """The event of a login that is not stored yet. It is sent after the save that stores it."""
    is_logging_out: bool = False
    """Whether the flush that follows is a logout."""
    is_copy: bool = False
    """Whether it is a copy of another object, so that no middleware knows it."""

    def __init__(self, session_key: str | None = None) -> None:
        # SessionBase.__init__() is not called: it would import the serializer for each request.
        self.accessed = False
        self._modified = False
        self._opened, self._number = clock.now(), next(count)
        self._baseline: Snapshot | None = None
        self._provisional = ProvisionalStates()
        self._state: State = self._state_of(session_key)
        self._is_first = request_sessions.add(self)

    def __copy__(self) -> Self:
        """Return another object for the same session, with the same unsaved changes.

        Each of the two merges with what the other one saves, as the objects of two requests do.
        """
        return self._copy_with(copy)

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        # The state is immutable and need not be copied.
        return self._copy_with(lambda data: deepcopy(data, memo))

    def _copy_with(self, copy_data: Callable[[dict[str, Any]], dict[str, Any]]) -> Self:
        _ = self._current_state  # From here on, each object looks for rollbacks by itself.
        copied = type(self).__new__(type(self))
        vars(copied).update(vars(self))
        copied.is_copy, copied.sign_in = True, None  # One of the two tells of a login.
        copied._provisional = ProvisionalStates(self._provisional)
        if "_session_cache" in vars(self):
            copied._session_cache = copy_data(self._session_cache)
        request_sessions.add(copied)
        return copied

    def __getstate__(self) -> dict[str, Any]:
        _ = self._current_state
        if self._provisional:
            raise TypeError(
                "A session cannot be pickled while the transaction is open in which it was saved: "
                "a rollback would not be noticed. Pickle it after the commit, or pass its "
                "session_key."
            )
        # The policy belongs to the request, which cannot be pickled. The object may be used in
        # another request, which has a session of its own.
        others = {"_provisional": ProvisionalStates(), "_is_first": False, "policy": None}
        return {**vars(self), **others, "sign_in": None}

    def _environment(self) -> Environment:
        storage = self.storage()
        return Environment(
            storage,
            Calls(storage),
            type(self),
            self.get_session_cookie_age,
            self._opened,
            self._number,
            self.policy,
            self._can_send_key,
        )

    def _can_send_key(self) -> bool:
        """Return whether a response can still bring the browser a new key.

        Code may open the session of a request once more, copy it, or open it outside of any
        request. Under Django's middleware, only the first object of a request is known to be the
        middleware's.
        """
        if self.is_copy:
            return False
        if self.policy is not None:
            return self.policy.sends_key
        return self._is_first and request_sessions.is_in_request()

    @property
    def _current_state(self) -> State:
        """The state, after any rollback of the caller's transaction was taken into account."""
        if self._provisional:
            self._settle()
        return self._state

    def _promise_key(self) -> State:
        """Return the state. From now on, other code expects its key to be the session's."""
        state = self._current_state
        if isinstance(state, Rotating) and state.is_optional and not state.is_tried:
            return self._note(replace(state, is_optional=False, cycles=state.cycles + 1))
        return state

    def _settle(self) -> None:
        """Restore what was known before any writes that were rolled back since the last call.

        Call it before the data at hand is asked for, because a rollback may discard that. If there
        are no `_provisional` states, there is nothing to restore.
        """
        if undone := self._provisional.settle():
            self._restore(undone)

    def _restore(self, undone: Sequence[ProvisionalWrite]) -> None:
        """Restore what was known before the writes that were rolled back."""
        states = [each.before for each in undone]
        before = states[0]
        flushes = [each.flushed for each in states if isinstance(each, Unread) and each.flushed]
        flushed = flushes[0] if flushes else None
        if flushed is None:
            for merge in [each.merge for each in reversed(undone) if each.merge]:
                replace_data(self._session_cache, merge.undo(self._session_cache))
            if isinstance(before, Unread) and any(map(_is_cycled, (*states, self._state))):
                # The transaction also covers the first read, in which the session was migrated.
                before = replace(before, is_cycled=True)
            self._set_state(before)
        elif getattr(self, "_session_cache", None):
            # Another session has begun since. It must not be stored under the old key.
            key = self._state.key or SecretText(draw_key())
            self._set_state(New(key, is_promised=True, replaces=replace(flushed, is_over=False)))
        else:
            self._set_state(before_reading(before))
            self.__dict__.pop("_session_cache", None)
            self._modified = False

    def _note(self, state: S) -> S:
        """Set and return the state, if only what is known of its new key differs.

        Unlike after `_set_state`, the data at hand is compared with the same data as before.
        """
        self._state = state
        return state

    def _set_state(self, state: State) -> None:
        self._state = state
        self._baseline = None
        self.outage = state.outage if isinstance(state, Unreachable) else None

    def _state_of(self, value: object) -> State:
        """Return the initial state for the value of a cookie, or for a key."""
        if not isinstance(value, str):
            return New()
        cookie = SecretText(value)
        key = self.storage().key_of(cookie)
        if key is None:
            return New()
        return Unread(cookie if key == cookie else SecretText(key), cookie)

    @property
    def session_id(self) -> str | None:
        """The id under which the session is stored and listed, for logs and other tables.

        Unlike the key, it is not a secret. It changes only if the key is rotated, as by a login.
        """
        return self._id_of(self._promise_key())

    def _id_of(self, state: State) -> str | None:
        match state:
            case New(key=None):
                return None
            case New(key=key) | Rotating(key=key):
                return session_id(str(key))
            case Stored(record=record) | Refused(record=record):
                return record.id
            case _:
                return self.storage().identify(state.key)

    @property
    def has_new_key(self) -> bool:
        """Whether the key was drawn here, and nothing is stored under it yet."""
        state = self._current_state
        return isinstance(state, Rotating) or (isinstance(state, New) and state.key is not None)

    @property
    def stored_ids(self) -> set[str]:
        """The ids under which the session is or will be stored. There are two while a new key waits
        for the next save."""
        state = self._current_state
        known = {self._id_of(state)} - {None}
        if isinstance(state, Rotating):
            known.add(state.previous.record.id)
        return {str(each) for each in known}

    @property
    def belongs_to_request(self) -> bool:
        """Whether a middleware has made it from the cookie, or its key was drawn here.

        A session that was refused does not: whoever has sent the request may have copied the key.
        """
        if isinstance(self._current_state, Refused):
            return False
        by_middleware = self._is_first or self.policy is not None
        return by_middleware or self.has_new_key or self.drawn_id is not None

    def may_be_of(self, user_id: str) -> bool:
        """Return whether the stored session may be one of a user; True if it was not read."""
        state = self._current_state
        known = state.previous if isinstance(state, Rotating) else state
        return not isinstance(known, Stored) or known.record.user_id == user_id

    @property
    def new_id(self) -> str | None:
        """The id under a key that was drawn here, whether the session is stored under it or not."""
        return self._id_of(self._current_state) if self.has_new_key else self.drawn_id

    @property
    def drawn(self) -> int:
        """When this object has drawn the key of the stored session, see `Stored.drawn`."""
        state = self._current_state
        return state.drawn if isinstance(state, Stored) else 0

    @property
    def drawn_id(self) -> str | None:
        """The id of the stored session if this object has drawn its key."""
        state = self._current_state
        return state.record.id if isinstance(state, Stored) and state.drawn else None

    @property
    def is_stored(self) -> bool:
        """Whether this object has loaded or stored the session under its key."""
        return isinstance(self._current_state, Stored)

    @property
    def is_activity_due(self) -> bool:
        """Whether `record_activity` should be called if the request does not save the session."""
        state = self._current_state
        return isinstance(state, Stored) and activity.is_due(self.storage(), state.record)

    # --- What changed ----------------------------------------------------------------------

    @property
    def modified(self) -> bool:
        """True when set, or when the data is no longer what was loaded, at any depth.

        Under Django's middleware, which knows nothing else, also when a save is due. Setting it to
        False dismisses the changes made so far, until the next one.
        """
        state = self._current_state  # First, because a rollback changes the other attributes.
        return (
            self._modified
            or self._has_changed(state)
            or (self.policy is None and self._is_save_due(state))
        )

    @modified.setter
    def modified(self, value: bool) -> None:
        if not value and self.modified and hasattr(self, "_session_cache"):
            # A value that cannot be serialized cannot be compared. Saving it raises the error.
            with suppress(UnserializableValue):
                self._baseline = codec().serialize(self._session_cache)
        self._modified = bool(value)

    @property
    def is_save_due(self) -> bool:
        """Whether a request that changes nothing should save the session nevertheless.

        That is so if the stored session is not up to date with its keys or its client, and if the
        browser may lack the key. But a save would also store changes that were dismissed.
        """
        return self._is_save_due(self._current_state)

    @property
    def needs_save(self) -> bool:
        """Whether a middleware should save the session: it was changed, or its save is due."""
        state = self._current_state
        return self._modified or self._has_changed(state) or self._is_save_due(state)

    def _is_save_due(self, state: State) -> bool:
        data = getattr(self, "_session_cache", None)
        if data is None:
            if not request_sessions.cycled():
                return False  # Nearly always.
            return isinstance(state, Unread) and self._is_stored_by_others(state)
        if self._baseline is not None or not isinstance(state, Stored):
            return False
        return drafting.is_due(self._environment(), state, SecretDict(data))

    def _has_changed(self, state: State) -> bool:
        data = getattr(self, "_session_cache", None)
        if data is None:
            return False
        baseline = self._baseline or state.base
        return bool(data) if baseline is None else not codec().matches(baseline, data)

    def _is_stored_by_others(self, unread: Unread) -> bool:
        """Return whether another object of the request has drawn the key and stored the session.

        Then a view has put this object into the request in place of that one, which is not there to
        send the key.
        """
        return any(not each.has_new_key for each in drawn_by_others(self, unread.key))

    def _tell_failure(self, error: SessionStoresError) -> Flow[None]:
        """Note an outage in which an operation has failed, and tell what had ended before it."""
        if isinstance(error, StorageUnavailable):
            self.outage = error
        evicted, error.evicted = error.evicted, ()
        yield from self._send(loading.eviction_events(evicted))

    def _advance(
        self,
        before: State,
        after: State,
        to_send: Sequence[Event],
        is_provisional: bool,
        merge: Merge | None = None,
    ) -> Flow[None]:
        """Set the state and send the events in ``to_send``.

        With ``is_provisional``, the events are sent after the caller's transaction has committed,
        and a rollback restores the state ``before``, and undoes the ``merge`` of the data at hand.
        """
        self._set_state(after)
        if is_provisional:
            with self._provisional.note_write(before, merge) as note:
                note.has_committed = yield from events.send_after_commit(
                    type(self), self.storage(), to_send
                )
        else:
            yield from events.send(type(self), to_send)

    def _send(self, to_send: Sequence[Event]) -> Flow[None]:
        """Send events that do not change the state, after the commit if it is not certain yet."""
        return events.send_if_committed(type(self), self.storage(), to_send)


def drawn_by_others(session: KnownSession, key: SecretText) -> list[Any]:
    """Return the other objects of the request that have drawn this key."""
    others = [each for each in request_sessions.cycled() if each is not session]
    if not others:
        return []
    # A key that will hold data is a plain one until its session is stored.
    new_id = session.storage().identify(key) or session_id(key)
    return [each for each in others if each.new_id == new_id]


def _is_cycled(state: State) -> bool:
    return isinstance(state, Rotating) and state.cause is not RotationCause.AGE


def replace_data(data: dict[str, Any], other: dict[str, Any]) -> None:
    """Replace what differs in a dict.

    Equal values stay the same objects: a view may hold one of them and change it later. Keys that
    are in both are never missing: other threads of the view may read the dict meanwhile.
    """
    is_same = codec().is_same
    kept = SecretDict(
        (key, data[key] if key in data and is_same(data[key], value) else value)
        for key, value in other.items()
    )
    for key in [key for key in data if key not in kept]:
        del data[key]
    data.update(kept)
