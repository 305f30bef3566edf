"""Backends with a fault, each of which a case must notice."""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import random
import sys
import time
import types
from asyncio import CancelledError
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from typing import Any

import pytest
from django.conf import settings
from django.contrib.sessions.backends import db
from django.contrib.sessions.backends.base import SessionBase
from django.contrib.sessions.backends.cache import SessionStore as CacheStore
from django.utils import timezone

from django_sessionstores.backends.memory import SessionStore as OwnStore
from django_sessionstores.core import clock
from django_sessionstores.testing import new_users
from django_sessionstores.testing.cases import clocks, twins
from django_sessionstores.testing.cases.backend import Backend
from django_sessionstores.testing.cases.catalog import CASES
from django_sessionstores.testing.cases.command import _exit_code
from django_sessionstores.testing.cases.running import Outcome, Result, run_cases

SECRET = "a-secret-in-the-session"
Hold = Callable[..., dict[str, Result]]


@pytest.fixture
def hold(db: None, monkeypatch: pytest.MonkeyPatch) -> Hold:
    """Return a function that holds a session store to cases."""

    def run(store: type, *names: str, seconds: float = 30) -> dict[str, Result]:
        module: Any = types.ModuleType("backend_of_a_test")
        module.SessionStore = store
        monkeypatch.setitem(sys.modules, module.__name__, module)
        backend = Backend(module.__name__)
        cases = [CASES[name] for name in names]
        return {result.case.name: result for result in run_cases(backend, cases, seconds)}

    return run


# Faults of single promises --------------------------------------------------------------------

FAULTS: list[Any] = []


def planted(*names: str) -> Callable[[type], type]:
    """Add a backend to those that have a fault, with the cases that must notice it."""

    def add(store: type) -> type:
        FAULTS.append(pytest.param(store, names, id=store.__name__))
        return store

    return add


@planted("a-session-expires-by-the-clock")
class DefaultLifetimeIsNotEnforced(db.SessionStore):
    def save(self, must_create: bool = False) -> None:
        if "_session_expiry" not in self:
            self["_session_expiry"] = 10 * 365 * 86_400
        super().save(must_create)


@planted("async-methods-do-the-same")
class AsyncEndsDoNothing(OwnStore):
    async def adelete(self, session_key: str | None = None) -> None:
        if session_key is None:
            await super().adelete()

    async def aexists(self, session_key: str) -> bool:
        return False


@planted("async-methods-do-the-same")
class AsyncWritesDoNothing(OwnStore):
    async def apop(self, key: str, default: Any = None) -> Any:  # type: ignore[override]
        return default

    async def aset_expiry(self, value: Any) -> None:
        pass


@planted("an-altered-key-reads-as-empty")
class OnlyTheBeginningOfAKeyCounts(OwnStore):
    known: dict[str, str] = {}

    def __init__(self, session_key: str | None = None) -> None:
        if session_key and len(session_key) == 32:
            session_key = self.known.setdefault(session_key[:17], session_key)
        super().__init__(session_key)


@planted("keys-cannot-be-guessed")
class KeysAreACounter(db.SessionStore):
    numbers = itertools.count()

    def _get_new_session_key(self) -> str:
        return hashlib.md5(str(next(self.numbers)).encode()).hexdigest()


@planted("clear-expired-keeps-live-sessions")
class ShortSessionsAreCleared(db.SessionStore):
    @classmethod
    def clear_expired(cls) -> None:
        soon = timezone.now() + timedelta(days=13)
        cls.get_model_class().objects.filter(expire_date__lt=soon).delete()


@planted("async-methods-do-the-same-for-users")
class AsyncEndsOfUsersDoNothing(OwnStore):
    async def aflush(self) -> None:
        if await self.aget("_auth_user_id"):
            self.clear()
        else:
            await super().aflush()

    async def acycle_key(self) -> None:
        if not await self.aget("_auth_user_id"):
            await super().acycle_key()


@planted("two-users-have-two-sessions")
class UsersShareAPrivateName(OwnStore):
    shared: dict[str, Any] = {}

    def load(self) -> dict[str, Any]:
        found = super().load()
        if "_cart" in found:
            self.shared["_cart"] = found["_cart"]
        if "_auth_user_id" in found:
            found.update(self.shared)
        return found


@planted("keys-cannot-be-guessed")
class KeysAreTheTime(db.SessionStore):
    def _get_new_session_key(self) -> str:
        return hashlib.md5(str(time.time_ns()).encode()).hexdigest()


@planted("keys-cannot-be-guessed")
class KeysAreOfASeed(db.SessionStore):
    def _get_new_session_key(self) -> str:
        return f"{random.getrandbits(128):032x}"


@planted("a-change-that-is-not-saved-is-not-seen", "load-returns-what-is-stored")
class ReadersShareTheirData(OwnStore):
    read: dict[str | None, dict[str, Any]] = {}

    def load(self) -> dict[str, Any]:
        return self.read.setdefault(self.session_key, super().load())


@planted("async-methods-do-the-same")
class AsyncClearsNothing(db.SessionStore):
    @classmethod
    async def aclear_expired(cls) -> None:
        pass


@planted("a-lifetime-is-kept")
class LifetimesThatAreDatesAreIgnored(OwnStore):
    def set_expiry(self, value: Any) -> None:
        super().set_expiry(value if isinstance(value, int) else None)


@planted("async-methods-do-the-same")
class AnAsyncSaveReplacesATakenKey(db.SessionStore):
    async def asave(self, must_create: bool = False) -> None:
        await super().asave()


@planted("an-unknown-key-is-not-accepted")
class UnknownKeysAreAccepted(CacheStore):
    def load(self) -> Any:
        return self._cache.get(self.cache_key) or {}


@planted("flush-ends-the-session", "logout-ends-the-session")
class SessionsDoNotEnd(db.SessionStore):
    def delete(self, session_key: str | None = None) -> None:
        pass


@planted("an-expired-session-reads-as-empty", "a-lifetime-is-kept")
class LifetimesAreForgotten(db.SessionStore):
    def get_expiry_age(self, **kwargs: Any) -> int:
        return 10**6

    def get_expiry_date(self, **kwargs: Any) -> Any:
        return super().get_expiry_date(expiry=10**6)


@planted("json-values-are-read-back", "names-of-fields-are-harmless")
class LongNamesAreLost(db.SessionStore):
    def encode(self, session_dict: dict[str, Any]) -> str:
        return super().encode({k: v for k, v in session_dict.items() if len(k) < 6})


@planted("keys-cannot-be-guessed")
class KeysAreShort(db.SessionStore):
    numbers = itertools.count(10**8)

    def _get_new_session_key(self) -> str:
        return str(next(self.numbers))


@pytest.mark.parametrize(("store", "names"), FAULTS)
def test_a_fault_is_noticed(hold: Hold, store: type, names: tuple[str, ...]) -> None:
    # Also shows that the fault does not spoil everything.
    results = hold(store, "a-saved-value-is-read-back", *names)
    assert results.pop("a-saved-value-is-read-back").outcome is Outcome.PASSED
    assert {name: result.outcome for name, result in results.items()} == dict.fromkeys(
        names, Outcome.FAILED
    )


def test_each_method_with_a_twin_is_compared() -> None:
    names = {name for name in dir(SessionBase) if hasattr(SessionBase, f"a{name}")}
    assert {call.name for call in twins.CALLS} == names | {"set"}


# Faults of the whole -------------------------------------------------------------------------

CASE = "a-saved-value-is-read-back"


@pytest.mark.parametrize("error", [ZeroDivisionError, SystemExit, GeneratorExit, CancelledError])
def test_whatever_is_raised_is_a_failure_with_its_name(
    hold: Hold, error: type[BaseException]
) -> None:
    class Store(db.SessionStore):
        def load(self) -> Any:
            raise error(f"{SECRET} of {self.session_key}")

        def delete(self, session_key: str | None = None) -> None:
            raise error

    (result,) = hold(Store, CASE).values()
    assert result.outcome is Outcome.FAILED
    assert result.detail == f"{error.__name__} was raised."


class Endless(db.SessionStore):
    """Draws keys for ever."""

    def load(self) -> Any:
        while True:
            with suppress(Exception):
                self.exists("a" * 32)


class AsyncEndless(db.SessionStore):
    async def asave(self, must_create: bool = False) -> None:
        await asyncio.sleep(1)


class EndlessInCleanUp(db.SessionStore):
    def load(self) -> Any:
        return {}

    def delete(self, session_key: str | None = None) -> None:
        while True:
            time.sleep(1)


@pytest.mark.parametrize(
    ("store", "name"),
    [(Endless, CASE), (AsyncEndless, "async-methods-store-the-same")],
)
def test_a_case_that_does_not_end_is_stopped(hold: Hold, store: type, name: str) -> None:
    (result,) = hold(store, name, seconds=0.2).values()
    assert result.outcome is Outcome.FAILED
    assert result.detail == "It had not ended after 0.2 seconds."


def test_a_clean_up_that_does_not_end_is_stopped_once(hold: Hold) -> None:
    names = (CASE, "a-removed-name-stays-removed", "a-nested-change-is-saved")
    results = hold(EndlessInCleanUp, *names, seconds=2)
    assert [result.detail for result in results.values()] == [
        "The value is missing.",
        "KeyError was raised.",
        "KeyError was raised.",
    ]


def test_a_project_without_urls_can_use_the_command(hold: Hold, settings: Any) -> None:
    del settings.ROOT_URLCONF
    (result,) = hold(OwnStore, "two-visitors-have-two-sessions").values()
    assert result.outcome is Outcome.PASSED


def test_users_that_cannot_be_made_are_no_success(
    hold: Hold, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(**options: Any) -> Any:
        raise ValueError

    monkeypatch.setattr(new_users, "new_user", refuse)
    (result,) = hold(OwnStore, "logout-ends-the-session").values()
    assert (result.outcome, result.detail) == (
        Outcome.NOT_RUN,
        "No user of auth.User could be made: ValueError.",
    )
    assert _exit_code([Outcome.PASSED, result.outcome]) == 2
    assert _exit_code([Outcome.FAILED, result.outcome]) == 1
    assert _exit_code([Outcome.PASSED, Outcome.DOES_NOT_APPLY]) == 0


class Unmovable(OwnStore):
    """Has a clock of its own, as a server has."""

    lives: dict[str, float] = {}
    enforces_default = True

    def save(self, must_create: bool = False) -> None:
        super().save(must_create)
        lifetime = self.get("_session_expiry")
        if lifetime is not None or self.enforces_default:
            age = settings.SESSION_COOKIE_AGE if lifetime is None else lifetime
            self.lives[str(self.session_key)] = time.monotonic() + age

    def load(self) -> dict[str, Any]:
        with clock.freeze(0):
            found = super().load()
        is_over = time.monotonic() > self.lives.get(str(self.session_key), float("inf"))
        return {} if is_over else found


def test_the_end_of_a_lifetime_is_waited_for_if_the_clock_is_that_of_a_server(
    hold: Hold, monkeypatch: pytest.MonkeyPatch
) -> None:
    slept = []
    monkeypatch.setattr(clocks.time, "sleep", slept.append)
    monkeypatch.setattr(time, "monotonic", lambda: 10_000 + sum(slept))
    names = (
        "a-session-expires-by-the-clock",
        "a-lifetime-of-its-own-expires-by-the-clock",
        "a-save-moves-the-expiry",
    )
    outcomes = [result.outcome for result in hold(Unmovable, *names).values()]
    assert outcomes == [Outcome.PASSED, Outcome.PASSED, Outcome.DOES_NOT_APPLY]
    monkeypatch.setattr(Unmovable, "enforces_default", False)
    outcomes = [result.outcome for result in hold(Unmovable, *names[:2]).values()]
    assert outcomes == [Outcome.FAILED, Outcome.PASSED]
