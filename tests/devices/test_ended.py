"""A user whose session was ended elsewhere reads at the next page that, when and by whom."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from django.contrib.auth.decorators import login_required
from django.http import HttpRequest, HttpResponse
from django.template import RequestContext, Template
from django.test import Client
from django.urls import include, path

from django_sessionstores.core.clock import now
from django_sessionstores.devices import aended_session, ended_session
from django_sessionstores.devices.ended import TEXTS
from django_sessionstores.exceptions import SessionEnded
from django_sessionstores.inventory import Inventory
from django_sessionstores.signals import session_ended
from django_sessionstores.testing import HOUR, at, observed
from tests import urls
from tests.devices.test_views import DJANGOS, FIREFOX, in_force, person, text
from tests.migration.previous_backends import DJANGO, empty_django, migrating
from tests.pages import MIDDLEWARE
from tests.sessions.test_lifetimes import limits
from tests.stored_sessions import is_alive

TAG = (
    "{% load sessionstores %}{% ended_session as ended %}"
    "{% if ended %}{{ ended.text }}|{{ ended.cause }}|{{ ended.when|date:'c' }}{% endif %}"
)


def sign_in_page(request: HttpRequest) -> HttpResponse:
    return HttpResponse(Template(TAG).render(RequestContext(request, {"request": request})))


async def async_page(request: HttpRequest) -> HttpResponse:
    ended = await aended_session(request)
    return HttpResponse("" if ended is None else ended.text)


@login_required
def private_page(request: HttpRequest) -> HttpResponse:
    return HttpResponse("private")


urlpatterns = [
    path("accounts/login/", sign_in_page),
    path("async/ended/", async_page),
    path("private/", private_page),
    path("devices/", include("django_sessionstores.urls")),
    *urls.urlpatterns,
]

ENGINES = pytest.mark.engines(
    *("memory", "file", "db:sqlite", "cached_db:locmem+sqlite", "cookie:sqlite"),
    *("cache:redis-cache", "mongodb", "cache:memcached+sqlite"),
)
ONE_ENGINE = pytest.mark.engines("db:sqlite")


@pytest.fixture(autouse=True)
def explaining(engine: Any) -> Iterator[None]:
    with in_force(ROOT_URLCONF=__name__), limits(EXPLAIN_ENDS=3600):
        yield


@pytest.fixture
def ada(engine: Any) -> Any:
    return person("ada")


def signed_in(user: Any, **settings: Any) -> Client:
    client = Client(headers={"user-agent": FIREFOX})
    client.get(f"/login/{user.username}/")
    return client


def told(client: Client) -> list[str]:
    """Return what the page for signing in says, after a page that redirects there."""
    response = client.get("/private/")
    assert response.status_code == 302
    return text(client.get(response["Location"])).split("|")


@ENGINES
def test_the_next_page_says_that_and_when(engine: Any, ada: Any) -> None:
    """Once: afterwards the browser is an ordinary visitor's."""
    browser, other = signed_in(ada), signed_in(ada)
    other_id = other.session.session_id
    moment = now()
    browser.post(f"/devices/{other_id}/end/")
    words, cause, when = told(other)
    assert (words, cause) == (TEXTS["user"], "user")
    assert abs(_milliseconds(when) - moment) < 30_000
    assert "sessionid" not in {name for name, each in other.cookies.items() if each.value}
    assert told(other) == [""]
    assert browser.get("/private/").status_code == 200


def _milliseconds(when: str) -> int:
    from datetime import datetime

    return int(datetime.fromisoformat(when).timestamp() * 1000)


@ENGINES
def test_an_ended_session_is_nowhere_listed(engine: Any, ada: Any) -> None:
    """The note is not a session, has nothing of one, and nothing brings the session back."""
    browser, other = signed_in(ada), signed_in(ada)
    session = other.session
    browser.post("/devices/end-others/")
    assert Inventory().count(user=ada) == 1
    assert Inventory().count() == 1
    assert len(Inventory().list(user=ada).sessions) == 1
    assert Inventory().get(session.session_id) is None
    assert not Inventory().end(session.session_id)
    assert not is_alive(engine, session)
    assert told(other)[1] == "user"
    other.get("/login/ada/")
    assert other.get("/private/").status_code == 200
    assert Inventory().count(user=ada) == 2


@ENGINES
@pytest.mark.parametrize("is_rotating", [False, True], ids=["save", "rotation"])
def test_a_save_under_way_does_not_bring_the_session_back(
    engine: Any, ada: Any, is_rotating: bool
) -> None:
    """It fails as without a note, and the note stays."""
    other = signed_in(ada)
    session = engine.SessionStore(other.session.session_key)
    session.load()
    Inventory(by="staff").end(session.session_id)
    session["x"] = 1
    if is_rotating:
        session.rotate_later()
    with pytest.raises(SessionEnded):
        session.save()
    assert Inventory().count(user=ada) == 0
    assert told(other)[1] == "staff"


@ENGINES
def test_the_note_is_gone_after_its_time(engine: Any, ada: Any) -> None:
    other = signed_in(ada)
    Inventory(by="staff").end(other.session.session_id)
    with at(now() + 2 * HOUR):
        assert told(other) == [""]
        Inventory().purge()
        assert Inventory().count() == 0


@ONE_ENGINE
def test_the_note_of_a_migrated_session_is_gone_after_its_time(engine: Any, ada: Any) -> None:
    """The tombstone with it stays, because it prevents that a copy is migrated."""
    empty_django()
    with migrating(f"{DJANGO}.db", EXPLAIN_ENDS=3600):
        other = signed_in(ada)
        id_ = other.session.session_id
        Inventory(by="staff").end(id_)
        with at(now() + 2 * HOUR):
            assert engine.storage.lookup(id_).expires > now()
            assert told(other) == [""]


@ENGINES
def test_a_note_has_nothing_of_the_session(engine: Any, ada: Any) -> None:
    other = signed_in(ada)
    id_ = other.session.session_id
    with at(now() + HOUR // 2):
        Inventory(by="staff").end(id_)
        note = engine.storage.lookup(id_)
    assert (note.user_id, note.ip, note.user_agent, note.origin) == (None, "", "", "")
    assert note.created == note.last_activity


@ENGINES
def test_a_visitor_costs_no_write(engine: Any, ada: Any) -> None:
    """Neither with an unknown cookie, nor when a visitor's session is ended."""
    client = Client()
    client.cookies["sessionid"] = "a" * 32
    visitor = engine.SessionStore()
    visitor["x"] = 1
    visitor.save()
    with observed(engine.storage) as calls:
        assert text(client.get("/accounts/login/")) == ""
        assert text(Client().get("/accounts/login/")) == ""
        Inventory().end(visitor.session_id)
    assert "create" not in calls


@ONE_ENGINE
@pytest.mark.parametrize("cause", ["staff", "revoked", "password", "deactivated", "evicted"])
def test_causes(engine: Any, ada: Any, cause: str) -> None:
    with limits(EXPLAIN_ENDS=3600, MAX_SESSIONS=1 if cause == "evicted" else 0):
        other = signed_in(ada)
        if cause == "staff":
            Inventory(by="staff").end_all(ada)
        elif cause == "revoked":
            Inventory().end_many([other.session.session_id])
        elif cause == "password":
            ada.set_password("another")
            ada.save()
        elif cause == "deactivated":
            ada.is_active = False
            ada.save()
        else:
            signed_in(ada)
        assert told(other)[:2] == [TEXTS[cause], cause]


@ONE_ENGINE
def test_an_expired_session(engine: Any, ada: Any) -> None:
    """Until a purge, the store still has it."""
    with limits(EXPLAIN_ENDS=3600, IDLE_TIMEOUT=600):
        other = signed_in(ada)
        with at(now() + HOUR // 2):
            assert told(other)[1] == "expired"
        other = signed_in(ada)
        with at(now() + 3 * HOUR):
            assert told(other) == [""]


@ONE_ENGINE
def test_the_event_of_an_expired_session_is_sent_once(engine: Any, ada: Any) -> None:
    """Although the browser keeps the cookie until it is told, and asks for other pages before."""
    heard: list[str] = []

    def receive(session_id: str, reason: str, **facts: Any) -> None:
        heard.append(f"{session_id} {reason}")

    with limits(EXPLAIN_ENDS=3600, IDLE_TIMEOUT=600):
        others = [signed_in(ada), signed_in(ada)]
        ids = [each.session.session_id for each in others]
        session_ended.connect(receive)
        try:
            with at(now() + HOUR // 2):
                for other in others * 5:
                    assert other.get("/private/").status_code == 302
                assert [told(other)[1] for other in others] == ["expired", "expired"]
        finally:
            session_ended.disconnect(receive)
    assert heard == [f"{each} expired" for each in ids]


@ENGINES
def test_async(engine: Any, ada: Any) -> None:
    other = signed_in(ada)
    Inventory(by="staff").end(other.session.session_id)
    assert text(other.get("/async/ended/")) == TEXTS["staff"]


@ONE_ENGINE
def test_a_logout_needs_no_explanation(engine: Any, ada: Any) -> None:
    other = signed_in(ada)
    other.get("/logout/")
    assert told(other) == [""]


@ONE_ENGINE
def test_nothing_is_told_or_stored_by_default(engine: Any, ada: Any) -> None:
    with limits(EXPLAIN_ENDS=0):
        other = signed_in(ada)
        id_ = other.session.session_id
        with observed(engine.storage) as calls:
            Inventory(by="user").end(id_)
        assert "create" not in calls
        response = other.get("/private/")
        assert response.cookies["sessionid"].value == ""
        assert told(other) == [""]


@ONE_ENGINE
def test_under_djangos_middleware_the_first_page_can_say_it(engine: Any, ada: Any) -> None:
    with in_force(ROOT_URLCONF=__name__, MIDDLEWARE=[DJANGOS, *MIDDLEWARE[1:]]):
        other = signed_in(ada)
        Inventory(by="staff").end(other.session.session_id)
        assert TEXTS["staff"] in text(other.get("/accounts/login/"))
        other = signed_in(ada)
        Inventory(by="staff").end(other.session.session_id)
        assert told(other) == [""]


@ONE_ENGINE
def test_without_a_session(engine: Any) -> None:
    assert ended_session(HttpRequest()) is None
    with pytest.raises(ValueError, match="must be 'user', 'staff' or empty"):
        Inventory(by="me")
