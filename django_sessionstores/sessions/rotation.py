"""Rotation: where a session continues after it got a new key, and which requests may follow it.

The new key is derived from the old key, a nonce and a secret of the site. So nobody who has only
the old key can compute the new one, and no store holds it. But the site can lead a request from
the old key to the new one:

* After a rotation for age: any request, for the rotation grace period.
* After ``cycle_key()``: only a request that was running meanwhile, and that has logged its user in
  or changed the password. So two parallel logins of one browser result in one session.
* After a login of the user who was logged in already: also a later login of this user.
"""

from __future__ import annotations

import secrets
from contextlib import suppress
from typing import Any, Final, NamedTuple

import msgspec
from django.conf import settings as django_settings
from django.contrib.auth import HASH_SESSION_KEY, SESSION_KEY

from ..conf import key_ring, settings
from ..core import clock
from ..core.flow import Call, Flow
from ..core.records import Record, SecretText, State, make_tombstone, session_id
from ..exceptions import SessionConflict
from ..payloads.codec import Snapshot
from ..payloads.merge import AUTH_KEYS, AUTHENTICATED_AT
from ..storages.revocation import is_in_grace
from . import drafting, verification
from .state import Dead, Environment, Rotating, RotationCause, Stored, count

_MAX_JOINED: Final = 20
"""How many rotations a request may follow that were made while it was running."""


def begin_rotation(
    previous: Stored, cause: RotationCause, cycles: int = 1, drawn: int | None = None
) -> Rotating:
    """Return the state of a session that gets another key with its next save."""
    nonce = secrets.randbits(62) << 1 | (cause is RotationCause.LOGIN)  # See `make_tombstone`.
    key = next(key_ring().successors(previous.key, nonce))
    return Rotating(key, previous, cause, nonce, clock.now(), cycles, drawn or next(count))


def redraw_key(state: Rotating) -> Rotating:
    """Return the same state with another new key."""
    return begin_rotation(state.previous, state.cause, state.cycles, state.drawn)


def tombstone_of(state: Rotating, successor: str) -> Record:
    """Return the tombstone that replaces the record under the old key.

    ``successor`` is the session id under the new key.
    """
    seconds, kind = settings.TOMBSTONE_AGE, State.SUPERSEDED
    if state.cause is RotationCause.AGE:
        # After the grace period it means the same as a tombstone of ``cycle_key()``.
        seconds, kind = seconds + settings.ROTATION_GRACE, State.ROTATED
    record = state.previous.record
    return make_tombstone(
        record.id,
        kind,
        now=state.moment,
        seconds=seconds,
        of=record,
        successor=successor,
        nonce=state.nonce,
    )


class Destination(NamedTuple):
    """The key and the record to which a tombstone leads."""

    key: SecretText
    record: Record | None

    def __repr__(self) -> str:
        # Error reports show local variables.
        return f"<Destination {self.record!r}>"


def follow(
    env: Environment, tombstone: Record, key: SecretText, *, latest: bool = False
) -> Flow[Destination]:
    """Return the destination of a tombstone of a rotation for age.

    Follows several rotations as long as each is in its grace period. With ``latest``, reads neither
    cached copies nor the snapshot of the caller's transaction.
    """
    record: Record | None = tombstone
    while record is not None and is_in_grace(record):
        successor = successor_key(key, record)
        if successor is None:
            return Destination(key, None)
        key = successor
        locator = env.storage.locate(key)
        read = env.calls.read_latest if latest else env.calls.read
        record = yield from read(locator)
    return Destination(key, record)


def successor_key(key: SecretText, tombstone: Record) -> SecretText | None:
    """Return the key to which a tombstone leads from the old key; ``None`` if there is none."""
    for successor in key_ring().successors(key, tombstone.version):
        if session_id(successor) == tombstone.successor:
            return successor
    return None


def join(
    env: Environment, previous: Stored | Dead, tombstone: Record, *, has_proof: bool
) -> Flow[Stored | None]:
    """Return the live session to which a tombstone of any kind leads; ``None`` if there is none.

    The caller must know that the request may continue the session. With ``has_proof``, see
    `has_proof`, the keys in between may have been superseded.
    """
    key, record = previous.key, tombstone
    known = tombstone if isinstance(previous, Dead) else _known_record(env, previous)
    for _ in range(_MAX_JOINED):
        found: Record | None = None
        if env.storage.holds_in_key:
            # The registry keeps the changes since the known record, and applies them to it. That
            # fails for another user's session, and after too many changes.
            with suppress(SessionConflict):
                found = yield from env.calls.follow(known, record.successor)
        elif (successor := successor_key(key, record)) is not None:
            key = successor
            found = yield from env.calls.follow(known, record.successor)
        if found is None:
            return None
        if found.is_live(clock.now()):
            return Stored(key, found, drafting.open_record(env, found), is_announced=False)
        if not found.successor or not (has_proof or is_in_grace(found)):
            return None
        record = found
    return None


def _known_record(env: Environment, previous: Stored) -> Record:
    """Return the record with its pending changes in the payload: they are bound to its id."""
    if not env.storage.holds_in_key:
        return previous.record
    payload = env.storage.codec.encrypt(previous.record.id, previous.base)
    return msgspec.structs.replace(previous.record, payload=payload, pending=())


def has_proof(base: Snapshot, data: dict[str, Any]) -> bool:
    """Return whether the request has logged its user in, or changed the password.

    ``base`` is the data as it was loaded.
    """
    if drafting.user_of(data) is None:
        return False
    before = drafting.data_of(base)
    return any(
        before.get(each) != data.get(each)
        for each in (SESSION_KEY, HASH_SESSION_KEY, AUTHENTICATED_AT)
    )


def is_secret_rotation(
    previous: Stored, data: dict[str, Any], *, is_begun: bool = False
) -> Flow[bool]:
    """Return whether the key was cycled only because ``SECRET_KEY`` has changed.

    Django cycles the key if it finds the hash of the login under one of ``SECRET_KEY_FALLBACKS``.
    The session's key is as secret as before, and parallel requests that carry it must stay logged
    in, so it is kept. A password change differs from this only in the user's stored hash.

    With ``is_begun``, return whether that is possible: Django stores the new hash of the login
    after it has cycled the key.
    """
    if not django_settings.SECRET_KEY_FALLBACKS:
        return False
    before = drafting.data_of(previous.base)
    if _changed_auth_keys(before, data) != (set[str]() if is_begun else {HASH_SESSION_KEY}):
        return False
    if HASH_SESSION_KEY not in before:
        return False
    was_issued: bool = yield Call(verification, "was_issued_under_fallback", (before,))
    return was_issued


def _changed_auth_keys(before: dict[str, Any], data: dict[str, Any]) -> set[str]:
    return {key for key in AUTH_KEYS if before.get(key) != data.get(key)}
