"""Checks of the demo: requests that test what its page promises, on any engine and store."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

from django.conf import settings
from django.db import connections
from django.test import Client

from testproject.setup import USERS, session_store
from testproject.showcase import ONE_OF_EACH, SIDES, is_same

_HOST: Final = "127.0.0.1"


class CheckFailed(Exception):
    """The demo does not do what its page promises."""


class Browser:
    """A visitor who keeps cookies and sends the CSRF token of the page."""

    def __init__(self, flavour: str, cookies: Any = None) -> None:
        self._client = Client(enforce_csrf_checks=True, SERVER_NAME=_HOST)
        self._root = flavour
        if cookies is not None:
            self._client.cookies.update(cookies)

    @property
    def cookies(self) -> Any:
        return self._client.cookies

    @property
    def session_cookie(self) -> str | None:
        morsel = self._client.cookies.get(settings.SESSION_COOKIE_NAME)
        return morsel.value if morsel and morsel.value else None

    @property
    def session(self) -> Any:
        """The session that is stored under the key in the cookie."""
        return session_store()(self.session_cookie)

    def page(self, path: str = "") -> str:
        """Return the HTML of the demo's page, or of the page at ``path``."""
        response = self._client.get(f"{self._root}{path}")
        _expect(
            response.status_code == 200,
            f"{response.request['PATH_INFO']} answers {response.status_code}",
        )
        return response.content.decode()

    def is_signed_in(self) -> bool:
        return "Signed in as" in self.page()

    def post(self, path: str, **fields: str) -> int:
        """Send a form; return the status of the response."""
        fields["csrfmiddlewaretoken"] = self._client.cookies[settings.CSRF_COOKIE_NAME].value
        return self._client.post(f"{self._root}{path}/", fields).status_code


def checks() -> Iterator[tuple[str, Callable[[str], None]]]:
    """Yield each check with a description.

    A check takes the path of the page, and raises `CheckFailed`.
    """
    yield "a visitor who stores nothing gets no session", _no_session_for_nothing
    yield "a nested change is kept without modified = True", _nested_change
    yield "signing in draws a new key, and the cart stays", _sign_in
    yield "the key from before signing in signs nobody in", _previous_key
    yield "values come back with the type they had", _types
    if session_store().storage().authoritative:
        yield "signing out ends the session", _sign_out
        yield "two parallel requests keep both their changes", _parallel
    if session_store().storage().lists:
        yield "one device signs out the others", _your_devices
    yield "a session that is to expire in a minute does", _expiry


def _no_session_for_nothing(flavour: str) -> None:
    browser = Browser(flavour)
    browser.page()
    _expect(browser.session_cookie is None, "a session cookie was set")


def _nested_change(flavour: str) -> None:
    browser = _visitor(flavour)
    browser.post("cart", fruit="apples")
    cart = browser.session["cart"]
    _expect(cart["apples"] == 2, f"two apples were added, the cart says {cart}")


def _sign_in(flavour: str) -> None:
    browser = _visitor(flavour)
    before = browser.session_cookie
    _sign_in_as_demo(browser)
    _expect(browser.is_signed_in(), "nobody is signed in")
    _expect(browser.session_cookie != before, "the key is still the same")
    _expect(browser.session["cart"]["apples"] == 1, "the cart was lost")


def _previous_key(flavour: str) -> None:
    browser = _visitor(flavour)
    other = Browser(flavour, browser.cookies)
    _sign_in_as_demo(browser)
    before = other.session_cookie
    _expect(not other.is_signed_in(), "the old key is signed in")
    _expect(other.session_cookie == before, "the cookie of a parallel request was taken away")


def _sign_out(flavour: str) -> None:
    browser = _visitor(flavour)
    _sign_in_as_demo(browser)
    browser.page()  # The page has the new CSRF token.
    other = Browser(flavour, browser.cookies)
    browser.post("sign-out")
    _expect(not other.is_signed_in(), "the key works after signing out")


def _your_devices(flavour: str) -> None:
    browser, other = _visitor(flavour), _visitor(flavour)
    for each in (browser, other):
        _sign_in_as_demo(each)
    page = browser.page("devices/")
    _expect("This device" in page, "this device is not in the list")
    _expect("Other devices" in page, "the other devices are not in the list")
    _expect(browser.post("devices/end-others") == 302, "the others were not signed out")
    _expect(not other.is_signed_in(), "the other device is still signed in")
    _expect(browser.is_signed_in(), "this device is no longer signed in")


def _types(flavour: str) -> None:
    browser = _visitor(flavour)
    browser.post("types")
    kept = browser.session["types"]
    changed = [name for name, value in ONE_OF_EACH.items() if not is_same(kept[name], value)]
    _expect(not changed, f"not the same: {', '.join(changed)}")


def _parallel(flavour: str) -> None:
    browser = _visitor(flavour)
    with ThreadPoolExecutor(len(SIDES)) as pool:
        answers = list(pool.map(lambda side: _write(flavour, browser.cookies, side), SIDES))
    counts = {side: browser.session.get(side) for side in SIDES}
    _expect(set(answers) == {200}, f"the requests were answered with {answers}")
    _expect(set(counts.values()) == {1}, f"each side wrote once, the session says {counts}")


def _expiry(flavour: str) -> None:
    browser = _visitor(flavour)
    browser.post("expiry", lifetime="minute")
    seconds = browser.session.get_expiry_age()
    _expect(seconds == 60, f"it expires in {seconds} seconds")


def _visitor(flavour: str) -> Browser:
    """Return a visitor with an apple in the cart."""
    browser = Browser(flavour)
    browser.page()
    _expect(browser.post("cart", fruit="apples") == 302, "the cart refused an apple")
    return browser


def _sign_in_as_demo(browser: Browser) -> None:
    status = browser.post("sign-in", username=USERS[0], password=USERS[0])
    _expect(status == 302, f"signing in was answered with {status}")


def _write(flavour: str, cookies: Any, side: str) -> int:
    try:
        return Browser(flavour, cookies).post("tabs", side=side)
    finally:
        connections.close_all()


def _expect(fact: bool, otherwise: str) -> None:
    if not fact:
        raise CheckFailed(otherwise)
