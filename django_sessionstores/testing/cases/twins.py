"""Cases of async methods: each does the same as its sync twin."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import partial
from typing import Any, Final

from asgiref.sync import async_to_sync
from django.conf import settings
from django.contrib import auth

from .case import Need, case, expect
from .trial import Trial

OWN_KEY, UNKNOWN_KEY = "key of the session", "unknown key"
"""Arguments that stand for keys."""
_TOLERANCE: Final = timedelta(seconds=5)
_TRIES: Final = 3


@dataclass(frozen=True)
class Call:
    """A call of a method, on the object of a stored session that has not been read."""

    name: str
    arguments: tuple[Any, ...] = ()
    options: dict[str, Any] = field(default_factory=dict)
    lifetime: int | None = None

    def arguments_for(self, trial: Trial, key: str) -> tuple[Any, ...]:
        stand_ins = {OWN_KEY: key, UNKNOWN_KEY: trial.unknown_key()}
        return tuple(
            stand_ins.get(each, each) if isinstance(each, str) else each for each in self.arguments
        )


CALLS: Final = (
    *(Call("get", ("color",)), Call("get", ("none", 1)), Call("set", ("color", "red"))),
    *(Call("pop", ("color",)), Call("pop", ("none", 1)), Call("pop", ("none",))),
    *(Call("setdefault", ("color", 1)), Call("setdefault", ("size", 1))),
    Call("update", ({"color": "red", "size": 1},)),
    *(Call("has_key", ("color",)), Call("has_key", ("none",))),
    *(Call("keys"), Call("values"), Call("items")),
    *(Call("set_test_cookie"), Call("test_cookie_worked"), Call("delete_test_cookie")),
    *(Call("set_expiry", (each,)) for each in (0, 3600, timedelta(hours=1), None)),
    *(Call("get_expiry_age"), Call("get_expiry_age", lifetime=3600)),
    Call("get_expiry_age", options={"expiry": 60}),
    *(Call("get_expiry_date"), Call("get_expiry_date", lifetime=3600)),
    *(Call("get_expire_at_browser_close"), Call("get_expire_at_browser_close", lifetime=0)),
    *(Call("exists", (OWN_KEY,)), Call("exists", (UNKNOWN_KEY,))),
    *(Call("load"), Call("create"), Call("save"), Call("save", (True,))),
    *(Call("delete"), Call("delete", (OWN_KEY,)), Call("flush"), Call("cycle_key")),
    *(Call("clear_expired"), Call("clear_expired", lifetime=-1)),
)
"""Each method that has a twin, with each kind of argument."""


@case(30)
def async_methods_do_the_same(trial: Trial) -> None:
    """Each async method returns, changes and stores the same as its sync twin."""
    _compare(trial, {})


@case(30, Need.USERS)
def async_methods_do_the_same_for_users(trial: Trial) -> None:
    """The same in the session of a user who is signed in."""
    user = {
        auth.SESSION_KEY: str(trial.user().pk),
        auth.BACKEND_SESSION_KEY: settings.AUTHENTICATION_BACKENDS[0],
    }
    _compare(trial, user)


def _compare(trial: Trial, data: dict[str, Any]) -> None:
    calls = [call for call in CALLS if call.lifetime is None or _has_lifetimes(trial, call)]
    # A key that has the second in it, as those of ``signed_cookies``, changes between two steps.
    for _ in range(_TRIES):
        calls = _different(trial, calls, data)
    names = dict.fromkeys(f"a{call.name}()" for call in calls)
    expect(not calls, f"Not the same: {', '.join(names)}.")


def _different(trial: Trial, calls: list[Call], data: dict[str, Any]) -> list[Call]:
    """Return those calls that do something else than their async twins."""
    sync = [_seen(trial, *_called(trial, call, data)) for call in calls]
    prepared = [_prepare(trial, call, data) for call in calls]
    outcomes = async_to_sync(_await_all)(trial, calls, prepared)
    awaited = [
        _seen(trial, *each, outcome) for each, outcome in zip(prepared, outcomes, strict=True)
    ]
    return [
        call
        for call, one, other in zip(calls, sync, awaited, strict=True)
        if not _alike(one, other)
    ]


def _has_lifetimes(trial: Trial, call: Call) -> bool:
    """Return whether sessions can be saved with the lifetime of a call: not all backends can."""
    try:
        _prepare(trial, call, {})
    except Exception:  # noqa: BLE001 - Django names no error for this
        return False
    return True


def _called(trial: Trial, call: Call, data: dict[str, Any]) -> tuple[str, Any, Any]:
    key, session = _prepare(trial, call, data)
    method = session.__setitem__ if call.name == "set" else getattr(session, call.name)
    arguments = call.arguments_for(trial, key)
    return key, session, _outcome(lambda: method(*arguments, **call.options))


def _prepare(trial: Trial, call: Call, data: dict[str, Any]) -> tuple[str, Any]:
    session = trial.session()
    session.update({"color": "blue", **data})
    if "test_cookie" in call.name:
        session.set_test_cookie()
    if call.lifetime is not None:
        session.set_expiry(call.lifetime)
    key = trial.save(session)
    return key, trial.session(key)


def _outcome(call: Callable[[], Any]) -> Any:
    try:
        return _plain(call())
    except Exception as error:  # noqa: BLE001 - its twin has to raise the same
        return type(error).__name__


async def _await_all(trial: Trial, calls: list[Call], prepared: list[tuple[str, Any]]) -> list[Any]:
    outcomes = []
    for call, (key, session) in zip(calls, prepared, strict=True):
        try:
            method = getattr(session, f"a{call.name}")
            outcomes.append(_plain(await method(*call.arguments_for(trial, key), **call.options)))
        except Exception as error:  # noqa: BLE001 - its twin has to raise the same
            outcomes.append(type(error).__name__)
    return outcomes


def _plain(value: Any) -> Any:
    """Return a value that can be compared, also if it is a view of a dict."""
    if value is None or isinstance(value, str | int | float | dict | datetime):
        return value
    return list(value)


def _seen(trial: Trial, key: str, session: Any, outcome: Any) -> list[Any]:
    """Return what a call did: to its object, to the store, and to what is saved later."""
    seen = [outcome, session.modified, session.accessed, session.is_empty()]
    new_key = session.session_key
    seen += [new_key is None, new_key == key]
    for each in (key, new_key):
        other = trial.session(each)
        seen += [each is not None and _outcome(partial(other.exists, each)), _data(other)]
    seen += [_data(session), _outcome(lambda: trial.save(session) and None)]
    saved_key = session.session_key
    return [*seen, saved_key == key, _data(trial.session(saved_key))]


def _data(session: Any) -> Any:
    return _outcome(lambda: dict(session.items()))


def _alike(one: Any, other: Any) -> bool:
    """Return whether two results are the same, except for the time between them."""
    if isinstance(one, dict) and isinstance(other, dict):
        return list(one) == list(other) and _alike([*one.values()], [*other.values()])
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(_alike, one, other))
    if type(one) is not type(other) or one == other:
        return bool(one == other)
    if isinstance(one, int | float) and not isinstance(one, bool):
        return abs(timedelta(seconds=one - other)) <= _TOLERANCE
    try:
        return bool(abs(_date(one) - _date(other)) <= _TOLERANCE)
    except (TypeError, ValueError):
        return False


def _date(value: Any) -> Any:
    return datetime.fromisoformat(value) if isinstance(value, str) else value
