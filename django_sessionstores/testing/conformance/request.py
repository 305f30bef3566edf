"""The contract of an engine in requests: cookies, round trips and responses."""
# ruff: noqa: S101

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

from django.conf import settings as django_settings
from django.contrib.sessions.middleware import SessionMiddleware as DjangoSessionMiddleware
from django.http import HttpRequest, HttpResponse
from django.test import RequestFactory

from ...exceptions import StorageUnavailable
from ...sessions import SessionStore
from ...storages.base import Storage
from .failures import break_call
from .neutral_settings import NeutralSettings
from .observation import observed, stores_of
from .values import MALFORMED_KEYS


class RequestContract(NeutralSettings):
    """Tests of an engine in requests, under Django's ``SessionMiddleware`` or a subclass."""

    SessionStore: type[SessionStore]
    """The engine under test, which the subclass sets."""
    SessionMiddleware: ClassVar[type[DjangoSessionMiddleware]] = DjangoSessionMiddleware
    """The middleware around the views of the tests."""

    @property
    def storage(self) -> Storage:
        """Return the engine's own storage."""
        return self.SessionStore.own_storage()

    def request(
        self, view: Callable[[Any], object], key: str | None = None, status: int = 200
    ) -> HttpResponse:
        """Return the response to a request with this key in its cookie.

        ``view`` is called with the session, and ``status`` is the status of its response.
        """

        def answer(request: HttpRequest) -> HttpResponse:
            view(request.session)
            return HttpResponse(status=status)

        middleware = self.SessionMiddleware(answer)
        middleware.SessionStore = self.SessionStore
        request = RequestFactory().get("/")
        if key is not None:
            request.COOKIES[django_settings.SESSION_COOKIE_NAME] = key
        response = middleware(request)
        assert isinstance(response, HttpResponse)
        return response

    def cookie(self, response: HttpResponse) -> str | None:
        """Return the session cookie that a response sets.

        It is empty if the response deletes the cookie, and None if the response does neither.
        """
        morsel = response.cookies.get(django_settings.SESSION_COOKIE_NAME)
        return None if morsel is None else morsel.value

    def create_session(self, **data: Any) -> str:
        """Make a first request and return the key of the session that it has stored.

        ``data`` replaces the default data.
        """
        response = self.request(lambda session: session.update(data or {"color": "blue"}))
        key = self.cookie(response)
        assert key
        return key

    def test_reading_an_empty_session_costs_nothing(self) -> None:
        """Reading an empty session sets no cookie and makes no call to the store.

        Crawlers must not fill the store.
        """
        with observed(self.storage) as calls:
            response = self.request(lambda session: session.get("x"))
        assert self.cookie(response) is None
        assert calls == []

    def test_the_first_write_makes_one_cookie_and_one_record(self) -> None:
        """The first write makes one round trip and sets one cookie.

        The engine must not check first whether the key is free.
        """
        with observed(self.storage) as calls:
            response = self.request(lambda session: session.update({"x": 1}))
        assert calls == ["create"]
        assert self.SessionStore(self.cookie(response)).get("x") == 1

    def test_reading_makes_one_round_trip_and_sets_no_cookie(self) -> None:
        """Reading a session makes one round trip and sets no cookie."""
        key = self.create_session()
        with observed(self.storage) as calls:
            response = self.request(lambda session: session.get("color"), key)
        assert calls == ["read"]
        assert self.cookie(response) is None

    def test_an_untouched_session_costs_nothing(self) -> None:
        """A request that does not use its session makes no call to the store.

        Most requests of most sites do not.
        """
        key = self.create_session()
        with observed(self.storage) as calls:
            self.request(lambda session: None, key)
        assert calls == []

    def test_flush_deletes_record_and_cookie(self) -> None:
        """Flushing a session deletes its record and its cookie. This is a logout."""
        key = self.create_session()
        response = self.request(lambda session: session.flush(), key)
        assert self.cookie(response) == ""
        assert not (self.storage.authoritative and self.SessionStore().exists(key))

    def test_flush_without_a_session_deletes_no_cookie(self) -> None:
        """Flushing without a session does not delete a cookie."""
        assert self.cookie(self.request(lambda session: session.flush())) is None

    def test_a_response_of_500_saves_nothing(self) -> None:
        """A response with status 500 saves nothing.

        A failed view may have left its changes half done.
        """
        key = self.create_session(color="blue")
        self.request(lambda session: session.update({"color": "red"}), key, status=500)
        assert self.SessionStore(key).get("color") == "blue"

    def test_two_first_requests_make_two_sessions(self) -> None:
        """Two first requests get two different sessions."""
        assert self.create_session() != self.create_session()

    def test_login_over_an_anonymous_session_makes_two_round_trips(self) -> None:
        """A login over an anonymous session makes two round trips.

        It reads once and writes once, without a probe, a deletion or a second save.
        """

        def log_in(session: Any) -> None:
            session.get("color")
            session.cycle_key()
            session["_auth_user_id"] = "7"

        key = self.create_session()
        with observed(self.storage) as calls:
            response = self.request(log_in, key)
        assert calls == ["read", "rotate"]
        new_key = self.cookie(response)
        assert new_key not in {None, "", key}
        assert self.SessionStore(new_key).get("color") == "blue"

    def test_a_view_that_fails_after_cycle_key_loses_nothing(self) -> None:
        """If a view fails after cycle_key(), the old key still opens the session.

        The browser still holds the old key.
        """
        key = self.create_session()
        self.request(lambda session: session.cycle_key(), key, status=500)
        assert self.SessionStore(key).get("color") == "blue"

    def test_the_key_from_before_a_login_keeps_its_cookie(self) -> None:
        """A request with the key from before a login does not delete the cookie.

        Its response may reach the browser after the response to the login and would log the user
        out.
        """
        key = self.create_session()
        self.request(lambda session: session.cycle_key(), key)
        response = self.request(lambda session: session.get("color"), key)
        assert self.cookie(response) is None

    def test_a_malformed_cookie_makes_no_round_trip_and_no_error(self) -> None:
        """A malformed cookie causes neither a call to the store nor an error.

        Anyone can send any cookie.
        """
        with observed(*stores_of(self.storage)) as calls:
            for key in MALFORMED_KEYS:
                self.request(lambda session: session.get("x"), key)
        assert calls == []

    def test_an_outage_deletes_no_cookie(self) -> None:
        """A response during an outage does not delete the cookie.

        After the outage every user is still signed in.
        """
        key = self.create_session()
        with observed(self.storage, before=break_call):
            try:
                response = self.request(lambda session: session.get("color"), key)
            except StorageUnavailable:
                pass  # Django's handlers turn it into a response.
            else:
                assert response.status_code == 503
                assert self.cookie(response) is None
        assert self.SessionStore(key).get("color") == "blue"

    def test_a_visitor_without_cookie_does_not_notice_an_outage(self) -> None:
        """A visitor without a cookie gets a response during an outage.

        Pages that do not use the session must keep working.
        """
        with observed(self.storage, before=break_call) as calls:
            self.request(lambda session: session.get("x"))
        assert calls == []
