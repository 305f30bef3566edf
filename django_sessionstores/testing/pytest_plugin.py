"""Fixtures for pytest: clients with sessions, a clock to move, and a store that is down.

Name the module in the ``conftest.py`` at the root of a project::

    pytest_plugins = ["django_sessionstores.testing.pytest_plugin"]

It is not an entry point, which would be loaded by each run of pytest in the environment, also by
those of projects without Django, and whose names every project would get without having asked.

No fixture needs another plugin. Users need a database, for example by the ``db`` of pytest-django.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from typing import Any, Protocol

import pytest
from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.core.signals import setting_changed
from django.test import AsyncClient, Client

from ..conf import session_store
from ..core.flow import run
from ..exceptions import StorageUnavailable
from ..sessions import SessionStore
from ..storages import revocation
from ..storages.base import Storage
from . import sites
from .conformance.observation import stores_of
from .sites import Part, SessionClock

__all__ = [
    "AsyncSignIn",
    "SessionClock",
    "SignIn",
    "StoreDown",
    "async_end_session",
    "async_signed_in",
    "end_session",
    "session_clock",
    "session_store_down",
    "signed_in",
]


class SignIn(Protocol):
    """The type of the fixture `signed_in`."""

    def __call__(self, user: Any = None, /, **session_data: Any) -> Client: ...


class AsyncSignIn(Protocol):
    """The type of the fixture `async_signed_in`."""

    async def __call__(self, user: Any = None, /, **session_data: Any) -> AsyncClient: ...


class StoreDown(Protocol):
    """The type of the fixture `session_store_down`."""

    def __call__(self, part: Part = "everything") -> AbstractContextManager[None]: ...


@pytest.fixture
def signed_in() -> Iterator[SignIn]:
    """Return a function that makes a signed-in client with a session of its own.

    Each call makes another client, as if a user had one more device. Without a user, it makes a new
    one. Keywords are stored in the session::

        def test_two_devices(signed_in, ada):
            phone, laptop = signed_in(ada), signed_in(ada, cart=["apple"])
            assert phone.get("/cart/").json() == []
            assert laptop.get("/cart/").json() == ["apple"]

    The sessions end with the test. Those in a database are left to its rollback.
    """
    with _ended_afterwards() as remember:

        def sign_in(user: Any = None, /, **session_data: Any) -> Client:
            client = sites.sign_in(Client(), user, **session_data)
            remember(client)
            return client

        yield sign_in


@pytest.fixture
def async_signed_in() -> Iterator[AsyncSignIn]:
    """Return a coroutine function that makes a signed-in ``AsyncClient``, see `signed_in`::

    async def test_cart(async_signed_in, ada):
        client = await async_signed_in(ada, cart=["apple"])
        assert (await client.get("/cart/")).json() == ["apple"]
    """
    with _ended_afterwards() as remember:

        async def sign_in(user: Any = None, /, **session_data: Any) -> AsyncClient:
            client = await sites.asign_in(AsyncClient(), user, **session_data)
            remember(client)
            return client

        yield sign_in


@pytest.fixture
def end_session() -> Callable[[Client | AsyncClient], None]:
    """Return a function that ends the session of a client, as another device or the admin does.

    The client keeps its cookie, and its next request is anonymous::

        def test_ended_elsewhere(signed_in, end_session):
            client = signed_in()
            end_session(client)
            assert client.get("/account/").status_code == 302
    """
    return sites.end_session


@pytest.fixture
def async_end_session() -> Callable[[Client | AsyncClient], Awaitable[None]]:
    """Return a coroutine function that ends the session of a client, see `end_session`::

    async def test_ended_elsewhere(async_signed_in, async_end_session):
        client = await async_signed_in()
        await async_end_session(client)
        assert (await client.get("/account/")).status_code == 302
    """
    return sites.aend_session


@pytest.fixture
def session_clock() -> Iterator[SessionClock]:
    """Stop the clock of sessions during the test, and return it. It can be moved forward::

        def test_idle_users_are_signed_out(signed_in, session_clock):
            client = signed_in()
            session_clock.advance(minutes=31)
            assert client.get("/account/").status_code == 302

    Other clocks go on, such as ``timezone.now()``.
    """
    with sites.frozen_clock() as frozen:
        yield frozen


@pytest.fixture
def session_store_down() -> Iterator[StoreDown]:
    """Return a context manager under which the store of sessions does not answer::

        def test_an_outage_signs_nobody_out(signed_in, session_store_down):
            client = signed_in()
            with session_store_down():
                assert client.get("/account/").status_code == 503
            assert client.get("/account/").status_code == 200

    ``session_store_down("reads")``, ``("writes")`` and ``("cache")``, which is the cache of
    ``cached_db``, limit what does not answer. Outages that are still under way end with the test.
    """
    outages: list[_Outage] = []

    def down(part: Part = "everything") -> AbstractContextManager[None]:
        outages.append(_Outage(part))
        return outages[-1]

    yield down
    for outage in outages:
        outage.end()


class _Outage(AbstractContextManager[None]):
    """An outage that can be ended more than once."""

    def __init__(self, part: Part) -> None:
        self._outage = sites.store_down(part)
        self._stack = ExitStack()

    def __enter__(self) -> None:
        self._stack.enter_context(self._outage)

    def __exit__(self, *_: object) -> None:
        self.end()

    def end(self) -> None:
        self._stack.close()


@contextmanager
def _ended_afterwards() -> Iterator[Callable[[Client | AsyncClient], None]]:
    """Yield a function that remembers a client, whose sessions are ended afterwards.

    A rollback gives the primary key of a user to the user of another test, whose sessions these
    would be then.
    """
    signed_in = list[tuple[Client | AsyncClient, SessionStore, Storage]]()
    engines = {settings.SESSION_ENGINE}

    def remember(client: Client | AsyncClient) -> None:
        session = sites.session_of(client)
        if isinstance(session, SessionStore):
            # Now, because the settings may be others when the fixtures end.
            signed_in.append((client, session, session.storage()))

    def remember_engine(*, setting: str, value: Any, **kwargs: Any) -> None:
        if setting == "SESSION_ENGINE":
            engines.add(value)

    setting_changed.connect(remember_engine)
    yield remember
    setting_changed.disconnect(remember_engine)
    # The first one may be live again, because the clock was put back, and the client may have
    # signed in once more, also with another engine.
    for client, first, storage in signed_in:
        _remove(first, storage)
        _remove(sites.session_of(client, type(first)), storage)
        for name in engines:
            with suppress(ImportError, ImproperlyConfigured):  # A test may be about just that.
                engine = session_store(name)
                if isinstance(engine, type) and issubclass(engine, SessionStore):
                    _remove(sites.session_of(client, engine), engine.storage())


def _remove(session: SessionStore, storage: Storage) -> None:
    """End a session and send no signal, unless it is in a database, which a test cannot use any
    more when its fixtures end."""
    session_id, stores = session.session_id, stores_of(storage)
    if session_id and stores and not any(each.thread_sensitive for each in stores):
        with suppress(StorageUnavailable):
            run(revocation.end(storage, session_id))
