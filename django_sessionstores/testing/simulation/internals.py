"""The names of the package that the simulation uses, and its access to private parts.

Every other module of the simulation imports the names of the package from here, so that a change of
the package needs a change in one place.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any, Final
from unittest import mock

from asgiref.sync import SyncToAsync
from django.dispatch import Signal
from django.urls import set_urlconf

from ... import signals
from ...accounts import changes as accounts
from ...backends.cookie import SessionStore as CookieSessionStore
from ...core import clock as core_clock
from ...core import flow, records
from ...core.flow import arun, run
from ...core.records import Record, State, draw_key, next_version, session_id, with_times
from ...exceptions import (
    SessionConflict,
    SessionEnded,
    SessionLimitReached,
    SessionStoresError,
    StorageFull,
    StorageUnavailable,
)
from ...inventory import Inventory
from ...middleware import SessionMiddleware
from ...migration import lazy
from ...payloads import codec
from ...payloads.codec import Codec
from ...sessions import SessionStore, engine, request_sessions, rotation
from ...storages.base import (
    CacheStorage,
    Conflict,
    Gone,
    Outcome,
    Page,
    Storage,
    Taken,
    Updated,
    id_of_cursor,
    page_of,
    rotate_in_two_steps,
)
from ...storages.contract import LOCAL_CALLS, SAME_AS, STORE_CALLS
from ...storages.cookie import CookieStorage
from ...storages.copies import is_refused
from ...storages.ending import end_one_by_one, end_without_key
from ...storages.layered import LayeredStorage
from ...storages.memory import MemoryStorage
from ...storages.outcomes import is_removal
from ...storages.registered import RegisteredStorage
from ...watching.findings import Finding, find_out
from . import users

__all__ = [
    "COMPOSED_CALLS",
    "LOCAL_CALLS",
    "STORE_CALLS",
    "CacheStorage",
    "Codec",
    "Conflict",
    "CookieSessionStore",
    "CookieStorage",
    "Finding",
    "Gone",
    "Inventory",
    "LayeredStorage",
    "MemoryStorage",
    "Outcome",
    "Page",
    "Record",
    "RegisteredStorage",
    "SessionConflict",
    "SessionEnded",
    "SessionLimitReached",
    "SessionMiddleware",
    "SessionStore",
    "SessionStoresError",
    "State",
    "Storage",
    "StorageFull",
    "StorageUnavailable",
    "Taken",
    "Updated",
    "arun",
    "attributes",
    "clock",
    "core_clock",
    "derived_key",
    "draw_key",
    "end_account_sessions",
    "end_one_by_one",
    "end_without_key",
    "find_out",
    "forget_storages",
    "handled_request",
    "id_of_cursor",
    "is_refused",
    "is_removal",
    "keys_from",
    "methods",
    "next_version",
    "no_event_loop",
    "page_of",
    "pauses",
    "rotate_in_two_steps",
    "run",
    "session_id",
    "sessions_before",
    "signals",
    "with_times",
]

COMPOSED_CALLS: Final = SAME_AS.keys() | {"end_each"}
"""The methods that the contract composes from the others."""


_ATTRIBUTES: Final = frozenset(
    name
    for kind in (Storage, CacheStorage)
    for name, value in vars(kind).items()
    if not name.startswith("_") and not callable(value) and not hasattr(value, "__func__")
)
"""The class attributes and properties by which a storage is described."""


def attributes(storage: Storage) -> dict[str, Any]:
    """Return the values of the attributes by which a storage is described."""
    return {name: getattr(storage, name) for name in _ATTRIBUTES if hasattr(storage, name)}


def methods() -> Iterator[str]:
    """Yield the names of the public methods of a storage, without the async twins."""
    names = {**vars(Storage), **vars(CacheStorage)}
    for name, value in names.items():
        is_twin = name.startswith("a") and name[1:] in names
        if callable(value) and not name.startswith("_") and not is_twin:
            yield name


@contextmanager
def clock(now: Callable[[], int]) -> Iterator[None]:
    """Let the package read the time, in milliseconds, from ``now``."""
    with core_clock.use(now=now, monotonic=lambda: now() / 1000):
        yield


@contextmanager
def pauses(wait: Callable[[], None]) -> Iterator[None]:
    """Let the flows of the package call ``wait`` instead of sleeping."""

    def sleep(seconds: float) -> None:
        wait()

    async def asleep(seconds: float) -> None:
        wait()

    with (
        mock.patch.object(flow.Pause, "sleep", staticmethod(sleep)),
        mock.patch.object(flow.Pause, "asleep", staticmethod(asleep)),
    ):
        yield


@contextmanager
def keys_from(source: random.Random) -> Iterator[None]:
    """Draw session keys, and everything else that is random, from ``source``.

    A run can then be repeated. New keys are derived from old ones, and the keys of sessions in
    cookies hold the data that the codec has encrypted.
    """
    drawing = SimpleNamespace(token_bytes=source.randbytes, randbits=source.getrandbits)
    with (
        mock.patch.object(records, "secrets", drawing),
        mock.patch.object(records, "random", source),
        mock.patch.object(rotation, "secrets", drawing),
        mock.patch.object(codec, "os", SimpleNamespace(urandom=source.randbytes)),
    ):
        yield


@contextmanager
def no_event_loop() -> Iterator[None]:
    """Let the async code of Django and the package run without a loop and without threads."""

    async def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        return self.func(*args, **kwargs)

    async def asend(self: Signal, sender: Any, **named: Any) -> Any:
        return self.send(sender, **named)

    async def asend_robust(self: Signal, sender: Any, **named: Any) -> Any:
        return self.send_robust(sender, **named)

    with (
        mock.patch.object(SyncToAsync, "__call__", call),
        mock.patch.object(Signal, "asend", asend),
        mock.patch.object(Signal, "asend_robust", asend_robust),
    ):
        yield


def sessions_before(user_id: str) -> set[str] | None:
    """Return the sessions of a user, as the package does before it stores a new password."""
    return accounts._sessions_of(user_id)


def end_account_sessions(user_id: str, cause: str, only: set[str] | None) -> None:
    """End sessions as the package does when a change of an account is committed."""
    accounts._end(user_id, cause, only, lambda: users.find[0](int(user_id)))


@contextmanager
def handled_request() -> Iterator[None]:
    """Do before and after a request what the package needs from Django's handler."""
    set_urlconf("simulated")
    request_sessions._start()
    try:
        yield
    finally:
        request_sessions._finish()
        set_urlconf(None)


def forget_storages() -> None:
    """Make all backends, including previous ones, create their storages again."""
    engine._forget_storages(setting="CACHES")
    lazy._forget_sources()


def derived_key(cookie: str) -> str:
    """Return the session key that is derived from the cookie of a previous backend."""
    return records.derived_key(cookie)
