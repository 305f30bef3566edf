"""The state of a session: all that one object knows of its stored session, as an immutable value.

A state is one of these classes:

==============  ==================================================================================
`Unread`        There is a key, and the store was not asked for its session yet.
`New`           Nothing is stored under the key. The key is ``None`` until it is needed.
`Stored`        The record is known as it was loaded or last saved, with the data in it.
`Rotating`      The next save gives the stored session a new key in place of the old one.
`Dead`          The key was superseded, or its session has ended.
`Unreadable`    There is a record, but its data cannot be read. It is left alone.
`Unreachable`   The store did not answer, and the request is served without a session.
`Refused`       The session is bound to a device, and the request came without the proof of it.
==============  ==================================================================================

Each state has a ``base``: the snapshot that the data at hand was loaded from, or ``None``.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from enum import Enum
from typing import Any, ClassVar, Final, TypeAlias

import msgspec
from django.dispatch import Signal

from ..core.end_notes import EndNote
from ..core.records import Client, Record, SecretText
from ..exceptions import StorageUnavailable
from ..payloads.codec import Snapshot
from ..storages.base import Storage
from ..storages.calls import Calls

count: Final = itertools.count(1)
"""Numbers what happens in this process, in order: in one request, times may be equal."""


class ReplacedSession(msgspec.Struct, frozen=True):
    """A session that was flushed. A login may replace it."""

    id: str
    user_id: str | None
    is_reported: bool
    """Whether `session_ended` was sent for it."""
    is_over: bool = True
    """Whether it has ended. False if its end was rolled back."""


class RotationCause(Enum):
    """The reason why a session gets another key."""

    CYCLED = "cycled"
    """``cycle_key()`` was called. From then on the old key is not accepted."""
    LOGIN = "login"
    """The user of the session has logged in again. The old key is accepted from now on only for
    another login of this user, see `conflicts.resolve_superseded`."""
    AGE = "age"
    """The key was older than ``ROTATE_AFTER``. The old key is accepted for a grace period."""


class Unread(msgspec.Struct, frozen=True):
    key: SecretText
    cookie: SecretText
    """The value that the browser sent. ``key`` is the same, or is derived from it if it is a key of
    a previous backend."""
    base: Snapshot | None = None
    """What the data at hand was loaded from, if the write that stored it was rolled back since."""
    flushed: ReplacedSession | None = None
    """The session itself, if it was flushed and the flush was rolled back since."""
    is_cycled: bool = False
    """Whether the next save gives the session another key, because a rotation was rolled back."""


class New(msgspec.Struct, frozen=True):
    key: SecretText | None = None
    is_given: bool = False
    """Whether the caller chose the key, so that it must not be replaced by another one."""
    is_promised: bool = False
    """Whether other code expects the session to be stored under this key."""
    is_tried: bool = False
    """Whether a save has failed. The store may have the key then, and it must not be replaced."""
    superseded: Dead | None = None
    """The state under the previous key, if that was superseded. Then only a login may store a
    session."""
    replaces: ReplacedSession | None = None
    end: EndNote | None = None
    """Why the session that the browser had has ended, if that was noted."""
    base: ClassVar[None] = None


class Stored(msgspec.Struct, frozen=True):
    key: SecretText
    record: Record
    base: Snapshot
    is_announced: bool = True
    """Whether the browser is known to have the key."""
    drawn: int = 0
    """When this object has drawn the key itself, see `count`; 0 if it was given the key."""


class Rotating(msgspec.Struct, frozen=True):
    key: SecretText
    previous: Stored
    cause: RotationCause
    nonce: int
    """The nonce from which the key is derived."""
    moment: int
    """When the key was drawn, in milliseconds since the epoch."""
    cycles: int
    """How often a new key was asked for since the last save."""
    drawn: int
    """When the first of these keys was drawn, see `count`."""
    is_tried: bool = False
    """Whether a save was begun. Then the store may have the key, and it must not be replaced."""
    is_optional: bool = False
    """Whether the next save keeps the key if only the hash of the login changes, because the login
    was made under a previous ``SECRET_KEY``. See `rotation.is_secret_rotation`."""

    @property
    def base(self) -> Snapshot:
        return self.previous.base


class Dead(msgspec.Struct, frozen=True):
    key: SecretText
    tombstone: Record | None = None
    """The tombstone that was found under the key, if it was superseded."""
    outdated: Record | None = None
    """The session that was flushed because its user has a new password. If a login follows, it
    replaces this session."""
    base: ClassVar[None] = None

    @property
    def is_superseded(self) -> bool:
        return self.tombstone is not None or self.outdated is not None


class Unreadable(msgspec.Struct, frozen=True):
    key: SecretText
    base: ClassVar[None] = None


class Unreachable(msgspec.Struct, frozen=True):
    key: SecretText
    cookie: SecretText
    outage: StorageUnavailable
    base: ClassVar[None] = None


class Refused(msgspec.Struct, frozen=True):
    key: SecretText
    record: Record
    drops_writes: bool = False
    """Whether nothing is stored instead of the session, because the browser is about to bring the
    proof: the response must leave it the cookie."""
    base: ClassVar[None] = None


State: TypeAlias = Unread | New | Stored | Rotating | Dead | Unreadable | Unreachable | Refused


def before_reading(state: State) -> Unread | New:
    """Return the state of the same session before it was read.

    For a new session, nothing was stored. So its state is returned as it is.
    """
    match state:
        case New():
            return state
        case Rotating(previous=previous):
            return Unread(previous.key, previous.key)
        case Unread(key=key, cookie=cookie) | Unreachable(key=key, cookie=cookie):
            return Unread(key, cookie)
        case _:
            return Unread(state.key, state.key)


class RequestPolicy(msgspec.Struct, frozen=True):
    """What the package's middleware tells a session about its request."""

    client: Callable[[], Client] | None = None
    """Returns the client of the request. Called when a record is written or compared."""
    anonymous_on_outage: bool = False
    """Whether a session that cannot be read because of an outage is empty, and cannot be saved."""
    sends_key: bool = True
    """Whether a response can still bring the browser a new key."""
    settles: bool = True
    """Whether the middleware will still call ``settle()`` of the session."""
    bound_cookie: SecretText | None = None
    """The bound cookie that the browser sent, empty without one. ``None`` if sessions need none."""


class Event(msgspec.Struct, frozen=True):
    """A signal to send after the state is assigned and the transaction, if any, has committed."""

    signal: Signal
    facts: dict[str, Any]


class Environment(msgspec.Struct, frozen=True):
    """What a transition from one state to the next needs besides the state."""

    storage: Storage
    calls: Calls
    """The calls of the storage, as flows."""
    kind: type[Any]
    """The class of the session, which is the sender of its signals."""
    cookie_age: Callable[[], int]
    """Returns the default lifetime in seconds."""
    opened: int
    """When the session object was made, in milliseconds since the epoch."""
    number: int
    """When it was made, see `count`."""
    policy: RequestPolicy | None
    """``None`` under Django's own middleware and outside of requests."""
    sends_key: Callable[[], bool]
    """Returns whether a response can still bring the browser a new key."""

    def client(self, base: Record | None) -> tuple[str, str]:
        """Return the `Client` of the request. If it is not known, return that of ``base``."""
        if self.policy is not None and self.policy.client is not None:
            return self.policy.client()
        return (base.ip, base.user_agent) if base else ("", "")
