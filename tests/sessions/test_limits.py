"""At most so many sessions for a user, whoever logs in at the same time."""

import asyncio
import io
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any
from unittest import mock

import pytest
from asgiref.sync import async_to_sync
from django.core.management import call_command
from django.test import Client, override_settings

from django_sessionstores import signals
from django_sessionstores.core import clock
from django_sessionstores.core.clock import now
from django_sessionstores.core.flow import Pause, run
from django_sessionstores.exceptions import SessionLimitReached, StorageUnavailable
from django_sessionstores.inventory import Inventory
from django_sessionstores.storages import limited
from django_sessionstores.testing import HOUR, Twin, at, in_threads, observed
from tests.sessions.test_lifetimes import limits

COOKIE = "sessionid"


@pytest.fixture(autouse=True)
def _listing(engine: Any) -> None:
    if not engine.storage.lists:
        pytest.skip(f"{engine.id} cannot tell how many sessions a user has")


@pytest.fixture(params=["sync", "async"])
def browser_of(request: pytest.FixtureRequest, user: Any, middleware: str) -> Any:
    """Makes browsers that have logged in, and tells whether they were let in."""
    prefix = "/async" if request.param == "async" else ""

    class Browser(Client):
        def log_in(self) -> bool:
            return self.get(f"{prefix}/login/ada/").status_code == 200

        def who(self) -> str:
            return self.get(f"{prefix}/who/").content.decode()

    return Browser


@contextmanager
def ended() -> Iterator[list[tuple[str, str]]]:
    """Id and reason of the sessions that end meanwhile."""
    told: list[tuple[str, str]] = []

    def receiver(session_id: str, reason: str, **kwargs: Any) -> None:
        assert reason in signals.END_REASONS
        told.append((session_id, reason))

    signals.session_ended.connect(receiver)
    try:
        yield told
    finally:
        signals.session_ended.disconnect(receiver)


def test_the_oldest_session_ends(browser_of: Any, user: Any) -> None:
    """A television service that allows three devices works like this."""
    moment = now()
    browsers = [browser_of() for _ in range(5)]
    with limits(MAX_SESSIONS=3):
        for number, browser in enumerate(browsers):
            with at(moment + number):
                assert browser.log_in()
        assert [browser.who() for browser in browsers] == ["", "", "ada", "ada", "ada"]
        assert Inventory().count(user=user) == 3


@pytest.mark.parametrize("method", ["flush", "delete"])
@pytest.mark.parametrize("in_async", [False, True], ids=["sync", "async"])
def test_a_session_that_was_not_read_ends(engine: Any, in_async: bool, method: str) -> None:
    with limits(MAX_SESSIONS=3):
        stored = engine.SessionStore()
        stored["x"] = 1
        stored.save()
        unread = Twin(engine.SessionStore(stored.session_key), in_async)
        assert unread.session_id == stored.session_id
        getattr(unread, method)()
        assert Inventory().count() == 0
        assert engine.SessionStore(stored.session_key).load() == {}


def test_who_is_ended_is_told(engine: Any, browser_of: Any, user: Any) -> None:
    moment = now()
    with limits(MAX_SESSIONS=1):
        with at(moment):
            browser_of().log_in()
        (first,) = Inventory().list(user=user).sessions
        with at(moment + 1), ended() as told:
            browser_of().log_in()
    assert told == [(first.id, "evicted")]


def test_a_login_over_the_limit_is_refused(browser_of: Any, user: Any) -> None:
    """With 403, and nothing of it is left; who was in before stays in."""
    browsers = [browser_of() for _ in range(3)]
    with limits(MAX_SESSIONS=2, ON_LIMIT="refuse"):
        assert [browser.log_in() for browser in browsers] == [True, True, False]
        assert [browser.who() for browser in browsers] == ["ada", "ada", ""]
        assert Inventory().count(user=user) == 2
        browsers[0].get("/logout/")
        assert browsers[2].log_in()
        assert browsers[2].who() == "ada"


@pytest.mark.engines("db", "file")
def test_sessions_under_a_lost_key_do_not_count(user: Any) -> None:
    """Nobody can use them any more. They count while the key is a fallback."""
    with limits(MAX_SESSIONS=1, ON_LIMIT="refuse"):
        with override_settings(SECRET_KEY="lost"):
            assert Client().get("/login/ada/").status_code == 200
        with override_settings(SECRET_KEY_FALLBACKS=["lost"]):
            assert Client().get("/login/ada/").status_code == 403
        assert Client().get("/login/ada/").status_code == 200


def test_a_refused_login_leaves_the_visitor_alone(browser_of: Any, user: Any) -> None:
    """The cart that was filled before must not be lost with it."""
    with limits(MAX_SESSIONS=1, ON_LIMIT="refuse"):
        assert browser_of().log_in()
        visitor = browser_of()
        visitor.get("/write/cart/full/")
        assert not visitor.log_in()
        assert visitor.get("/read/").json() == {"cart": "full"}


def test_a_limit_is_for_each_user_and_not_for_visitors(engine: Any) -> None:
    with limits(MAX_SESSIONS=1, ON_LIMIT="refuse"):
        for user in ("1", "2", None, None):
            session = engine.SessionStore()
            session["x"] = 1
            if user:
                session["_auth_user_id"] = user
            session.save()
        assert Inventory().count() == 4


def test_a_rotation_is_no_login(engine: Any) -> None:
    """A change of password must not be refused."""
    with limits(MAX_SESSIONS=1, ON_LIMIT="refuse"):
        session = engine.SessionStore()
        session["_auth_user_id"] = "1"
        session.save()
        session = engine.SessionStore(session.session_key)
        assert session["_auth_user_id"] == "1"
        session.cycle_key()
        session.save()
        assert engine.SessionStore(session.session_key)["_auth_user_id"] == "1"


@pytest.mark.parametrize("policy", ["end_oldest", "refuse"])
def test_signing_in_again_takes_the_place_of_the_session(
    engine: Any, browser_of: Any, user: Any, policy: str
) -> None:
    """The browser holds one session before and after."""
    with limits(MAX_SESSIONS=1, ON_LIMIT=policy), ended() as told:
        browser = browser_of()
        for _ in range(3):
            assert browser.log_in()
            assert browser.who() == "ada"
        assert Inventory().count(user=user) == 1
    assert [reason for _, reason in told if reason == "evicted"] == []


def test_expired_sessions_do_not_count(engine: Any) -> None:
    moment = now()
    with limits(MAX_SESSIONS=1, ON_LIMIT="refuse"):
        for _ in range(2):
            with at(moment):
                session = engine.SessionStore()
                session["_auth_user_id"] = "1"
                session.set_expiry(60)
                session.save()
            moment += 61_000


def log_in(engine: Any, number: int, key: str | None = None) -> Any:
    """Return a session of user 1 if it was let in, over the visitor's if there is a key."""
    session = Twin(engine.SessionStore(key), bool(number % 2))
    if key is not None:
        session.cycle_key()
    session.set("_auth_user_id", "1")
    try:
        session.save()
    except SessionLimitReached:
        return None
    return session.target


def is_live(engine: Any, session: Any) -> bool:
    return "_auth_user_id" in engine.SessionStore(session.session_key).load()


def test_a_backlog_is_worked_off_by_several_logins(
    engine: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A user may have thousands of sessions when the limit is set. A login ends so many of them,
    none of which the limit would have left, and each is told once."""
    monkeypatch.setattr(limited, "_PAGE", 3)
    monkeypatch.setattr(limited, "_MOST_EVICTED", 4)
    monkeypatch.setattr(limited, "_EVICTION_SECONDS", 3600)
    monkeypatch.setattr(limited, "MOST_AT_ONCE", 2)
    moment, sessions = now(), []
    for number in range(14):
        with at(moment + number):
            sessions.append(log_in(engine, number))
    with limits(MAX_SESSIONS=3), ended() as told:
        for number in range(14, 20):
            before = Inventory().count(user="1")
            with at(moment + number):
                sessions.append(log_in(engine, number))
            left = Inventory().count(user="1")
            assert left == 3 or before - left >= 3
            assert all(is_live(engine, each) for each in sessions[-3:])
            assert len(told) == len(sessions) - left
        assert left == 3
    assert sorted(told) == sorted((each.session_id, "evicted") for each in sessions[:-3])


def test_a_session_that_rotates_before_it_is_evicted_is_followed(engine: Any) -> None:
    """A request of the oldest session gives it another id after the login has listed it."""
    oldest = log_in(engine, 0)
    rotated: list[Any] = []

    def rotate(name: str) -> None:
        if name == "end_many" and not rotated:
            again = engine.SessionStore(oldest.session_key)
            rotated.append(again)
            again["y"] = 2
            again.cycle_key()
            again.save()

    with limits(MAX_SESSIONS=1), ended() as told:
        with observed(engine.storage, before=rotate):
            newest = log_in(engine, 2)
        assert Inventory().count(user="1") == 1
    assert not is_live(engine, rotated[0])
    assert is_live(engine, newest)
    assert [reason for _, reason in told] == ["evicted"]


@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
@pytest.mark.parametrize("batches", [1, 2])
def test_what_was_evicted_before_an_outage_is_told(
    engine: Any, monkeypatch: pytest.MonkeyPatch, batches: int, is_async: bool
) -> None:
    """The login fails, because the user would have too many sessions. Those that it has ended are
    not found by the next one, which tells the rest."""
    monkeypatch.setattr(limited, "_EVICTION_SECONDS", 3600)
    monkeypatch.setattr(limited, "MOST_AT_ONCE", 2)
    moment = now()
    for number in range(8):
        with at(moment + number):
            log_in(engine, number)
    before, left = {each.id for each in Inventory().list(user="1").sessions}, batches

    def fail(name: str) -> None:
        nonlocal left
        if name == "end_many":
            left -= 1
            if left < 0:
                raise StorageUnavailable("away")

    with limits(MAX_SESSIONS=2), ended() as told:
        with (
            at(moment + 8),
            observed(engine.storage, before=fail),
            pytest.raises(StorageUnavailable, match="away"),
        ):
            log_in(engine, int(is_async))
        gone = before - {each.id for each in Inventory().list(user="1").sessions}
        assert len(gone) == 2 * batches
        assert sorted(told) == sorted((each, "evicted") for each in gone)
        with at(moment + 9):
            assert log_in(engine, 0) is not None
        gone = before - {each.id for each in Inventory().list(user="1").sessions}
        assert gone == before
        assert sorted({each for each, _ in told} & before) == sorted(gone)
        assert len(told) == len(set(told))


def test_what_a_batch_has_evicted_before_an_outage_is_told(engine: Any) -> None:
    """A session that has got another id is ended after the batch, by calls that may fail."""
    sessions = [log_in(engine, number) for number in range(3)]
    rotated: list[Any] = []

    def interrupt(name: str) -> None:
        if name == "end_many" and not rotated:
            again = engine.SessionStore(sessions[0].session_key)
            again["y"] = 2
            again.cycle_key()
            again.save()
            rotated.append(again)
        elif name == "lookup" and rotated:
            raise StorageUnavailable("away")

    with (
        limits(MAX_SESSIONS=1),
        ended() as told,
        observed(engine.storage, before=interrupt),
        pytest.raises(StorageUnavailable, match="away"),
    ):
        log_in(engine, 0)
    # They may have begun in one millisecond, and have no order then.
    assert sorted(told) == sorted((each.session_id, "evicted") for each in sessions[1:])
    assert is_live(engine, rotated[0])


def test_a_login_stops_to_end_others_in_time(engine: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The store may be slow. One batch ends at least, or the limit would never be kept."""
    monkeypatch.setattr(limited, "_EVICTION_SECONDS", 0)
    monkeypatch.setattr(limited, "MOST_AT_ONCE", 2)
    moment, sessions = now(), []
    for number in range(8):
        with at(moment + number):
            sessions.append(log_in(engine, number))
    with limits(MAX_SESSIONS=2), ended() as told:
        for number, left in ((8, 7), (9, 6), (10, 5)):
            with at(moment + number):
                sessions.append(log_in(engine, number))
            assert Inventory().count(user="1") == left
    # The oldest first.
    assert [id_ for id_, _ in told] == [each.session_id for each in sessions[:6]]


@pytest.mark.parametrize("policy", ["end_oldest", "refuse"])
@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
def test_a_login_that_takes_longer_than_its_lock_keeps_the_limit(
    engine: Any, policy: str, is_async: bool
) -> None:
    """Nobody else has taken the lock meanwhile, but the surplus session has not ended either."""
    moment, names = now(), list[str]()

    def delay(name: str) -> None:
        nonlocal moment
        if name in {"create", "update", "rotate"} and names[-1:] == ["scan"]:
            moment += 11_000  # Longer than the lock of a login.
        names.append(name)

    with limits(MAX_SESSIONS=2, ON_LIMIT=policy), clock.use(now=lambda: moment):
        oldest = log_in(engine, 0)
        if policy == "end_oldest":
            moment += 1
            log_in(engine, 0)
        moment += 1
        with ended() as told, observed(engine.storage, before=delay):
            newest = log_in(engine, int(is_async))
        assert names.count("scan") == 2
        assert Inventory().count(user="1") == 2
        assert is_live(engine, newest)
    assert told == ([(oldest.session_id, "evicted")] if policy == "end_oldest" else [])


@pytest.mark.parametrize("number", [2, 30])
def test_a_login_over_the_limit_makes_so_many_calls(
    engine: Any, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """However many sessions there are: ten thousand took half a minute."""
    monkeypatch.setattr(limited, "_PAGE", 3)
    monkeypatch.setattr(limited, "_MOST_EVICTED", 2)
    for each in range(number):
        log_in(engine, each)
    with limits(MAX_SESSIONS=1), observed(engine.storage) as calls:
        log_in(engine, 0)
    assert calls.count("scan") == 1
    assert calls.count("end_many") == 1
    assert calls.count("delete") == 0


def test_a_refused_login_reads_no_more_than_it_must(
    engine: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limited, "_PAGE", 3)
    monkeypatch.setattr(limited, "_MOST_EVICTED", 1)
    for each in range(9):
        log_in(engine, each)
    with limits(MAX_SESSIONS=2, ON_LIMIT="refuse"), observed(engine.storage) as calls:
        assert log_in(engine, 0) is None
    assert calls.count("scan") == 1
    assert Inventory().count(user="1") == 9


@pytest.mark.parametrize("policy", ["end_oldest", "refuse"])
def test_twenty_logins_at_once(engine: Any, policy: str) -> None:
    """No more than the limit are live; and of those that were let in and not told otherwise, as
    many as there may be."""
    with limits(MAX_SESSIONS=3, ON_LIMIT=policy):
        found = in_threads([lambda number=number: log_in(engine, number) for number in range(20)])
        admitted = [session for session in found if session]
        live = [session for session in admitted if is_live(engine, session)]
        assert len(live) == 3
        assert Inventory().count(user="1") == 3
        if policy == "refuse":
            assert live == admitted


@pytest.mark.parametrize("policy", ["end_oldest", "refuse"])
def test_two_visitors_log_in_at_once(engine: Any, policy: str) -> None:
    """Their sessions rotate, and one of them is one too many."""
    visitors = []
    for _ in range(2):
        visitor = engine.SessionStore()
        visitor["cart"] = "full"
        visitor.save()
        visitors.append(visitor.session_key)
    with limits(MAX_SESSIONS=1, ON_LIMIT=policy):
        admitted = in_threads(
            [
                lambda number=number, key=key: log_in(engine, number, key)
                for number, key in enumerate(visitors)
            ]
        )
        (live,) = [session for session in admitted if session and is_live(engine, session)]
        assert Inventory().count(user="1") == 1
        if policy == "refuse":
            assert [session for session in admitted if session] == [live]
            # Who was refused is a visitor still, with the cart.
            assert Inventory().count() == 2


@pytest.mark.parametrize("policy", ["end_oldest", "refuse"])
@pytest.mark.parametrize("in_async", [False, True], ids=["sync", "async"])
def test_a_visitor_who_logs_in_twice_at_once_has_one_session(
    engine: Any, in_async: bool, policy: str
) -> None:
    """The second login continues the session of the first, so it needs no room of its own."""
    visitor = engine.SessionStore()
    visitor["cart"] = "full"
    visitor.save()
    logins = [Twin(engine.SessionStore(visitor.session_key), in_async) for _ in range(2)]
    with limits(MAX_SESSIONS=2, ON_LIMIT=policy), ended() as told:
        assert log_in(engine, 1)
        for each in logins:
            assert each.get("cart") == "full"
            each.cycle_key()
        for number, each in enumerate(logins):
            each.set("_auth_user_id", "1")
            each.set(f"from {number}", True)
            each.save()
        session = engine.SessionStore(logins[1].session_key)
        assert {*session.keys()} == {"_auth_user_id", "cart", "from 0", "from 1"}
        assert Inventory().count(user="1") == 2
        assert told == []
        with pytest.raises(SessionLimitReached) if policy == "refuse" else nullcontext():
            over = engine.SessionStore()
            over["_auth_user_id"] = "1"
            over.save()


@pytest.mark.parametrize("policy", ["end_oldest", "refuse"])
def test_servers_whose_clocks_differ(engine: Any, policy: str) -> None:
    """A login by a clock that is behind looks older than one that was let in before it."""
    moment = now()
    with limits(MAX_SESSIONS=1, ON_LIMIT=policy):
        with at(moment + 60_000):
            first = log_in(engine, 0)
        with at(moment):
            second = log_in(engine, 1)
        assert first is not None
        live = [session for session in (first, second) if session and is_live(engine, session)]
        assert live == ([first] if policy == "refuse" else [second])


@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
def test_a_lock_of_a_server_whose_clock_was_ahead(
    engine: Any, is_async: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server has died with the lock, and its user can log in before that time has come."""
    seconds = 0.0

    def wait(_: float) -> None:
        nonlocal seconds
        seconds += 1

    async def await_(_: float) -> None:
        wait(_)

    monkeypatch.setattr(Pause, "sleep", wait)
    monkeypatch.setattr(Pause, "asleep", await_)
    with limits(MAX_SESSIONS=1):
        with at(now() + HOUR):
            run(engine.SessionStore.storage()._lock("1"))
        with clock.use(monotonic=lambda: seconds):
            assert is_live(engine, log_in(engine, int(is_async)))
        assert seconds <= 11


@pytest.mark.parametrize("policy", ["end_oldest", "refuse"])
def test_a_user_whom_a_view_puts_into_a_session_counts(engine: Any, policy: str) -> None:
    """Without ``login()``, the session keeps its key."""
    with limits(MAX_SESSIONS=1, ON_LIMIT=policy):
        log_in(engine, 0)
        visitor = engine.SessionStore()
        visitor["cart"] = "full"
        visitor.save()
        visitor["_auth_user_id"] = "1"
        if policy == "refuse":
            with pytest.raises(SessionLimitReached):
                visitor.save()
        else:
            visitor.save()
        assert Inventory().count(user="1") == 1


@pytest.mark.engines("memory", "cache:redis-cache", "db:sqlite", "cache:memcached+sqlite")
@pytest.mark.parametrize(("has", "says"), [(1, "1 live session,"), (3, "3 live sessions,")])
def test_a_refusal_says_whose_login_why_and_what_to_do(engine: Any, has: int, says: str) -> None:
    """A user may have more sessions than the limit allows, from before it was set."""
    for number in range(has):
        log_in(engine, number)
    with limits(MAX_SESSIONS=1, ON_LIMIT="refuse"):
        session = engine.SessionStore()
        session["_auth_user_id"] = "1"
        with pytest.raises(SessionLimitReached) as caught:
            session.save()
    said = str(caught.value)
    assert f"User '1' has {says}" in said
    assert "SESSIONSTORES['MAX_SESSIONS'] is 1" in said
    assert "SESSIONSTORES['ON_LIMIT'] is 'refuse'" in said
    assert "'end_oldest'" in said
    # The command in the message is one that there is.
    (command,) = re.findall(r"manage\.py (.+) shows them", said)
    output = io.StringIO()
    call_command(*command.split(), "--json", stdout=output)
    assert len(json.loads(output.getvalue())["sessions"]) == has


@pytest.mark.engines("db:sqlite")
def test_a_refusal_does_not_say_a_number_that_it_did_not_count(
    engine: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limited, "_PAGE", 2)
    monkeypatch.setattr(limited, "_MOST_EVICTED", 2)
    for number in range(5):
        log_in(engine, number)
    with limits(MAX_SESSIONS=1, ON_LIMIT="refuse"):
        session = engine.SessionStore()
        session["_auth_user_id"] = "1"
        with pytest.raises(SessionLimitReached, match="at least 2 live sessions"):
            session.save()


@pytest.mark.engines("memory", "cache:redis-cache", "db:sqlite", "cache:memcached+sqlite")
def test_a_login_that_is_cancelled_does_not_hold_up_the_next_one(engine: Any) -> None:
    """Its task is cancelled when the browser goes away."""
    storage, visitor = engine.storage, engine.SessionStore()
    visitor["cart"] = 1
    visitor.save()
    session = engine.SessionStore(visitor.session_key)

    async def log_in_and_cancel() -> None:
        is_storing = asyncio.Event()

        async def wait(*args: Any) -> None:
            is_storing.set()
            await asyncio.Event().wait()

        await session.acycle_key()
        await session.aset("_auth_user_id", "1")
        with mock.patch.object(storage, "arotate", wait):
            login = asyncio.ensure_future(session.asave())
            await is_storing.wait()
            login.cancel()
            with pytest.raises(asyncio.CancelledError):
                await login

    with limits(MAX_SESSIONS=1):
        async_to_sync(log_in_and_cancel)()
        lock = storage.lookup(limited._lock_of("1", storage.sites()[0], now()).id)
        assert lock is None or lock.expires <= now()
        assert log_in(engine, 1)
        assert engine.SessionStore(visitor.session_key)["cart"] == 1


@pytest.mark.engines("cache:memcached+sqlite")
@pytest.mark.parametrize("policy", ["end_oldest", "refuse"])
def test_sessions_that_the_store_has_lost_do_not_count(engine: Any, policy: str) -> None:
    """The registry lists them until they expire. After a restart of memcached, everybody has to log
    in again, and must not be told that the limit is reached."""
    with limits(MAX_SESSIONS=2, ON_LIMIT=policy):
        with at(now() - 60_000):
            kept = log_in(engine, 0)
        lost = log_in(engine, 1)
        data, _registry = engine.storage.parts()
        data.delete(lost.session_id)
        assert not is_live(engine, lost)
        assert log_in(engine, 2) is not None
        assert is_live(engine, kept)
        assert Inventory().count(user="1") == 2
        if policy == "refuse":
            assert log_in(engine, 3) is None
