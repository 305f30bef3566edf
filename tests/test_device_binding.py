"""Sessions that are bound to a device, from the login to the refusal of a copied cookie."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from unittest import mock

import pytest
from asgiref.sync import async_to_sync
from django.conf import settings as django_settings
from django.contrib.auth import get_user_model
from django.test import override_settings
from django.urls import include, path

from django_sessionstores import async_binding_urls, binding_urls, signals
from django_sessionstores.binding.bindings import BINDING, Binding, binding_of, merge_bindings
from django_sessionstores.binding.device_keys import Jwk, id_of, key_of_jwk
from django_sessionstores.binding.headers import InvalidProof
from django_sessionstores.core.clock import now
from django_sessionstores.inventory import Inventory
from django_sessionstores.sessions import SessionStore
from django_sessionstores.testing import HOUR, at, observed
from tests import urls
from tests.binding.browsers import BoundBrowser, EllipticDevice, RsaDevice, challenge_of

COOKIE = "sessionid"
BOUND = "sessionid-bound"
MINUTE = 60_000
ENGINES = ("memory", "db:sqlite", "cookie:sqlite")
REGISTRATION = "Secure-Session-Registration"

pytestmark = [pytest.mark.engines(*ENGINES), pytest.mark.usefixtures("user")]


urlpatterns = [
    *urls.urlpatterns,
    path("device/", include(binding_urls)),
    path("devices/", include("django_sessionstores.urls")),
    path("async/device/", include((async_binding_urls.urlpatterns, "async_device_binding"))),
]


def binding_settings(**options: Any) -> Any:
    stated = getattr(django_settings, "SESSIONSTORES", {})
    return override_settings(SESSIONSTORES={**stated, **options})


@pytest.fixture(autouse=True)
def _site(engine: Any) -> Iterator[None]:
    _, *others = django_settings.MIDDLEWARE
    middleware = ["django_sessionstores.middleware.SessionMiddleware", *others]
    with (
        override_settings(ROOT_URLCONF=__name__, MIDDLEWARE=middleware),
        binding_settings(DEVICE_BINDING="prefer"),
    ):
        yield


@pytest.fixture(params=["sync", "async"])
def browser(request: pytest.FixtureRequest) -> BoundBrowser:
    return BoundBrowser(is_async=request.param == "async")


@pytest.fixture
def rejected() -> Iterator[list[tuple[str, str]]]:
    """Yield the reasons and details for which keys were not accepted."""
    found: list[tuple[str, str]] = []

    def note(reason: str, detail: str, **kwargs: Any) -> None:
        found.append((reason, detail))

    signals.session_rejected.connect(note)
    yield found
    signals.session_rejected.disconnect(note)


@pytest.fixture
def ended() -> Iterator[list[str]]:
    """Yield the reasons for which sessions have ended."""
    found: list[str] = []

    def note(reason: str, **kwargs: Any) -> None:
        found.append(reason)

    signals.session_ended.connect(note)
    yield found
    signals.session_ended.disconnect(note)


def stored_binding(engine: Any, browser: BoundBrowser) -> Binding | None:
    return binding_of(engine.SessionStore(browser.cookies[COOKIE].value).load())


# Registration -------------------------------------------------------------------------------------


def test_a_login_is_bound(engine: Any, browser: BoundBrowser) -> None:
    """The browser is asked once, and is told what it has to know."""
    response = browser.log_in()
    assert REGISTRATION in response.headers
    assert browser.binding == id_of(key_of_jwk(Jwk(**browser.device.jwk)))
    found = stored_binding(engine, browser)
    assert found is not None
    assert found.id == browser.binding
    bound = browser.cookies[BOUND]
    assert bound["max-age"] == 600
    assert (bound["secure"], bound["httponly"], bound["samesite"]) == (True, True, "Lax")
    assert browser.user() == "ada"
    assert REGISTRATION not in browser.ask("write/x/1").headers


def test_what_the_browser_is_told(browser: BoundBrowser) -> None:
    asked = browser.ask("login/ada").headers[REGISTRATION]
    response = browser.register(asked)
    assert response.json() == {
        "session_identifier": browser.binding,
        "refresh_url": "/device/refresh/",
        "scope": {"include_site": False, "scope_specification": []},
        "credentials": [
            {
                "type": "cookie",
                "name": BOUND,
                "attributes": "Path=/; SameSite=Lax; Secure; HttpOnly",
            }
        ],
    }
    assert response["Content-Type"] == "application/json"
    assert "no-store" in response["Cache-Control"]


def test_a_key_for_rsa(browser: BoundBrowser) -> None:
    browser.device = RsaDevice()
    browser.log_in()
    with at(now() + HOUR):
        assert browser.refresh().status_code == 200
        assert browser.user() == "ada"


def test_nobody_else_is_asked(engine: Any, browser: BoundBrowser) -> None:
    """Neither a visitor, nor a user who is signed in: that may be somebody with a copied cookie."""
    assert REGISTRATION not in browser.ask("write/x/1").headers
    browser.ask("login/ada")
    assert REGISTRATION not in browser.ask("write/x/2").headers
    assert REGISTRATION not in browser.ask("logout").headers


def test_signing_in_again_asks_again(browser: BoundBrowser) -> None:
    """A user who was signed in before, and who signs in again, may be bound."""
    browser.ask("login/ada")
    assert REGISTRATION in browser.ask("login/ada").headers
    browser.log_in()
    assert browser.binding
    # It is the same device, whose key is known already.
    assert REGISTRATION not in browser.ask("login/ada").headers
    with at(now() + HOUR):
        browser.refresh()
        assert browser.user() == "ada"


def test_not_without_https(browser: BoundBrowser) -> None:
    assert REGISTRATION not in browser.ask("login/ada", secure=False).headers


def test_not_without_the_option(browser: BoundBrowser) -> None:
    with binding_settings(DEVICE_BINDING=""):
        assert REGISTRATION not in browser.ask("login/ada").headers


def test_not_without_the_urls(browser: BoundBrowser) -> None:
    with override_settings(ROOT_URLCONF="tests.urls"):
        response = browser.ask("login/ada")
    assert response.status_code == 200
    assert REGISTRATION not in response.headers


def test_not_for_a_whole_domain(browser: BoundBrowser) -> None:
    with override_settings(SESSION_COOKIE_DOMAIN="testserver"):
        assert REGISTRATION not in browser.ask("login/ada").headers


def test_a_login_that_failed_asks_nobody(browser: BoundBrowser) -> None:
    browser.client.raise_request_exception = False
    response = browser.ask("fail")
    assert response.status_code == 500
    assert REGISTRATION not in response.headers


def test_the_cost(engine: Any, browser: BoundBrowser) -> None:
    """A request of a bound session costs what others cost; a refresh reads and writes once."""
    browser.log_in()
    with observed(engine.storage) as calls:
        browser.ask("read")
    assert calls == ["read"]
    with at(now() + MINUTE):
        with observed(engine.storage) as calls:
            assert browser.send_proof(None).status_code == 403
        assert calls == ["read"]
        with observed(engine.storage) as calls:
            assert browser.refresh().status_code == 200
        assert calls.count("update") == 1
        assert set(calls) == {"read", "update"}


# The bound cookie ---------------------------------------------------------------------------------


def test_a_copied_cookie_works_for_minutes(
    browser: BoundBrowser, rejected: list[tuple[str, str]]
) -> None:
    """It is refused as soon as the bound cookie that was copied with it has expired."""
    moment = now()
    with at(moment):
        browser.log_in()
        thief, poor = browser.copied(), browser.copied(COOKIE)
        assert thief.user() == "ada"
    with at(moment + 2 * MINUTE):
        assert thief.user() == "ada"
        assert poor.user() == ""
    with at(moment + 12 * MINUTE):
        browser.refresh()
        assert thief.user() == ""
        assert COOKIE in thief.cookies
        assert browser.user() == "ada"
    assert ("no proof", "") in rejected


def test_requests_that_were_under_way(browser: BoundBrowser) -> None:
    """What the browser has sent before it got the bound cookie is served."""
    moment = now()
    with at(moment):
        browser.log_in()
        under_way = browser.copied(COOKIE)
        assert under_way.user() == "ada"
    with at(moment + 61_000):
        assert under_way.user() == ""


def test_a_refresh(engine: Any, browser: BoundBrowser) -> None:
    """The challenge came in advance, so that the browser needs one request."""
    moment = now()
    with at(moment):
        browser.log_in()
    for minutes in (10, 20, 30):
        with at(moment + minutes * MINUTE):
            before = browser.cookies[BOUND].value
            response = browser.send_proof(browser.challenge)
            assert response.status_code == 200
            browser.challenge = challenge_of(response)
            assert browser.cookies[BOUND].value != before
            assert browser.user() == "ada"


def test_a_browser_that_was_asleep(browser: BoundBrowser) -> None:
    """Its challenge has expired, and it gets another one."""
    moment = now()
    with at(moment):
        browser.log_in()
    with at(moment + 5 * HOUR):
        assert browser.user() == ""
        assert browser.refresh().status_code == 200
        assert browser.user() == "ada"


def test_an_answer_counts_once(browser: BoundBrowser) -> None:
    browser.log_in()
    with at(now() + MINUTE):
        challenge = challenge_of(browser.send_proof(None))
        assert browser.send_proof(challenge).status_code == 200
        again = browser.send_proof(challenge)
        assert again.status_code == 403
        assert browser.send_proof(challenge_of(again)).status_code in {200, 403}


def test_two_tabs(browser: BoundBrowser) -> None:
    """The one that comes too late gets another challenge, and then a cookie."""
    browser.log_in()
    moment = now() + MINUTE
    with at(moment):
        first = challenge_of(browser.send_proof(None))
    with at(moment + 10):
        second = challenge_of(browser.send_proof(None))
    with at(moment + 20):
        assert browser.send_proof(second).status_code == 200
        late = browser.send_proof(first)
        assert late.status_code == 403
    with at(moment + 30):
        assert browser.send_proof(challenge_of(late)).status_code == 200
        assert browser.user() == "ada"


def test_a_session_goes_on_under_another_key(engine: Any, browser: BoundBrowser) -> None:
    """Its rotation takes the binding along."""
    moment = now()
    with binding_settings(ROTATE_AFTER=1800):
        with at(moment):
            browser.log_in()
            before = browser.cookies[COOKIE].value
        with at(moment + HOUR):
            browser.refresh()
            assert browser.user() == "ada"
            if not engine.storage.holds_in_key:
                assert browser.cookies[COOKIE].value != before
            assert browser.copied(COOKIE).user() == ""
            browser.ask("password")
            assert browser.user() == "ada"
            assert browser.copied(COOKIE).user() == ""


def test_another_secret_key(browser: BoundBrowser) -> None:
    """The challenge and the bound cookie are accepted as long as the old key is."""
    moment = now()
    with at(moment):
        browser.log_in()
    with override_settings(SECRET_KEY="new", SECRET_KEY_FALLBACKS=[django_settings.SECRET_KEY]):
        with at(moment + 5 * MINUTE):
            assert browser.user() == "ada"
        with at(moment + 9 * MINUTE):
            assert browser.send_proof(browser.challenge).status_code == 200
    with override_settings(SECRET_KEY="new"), at(moment + 10 * MINUTE):
        assert browser.refresh().status_code == 200


def test_another_user_is_asked_anew(browser: BoundBrowser) -> None:
    get_user_model()._default_manager.create(username="bob")
    browser.log_in()
    before = browser.binding
    browser.device = EllipticDevice()
    assert REGISTRATION in browser.log_in("bob").headers
    assert browser.binding != before
    assert browser.send_proof(None, before).json()["continue"] is False
    with at(now() + HOUR):
        browser.refresh()
        assert browser.user() == "bob"


def test_logging_out(browser: BoundBrowser) -> None:
    """The browser is told to forget the binding."""
    browser.log_in()
    browser.ask("logout")
    response = browser.send_proof(browser.challenge)
    assert response.status_code == 200
    assert response.json() == {"session_identifier": browser.binding, "continue": False}


def test_the_option_is_removed(engine: Any, browser: BoundBrowser) -> None:
    """Sessions go on without their proofs, and browsers forget their bindings."""
    browser.log_in()
    with at(now() + HOUR), binding_settings(DEVICE_BINDING=""):
        assert browser.user() == "ada"
        assert browser.refresh().json()["continue"] is False
        assert browser.user() == "ada"
    with at(now() + 2 * HOUR):
        assert browser.user() == "ada"


# A request that is refused ------------------------------------------------------------------------


@pytest.fixture
def thief(browser: BoundBrowser) -> Iterator[BoundBrowser]:
    """Yield a browser whose cookies were copied an hour ago."""
    moment = now()
    with at(moment):
        browser.ask("write/color/green")
        browser.log_in()
    with at(moment + HOUR):
        browser.refresh()
        yield browser.copied(COOKIE)


def test_it_reads_nothing(thief: BoundBrowser, browser: BoundBrowser) -> None:
    assert thief.ask("read").json() == {}
    assert COOKIE not in thief.ask("read").cookies
    assert browser.ask("read").json()["color"] == "green"


def test_it_counts_as_no_activity(engine: Any, thief: BoundBrowser) -> None:
    def times() -> list[Any]:
        return [(each.last_activity, each.expires) for each in Inventory().list().sessions]

    with binding_settings(ACTIVITY_INTERVAL=1, IDLE_TIMEOUT=7200), at(now() + 2 * MINUTE):
        before = times()
        for _ in range(2):
            assert thief.user() == ""
        assert times() == before


def test_what_it_writes_is_another_session(thief: BoundBrowser, browser: BoundBrowser) -> None:
    before = thief.cookies[COOKIE].value
    assert thief.ask("write/color/red").status_code == 200
    assert thief.cookies[COOKIE].value != before
    assert thief.ask("read").json() == {"color": "red"}
    assert browser.ask("read").json()["color"] == "green"
    assert browser.user() == "ada"


def test_its_login_is_another_session(thief: BoundBrowser, browser: BoundBrowser) -> None:
    get_user_model()._default_manager.create(username="bob")
    assert REGISTRATION in thief.ask("login/bob").headers
    assert thief.user() == "bob"
    assert browser.user() == "ada"
    assert "color" not in thief.ask("read").json()


def test_its_logout_is_a_logout(
    engine: Any, thief: BoundBrowser, browser: BoundBrowser, ended: list[str]
) -> None:
    """The browser of the user, too, may have no proof when its user logs out."""
    thief.ask("logout")
    assert not thief.cookies[COOKIE].value
    assert browser.user() == ""
    assert ended == ["logout"]


def test_it_is_reported_once_a_minute(
    thief: BoundBrowser, rejected: list[tuple[str, str]], caplog: pytest.LogCaptureFixture
) -> None:
    rejected.clear()
    caplog.clear()
    moment = now()
    for _ in range(3):
        thief.ask("read", Secure_Session_Skipped="unreachable")
    with at(moment + MINUTE + 1):
        thief.ask("read", Secure_Session_Skipped='"<script>"')
    assert rejected == [("no proof", "unreachable"), ("no proof", "")]
    lines = [each.getMessage() for each in caplog.records if "proof" in each.getMessage()]
    assert len(lines) == 2
    assert thief.cookies[COOKIE].value not in "".join(lines)


def test_it_ends_the_session(thief: BoundBrowser, browser: BoundBrowser, ended: list[str]) -> None:
    """If the settings say so."""
    with binding_settings(END_WITHOUT_PROOF=True):
        thief.user()
        assert browser.user() == ""
        assert ended == ["no proof"]
        assert browser.send_proof(None).json()["continue"] is False


@pytest.mark.engines("cookie:unregistered")
def test_a_session_that_cannot_be_ended(thief: BoundBrowser, ended: list[str]) -> None:
    """Nobody is told of an end that did not happen."""
    with binding_settings(END_WITHOUT_PROOF=True):
        assert thief.user() == ""
    assert ended == []


def test_a_refresh_is_not_reported(browser: BoundBrowser, rejected: list[tuple[str, str]]) -> None:
    """Not even if another middleware reads the session of each request."""
    reader = f"{__name__}.read_each"
    with override_settings(MIDDLEWARE=[*django_settings.MIDDLEWARE, reader]):
        browser.log_in()
        with at(now() + HOUR):
            assert browser.refresh().status_code == 200
            assert browser.user() == "ada"
    assert rejected == []


def read_each(get_response: Any) -> Any:
    """A middleware that reads the session of each request."""
    from asgiref.sync import iscoroutinefunction, markcoroutinefunction

    if iscoroutinefunction(get_response):

        async def amiddleware(request: Any) -> Any:
            await request.session.aget("color")
            return await get_response(request)

        return markcoroutinefunction(amiddleware)

    def middleware(request: Any) -> Any:
        request.session.get("color")
        return get_response(request)

    return middleware


read_each.async_capable = read_each.sync_capable = True  # type: ignore[attr-defined]


def test_other_code_reads_it(engine: Any, thief: BoundBrowser) -> None:
    """The proof is of a request: a task or a command has the session as it is."""
    store = engine.SessionStore(thief.cookies[COOKIE].value)
    assert store["color"] == "green"
    assert async_to_sync(engine.SessionStore(thief.cookies[COOKIE].value).aget)("color") == "green"
    assert isinstance(store, SessionStore)


# What is stored -----------------------------------------------------------------------------------


@pytest.mark.engines("memory")
@pytest.mark.parametrize(
    "text", [None, 1, "", "a b c", "1 2", "1 2 !", "1 2 YQ 4", b"1 2 YQ", "x 2 YQ"]
)
def test_what_is_not_a_binding(engine: Any, text: object) -> None:
    """Other code may have put it there. The session is not bound."""
    assert binding_of({BINDING: text}) is None


@pytest.mark.engines("memory")
def test_parallel_changes(engine: Any) -> None:
    first, other = Binding(b"key", 10, 5).to_text(), Binding(b"another", 20, 5).to_text()
    second = Binding(b"key", 20, 5).to_text()
    assert merge_bindings(None, second, first) == second
    for mine, theirs in ((first, second), (first, first), (first, other), (other, first)):
        with pytest.raises(InvalidProof):
            merge_bindings(None, mine, theirs)
    assert merge_bindings(first, None, second) is None
    assert merge_bindings(first, second, None) == second


# Lists --------------------------------------------------------------------------------------------

LISTING = ("memory", "file", "db:sqlite", "cache:redis-cache", "cache:memcached+sqlite")
LISTING += ("cached_db:locmem+sqlite", "cookie:sqlite", "mongodb:mongodb")


@pytest.mark.engines(*LISTING)
def test_lists_show_which_sessions_are_bound(engine: Any) -> None:
    """From the login to the logout, whatever is saved meanwhile, and without decrypting them."""
    browser, other = BoundBrowser(), BoundBrowser()
    other.ask("login/ada")
    browser.log_in()
    inventory = Inventory()

    def listed() -> list[bool]:
        with mock.patch.object(type(engine.storage.codec), "decrypt", side_effect=AssertionError):
            return sorted(each.is_bound for each in inventory.list().sessions)

    assert listed() == [False, True]
    for number in range(3):
        browser.ask(f"write/x/{number}")
        other.ask(f"write/x/{number}")
        assert listed() == [False, True]
    browser.ask("password")
    with at(now() + MINUTE):
        browser.refresh()
        assert any(each.is_bound for each in inventory.list().sessions)
    browser.ask("logout")
    assert listed()[-1:] in ([], [False])


@pytest.mark.engines("memory")
def test_your_devices(engine: Any) -> None:
    """The page and the API say it of each of them."""
    browser = BoundBrowser()
    browser.log_in()
    assert "Bound to this device" in browser.ask("devices").content.decode()
    assert [each["is_bound"] for each in browser.ask("devices/api").json()["sessions"]] == [True]


@pytest.mark.engines(*(each for each in LISTING if each != "cookie:sqlite"))
def test_lists_show_which_sessions_were_used_without_proof(engine: Any) -> None:
    """Once, and until the session ends. The browser of the user goes on."""
    browser = BoundBrowser()
    browser.ask("write/color/green")
    browser.log_in()
    thief, inventory = browser.copied(COOKIE), Inventory()

    def listed() -> list[tuple[bool, bool]]:
        return [(each.is_bound, each.was_refused) for each in inventory.list().sessions]

    moment = now()
    with at(moment + 2 * MINUTE):
        thief.ask("read", Secure_Session_Skipped="unreachable")
        assert listed() == [(True, False)]
    with at(moment + 4 * MINUTE):
        with observed(engine.storage) as calls:
            thief.ask("read")
        assert calls == ["read", "update"]
        assert listed() == [(True, True)]
        assert browser.ask("read").json()["color"] == "green"
    with at(moment + 8 * MINUTE):
        with observed(engine.storage) as calls:
            thief.ask("read")
        assert calls == ["read"]
        assert browser.refresh().status_code == 200
        browser.ask("write/color/red")
        assert listed() == [(True, True)]
        assert browser.ask("read").json()["color"] == "red"
        assert "Used without the proof" in browser.ask("devices").content.decode()
        browser.ask("logout")
    assert listed() == []


@pytest.mark.engines("memory")
def test_the_admin(engine: Any) -> None:
    """The list and the page of a session say it."""
    get_user_model()._default_manager.create(username="eve", is_staff=True, is_superuser=True)
    staff = BoundBrowser()
    staff.ask("login/eve")
    pages = "/admin/django_sessionstores/session/"
    assert "Bound to this device" not in staff.request("get", pages).content.decode()
    browser = BoundBrowser()
    browser.log_in()
    session_id = engine.SessionStore(browser.cookies[COOKIE].value).session_id
    for page in (pages, f"{pages}{session_id}/change/"):
        assert "Bound to this device" in staff.request("get", page).content.decode()
