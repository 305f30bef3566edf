"""The blocking and the awaited methods of a session do the same, call for call."""

from __future__ import annotations

import random
import secrets
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from itertools import count
from typing import Any, Final
from unittest import mock

import msgspec
import pytest
from django.utils import timezone

from django_sessionstores import signals
from django_sessionstores.backends.memory import SessionStore
from django_sessionstores.core import clock, flow
from django_sessionstores.core.records import Record, State
from django_sessionstores.exceptions import StorageUnavailable
from django_sessionstores.sessions.state import RequestPolicy
from django_sessionstores.testing import observed
from django_sessionstores.testing.simulation.scheduler import drive
from tests.cases import empty_memory

NOW: Final = 1_700_000_000_000
MOMENT: Final = datetime.fromtimestamp(NOW / 1000, UTC)
USER: Final = {"_auth_user_id": "7", "_auth_user_hash": "hash", "_auth_user_backend": "x"}


def _awaited_name(name: str) -> str:
    return f"_a{name[1:]}" if name.startswith("_") else f"a{name}"


METHODS: Final = sorted(
    name
    for name in dir(SessionStore)
    if not name.startswith("__") and hasattr(SessionStore, _awaited_name(name))
)
"""All methods that have an async twin, Django's own included."""
ARGUMENTS: Final[dict[str, list[tuple[tuple[Any, ...], dict[str, Any]]]]] = {
    "_get_session": [((), {}), ((True,), {})],
    "delete": [((), {}), (("key",), {}), (("other",), {})],
    "exists": [(("key",), {}), (("other",), {}), ((None,), {}), (("no key",), {})],
    "get": [(("a",), {}), (("none", 5), {})],
    "get_expiry_age": [
        ((), {}),
        ((), {"expiry": 60}),
        ((), {"modification": datetime(2030, 1, 1, tzinfo=UTC)}),
    ],
    "get_expiry_date": [((), {}), ((), {"expiry": 60})],
    "has_key": [(("a",), {}), (("none",), {})],
    "pop": [(("a",), {}), (("none", 5), {}), (("none",), {})],
    "save": [((), {}), ((), {"must_create": True})],
    "set": [(("a", 9), {})],
    "set_expiry": [((60,), {}), ((None,), {}), ((0,), {})],
    "setdefault": [(("a", 9), {}), (("b", 9), {})],
    "update": [(({"a": 9},), {})],
}


@contextmanager
def _determined() -> Iterator[None]:
    """Make keys, nonces and times the same each time."""
    numbers = count(1)

    def token_bytes(size: int) -> bytes:
        return bytes((next(numbers) * 7 + place) % 256 for place in range(size))

    with (
        clock.freeze(NOW),
        mock.patch.object(secrets, "token_bytes", token_bytes),
        mock.patch.object(secrets, "randbits", side_effect=numbers),
        mock.patch.object(random, "getrandbits", side_effect=numbers),
        mock.patch.object(timezone, "now", return_value=MOMENT),
    ):
        yield


def _store(**data: Any) -> str:
    session = SessionStore()
    session.update(data)
    session.create()
    key = session.session_key
    assert key is not None
    return key


def _new(key: str) -> SessionStore:
    return SessionStore()


def _written(key: str) -> SessionStore:
    session = SessionStore()
    session["a"] = 1
    return session


def _unread(key: str) -> SessionStore:
    return SessionStore(key)


def _unknown(key: str) -> SessionStore:
    return SessionStore("unknownunknownunknownunknownunkn")


def _read(key: str) -> SessionStore:
    session = SessionStore(key)
    session.get("a")
    return session


def _changed(key: str) -> SessionStore:
    session = SessionStore(key)
    session["c"] = 3
    return session


def _rotating(key: str) -> SessionStore:
    session = SessionStore(key)
    session.rotate_later()
    return session


def _ended(key: str) -> SessionStore:
    session = _changed(key)
    SessionStore(key).delete()
    return session


def _overtaken(key: str) -> SessionStore:
    session = _changed(key)
    other = SessionStore(key)
    other["d"] = 4
    other.save()
    return session


def _flushed(key: str) -> SessionStore:
    session = SessionStore(key)
    session.policy = RequestPolicy()
    session.flush()
    return session


def _outage(key: str) -> SessionStore:
    session = SessionStore(key)
    session.policy = RequestPolicy(anonymous_on_outage=True)
    with observed(SessionStore.storage(), before=_fail):
        session.get("a")
    return session


def _fail(name: str) -> None:
    raise StorageUnavailable(f"{name} is broken")


STATES: Final = (
    *(_new, _written, _unread, _unknown, _read, _changed),
    *(_rotating, _ended, _overtaken, _flushed, _outage),
)


def _world(
    begin: Callable[[str], SessionStore],
    data: dict[str, Any],
    call: Callable[[SessionStore, dict[str, str]], Any],
) -> dict[str, Any]:
    """Return what can be seen of a call: its answer, its calls, the store and the object."""
    empty_memory()
    storage = SessionStore.storage()
    with _determined():
        keys = {"key": _store(a=1, **data), "other": _store(other=1)}
        session = begin(keys["key"])
        calls, told = list[str](), list[dict[str, Any]]()
        signals.observers.append(observe := lambda signal, sender, facts: told.append(facts))
        flow.watch(lambda call, seconds, result: calls.append(call.name))
        try:
            answer = call(session, keys)
        except Exception as error:  # noqa: BLE001 - that is an answer, too
            answer = repr(error)
        finally:
            flow.watch(None)
            signals.observers.remove(observe)
        kept = (*storage._sessions.values(), *storage._tombstones.values())  # type: ignore[attr-defined]
        records = [_shown(each) for each in kept]
        return {
            "answer": list(answer) if isinstance(answer, Iterable) else answer,
            "calls": calls,
            "told": told,
            "records": records,
            "outage": repr(session.outage),
            "ids": session.stored_ids,
            "key": session.session_key,
            "state": type(session._state).__name__,
            "settled": session.is_settled,
            **{name: vars(session).get(name) for name in _OF_OBJECT},
        }


def _shown(record: Record) -> tuple[Record, Any]:
    """Return a record and its data, which is encrypted with another nonce each time."""
    is_live = record.state is State.LIVE
    data = SessionStore.data_of(record) if is_live else record.payload
    return msgspec.structs.replace(record, payload=b""), data


_OF_OBJECT: Final = (*("_session_cache", "accessed", "_modified", "cookie_is_due", "is_proved"),)


CALLS: Final = [
    pytest.param(name, args, keywords, id=f"{name}-{number}")
    for name in METHODS
    for number, (args, keywords) in enumerate(ARGUMENTS.get(name, [((), {})]))
]


@pytest.mark.parametrize(("name", "args", "keywords"), CALLS)
def test_both_do_the_same(name: str, args: tuple[Any, ...], keywords: dict[str, Any]) -> None:
    """A fault of one of them alone would show in half of the sites only."""

    def blocking(session: SessionStore, keys: dict[str, str]) -> Any:
        return getattr(session, name)(*[keys.get(str(each), each) for each in args], **keywords)

    def awaited(session: SessionStore, keys: dict[str, str]) -> Any:
        method = getattr(session, _awaited_name(name))
        return drive(method(*[keys.get(str(each), each) for each in args], **keywords))

    for begin in STATES:
        for data in {}, USER:
            assert _world(begin, data, awaited) == _world(begin, data, blocking), begin.__name__
