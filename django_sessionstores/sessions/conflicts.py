"""Conflicts: what a save does after the store has refused its write.

The store refuses a write if another request has changed the session, rotated its key or ended it
since it was loaded. Each ``resolve_`` function finds out which, and returns the state and the data
for the next try, merged with what the other request has saved.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Any, NamedTuple

from django.contrib.auth import HASH_SESSION_KEY
from msgspec.structs import replace

from ..conf import codec, merge_functions
from ..core import clock
from ..core.flow import Flow
from ..core.records import Record, SecretDict, SecretText, draw_key, session_id
from ..core.records import State as RecordState
from ..exceptions import SessionConflict, SessionEnded, UnreadablePayload
from ..payloads.codec import Snapshot
from ..payloads.merge import AUTH_KEYS, merge
from ..storages.base import Conflict, Gone
from ..storages.revocation import is_in_grace
from . import drafting, rotation, verification
from .state import Dead, Environment, New, Rotating, RotationCause, State, Stored


class NextTry(NamedTuple):
    """What to save after a write that was refused."""

    state: State
    data: dict[str, Any]

    def __repr__(self) -> str:
        # Error reports show local variables.
        return f"<NextTry {type(self.state).__name__}>"


# --- Refused writes ------------------------------------------------------------------------


def resolve_creation(
    env: Environment, state: New, key: SecretText, data: dict[str, Any]
) -> Flow[NextTry]:
    """Return the next try for a new session whose key is taken.

    If the record under the key is live, this session has stored it: the answer to an earlier try
    was lost, or another task of the request saves the session as well. No other session can have
    the key.
    """
    if not env.storage.holds_in_key:
        current = yield from env.calls.read_latest(env.storage.locate(key))
        if current is not None and current.is_live(clock.now()):
            with suppress(UnreadablePayload):
                theirs = drafting.open_record(env, current)
                merged = yield from merge_with_stored(SecretDict(), data, theirs)
                return NextTry(Stored(key, current, theirs), merged)
    return NextTry(replace(state, key=SecretText(draw_key())), data)


def resolve_update(
    env: Environment, state: Stored, data: dict[str, Any], outcome: Conflict | Gone
) -> Flow[NextTry]:
    """Return the next try after an update that was refused.

    Raises `SessionEnded` if the session has ended.
    """
    base = drafting.data_of(state.base)
    current = outcome.current if isinstance(outcome, Conflict) else None
    found: Stored | None = None
    if current is not None and current.is_live(clock.now()):
        found = _with_current(env, state, current)
    elif is_in_grace(current):
        found = yield from _follow_rotation(env, state, current)
    elif current is not None and current.successor and rotation.has_proof(state.base, data):
        found = yield from rotation.join(env, state, current, has_proof=True)
        if found is not None and found.record.user_id != drafting.user_of(data):
            found = None
    if found is None:
        raise no_longer_stored()
    return NextTry(found, (yield from merge_with_stored(base, data, found.base)))


def resolve_rotation(
    env: Environment, state: Rotating, data: dict[str, Any], outcome: Conflict | Gone
) -> Flow[NextTry]:
    """Return the next try after a rotation that was refused.

    Raises `SessionEnded` if the session has ended, or if this request may not join the rotation of
    another one.
    """
    previous, base = state.previous, drafting.data_of(state.previous.base)
    current = outcome.current if isinstance(outcome, Conflict) else None
    if current is not None and current.is_live(clock.now()):
        found = _with_current(env, previous, current)
        merged = yield from merge_with_stored(base, data, found.base)
        return NextTry(replace(state, previous=found), merged)
    if is_in_grace(current):
        key, current = yield from rotation.follow(env, current, previous.key, latest=True)
        if current is not None and current.is_live(clock.now()):
            followed = Stored(key, current, _open_current(env, current), is_announced=False)
            merged = yield from merge_with_stored(base, data, followed.base)
            if state.cause is not RotationCause.AGE:
                # The old key leads to the new one for a grace period, and must lead no further.
                return NextTry(rotation.begin_rotation(followed, state.cause), merged)
            # Another request has rotated the key since this request read the session. If this
            # request drew a third key and its response arrived before the response with the second
            # key, the browser would keep the second key and be logged out.
            return NextTry(followed, merged)
        state = replace(state, previous=replace(previous, key=key))
    if current is not None:
        joined = yield from _join_rotation(env, state, data, current)
        if joined is not None:
            return joined
    # A login has a proof of its own, so it may continue with the data of an anonymous session that
    # has ended. Any other save would bring an ended session back.
    if previous.record.user_id is None and drafting.user_of(data) is not None:
        return NextTry(New(state.key, is_promised=True), data)
    raise no_longer_stored()


def resolve_superseded(
    env: Environment, superseded: Dead, data: dict[str, Any]
) -> Flow[NextTry | None]:
    """Return the next try for a request whose key was superseded before it read its session.

    Only a login may save. If the user of the session had logged in under this key meanwhile, the
    login continues that session, as one does that has read the session earlier. Django would have
    kept the key at that login, so whoever has the key would have the session there, even without
    the password. After any other change of the key, ``None`` is returned, and the login begins
    another session: the key may be one that an attacker has planted, or knows, who also knows the
    password. Such an attacker must not get what a second factor has added to the session since.

    Raises `SessionEnded` for a save that is not a login, and for a login with a password that was
    changed meanwhile.
    """
    tombstone, user_id = superseded.tombstone, drafting.user_of(data)
    if user_id is None:
        raise SessionEnded("The session got a new key before this save.")
    if tombstone is None:
        return None
    if (yield from verification.login_is_outdated(data)):
        # The browser has another session, or none. A session that ends with the next request must
        # not replace it.
        raise SessionEnded("The user got a new password before this login was saved.")
    if not tombstone.is_login or tombstone.user_id != user_id:
        return None
    joined = yield from rotation.join(env, superseded, tombstone, has_proof=False)
    if joined is None or joined.record.user_id != user_id:
        return None
    return NextTry(joined, (yield from merge_with_stored(SecretDict(), data, joined.base)))


def _join_rotation(
    env: Environment, state: Rotating, data: dict[str, Any], tombstone: Record
) -> Flow[NextTry | None]:
    """Return the next try if another request has rotated the key and this request may join it."""
    previous, user_id = state.previous, drafting.user_of(data)
    is_own = tombstone.successor == session_id(state.key)
    has_proof = rotation.has_proof(previous.base, data)
    if not (is_own or has_proof):
        return None
    if not tombstone.successor:
        # A parallel request found the login outdated, because this request has set a new password.
        is_same = tombstone.state is RecordState.SUPERSEDED and tombstone.user_id == user_id
        return NextTry(New(state.key, is_promised=True), data) if is_same else None
    joined = yield from rotation.join(env, previous, tombstone, has_proof=has_proof)
    if joined is None:
        return None
    merged = yield from merge_with_stored(drafting.data_of(previous.base), data, joined.base)
    if is_own or joined.record.user_id == user_id:
        return NextTry(joined, merged)
    if joined.record.user_id is None:
        # The session is still anonymous, under another key: the login rotates that key.
        return NextTry(rotation.begin_rotation(joined, state.cause), merged)
    return None


def _follow_rotation(env: Environment, previous: Stored, tombstone: Record) -> Flow[Stored | None]:
    """Return the session under the key that a rotation for age gave it."""
    key, record = yield from rotation.follow(env, tombstone, previous.key, latest=True)
    if record is None or not record.is_live(clock.now()):
        return None
    return Stored(key, record, _open_current(env, record), is_announced=False)


def _with_current(env: Environment, state: Stored, current: Record) -> Stored:
    """Return the session with what another request has saved under its key."""
    return replace(state, record=current, base=_open_current(env, current))


def _open_current(env: Environment, current: Record) -> Snapshot:
    try:
        return drafting.open_record(env, current)
    except UnreadablePayload as reason:
        # Perhaps a worker with newer keys has written it, so it must not be overwritten.
        raise SessionConflict(
            f"Another request saved the session meanwhile, and its data is unreadable here: "
            f"{reason}. Are SECRET_KEY_FALLBACKS the same in all workers?"
        ) from None  # Error reports show the frames of causes, and the decrypted data in them.


def no_longer_stored() -> SessionEnded:
    """Return the error for a request whose session has ended, or has a key unknown to it."""
    return SessionEnded(
        "The session got a new key, was deleted, or expired while this request was running. "
        "Nothing was saved: repeat the request with the cookie that the browser has now."
    )


# --- Merging -------------------------------------------------------------------------------


def merge_with_stored(base: SecretDict, mine: dict[str, Any], theirs: Snapshot) -> Flow[SecretDict]:
    """Return the data at hand, merged with the data that other requests have stored.

    ``base`` is the data as it was loaded, ``mine`` the data at hand, ``theirs`` what is stored.
    """
    other = SecretDict(codec().deserialize(theirs))
    if _are_two_logins(base, mine, other) and (yield from verification.login_is_outdated(mine)):
        # Of two password changes, the one that was stored first may be saved last.
        mine = SecretDict(
            {key: value for key, value in mine.items() if key not in AUTH_KEYS}
            | {key: base[key] for key in AUTH_KEYS if key in base}
        )
    return merge(base, mine, other, merge_functions(), codec().is_same)


def _are_two_logins(base: dict[str, Any], mine: dict[str, Any], other: dict[str, Any]) -> bool:
    """Return whether two requests have logged in the same user, each with another password."""
    if drafting.user_of(mine) != drafting.user_of(other):
        return False
    return len({each.get(HASH_SESSION_KEY) for each in (base, mine, other)}) == 3
