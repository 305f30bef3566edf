"""Drafting: the record that the next save stores, and whether a save is due without a change."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from ..binding.bindings import BINDING
from ..conf import codec, key_ring, settings
from ..core import clock, lifetime
from ..core.login_keys import USER_ID
from ..core.records import (
    MAX_USER_ID,
    Changes,
    Record,
    SecretDict,
    is_user_id,
    next_version,
    session_id,
)
from ..exceptions import PayloadTooLarge, UnserializableValue
from ..payloads.codec import Snapshot, change_context, newest_data
from ..payloads.merge import AUTHENTICATED_AT, changes
from . import activity
from .state import Environment, RotationCause, Stored
from .user_ids import normal_user_id

ROTATED: Final = "_session_rotated"
"""The key in session data for the time of the last rotation, in milliseconds since the epoch."""
EXPIRY: Final = "_session_expiry"


def user_of(data: dict[str, Any]) -> str | None:
    """Return the user id in session data; ``None`` if anonymous."""
    user_id = data.get(USER_ID)
    return None if user_id is None else normal_user_id(str(user_id))


def data_of(snapshot: Snapshot) -> SecretDict:
    """Return the data of a snapshot, as a dict whose values error reports do not show."""
    return SecretDict(codec().deserialize(snapshot))


def draft(
    env: Environment,
    key: str,
    data: dict[str, Any],
    snapshot: Snapshot,
    previous: Stored | None,
    *,
    cause: RotationCause | None = None,
) -> Record:
    """Return the record to store in place of the previous one.

    Its last activity is the time of the write. Without ``previous`` and with the ``cause`` of a
    rotation, it is a record under the new ``key``. Raises `PayloadTooLarge`, and
    `UnserializableValue` for a user or an expiry that cannot be stored.
    """
    moment, storage = clock.now(), env.storage
    base = previous.record if previous else None
    record_id = base.id if base and cause is None else session_id(key)
    payload = storage.codec.encrypt(record_id, snapshot)
    limit = storage.max_payload
    if limit is not None and len(payload) > limit:
        raise PayloadTooLarge(
            f"The session takes {len(payload)} bytes and {storage.describe()} keeps {limit}. "
            "Store less in the session, or choose another SESSION_ENGINE."
        )
    version = next_version(base.version if base else 0, is_bound=BINDING in data)
    user_id = _storable_user_of(data, base)
    goes_on = base is not None and base.user_id == user_id
    # Only a login starts the absolute timeout again.
    created = _start_time(base if goes_on else None, data, user_id, moment, cause)
    try:
        expires = expires_at(env, data, moment, created)
    except (TypeError, ValueError, ArithmeticError):
        # The text of the error may quote the value.
        kind = type(data.get(EXPIRY)).__name__
        raise UnserializableValue(
            f"session[{EXPIRY!r}] cannot be saved: this {kind} is not an expiry. Call set_expiry() "
            "with a number of seconds, a timedelta, a datetime or None."
        ) from None
    if base and _keeps_expiry(base, expires, moment):
        expires = base.expires
    ip, user_agent = env.client(base)
    changed: Changes = ()
    if previous and storage.keeps_changes:
        changed = tuple(_changes(previous.base, snapshot, change_context(record_id, version)))
    return Record(
        id=record_id,
        payload=payload,
        version=version,
        user_id=user_id,
        created=created,
        last_activity=moment,
        expires=expires,
        ip=ip,
        user_agent=user_agent,
        origin=_origin(base, is_rotation=cause is not None, goes_on=goes_on),
        changes=changed,
        site=storage.sites()[0],
    )


def _storable_user_of(data: dict[str, Any], base: Record | None) -> str | None:
    """Return the user id in session data. Raises `UnserializableValue` for one that no store has.

    ``base`` is the record that is replaced: most saves are of the same user.
    """
    if base is not None and data.get(USER_ID) == base.user_id:
        return base.user_id
    user_id = user_of(data)
    if user_id is not None and not is_user_id(user_id):
        raise UnserializableValue(
            f"session[{USER_ID!r}] cannot be saved: it must have at most {MAX_USER_ID} "
            "characters, without NUL and surrogates. Store the primary key of the user."
        )
    return user_id


def _origin(base: Record | None, *, is_rotation: bool, goes_on: bool) -> str:
    if base is None:
        return ""
    if not is_rotation:
        return base.origin
    # A login begins another session, to which the id of the previous one must not lead.
    return base.lineage if goes_on else ""


def _start_time(
    base: Record | None,
    data: dict[str, Any],
    user_id: str | None,
    moment: int,
    cause: RotationCause | None,
) -> int:
    """Return when the session began or its user last logged in, whichever is later."""
    began = base.created if base else moment
    if base and cause is RotationCause.LOGIN:
        # Its beginning tells it from the session before, see `revocation.is_same_session`, also if
        # the clock is behind, or a login that was made after this one was saved before it.
        began += 1
    authenticated_at = data.get(AUTHENTICATED_AT)
    if user_id is None or not isinstance(authenticated_at, int):
        return began
    if authenticated_at > lifetime.LATEST:
        return began  # Other code has put it there, and no store could keep it.
    # Also of a new session: the clock may have been set back since the login began. The next record
    # must not begin later than this one, which would make it another session.
    return max(began, authenticated_at)


def _changes(before: Snapshot, after: Snapshot, context: str) -> Iterator[tuple[bytes, bytes]]:
    """Yield the changes of a save, as in `Record.changes`."""
    # Compared as they will be read: some serializers return other values than they were given.
    for key, change in changes(
        codec().deserialize(before), codec().deserialize(after), codec().is_same
    ):
        digest = key_ring().digest(f"{type(key).__name__} {key}")
        yield digest, codec().encrypt(context, codec().serialize_change(change))


def open_record(env: Environment, record: Record) -> Snapshot:
    """Return the newest data in a record. Raises `UnreadablePayload`."""
    return newest_data(record, env.storage.codec, codec())


def largest_keys(data: dict[str, Any]) -> str:
    """Return a sentence that names the three keys of a session with the largest values."""
    sizes = {key: len(codec().serialize({key: value}).data) for key, value in data.items()}
    largest = sorted(sizes, key=sizes.__getitem__, reverse=True)[:3]
    return f"Largest: {', '.join(f'{key!r} with {sizes[key]} bytes' for key in largest)}."


# --- Expiry --------------------------------------------------------------------------------


def expires_at(env: Environment, data: dict[str, Any], moment: int, created: int) -> int:
    """Return when a session that is written at ``moment`` expires.

    All times are in milliseconds since the epoch.
    """
    expires = lifetime.expires_at(data.get(EXPIRY), moment, env.cookie_age())
    return min(expires, settings.timeouts.end(created, moment))


def ends_at(record: Record) -> int:
    """Return when a live record ends, in milliseconds since the epoch.

    That may be earlier than its stored expiry, if the timeouts were shortened since.
    """
    return min(record.expires, settings.timeouts.end(record.created, record.last_activity))


def _keeps_expiry(base: Record, expires: int, moment: int) -> bool:
    """Return whether the stored expiry is near enough, so that this save changes no index."""
    step = lifetime.touch_step(expires - moment, settings.TOUCH_INTERVAL)
    return 0 <= expires - base.expires < step


# --- What is due ---------------------------------------------------------------------------


def is_behind(env: Environment, record: Record, data: dict[str, Any]) -> bool:
    """Return whether the stored expiry is so far behind that it has to move."""
    moment = clock.now()
    expires = expires_at(env, data, moment, record.created)
    step = lifetime.touch_step(expires - moment, settings.TOUCH_INTERVAL)
    return expires - record.expires >= step


def has_moved(env: Environment, record: Record, *, is_touched: bool = False) -> bool:
    """Return whether the client has changed and should be stored now.

    It is stored ``TOUCH_INTERVAL`` seconds after the last write. A touch is a write that does not
    store it, so it is also stored in place of each touch: that of the last activity, and with
    ``is_touched`` that of the expiry. If touches went first, the interval might never pass.
    """
    if env.policy is None or env.policy.client is None or not env.storage.keeps_client:
        return False
    passed = clock.now() - record.last_activity
    return (
        is_touched
        or passed >= settings.TOUCH_INTERVAL * 1000
        or activity.is_due(env.storage, record)
    ) and env.client(record) != (record.ip, record.user_agent)


def with_rotation_time(env: Environment, record: Record, data: dict[str, Any]) -> dict[str, Any]:
    """Return the data of a session whose key is rotated now, with the time of the rotation.

    The data is unchanged if the time is not needed: without rotation for age, and at a login.
    """
    if not (settings.ROTATE_AFTER and _can_rotate_for_age(env, record)):
        return data
    if user_of(data) != record.user_id:
        return data  # After a login, the age of the key is the age of the session.
    return SecretDict({**data, ROTATED: clock.now()})


def is_old(env: Environment, record: Record, data: dict[str, Any]) -> bool:
    """Return whether the key is older than ``ROTATE_AFTER`` and can be rotated.

    If no response can bring the browser the new key, it waits for a request whose response can.
    """
    if not (settings.ROTATE_AFTER and _can_rotate_for_age(env, record) and env.sends_key()):
        return False
    rotated = data.get(ROTATED)
    since = max(record.created, rotated if isinstance(rotated, int) else 0)
    return clock.now() - since >= settings.ROTATE_AFTER * 1000


def _can_rotate_for_age(env: Environment, record: Record) -> bool:
    # Only a store that lists sessions can find a session with a rotated key in order to end it.
    return record.user_id is not None and env.storage.lists and not env.storage.holds_in_key


def is_due(env: Environment, state: Stored, data: dict[str, Any]) -> bool:
    """Return whether a request that changes nothing should save the session nevertheless."""
    record = state.record
    return (
        not state.is_announced
        or env.storage.is_outdated(record)
        or is_old(env, record, data)
        or has_moved(env, record)
        or bool(
            settings.IDLE_TIMEOUT
            and (is_behind(env, record, data) or activity.is_due(env.storage, record))
        )
    )
