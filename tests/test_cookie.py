"""What the browser keeps of a session: encrypted, bound, bounded in time, and endable."""

import base64
import os
import secrets
import string
import traceback
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from http.cookies import SimpleCookie
from importlib import import_module
from typing import Any

import pytest
from asgiref.sync import async_to_sync
from django.contrib.sessions.backends.base import CreateError
from django.contrib.sessions.backends.signed_cookies import SessionStore as SignedCookies
from django.db import transaction
from django.http import HttpResponse
from django.test import AsyncClient, Client, RequestFactory, override_settings

from django_sessionstores import conf
from django_sessionstores.backends import cookie as cookie_backend
from django_sessionstores.conf import codec
from django_sessionstores.conf import settings as conf_settings
from django_sessionstores.core import clock
from django_sessionstores.core.clock import now
from django_sessionstores.core.lifetime import CLOCK_SKEW
from django_sessionstores.core.records import draw_key, is_well_formed, session_id
from django_sessionstores.exceptions import (
    PayloadTooLarge,
    SessionConflict,
    SessionEnded,
    StorageUnavailable,
)
from django_sessionstores.inventory import Inventory
from django_sessionstores.middleware import SessionMiddleware
from django_sessionstores.models import StoredSession
from django_sessionstores.payloads.cookie_chunks import join, split
from django_sessionstores.sessions import SessionStore
from django_sessionstores.sessions.state import RequestPolicy
from django_sessionstores.storages.registered import journal
from django_sessionstores.testing import (
    DAY,
    HOUR,
    at,
    in_threads,
    observed,
    stores_of,
    suspicious_messages,
)
from tests.dumps import dump
from tests.urls import Visitor

COOKIE = "sessionid"
WORDS = {"color": "ultramarine", "owner": "Rumpelstiltskin"}
REGISTERED = ("cookie:sqlite", "cookie:django-redis", "cookie:redis-cache+postgresql")

pytestmark = pytest.mark.engines("cookie")


@pytest.fixture(autouse=True)
def _middleware(engine: Any) -> Iterator[None]:
    with override_settings(
        MIDDLEWARE=[
            "django_sessionstores.middleware.SessionMiddleware",
            "django.contrib.auth.middleware.AuthenticationMiddleware",
        ]
    ):
        yield


@pytest.fixture(params=[False, True], ids=["sync", "async"])
def browser(request: pytest.FixtureRequest, engine: Any) -> "Browser":
    return Browser(awaited=request.param)


class Browser(Visitor):
    """Sends the cookies it is given, and keeps what it is answered."""

    def __init__(self, awaited: bool = False) -> None:
        self.client = AsyncClient() if awaited else Client()
        self._prefix = "/async" if awaited else ""
        self._awaited = awaited

    def get(self, path: str) -> Any:
        if not self._awaited:
            return self.client.get(path)
        return _run(self.client.get(self._prefix + path))

    def cookies(self) -> dict[str, str]:
        return {name: morsel.value for name, morsel in self.client.cookies.items() if morsel.value}

    def send(self, cookies: dict[str, str]) -> None:
        """From now on, send these cookies and no others."""
        self.client.cookies.clear()
        self.client.cookies.load(cookies)


def _run(coroutine: Any) -> Any:
    async def wait() -> Any:
        return await coroutine

    return async_to_sync(wait)()


def stored(engine: Any, **data: Any) -> str:
    session = engine.SessionStore()
    session.update(data or WORDS)
    session.save()
    return str(session.session_key)


def save(engine: Any, key: str, **changes: Any) -> str:
    """Return the key after a request with this one that changes something."""
    session = engine.SessionStore(key)
    session.update(changes)
    session.save()
    return str(session.session_key)


def load(engine: Any, key: str) -> dict[str, Any]:
    return dict(engine.SessionStore(key).items())


def assert_refused(engine: Any, cookies: dict[str, str], reason: str = "") -> None:
    """Assert that the session is empty, the cookie stays, and one log line has the reason."""
    browser = Browser()
    browser.send(cookies)
    with suspicious_messages() as messages:
        response = browser.get("/read/")
    assert (response.status_code, response.json()) == (200, {})
    assert len(messages) == 1, messages
    assert reason in messages[0]
    assert not any(value in messages[0] for value in cookies.values())


# Altered, moved, foreign ------------------------------------------------------------------------


@pytest.mark.engines("cookie:unregistered", "cookie:sqlite")
def test_every_byte_flipped(engine: Any) -> None:
    """Nothing in a token is unauthenticated:

    its times and its user are as encrypted as the data.
    """
    key = stored(engine)
    token = base64.urlsafe_b64decode(key[1:] + "=" * (-len(key[1:]) % 4))
    for place in range(len(token)):
        for bit in (0x01, 0x80):
            altered = bytearray(token)
            altered[place] ^= bit
            text = "." + base64.urlsafe_b64encode(altered).rstrip(b"=").decode()
            with suspicious_messages() as messages:
                assert load(engine, text) == {}, place
            assert len(messages) == 1, place


@pytest.mark.engines("cookie:unregistered")
def test_every_character_replaced(engine: Any) -> None:
    """The spelling counts, too: no second cookie value opens the same session."""
    key = stored(engine)
    for place in range(len(key)):
        for character in ("A", "!", "é", "=", "+"):
            altered = key[:place] + character + key[place + 1 :]
            if altered != key:
                with suspicious_messages() as messages:
                    assert load(engine, altered) == {}, (place, character)
                assert len(messages) == 1, (place, character)


def test_cut_short_and_lengthened(engine: Any) -> None:
    """A browser or a proxy may cut a cookie."""
    key = stored(engine)
    for altered in (key[:-1], key[:100], key + "A", key + "AAAA", key + "=" * (-len(key) % 4 or 4)):
        assert_refused(engine, {COOKIE: altered})


def test_under_another_cookies_name(engine: Any) -> None:
    """A token of one site must not open on another of the same project's keys."""
    with override_settings(SESSION_COOKIE_NAME="other"):
        key = stored(engine)
    assert_refused(engine, {COOKIE: key}, "altered or belongs to another session")


def test_of_another_project(engine: Any) -> None:
    """The other project has other keys."""
    with override_settings(SECRET_KEY="of another project, and long enough for one"):
        key = stored(engine)
    assert_refused(engine, {COOKIE: key}, "unknown key")


def test_a_payload_of_another_engine(engine: Any) -> None:
    """A payload that was encrypted for a store is not accepted as a token, although the keys are
    the same."""
    record_id = session_id(draw_key())
    payload = codec().encrypt(record_id, codec().serialize(WORDS))
    token = base64.urlsafe_b64encode(bytes.fromhex(record_id) + payload).rstrip(b"=").decode()
    assert_refused(engine, {COOKIE: f".{token}"}, "altered or belongs to another session")


def test_expired(engine: Any, caplog: pytest.LogCaptureFixture) -> None:
    """The server decides, whatever the browser says. An expired cookie is reported, but not as
    suspicious."""
    key = stored(engine)
    browser = Browser()
    browser.send({COOKIE: key})
    with at(now() + 15 * DAY), caplog.at_level("INFO"):
        response = browser.get("/read/")
    assert (response.status_code, response.json()) == (200, {})
    (message,) = [each.getMessage() for each in caplog.records if "expired" in each.getMessage()]
    assert key not in message


def test_from_the_future(engine: Any) -> None:
    """Clocks of servers differ a little. What was issued later than that was not issued here."""
    with at(now() + CLOCK_SKEW - 10_000):
        early = stored(engine)
    assert load(engine, early) == WORDS
    with at(now() + CLOCK_SKEW + 10_000):
        key = stored(engine)
    assert_refused(engine, {COOKIE: key}, "issued in the future")


@pytest.mark.parametrize("beyond", [0, 1])
def test_from_as_far_in_the_future_as_clocks_may_differ(engine: Any, beyond: int) -> None:
    moment = now()
    with at(moment + CLOCK_SKEW + beyond):
        key = stored(engine)
    with clock.freeze(moment):
        assert load(engine, key) == ({} if beyond else WORDS)


def test_an_unreadable_cookie_is_not_overwritten_by_a_read(engine: Any) -> None:
    """A worker with a wrong SECRET_KEY must not log out whoever passes by; a save goes on anew."""
    key = stored(engine)
    with override_settings(SECRET_KEY="of another project, and long enough for one"):
        browser = Browser()
        browser.send({COOKIE: key})
        assert COOKIE not in browser.get("/read/").cookies
        assert browser.get("/write/x/1/").status_code == 200
        assert browser.data() == {"x": "1"}
    assert load(engine, key) == WORDS


# In several cookies -----------------------------------------------------------------------------


@pytest.fixture
def parts(engine: Any) -> dict[str, str]:
    cookies = split(COOKIE, stored(engine, blob=os.urandom(7000)))
    assert len(cookies) == 3
    return cookies


def test_parts_make_one_session(engine: Any, parts: dict[str, str], browser: Browser) -> None:
    """The others below fail for what they did to the parts, not because nothing joins."""
    browser.send(parts)
    with suspicious_messages() as messages:
        assert browser.get("/nothing/").status_code == 200
        assert browser.get("/nest/x/1/").status_code == 200
        assert browser.get("/who/").status_code == 200
    assert messages == []
    assert set(browser.cookies()) == {COOKIE, f"{COOKIE}-1", f"{COOKIE}-2"}


def test_parts_in_another_order(engine: Any, parts: dict[str, str]) -> None:
    """Each part is valid, but the token is not."""
    parts[f"{COOKIE}-1"], parts[f"{COOKIE}-2"] = parts[f"{COOKIE}-2"], parts[f"{COOKIE}-1"]
    assert_refused(engine, parts)


@pytest.mark.parametrize("missing", ["-1", "-2"])
def test_a_part_missing(engine: Any, parts: dict[str, str], missing: str) -> None:
    """A browser that is full drops single cookies."""
    del parts[COOKIE + missing]
    assert_refused(engine, parts)


def test_a_part_of_another_session(engine: Any, parts: dict[str, str]) -> None:
    """A mixture of two sessions, or of two saves of one, is neither."""
    parts[f"{COOKIE}-1"] = split(COOKIE, stored(engine, blob=os.urandom(7000)))[f"{COOKIE}-1"]
    assert_refused(engine, parts, "altered")


# Size ------------------------------------------------------------------------------------------


def test_above_the_cap_saving_names_size_limit_and_keys(engine: Any, browser: Browser) -> None:
    """The error is raised before the response; the old cookie and the old session stay."""
    key = stored(engine, color="blue", small=1)
    session = engine.SessionStore(key)
    session["culprit"] = os.urandom(16_000)
    with pytest.raises(PayloadTooLarge) as caught:
        session.save()
    message = str(caught.value)
    assert "'culprit' with 16" in message
    assert "COOKIE_MAX_PARTS" in message
    assert any(word.isdigit() and int(word) > 16_000 for word in message.split())
    assert session.session_key == key
    assert load(engine, key) == {"color": "blue", "small": 1}


def test_with_djangos_middleware_one_cookie_is_the_limit(engine: Any) -> None:
    """It sends any length, and a browser drops what is longer than 4096 without a word."""
    with override_settings(MIDDLEWARE=["django.contrib.sessions.middleware.SessionMiddleware"]):
        session = engine.SessionStore()
        session["blob"] = os.urandom(2900)
        session.save()
        assert len(COOKIE) + len(session.session_key) <= 4096
        session["blob"] = os.urandom(3100)
        with pytest.raises(PayloadTooLarge, match=r"django_sessionstores\.middleware"):
            session.save()


@pytest.mark.engines("cookie:unregistered")
def test_a_cookie_fills_its_4096_bytes(engine: Any) -> None:
    """Browsers count the name and the value. No byte is too many, and nothing is refused too
    early."""
    sizes = []
    with override_settings(MIDDLEWARE=["django.contrib.sessions.middleware.SessionMiddleware"]):
        for size in range(2950, 3060):
            session = engine.SessionStore()
            session["blob"] = os.urandom(size)
            try:
                session.save()
            except PayloadTooLarge:
                break
            sizes.append(len(COOKIE) + len(session.session_key))
    assert 4092 <= max(sizes) <= 4096


@pytest.mark.engines("cookie:unregistered", "cookie:sqlite")
def test_a_login_takes_no_more_than_djangos_signed_cookie(engine: Any, user: Any) -> None:
    """The cookie is encrypted and still not longer."""
    browser = Browser()
    browser.get("/login/ada/")
    session = engine.SessionStore(browser.cookies()[COOKIE])
    signed = SignedCookies()
    signed.update(dict(session.items()))
    signed.save()
    assert len(session.session_key) <= len(signed.session_key) + 40


# Ended ------------------------------------------------------------------------------------------


@pytest.fixture
def captured(browser: Browser, user: Any) -> dict[str, str]:
    """Return the cookies of Ada's session, copied while she is logged in."""
    browser.get("/login/ada/")
    browser.get("/write/color/blue/")
    cookies = browser.cookies()
    browser.send(cookies)
    assert browser.user() == "ada"
    return cookies


def assert_replay_fails(browser: Browser, cookies: dict[str, str]) -> None:
    browser.send(cookies)
    assert browser.user() == ""
    browser.send(cookies)
    assert browser.data() == {}


@pytest.mark.engines(*REGISTERED)
def test_replay_after_logout(browser: Browser, captured: dict[str, str]) -> None:
    """The registry refuses the copied cookie. Django's cookie engine accepts it."""
    assert browser.get("/logout/").status_code == 200
    assert_replay_fails(browser, captured)


@pytest.mark.engines(*REGISTERED)
def test_replay_after_logout_in_a_later_session(browser: Browser, captured: dict[str, str]) -> None:
    """A logout ends the session, not only the newest of its cookies."""
    assert browser.get("/write/color/red/").status_code == 200
    newest = browser.cookies()
    assert newest != captured
    assert browser.get("/logout/").status_code == 200
    assert_replay_fails(browser, captured)
    assert_replay_fails(browser, newest)


@pytest.mark.engines(*REGISTERED)
def test_replay_of_the_cookie_from_before_a_login(engine: Any, browser: Browser, user: Any) -> None:
    """This prevents session fixation: the cookie that an attacker planted is of no use after the
    login."""
    browser.get("/write/cart/1/")
    anonymous = browser.cookies()
    browser.get("/login/ada/")
    assert browser.data()["cart"] == "1"
    browser.send(anonymous)
    assert browser.user() == ""
    assert browser.data() == {}


def test_replay_after_a_password_change(
    browser: Browser, captured: dict[str, str], user: Any
) -> None:
    """Django compares the hash in the session; without a registry too."""
    user.set_password("another")
    user.save()
    browser.send(captured)
    assert browser.user() == ""


def test_replay_after_the_account_was_deactivated(
    browser: Browser, captured: dict[str, str], user: Any
) -> None:
    """Django's ``ModelBackend`` refuses the user, also without a registry."""
    user.is_active = False
    user.save()
    browser.send(captured)
    assert browser.user() == ""


@pytest.mark.engines("cookie:sqlite")
def test_replay_after_all_of_a_user_were_ended(
    engine: Any, browser: Browser, captured: dict[str, str], user: Any
) -> None:
    """The registry finds the sessions of a user, and those of other users stay."""
    other = Browser()
    other.get("/write/color/green/")
    of_user = StoredSession.objects.using(engine.database).filter(user_id=str(user.pk))
    ids = [each.id.hex() for each in of_user]
    assert ids == [engine.storage.identify(captured[COOKIE])]
    for each in ids:
        engine.storage.delete(each)
    assert_replay_fails(browser, captured)
    assert other.data() == {"color": "green"}


@pytest.mark.engines("cookie:unregistered")
def test_without_a_registry_a_copy_outlives_the_logout(
    browser: Browser, captured: dict[str, str]
) -> None:
    """The check and the documentation say so. A registry changes it."""
    browser.get("/logout/")
    browser.send(captured)
    assert browser.user() == "ada"


# Time ------------------------------------------------------------------------------------------


def test_a_lifetime_that_was_set_is_honoured_exactly(engine: Any) -> None:
    """Django's cookie engine knows the global age only."""
    session = engine.SessionStore()
    session.update(WORDS)
    session.set_expiry(300)
    moment = now()
    with at(moment):
        session.save()
    for age, expected in ((299_999, WORDS | {"_session_expiry": 300}), (300_000, {})):
        with at(moment + age):
            assert load(engine, session.session_key) == expected


@pytest.mark.engines(*REGISTERED)
def test_a_shorter_lifetime_holds_for_older_cookies(engine: Any) -> None:
    """Otherwise a kept cookie would be valid for as long as it was when it was made."""
    key = stored(engine)
    session = engine.SessionStore(key)
    session.set_expiry(60)
    session.save()
    with at(now() + 2 * 60_000):
        assert load(engine, key) == {}


def test_an_expired_cookie_is_refused_although_its_session_goes_on(engine: Any) -> None:
    """A copy of a cookie is of no use after the time that is in it, whatever came later."""
    session = engine.SessionStore()
    session.set_expiry(100)
    moment = now()
    with at(moment):
        session.save()
    key = session.session_key
    with at(moment + 50_000):
        session.set_expiry(1000)
        session.save()
    for age, is_read in ((99_999, True), (100_000, False)):
        with at(moment + age):
            assert bool(load(engine, key)) is is_read
            assert load(engine, session.session_key) == {"_session_expiry": 1000}


def test_an_old_secret_reads_and_the_answer_reissues(engine: Any, browser: Browser) -> None:
    """Rotation without a logout, and the old secret can be dropped once all have called."""
    old = "the secret of last year, which is long enough"
    with override_settings(SECRET_KEY=old):
        browser.send({COOKIE: stored(engine)})
    with override_settings(SECRET_KEY_FALLBACKS=[old]):
        response = browser.get("/read/")
        assert response.json() == WORDS
        assert COOKIE in response.cookies
        # Once is enough.
        assert COOKIE not in browser.get("/read/").cookies
    assert browser.data() == WORDS


def test_reading_sets_no_cookie(engine: Any, browser: Browser) -> None:
    """Answers without Set-Cookie can be cached, and cannot overtake another's."""
    browser.send({COOKIE: stored(engine)})
    assert COOKIE not in browser.get("/read/").cookies


@pytest.mark.parametrize("route", ["nothing", "read", "write/x/1"])
def test_round_trips(engine: Any, browser: Browser, route: str) -> None:
    """One to the registry for a read, one more for a write; none to anywhere without one."""
    expected = {"nothing": [], "read": ["read"], "write/x/1": ["read", "update"]}[route]
    browser.send({COOKIE: stored(engine)})
    # Of what the registry itself is made of, only the outermost counts.
    registry = stores_of(engine.storage)[:1]
    with observed(*registry) as calls:
        browser.get(f"/{route}/")
    assert calls == (expected if engine.case.registry else [])


# Two answers at once ----------------------------------------------------------------------------


@pytest.mark.engines(*REGISTERED)
@pytest.mark.parametrize("last", ["first", "second"])
def test_whichever_cookie_the_browser_keeps(engine: Any, last: str) -> None:
    """Two requests save, two answers set the cookie, the browser keeps the one it gets last."""
    key = stored(engine, color="blue")
    first, second = engine.SessionStore(key), engine.SessionStore(key)
    first["a"] = 1
    second["b"] = 2
    del second["color"]
    first.save()
    second.save()
    kept = first if last == "first" else second
    assert load(engine, kept.session_key) == {"a": 1, "b": 2}


@pytest.mark.engines(*REGISTERED)
def test_an_answer_that_never_arrived(engine: Any, browser: Browser) -> None:
    """If the connection breaks, the saved change is there, and the next response brings the browser
    up to date."""
    browser.send({COOKIE: stored(engine, color="blue")})
    before = browser.cookies()
    browser.get("/write/color/red/")
    browser.send(before)
    response = browser.get("/read/")
    assert response.json() == {"color": "red"}
    assert COOKIE in response.cookies
    with at(now() + 2 * HOUR):  # The registry has forgotten, the browser has not.
        assert browser.data() == {"color": "red"}


@pytest.mark.engines(*REGISTERED)
def test_a_cookie_that_the_registry_does_not_know(engine: Any) -> None:
    """Its successors were saved so long ago that what they changed is forgotten. It is read as it
    is; it overwrites nothing while others save; and when it is all that is left, it goes on."""
    moment = now()
    key = stored(engine, color="blue")
    save(engine, key, color="red")
    with at(moment + HOUR):
        newest = save(engine, key, other=1)  # Who saves forgets what is old.
        late = engine.SessionStore(key)
        assert dict(late.items()) == {"color": "blue"}
        late["x"] = 1
        with pytest.raises(SessionConflict, match="MERGE_WINDOW"):
            late.save()
        late.cycle_key()
        with pytest.raises(SessionConflict):
            late.save()
        assert load(engine, newest) == {"color": "red", "other": 1}
    window = int(conf_settings.MERGE_WINDOW * 1000) + CLOCK_SKEW
    with at(moment + HOUR + window - 1), pytest.raises(SessionConflict):
        save(engine, key, x=1)
    with at(moment + HOUR + window):
        assert load(engine, save(engine, key, x=1)) == {"color": "blue", "x": 1}


@pytest.mark.engines("cookie:sqlite")
def test_a_registry_that_has_lost_its_journals(engine: Any) -> None:
    """Every session goes on if the registry was restored without its payloads, for example from a
    list."""
    key = stored(engine, color="blue")
    StoredSession.objects.update(payload=b"")
    newer = save(engine, key, x=1)
    assert load(engine, save(engine, newer, y=1)) == {"color": "blue", "x": 1, "y": 1}


@pytest.mark.engines(*REGISTERED)
def test_a_login_does_not_join_the_new_key_of_a_cookie_that_the_registry_does_not_know(
    engine: Any,
) -> None:
    """How the data of the two cookies differs is forgotten, so they cannot be merged."""
    moment = now()
    key = stored(engine, color="blue")
    newer = save(engine, key, color="red")
    with at(moment + HOUR):
        newest = save(engine, newer, other=1)  # From here on, the first cookie is unknown.
    with at(moment + 2 * HOUR):
        login, unknown = engine.SessionStore(newest), engine.SessionStore(key)
        assert login["color"] == "red"
        for session, name in ((unknown, "x"), (login, "_auth_user_id")):
            session.cycle_key()
            session[name] = "7"
            session.save()
        assert load(engine, unknown.session_key) == {"color": "blue", "x": "7"}
        assert load(engine, login.session_key) == {
            "color": "red",
            "other": 1,
            "_auth_user_id": "7",
        }


@pytest.mark.engines(*REGISTERED)
def test_more_changes_than_the_registry_remembers_are_refused(engine: Any) -> None:
    """A successful save stays. A save that would displace it fails."""
    key = stored(engine)
    saved = 0
    with pytest.raises(SessionConflict, match="32 kB"):  # noqa: PT012
        for number in range(60):
            save(engine, key, **{f"k{number}": "x" * 1000})
            saved += 1
    assert saved > 20
    assert len(load(engine, key)) == len(WORDS) + saved


@pytest.mark.engines(*REGISTERED)
def test_more_saves_than_the_registry_remembers(
    engine: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a request with a cookie that is older, no write is lost and none overwrites: it is
    refused, until nobody else saves any more."""
    monkeypatch.setattr(journal, "MOST_SAVES", 20)
    first = stored(engine, color="blue")
    keys = [save(engine, first, color="red")]
    for number in range(40):
        keys.append(save(engine, keys[-1], **{f"k{number % 5}": number}))
    held = {"color": "red", **{f"k{number % 5}": number for number in range(40)}}
    assert load(engine, save(engine, keys[-15], x=1)) == held | {"x": 1}
    for key in (first, keys[5]):
        with pytest.raises(SessionConflict, match="MERGE_WINDOW"):
            save(engine, key, x=2)
    assert load(engine, keys[-1]) == held | {"x": 1}
    record = engine.storage.read(keys[-1])
    assert len(journal.Journal.unpack(record.handle.entry.payload).saves) == 20


@pytest.mark.engines(*REGISTERED)
def test_a_large_value_that_is_saved_often(engine: Any) -> None:
    """The registry has to remember only its newest state."""
    key = stored(engine)
    for number in range(12):
        save(engine, key, blob=os.urandom(6000), number=number)
    assert load(engine, key)["number"] == 11


@pytest.mark.engines(*REGISTERED)
def test_many_requests_with_the_same_old_cookie(engine: Any) -> None:
    """A page that sends fourteen reports at once: whichever answer comes last, all are there."""
    key = stored(engine)
    newest = [save(engine, key, **{f"k{number}": "x" * 1000}) for number in range(14)]
    for each in (key, newest[0], newest[-1]):
        assert len(load(engine, each)) == 16


@pytest.mark.engines(*REGISTERED)
@pytest.mark.parametrize("ahead", [90_000, -90_000])
def test_servers_whose_clocks_differ(engine: Any, ahead: int) -> None:
    """Within the documented difference of clocks, no server forgets a recent save."""
    key = stored(engine)
    save(engine, key, a=1)
    with at(now() + ahead):
        save(engine, key, b=1)
    newest = save(engine, key, c=1)
    assert load(engine, newest) == WORDS | {"a": 1, "b": 1, "c": 1}


@pytest.mark.engines("cookie:sqlite")
def test_a_save_that_was_rolled_back(engine: Any) -> None:
    """Its cookie reached the browser, its version was given to another save since. The two must
    not be taken for the same."""
    key = stored(engine)
    undone = engine.SessionStore(key)
    undone["x"] = 1
    with transaction.atomic():
        undone.save()
        token = undone.session_key
        transaction.set_rollback(True)
    other = save(engine, key, b=1)
    forked = engine.SessionStore(token)
    forked["c"] = 1
    with pytest.raises(SessionConflict):
        forked.save()
    assert load(engine, other)["b"] == 1


@pytest.mark.engines("cookie:sqlite", "cookie:redis-cache+postgresql")
def test_a_session_whose_save_was_rolled_back_can_be_written_again(engine: Any) -> None:
    """The object knows what it knew before, and what another request has saved is kept."""
    key = stored(engine)
    undone = engine.SessionStore(key)
    undone["x"] = 1
    with transaction.atomic(engine.database):
        undone.save()
        transaction.set_rollback(True, engine.database)
    assert undone.session_key == key
    save(engine, key, b=1)
    undone["y"] = 2
    undone.save()
    assert load(engine, undone.session_key) == WORDS | {"x": 1, "b": 1, "y": 2}


@pytest.mark.engines(*REGISTERED)
def test_an_entry_that_lags_behind_the_cookie(engine: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A copy in the cache of one process, for a while. The save asks the authority."""
    key = stored(engine)
    registry = engine.storage.registry
    old = registry.read(engine.storage.identify(key))
    key = save(engine, key, a=1)
    monkeypatch.setattr(registry, "read", lambda session_id: old)
    late = engine.SessionStore(key)
    assert late["a"] == 1
    monkeypatch.undo()
    other = save(engine, key, b=1)
    late["c"] = 1
    late.save()
    assert load(engine, late.session_key) == WORDS | {"a": 1, "b": 1, "c": 1}
    assert load(engine, other) == WORDS | {"a": 1, "b": 1, "c": 1}


def test_a_key_that_was_made_by_a_save_is_never_created_again(engine: Any) -> None:
    """It would bring back a session that has ended, with all its data."""
    key = stored(engine)
    loaded = engine.SessionStore(key)
    assert dict(loaded.items()) == WORDS
    engine.SessionStore(key).flush()
    for session in (engine.SessionStore(key), loaded):
        with pytest.raises(CreateError):
            session.save(must_create=True)
    if engine.case.registry:
        assert load(engine, key) == {}


@pytest.mark.engines(*REGISTERED)
def test_a_serializer_that_makes_text_of_keys(engine: Any) -> None:
    """The registry notes a change under the key that will be read. Otherwise it would note a
    deletion."""
    with override_settings(SESSION_SERIALIZER="django.contrib.sessions.serializers.JSONSerializer"):
        session = engine.SessionStore()
        session["start"] = 0
        session.save()
        key = session.session_key
        session[1] = "one"
        session.save()
        session["x"] = 1
        session.save()
        assert load(engine, key) == {"start": 0, "1": "one", "x": 1}


@pytest.mark.parametrize(
    "middleware", ["django.contrib.sessions.middleware", "django_sessionstores.middleware"]
)
def test_an_unreadable_cookie_that_rolls_stays(engine: Any, settings: Any, middleware: str) -> None:
    """This holds with ``SESSION_SAVE_EVERY_REQUEST``, too: a worker with a wrong key must not log
    out every user, and junk must not fill the registry."""
    with override_settings(SESSION_SAVE_EVERY_REQUEST=True):
        key = stored(engine)
        settings.MIDDLEWARE = [f"{middleware}.SessionMiddleware"]
        browser = Browser()
        browser.send({COOKIE: key})
        with (
            override_settings(SECRET_KEY="of another project, and long enough"),
            observed(*stores_of(engine.storage)[:1]) as calls,
        ):
            response = browser.get("/read/")
        assert response.json() == {}
        assert response.cookies.get(COOKIE) is None or response.cookies[COOKIE].value == key
        assert "create" not in calls


@pytest.mark.engines(*REGISTERED)
def test_many_saves_at_once_all_arrive(engine: Any) -> None:
    """Requests run in parallel like those of a browser: each sends the cookie that was set last."""
    jar = [stored(engine, start="kept")]

    def request(name: str) -> Callable[[], None]:
        def save() -> None:
            for number in range(20):
                session = engine.SessionStore(jar[0])
                session[f"{name}-{number}"] = number
                session.save()
                jar[0] = session.session_key

        return save

    in_threads([request(name) for name in "abcd"])
    assert len(load(engine, jar[0])) == 81


@pytest.mark.engines(*REGISTERED)
def test_a_save_after_the_end_is_refused(engine: Any) -> None:
    """The save is refused whatever cookie the request began with."""
    key = stored(engine)
    late = engine.SessionStore(key)
    late["x"] = 1
    engine.SessionStore(key).flush()
    with pytest.raises(SessionEnded):
        late.save()


@pytest.mark.engines("cookie:sqlite")
@pytest.mark.parametrize("is_asked_for", [True, False])
@pytest.mark.parametrize("policy", [None, RequestPolicy()], ids=["Django's", "the package's"])
def test_a_save_that_changes_nothing_finds_out_whether_the_session_lives(
    engine: Any, policy: RequestPolicy | None, is_asked_for: bool
) -> None:
    """Django's middleware sends the cookie after it, over the one of a login. The package's does
    not, and the request need not fail."""
    sessions = engine.SessionStore(stored(engine)), engine.SessionStore(stored(engine))
    for session in sessions:
        session.policy = policy
        session.load()
        session.modified = is_asked_for
    live, ended = sessions
    Inventory().end(ended.session_id)
    live.save()
    assert live.is_proved is (is_asked_for or policy is None)
    with nullcontext() if policy else pytest.raises(SessionEnded):
        ended.save()
    assert not ended.is_proved


# At rest ----------------------------------------------------------------------------------------


@pytest.mark.engines(*REGISTERED)
def test_the_registry_holds_neither_keys_nor_words(engine: Any) -> None:
    """The changes that the registry remembers do not have them, either."""
    key = stored(engine)
    session = engine.SessionStore(key)
    session["color"] = "vermilion"
    session.save()
    everything = dump(engine)
    session_id = engine.storage.identify(key)
    # It is a dump. Keys of Redis have the bytes of the id without the first one.
    assert session_id.encode() in everything or bytes.fromhex(session_id)[1:] in everything
    for word in (key, session.session_key, "vermilion", *WORDS, *WORDS.values()):
        assert word.encode() not in everything


@pytest.mark.engines("cookie:sqlite")
def test_an_entry_has_no_payload_but_recent_changes(engine: Any) -> None:
    """Fifty million of them have to stay small."""
    session = engine.SessionStore()
    session.update({"blob": "x" * 3000})
    session.save()
    (entry,) = StoredSession.objects.using(engine.database).all()
    assert len(entry.payload) < 40
    for number in range(40):
        with at(now() + number * 30_000):
            session["number"] = number
            session.save()
    (entry,) = StoredSession.objects.using(engine.database).all()
    assert 0 < len(entry.payload) < 600


def test_errors_do_not_show_the_key(engine: Any) -> None:
    """Reports show the local variables of every frame."""
    key = stored(engine)
    session = engine.SessionStore(key)
    with override_settings(SESSION_COOKIE_NAME="other"):
        try:
            engine.storage.read(engine.storage.locate(key))
        except Exception as error:  # noqa: BLE001
            shown = traceback.TracebackException.from_exception(error, capture_locals=True)
            ours = [each for each in shown.stack if "django_sessionstores" in each.filename]
    assert ours
    assert not any(key in str(frame.locals) for frame in ours)
    assert key not in repr(session)


def test_the_session_id_is_stable(engine: Any) -> None:
    """Other tables can refer to the id: saves do not change it, and it is known without loading."""
    session: SessionStore = engine.SessionStore(stored(engine))
    before = session.session_id
    assert before is not None
    session["x"] = 1
    session.save()
    assert session.session_id == before == engine.SessionStore(session.session_key).session_id
    session.cycle_key()
    session.save()
    assert session.session_id != before


def test_a_forged_id_is_not_believed(engine: Any) -> None:
    """The id stands in the clear at the front of a token, but only a token that opens has one."""
    token = base64.urlsafe_b64encode(bytes.fromhex("ab" * 20) + b"x" * 60).decode()
    assert engine.SessionStore(token).session_id is None
    assert engine.SessionStore(f".{token}").session_id is None


@pytest.mark.parametrize("hours", [0, 3])
def test_a_reading_client_makes_no_new_cookie(engine: Any, hours: int) -> None:
    """The client's address is not in a token: that must not look like one that has changed."""
    browser = Browser()
    browser.get("/write/color/blue/")
    with at(now() + hours * HOUR):
        assert COOKIE not in browser.get("/read/").cookies


@pytest.mark.parametrize("view", ["nest", "write"])
def test_every_change_reaches_the_browser(engine: Any, browser: Browser, view: str) -> None:
    """A change inside of a value too, which sets no flag: the cookie is all there is of it."""
    browser.get(f"/{view}/x/1/")
    before = browser.data()
    browser.get(f"/{view}/y/2/")
    after = browser.data()
    assert before != after
    assert "2" in str(after)


def test_a_save_in_the_view_reaches_the_browser(engine: Any) -> None:
    """The response carries the session."""
    key = stored(engine, cart={})

    def view(request: Any) -> HttpResponse:
        request.session["cart"]["x"] = 1
        request.session.save()
        return HttpResponse()

    request = RequestFactory().get("/")
    request.COOKIES[COOKIE] = key
    response = SessionMiddleware(view)(request)
    assert load(engine, response.cookies[COOKIE].value) == {"cart": {"x": 1}}


@pytest.mark.parametrize(("age", "sent"), [(1000, False), (HOUR, True)])
def test_rolling(engine: Any, browser: Browser, age: int, sent: bool) -> None:
    """Another expiry is another cookie; it is sent when the old one lags behind, and not before."""
    with override_settings(SESSION_SAVE_EVERY_REQUEST=True):
        browser.send({COOKIE: stored(engine)})
        moment = now()
        with at(moment + age):
            assert (COOKIE in browser.get("/nothing/").cookies) is sent
        with at(moment + 14 * DAY + age // 2):
            assert (browser.data() == WORDS) is sent


@pytest.mark.engines(*REGISTERED)
def test_an_older_cookie_knows_the_user_of_the_newest(engine: Any) -> None:
    """The user of the newest save counts, not the user when the cookie was made."""
    key = stored(engine)
    session = engine.SessionStore(key)
    session["_auth_user_id"] = "7"
    session.save()
    record = engine.storage.read(engine.storage.locate(key))
    assert record.user_id == "7"


@pytest.mark.engines(*REGISTERED)
def test_the_registry_knows_the_client(engine: Any) -> None:
    """Lists of sessions show the client. A new address is written if the last write is long ago."""
    browser = Browser()
    browser.client.defaults["REMOTE_ADDR"] = "192.0.2.1"
    browser.get("/write/color/blue/")
    browser.client.defaults["REMOTE_ADDR"] = "192.0.2.2"
    browser.get("/read/")
    assert _ip(engine, browser) == "192.0.2.1"
    with at(now() + HOUR):
        assert COOKIE in browser.get("/read/").cookies
        assert _ip(engine, browser) == "192.0.2.2"


def _ip(engine: Any, browser: Browser) -> str:
    record = engine.storage.read(engine.storage.locate(browser.cookies()[COOKIE]))
    return str(record.ip)


@pytest.mark.engines(*REGISTERED)
@pytest.mark.parametrize("error", [StorageUnavailable, SessionConflict, SessionEnded])
def test_bringing_a_cookie_up_to_date_fails_no_reader(
    engine: Any, browser: Browser, error: type[Exception]
) -> None:
    """A full or read-only registry, a crowd, a logout meanwhile: the page was read, so it is
    answered. Nothing that the view asked for was lost."""
    key = stored(engine)
    session = engine.SessionStore(key)
    session["color"] = "vermilion"
    session.save()
    browser.send({COOKIE: key})

    def fail(name: str) -> None:
        if name == "update":
            raise error("by the test")

    with observed(*stores_of(engine.storage)[:1], before=fail) as calls:
        response = browser.get("/read/")
        assert calls == ["read", "update"]
    assert response.json()["color"] == "vermilion"
    assert COOKIE not in response.cookies
    assert COOKIE in browser.get("/read/").cookies


# Tokens and plain keys ---------------------------------------------------------------------------


def _logins(count: int, **data: Any) -> Iterator[str]:
    """Keys of short sessions, whose tokens are hardly longer than a plain key may be."""
    for number in range(count):
        session = cookie_backend.SessionStore()
        session.update({"_auth_user_id": str(number), **data})
        session.save()
        yield str(session.session_key)


@pytest.mark.engines("cookie:unregistered")
def test_no_token_looks_like_the_key_of_another_engine(engine: Any) -> None:
    """Of tokens in base64 alone, one in thirty has letters and digits only. Its session would be
    lost in a move to another engine, which would look for a plain key."""
    lengths = set()
    for token in _logins(2000):
        lengths.add(len(token))
        assert not is_well_formed(token)
        assert split(COOKIE, token) == {COOKIE: token}
        assert join(COOKIE, {COOKIE: token}) == token
        # A cookie carries it without quotes.
        cookie = SimpleCookie({COOKIE: token})
        assert cookie[COOKIE].OutputString() == f"{COOKIE}={token}"
    assert min(lengths) < 128  # So that the length alone would not tell.


@pytest.mark.engines("cookie:unregistered")
def test_no_plain_key_looks_like_a_token(engine: Any) -> None:
    """It is looked for in the previous backends, and not reported as damaged."""
    for length in [*range(8, 129)] * 5:
        key = "".join(secrets.choice(string.ascii_letters + string.digits) for _ in range(length))
        with suspicious_messages() as messages:
            assert engine.storage.read(key) is None
        assert messages == []


MOVES = [
    ("cookie", "db"),
    ("cookie", "cache"),
    ("cookie", "file"),
    ("cookie", "memory"),
    ("db", "cookie"),
    ("cache", "cookie"),
    ("file", "cookie"),
]


@pytest.mark.engines("cookie:sqlite")
@pytest.mark.parametrize(("old", "new"), MOVES, ids=lambda name: name)
def test_every_session_survives_a_move(engine: Any, old: str, new: str) -> None:
    """This includes sessions whose tokens have only characters of plain keys."""
    paths = {name: f"django_sessionstores.backends.{name}" for name in (old, new)}
    engine.file_path.mkdir(mode=0o700, exist_ok=True)
    stores = {name: import_module(path).SessionStore for name, path in paths.items()}
    for number in range(60):
        session = stores[old]()
        session["_auth_user_id"] = str(number)
        with override_settings(SESSION_ENGINE=paths[old]):
            session.save()
        options = {"REGISTRY": "db", "MIGRATE_FROM": [paths[old]]}
        with override_settings(SESSION_ENGINE=paths[new], SESSIONSTORES=options):
            moved = stores[new](session.session_key)
            assert moved.get("_auth_user_id") == str(number), session.session_key
            moved["x"] = 1
            moved.save()
            assert stores[new](moved.session_key).get("x") == 1


@pytest.mark.engines("cookie:sqlite")
def test_a_split_cookie_survives_a_move(engine: Any) -> None:
    """The number of parts stands before the token, with a dot of its own."""
    key = stored(engine, color="blue", blob=secrets.token_hex(9000))
    cookies = split(COOKIE, key)
    assert cookies[COOKIE].startswith(f"{len(cookies)}..")
    options = {"MIGRATE_FROM": ["django_sessionstores.backends.cookie"], "REGISTRY": "db"}
    with override_settings(
        SESSION_ENGINE="django_sessionstores.backends.db", SESSIONSTORES=options
    ):
        browser = Browser()
        browser.send(cookies)
        assert browser.get("/read/").json()["color"] == "blue"


def test_the_room_for_cookies_follows_the_settings() -> None:
    """It is computed once, because each save of a session asks."""
    with override_settings(MIDDLEWARE=[], SESSION_COOKIE_NAME="name"):
        one = conf.cookie_bytes()
        with override_settings(SESSION_COOKIE_NAME="longer name"):
            assert conf.cookie_bytes() == one - len("longer name") + len("name")
        with override_settings(MIDDLEWARE=["django_sessionstores.middleware.SessionMiddleware"]):
            assert conf.cookie_bytes() > 3 * one
        with override_settings(SESSIONSTORES={"COOKIE_MAX_BYTES": 1000}):
            assert conf.cookie_bytes() == 1000
        assert conf.cookie_bytes() == one
