"""A user is told about a login on a device that none of the user's sessions has."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from copy import copy
from pathlib import Path
from smtplib import SMTPRecipientsRefused
from typing import Any

import pytest
from asgiref.sync import async_to_sync
from django.contrib.auth import get_user_model, login
from django.contrib.auth.signals import user_logged_in
from django.core import mail
from django.core.mail.backends.base import BaseEmailBackend
from django.db import transaction
from django.http import HttpRequest, HttpResponse
from django.test import AsyncClient, Client, RequestFactory, override_settings
from django.urls import include, path
from django.utils import translation

from django_sessionstores.core.records import Client as Who
from django_sessionstores.devices import new_sign_ins
from django_sessionstores.devices.new_sign_ins import _language_of
from django_sessionstores.exceptions import StorageUnavailable
from django_sessionstores.inventory import Inventory
from django_sessionstores.sessions.state import RequestPolicy
from django_sessionstores.signals import new_sign_in
from django_sessionstores.testing import observed
from tests import urls
from tests.devices.test_names import CITY, database
from tests.devices.test_views import DJANGOS, FIREFOX, IPHONE, in_force, stored
from tests.pages import MIDDLEWARE
from tests.sessions.test_lifetimes import limits
from tests.test_locales import EACH, po  # noqa: F401 - the locales of the package


def log_in_and_fail(request: HttpRequest) -> HttpResponse:
    login(request, get_user_model()._default_manager.get(username="ada"))
    raise RuntimeError("this view always fails")


def log_in_and_flush(request: HttpRequest) -> HttpResponse:
    login(request, get_user_model()._default_manager.get(username="ada"))
    request.session.flush()
    request.session["x"] = 1
    return HttpResponse()


def give_token(request: HttpRequest) -> HttpResponse:
    """Tells of a login that has no session, as packages for tokens do."""
    user = get_user_model()._default_manager.get(username="ada")
    user_logged_in.send(type(user), request=request, user=user)
    return HttpResponse()


urlpatterns = [
    path("fail/", log_in_and_fail),
    path("flush/", log_in_and_flush),
    path("token/", give_token),
    path("account/devices/", include("django_sessionstores.urls")),
    *urls.urlpatterns,
]

ENGINES = pytest.mark.engines("memory", "db:sqlite", "cookie:sqlite", "file", "cache:redis-cache")
ONE_ENGINE = pytest.mark.engines("db:sqlite")
EVERYWHERE = "192.0.2.1"


class RefusedBackend(BaseEmailBackend):
    """A server that quotes the address."""

    def send_messages(self, messages: Any) -> int:
        raise SMTPRecipientsRefused(dict.fromkeys(messages[0].to, (550, b"no such user")))


class BrokenBackend(BaseEmailBackend):
    def send_messages(self, messages: Any) -> int:
        raise ConnectionRefusedError("no mail server")


@pytest.fixture(autouse=True)
def telling(engine: Any) -> Iterator[None]:
    with in_force(ROOT_URLCONF=__name__), limits(NEW_SIGN_IN="email"):
        yield


@pytest.fixture
def ada(engine: Any) -> Any:
    return get_user_model()._default_manager.create(username="ada", email="ada@example.com")


def asked(engine: Any) -> Any:
    """Return a request of a visitor, whose session the middleware knows."""
    request: Any = RequestFactory().get("/", headers={"user-agent": FIREFOX})
    request.session = engine.SessionStore()
    request.session.policy = RequestPolicy(client=lambda: Who(EVERYWHERE, FIREFOX))
    return request


def sign_in(agent: str = FIREFOX, *, is_async: bool = False) -> Any:
    kind: Any = AsyncClient if is_async else Client
    client, headers = kind(), {"user-agent": agent}
    if is_async:
        response = async_to_sync(client.get)("/async/login/ada/", headers=headers)
    else:
        response = client.get("/login/ada/", headers=headers)
    assert response.status_code == 200
    return client


@ENGINES
@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
def test_a_new_device(
    engine: Any, ada: Any, is_async: bool, django_capture_on_commit_callbacks: Any
) -> None:
    """The user is told once, with what helps to recognise it, and no key."""
    stored(engine, ada, agent=IPHONE)
    with django_capture_on_commit_callbacks(execute=True):
        client = sign_in(is_async=is_async)
    (message,) = mail.outbox
    assert message.to == ["ada@example.com"]
    assert message.subject == "New sign-in from Firefox on Linux"
    ((html, kind),) = message.alternatives
    assert kind == "text/html"
    for body in (message.body, html):
        assert "Firefox on Linux" in body
        assert "127.0.0.1" in body
        assert "http://testserver/account/devices/" in body
        assert client.cookies["sessionid"].value[:20] not in body
    with django_capture_on_commit_callbacks(execute=True):
        sign_in(is_async=is_async)
        sign_in(IPHONE, is_async=is_async)
    assert len(mail.outbox) == 1


@ENGINES
def test_no_live_session_knows_the_device(
    engine: Any, ada: Any, django_capture_on_commit_callbacks: Any
) -> None:
    """Neither one that has ended, nor one of somebody else."""
    bob = get_user_model()._default_manager.create(username="bob")
    stored(engine, bob, agent=FIREFOX)
    Inventory().end(stored(engine, ada, agent=FIREFOX).session_id)
    with django_capture_on_commit_callbacks(execute=True):
        sign_in()
    assert len(mail.outbox) == 1


@ONE_ENGINE
def test_the_same_device_in_another_country(
    engine: Any,
    ada: Any,
    monkeypatch: pytest.MonkeyPatch,
    django_capture_on_commit_callbacks: Any,
) -> None:
    """One that is not known may be the same one."""
    countries = {"192.0.2.1": "Sweden", "192.0.2.200": "Sweden", "203.0.113.9": "Norway"}
    monkeypatch.setattr(new_sign_ins, "country_name", lambda ip: countries.get(ip, ""))
    stored(engine, ada, agent=FIREFOX, ip="192.0.2.1")
    told = {}
    for address in (*countries, "198.51.100.9"):
        with django_capture_on_commit_callbacks(execute=True):
            client = Client(headers={"user-agent": FIREFOX}, REMOTE_ADDR=address)
            client.get("/login/ada/")
            client.get("/logout/")
        told[address] = len(mail.outbox)
    assert told == {"192.0.2.1": 0, "192.0.2.200": 0, "203.0.113.9": 1, "198.51.100.9": 1}


@ONE_ENGINE
def test_the_country_is_that_of_the_filters_of_the_admin(
    engine: Any, ada: Any, tmp_path: Path, django_capture_on_commit_callbacks: Any
) -> None:
    with (
        override_settings(GEOIP_PATH=database(tmp_path, "GeoLite2-City", CITY)),
        django_capture_on_commit_callbacks(execute=True),
    ):
        Client(headers={"user-agent": FIREFOX}, REMOTE_ADDR="192.0.2.1").get("/login/ada/")
    assert "Place: Uppsala, Sweden" in mail.outbox[0].body


@ONE_ENGINE
@pytest.mark.parametrize("value", ["ignore", "signal", "email"])
def test_a_project_can_tell_it_otherwise(
    engine: Any, ada: Any, value: str, django_capture_on_commit_callbacks: Any
) -> None:
    heard: list[dict[str, Any]] = []

    def receive(sender: Any, signal: Any, **facts: Any) -> None:
        assert sender is engine.SessionStore
        heard.append(facts)

    new_sign_in.connect(receive)
    try:
        with limits(NEW_SIGN_IN=value), django_capture_on_commit_callbacks(execute=True):
            sign_in()
    finally:
        new_sign_in.disconnect(receive)
    assert len(heard) == (value != "ignore")
    assert len(mail.outbox) == (value == "email")
    for facts in heard:
        assert facts["user"] == ada
        assert facts["client"] == Who("127.0.0.1", FIREFOX)
        assert facts["devices_url"] == "http://testserver/account/devices/"
        assert facts["language"] == translation.get_language()
        assert "session_key" not in facts


@ONE_ENGINE
def test_a_login_that_is_rolled_back_is_not_told(
    engine: Any, ada: Any, django_capture_on_commit_callbacks: Any
) -> None:
    with django_capture_on_commit_callbacks(execute=True), transaction.atomic():
        sign_in()
        transaction.set_rollback(True)
    assert mail.outbox == []


@ENGINES
@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
def test_a_login_that_is_refused_is_not_told(
    engine: Any, ada: Any, is_async: bool, django_capture_on_commit_callbacks: Any
) -> None:
    with limits(NEW_SIGN_IN="email", MAX_SESSIONS=1, ON_LIMIT="refuse"):
        stored(engine, ada, agent=IPHONE)
        client: Any = AsyncClient() if is_async else Client()
        get = async_to_sync(client.get) if is_async else client.get
        url = f"{'/async' if is_async else ''}/login/ada/"
        with django_capture_on_commit_callbacks(execute=True):
            response = get(url, headers={"user-agent": FIREFOX})
    assert response.status_code == 403
    assert mail.outbox == []


@ENGINES
@pytest.mark.parametrize("url", ["fail", "flush", "token"])
def test_a_login_that_is_not_stored_is_not_told(
    engine: Any, ada: Any, url: str, django_capture_on_commit_callbacks: Any
) -> None:
    """Neither if the view fails, nor if it logs the user out again, nor without a session."""
    client = Client(headers={"user-agent": FIREFOX}, raise_request_exception=False)
    with django_capture_on_commit_callbacks(execute=True):
        client.get(f"/{url}/")
    assert Inventory().count(user=ada) == 0
    assert mail.outbox == []


@ONE_ENGINE
def test_a_login_is_told_once(
    engine: Any, ada: Any, django_capture_on_commit_callbacks: Any
) -> None:
    """By the first save, however many follow, and although objects are copied and pickled."""
    request = asked(engine)
    with django_capture_on_commit_callbacks(execute=True):
        login(request, ada)
        copied = copy(request.session)
        assert pickle.loads(pickle.dumps(request.session)).sign_in is None
        for each in (request.session, copied, request.session):
            each["x"] = 1
            each.save()
    assert len(mail.outbox) == 1


@ONE_ENGINE
def test_a_mail_that_is_not_sent_fails_no_login(
    engine: Any,
    ada: Any,
    caplog: pytest.LogCaptureFixture,
    django_capture_on_commit_callbacks: Any,
) -> None:
    """The log has one line, without the address and the key."""
    backend = f"{__name__}.{BrokenBackend.__name__}"
    with override_settings(EMAIL_BACKEND=backend), django_capture_on_commit_callbacks(execute=True):
        client = sign_in()
    assert client.get("/who/").content == b"ada"
    (line,) = [each.getMessage() for each in caplog.records if "new device" in each.getMessage()]
    assert f"User {ada.pk} was not told" in line
    assert "ConnectionRefusedError: no mail server" in line
    assert "ada@example.com" not in line


@ONE_ENGINE
@pytest.mark.parametrize("address", ["ada@example.com", "ada@example.com\nBcc: eve@example.com"])
def test_an_error_that_quotes_the_address(
    engine: Any,
    ada: Any,
    address: str,
    caplog: pytest.LogCaptureFixture,
    django_capture_on_commit_callbacks: Any,
) -> None:
    """The address is not logged, nor does a new line in it begin a line of the log."""
    ada.email = address
    ada.save()
    backend = f"{__name__}.{RefusedBackend.__name__}"
    with override_settings(EMAIL_BACKEND=backend), django_capture_on_commit_callbacks(execute=True):
        assert sign_in().get("/who/").content == b"ada"
    (line,) = [each.getMessage() for each in caplog.records if "new device" in each.getMessage()]
    assert "SMTPRecipientsRefused: " in line
    assert "\n" not in line
    assert "example.com" not in line


@ONE_ENGINE
def test_a_host_that_is_not_allowed_fails_no_login(
    engine: Any, ada: Any, django_capture_on_commit_callbacks: Any
) -> None:
    """Without a middleware that looks at it, Django serves the request."""
    middleware = [each for each in MIDDLEWARE if not each.endswith("CommonMiddleware")]
    with in_force(ROOT_URLCONF=__name__, ALLOWED_HOSTS=["example.com"], MIDDLEWARE=middleware):
        with django_capture_on_commit_callbacks(execute=True):
            client = sign_in()
        assert client.get("/who/").content == b"ada"
    assert "://" not in mail.outbox[0].body


@ONE_ENGINE
def test_a_list_that_fails_fails_no_login(
    engine: Any, ada: Any, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(name: str) -> None:
        if name == "scan":
            raise StorageUnavailable("no route")

    with observed(engine.storage, before=broken):
        assert sign_in().get("/who/").content == b"ada"
    assert "It is not known whether a login is from a new device: no route" in caplog.text


@pytest.mark.engines("cookie:unregistered")
def test_an_engine_without_a_list(engine: Any, ada: Any) -> None:
    assert sign_in().get("/who/").content == b"ada"
    assert mail.outbox == []


@ONE_ENGINE
def test_without_the_middleware_of_the_package(
    engine: Any, ada: Any, django_capture_on_commit_callbacks: Any
) -> None:
    """Sessions do not have their clients there, so each login would be new."""
    with (
        in_force(ROOT_URLCONF=__name__, MIDDLEWARE=[DJANGOS, *MIDDLEWARE[1:]]),
        django_capture_on_commit_callbacks(execute=True),
    ):
        sign_in()
    assert mail.outbox == []


@ONE_ENGINE
def test_a_user_without_an_address(
    engine: Any, ada: Any, django_capture_on_commit_callbacks: Any
) -> None:
    ada.email = ""
    ada.save()
    with django_capture_on_commit_callbacks(execute=True):
        sign_in()
    assert mail.outbox == []


@ONE_ENGINE
def test_a_client_cannot_write_into_the_headers_or_the_page(
    engine: Any, ada: Any, django_capture_on_commit_callbacks: Any
) -> None:
    with django_capture_on_commit_callbacks(execute=True):
        sign_in("<b>Bcc: eve@example.com</b>")
    (message,) = mail.outbox
    assert "\n" not in message.subject
    assert "<b>Bcc" in message.body
    assert "&lt;b&gt;Bcc" in message.alternatives[0][0]


@ONE_ENGINE
@EACH
def test_the_language_of_the_user(
    engine: Any, ada: Any, locale: str, django_capture_on_commit_callbacks: Any
) -> None:
    """It is used whatever language the request has. All of the mail is in it."""
    language = translation.to_language(locale)
    ada.language = language
    request = asked(engine)
    with (
        override_settings(USE_I18N=True),
        translation.override("en"),
        django_capture_on_commit_callbacks(execute=True),
    ):
        login(request, ada)
        request.session.save()
    with translation.override("en"):
        assert translation.get_language() == "en"
    (message,) = mail.outbox
    html = message.alternatives[0][0]
    assert f'<html lang="{language}" dir="{"rtl" if locale == "ar" else "ltr"}">' in html
    for english in ("New sign-in", "Somebody has", "If that was you", "Your devices", "Device"):
        assert english not in f"{message.subject} {message.body} {html}"


@ONE_ENGINE
def test_a_language_that_the_site_does_not_have(engine: Any, ada: Any) -> None:
    with translation.override("de"):
        for code, expected in (
            ("xx", "de"),
            (7, "de"),
            ("", "de"),
            ("x" * 1000, "de"),
            ("fr-ca", "fr"),
            ("es", "es"),
        ):
            ada.language = code
            assert _language_of(ada) == expected
