"""The package's middleware: what it adds to Django's, through the WSGI and the ASGI handler."""

from __future__ import annotations

import asyncio
import io
import json
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any
from unittest import mock

import pytest
from asgiref.sync import SyncToAsync, async_to_sync
from django.apps import apps
from django.conf import settings as django_settings
from django.contrib.admin.checks import check_dependencies
from django.contrib.sessions.middleware import SessionMiddleware as DjangosSessionMiddleware
from django.core.cache import caches
from django.core.exceptions import ImproperlyConfigured
from django.core.handlers.asgi import ASGIHandler
from django.core.handlers.wsgi import WSGIHandler
from django.core.signals import request_finished
from django.http import HttpRequest, HttpResponse, StreamingHttpResponse
from django.template.response import SimpleTemplateResponse
from django.test import RequestFactory, override_settings
from django.utils.cache import add_never_cache_headers
from django.utils.http import parse_http_date

from django_sessionstores.core.clock import now
from django_sessionstores.core.records import draw_key, session_id
from django_sessionstores.exceptions import StorageUnavailable
from django_sessionstores.middleware import SessionMiddleware, installed
from django_sessionstores.sessions import SessionStore
from django_sessionstores.testing import HOUR, at, observed
from tests import upstream, urls
from tests.services import skip_or_fail

MIDDLEWARE = "django_sessionstores.middleware.SessionMiddleware"
COOKIE = "sessionid"
WHOLE = "a key of one cookie".replace(" ", "") * 2

memory = pytest.mark.engines("memory")


# Views and middlewares, each once for sync and once for async -------------------------------------


class LateText(SimpleTemplateResponse):
    """Reads the session when it is rendered, as a template does that shows the user's name."""

    def __init__(self, request: HttpRequest) -> None:
        super().__init__(None)
        self._session = request.session

    @property
    def rendered_content(self) -> str:
        return str(self._session.get("color"))


def template(request: HttpRequest) -> HttpResponse:
    return LateText(request)


async def atemplate(request: HttpRequest) -> HttpResponse:
    await request.session.aget("color")
    return LateText(request)


def stream(request: HttpRequest) -> StreamingHttpResponse:
    request.session["streamed"] = True
    return StreamingHttpResponse([b"streamed"])


async def astream(request: HttpRequest) -> StreamingHttpResponse:
    await request.session.aset("streamed", True)

    async def body() -> Any:
        yield b"streamed"

    return StreamingHttpResponse(body())


class Body:
    """What a view streams, such as a file, which has to be closed."""

    def __init__(self) -> None:
        self.closed = 0

    def close(self) -> None:
        self.closed += 1


class SyncBody(Body):
    def __iter__(self) -> Iterator[bytes]:
        yield b"streamed"


class AsyncBody(Body):
    async def __aiter__(self) -> Any:
        yield b"streamed"


bodies: list[Body] = []


def body(request: HttpRequest, status: int) -> StreamingHttpResponse:
    with suppress(StorageUnavailable):
        request.session["streamed"] = True
    bodies.append(SyncBody())
    return StreamingHttpResponse(bodies[-1], status=status)


async def abody(request: HttpRequest, status: int) -> StreamingHttpResponse:
    with suppress(StorageUnavailable):
        await request.session.aset("streamed", True)
    bodies.append(AsyncBody())
    return StreamingHttpResponse(bodies[-1], status=status)


def public(request: HttpRequest) -> HttpResponse:
    request.session["color"] = "green"
    response = HttpResponse("public")
    response.headers["Cache-Control"] = "public, max-age=600, s-maxage=600"
    return response


async def apublic(request: HttpRequest) -> HttpResponse:
    await request.session.aset("color", "green")
    response = HttpResponse("public")
    response.headers["Cache-Control"] = "public, max-age=600, s-maxage=600"
    return response


def lenient(request: HttpRequest) -> HttpResponse:
    try:
        return HttpResponse(request.session.get("color"))
    except StorageUnavailable:
        return HttpResponse("without a color")


async def alenient(request: HttpRequest) -> HttpResponse:
    try:
        return HttpResponse(await request.session.aget("color"))
    except StorageUnavailable:
        return HttpResponse("without a color")


def expire(request: HttpRequest, seconds: int) -> HttpResponse:
    request.session.set_expiry(seconds)
    request.session.save()
    return HttpResponse("expires")


async def aexpire(request: HttpRequest, seconds: int) -> HttpResponse:
    await request.session.aset_expiry(seconds)
    await request.session.asave()
    return HttpResponse("expires")


def remember(request: HttpRequest, seconds: str) -> HttpResponse:
    """Leaves the save to the middleware. "default" is what the settings say."""
    request.session.set_expiry(None if seconds == "default" else int(seconds))
    return HttpResponse("remembered")


async def aremember(request: HttpRequest, seconds: str) -> HttpResponse:
    await request.session.aset_expiry(None if seconds == "default" else int(seconds))
    return HttpResponse("remembered")


def save(request: HttpRequest) -> HttpResponse:
    """Reads the session and saves it as it is."""
    request.session.get("color")
    request.session.save()
    return HttpResponse("saved")


async def asave(request: HttpRequest) -> HttpResponse:
    await request.session.aget("color")
    await request.session.asave()
    return HttpResponse("saved")


def without(request: HttpRequest) -> HttpResponse:
    del request.session
    return HttpResponse("without")


async def awithout(request: HttpRequest) -> HttpResponse:
    del request.session
    return HttpResponse("without")


def reset(request: HttpRequest) -> HttpResponse:
    request.session.flush()
    return HttpResponse("reset")


async def areset(request: HttpRequest) -> HttpResponse:
    await request.session.aflush()
    return HttpResponse("reset")


def elsewhere(request: HttpRequest) -> HttpResponse:
    raise StorageUnavailable("another store is gone")


async def aelsewhere(request: HttpRequest) -> HttpResponse:
    raise StorageUnavailable("another store is gone")


def rename(request: HttpRequest) -> HttpResponse:
    """Gives the session a new key, stores it, and breaks."""
    request.session.cycle_key()
    request.session.save()
    raise RuntimeError("this view always fails")


async def arename(request: HttpRequest) -> HttpResponse:
    await request.session.acycle_key()
    await request.session.asave()
    raise RuntimeError("this view always fails")


def replace(request: HttpRequest) -> HttpResponse:
    """Puts a session of its own in the place of the request's."""
    request.session = type(request.session)()
    request.session["color"] = "red"
    return HttpResponse("replaced")


async def areplace(request: HttpRequest) -> HttpResponse:
    request.session = type(request.session)()
    await request.session.aset("color", "red")
    return HttpResponse("replaced")


urlpatterns = [
    *urls.urlpatterns,
    *urls.sync_and_async(
        ("template/", template, atemplate),
        ("stream/", stream, astream),
        ("body/<int:status>/", body, abody),
        ("lenient/", lenient, alenient),
        ("public/", public, apublic),
        ("expire/<int:seconds>/", expire, aexpire),
        ("remember/<str:seconds>/", remember, aremember),
        ("save/", save, asave),
        ("without/", without, awithout),
        ("reset/", reset, areset),
        ("elsewhere/", elsewhere, aelsewhere),
        ("rename/", rename, arename),
        ("replace/", replace, areplace),
    ),
]


def reader(get_response: Callable[[HttpRequest], HttpResponse]) -> Any:
    """Return an inner middleware that needs the session before the view is asked."""

    def middleware(request: HttpRequest) -> HttpResponse:
        request.session.get("color")
        return get_response(request)

    return middleware


def ender(get_response: Callable[[HttpRequest], HttpResponse]) -> Any:
    """Return an inner middleware that ends the session, as Django's does after a password
    change."""

    def middleware(request: HttpRequest) -> HttpResponse:
        request.session.flush()
        return get_response(request)

    return middleware


# Sites ------------------------------------------------------------------------------------------


@dataclass
class Cookie:
    """A Set-Cookie header, with the names of its attributes in lower case."""

    value: str
    attributes: dict[str, str]

    @property
    def is_deletion(self) -> bool:
        return self.attributes.get("max-age") == "0"


@dataclass
class Answer:
    """What a client gets."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes

    def header(self, name: str) -> str:
        """Return the values of the header, with commas between them."""
        return ", ".join(value for key, value in self.headers if key.lower() == name.lower())

    @property
    def cookies(self) -> dict[str, Cookie]:
        found = {}
        for name, value in self.headers:
            if name.lower() == "set-cookie":
                pair, *attributes = (text.strip() for text in value.split(";"))
                key, _, text = pair.partition("=")
                split = [attribute.partition("=") for attribute in attributes]
                found[key] = Cookie(text.strip('"'), {k.lower(): v for k, _, v in split})
        return found


class WSGISite:
    """Django behind a WSGI server, with sync views."""

    prefix = "/"

    def ask(self, path: str, cookies: dict[str, str], headers: dict[str, str]) -> Answer:
        handler: Any = WSGIHandler()
        started: list[tuple[str, list[tuple[str, str]]]] = []
        environ = {
            **RequestFactory()._base_environ(PATH_INFO=path, **headers),  # type: ignore[attr-defined]
            "wsgi.errors": io.StringIO(),
            "HTTP_COOKIE": "; ".join(f"{name}={value}" for name, value in cookies.items()),
        }
        response = handler(environ, lambda status, headers: started.append((status, headers)))
        body = b"".join(response)
        response.close()
        ((status, response_headers),) = started
        return Answer(int(status.split()[0]), response_headers, body)


class ASGISite:
    """Django behind an ASGI server, with async views. No work is done in a loop that blocks it."""

    prefix = "/async/"

    def ask(self, path: str, cookies: dict[str, str], headers: dict[str, str]) -> Answer:
        # A server makes it before it starts a loop.
        return async_to_sync(self._ask)(ASGIHandler(), path, cookies, headers)

    async def _ask(
        self, handler: Any, path: str, cookies: dict[str, str], headers: dict[str, str]
    ) -> Answer:
        names = {name[5:]: value for name, value in headers.items() if name.startswith("HTTP_")}
        names["cookie"] = "; ".join(f"{name}={value}" for name, value in cookies.items())
        scope: dict[str, Any] = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": "GET",
            "path": path,
            "query_string": b"",
            "headers": [
                (name.lower().replace("_", "-").encode(), value.encode())
                for name, value in names.items()
            ],
            "client": (headers.get("REMOTE_ADDR", "127.0.0.1"), 1),
        }
        asked, sent = iter([{"type": "http.request", "body": b""}]), []

        async def receive() -> dict[str, Any]:
            for event in asked:
                return event
            await asyncio.Event().wait()  # The browser stays until it has its answer.
            raise AssertionError

        async def send(event: dict[str, Any]) -> None:
            sent.append(event)

        await handler(scope, receive, send)
        start, *rest = sent
        return Answer(
            start["status"],
            [(name.decode(), value.decode()) for name, value in start["headers"]],
            b"".join(event.get("body", b"") for event in rest),
        )


class Browser:
    """Keeps cookies, as browsers do, of the site it is given."""

    def __init__(self, site: Any, **cookies: str) -> None:
        self.site = site
        self.cookies = cookies

    def get(self, path: str, **headers: str) -> Answer:
        answer = self.site.ask(self.site.prefix + path, self.cookies, headers)
        for name, cookie in answer.cookies.items():
            if cookie.is_deletion:
                self.cookies.pop(name, None)
            else:
                assert len(name) + len(cookie.value) <= 4096
                self.cookies[name] = cookie.value
        return answer


@pytest.fixture(params=[WSGISite, ASGISite], ids=["wsgi", "asgi"])
def site(request: pytest.FixtureRequest, engine: Any) -> Iterator[Any]:
    """Yield the test views on both kinds of server, under this middleware."""
    with override_settings(MIDDLEWARE=[MIDDLEWARE], ROOT_URLCONF=__name__):
        yield request.param()


@pytest.fixture
def browser(site: Any) -> Browser:
    return Browser(site)


@pytest.fixture
def ada(browser: Browser) -> Browser:
    """With a session that holds a color."""
    browser.get("write/color/blue/")
    return browser


def read(browser: Browser) -> dict[str, Any]:
    answer = browser.get("read/")
    assert answer.status == 200
    return dict(json.loads(answer.body))


def broken(name: str) -> None:
    raise StorageUnavailable("the store is gone")


@contextmanager
def messages(name: str = "django_sessionstores") -> Iterator[list[logging.LogRecord]]:
    """Yield the log records of the block."""
    records: list[logging.LogRecord] = []
    handler = logging.Handler()
    handler.emit = records.append  # type: ignore[method-assign]
    logger = logging.getLogger(name)
    logger.addHandler(handler)
    try:
        yield records
    finally:
        logger.removeHandler(handler)


# Django's own tests ------------------------------------------------------------------------------

sessions_tests = upstream.session_tests()


class DjangosSessionMiddlewareTests(sessions_tests.SessionMiddlewareTests):  # type: ignore[misc,name-defined]
    """Unmodified, with Django's own engine, which some of them look into."""

    @classmethod
    def setUpClass(cls) -> None:
        cls.enterClassContext(
            mock.patch.object(sessions_tests, "SessionMiddleware", SessionMiddleware)
        )
        cls.enterClassContext(
            override_settings(SESSION_ENGINE="django.contrib.sessions.backends.db")
        )
        super().setUpClass()


# As Django's -------------------------------------------------------------------------------------


def test_the_admin_takes_it_for_djangos() -> None:
    """admin.E410 asks for Django's middleware or a subclass."""
    assert "django.contrib.admin" in django_settings.INSTALLED_APPS
    with override_settings(MIDDLEWARE=[MIDDLEWARE]):
        assert "admin.E410" not in [message.id for message in check_dependencies()]


@pytest.mark.parametrize("cookie", [True, False])
def test_an_untouched_session_costs_nothing(site: Any, engine: Any, cookie: bool) -> None:
    """This is the case for most requests of most sites: there is no round trip and no cookie, and
    any cache may share the page."""
    browser = Browser(site, **({COOKIE: draw_key()} if cookie else {}))
    with observed(engine.storage) as calls:
        answer = browser.get("nothing/")
    assert answer.status == 200
    assert calls == []
    assert answer.cookies == {}
    assert answer.header("Vary") == ""


def test_what_is_written_is_read(ada: Browser) -> None:
    """Each session does this: one request sets the cookie, and the next one reads the data."""
    answer = ada.get("read/")
    assert b"blue" in answer.body
    assert answer.header("Vary") == "Cookie"
    assert answer.cookies == {}


def test_a_login_gives_a_new_key(ada: Browser, user: Any) -> None:
    """These views do not ask AuthenticationMiddleware."""
    before = ada.cookies[COOKIE]
    ada.get(f"login/{user.username}/")
    assert ada.cookies[COOKIE] != before
    assert ada.get("who/").body == b"ada"


def test_a_flushed_session_has_its_cookie_deleted(ada: Browser) -> None:
    """Logout, with the header that keeps caches from handing the deletion to others."""
    answer = ada.get("reset/")
    assert answer.cookies[COOKIE].is_deletion
    assert answer.header("Vary") == "Cookie"
    assert ada.cookies == {}


@memory
def test_a_failed_view_saves_nothing(ada: Browser, engine: Any) -> None:
    """The data of a failed view may be incomplete."""
    with observed(engine.storage) as calls:
        answer = ada.get("fail/")
    assert answer.status == 500
    assert answer.cookies == {}
    assert "update" not in calls
    assert read(ada) == {"color": "blue"}


@memory
@pytest.mark.parametrize(
    ("route", "status", "color"),
    [("rename/", 500, "blue"), ("replace/", 200, "red")],
    ids=["failed-view", "replaced-session"],
)
def test_a_new_key_reaches_the_browser(ada: Browser, route: str, status: int, color: str) -> None:
    """This holds if the view that cycled the key failed, because the old key is a tombstone already
    and its browser would lose the session. It also holds if the view replaced the session of the
    request: both this middleware and Django's use the one that is there at the end."""
    before = ada.cookies[COOKIE]
    assert ada.get(route).status == status
    assert ada.cookies[COOKIE] != before
    assert read(ada) == {"color": color}


@memory
def test_a_session_that_ended_meanwhile_is_a_400(ada: Browser, engine: Any) -> None:
    """Django does the same, because the user may have logged out in another request."""
    stored = session_id(ada.cookies[COOKIE])

    def end(name: str) -> None:
        if name == "update":
            engine.storage.delete(stored)

    with observed(engine.storage, before=end):
        answer = ada.get("write/color/red/")
    assert answer.status == 400
    assert answer.cookies == {}


@memory
def test_an_untouched_error_page_does_not_vary(engine: Any) -> None:
    """The middleware looks at the expiry, which is no use that the view made of the session."""
    session = engine.SessionStore()
    session["color"] = "blue"
    session.save()
    request = RequestFactory().get("/")
    request.COOKIES[COOKIE] = session.session_key
    with override_settings(SESSION_SAVE_EVERY_REQUEST=True):
        response = SessionMiddleware(lambda request: HttpResponse(status=502))(request)
    assert "Vary" not in response.headers
    assert response.cookies == {}


@memory
def test_a_view_may_do_without_a_session(ada: Browser) -> None:
    """Django's middleware lets it be deleted from the request, and so must this one."""
    assert ada.get("without/").status == 200


@memory
def test_process_request_and_process_response_work_alone() -> None:
    """Tests and decorators of projects call them, without the middleware's ``__call__``."""
    middleware = SessionMiddleware(lambda request: HttpResponse())
    request = RequestFactory().get("/")
    middleware.process_request(request)
    request.session["color"] = "blue"
    response = middleware.process_response(request, HttpResponse())
    assert response.cookies[COOKIE].value == request.session.session_key
    assert type(request.session)(request.session.session_key)["color"] == "blue"


class Marking(SessionMiddleware):
    """A subclass of a project, with Django's method for responses."""

    def process_response(self, request: HttpRequest, response: HttpResponse) -> HttpResponse:
        response = super().process_response(request, response)
        response["X-Marked"] = str(COOKIE in response.cookies)
        return response


@memory
def test_a_subclass_may_change_the_response() -> None:
    def view(request: HttpRequest) -> HttpResponse:
        request.session["color"] = "blue"
        return HttpResponse()

    response = Marking(view)(RequestFactory().get("/"))
    assert response["X-Marked"] == "True"


@memory
@pytest.mark.parametrize("name", ["signed_cookies", "cached_db", "cache", "file", "db"])
def test_djangos_own_engines_work_under_it(site: Any, name: str, tmp_path: Any) -> None:
    """A project may change the middleware first and the engine later."""
    with override_settings(
        SESSION_ENGINE=f"django.contrib.sessions.backends.{name}", SESSION_FILE_PATH=tmp_path
    ):
        browser = Browser(site)
        browser.get("write/color/blue/")
        browser.get("write/shape/round/")
        assert read(browser) == {"color": "blue", "shape": "round"}
        assert browser.get("reset/").cookies[COOKIE].is_deletion


# Under ASGI --------------------------------------------------------------------------------------


@pytest.fixture
def hops(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Return the functions that were sent from a loop to a thread."""
    sent: list[Any] = []
    call = SyncToAsync.__call__

    async def counted(self: Any, *args: Any, **kwargs: Any) -> Any:
        sent.append(self.func)
        return await call(self, *args, **kwargs)

    monkeypatch.setattr(SyncToAsync, "__call__", counted)
    return sent


@memory
@pytest.mark.parametrize("path", ["nothing/", "write/color/red/", "reset/"])
def test_it_sends_nothing_to_a_thread(engine: Any, hops: list[Any], path: str) -> None:
    """Django's needs one for the request and one for the response, of the few there are. What is
    left are Django's signals: the memory engine needs no thread of its own."""
    asgi = ASGISite()
    browser = Browser(asgi)
    with override_settings(MIDDLEWARE=[MIDDLEWARE], ROOT_URLCONF=__name__):
        browser.get("write/color/blue/")
        hops.clear()
        browser.get(path)
    with_it = len(hops)
    hops.clear()
    with override_settings(MIDDLEWARE=[], ROOT_URLCONF=__name__):
        Browser(asgi).get("nothing/")
    assert with_it == len(hops)


def test_no_call_blocks_the_loop(engine: Any, user: Any) -> None:
    """One that does holds up every other request of the process. No storage declares any."""
    if find_spec("blockbuster") is None:
        skip_or_fail("blockbuster is not installed. Install it with: uv sync --group tests")
    import blockbuster

    with (
        override_settings(
            MIDDLEWARE=[MIDDLEWARE], ROOT_URLCONF=__name__, SESSION_SAVE_EVERY_REQUEST=True
        ),
        blockbuster.blockbuster_ctx(),
    ):
        browser = Browser(ASGISite())
        statuses = [
            browser.get(path).status
            for path in [
                *("nothing/", "write/color/blue/", "read/", "nest/a/1/", "nothing/", "expire/60/"),
                *(f"login/{user.username}/", "who/", "relogin/", "logout/", "read/", "fail/"),
            ]
        ]
        with observed(engine.storage, before=broken):
            browser.cookies[COOKIE] = draw_key()
            statuses += [browser.get(path).status for path in ("read/", "nothing/")]
    assert statuses == [200] * 11 + [500, 503, 503]


# Outages -----------------------------------------------------------------------------------------

NEEDY = ["read/", "template/", "write/color/red/", "stream/", "reset/"]
"""Paths whose views need the session."""


def assert_unavailable(answer: Answer) -> None:
    """Assert the whole response that a client gets."""
    assert answer.status == 503
    assert answer.header("Retry-After") == "5"
    assert answer.header("Vary") == "Cookie"
    assert "no-store" in answer.header("Cache-Control")
    assert answer.cookies == {}


def assert_not_cached(answer: Answer) -> None:
    assert answer.header("Vary") == "Cookie"
    assert "no-store" in answer.header("Cache-Control")
    assert answer.cookies == {}


@pytest.mark.parametrize("path", NEEDY)
def test_an_outage_is_a_503_and_no_logout(ada: Browser, engine: Any, path: str) -> None:
    """The browser keeps its cookie, the client knows when to come back, and no cache keeps it."""
    with observed(engine.storage, before=broken):
        assert_unavailable(ada.get(path))
    assert read(ada) == {"color": "blue"}


@memory
@pytest.mark.parametrize("path", ["write/color/red/", "stream/"])
def test_an_outage_at_the_save_is_a_503(ada: Browser, engine: Any, path: str) -> None:
    """The view has answered, but what it wrote is not stored: its answer would be a lie."""

    def refuse(name: str) -> None:
        if name != "read":
            broken(name)

    with observed(engine.storage, before=refuse):
        answer = ada.get(path)
    assert_unavailable(answer)
    assert b"written" not in answer.body
    assert read(ada) == {"color": "blue"}


@memory
@pytest.mark.parametrize(
    ("status", "failing"), [(200, "update"), (500, "read")], ids=["at the save", "in the view"]
)
def test_a_response_that_is_replaced_is_closed(
    ada: Browser, engine: Any, status: int, failing: str
) -> None:
    """The server closes only the 503, so each outage would leave files open. The response is closed
    once, at the end, because ``close()`` also tells Django that the request is finished."""
    finished: list[int] = []

    def refuse(name: str) -> None:
        if name == failing:
            broken(name)

    def note(**kwargs: Any) -> None:
        finished.append(bodies[-1].closed)

    request_finished.connect(note)
    try:
        with observed(engine.storage, before=refuse):
            assert_unavailable(ada.get(f"body/{status}/"))
    finally:
        request_finished.disconnect(note)
    assert bodies.pop().closed == 1
    assert finished == [1]


@memory
@pytest.mark.parametrize("inner", ["reader", "ender"])
def test_an_outage_in_an_inner_middleware_is_a_503(ada: Browser, engine: Any, inner: str) -> None:
    """Django makes a 500 of its error before this middleware sees it."""
    with (
        override_settings(MIDDLEWARE=[MIDDLEWARE, f"{__name__}.{inner}"]),
        observed(engine.storage, before=broken),
    ):
        assert_unavailable(ada.get("nothing/"))


@memory
def test_an_outage_behind_a_required_login_is_a_503(ada: Browser, engine: Any) -> None:
    """The redirect to the login page would look like a logout. Also with exceptions let through."""
    middleware = [
        MIDDLEWARE,
        "django.contrib.auth.middleware.AuthenticationMiddleware",
        "django.contrib.auth.middleware.LoginRequiredMiddleware",
    ]
    for propagates in (False, True):
        with (
            override_settings(MIDDLEWARE=middleware, DEBUG_PROPAGATE_EXCEPTIONS=propagates),
            observed(engine.storage, before=broken),
        ):
            assert_unavailable(ada.get("nothing/"))


@memory
def test_an_outage_of_a_rolling_session_is_a_503(ada: Browser, engine: Any) -> None:
    """With ``SESSION_SAVE_EVERY_REQUEST``, the session is read only after the view."""
    with (
        override_settings(SESSION_SAVE_EVERY_REQUEST=True),
        observed(engine.storage, before=broken),
    ):
        assert_unavailable(ada.get("nothing/"))


@memory
@pytest.mark.parametrize("saves_every_request", [False, True])
def test_a_view_may_handle_the_outage_itself(
    ada: Browser, engine: Any, saves_every_request: bool
) -> None:
    """Its answer stands, but only for this client and this moment."""
    with (
        override_settings(SESSION_SAVE_EVERY_REQUEST=saves_every_request),
        observed(engine.storage, before=broken),
    ):
        answer = ada.get("lenient/")
    assert answer.body == b"without a color"
    assert_not_cached(answer)


# Caches -----------------------------------------------------------------------------------------


def assert_not_shared(answer: Answer) -> None:
    directives = {each.strip() for each in answer.header("Cache-Control").split(",")}
    assert {"private", "no-store"} <= directives
    assert "public" not in directives
    assert "Cookie" in answer.header("Vary").split(", ")


def test_no_cache_may_keep_an_answer_with_the_cookie(ada: Browser, user: Any) -> None:
    """A visitor who got the response from a cache would get the session, or lose their own."""
    paths = ("write/a/1/", "public/", "stream/", f"login/{user.username}/", "expire/60/")
    for hours, path_ in enumerate(paths, 1):
        # The cookie of a session that the browser knows is sent when its expiry moves.
        with at(now() + hours * HOUR):
            answer = ada.get(path_)
        assert COOKIE in answer.cookies, path_
        assert_not_shared(answer)
    answer = ada.get("reset/")
    assert answer.cookies[COOKIE].is_deletion
    assert_not_shared(answer)
    unknown = Browser(ada.site, **{COOKIE: draw_key()}).get("read/")
    assert unknown.cookies[COOKIE].is_deletion
    assert_not_shared(unknown)


@memory
def test_an_answer_with_the_cookie_has_the_headers_of_never_cache(ada: Browser) -> None:
    expected = HttpResponse()
    add_never_cache_headers(expected)
    answer = ada.get("reset/")
    assert answer.header("Cache-Control") == expected.headers["Cache-Control"]
    sent = parse_http_date(answer.header("Expires"))
    assert abs(sent - parse_http_date(expected.headers["Expires"])) <= 2


@pytest.mark.engines("db", "cache:redis-cache", "file")
def test_no_cache_may_keep_an_answer_that_brings_a_new_key(
    ada: Browser, engine: Any, user: Any
) -> None:
    """The previous key is of no use after the grace, unless a cache hands out the new one."""
    options = {**getattr(django_settings, "SESSIONSTORES", {}), "ROTATE_AFTER": 3600}
    with override_settings(SESSIONSTORES=options):
        ada.get(f"login/{user.username}/")
        before = ada.cookies[COOKIE]
        with at(now() + 2 * HOUR):
            answer = ada.get("read/")
        assert ada.cookies[COOKIE] != before
        assert_not_shared(answer)


CACHING = [
    "django.middleware.cache.UpdateCacheMiddleware",
    MIDDLEWARE,
    "django.middleware.common.CommonMiddleware",
    "django.middleware.cache.FetchFromCacheMiddleware",
]


@pytest.mark.engines("memory", "db:sqlite", "cookie:sqlite")
def test_djangos_cache_stores_no_cookie_of_a_session(site: Any, engine: Any, user: Any) -> None:
    """The middleware are in the order that Django documents for a site whose pages are all
    cached."""
    with override_settings(
        MIDDLEWARE=CACHING,
        CACHE_MIDDLEWARE_SECONDS=600,
        CACHES={
            **django_settings.CACHES,
            "default": {
                "BACKEND": "django.core.cache.backends.locmem.LocMemCache",
                "LOCATION": "pages",
            },
        },
    ):
        caches["default"].clear()
        # A site's other cookie: Django's cache leaves out answers to requests without any.
        browser = Browser(site, theme="dark")
        paths = ("write/a/1/", "public/", "expire/600/", f"login/{user.username}/", "reset/")
        for hours, path_ in enumerate(paths, 1):
            with at(now() + hours * HOUR):
                assert COOKIE in browser.get(path_).cookies, path_
        assert b"sessionid" not in b"".join(caches["default"]._cache.values())
        # What has no cookie is kept as ever.
        browser.get("nothing/")
        assert b"nothing" in b"".join(caches["default"]._cache.values())
        caches["default"].clear()


@memory
def test_a_visitor_without_cookie_does_not_notice_an_outage(browser: Browser, engine: Any) -> None:
    """There is no session that the store could have."""
    with observed(engine.storage, before=broken):
        answer = browser.get("read/")
    assert answer.status == 200
    assert "no-store" not in answer.header("Cache-Control")


@memory
def test_nothing_more_is_asked_once_an_outage_is_met(ada: Browser, engine: Any) -> None:
    """A store that hangs costs each round trip its timeout."""
    with override_settings(SESSION_SAVE_EVERY_REQUEST=True), observed(engine.storage) as calls:
        assert_unavailable(ada.get("elsewhere/"))
    assert calls == []


@memory
def test_another_error_stays_a_500(ada: Browser, engine: Any) -> None:
    """A bug must not hide behind an outage that is none."""
    assert ada.get("fail/").status == 500


@memory
def test_an_outage_is_logged_in_one_line(ada: Browser, engine: Any) -> None:
    """The line has the words of the storage but not the key. There is no error for each request,
    which many sites would send as mail."""
    with (
        messages() as ours,
        messages("django.request") as djangos,
        observed(engine.storage, before=broken),
    ):
        ada.get("read/")
    (record,) = ours
    assert record.levelname == "WARNING"
    assert "the store is gone" in record.getMessage()
    assert "read/" in record.getMessage()
    assert ada.cookies[COOKIE] not in record.getMessage()
    assert djangos == []


@memory
def test_the_project_has_a_page_of_its_own_for_outages(
    site: Any, engine: Any, tmp_path: Any
) -> None:
    """The page is ``503.html``, which is rendered without context like those for 404 and 500."""
    (tmp_path / "503.html").write_text("<h1>Back in {{ request }}{% now 'Y' %}</h1>")
    backend = "django.template.backends.django.DjangoTemplates"
    with override_settings(TEMPLATES=[{"BACKEND": backend, "DIRS": [tmp_path]}]):
        browser = Browser(site, **{COOKIE: draw_key()})
        with observed(engine.storage, before=broken):
            answer = browser.get("read/")
    assert_unavailable(answer)
    assert answer.body.startswith(b"<h1>Back in 2")
    assert answer.header("Content-Type").startswith("text/html")


@memory
def test_the_time_to_come_back_is_the_projects(site: Any, engine: Any) -> None:
    """``OUTAGE_RETRY_AFTER`` sets it."""
    browser = Browser(site, **{COOKIE: draw_key()})
    with (
        override_settings(SESSIONSTORES={"OUTAGE_RETRY_AFTER": 90}),
        observed(engine.storage, before=broken),
    ):
        assert browser.get("read/").header("Retry-After") == "90"


# Outages, and anonymous requests ----------------------------------------------------------------


@pytest.fixture
def anonymous(engine: Any) -> Iterator[None]:
    options = {**getattr(django_settings, "SESSIONSTORES", {}), "ON_OUTAGE": "anonymous"}
    with override_settings(SESSIONSTORES=options):
        yield


@pytest.mark.usefixtures("anonymous")
@pytest.mark.parametrize("path", ["read/", "template/", "who/", "save/"])
def test_an_outage_may_be_read_as_anonymous(ada: Browser, engine: Any, path: str) -> None:
    """It shows less, never more; the cookie stays, and no cache takes it for the page."""
    with observed(engine.storage, before=broken):
        answer = ada.get(path)
    assert answer.status == 200
    assert b"blue" not in answer.body
    assert_not_cached(answer)
    assert read(ada) == {"color": "blue"}


@memory
@pytest.mark.usefixtures("anonymous")
@pytest.mark.parametrize("path", ["write/color/red/", "stream/", "reset/", "nest/a/1/"])
def test_an_anonymous_request_that_writes_is_a_503(ada: Browser, engine: Any, path: str) -> None:
    """Its write cannot be kept, and must not replace what it could not see."""
    with observed(engine.storage, before=broken):
        assert_unavailable(ada.get(path))
    assert read(ada) == {"color": "blue"}


@memory
@pytest.mark.usefixtures("anonymous")
def test_an_anonymous_request_writes_nothing_when_the_store_is_back(
    ada: Browser, engine: Any
) -> None:
    """The request has read an empty session. Saving that would empty the real one."""

    def miss_the_read(name: str) -> None:
        if name == "read":
            broken(name)

    with observed(engine.storage, before=miss_the_read):
        assert_unavailable(ada.get("nest/a/1/"))
    assert read(ada) == {"color": "blue"}


@memory
@pytest.mark.usefixtures("anonymous")
def test_a_rolling_session_is_let_alone_in_an_outage(ada: Browser, engine: Any) -> None:
    """Nothing was changed, so there is nothing to refuse."""
    with (
        override_settings(SESSION_SAVE_EVERY_REQUEST=True),
        observed(engine.storage, before=broken),
    ):
        for path in ("read/", "nothing/"):
            answer = ada.get(path)
            assert answer.status == 200
            assert_not_cached(answer)


@memory
@pytest.mark.usefixtures("anonymous")
def test_a_login_in_an_outage_is_a_503(ada: Browser, engine: Any, user: Any) -> None:
    """The login is refused even if the store is back at the save, because the old session would
    stay valid."""

    def miss_the_reads(name: str) -> None:
        if name == "read":
            broken(name)

    with observed(engine.storage, before=miss_the_reads):
        assert_unavailable(ada.get(f"login/{user.username}/"))
    assert read(ada) == {"color": "blue"}


# The cookie: when it is sent --------------------------------------------------------------------


@memory
def test_a_cookie_that_is_not_due_is_not_sent(ada: Browser, engine: Any) -> None:
    """With ``SESSION_SAVE_EVERY_REQUEST``, the cookie is sent when the stored expiry moves.
    Otherwise each response would be 100 bytes longer, and none could be cached."""
    with override_settings(SESSION_SAVE_EVERY_REQUEST=True):
        for path in ("read/", "nothing/"):
            answer = ada.get(path)
            assert answer.cookies == {}
            assert answer.header("Vary") == "Cookie"
        with at(now() + HOUR):
            assert ada.get("read/").cookies[COOKIE].value == ada.cookies[COOKIE]
            assert ada.get("read/").cookies == {}


@memory
def test_a_rolling_session_that_has_ended_is_not_replaced(site: Any, engine: Any) -> None:
    """With ``SESSION_SAVE_EVERY_REQUEST``, Django's middleware creates a record for each
    meaningless cookie."""
    browser = Browser(site, **{COOKIE: draw_key()})
    with override_settings(SESSION_SAVE_EVERY_REQUEST=True), observed(engine.storage) as calls:
        answer = browser.get("nothing/")
    assert calls == ["read"]
    assert answer.cookies[COOKIE].is_deletion


@memory
def test_a_session_that_the_view_saved_gets_its_cookie(browser: Browser) -> None:
    """The middleware's save finds nothing left to write, and the browser has no key yet."""
    assert browser.get("expire/600/").cookies[COOKIE].attributes["max-age"] == "600"


@memory
def test_an_expiry_that_the_view_saved_reaches_the_browser(ada: Browser) -> None:
    """The key is known, the new lifetime is not."""
    assert ada.get("expire/600/").cookies[COOKIE].attributes["max-age"] == "600"


def test_another_kind_of_cookie_reaches_the_browser(ada: Browser) -> None:
    """ "Remember me", and its opposite, right after a save: the stored expiry is near enough."""
    kinds = []
    for seconds in ("0", "1209600", "0", "default", "1209600"):
        answer = ada.get(f"remember/{seconds}/")
        kinds.append(answer.cookies[COOKIE].attributes.get("max-age"))
        assert ada.get("read/").cookies == {}
    assert kinds == [None, "1209600", None, "1209600", "1209600"]


@memory
def test_a_rolling_request_overtaken_by_a_login_is_answered(ada: Browser, engine: Any) -> None:
    """The request has nothing to save, and its cookie must not replace that of the login."""
    key = ada.cookies[COOKIE]

    def log_in(name: str) -> None:
        if name == "touch":
            other = engine.SessionStore(key)
            other.cycle_key()
            other["_auth_user_id"] = "7"
            other.save()

    with override_settings(SESSION_SAVE_EVERY_REQUEST=True), at(now() + HOUR):
        with observed(engine.storage, before=log_in):
            answer = ada.get("read/")
        assert answer.status == 200
        assert answer.cookies == {}
        late = ada.get("read/")
        assert late.status == 200
        assert late.cookies == {}


# The cookie: in parts ---------------------------------------------------------------------------


class KeyInCookie:
    """Gives the sessions of an engine keys of a length that stores never have.

    What the cookie engine does; here without encryption, so that only the middleware is tested.
    """

    def __init__(self, engine: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        self.seen: list[str | None] = []
        self.size = 0
        outer = self

        class SessionStore(engine.SessionStore):  # type: ignore[misc,name-defined]
            cookie_is_due = is_stored = is_proved = True

            def __init__(self, session_key: str | None = None) -> None:
                super().__init__(None)
                outer.seen.append(session_key)

            @property
            def session_key(self) -> str:
                return outer.key()

            def save(self, must_create: bool = False) -> None:
                pass

            async def asave(self, must_create: bool = False) -> None:
                pass

            def is_empty(self) -> bool:
                return outer.size < 0

        monkeypatch.setattr("django_sessionstores.backends.memory.SessionStore", SessionStore)

    def key(self) -> str:
        return "".join(f"{number:07d}_" for number in range(self.size // 8 + 1))[: self.size]


@pytest.fixture
def keys(engine: Any, monkeypatch: pytest.MonkeyPatch) -> KeyInCookie:
    return KeyInCookie(engine, monkeypatch)


@memory
@pytest.mark.parametrize(
    "sizes",
    [
        [100, 4087, 4088, 8160, 8168, 12_000, 20_000, 100],
        [20_000, 12_000, 5_000, 4_000, 20_000, 9_000, 100],
        [20_000, -1, 9_000, -1],
    ],
    ids=["growing", "shrinking", "ending"],
)
def test_long_keys_come_back_whole(browser: Browser, keys: KeyInCookie, sizes: list[int]) -> None:
    """Keys of each size follow each other: no stale part is left, and none is missing."""
    for size in sizes:
        keys.size = size
        browser.get("write/x/1/")
        expected = None if size < 0 else keys.key()
        browser.get("nothing/")
        assert keys.seen[-1] == expected
        needed = 0 if size < 0 else -(-size // 4096)
        assert len(browser.cookies) <= needed + 1


@memory
def test_parts_have_the_attributes_of_the_cookie(browser: Browser, keys: KeyInCookie) -> None:
    """A part that lives longer, or that scripts can read, undoes what the settings ask for."""
    keys.size = 9_000
    with override_settings(
        SESSION_COOKIE_SECURE=True, SESSION_COOKIE_SAMESITE="Strict", SESSION_COOKIE_PATH="/x/"
    ):
        cookies = browser.get("write/x/1/").cookies
    first, *rest = cookies.values()
    assert len(rest) == 2
    assert {"secure", "httponly"} <= first.attributes.keys()
    assert (first.attributes["samesite"], first.attributes["path"]) == ("Strict", "/x/")
    assert all(cookie.attributes == first.attributes for cookie in rest)


@memory
@pytest.mark.parametrize("size", [100, -1], ids=["set", "deleted"])
def test_stale_parts_are_deleted_as_they_were_set(
    browser: Browser, keys: KeyInCookie, size: int
) -> None:
    """A deletion for another path or domain deletes nothing, and 4 kB are sent for ever."""
    keys.size = 9_000
    with override_settings(SESSION_COOKIE_DOMAIN="example.com", SESSION_COOKIE_PATH="/x/"):
        browser.get("write/x/1/")
        keys.size = size
        cookies = browser.get("write/x/1/").cookies
    for name in ("sessionid-1", "sessionid-2"):
        assert cookies[name].is_deletion
        assert cookies[name].attributes["domain"] == "example.com"
        assert cookies[name].attributes["path"] == "/x/"


@memory
def test_views_do_not_see_the_parts(engine: Any, keys: KeyInCookie) -> None:
    """request.COOKIES has the session's cookie whole, whoever else reads it."""
    seen: list[dict[str, str]] = []

    def view(request: HttpRequest) -> HttpResponse:
        seen.append(dict(request.COOKIES))
        return HttpResponse()

    request = RequestFactory().get("/")
    request.COOKIES.update({COOKIE: "2.ab", "sessionid-1": "cd", "sessionid-7": "x", "other": "y"})
    SessionMiddleware(view)(request)
    assert seen == [{COOKIE: "abcd", "sessionid-7": "x", "other": "y"}]


@memory
@pytest.mark.parametrize("size", [100, -1], ids=["set", "deleted"])
@pytest.mark.parametrize("first", [WHOLE, "2.ab"], ids=["whole", "in parts"])
def test_cookies_that_are_no_parts_are_left_alone(
    site: Any, keys: KeyInCookie, first: str, size: int
) -> None:
    """A project's own may have such a name, and would be gone with each login and logout."""
    browser = Browser(site, **{COOKIE: first, "sessionid-2": "mine"})
    keys.size = size
    assert list(browser.get("write/x/1/").cookies) == [COOKIE]


@memory
@pytest.mark.parametrize("first", [WHOLE, "99.ab", "16.ab"])
def test_junk_adds_few_headers(site: Any, keys: KeyInCookie, first: str) -> None:
    """Proxies refuse a response with more than 4 kB of them, after the session was saved: the
    visitor would be shut out by what somebody else has put into the browser."""
    junk = {f"sessionid-{number}": "x" for number in range(1, 100)}
    keys.size = 100
    answer = Browser(site, **{COOKIE: first}, **junk).get("write/x/1/")
    lines = [value for name, value in answer.headers if name == "Set-Cookie"]
    assert len(lines) == (16 if first == "16.ab" else 1)
    assert sum(map(len, lines)) < 2_048


@memory
def test_parts_go_when_the_limit_was_lowered(browser: Browser, keys: KeyInCookie) -> None:
    """A site deploys a smaller COOKIE_MAX_PARTS. What visitors have from before it counts itself,
    and would else be sent with each request for as long as the session lives."""
    keys.size = 16_000
    browser.get("write/x/1/")
    assert len(browser.cookies) == 4
    keys.size = 100
    with override_settings(SESSIONSTORES={"COOKIE_MAX_PARTS": 1}):
        browser.get("write/x/1/")
    assert list(browser.cookies) == [COOKIE]


@memory
@pytest.mark.parametrize(
    "cookies",
    [
        {COOKIE: "3.ab", "sessionid-2": "x"},
        {COOKIE: "99.ab"},
        {COOKIE: "2."},
        {COOKIE: "0.ab", "sessionid-1": "x"},
        {"sessionid-1": "x"},
        {COOKIE: "2.ab", "sessionid-1": "x" * 9_000},
        {COOKIE: "2." + WHOLE, "sessionid-1": "\x7f\x80;"},
        {f"sessionid-{number}": "x" for number in range(200)},
    ],
    ids=str,
)
def test_odd_parts_are_no_error(site: Any, engine: Any, cookies: dict[str, str]) -> None:
    """Anybody can send any cookie."""
    assert Browser(site, **cookies).get("read/").body == b"{}"


# The cookie: attributes -------------------------------------------------------------------------


@memory
def test_a_partitioned_cookie_is_set_and_deleted_as_such(
    browser: Browser, keys: KeyInCookie
) -> None:
    """A browser keeps partitioned cookies apart: a deletion without the attribute misses them. Nor
    does it take one that is not Secure, a deletion included."""
    keys.size = 9_000
    with override_settings(SESSIONSTORES={"COOKIE_PARTITIONED": True}, SESSION_COOKIE_SECURE=True):
        given = browser.get("write/x/1/").cookies
        keys.size = 5_000
        smaller = browser.get("write/x/1/").cookies
        keys.size = -1
        gone = browser.get("write/x/1/").cookies
    assert len(given) == len(smaller) == 3
    assert len(gone) == 2
    for cookie in [*given.values(), *smaller.values(), *gone.values()]:
        assert {"partitioned", "secure"} <= cookie.attributes.keys()
    assert all(cookie.is_deletion for cookie in gone.values())


@memory
def test_cookies_are_not_partitioned_unless_asked_for(browser: Browser) -> None:
    """It would hide the session from the same site in a frame elsewhere."""
    assert "partitioned" not in browser.get("write/x/1/").cookies[COOKIE].attributes


@memory
def test_prefixed_names_work_in_parts(browser: Browser, keys: KeyInCookie) -> None:
    """Browsers refuse such a name without Secure and Path=/, also when it is to be deleted."""
    keys.size = 9_000
    with override_settings(SESSION_COOKIE_NAME="__Host-id", SESSION_COOKIE_SECURE=True):
        given = browser.get("write/x/1/").cookies
        browser.get("nothing/")
        assert keys.seen[-1] == keys.key()
        keys.size = -1
        gone = browser.get("write/x/1/").cookies
    assert list(given) == list(gone) == ["__Host-id", "__Host-id-1", "__Host-id-2"]
    for cookie in [*given.values(), *gone.values()]:
        assert "secure" in cookie.attributes
        assert "domain" not in cookie.attributes
        assert cookie.attributes["path"] == "/"


# Who the client is ------------------------------------------------------------------------------


@memory
def test_the_record_tells_who_the_client_is(browser: Browser, engine: Any) -> None:
    """Behind a trusted proxy, the list of a user's own sessions shows the address of the client."""
    with override_settings(SESSIONSTORES={"TRUSTED_PROXIES": ["10.0.0.0/8"]}):
        browser.get(
            "write/x/1/",
            REMOTE_ADDR="10.0.0.1",
            HTTP_X_FORWARDED_FOR="1.1.1.1, 2001:DB8::1",
            HTTP_USER_AGENT="Browser/1.0\x07",
        )
        record = engine.storage.read(session_id(browser.cookies[COOKIE]))
    assert (record.ip, record.user_agent) == ("2001:db8::1", "Browser/1.0")


@memory
@pytest.mark.parametrize("address", [None, "", "unix:"])
def test_a_client_without_an_address(browser: Browser, engine: Any, address: str | None) -> None:
    """Servers of ASGI that listen on a socket, or behind a gateway, do not agree on what to say."""
    browser.get("write/x/1/", REMOTE_ADDR=address)
    assert engine.storage.read(session_id(browser.cookies[COOKIE])).ip == ""


@memory
def test_nobody_is_trusted_unless_named(browser: Browser, engine: Any) -> None:
    """Any client can send the header."""
    browser.get("write/x/1/", REMOTE_ADDR="10.0.0.1", HTTP_X_FORWARDED_FOR="1.1.1.1")
    assert engine.storage.read(session_id(browser.cookies[COOKIE])).ip == "10.0.0.1"


@memory
def test_reading_does_not_ask_who_the_client_is(ada: Browser) -> None:
    """Parsing addresses is for the few requests that write."""
    with mock.patch("django_sessionstores.middleware.policy.client_ip") as asked:
        ada.get("read/")
        ada.get("nothing/")
    assert not asked.called


# Django's decisions -----------------------------------------------------------------------------


class Plain:
    """A session of another engine, whose state a test chooses."""

    def __init__(self, *, accessed: bool, modified: bool, empty: bool) -> None:
        self.accessed, self.modified, self.empty = accessed, modified, empty
        self.session_key = None if empty else "k" * 32
        self.saved = 0

    def is_empty(self) -> bool:
        return self.empty

    def get(self, key: str) -> None:
        return None

    def get_expire_at_browser_close(self) -> bool:
        return False

    def get_expiry_age(self) -> int:
        return 600

    def save(self) -> None:
        self.saved += 1


@pytest.mark.parametrize("every", [False, True], ids=["", "every request"])
@pytest.mark.parametrize("status", [200, 302, 404, 499, 500, 503])
@pytest.mark.parametrize("cookie", [False, True], ids=["no cookie", "cookie"])
@pytest.mark.parametrize("accessed", [False, True], ids=["", "accessed"])
@pytest.mark.parametrize("modified", [False, True], ids=["", "modified"])
@pytest.mark.parametrize("empty", [False, True], ids=["", "empty"])
def test_the_decisions_are_those_of_django(
    every: bool, status: int, cookie: bool, accessed: bool, modified: bool, empty: bool
) -> None:
    """The package's middleware makes them itself. When Django changes one, this test fails."""

    def decided(middleware: type[Any]) -> tuple[Any, ...]:
        session = Plain(accessed=accessed, modified=modified, empty=empty)
        request: Any = RequestFactory().get("/")
        request.session = session
        if cookie:
            request.COOKIES[COOKIE] = "old"
        answer = HttpResponse(status=status)
        middleware(lambda request: answer).process_response(request, answer)
        morsel = answer.cookies.get(COOKIE)
        attributes = {} if morsel is None else {**morsel, "expires": bool(morsel["expires"])}
        return session.saved, morsel and morsel.value, attributes, answer.get("Vary")

    with override_settings(SESSION_SAVE_EVERY_REQUEST=every):
        ours, djangos = decided(SessionMiddleware), decided(DjangosSessionMiddleware)
    if ours[1] is not None and djangos[3] is None:
        # Until Django 5.2.14, its responses did not vary on a cookie that they only set.
        ours = (*ours[:3], None)
    assert ours == djangos


# Without the app ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "registry", "says"),
    [
        ("db", "", "INSTALLED_APPS"),
        ("cookie", "db", "INSTALLED_APPS"),
        ("memory", "", ""),
        ("no_such", "", "cannot be used"),
    ],
)
def test_an_engine_that_needs_the_app_is_named_when_the_middleware_is_imported(
    name: str, registry: str, says: str
) -> None:
    """The checks of an app that is not installed do not run."""
    needs = pytest.raises(ImproperlyConfigured, match=says) if says else nullcontext()
    path = f"django_sessionstores.backends.{name}"
    with (
        override_settings(SESSION_ENGINE=path, SESSIONSTORES={"REGISTRY": registry or None}),
        mock.patch.dict(SessionStore._own_storages, clear=True),  # As in a new process.
    ):
        with mock.patch.object(apps, "is_installed", return_value=False), needs:
            installed.require_app()
        installed.require_app()
