"""When a save asks the store for what: by what was asked for, and by what the object knows."""

from __future__ import annotations

import random
from contextlib import nullcontext, suppress
from typing import Any
from unittest import mock

import msgspec
import pytest
from django.contrib.auth import HASH_SESSION_KEY
from django.test import override_settings

from django_sessionstores.core import clock
from django_sessionstores.core.flow import Pause
from django_sessionstores.core.records import (
    Client,
    session_id,
)
from django_sessionstores.exceptions import (
    PayloadTooLarge,
    SessionConflict,
    SessionEnded,
    StorageUnavailable,
)
from django_sessionstores.sessions import verification
from django_sessionstores.sessions.state import New, RequestPolicy
from django_sessionstores.storages.base import Conflict
from django_sessionstores.testing import at, in_threads, now, observed, successor

pytestmark = [pytest.mark.engines("memory"), pytest.mark.usefixtures("in_requests")]


def stored(open_session: Any, **data: Any) -> str:
    session = open_session()
    session.update({"a": 1, **data})
    session.save()
    return str(session.session_key)


def fail(name: str) -> None:
    raise StorageUnavailable(f"{name} is broken")


def superseded(open_session: Any, **data: Any) -> str:
    """Return a key that was replaced by another one."""
    key = stored(open_session, **data)
    session = open_session(key)
    session.cycle_key()
    session.save()
    return key


# What was asked for ---------------------------------------------------------------------------


def test_a_save_that_is_asked_for_fails_in_an_outage(engine: Any, open_session: Any) -> None:
    """Nothing has changed, but code that sets ``modified`` must learn that the save failed."""
    session = open_session(stored(open_session))
    session.target.policy = RequestPolicy(anonymous_on_outage=True)
    with observed(engine.storage, before=fail):
        assert session.get("a") is None
    session.save()
    session.target.modified = True
    with pytest.raises(StorageUnavailable):
        session.save()


@pytest.mark.parametrize("is_asked_for", [False, True])
def test_an_unreadable_session_is_replaced_if_that_is_asked_for(
    engine: Any, open_session: Any, is_asked_for: bool
) -> None:
    key = stored(open_session)
    record = engine.storage.read(session_id(key))
    engine.storage._put(msgspec.structs.replace(record, payload=b"damaged"), now())
    session = open_session(key)
    assert session.get("a") is None
    session.target.modified = is_asked_for
    session.save()
    assert (session.session_key != key) is is_asked_for


@pytest.mark.parametrize("is_asked_for", [False, True])
def test_a_superseded_session_is_refused_if_a_save_is_asked_for(
    open_session: Any, is_asked_for: bool
) -> None:
    session = open_session(superseded(open_session))
    session.target.policy = RequestPolicy()
    assert session.get("a") is None
    session.target.modified = is_asked_for
    with pytest.raises(SessionEnded) if is_asked_for else nullcontext():
        session.save()


def test_a_view_that_puts_a_user_into_a_superseded_session(open_session: Any) -> None:
    """The view does not call Django's ``login()``, which would draw a key, but this is a login
    nevertheless."""
    key = superseded(open_session)
    session = open_session(key)
    session.set("_auth_user_id", "7")
    session.save()
    assert session.session_key != key
    assert open_session(session.session_key).get("_auth_user_id") == "7"


@pytest.mark.parametrize("policy", [None, RequestPolicy()])
def test_an_outage_is_no_empty_session_unless_that_is_asked_for(
    engine: Any, open_session: Any, policy: RequestPolicy | None
) -> None:
    session = open_session(stored(open_session))
    session.target.policy = policy
    with observed(engine.storage, before=fail), pytest.raises(StorageUnavailable):
        session.get("a")
    assert session.get("a") == 1


# What a reader is told of a save that it did not ask for ----------------------------------------

ERRORS = {
    "ended": SessionEnded("ended"),
    "conflict": SessionConflict("conflict"),
    "outage": StorageUnavailable("outage"),
    "too large": PayloadTooLarge("too large"),
}


@pytest.mark.parametrize("error", ERRORS)
@pytest.mark.parametrize("has_policy", [False, True])
@pytest.mark.parametrize("is_asked_for", [False, True])
@pytest.mark.parametrize("due", ["outdated", "old"])
def test_a_request_that_only_reads_does_not_fail(
    engine: Any, open_session: Any, due: str, is_asked_for: bool, has_policy: bool, error: str
) -> None:
    """Removing what is not there is no change either, as messages do it at each request.

    Django's middleware sends the cookie again, however. If its key has ended, that would sign out
    another tab of the browser, so the request fails.
    """
    session = open_session(stored(open_session, _auth_user_id="7"))
    session.target.policy = RequestPolicy() if has_policy else None
    storage, options = engine.storage, {"ROTATE_AFTER": 60} if due == "old" else {}
    write = "update" if due == "outdated" else "rotate"
    fails = is_asked_for or (error == "ended" and not has_policy)
    with (
        override_settings(SESSIONSTORES=options),
        at(now() + 61_000),
        mock.patch.object(storage, "is_outdated", return_value=due == "outdated"),
        mock.patch.object(storage, write, side_effect=ERRORS[error]),
    ):
        assert session.get("a") == 1
        assert session.pop("missing", None) is None
        key = session.session_key
        if is_asked_for:
            session.target.modified = True
        with pytest.raises(type(ERRORS[error])) if fails else nullcontext():
            session.save()
    assert session.session_key == key


@pytest.mark.parametrize("has_policy", [False, True])
@pytest.mark.parametrize("change", ["nothing else", "another value"])
@pytest.mark.parametrize("error", ERRORS)
def test_a_new_hash_that_cannot_be_stored(
    engine: Any, open_session: Any, change: str, has_policy: bool, error: str
) -> None:
    """Under a new ``SECRET_KEY`` it is Django that asks for it, and not the view."""
    session = open_session(stored(open_session, _auth_user_id="7", **{HASH_SESSION_KEY: "old"}))
    session.target.policy = RequestPolicy() if has_policy else None
    with (
        override_settings(SECRET_KEY="new", SECRET_KEY_FALLBACKS=["tests only"]),
        mock.patch.object(verification, "was_issued_under_fallback", return_value=True),
        mock.patch.object(engine.storage, "update", side_effect=ERRORS[error]),
    ):
        session.cycle_key()
        session.set(HASH_SESSION_KEY, "new")
        if change == "another value":
            session.set("a", 2)
        fails = change == "another value" or not has_policy
        with pytest.raises(type(ERRORS[error])) if fails else nullcontext():
            session.save()


# What is stored -------------------------------------------------------------------------------


@pytest.mark.parametrize("is_rotated", [False, True])
@pytest.mark.parametrize("user", [None, "7", "8"])
def test_a_save_keeps_the_origin(
    engine: Any, open_session: Any, is_rotated: bool, user: str | None
) -> None:
    """It is empty until the session gets another key. Under the same key it stays."""
    key = stored(open_session, _auth_user_id="7")
    assert engine.storage.read(session_id(key)).version >> 32 == 1
    origin = ""
    if is_rotated:
        origin = session_id(key)
        with override_settings(SESSIONSTORES={"ROTATE_AFTER": 60}), at(now() + 61_000):
            session = open_session(key)
            session.get("a")
            session.save()
            key = session.session_key
    session = open_session(key)
    session.set("_auth_user_id", user)
    session.set("b", 2)
    session.save()
    assert engine.storage.read(session_id(key)).origin == origin


@pytest.mark.parametrize(("seconds", "is_due"), [(59, False), (60, True)])
def test_a_client_that_has_moved_is_stored_after_an_interval(
    engine: Any, seconds: int, is_due: bool
) -> None:
    """Exactly when the interval is over, and not with each request of a client on two networks."""
    session = engine.SessionStore()
    session["a"] = 1
    with override_settings(SESSIONSTORES={"TOUCH_INTERVAL": 60}), clock.freeze(1_700_000_000_000):
        session.policy = RequestPolicy(client=lambda: Client("::1", "browser"))
        session.save()
        later = engine.SessionStore(session.session_key)
        later.policy = RequestPolicy(client=lambda: Client("::2", "browser"))
        with clock.freeze(1_700_000_000_000 + seconds * 1000):
            assert later["a"] == 1
            assert later.is_save_due is is_due


@pytest.mark.parametrize(("milliseconds", "moves"), [(59_999, False), (60_000, True)])
def test_the_expiry_moves_in_steps(
    engine: Any, open_session: Any, milliseconds: int, moves: bool
) -> None:
    """Most saves change no index. After a whole step, the stored expiry is not near enough."""
    moment = now()
    with override_settings(SESSIONSTORES={"TOUCH_INTERVAL": 60}):
        with at(moment):
            key = stored(open_session)
            before = engine.storage.read(session_id(key)).expires
            session = open_session(key)
            session.set("b", 2)
        with at(moment + milliseconds):
            session.save()
    moved = engine.storage.read(session_id(key)).expires - before
    assert moved == (milliseconds if moves else 0)


@pytest.mark.parametrize("is_asked_for", [False, True])
def test_another_order_of_keys_is_stored_if_that_is_asked_for(
    engine: Any, open_session: Any, is_asked_for: bool
) -> None:
    key = stored(open_session, b=2)
    session = open_session(key)
    session.get("a")
    data = session.target._session_cache
    data["a"] = data.pop("a")
    session.target.modified = is_asked_for
    with observed(engine.storage) as calls:
        session.save()
    assert ("update" in calls) is is_asked_for
    assert list(open_session(key).load()) == (["b", "a"] if is_asked_for else ["a", "b"])


# Errors and conflicts -------------------------------------------------------------------------


def test_a_save_that_fails_proves_nothing(open_session: Any) -> None:
    """The failed save invalidates what the previous save had proved."""
    session = open_session(stored(open_session))
    session.set("b", 2)
    session.save()
    assert session.target.is_proved
    open_session(session.session_key).delete()
    session.set("b", 3)
    with pytest.raises(SessionEnded):
        session.save()
    assert not session.target.is_proved


def test_conflicts_wait_longer_each_time(engine: Any) -> None:
    """Many requests that write at once have to be spread in time, up to 0.04 seconds."""
    session, waited = engine.SessionStore(stored_key(engine)), list[tuple[float, float]]()
    session["b"] = 2

    def refuse(record: Any, base: Any, moment: int) -> Conflict:
        current = engine.storage.read(base.id)
        engine.storage._put(successor(current), now())
        return Conflict(engine.storage.read(base.id))

    def uniform(low: float, high: float) -> float:
        waited.append((low, high))
        return len(waited)

    with (
        override_settings(SESSIONSTORES={"CONFLICT_RETRIES": 22}),
        mock.patch.object(engine.storage, "update", side_effect=refuse) as update,
        mock.patch.object(random, "uniform", uniform),
        mock.patch.object(Pause, "sleep") as sleep,
        pytest.raises(SessionConflict),
    ):
        session.save()
    assert update.call_count == 23
    expected = [0.002 * min(number, 20) for number in range(3, 24)]
    assert waited == [(0, pytest.approx(most)) for most in expected]
    assert [each.args for each in sleep.call_args_list] == [(each,) for each in range(1, 22)]


def stored_key(engine: Any, **data: Any) -> str:
    return stored(engine.SessionStore, **data)


@pytest.mark.parametrize(("number", "is_joined"), [(20, True), (21, False)])
def test_a_login_follows_so_many_new_keys(engine: Any, number: int, is_joined: bool) -> None:
    """The keys were drawn while the login was running. Their number is limited, because each costs
    a read."""
    key = stored_key(engine, _auth_user_id="7")
    session = engine.SessionStore(key)
    session[HASH_SESSION_KEY] = "new hash"
    for _ in range(number):
        other = engine.SessionStore(key)
        other.cycle_key()
        other.save()
        key = other.session_key
    with nullcontext() if is_joined else pytest.raises(SessionEnded):
        session.save()
    assert (session.session_key == key) is is_joined


def test_a_storage_is_made_once(engine: Any) -> None:
    """This holds if two threads ask for it at the same time, too."""
    made: list[object] = []

    class Slow(engine.SessionStore):  # type: ignore[misc, name-defined]
        @classmethod
        def make_storage(cls) -> Any:
            made.append(None)
            with suppress(TimeoutError):
                in_threads([lambda: made.append(cls)])
            return super().make_storage()

    found = in_threads([Slow.own_storage] * 8)
    assert made.count(None) == 1
    assert len(set(map(id, found))) == 1


@pytest.mark.parametrize("value", [None, 1234567890, b"abcdefghijklmnop", object()])
def test_what_is_no_text_is_no_key(engine: Any, value: Any) -> None:
    session = engine.SessionStore(value)
    assert session.session_key is None
    assert isinstance(session._state, New)


# The cookie that a save makes due ---------------------------------------------------------------


@pytest.mark.parametrize("follows", ["update", "rotate"])
def test_a_write_with_a_key_that_was_rotated_makes_a_cookie_due(
    open_session: Any, follows: str
) -> None:
    """The browser may never get the response that brings the new key."""
    key, options = stored(open_session, _auth_user_id="7"), {"ROTATE_AFTER": 60}
    late = open_session(key)
    late.get("a")
    with override_settings(SESSIONSTORES=options), at(now() + 61_000):
        session = open_session(key)
        if follows == "rotate":
            late.rotate_later()
            assert session.get("a") == 1
            session.save()
        else:
            assert session.get("a") == 1
            session.save()
            late.set("b", 2)
    with at(now() + 61_000):
        late.save()
        assert late.target.cookie_is_due
        assert late.session_key != key
        assert (late.session_key == session.session_key) is (follows == "update")
