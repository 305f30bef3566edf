"""Sessions that Chromium binds to its device, on three kinds of store."""

from __future__ import annotations

import shutil
import ssl
import time
from collections.abc import Callable, Iterator
from http.cookies import SimpleCookie
from typing import TYPE_CHECKING, Any
from urllib.request import Request, urlopen

import pytest
from django.conf import settings as django_settings
from django.http import HttpResponse
from django.test import override_settings
from django.urls import path

from django_sessionstores import signals
from tests import test_device_binding
from tests.binding.chromium import BindingChromium, Certificate, serve_securely
from tests.services import temporary_folder
from tests.test_device_binding import BOUND, COOKIE, binding_settings, stored_binding

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

pytestmark = [
    pytest.mark.slow,
    pytest.mark.engines("db:sqlite", "cache:redis-cache", "cookie:sqlite"),
    pytest.mark.usefixtures("user"),
]

db = pytest.mark.engines("db:sqlite")

LIFETIME = 3
"""The seconds for which a bound cookie is valid, and for which it is accepted afterwards."""

requests: list[tuple[str, bool, int]] = []
"""The paths that were requested, whether with a bound cookie, and the statuses of the responses."""


def note_requests(get_response: Any) -> Any:
    """A middleware that notes what the browser requests."""

    def middleware(request: Any) -> Any:
        response = get_response(request)
        if request.path != "/favicon.ico":
            requests.append((request.path, BOUND in request.COOKIES, response.status_code))
        return response

    return middleware


def page_of_parts(request: Any) -> HttpResponse:
    """A page whose parts are requested at the same time."""
    parts = "".join(f'<iframe src="/who/?{number}"></iframe>' for number in range(5))
    return HttpResponse(f"<!doctype html><title>Parts</title>{parts}")


urlpatterns = [*test_device_binding.urlpatterns, path("parts/", page_of_parts)]


@pytest.fixture
def certificate() -> Iterator[Certificate]:
    # The path of pytest's folder is too long for a socket of Chromium.
    folder = temporary_folder()
    yield Certificate(folder)
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def address(engine: Any, certificate: Certificate) -> Iterator[str]:
    """Yield the address of the site."""
    requests.clear()
    _, *others = django_settings.MIDDLEWARE
    ours = "django_sessionstores.middleware.SessionMiddleware"
    with (
        override_settings(
            ROOT_URLCONF=__name__,
            MIDDLEWARE=[f"{__name__}.note_requests", ours, *others],
            SESSION_COOKIE_SECURE=True,
        ),
        binding_settings(DEVICE_BINDING="prefer", DEVICE_BINDING_LIFETIME=LIFETIME),
        serve_securely(certificate) as found,
    ):
        yield found


@pytest.fixture
def window(address: str, certificate: Certificate) -> Iterator[Window]:
    with BindingChromium(certificate) as chromium:
        yield Window(chromium, address)


class Window:
    """The window of a browser that binds its sessions."""

    def __init__(self, chromium: BindingChromium, address: str) -> None:
        self._chromium = chromium
        self.address = address

    def do(self, what: Callable[[Page], Any]) -> Any:
        def act(browser: Browser) -> Any:
            return what(browser.contexts[0].pages[0])

        return self._chromium.do(act)

    def ask(self, route: str) -> str:
        """Return the text of a page."""

        def visit(page: Page) -> str:
            response = page.goto(f"{self.address}/{route}/", timeout=30_000)
            assert response is not None
            return response.text()

        return str(self.do(visit))

    def cookies(self) -> dict[str, str]:
        held = self.do(lambda page: page.context.cookies(self.address))
        return {cookie["name"]: cookie["value"] for cookie in held}

    @property
    def cookie(self) -> str:
        return self.cookies()[COOKIE]


def wait_for(question: Callable[[], bool]) -> None:
    """Wait until the browser has done something. What takes longer than this is broken."""
    for _ in range(300):
        if question():
            return
        time.sleep(0.1)
    raise AssertionError(f"The browser has requested {requests}.")


def asked(route: str) -> list[int]:
    """Return the statuses of the responses to the requests for a path."""
    return [status for found, _, status in requests if found == f"/{route}/"]


def with_copied(address: str, cookies: dict[str, str]) -> str:
    """Return the name of the user whom a program with copied cookies is signed in as."""
    header = "; ".join(f"{name}={value}" for name, value in cookies.items())
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with urlopen(Request(f"{address}/who/", headers={"Cookie": header}), context=context) as found:
        return str(found.read().decode())


def sign_in(window: Window) -> None:
    """Sign in, and wait until the session is bound."""
    window.ask("login/ada")
    wait_for(lambda: BOUND in window.cookies())


def test_a_session_is_bound_and_refreshed(engine: Any, window: Window) -> None:
    """The browser refreshes its bound cookie before requests that would lack it."""
    sign_in(window)
    assert asked("device/start") == [200]
    first = window.cookies()[BOUND]
    for route, number in (("who", 1), ("parts", 5)):
        time.sleep(LIFETIME + 1)
        requests.clear()
        window.ask(route)
        wait_for(lambda number=number: len(asked("who")) == number)
        assert all(has_cookie for path, has_cookie, _ in requests if path == "/who/")
        # None needs a second request, because the challenge came with the response before. There
        # may be several, because Chromium also refreshes a cookie that is about to expire.
        assert set(asked("device/refresh")) == {200}
        assert window.ask("who") == "ada"
    assert window.cookies()[BOUND] != first


def test_copied_cookies(engine: Any, window: Window) -> None:
    """They work until the bound cookie has expired. The browser of the user goes on."""
    reasons = list[str]()

    def note(reason: str, **kwargs: Any) -> None:
        reasons.append(reason)

    signals.session_rejected.connect(note)
    try:
        sign_in(window)
        copied = window.cookies()
        assert with_copied(window.address, copied) == "ada"
        time.sleep(2 * LIFETIME + 1)
        assert window.ask("who") == "ada"
        assert with_copied(window.address, copied) == ""
        assert with_copied(window.address, {COOKIE: window.cookie}) == ""
        assert window.ask("who") == "ada"
        assert reasons == ["no proof"]
    finally:
        signals.session_rejected.disconnect(note)


def test_logging_out_and_in(engine: Any, window: Window) -> None:
    """The next session is bound to another key, and its browser forgets the first one."""
    sign_in(window)
    first = stored_binding(engine, WithCookie(window.cookie))
    window.ask("logout")
    # With sessions in cookies, a refresh that was under way may have brought another one since. It
    # is that of a session that has ended.
    assert window.ask("who") == ""
    time.sleep(LIFETIME + 1)
    assert window.ask("who") == ""
    requests.clear()
    sign_in(window)
    assert asked("device/start") == [200]
    second = stored_binding(engine, WithCookie(window.cookie))
    assert first is not None
    assert second is not None
    assert first.id != second.id
    time.sleep(LIFETIME + 1)
    assert window.ask("who") == "ada"


@db
def test_signing_in_at_once_after_a_logout(window: Window) -> None:
    """The bound cookie of the first session is still there, and is not that of the second one."""
    sign_in(window)
    window.ask("logout")
    requests.clear()
    window.ask("login/ada")
    wait_for(lambda: asked("device/start") == [200])
    for _ in range(2):
        time.sleep(LIFETIME + 1)
        assert window.ask("who") == "ada"


@pytest.mark.engines("cache:redis-cache")
def test_a_key_that_is_rotated(window: Window) -> None:
    with binding_settings(ROTATE_AFTER=1):
        sign_in(window)
        before = window.cookie
        time.sleep(LIFETIME + 1)
        assert window.ask("who") == "ada"
        assert window.cookie != before
        time.sleep(LIFETIME + 1)
        assert window.ask("who") == "ada"


@db
def test_the_option_is_removed(window: Window) -> None:
    """The browser forgets the binding, and asks no more."""
    sign_in(window)
    with binding_settings(DEVICE_BINDING=""):
        time.sleep(LIFETIME + 1)
        assert window.ask("who") == "ada"
        requests.clear()
        time.sleep(LIFETIME + 1)
        assert window.ask("who") == "ada"
        assert asked("device/refresh") == []
    assert window.ask("who") == "ada"


class WithCookie:
    """A browser with a session cookie, as `stored_binding` wants one."""

    def __init__(self, cookie: str) -> None:
        self.cookies = SimpleCookie({COOKIE: cookie})
