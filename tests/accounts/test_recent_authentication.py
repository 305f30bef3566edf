"""A session knows when its user has signed in, and views can ask for a recent sign-in."""

import datetime
import json
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import pytest
from asgiref.sync import async_to_sync
from django.conf import settings as django_settings
from django.contrib.auth import get_user_model, login
from django.contrib.auth.signals import user_logged_in
from django.contrib.auth.views import LoginView
from django.core.exceptions import ImproperlyConfigured
from django.http import HttpRequest, HttpResponse
from django.test import AsyncClient, Client, RequestFactory, override_settings
from django.urls import path
from django.utils.decorators import method_decorator
from django.views.generic import View

from django_sessionstores.accounts import recent_authentication
from django_sessionstores.accounts.recent_authentication import recent_authentication_required
from django_sessionstores.core.clock import now
from django_sessionstores.sessions import SessionStore
from django_sessionstores.testing import DAY, HOUR, Twin, at, observed
from tests import urls
from tests.sessions.test_lifetimes import MINUTE, limits

COOKIE = "sessionid"
MAIN = ("memory", "db:sqlite", "file", "cache:redis-cache", "cookie:sqlite")


@recent_authentication_required
def page(request: HttpRequest, **kwargs: Any) -> HttpResponse:
    return HttpResponse("page")


@recent_authentication_required
async def apage(request: HttpRequest, **kwargs: Any) -> HttpResponse:
    return HttpResponse("page")


@recent_authentication_required(age=60)
def strict(request: HttpRequest) -> HttpResponse:
    return HttpResponse("page")


@recent_authentication_required(age=60)
async def astrict(request: HttpRequest) -> HttpResponse:
    return HttpResponse("page")


@method_decorator(recent_authentication_required, name="dispatch")
class Page(View):
    def get(self, request: HttpRequest) -> HttpResponse:
        return HttpResponse("page")


@method_decorator(recent_authentication_required, name="dispatch")
class AsyncPage(View):
    async def get(self, request: HttpRequest) -> HttpResponse:
        return HttpResponse("page")


class Method(View):
    @method_decorator(recent_authentication_required)
    def get(self, request: HttpRequest) -> HttpResponse:
        return HttpResponse("page")


class AsyncMethod(View):
    @method_decorator(recent_authentication_required)
    async def get(self, request: HttpRequest) -> HttpResponse:
        return HttpResponse("page")


def confirm(request: HttpRequest) -> HttpResponse:
    str(request.user)  # As a view does that looks at the password.
    recent_authentication.mark_authenticated(request)
    return HttpResponse("confirmed")


async def aconfirm(request: HttpRequest) -> HttpResponse:
    await request.auser()
    await recent_authentication.amark_authenticated(request)
    return HttpResponse("confirmed")


def asked(request: HttpRequest) -> HttpResponse:
    return HttpResponse(str(recent_authentication.has_recent_authentication(request.session)))


async def aasked(request: HttpRequest) -> HttpResponse:
    return HttpResponse(
        str(await recent_authentication.ahas_recent_authentication(request.session))
    )


urlpatterns = [
    *urls.urlpatterns,
    *urls.sync_and_async(
        ("page/", page, apage),
        ("strict/", strict, astrict),
        ("class/", Page.as_view(), AsyncPage.as_view()),
        ("method/", Method.as_view(), AsyncMethod.as_view()),
        ("confirm/", confirm, aconfirm),
        ("asked/", asked, aasked),
    ),
    path("sign-in/", LoginView.as_view(), name="sign_in"),
]


@pytest.fixture(autouse=True)
def _urls() -> Iterator[None]:
    with override_settings(ROOT_URLCONF=__name__, LOGIN_URL="/sign-in/"):
        yield


@pytest.fixture(params=["sync", "async"])
def browser(request: pytest.FixtureRequest, user: Any, middleware: str) -> Any:
    """Return a browser that asks for one kind of views: under WSGI, or under ASGI."""
    is_async = request.param == "async"
    client: Any = AsyncClient() if is_async else Client()

    class Browser:
        cookies = client.cookies

        @staticmethod
        def ask(route: str, method: str = "get", **headers: str) -> Any:
            ask: Any = getattr(client, method)
            ask = async_to_sync(ask) if is_async else ask
            return ask(f"/{'async/' if is_async else ''}{route}/", headers=headers)

        @staticmethod
        def meets_a_restart() -> None:
            """Make the middleware again, because it reads some settings when it is made."""
            client.handler._middleware_chain = None

        def since(self) -> datetime.datetime | None:
            """When the session says that its user has signed in."""
            store = django_settings.SESSION_ENGINE
            cookie = client.cookies.get(COOKIE)
            module = __import__(store, fromlist=["SessionStore"])
            session = Twin(module.SessionStore(cookie.value if cookie else None), is_async)
            if is_async:
                return async_to_sync(recent_authentication.aauthenticated_at)(session.target)
            return recent_authentication.authenticated_at(session.target)

        def sees_page(self, route: str = "page") -> bool:
            response = self.ask(route)
            assert response.status_code in {200, 302}
            return bool(response.status_code == 200)

    return Browser()


def moment_of(milliseconds: int) -> datetime.datetime:
    return datetime.datetime.fromtimestamp(milliseconds / 1000, datetime.UTC)


# What is remembered -------------------------------------------------------------------------------


def test_a_login_is_remembered(engine: Any, browser: Any) -> None:
    """Until it ends, whatever is saved meanwhile."""
    moment = now()
    assert browser.since() is None
    with at(moment):
        browser.ask("write/x/1")
        assert browser.since() is None
        browser.ask("login/ada")
    with at(moment + MINUTE):
        browser.ask("write/x/2")
        assert browser.since() == moment_of(moment)
        browser.ask("logout")
        browser.ask("write/x/3")
        assert browser.since() is None


def test_a_login_is_marked_in_no_round_trip_of_its_own(engine: Any, browser: Any) -> None:
    """Neither a first login nor that of a user who signs in again makes a further round trip."""
    browser.ask("write/x/1")
    with observed(engine.storage) as calls:
        browser.ask("login/ada")
    assert calls == ["read", "rotate"]
    with observed(engine.storage) as calls:
        browser.ask("login/ada")
    assert calls == ["read", "rotate"]
    assert browser.ask("read").json()["x"] == "1"


@pytest.mark.engines("memory")
def test_a_login_draws_one_key(engine: Any, user: Any) -> None:
    """The one that other receivers of the signal have seen."""
    request = HttpRequest()
    request.session = engine.SessionStore()
    request.session["cart"] = 1
    request.session.save()
    with mock.patch.object(SessionStore, "rotate_later") as rotate_later:
        login(request, user, "django.contrib.auth.backends.ModelBackend")
    assert not rotate_later.called


def test_signing_in_again(engine: Any, browser: Any) -> None:
    """The moment moves, the data stays, and the key from before leads nowhere."""
    moment = now()
    with at(moment):
        browser.ask("write/x/1")
        browser.ask("login/ada")
    previous = browser.cookies[COOKIE].value
    with at(moment + HOUR):
        browser.ask("login/ada")
        assert browser.since() == moment_of(moment + HOUR)
        assert browser.ask("read").json()["x"] == "1"
        assert browser.cookies[COOKIE].value != previous
        left = engine.SessionStore(previous)
        if engine.storage.authoritative:
            assert left.load() == {}
        else:  # A copy of the cookie is good, but as old as it was.
            assert recent_authentication.authenticated_at(left) == moment_of(moment)


def test_another_user_starts_anew(browser: Any, engine: Any) -> None:
    get_user_model()._default_manager.create(username="bob")
    try:
        moment = now()
        with at(moment):
            browser.ask("login/ada")
        with at(moment + HOUR):
            browser.ask("login/bob")
            assert browser.since() == moment_of(moment + HOUR)
    finally:
        get_user_model()._default_manager.get(username="bob").delete()


@pytest.mark.engines(*MAIN)
@pytest.mark.parametrize("route", ["password", "relogin"])
def test_another_key_for_another_reason(browser: Any, engine: Any, route: str) -> None:
    """A new password is no sign-in, and does not undo one."""
    moment = now()
    with at(moment):
        browser.ask("login/ada")
    with at(moment + HOUR):
        browser.ask(route)
        signed_in = moment + HOUR if route == "relogin" else moment
        assert browser.since() == moment_of(signed_in)


def test_a_rotation_leaves_it(browser: Any, engine: Any) -> None:
    moment = now()
    with limits(ROTATE_AFTER=1800):
        with at(moment):
            browser.ask("login/ada")
        with at(moment + HOUR):
            browser.ask("read")
            assert browser.since() == moment_of(moment)
        with at(moment + 2 * HOUR):
            # Signing in gives another key as well: none is rotated at once.
            browser.ask("login/ada")
            key = browser.cookies[COOKIE].value
            browser.ask("read")
            assert browser.cookies[COOKIE].value == key


def test_a_proof_that_is_no_login(browser: Any, engine: Any) -> None:
    """A password or a code in a page of the site's own; it rotates the key as a login does."""
    moment = now()
    with at(moment):
        browser.ask("login/ada")
    previous = browser.cookies[COOKIE].value
    with at(moment + HOUR), observed(engine.storage) as calls:
        browser.ask("confirm")
    assert calls == ["read", "rotate"]
    with at(moment + HOUR):
        assert browser.since() == moment_of(moment + HOUR)
        assert browser.cookies[COOKIE].value != previous


@pytest.mark.engines("memory")
def test_nobody_has_proved_anything(browser: Any, engine: Any) -> None:
    with pytest.raises(ValueError, match="is anonymous"):
        browser.ask("confirm")
    assert COOKIE not in browser.cookies


def test_the_absolute_end_starts_anew(browser: Any, engine: Any) -> None:
    """A user who signs in again after seven hours is not signed out one hour later."""
    moment = now()
    with limits(ABSOLUTE_TIMEOUT=8 * 3600), override_settings(SESSION_COOKIE_AGE=90 * 3600):
        with at(moment):
            browser.ask("login/ada")
        with at(moment + 7 * HOUR):
            browser.ask("login/ada")
        with at(moment + 14 * HOUR):
            assert browser.ask("who").content == b"ada"
            browser.ask("write/x/1")
        with at(moment + 15 * HOUR):
            assert browser.ask("who").content == b""


@pytest.mark.engines(*MAIN)
def test_a_login_by_a_clock_that_was_ahead(browser: Any, engine: Any) -> None:
    """It is not recent for longer than other logins, but for what clocks may differ."""
    moment = now()
    with limits(RECENT_AUTHENTICATION_AGE=600):
        for ahead, is_recent in (
            (4 * MINUTE, True),
            (6 * MINUTE, False),
            (HOUR, False),
            (9000 * DAY, False),
        ):
            browser.cookies.clear()
            with at(moment + ahead):
                browser.ask("login/ada")
                assert browser.sees_page()
            # A key that holds its session is refused as a whole, by `issued in the future`.
            with at(moment):
                assert browser.sees_page() is is_recent
                assert (browser.ask("asked").content == b"True") is is_recent


@pytest.mark.parametrize("number", [2**62, 2**63, 2**70, -(2**70)])
def test_a_time_that_no_store_can_keep(engine: Any, number: int) -> None:
    """Other code has put it into the session, and the session begins when it is stored."""
    session = engine.SessionStore()
    session.update({"_auth_user_id": "7", "_authenticated_at": number})
    session.save()
    session = engine.SessionStore(session.session_key)
    assert session["_authenticated_at"] == number
    session["x"] = 1
    session.save()
    assert engine.SessionStore(session.session_key)["x"] == 1


@pytest.mark.engines("memory", "db:sqlite")
def test_a_new_secret_key_in_the_same_request(browser: Any, engine: Any) -> None:
    """Django cycles the key for that, which the package undoes, but not for a sign-in."""
    moment = now()
    with at(moment):
        browser.ask("login/ada")
    previous = browser.cookies[COOKIE].value
    fallbacks = [django_settings.SECRET_KEY]
    with override_settings(SECRET_KEY="a new one", SECRET_KEY_FALLBACKS=fallbacks):
        with at(moment + HOUR):
            browser.ask("confirm")
            assert browser.since() == moment_of(moment + HOUR)
        assert browser.cookies[COOKIE].value != previous


@pytest.mark.engines("memory")
@pytest.mark.parametrize("ours", [True, False], ids=["package", "django"])
def test_moving_from_another_engine(browser: Any, engine: Any, user: Any, ours: bool) -> None:
    """The time of the login moves with a session of the package. Django's engines do not store
    it."""
    path = ("django_sessionstores" if ours else "django.contrib.sessions") + ".backends.db"
    moment = now()
    with at(moment):
        with override_settings(SESSION_ENGINE=path):
            browser.ask("login/ada")
        browser.meets_a_restart()
        with limits(MIGRATE_FROM=[path], RECENT_AUTHENTICATION_AGE=600):
            assert browser.ask("who").content == b"ada"
            assert browser.since() == (moment_of(moment) if ours else None)
            assert browser.sees_page() is ours
            browser.ask("login/ada")
            assert browser.sees_page()


@pytest.mark.engines("memory")
@pytest.mark.parametrize("name", ["db", "file", "signed_cookies"])
def test_engines_of_djangos_are_left_alone(
    browser: Any, engine: Any, name: str, tmp_path: Any
) -> None:
    """A site may have the app and not yet the engine. Its sessions stay as Django makes them."""
    path = f"django.contrib.sessions.backends.{name}"
    with override_settings(SESSION_ENGINE=path, SESSION_FILE_PATH=tmp_path):
        browser.ask("login/ada")
        key = browser.cookies[COOKIE].value
        browser.ask("login/ada")
        assert name == "signed_cookies" or browser.cookies[COOKIE].value == key
        assert browser.ask("read").json().keys() == {
            "_auth_user_id",
            "_auth_user_backend",
            "_auth_user_hash",
        }
        assert browser.sees_page()  # As nothing is asked for.
        with pytest.raises(ImproperlyConfigured, match="SESSION_ENGINE"):
            browser.ask("strict")
        with pytest.raises(ImproperlyConfigured, match="SESSION_ENGINE"):
            browser.ask("confirm")


@pytest.mark.engines("memory")
def test_logins_that_leave_the_session_alone(engine: Any, user: Any) -> None:
    """Packages for tokens send Django's signal too, some without a request."""
    request = RequestFactory().get("/")
    user_logged_in.send(type(user), request=request, user=user)
    user_logged_in.send(type(user), request=None, user=user)
    session = engine.SessionStore()
    request.session = session
    user_logged_in.send(type(user), request=request, user=user)
    assert session.is_empty()
    session["_auth_user_id"] = "another"
    user_logged_in.send(type(user), request=request, user=user)
    assert recent_authentication.authenticated_at(session) is None


# Who may pass -------------------------------------------------------------------------------------


@pytest.mark.engines(*MAIN)
@pytest.mark.parametrize("route", ["page", "class", "method"])
def test_a_view_asks_for_a_recent_authentication(browser: Any, engine: Any, route: str) -> None:
    """The limit holds to the second, by the clock of the server."""
    moment = now()
    with limits(RECENT_AUTHENTICATION_AGE=600):
        assert not browser.sees_page(route)
        with at(moment):
            browser.ask("login/ada")
        with at(moment + 10 * MINUTE):
            assert browser.sees_page(route)
            assert browser.ask("asked").content == b"True"
        with at(moment + 10 * MINUTE + 1):
            assert not browser.sees_page(route)
            assert browser.ask("asked").content == b"False"
            browser.ask("login/ada")
            assert browser.sees_page(route)
            browser.ask("logout")
            assert not browser.sees_page(route)


@pytest.mark.engines("memory")
def test_ages_of_their_own(browser: Any, engine: Any) -> None:
    """The view's counts; without any, whoever is signed in passes, and nobody else."""
    moment = now()
    assert not browser.sees_page("page")
    assert browser.ask("asked").content == b"False"
    with at(moment):
        browser.ask("login/ada")
    with at(moment + MINUTE + 1):
        assert browser.sees_page("page")
        assert browser.ask("asked").content == b"True"
        assert not browser.sees_page("strict")
    with limits(RECENT_AUTHENTICATION_AGE=3600):
        with at(moment):
            browser.ask("login/ada")
            assert browser.sees_page("strict")
        with at(moment + MINUTE + 1):
            assert browser.sees_page("page")
            assert not browser.sees_page("strict")


@pytest.mark.engines("memory")
def test_a_session_from_before_is_not_recent(browser: Any, engine: Any) -> None:
    """A session without the time of its login, such as one of a site without the app, is not
    recent."""
    with limits(RECENT_AUTHENTICATION_AGE=600):
        browser.ask("login/ada")
        session = engine.SessionStore(browser.cookies[COOKIE].value)
        del session["_authenticated_at"]
        session.save()
        assert browser.since() is None
        assert not browser.sees_page()
        assert browser.ask("who").content == b"ada"


@pytest.mark.engines("memory")
def test_a_new_password_elsewhere(browser: Any, engine: Any, user: Any) -> None:
    """Django takes the user out of the session, however recent its sign-in."""
    with limits(RECENT_AUTHENTICATION_AGE=600):
        browser.ask("login/ada")
        assert browser.sees_page()
        user.set_password("another")
        get_user_model()._default_manager.filter(pk=user.pk).update(password=user.password)
        assert browser.ask("asked").content == b"True"
        assert not browser.sees_page()


@pytest.mark.engines("memory")
def test_it_costs_no_further_round_trip(browser: Any, engine: Any) -> None:
    with limits(RECENT_AUTHENTICATION_AGE=600):
        browser.ask("login/ada")
        with observed(engine.storage) as calls:
            assert browser.sees_page()
    assert calls == ["read"]


@pytest.mark.engines("memory")
def test_a_site_without_the_app(browser: Any, engine: Any) -> None:
    """No login would be noticed: better an error than a login page without end."""
    browser.ask("login/ada")
    others = [each for each in django_settings.INSTALLED_APPS if each != "django_sessionstores"]
    with override_settings(INSTALLED_APPS=others):
        assert browser.sees_page()
        with pytest.raises(ImproperlyConfigured, match="INSTALLED_APPS"):
            browser.ask("strict")


@pytest.mark.parametrize("age", [0, -1])
def test_an_age_that_nobody_could_meet(age: float) -> None:
    with pytest.raises(ValueError, match="more than 0"):
        recent_authentication_required(age=age)
    with pytest.raises(ValueError, match="more than 0"):
        recent_authentication.has_recent_authentication({}, age)


# Where who may not is sent ------------------------------------------------------------------------


def refused(**request: Any) -> HttpResponse:
    """What a stranger gets."""
    from django.contrib.auth.models import AnonymousUser

    make: Callable[..., HttpRequest] = getattr(RequestFactory(), request.pop("method", "get"))
    made = make(request.pop("path", "/page/?tab=2&x=%26"), **request)
    made.user = AnonymousUser()
    return page(made)  # type: ignore[no-any-return]


def test_back_to_the_page() -> None:
    """The address keeps its whole query."""
    response = refused()
    assert response.status_code == 302
    assert response["Location"] == "/sign-in/?next=%2Fpage%2F%3Ftab%3D2%26x%3D%2526"
    assert response["Vary"] == "Accept"


@pytest.mark.parametrize(
    ("referer", "way_back"),
    [
        ("http://testserver/account/?a=1#top", "?next=%2Faccount%2F%3Fa%3D1"),
        ("http://testserver/page/", "?next=%2Fpage%2F"),
        ("https://evil.example/", ""),
        ("//evil.example/", ""),
        ("javascript:alert(1)", ""),
        ("", ""),
    ],
)
def test_back_to_the_form(referer: str, way_back: str) -> None:
    """The form is shown again, but its data is not sent again. A link from another site cannot
    choose where the login page leads."""
    response = refused(method="post", headers={"referer": referer})
    assert response["Location"] == "/sign-in/" + way_back


def test_a_request_for_json_gets_no_page() -> None:
    """A script would follow the redirect and read a form."""
    response = refused(headers={"accept": "application/json", "referer": "http://testserver/app/"})
    assert response.status_code == 403
    assert json.loads(response.content) == {
        "detail": "Sign in again to continue.",
        "sign_in_url": "/sign-in/?next=%2Fapp%2F",
    }
    assert response["Vary"] == "Accept"


@pytest.mark.parametrize("accept", ["*/*", "text/html,application/json;q=0.9", "text/html"])
def test_a_browser_gets_the_login_page(accept: str) -> None:
    assert refused(headers={"accept": accept}).status_code == 302


@override_settings(LOGIN_URL="https://id.example/?lang=en")
def test_a_login_page_elsewhere() -> None:
    """It has to know the host, and may have a query."""
    response = refused(path="/page/")
    back = "http%3A%2F%2Ftestserver%2Fpage%2F"
    assert response["Location"] == f"https://id.example/?lang=en&next={back}"


@pytest.mark.engines("memory")
def test_who_is_signed_in_may_have_a_page_of_their_own(browser: Any, engine: Any) -> None:
    with limits(RECENT_AUTHENTICATION_URL="sign_in"), override_settings(LOGIN_URL="/strangers/"):
        assert browser.ask("strict")["Location"].startswith("/strangers/?next=")
        moment = now()
        with at(moment):
            browser.ask("login/ada")
        with at(moment + HOUR):
            assert browser.ask("strict")["Location"].startswith("/sign-in/?next=")


@pytest.mark.engines("memory")
def test_djangos_login_page_leads_back(engine: Any, user: Any) -> None:
    """All the way round, as a browser goes it."""
    user.set_password("right")
    user.save()
    client = Client()
    moment = now()
    with limits(RECENT_AUTHENTICATION_AGE=600):
        with at(moment):
            client.get("/login/ada/")
            assert client.get("/page/").status_code == 200
        with at(moment + HOUR):
            where = client.get("/page/?tab=2")["Location"]
            assert client.get("/who/").content == b"ada"
            sent = client.post(where, {"username": "ada", "password": "right"})
            assert sent["Location"] == "/page/?tab=2"
            assert client.get("/page/?tab=2").status_code == 200
