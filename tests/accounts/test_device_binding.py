"""Views that require a session that is bound to a device, or a recent login."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from asgiref.sync import async_to_sync
from django.conf import settings as django_settings
from django.contrib.auth.views import LoginView
from django.core.exceptions import ImproperlyConfigured
from django.http import HttpRequest, HttpResponse
from django.test import RequestFactory, override_settings
from django.urls import path
from django.utils.decorators import method_decorator
from django.views.generic import View

from django_sessionstores.accounts import ais_bound, bound_session_required, is_bound
from django_sessionstores.core.clock import now
from django_sessionstores.testing import HOUR, at
from tests import test_device_binding, urls
from tests.binding.browsers import BoundBrowser
from tests.test_device_binding import COOKIE, MINUTE, binding_settings

pytestmark = [pytest.mark.engines("memory", "db:sqlite", "cookie:sqlite")]
pytestmark += [pytest.mark.usefixtures("user")]


@bound_session_required
def page(request: HttpRequest) -> HttpResponse:
    return HttpResponse(str(is_bound(request.session)))


@bound_session_required
async def apage(request: HttpRequest) -> HttpResponse:
    return HttpResponse(str(await ais_bound(request.session)))


@bound_session_required(age=60)
def strict(request: HttpRequest) -> HttpResponse:
    return HttpResponse("page")


@bound_session_required(age=60)
async def astrict(request: HttpRequest) -> HttpResponse:
    return HttpResponse("page")


@method_decorator(bound_session_required, name="dispatch")
class Page(View):
    def get(self, request: HttpRequest) -> HttpResponse:
        return HttpResponse("page")


@method_decorator(bound_session_required, name="dispatch")
class AsyncPage(View):
    async def get(self, request: HttpRequest) -> HttpResponse:
        return HttpResponse("page")


urlpatterns = [
    *test_device_binding.urlpatterns,
    *urls.sync_and_async(
        ("page/", page, apage),
        ("strict/", strict, astrict),
        ("class/", Page.as_view(), AsyncPage.as_view()),
    ),
    path("sign-in/", LoginView.as_view(), name="sign_in"),
]


@pytest.fixture(autouse=True)
def _site(engine: Any) -> Iterator[None]:
    _, *others = django_settings.MIDDLEWARE
    middleware = ["django_sessionstores.middleware.SessionMiddleware", *others]
    with (
        override_settings(ROOT_URLCONF=__name__, MIDDLEWARE=middleware, LOGIN_URL="/sign-in/"),
        binding_settings(DEVICE_BINDING="prefer"),
    ):
        yield


@pytest.fixture(params=["sync", "async"])
def browser(request: pytest.FixtureRequest) -> BoundBrowser:
    return BoundBrowser(is_async=request.param == "async")


ROUTES = ("page", "strict", "class")


def sees(browser: BoundBrowser, route: str) -> bool:
    response = browser.ask(route)
    assert response.status_code in {200, 302}
    return bool(response.status_code == 200)


def test_a_bound_session_is_enough(browser: BoundBrowser) -> None:
    browser.log_in()
    with at(now() + HOUR):
        browser.refresh()
        assert all(sees(browser, route) for route in ROUTES)
        assert browser.ask("page").content == b"True"
        assert not any(sees(browser.copied(COOKIE), route) for route in ROUTES)


def test_a_copied_cookie_in_the_first_minute(browser: BoundBrowser) -> None:
    """It is served, but it is not the proof of a device."""
    browser.log_in()
    assert browser.ask("page").content == b"True"
    assert browser.copied(COOKIE).ask("page").content == b"False"


def test_other_browsers_sign_in_again(browser: BoundBrowser) -> None:
    moment = now()
    with at(moment):
        browser.ask("login/ada")
        assert all(sees(browser, route) for route in ROUTES)
        assert browser.ask("page").content == b"False"
    with at(moment + 2 * MINUTE):
        assert [sees(browser, route) for route in ROUTES] == [True, False, True]
    with at(moment + HOUR):
        assert not any(sees(browser, route) for route in ROUTES)
        assert browser.ask("page").url.startswith("/sign-in/?next=")
        assert browser.ask("page", Accept="application/json").status_code == 403
        browser.ask("login/ada")
        assert all(sees(browser, route) for route in ROUTES)


def test_the_age_of_the_settings(browser: BoundBrowser) -> None:
    moment = now()
    with binding_settings(RECENT_AUTHENTICATION_AGE=7200):
        with at(moment):
            browser.ask("login/ada")
        with at(moment + HOUR):
            assert sees(browser, "page")
        with at(moment + 3 * HOUR):
            assert not sees(browser, "page")


def test_a_visitor(browser: BoundBrowser) -> None:
    assert not sees(browser, "page")


def test_a_binding_that_nothing_verifies(engine: Any, browser: BoundBrowser) -> None:
    """Without the option, and outside of requests, it does not count."""
    browser.log_in()
    session = engine.SessionStore(browser.cookies[COOKIE].value)
    assert not is_bound(session)
    assert not async_to_sync(ais_bound)(session)
    assert not is_bound({})
    with at(now() + HOUR), binding_settings(DEVICE_BINDING=""):
        assert browser.user() == "ada"
        assert not sees(browser, "page")


def test_wrong_arguments() -> None:
    with pytest.raises(ValueError, match="age is 0"):
        bound_session_required(age=0)
    request = RequestFactory().get("/")
    request.session = {}  # type: ignore[assignment]
    with pytest.raises(ImproperlyConfigured, match="Only sessions of django_sessionstores"):
        page(request)
