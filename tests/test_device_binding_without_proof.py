"""Requests without a proof, to the URLs for proofs above all: they neither see nor change the
session."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from html import unescape
from typing import Any
from unittest import mock

import pytest
from asgiref.sync import iscoroutinefunction, markcoroutinefunction
from django.conf import settings as django_settings
from django.core.signals import got_request_exception
from django.http import HttpRequest, HttpResponse
from django.test import RequestFactory, override_settings
from django.views.debug import ExceptionReporter

from django_sessionstores.core.clock import now
from django_sessionstores.devices import binding_views
from django_sessionstores.inventory import Inventory
from django_sessionstores.middleware import SessionMiddleware
from django_sessionstores.testing import HOUR, at
from tests import test_device_binding_attacks
from tests.binding.browsers import BoundBrowser, part
from tests.test_device_binding import COOKIE, ENGINES, MINUTE, binding_settings, stored_binding

pytestmark = [pytest.mark.engines(*ENGINES), pytest.mark.usefixtures("user")]


# Fixture.
_site = test_device_binding_attacks._site


@pytest.fixture(params=["sync", "async"])
def browser(request: pytest.FixtureRequest) -> Iterator[BoundBrowser]:
    """Yield a browser whose session was bound an hour ago, and whose bound cookie has expired."""
    browser = BoundBrowser(is_async=request.param == "async")
    moment = now()
    with at(moment):
        browser.ask("write/color/green")
        browser.log_in()
    with at(moment + HOUR):
        yield browser


def ask_for_challenge(browser: BoundBrowser) -> Any:
    return browser.send_proof(None)


def name_another_binding(browser: BoundBrowser) -> Any:
    return browser.send_proof(None, "another")


def send_a_wrong_proof(browser: BoundBrowser) -> Any:
    return browser.send_proof("wrong")


def register(browser: BoundBrowser) -> Any:
    return browser.ask("device/start", "post", Secure_Session_Response="wrong")


@pytest.fixture(params=[ask_for_challenge, name_another_binding, send_a_wrong_proof, register])
def unproven(request: pytest.FixtureRequest) -> Callable[[BoundBrowser], Any]:
    """Return a function that sends a request without the proof of the device."""
    act: Callable[[BoundBrowser], Any] = request.param
    return act


def facts() -> list[Any]:
    """Return what lists show of the session."""
    return [
        (each.id, each.last_activity, each.expires, each.ip, each.user_agent)
        for each in Inventory().list().sessions
    ]


@pytest.mark.parametrize(
    "options",
    [{"ACTIVITY_INTERVAL": 1, "IDLE_TIMEOUT": 7200}, {"ROTATE_AFTER": 60}, {}],
    ids=["activity", "rotation", "every"],
)
def test_it_changes_nothing(
    browser: BoundBrowser, unproven: Callable[[BoundBrowser], Any], options: dict[str, Any]
) -> None:
    """It keeps no session alive, and brings no key: the sender may have a copied cookie only."""
    before, thief = facts(), browser.copied(COOKIE)
    thief.binding = browser.binding
    thief.client.defaults.update({"HTTP_USER_AGENT": "other", "REMOTE_ADDR": "192.0.2.1"})
    every = override_settings(SESSION_SAVE_EVERY_REQUEST=not options)
    with binding_settings(**options), every, at(now() + 2 * MINUTE):
        assert COOKIE not in unproven(thief).cookies
        assert facts() == before
        assert browser.refresh().status_code == 200
        assert browser.user() == "ada"


def test_other_middlewares_do_not_see_the_session(
    browser: BoundBrowser, unproven: Callable[[BoundBrowser], Any]
) -> None:
    """Nor does what they store replace it: the browser is about to bring the proof."""
    middleware = [*django_settings.MIDDLEWARE, f"{__name__}.name_user"]
    with override_settings(MIDDLEWARE=middleware):
        again = with_other_middlewares(browser)
        response = unproven(again)
        assert response.headers["X-User"] == ""
        assert COOKIE not in response.cookies
        response = again.refresh()
        assert response.status_code == 200
        assert again.user() == "ada"
        assert again.ask("read").json()["named"] == "ada"


def name_user(get_response: Any) -> Any:
    """A middleware that names the user of each request, and stores the name in the session."""
    if iscoroutinefunction(get_response):

        async def amiddleware(request: Any) -> Any:
            response = await get_response(request)
            response["X-User"] = (await request.auser()).get_username()
            await request.session.aset("named", response["X-User"])
            return response

        return markcoroutinefunction(amiddleware)

    def middleware(request: Any) -> Any:
        response = get_response(request)
        response["X-User"] = request.user.get_username()
        request.session["named"] = response["X-User"]
        return response

    return middleware


name_user.async_capable = name_user.sync_capable = True  # type: ignore[attr-defined]


def with_other_middlewares(browser: BoundBrowser) -> BoundBrowser:
    """Return the same browser for the middlewares of the settings now.

    A test client keeps the middlewares of its first request.
    """
    again = browser.copied()
    again.device, again.binding = browser.device, browser.binding
    again.challenge = browser.challenge
    return again


def test_a_request_without_https_ends_no_binding(engine: Any, browser: BoundBrowser) -> None:
    """The id of a binding is not a secret: logs of a proxy may have it."""
    thief, binding = browser.copied(COOKIE), stored_binding(engine, browser)
    options = {"secure": False, "Sec_Secure_Session_Id": str(browser.binding)}
    assert thief.ask("device/refresh", "post", **options).status_code == 503
    assert binding is not None
    assert stored_binding(engine, browser) == binding
    assert thief.user() == ""
    assert browser.refresh().json()["session_identifier"] == binding.id


@pytest.mark.parametrize("removes", [True, False])
def test_other_settings_end_a_binding_with_its_proof(
    engine: Any, browser: BoundBrowser, removes: bool
) -> None:
    """The option is removed, or cookies are for a whole domain, and maybe only for a while."""
    thief = browser.copied(COOKIE)
    thief.binding = browser.binding
    options = {"DEVICE_BINDING": ""} if removes else {}
    domain = None if removes else "testserver"
    with binding_settings(**options), override_settings(SESSION_COOKIE_DOMAIN=domain):
        assert thief.send_proof(None).status_code == 403
        assert stored_binding(engine, browser)
        assert browser.refresh().json()["continue"] is False
        assert stored_binding(engine, browser) is None


@pytest.mark.parametrize("ends", [True, False])
def test_login_is_not_required(browser: BoundBrowser, ends: bool) -> None:
    """A browser that has no proof yet is anonymous, and must be able to bring it."""
    required = "django.contrib.auth.middleware.LoginRequiredMiddleware"
    middleware = [*django_settings.MIDDLEWARE, required]
    with override_settings(MIDDLEWARE=middleware), binding_settings(END_WITHOUT_PROOF=ends):
        again = with_other_middlewares(browser)
        assert again.refresh().status_code == 200
        assert again.request("get", "/async/who/" if again.is_async else "/who/").content == b"ada"


def test_an_error_report_shows_no_proof(browser: BoundBrowser) -> None:
    """It goes by mail or to a service, and the proof may still be valid there. Nor does it show
    what is in the session."""
    browser.refresh()
    browser.client.raise_request_exception = False
    reports = list[str]()

    def note(request: Any, **kwargs: Any) -> None:
        reporter = ExceptionReporter(request, *sys.exc_info())
        reports.append(unescape(reporter.get_traceback_html()) + reporter.get_traceback_text())

    got_request_exception.connect(note)
    with mock.patch.object(binding_views, "describe_binding", broken):
        challenge = str(browser.challenge)
        response = browser.send_proof(challenge)
    got_request_exception.disconnect(note)
    assert response.status_code == 500
    [report] = reports
    assert "_store" in report
    shown = [name for name, cookie in browser.cookies.items() if cookie.value in report]
    assert shown == []
    assert part({"jti": challenge}) not in report
    assert repr("green") not in report  # As variables are shown, and the source of this test not.


def broken(*args: Any) -> None:
    raise RuntimeError


def test_a_new_password_ends_the_session(engine: Any, user: Any, browser: BoundBrowser) -> None:
    """It is not spared as the session of the request in which the user sets the password."""

    def reset_password(request: HttpRequest) -> HttpResponse:
        assert request.session.get("color") is None
        user.set_password("another")
        user.save()
        return HttpResponse()

    request = RequestFactory().get("/", secure=True)
    request.COOKIES[COOKIE] = browser.cookies[COOKIE].value
    SessionMiddleware(reset_password)(request)
    assert facts() == []
    assert browser.send_proof(None).json()["continue"] is False
