"""The pages and the interface with which users see and end their own sessions."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from unittest import mock
from urllib.parse import urljoin

import pytest
from asgiref.sync import async_to_sync
from django.conf import settings
from django.contrib.auth import get_user_model
from django.contrib.auth.models import AnonymousUser
from django.http import HttpRequest
from django.template import Context, RequestContext, Template
from django.test import AsyncClient, Client, RequestFactory, override_settings
from django.urls import include, path, resolve, reverse
from openapi_core import OpenAPI
from openapi_core.contrib.django import DjangoOpenAPIRequest, DjangoOpenAPIResponse

from django_sessionstores.core.clock import now
from django_sessionstores.core.records import Client as Who
from django_sessionstores.core.records import session_id
from django_sessionstores.devices import sessions as your_sessions
from django_sessionstores.devices import views
from django_sessionstores.devices.sessions import YourSessions
from django_sessionstores.exceptions import CannotList, PartlyEnded, StorageUnavailable
from django_sessionstores.inventory import Inventory
from django_sessionstores.inventory import ending as inventory_ending
from django_sessionstores.inventory.ending import Ending
from django_sessionstores.inventory.listing import Listing
from django_sessionstores.sessions.state import RequestPolicy
from django_sessionstores.templatetags.sessionstores import breakable
from django_sessionstores.testing import DAY, HOUR, Twin, at, observed
from tests import urls
from tests.browser import Chromium, Site
from tests.devices.test_names import CITY, database
from tests.pages import FIREFOX, MIDDLEWARE, WIDTHS, problems_of, window
from tests.services import skip_or_fail
from tests.sessions.test_lifetimes import limits
from tests.stored_sessions import is_alive

IPHONE = (
    "Mozilla/5.0 (iPhone; CPU iPhone OS 18_6 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like "
    "Gecko) Version/18.6 Mobile/15E148 Safari/604.1"
)
UNKNOWN = session_id("nobody's")

ENGINES = pytest.mark.engines(
    "memory", "file", "db:sqlite", "cached_db:locmem+sqlite", "cookie:sqlite", "cache:redis-cache"
)
# The memory forgets its sessions when a setting of the package changes.
OTHER_ENGINES = pytest.mark.engines(
    "file", "db:sqlite", "cached_db:locmem+sqlite", "cookie:sqlite", "cache:redis-cache"
)
ONE_ENGINE = pytest.mark.engines("db:sqlite")
OURS = MIDDLEWARE[0]
DJANGOS = "django.contrib.sessions.middleware.SessionMiddleware"

urlpatterns = [
    *urls.urlpatterns,
    path("sync/devices/", include("django_sessionstores.urls", namespace="sync_devices")),
    path("async/devices/", include("django_sessionstores.async_urls", namespace="async_devices")),
    path(
        "shop/<slug:tenant>/",
        include(([path("devices/", include("django_sessionstores.urls"))], "shop")),
    ),
]


def in_force(**settings: Any) -> Any:
    """Return the settings of a site that has the pages."""
    return override_settings(**{"MIDDLEWARE": MIDDLEWARE, "ROOT_URLCONF": __name__, **settings})


@pytest.fixture(params=["sync", "async"])
def flavour(request: pytest.FixtureRequest, engine: Any) -> Iterator[str]:
    """Of which views are asked."""
    with in_force():
        yield request.param


@pytest.fixture
def site(engine: Any, flavour: str) -> Any:
    """Return an engine that lists, on a site that has the pages."""
    if not engine.storage.lists:
        pytest.skip(f"{engine.id} declares that it cannot list")
    return engine


def person(name: str) -> Any:
    return get_user_model()._default_manager.create(username=name)


@pytest.fixture
def ada(site: Any) -> Any:
    return person("ada")


class Browser:
    """One of a user, that asks the pages of one flavour."""

    def __init__(self, flavour: str, user: Any = None, *, checks: bool = False) -> None:
        self.root = f"/{flavour}/devices/"
        self._is_async = flavour == "async"
        kind: Any = AsyncClient if self._is_async else Client
        self.client = kind(enforce_csrf_checks=checks)
        if user is not None:
            self.sign_in(user)

    def sign_in(self, user: Any) -> None:
        self._ask("get", f"{'/async' if self._is_async else ''}/login/{user.username}/")

    def _ask(self, method: str, url: str, *data: Any, **options: Any) -> Any:
        call = getattr(self.client, method)
        options["headers"] = {"user-agent": FIREFOX, **options.get("headers", {})}
        return (async_to_sync(call) if self._is_async else call)(url, *data, **options)

    def get(self, url: str = "", **options: Any) -> Any:
        return self._ask("get", self._url(url), **options)

    def post(self, url: str, **data: Any) -> Any:
        return self._ask("post", self._url(url), data, follow=True)

    def ask(self, method: str, url: str = "", **options: Any) -> Any:
        return self._ask(method, self._url(url), **options)

    def _url(self, url: str) -> str:
        return url if url.startswith("/") else self.root + url

    @property
    def session(self) -> Any:
        """As it is stored."""
        return self.client.session

    @property
    def is_signed_in(self) -> bool:
        return text(self.get(f"{'/async' if self._is_async else ''}/who/")) != ""


@pytest.fixture
def browser(site: Any, flavour: str, ada: Any) -> Browser:
    return Browser(flavour, ada)


@pytest.fixture
def another(site: Any, flavour: str, ada: Any, browser: Browser) -> Browser:
    """Return a second browser of the same user."""
    return Browser(flavour, ada)


def stored(engine: Any, user: Any, ip: str = "192.0.2.1", agent: str = IPHONE) -> Any:
    """Return a session of a user."""
    session = engine.SessionStore()
    session.policy = RequestPolicy(client=lambda: Who(ip, agent))
    session["_auth_user_id"] = str(user.pk)
    session.save()
    return session


def text(response: Any) -> str:
    content: str = response.content.decode()
    return content


def said(response: Any) -> str:
    """Return the messages at the top of a page."""
    told = re.findall(r'<p class="ssd-message[^>]*>(.*?)</p>', text(response), re.DOTALL)
    return " ".join(told)


def shown(response: Any) -> list[str]:
    """Return the devices on a page, in order."""
    return re.findall(r'<p class="ssd-name"><bdi>(.*?)</bdi>', text(response))


# The list -----------------------------------------------------------------------------------------


@ENGINES
def test_the_list_shows_what_its_user_recognises(
    site: Any, ada: Any, browser: Browser, tmp_path: Path
) -> None:
    """This device first, the others by last activity; nothing of anybody else."""
    with at(now() - 2 * DAY):
        stored(site, ada, agent="curl/8.5.0", ip="198.51.100.7")
    with at(now() - 2 * HOUR):
        stored(site, ada)
    stored(site, person("bartholomew"), agent="bartholomew's own", ip="203.0.113.7")
    with override_settings(GEOIP_PATH=database(tmp_path, "GeoLite2-City", CITY)):
        page = browser.get()
    assert shown(page) == ["Firefox on Linux", "Safari on iPhone", "curl"]
    for words in ("127.0.0.1", "192.0.2.1", "Uppsala, Sweden", "198.51.100.7"):
        assert words in text(page)
    for words in ("just now", "2\xa0hours\xa0ago", "2\xa0days\xa0ago", 'dir="ltr"'):
        assert words in text(page)
    assert text(page).count("Sign out<") == 2
    assert f"{browser.root}{browser.session.session_id}/" not in text(page)
    # Three letters would be in one of a thousand CSRF tokens.
    assert "bartholomew" not in text(page)
    assert "203.0.113.7" not in text(page)


@ONE_ENGINE
@pytest.mark.parametrize(
    ("middleware", "options", "records_clients", "records_reads"),
    [
        (OURS, {}, True, True),
        (OURS, {"ACTIVITY_INTERVAL": 0}, True, False),
        (DJANGOS, {}, False, False),
        (DJANGOS, {"IDLE_TIMEOUT": 3600}, False, True),
    ],
)
def test_the_list_says_what_is_not_recorded(
    site: Any,
    ada: Any,
    flavour: str,
    middleware: str,
    options: dict[str, Any],
    records_clients: bool,
    records_reads: bool,
) -> None:
    """A time that leaves visits out is not called the last activity. That of this device is."""
    stored(site, ada)
    with limits(**options), override_settings(MIDDLEWARE=[middleware, *MIDDLEWARE[1:]]):
        page = text(Browser(flavour, ada).get())
        listed = Browser(flavour, ada).get("api/").json()
    assert listed["records_reads"] is records_reads
    assert ("This site does not record which device" in page) is not records_clients
    assert ("The last change is when this site" in page) is not records_reads
    assert page.count("<dt>Last activity</dt>") == 1 + records_reads
    assert page.count("<dt>Last change</dt>") == 1 - records_reads


def test_a_long_address_breaks_between_its_groups() -> None:
    """The parts of the address are escaped, wherever it comes from."""
    assert breakable("2001:db8::1") == "2001:<wbr>db8:<wbr>:<wbr>1"
    assert breakable("ada@example.com") == "ada<wbr>@example.com"
    assert breakable("<b>") == "&lt;b&gt;"


@ENGINES
def test_the_current_device_is_in_use(site: Any, ada: Any, flavour: str) -> None:
    """The current device is in use now, although the store knows only an earlier time."""
    with at(now() - 3 * DAY):
        browser = Browser(flavour, ada)
    page = text(browser.get())
    assert "3\xa0days\xa0ago" in page
    assert "just now" in page


@ENGINES
def test_the_only_device(site: Any, browser: Browser) -> None:
    """There are no other devices to sign out."""
    page = browser.get()
    assert shown(page) == ["Firefox on Linux"]
    assert "You are not signed in anywhere else." in text(page)
    assert "<form" not in text(page)
    assert "You are not signed in anywhere else." in text(browser.get("end-others/"))


@ENGINES
def test_one_look_at_the_store(site: Any, ada: Any, browser: Browser) -> None:
    """The page makes one query, however many devices there are."""
    counts = []
    for _ in range(2):
        with observed(site.storage) as calls:
            browser.get()
        counts.append(calls)
        for _ in range(9):
            stored(site, ada)
    assert counts[0] == counts[1]
    assert counts[0].count("scan") == 1


@ENGINES
def test_more_devices_than_a_page_has(
    site: Any, ada: Any, browser: Browser, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each is on one of the pages, by last activity; this one and the true number are on all."""
    monkeypatch.setattr(your_sessions, "PER_PAGE", 3)
    monkeypatch.setattr(your_sessions, "MAX_LISTED", 3)
    for hours in range(1, 8):
        with at(now() - hours * HOUR):
            stored(site, ada, agent=f"{hours}-hours")
    seen = []
    for number in (1, 2, 3):
        page = browser.get(f"?page={number}" if number > 1 else "")
        this, *others = shown(page)
        assert this == "Firefox on Linux"
        assert "In all, 7 other devices are signed in." in text(page)
        assert ('rel="prev"' in text(page)) is (number > 1)
        assert ('rel="next"' in text(page)) is (number < 3)
        assert f"Page {number}<" in text(page)
        # Nobody has to scroll past all of them for this.
        assert "Sign out all other devices…" in text(page).partition("/end/")[0]
        seen += others
    assert seen == [f"{hours}-hours" for hours in range(1, 8)]
    for url in ("?page=4", f"?page={'9' * 20}", "?page=-1", "?page=x"):
        assert len(shown(browser.get(url))) == (2 if url == "?page=4" else 4)
    assert "In all, 7 other devices are signed in." not in text(browser.get("end-others/"))
    assert browser.get("api/").json()["is_complete"] is False


@ENGINES
def test_after_one_was_signed_out_its_page_is_shown_again(
    site: Any, ada: Any, browser: Browser, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(your_sessions, "PER_PAGE", 2)
    for _ in range(5):
        stored(site, ada)
    page = text(browser.get("?page=2"))
    action = re.search(r'action="([^"]+/end/\?page=2)"', page)
    assert action is not None
    assert f'href="{browser.root}?page=2"' in text(browser.get(action[1]))
    answer = browser.post(action[1])
    assert said(answer) == "The device was signed out."
    assert "Page 2<" in text(answer)
    assert "In all, 4 other devices are signed in." in text(answer)


@ENGINES
def test_more_devices_than_are_sorted(
    site: Any, ada: Any, browser: Browser, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The number is true all the same, and to sign out all others means all of them."""
    monkeypatch.setattr(your_sessions, "PER_PAGE", 2)
    monkeypatch.setattr(your_sessions, "MAX_SORTED", 4)
    for _ in range(9):
        stored(site, ada)
    page = text(browser.get())
    assert "In all, 9 other devices are signed in. These pages have only some of them." in page
    assert said(browser.post("end-others/")) == "9 other devices were signed out."
    assert "Page 1<" not in text(browser.get())


@ENGINES
def test_an_icon_tells_the_kind_of_a_device(site: Any, ada: Any, browser: Browser) -> None:
    """Also to a reader who does not see it."""
    stored(site, ada)
    stored(site, ada, agent="curl/8.5.0")
    stored(site, ada, agent="")
    icons = re.findall(
        r'<svg class="ssd-icon"[^>]* role="img" aria-label="([^"]+)"', text(browser.get())
    )
    assert icons[0] == "Computer"
    assert sorted(icons[1:]) == ["Phone", "Program", "Unknown device"]


@ENGINES
def test_the_question_is_not_below_hundreds_of_devices(
    site: Any, ada: Any, browser: Browser
) -> None:
    """It shows the first of them, and says that there are more."""
    for _ in range(20):
        stored(site, ada)
    page = browser.get("end-others/")
    assert len(shown(page)) == 20
    assert "In all," not in text(page)
    stored(site, ada)
    page = browser.get("end-others/")
    assert len(shown(page)) == 20
    assert "In all, 21 other devices are signed in." in text(page)


# Ending -------------------------------------------------------------------------------------------


@ENGINES
def test_end_one(site: Any, ada: Any, browser: Browser, another: Browser) -> None:
    """A POST signs the device out, and the others stay."""
    third = stored(site, ada)
    url = f"{another.session.session_id}/end/"
    assert f'action="{browser.root}{url}"' in text(browser.get())
    question = browser.get(url)
    assert "Sign out this device?" in text(question)
    assert shown(question) == ["Firefox on Linux"]
    assert another.is_signed_in
    answer = browser.post(url)
    assert said(answer) == "The device was signed out."
    assert shown(answer) == ["Firefox on Linux", "Safari on iPhone"]
    assert not another.is_signed_in
    assert is_alive(site, third)
    assert browser.is_signed_in


@ENGINES
def test_end_what_is_not_there(site: Any, ada: Any, browser: Browser) -> None:
    """Somebody else's, a visitor's, what has ended, and what is no id: told alike, and nothing
    ends."""
    theirs, gone, visitor = stored(site, person("bob")), stored(site, ada), site.SessionStore()
    visitor["x"] = 1
    visitor.save()
    browser.post(f"{gone.session_id}/end/")
    ids = [theirs.session_id, visitor.session_id, gone.session_id, UNKNOWN, "nonsense", "A" * 40]
    answers = []
    for id_ in ids:
        answer = browser.post(f"{id_}/end/")
        assert answer.status_code == 404
        assert said(answer).startswith("This is not one of your devices")
        assert browser.get(f"{id_}/end/").status_code == 404
        answer = browser.ask("delete", f"api/{id_}/")
        assert answer.status_code == 404
        answers.append(answer.content)
    assert set(answers) == {answers[0]}
    assert is_alive(site, theirs)
    assert is_alive(site, visitor)


@ENGINES
def test_the_current_one_is_not_ended(site: Any, browser: Browser) -> None:
    """Signing out is for that, which a site does in its own way."""
    url = browser.session.session_id
    for answer in (browser.get(f"{url}/end/"), browser.post(f"{url}/end/")):
        assert answer.status_code == 409
        assert "the device that you are using" in said(answer)
    answer = browser.ask("delete", f"api/{url}/")
    assert (answer.status_code, answer.json()["code"]) == (409, "is_current")
    assert browser.is_signed_in


@ENGINES
def test_end_all_others(site: Any, ada: Any, browser: Browser, another: Browser) -> None:
    """The page asks first, which needs no JavaScript."""
    third, theirs = stored(site, ada), stored(site, person("bob"))
    assert f'href="{browser.root}end-others/"' in text(browser.get())
    question = browser.get("end-others/")
    assert sorted(shown(question)) == ["Firefox on Linux", "Safari on iPhone"]
    assert another.is_signed_in
    assert said(browser.post("end-others/")) == "2 other devices were signed out."
    assert not another.is_signed_in
    assert not is_alive(site, third)
    assert is_alive(site, theirs)
    assert shown(browser.get()) == ["Firefox on Linux"]
    assert said(browser.post("end-others/")) == "No other device was signed in."
    stored(site, ada)
    assert said(browser.post("end-others/")) == "1 other device was signed out."


@ENGINES
def test_end_more_than_one_request_can(
    site: Any, ada: Any, browser: Browser, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The page tells the user to continue."""
    monkeypatch.setattr(your_sessions, "REQUEST_SECONDS", 0)
    monkeypatch.setattr(inventory_ending, "MOST_AT_ONCE", 2)
    for _ in range(4):
        stored(site, ada)
    answer = browser.post("end-others/")
    assert said(answer).startswith("2 other devices were signed out. There may be more")
    assert "<form" in answer.content.decode()
    assert len(shown(browser.get())) == 3
    assert browser.ask("post", "api/end-others/").json() == {"ended": 2, "is_complete": True}
    assert browser.ask("post", "api/end-others/").json() == {"ended": 0, "is_complete": True}


@pytest.mark.engines("file", "db:sqlite", "cached_db:locmem+sqlite", "cache:redis-cache")
@pytest.mark.usefixtures("in_requests")
def test_a_device_that_got_another_key_since_the_page_was_read(
    site: Any, ada: Any, browser: Browser
) -> None:
    """The request ends the session of the device, whatever its id is now."""
    session = stored(site, ada)
    with limits(ROTATE_AFTER=60), at(now() + HOUR):
        rotated = site.SessionStore(session.session_key)
        rotated.load()
        rotated.save()
        assert rotated.session_id != session.session_id
        assert said(browser.post(f"{session.session_id}/end/")) == "The device was signed out."
        assert not is_alive(site, rotated)


@ENGINES
def test_a_new_secret_key_does_not_cost_the_own_session(
    site: Any, ada: Any, browser: Browser, another: Browser
) -> None:
    """Django cycles the key of the first request that it knows by the previous one."""
    with override_settings(SECRET_KEY="a newer one", SECRET_KEY_FALLBACKS=["tests only"]):
        page = browser.post("end-others/")
        assert said(page) == "1 other device was signed out."
        assert browser.is_signed_in
        assert not another.is_signed_in


# Who may, and how ---------------------------------------------------------------------------------


def requests_of(id_: str) -> list[tuple[str, str]]:
    """Return all that the pages and the interface answer."""
    return [
        *(("get", ""), ("get", f"{id_}/end/"), ("post", f"{id_}/end/")),
        *(("get", "end-others/"), ("post", "end-others/")),
        *(("get", "api/"), ("delete", f"api/{id_}/"), ("post", "api/end-others/")),
    ]


@ENGINES
def test_nobody_gets_in_without_signing_in(site: Any, ada: Any, flavour: str) -> None:
    """People are sent to do so, and back; programs are told."""
    session, visitor = stored(site, ada), Browser(flavour)
    for method, url in requests_of(session.session_id):
        answer = visitor.ask(method, url)
        if url.startswith("api/"):
            assert (answer.status_code, answer.json()["code"]) == (401, "not_signed_in")
            assert answer["WWW-Authenticate"]
        else:
            assert answer.status_code == 302
            assert answer["Location"] == f"/accounts/login/?next={visitor.root}{url}"
    assert is_alive(site, session)


@OTHER_ENGINES
@pytest.mark.parametrize("again", ["", "/again/"])
def test_ending_may_ask_to_sign_in_again(site: Any, ada: Any, browser: Browser, again: str) -> None:
    """Somebody who sits down at a computer that was left on may look, but cannot end a session."""
    session = stored(site, ada)
    asked = requests_of(session.session_id)
    with limits(RECENT_AUTHENTICATION_AGE=600, RECENT_AUTHENTICATION_URL=again), at(now() + HOUR):
        for method, url in asked:
            answer = browser.ask(method, url)
            if method == "get" and url in {"", "api/"}:
                assert answer.status_code == 200
            elif url.startswith("api/"):
                assert answer.status_code == 403
                assert answer.json()["code"] == "recent_authentication_required"
                assert answer.json()["sign_in_url"] == (again or "/accounts/login/")
            else:
                login = again or "/accounts/login/"
                assert answer["Location"] == f"{login}?next={browser.root}{url}"
        assert is_alive(site, session)
        browser.sign_in(ada)
        for method, url in asked[:3]:
            assert browser.ask(method, url).status_code == (302 if method == "post" else 200)
        assert not is_alive(site, session)


@pytest.mark.engines("file", "db:sqlite")
def test_a_sign_in_of_long_ago_will_do_where_nothing_is_configured(
    site: Any, ada: Any, browser: Browser
) -> None:
    """The default; of sessions from before the moment was kept, too."""
    session = stored(site, ada)
    with at(now() + DAY):
        assert said(browser.post("end-others/")) == "1 other device was signed out."
    assert not is_alive(site, session)


@ONE_ENGINE
def test_an_engine_of_django_asks_for_no_sign_in(engine: Any, flavour: str) -> None:
    """It knows of none, and would ask without end."""
    with (
        override_settings(SESSION_ENGINE="django.contrib.sessions.backends.db"),
        limits(RECENT_AUTHENTICATION_AGE=600),
    ):
        browser = Browser(flavour, person("ada"))
        assert "cannot tell on which devices" in text(browser.get("end-others/"))


@ENGINES
def test_a_get_and_a_forged_request_end_nothing(site: Any, ada: Any, flavour: str) -> None:
    """Links are followed by machines, and forms sent from other sites."""
    session, browser = stored(site, ada), Browser(flavour, ada, checks=True)
    for method, url in requests_of(session.session_id):
        for reading in ("get", "head"):
            assert browser.ask(reading, url).status_code in {200, 405}
        if method != "get":
            answer = browser.ask(method, url)
            assert answer.status_code == 403
            if url.startswith("api/"):
                assert answer.json()["code"] == "csrf_failed"
    assert is_alive(site, session)
    token = browser.client.cookies["csrftoken"].value
    answer = browser.ask("post", "end-others/", data={"csrfmiddlewaretoken": token})
    assert answer.status_code == 302
    assert not is_alive(site, session)


@ONE_ENGINE
def test_a_site_that_checks_no_tokens_itself(site: Any, ada: Any, flavour: str) -> None:
    """The pages check CSRF tokens, whatever middleware there is."""
    session = stored(site, ada)
    kept = [name for name in settings.MIDDLEWARE if "csrf" not in name]
    with override_settings(MIDDLEWARE=kept):
        browser = Browser(flavour, ada, checks=True)
        for method, url in requests_of(session.session_id):
            if method != "get":
                assert browser.ask(method, url).status_code == 403
        browser.get("api/")
        token = {"X-CSRFToken": browser.client.cookies["csrftoken"].value}
        answer = browser.ask("delete", f"api/{session.session_id}/", headers=token)
        assert answer.json() == {"ended": 1, "is_complete": True}


@ENGINES
def test_nothing_is_kept_in_a_cache(site: Any, ada: Any, flavour: str, browser: Browser) -> None:
    """The next user of a shared machine goes back in its history."""
    session = stored(site, ada)
    for each in (browser, Browser(flavour), Browser(flavour, ada, checks=True)):
        for method, url in requests_of(session.session_id):
            answer = each.ask(method, url)
            if answer.status_code != 403 or url.startswith("api/"):
                assert "no-store" in answer["Cache-Control"], (method, url, answer)


@ENGINES
def test_nothing_shows_a_key(site: Any, ada: Any, browser: Browser, another: Browser) -> None:
    """Anyone who sees a key controls the session."""
    session = stored(site, ada)
    keys = [each.session_key for each in (session, browser.session, another.session)]
    parts = {part for key in keys for part in (key, key[:20], key[-20:])}
    answers = [browser.ask(*each) for each in requests_of(session.session_id)]
    answers += [browser.get(), browser.get("api/openapi.json")]
    tokens = [answer.cookies.pop("sessionid", None) for answer in answers]
    assert len(tokens) == len(answers)
    for answer in answers:
        assert answer.status_code < 400 or answer.json()["code"] == "not_found"
        whole = f"{answer.headers} {answer.cookies} {text(answer)}"
        assert not [part for part in parts if part in whole]
        assert "_auth_user_hash" not in whole


# What can go wrong --------------------------------------------------------------------------------


@pytest.mark.engines("cookie:unregistered", "cache:memcached")
def test_an_engine_that_cannot_list(engine: Any, flavour: str) -> None:
    """The page says so. It does not claim that nobody is signed in, or that somebody was signed
    out."""
    browser = Browser(flavour, person("ada"))
    for method, url in requests_of(UNKNOWN):
        answer = browser.ask(method, url)
        if url.startswith("api/"):
            assert answer.status_code == 404
            expected = "not_found" if method == "delete" else "cannot_list"
            assert answer.json()["code"] == expected
        elif UNKNOWN not in url:
            assert answer.status_code == 200
        if not url.startswith("api/"):
            assert "cannot tell on which devices" in text(answer)
            assert shown(answer) == []


@ONE_ENGINE
def test_an_engine_of_django(engine: Any, flavour: str) -> None:
    """There the pages are of no use, and no error either."""
    with override_settings(SESSION_ENGINE="django.contrib.sessions.backends.db"):
        browser = Browser(flavour, person("ada"))
        for method, url in requests_of(UNKNOWN):
            answer = browser.ask(method, url)
            assert answer.status_code == (404 if url.startswith("api/") else 200)
            assert "devices" in text(answer) or "cannot_list" in text(answer)


@ENGINES
def test_an_outage(site: Any, browser: Browser, another: Browser) -> None:
    """The page shows no empty list, and no session has ended."""

    def broken(name: str) -> None:
        if name in {"scan", "lookup", "lookup_many"}:
            raise StorageUnavailable("no route")

    with observed(site.storage, before=broken):
        for method, url in requests_of(another.session.session_id):
            answer = browser.ask(method, url)
            assert answer.status_code == 503
            assert answer["Retry-After"] == "5"
    assert another.is_signed_in


@ENGINES
def test_an_outage_in_the_middle(
    site: Any, ada: Any, browser: Browser, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sessions that ended before the outage stay ended, and the page does not claim that the others
    have."""
    monkeypatch.setattr(inventory_ending, "MOST_AT_ONCE", 1)
    sessions = [stored(site, ada) for _ in range(4)]
    done: list[str] = []

    def broken(name: str) -> None:
        if name == "end_many":
            done.append(name)
            if len(done) > 1:
                raise StorageUnavailable("no route")

    with observed(site.storage, before=broken):
        answer = browser.post("end-others/")
        assert answer.status_code == 503
        assert said(answer).startswith("1 other device was signed out. Others may still be")
        assert "<form" in text(answer)
        done.clear()
        answer = browser.ask("post", "api/end-others/")
        assert (answer.status_code, answer.json()) == (503, {"ended": 1, "is_complete": False})
        answer = browser.post("end-others/")
        assert answer.status_code == 503
        assert "Service unavailable" in text(answer)
    assert sum(is_alive(site, each) for each in sessions) == 2


@ONE_ENGINE
def test_a_site_without_messages(site: Any, ada: Any, flavour: str) -> None:
    """The page says what was done even if the project does not use Django's messages."""
    kept = [name for name in settings.MIDDLEWARE if "messages" not in name]
    with override_settings(MIDDLEWARE=kept):
        browser = Browser(flavour, ada)
        stored(site, ada)
        session = stored(site, ada)
        answer = browser.post(f"{session.session_id}/end/")
        assert said(answer) == "The device was signed out."
        assert shown(answer) == ["Firefox on Linux", "Safari on iPhone"]
        assert said(browser.post("end-others/")) == "1 other device was signed out."


@ENGINES
def test_async_pages_block_no_loop(engine: Any, tmp_path: Path) -> None:
    """One that does holds up every other request of the process."""
    if find_spec("blockbuster") is None:
        skip_or_fail("blockbuster is not installed. Install it with: uv sync --group tests")
    import blockbuster

    with in_force():
        kept = [name for name in settings.MIDDLEWARE if not name.endswith("with_policy")]
    places = database(tmp_path, "GeoLite2-City", CITY)
    with in_force(MIDDLEWARE=kept, GEOIP_PATH=places):
        try:
            ada = person("ada")
            browser = Browser("async", ada)
            one, two = stored(engine, ada), stored(engine, ada)
            reverse("async_devices:list")  # URLconfs are read with the first request.
            asked = [*requests_of(one.session_id), ("get", f"{two.session_id}/end/")]
            with blockbuster.blockbuster_ctx():
                statuses = [browser.ask(*each).status_code for each in asked]
        finally:
            get_user_model()._default_manager.all().delete()
    assert statuses == [200, 200, 302, 200, 302, 200, 404, 200, 404]


# JSON ---------------------------------------------------------------------------------------------


DESCRIPTION = json.loads(Path(views.__file__).with_name("openapi.json").read_text(encoding="utf-8"))


@cache
def description(root: str) -> OpenAPI:
    """Return the description that answers must match. It is read once, because that takes long."""
    return OpenAPI.from_dict({**DESCRIPTION, "servers": [{"url": f"http://testserver{root}api"}]})


def described(browser: Browser, method: str, url: str = "", **headers: str) -> Any:
    """Return an answer, after comparing it with the description."""
    request = RequestFactory().generic(method, f"{browser.root}api/{url}", headers=headers)
    request.COOKIES["sessionid"] = "any"
    answer = browser.ask(method, f"api/{url}", headers=headers)
    description(browser.root).validate_response(
        DjangoOpenAPIRequest(request), DjangoOpenAPIResponse(answer)
    )
    return answer


def outcome(answer: Any) -> tuple[int, str]:
    return answer.status_code, answer.json().get("code", "")


@OTHER_ENGINES
def test_answers_are_as_the_description_says(
    site: Any, ada: Any, flavour: str, browser: Browser, another: Browser
) -> None:
    """Programs are written by it, so each answer that it has is there, and no other."""
    visitor, forger = Browser(flavour), Browser(flavour, ada, checks=True)
    listed = described(browser, "get")
    assert [each["is_current"] for each in listed.json()["sessions"]] == [True, False, False]
    id_ = another.session.session_id
    seen = {
        ("get", *outcome(listed)),
        ("get", *outcome(described(visitor, "get"))),
        ("delete", *outcome(described(visitor, "delete", f"{id_}/"))),
        ("delete", *outcome(described(forger, "delete", f"{id_}/"))),
        ("delete", *outcome(described(browser, "delete", f"{browser.session.session_id}/"))),
        ("delete", *outcome(described(browser, "delete", f"{id_}/"))),
        ("delete", *outcome(described(browser, "delete", f"{id_}/"))),
        ("post", *outcome(described(visitor, "post", "end-others/"))),
        ("post", *outcome(described(forger, "post", "end-others/"))),
        ("post", *outcome(described(browser, "post", "end-others/"))),
    }
    assert not another.is_signed_in
    assert not forger.is_signed_in
    with limits(RECENT_AUTHENTICATION_AGE=600), at(now() + HOUR):
        seen.add(("delete", *outcome(described(browser, "delete", f"{id_}/"))))
        seen.add(("post", *outcome(described(browser, "post", "end-others/"))))
    with mock.patch.object(Listing, "page", side_effect=CannotList("no list")):
        seen.add(("get", *outcome(described(browser, "get"))))
    with mock.patch.object(Ending, "end", side_effect=CannotList("no list")):
        seen.add(("delete", *outcome(described(browser, "delete", f"{id_}/"))))
    with mock.patch.object(Ending, "end_all", side_effect=CannotList("no list")):
        seen.add(("post", *outcome(described(browser, "post", "end-others/"))))
    partly = PartlyEnded(1, StorageUnavailable("no route"))
    with mock.patch.object(Ending, "end_all", side_effect=partly):
        seen.add(("post", *outcome(described(browser, "post", "end-others/"))))
    for subject, name, method, url in (
        *((Listing, "page", "get", ""), (Ending, "end", "delete", f"{id_}/")),
        (Ending, "end_all", "post", "end-others/"),
    ):
        with mock.patch.object(subject, name, side_effect=StorageUnavailable("no route")):
            assert described(browser, method, url).status_code == 503
    assert {each for each in seen if each[1] != 503} == set(documented())


def documented() -> Iterator[tuple[str, int, str]]:
    """Yield the method, status and code of each answer in the description, except outages."""

    def codes(schema: Any) -> Iterator[str]:
        for key, value in schema.items() if isinstance(schema, dict) else ():
            if key == "code":
                yield value["const"]
            else:
                for part in value if isinstance(value, list) else [value]:
                    yield from codes(part)

    for operations in DESCRIPTION["paths"].values():
        for method, operation in operations.items():
            for status, answer in operation["responses"].items():
                if status == "503":
                    continue
                if "$ref" in answer:
                    name = answer["$ref"].rpartition("/")[2]
                    answer = DESCRIPTION["components"]["responses"][name]
                for code in list(codes(answer)) or [""]:
                    yield method, int(status), code


@ONE_ENGINE
def test_the_description_is_served_where_it_belongs(site: Any, flavour: str) -> None:
    """Its addresses are relative to itself, and all of them are there."""
    url = reverse(f"{flavour}_devices:api_description")
    answer = Browser(flavour).get(url)
    assert answer.json() == DESCRIPTION
    assert answer["Content-Type"] == "application/json"
    base = urljoin(url, DESCRIPTION["servers"][0]["url"])
    for route, operations in DESCRIPTION["paths"].items():
        match = resolve(base + route.replace("{session_id}", UNKNOWN))
        assert match.view_name.startswith(f"{flavour}_devices:api_")
        allowed = Browser(flavour).ask("put", base + route)["Allow"].lower().split(", ")
        assert {*operations} == {*allowed} - {"head"}


# Where a project puts them ------------------------------------------------------------------------


@ONE_ENGINE
def test_below_other_namespaces_and_captured_parts_of_the_path(site: Any, ada: Any) -> None:
    """The links lead to the same pages."""
    browser = Browser("sync", ada)
    browser.root = "/shop/uppsala/devices/"
    session = stored(site, ada)
    page = text(browser.get())
    assert f'action="{browser.root}{session.session_id}/end/"' in page
    assert f'href="{browser.root}end-others/"' in page
    answer = browser.post(f"{session.session_id}/end/")
    assert answer.redirect_chain == [(browser.root, 302)]
    assert said(answer) == "The device was signed out."


@ONE_ENGINE
def test_a_project_puts_them_into_its_own_page(
    site: Any, ada: Any, flavour: str, tmp_path: Path
) -> None:
    """By one template; blocks of the pages change by one each. Its own use of the user costs no
    event loop anything."""
    folder = tmp_path / "django_sessionstores" / "devices"
    folder.mkdir(parents=True)
    (folder / "base.html").write_text(
        "<title>{% block title %}{% endblock %}</title>Hello {{ user.username }}! "
        "{% block devices %}{% endblock %}"
    )
    (folder / "list.html").write_text(
        '{% extends "django_sessionstores/devices/list.html" %}'
        "{% block intro %}{% endblock %}{% block after %}Something strange?{% endblock %}"
    )
    templates = [{**settings.TEMPLATES[0], "DIRS": [tmp_path]}]
    with override_settings(TEMPLATES=templates):
        page = text(Browser(flavour, ada).get())
    assert "Hello ada!" in page
    assert "Firefox on Linux" in page
    assert "Something strange?" in page
    assert "Sign out those" not in page
    assert "<html" not in page


# In Python and in templates -----------------------------------------------------------------------


def request_of(browser: Browser) -> Any:
    """Return a request that comes with the browser's session."""
    session, user = browser.session, get_user_model()._default_manager.get(username="ada")
    request = RequestFactory().get("/")
    request.session = session
    request.user = user

    async def auser() -> Any:
        return user

    request.auser = auser
    return request


@ENGINES
def test_in_python(site: Any, ada: Any, flavour: str, browser: Browser, another: Browser) -> None:
    """The functions do the same in sync and async code."""
    yours = Twin(YourSessions(request_of(browser)), flavour == "async")
    third = stored(site, ada)
    found = yours.list()
    assert found.current.id == browser.session.session_id
    assert {each.id for each in found.others} == {another.session.session_id, third.session_id}
    assert yours.count_others() == 2
    assert yours.get(third.session_id).device == "Safari on iPhone"
    assert yours.get(stored(site, person("bob")).session_id) is None
    with pytest.raises(ValueError, match="logout"):
        yours.end(browser.session.session_id)
    assert yours.end(third.session_id) is True
    assert yours.end(third.session_id) is False
    assert yours.end_others() == 1
    assert yours.count_others() == 0
    assert not another.is_signed_in


@ONE_ENGINE
def test_in_python_for_nobody(site: Any, flavour: str, ada: Any, browser: Browser) -> None:
    """An anonymous user's sessions would be those of all visitors, or none."""
    request = request_of(browser)
    request.user = AnonymousUser()

    async def auser() -> Any:
        return request.user

    request.auser = auser
    yours = Twin(YourSessions(request), flavour == "async")
    for call in (yours.list, yours.count_others, yours.end_others):
        with pytest.raises(ValueError, match="is anonymous"):
            call()


TAGS = (
    "{% load sessionstores %}{% your_sessions as sessions %}{% count_other_sessions as number %}"
    "{% if sessions %}{{ sessions.current.device }}|{% endif %}"
    "{% for each in sessions.others %}{{ each.device }}{% endfor %}|{{ number }}"
)


@ENGINES
def test_in_a_template(site: Any, ada: Any, browser: Browser) -> None:
    """Any page may say on how many devices its reader is signed in."""
    stored(site, ada)
    request = request_of(browser)
    assert render(TAGS, request) == "Firefox on Linux|Safari on iPhone|1"
    for error in (CannotList("no list"), StorageUnavailable("no route")):
        with (
            mock.patch.object(Listing, "page", side_effect=error),
            mock.patch.object(Inventory, "_count", side_effect=error),
        ):
            assert render(TAGS, request) == "|None"
    request.user = AnonymousUser()
    assert render(TAGS, request) == "|None"
    assert Template(TAGS).render(Context()) == "|None"


def render(template: str, request: HttpRequest) -> str:
    return Template(template).render(RequestContext(request, {"request": request}))


# In a browser -------------------------------------------------------------------------------------


@ONE_ENGINE  # The others are held to the same without a browser: test_end_all_others.
def test_a_user_signs_out_the_other_devices(
    site: Any, browser: Browser, another: Browser, served: Site, chromium: Chromium
) -> None:
    """The user needs only the keyboard, and the other browser is signed out at its next click."""

    def scene(chrome: Any) -> tuple[str, list[str], str]:
        other = window(chrome, served, another.client).new_page()
        other.goto(another.root)
        page = window(chrome, served, browser.client).new_page()
        page.goto(browser.root)
        for role, name in (
            ("link", "Sign out all other devices…"),
            ("button", "Sign out all others"),
        ):
            page.get_by_role(role, name=name).focus()
            page.keyboard.press("Enter")
        told = page.locator(".ssd-message").inner_text()
        headings = page.locator(".ssd-name").all_inner_texts()
        other.get_by_role("link", name="Sign out all other devices…").click()
        after = other.url
        for each in (page, other):
            each.context.close()
        return told, headings, after.removeprefix(served.url)

    told, headings, after = chromium.do(scene)
    assert told == "1 other device was signed out."
    assert headings == ["Firefox on Linux"]
    assert after == f"/accounts/login/?next={another.root}end-others/"


@ONE_ENGINE
def test_a_user_signs_out_one_device(
    site: Any, ada: Any, browser: Browser, served: Site, chromium: Chromium
) -> None:
    """Its button says which one it is of, to who does not see where it is."""
    stored(site, ada)

    def scene(chrome: Any) -> str:
        page = window(chrome, served, browser.client).new_page()
        page.goto(browser.root)
        page.get_by_role("button", name="Sign out Safari on iPhone, 192.0.2.1").click()
        told = page.locator(".ssd-message").inner_text()
        page.context.close()
        return told

    assert chromium.do(scene) == "The device was signed out."


@ONE_ENGINE
# Each pair of them: both flavours render the same templates, so a fault needs no third to show.
@pytest.mark.parametrize(
    ("flavour", "scheme", "size"),
    [
        ("sync", "light", "wide"),
        ("sync", "dark", "phone"),
        pytest.param("async", "light", "phone", marks=pytest.mark.slow),
        pytest.param("async", "dark", "wide", marks=pytest.mark.slow),
    ],
    indirect=["flavour"],
)
def test_pages_can_be_used_by_everybody(
    site: Any,
    ada: Any,
    browser: Browser,
    served: Site,
    chromium: Chromium,
    scheme: str,
    size: str,
) -> None:
    """axe-core finds nothing, nothing sticks out of a phone, and the strictest policy for content
    has nothing to refuse."""
    session = stored(site, ada)
    stored(site, ada, agent="x" * 300, ip="2001:db8:85a3:1234:1234:8a2e:370:7334")
    routes = ["", f"{session.session_id}/end/", "end-others/", f"{UNKNOWN}/end/"]
    pages = [browser.root + route for route in routes]

    def scene(chrome: Any) -> list[Any]:
        options = {"viewport": {"width": WIDTHS[size], "height": 900}, "color_scheme": scheme}
        with window(chrome, served, browser.client, **options) as context:
            return problems_of(context.new_page(), pages, WIDTHS[size], f"{UNKNOWN}/end/")

    assert chromium.do(scene) == []


@ONE_ENGINE
def test_right_to_left(
    site: Any, ada: Any, browser: Browser, served: Site, chromium: Chromium
) -> None:
    """Each entry begins at the right, and its button is at the left."""
    stored(site, ada)

    def scene(chrome: Any) -> list[Any]:
        page = window(
            chrome, served, browser.client, viewport={"width": 900, "height": 900}
        ).new_page()
        page.goto(browser.root)
        button = page.locator(".ssd-device button").bounding_box()
        heading = page.locator(".ssd-device:has(button) bdi").first.bounding_box()
        found = [page.evaluate("document.documentElement.dir"), button["x"] < heading["x"]]
        page.context.close()
        return found

    with override_settings(LANGUAGE_CODE="ar", USE_I18N=True):
        assert chromium.do(scene) == ["rtl", True]
