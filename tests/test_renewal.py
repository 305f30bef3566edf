"""A key that has grown old is replaced, and nobody notices but who had stolen it."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from django.test import Client, override_settings

from django_sessionstores.inventory import Inventory
from django_sessionstores.records import State
from django_sessionstores.session import now
from django_sessionstores.testing import HOUR, Twin, at, in_threads
from tests.test_lifetimes import limits
from tests.test_races import ADA, at_each_stop, both_ways, log_out, setting

COOKIE = "sessionid"
MINUTE = 60_000
RENEWAL = {"RENEW_AGE": 3600, "RENEW_GRACE": 120, "TOMBSTONE_AGE": 60}


@pytest.fixture(autouse=True)
def _renewing(engine: Any) -> Iterator[None]:
    if not engine.storage.lists or engine.storage.holds_in_key:
        pytest.skip(f"{engine.id} renews no keys")
    with limits(**RENEWAL):
        yield


@pytest.fixture(params=["sync", "async"])
def visit(request: pytest.FixtureRequest, user: Any, middleware: str) -> Callable[..., Any]:
    """A request of a browser's: who it is for the site."""
    prefix = "/async" if request.param == "async" else ""

    def get(browser: Client, path: str = "/who/") -> str:
        response = browser.get(prefix + path)
        assert response.status_code == 200
        return response.content.decode()

    return get


def carrying(key: str) -> Client:
    browser = Client()
    browser.cookies[COOKIE] = key
    return browser


def key_of(browser: Client) -> str:
    return browser.cookies[COOKIE].value


def test_an_old_key_is_replaced(visit: Any) -> None:
    """By a request that only reads, with its answer. A young one stays."""
    browser, moment = Client(), now()
    with at(moment):
        visit(browser, "/login/ada/")
        old = key_of(browser)
    with at(moment + 59 * MINUTE):
        assert visit(browser) == "ada"
        assert key_of(browser) == old
    with at(moment + 61 * MINUTE):
        assert visit(browser) == "ada"
        assert key_of(browser) != old
        renewed = key_of(browser)
        assert visit(browser) == "ada"
        assert key_of(browser) == renewed
    with at(moment + 122 * MINUTE):
        assert visit(browser) == "ada"
        assert key_of(browser) not in {old, renewed}


def test_the_old_key_goes_on_for_a_grace_and_no_longer(visit: Any) -> None:
    """For requests under way, and a browser that the answer did not reach: it gets the new key
    again. After that the key is of no use."""
    browser, moment = Client(), now()
    with at(moment):
        visit(browser, "/login/ada/")
        visit(browser, "/write/cart/full/")
        old = key_of(browser)
    with at(moment + HOUR):
        visit(browser)
    with at(moment + HOUR + 119_000):
        late = carrying(old)
        assert visit(late) == "ada"
        assert key_of(late) == key_of(browser)
        assert '"cart": "full"' in visit(carrying(old), "/read/")
    with at(moment + HOUR + 121_000):
        # Anonymous, but its cookie stays: the browser may hold the new one already.
        late = carrying(old)
        assert visit(late) == ""
        assert key_of(late) == old
    with at(moment + HOUR + 181_000):
        assert visit(carrying(old)) == ""
        assert visit(browser) == "ada"


def test_a_write_with_the_old_key_counts(visit: Any) -> None:
    """And its answer brings the new one."""
    browser, moment = Client(), now()
    with at(moment):
        visit(browser, "/login/ada/")
        late = carrying(key_of(browser))
    with at(moment + HOUR):
        visit(browser, "/write/a/1/")
        visit(late, "/write/b/2/")
        assert key_of(late) == key_of(browser)
        assert '"a": "1"' in visit(browser, "/read/")
        assert '"b": "2"' in visit(browser, "/read/")


def test_a_login_ends_the_grace(visit: Any) -> None:
    """Never across a change of privilege: whoever stole the key would be whoever logs in."""
    browser, moment = Client(), now()
    with at(moment):
        visit(browser, "/login/ada/")
        old = key_of(browser)
    with at(moment + HOUR):
        visit(browser)
        renewed = key_of(browser)
        visit(browser, "/relogin/")
        assert visit(browser) == "ada"
        assert visit(carrying(old)) == ""
        assert visit(carrying(renewed)) == ""


def test_a_key_cycled_by_hand_ends_the_grace(engine: Any) -> None:
    """As a change of password does."""
    moment = now()
    with at(moment):
        session = engine.SessionStore()
        session.update(ADA)
        session.save()
        old = session.session_key
    with at(moment + HOUR):
        session = engine.SessionStore(old)
        session["x"] = 1
        session.save()
        session = engine.SessionStore(session.session_key)
        session.cycle_key()
        session.save()

        assert dict(engine.SessionStore(old).items()) == {}
        assert engine.SessionStore(session.session_key)["x"] == 1


@pytest.mark.parametrize("with_old_key", [False, True])
def test_a_logout_ends_it_under_both_keys(visit: Any, with_old_key: bool) -> None:
    browser, moment = Client(), now()
    with at(moment):
        visit(browser, "/login/ada/")
        old = key_of(browser)
    with at(moment + HOUR):
        visit(browser)
        renewed = key_of(browser)
        visit(carrying(old) if with_old_key else browser, "/logout/")

        assert visit(carrying(old)) == ""
        assert visit(carrying(renewed)) == ""


def test_an_end_ends_it_under_both_keys(engine: Any, visit: Any, user: Any) -> None:
    """There is one session to be listed, and nothing of it is left."""
    browser, moment = Client(), now()
    with at(moment):
        visit(browser, "/login/ada/")
        old = key_of(browser)
    with at(moment + HOUR):
        visit(browser)
        (found,) = Inventory().list(user=user).sessions
        assert Inventory().end(found.id)

        assert visit(carrying(old)) == ""
        assert visit(browser) == ""


def test_anonymous_sessions_keep_their_key(visit: Any) -> None:
    """Their login brings another one."""
    browser, moment = Client(), now()
    with at(moment):
        visit(browser, "/write/cart/full/")
        old = key_of(browser)
    with at(moment + 2 * HOUR):
        assert "full" in visit(browser, "/read/")
        assert key_of(browser) == old


def test_what_the_session_was_stays(engine: Any, user: Any) -> None:
    """A renewal is no login: the absolute end stays where it was."""
    moment = now()
    with at(moment):
        session = engine.SessionStore()
        session.update(ADA)
        session.save()
    before = Inventory().get(session.session_id)
    with at(moment + HOUR):
        renewed = engine.SessionStore(session.session_key)
        renewed["x"] = 1
        renewed.save()
    after = Inventory().get(renewed.session_id)
    assert before is not None
    assert after is not None
    assert after.id != before.id
    assert (after.created, after.user_id) == (before.created, before.user_id)


def test_a_new_secret_key_in_the_grace(engine: Any) -> None:
    """The way from the old key to the new one is made with the secret of that time."""
    moment = now()
    with at(moment), override_settings(SECRET_KEY="s" * 50):
        session = engine.SessionStore()
        session.update(ADA)
        session.save()
    with at(moment + HOUR):
        with override_settings(SECRET_KEY="s" * 50):
            renewed = engine.SessionStore(session.session_key)
            renewed["x"] = 1
            renewed.save()
        with override_settings(SECRET_KEY="t" * 50, SECRET_KEY_FALLBACKS=["s" * 50]):
            late = engine.SessionStore(session.session_key)
            assert late["x"] == 1
            assert late.session_key == renewed.session_key


def test_the_store_holds_no_way_to_the_new_key(engine: Any) -> None:
    """Who reads it learns neither key; who has the old one still needs the secret."""
    moment = now()
    with at(moment):
        session = engine.SessionStore()
        session.update(ADA)
        session.save()
    with at(moment + HOUR):
        renewed = engine.SessionStore(session.session_key)
        renewed["x"] = 1
        renewed.save()
        grave = engine.storage.read(session.session_id)
        assert grave.state is State.RENEWED
        assert renewed.session_key.encode() not in bytes(grave.payload)
        with override_settings(SECRET_KEY="another" * 8):
            assert dict(engine.SessionStore(session.session_key).items()) == {}


# Races --------------------------------------------------------------------------------------------


def _old(session: Any) -> None:
    """A view that reads, an hour after the login."""
    session.get("old")


@both_ways
@pytest.mark.parametrize("view_a", [_old, setting(a=1)], ids=["read", "save"])
@pytest.mark.parametrize("view_b", [_old, setting(b=2)], ids=["read", "save"])
def test_two_requests_with_an_old_key(engine: Any, awaited: bool, view_a: Any, view_b: Any) -> None:
    """A page asks for ten things at once: one key comes of it, and no change is lost."""
    moment = now()
    for race, a, b, where in at_each_stop(
        engine, awaited, view_a, view_b, {"old": 0, **ADA}, started=moment - HOUR
    ):
        assert a.saved, where
        assert b.saved, where
        data = race.data(race.key)
        data.pop("_session_renewed", None)
        expected = {"old": 0, **ADA}
        if view_a is not _old:
            expected["a"] = 1
        if view_b is not _old:
            expected["b"] = 2
        assert data == expected, where
        keys = {a.key, b.key} - {race.key}
        assert len(keys) == 1, where
        assert Inventory().end_all("1") == 1, where


@both_ways
@pytest.mark.parametrize("view", [_old, setting(a=1)], ids=["read", "save"])
def test_a_logout_during_a_renewal(engine: Any, awaited: bool, view: Any) -> None:
    """No key is left that leads to the session."""
    moment = now()
    for race, _, logout, where in at_each_stop(
        engine,
        awaited,
        view,
        lambda session: (session.get("old"), log_out(session)),
        {"old": 0, **ADA},
        started=moment - HOUR,
    ):
        assert logout.saved, where
        assert race.data(race.key).keys() <= {"a"}, where
        assert Inventory().end_all("1") == 0, where


@both_ways
@pytest.mark.parametrize("view", [_old, setting(a=1)], ids=["read", "save"])
def test_a_renewal_during_a_logout(engine: Any, awaited: bool, view: Any) -> None:
    moment = now()
    for race, logout, _, where in at_each_stop(
        engine,
        awaited,
        lambda session: (session.get("old"), log_out(session)),
        view,
        {"old": 0, **ADA},
        started=moment - HOUR,
    ):
        assert logout.saved, where
        assert race.data(race.key).keys() <= {"a"}, where
        assert Inventory().end_all("1") == 0, where


def test_many_requests_with_an_old_key(engine: Any) -> None:
    """By force, not at chosen moments."""
    moment = now()
    with at(moment - HOUR):
        first = engine.SessionStore()
        first.update(ADA)
        first.save()

    def save(number: int) -> str:
        session = Twin(engine.SessionStore(first.session_key), bool(number % 2))
        session.set(f"x{number}", number)
        session.save()
        return str(session.target.session_key)

    keys = in_threads([lambda number=number: save(number) for number in range(8)])
    assert len(set(keys)) == 1
    data = engine.SessionStore(keys[0]).load()
    assert {f"x{number}" for number in range(8)} <= data.keys()
    assert Inventory().count(user="1") == 1
