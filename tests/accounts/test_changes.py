"""Sessions end with the password, the permission to log in, and the account they rest on."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import pytest
from asgiref.sync import async_to_sync, iscoroutinefunction
from django.apps import apps
from django.conf import settings
from django.contrib.auth import BACKEND_SESSION_KEY, HASH_SESSION_KEY, SESSION_KEY, get_user_model
from django.contrib.auth.models import User
from django.db import connections, models, transaction
from django.db.models import signals as model_signals
from django.http import HttpRequest, HttpResponse
from django.test import AsyncClient, Client, override_settings
from django.urls import path
from django.utils.decorators import sync_and_async_middleware

from django_sessionstores.accounts import changes as accounts
from django_sessionstores.exceptions import StorageUnavailable
from django_sessionstores.inventory import Inventory
from django_sessionstores.sessions import request_sessions
from django_sessionstores.storages.layered import LayeredStorage
from django_sessionstores.testing import in_threads, observed
from tests import urls
from tests.sessions.test_lifetimes import limits
from tests.sessions.test_limits import ended


def resign(request: HttpRequest, how: str) -> HttpResponse:
    """Delete or deactivate the user, and write to the session afterwards."""
    user: Any = request.user
    if how == "delete":
        user.delete()
    else:
        user.is_active = False
        user.save()
    request.session["goodbye"] = True
    return HttpResponse("gone")


def change_after_nested(request: HttpRequest) -> HttpResponse:
    """Ask a page of the same site first, as another visitor and as this one."""
    mine = Client()
    mine.cookies[settings.SESSION_COOKIE_NAME] = str(request.session.session_key)
    assert [who(Client()), who(mine)] == ["", "ada"]
    return urls.change_password(request)


async def achange_after_nested(request: HttpRequest) -> HttpResponse:
    mine = AsyncClient()
    mine.cookies[settings.SESSION_COOKIE_NAME] = str(request.session.session_key)
    seen = [(await each.get("/who/")).content.decode() for each in (AsyncClient(), mine)]
    assert seen == ["", "ada"]
    return await urls.achange_password(request)


urlpatterns = [
    *urls.urlpatterns,
    path("nested/password/", change_after_nested),
    path("async/nested/password/", achange_after_nested),
    path("resign/<str:how>/", resign),
    path("look_at/<str:act>/<path:key>/", lambda request, **facts: look_at(request, **facts)),
]


@pytest.fixture(autouse=True)
def _urls() -> Iterator[None]:
    with override_settings(ROOT_URLCONF=__name__):
        yield


@pytest.fixture
def inventory(engine: Any) -> Any:
    if not engine.storage.lists:
        pytest.skip(f"{engine.id} cannot tell which sessions a user has")
    return Inventory()


def browsers(count: int) -> list[Client]:
    """Return signed-in browsers, whose sessions were read since, so that a cache has copies."""
    made = [Client() for _ in range(count)]
    for browser in made:
        browser.get("/login/ada/")
        assert who(browser) == "ada"
    return made


def who(browser: Client) -> str:
    return browser.get("/who/").content.decode()


def change(user: Any) -> None:
    user.set_password("another")
    user.save()


def deactivate(user: Any) -> None:
    user.is_active = False
    user.save(update_fields=["is_active"])


def delete(user: Any) -> None:
    # Another object, so that the fixture can delete its own.
    get_user_model()._default_manager.get(pk=user.pk).delete()


CHANGES = pytest.mark.parametrize(
    ("act", "reason", "setting"),
    [
        (change, "password", "END_ON_PASSWORD_CHANGE"),
        (deactivate, "deactivated", "END_ON_DEACTIVATION"),
        (delete, "deleted", "END_ON_DELETION"),
    ],
    ids=["password", "deactivation", "deletion"],
)


# What ends ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("prefix", ["", "/async"], ids=["sync", "async"])
@pytest.mark.usefixtures("middleware")
def test_a_new_password_ends_the_other_sessions(inventory: Any, user: Any, prefix: str) -> None:
    """Stored and cached ones; who has set it goes on, under a new id."""
    mine, *others = browsers(3)
    previous = {each.id for each in inventory.iterate(user=user)}
    with ended() as told:
        assert mine.get(f"{prefix}/password/").status_code == 200
    (left,) = inventory.list(user=user, expired=None).sessions
    assert left.id not in previous
    assert [reason for _, reason in told] == ["password"] * 2
    assert who(mine) == "ada"
    assert [who(each) for each in others] == ["", ""]


@pytest.mark.parametrize("handler", ["sync", "async", "ASGI"])
@pytest.mark.usefixtures("middleware")
def test_a_request_is_known_after_it_has_run_another_one(
    inventory: Any, user: Any, handler: str
) -> None:
    """Its view asks ``django.test.Client`` for another page, and then changes the password."""
    (mine,) = browsers(1)
    with ended() as told:
        if handler == "ASGI":
            client = AsyncClient()
            client.cookies = mine.cookies
            response = async_to_sync(client.get)("/async/nested/password/")
        else:
            prefix = "" if handler == "sync" else "/async"
            response = mine.get(f"{prefix}/nested/password/")
    assert response.status_code == 200
    assert who(mine) == "ada"
    assert told == []
    assert not request_sessions.is_in_request()


@sync_and_async_middleware
def replace_session(get_response: Any) -> Any:
    """Puts another object into the request: for the key in a header, or for the same key."""

    def replace(request: HttpRequest) -> None:
        key = request.headers.get("X-Session-Token", request.session.session_key)
        request.session = type(request.session)(key)

    if iscoroutinefunction(get_response):

        async def arespond(request: HttpRequest) -> Any:
            replace(request)
            return await get_response(request)

        return arespond

    def respond(request: HttpRequest) -> Any:
        replace(request)
        return get_response(request)

    return respond


@pytest.fixture
def replaced(middleware: str) -> Iterator[None]:
    """Give requests another session object than the one that the middleware makes."""
    first, *others = settings.MIDDLEWARE
    with override_settings(MIDDLEWARE=[first, f"{__name__}.replace_session", *others]):
        yield


def from_header(browser: Client) -> dict[str, str]:
    """Return the header for a browser, which has no cookie any more."""
    return {"X-Session-Token": browser.cookies.pop("sessionid").value}


@pytest.mark.engines("memory", "file", "db:sqlite", "cached_db:locmem+sqlite", "cookie:sqlite")
@pytest.mark.parametrize("is_in_header", [False, True], ids=["cookie", "header"])
@pytest.mark.parametrize("serves", ["sync", "async", "atomic"])
@pytest.mark.usefixtures("replaced")
def test_the_session_in_the_request_goes_on_after_a_new_password(
    inventory: Any, user: Any, is_in_header: bool, serves: str, monkeypatch: Any
) -> None:
    """Apps that have no cookies send the key in a header, and allauth opens the session by it."""
    if serves == "atomic":
        monkeypatch.setitem(connections.settings["default"], "ATOMIC_REQUESTS", True)
    mine, other = browsers(2)
    headers = from_header(mine) if is_in_header else {}
    previous = {each.id for each in inventory.iterate(user=user)}
    with ended() as told:
        url = "/async/password/" if serves == "async" else "/password/"
        assert mine.get(url, headers=headers).status_code == 200
    (left,) = inventory.list(user=user, expired=None).sessions
    assert left.id not in previous
    assert [reason for _, reason in told] == ["password"]
    assert (who(mine), who(other)) == ("ada", "")


@pytest.mark.engines("memory", "file", "db:sqlite", "cookie:sqlite")
@pytest.mark.parametrize("is_in_header", [False, True], ids=["cookie", "header"])
@pytest.mark.parametrize("how", ["delete", "deactivate"])
@pytest.mark.usefixtures("replaced")
def test_a_user_who_leaves_is_answered_whatever_object_is_in_the_request(
    inventory: Any, user: Any, is_in_header: bool, how: str
) -> None:
    mine, other = browsers(2)
    headers = from_header(mine) if is_in_header else {}
    assert mine.get(f"/resign/{how}/", headers=headers).status_code == 200
    assert who(mine) == who(other) == ""


@CHANGES
def test_the_sessions_end_without_a_request(
    inventory: Any, user: Any, act: Any, reason: str, setting: str
) -> None:
    """A command or an administrator may change the user, in a process that serves no request of
    this user."""
    (browser,) = browsers(1)
    with override_settings(
        AUTHENTICATION_BACKENDS=["django.contrib.auth.backends.AllowAllUsersModelBackend"]
    ):
        with ended() as told:
            act(user)
        assert [each for _, each in told] == [reason]
        assert inventory.list(user=user, expired=None).sessions == []
        assert who(browser) == ""


def look_at(request: HttpRequest, key: str, act: str) -> HttpResponse:
    """Support looks at a customer's cart, and deactivates the account."""
    # Held to the end, as the request's own would be.
    request.opened = type(request.session)(key)  # type: ignore[attr-defined]
    request.opened.get("cart")  # type: ignore[attr-defined]
    ACTS[act](get_user_model()._default_manager.get(username="ada"))
    return HttpResponse("done")


def count_at_the_response(get_response: Any) -> Any:
    """Notes how many sessions there are when the response is about to be sent."""

    def respond(request: HttpRequest) -> Any:
        response = get_response(request)
        COUNTS.append(Inventory().count())
        return response

    return respond


ACTS: dict[str, Callable[[Any], None]] = {"change": change, "deactivate": deactivate}
COUNTS: list[int] = []


@pytest.mark.parametrize("serves", ["wsgi", "asgi"])
@pytest.mark.parametrize(("act", "reason"), [("change", "password"), ("deactivate", "deactivated")])
def test_a_session_that_a_view_has_only_opened_ends(
    inventory: Any, user: Any, middleware: str, act: str, reason: str, serves: str
) -> None:
    """The package's middleware ends it before it answers, Django's cannot."""
    (browser,) = browsers(1)
    key = browser.cookies["sessionid"].value
    COUNTS.clear()
    with (
        override_settings(
            AUTHENTICATION_BACKENDS=["django.contrib.auth.backends.AllowAllUsersModelBackend"],
            MIDDLEWARE=[f"{__name__}.count_at_the_response", *settings.MIDDLEWARE],
        ),
        ended() as told,
    ):
        if serves == "asgi":
            async_to_sync(AsyncClient().get)(f"/look_at/{act}/{key}/")
        else:
            Client().get(f"/look_at/{act}/{key}/")
        assert [each for _, each in told] == [reason]
        (left,) = COUNTS
        assert left == (0 if middleware.startswith("django_sessionstores") else 1)
        assert inventory.count(user=user) == 0
        assert who(browser) == ""


@pytest.mark.engines("memory", "db:sqlite")
def test_a_session_that_was_opened_outside_of_a_request_ends_at_once(
    inventory: Any, user: Any, engine: Any
) -> None:
    (browser,) = browsers(1)
    session = engine.SessionStore(browser.cookies["sessionid"].value)
    session.get("cart")
    deactivate(user)
    assert inventory.count(user=user) == 0


@pytest.mark.usefixtures("middleware")
@pytest.mark.engines("memory", "db:sqlite")
def test_a_request_that_has_opened_sessions_of_others_ends_all_at_once(
    inventory: Any, user: Any, engine: Any
) -> None:
    """Nothing is left for its end that would list the sessions of the user once more."""
    other = engine.SessionStore()
    other["cart"] = 1
    other.save()
    with mock.patch.object(Inventory, "end_for", autospec=True) as end_for:
        Client().get(f"/look_at/deactivate/{other.session_key}/")
    assert end_for.call_count == 1


@CHANGES
@pytest.mark.engines("memory", "db:sqlite")
def test_each_can_be_turned_off(
    inventory: Any, user: Any, act: Any, reason: str, setting: str
) -> None:
    """A site may do this in its own way."""
    browsers(1)
    with limits(**{setting: False}):
        act(user)
    assert inventory.count(user=user) == 1


@CHANGES
@pytest.mark.engines("memory", "db:sqlite", "cached_db:locmem+sqlite")
def test_what_is_rolled_back_ends_nothing(
    inventory: Any, user: Any, act: Any, reason: str, setting: str
) -> None:
    """A committed change ends the sessions at its commit, and not before."""
    (browser,) = browsers(1)
    with transaction.atomic():
        act(user)
        transaction.set_rollback(True)
    user.refresh_from_db()
    assert who(browser) == "ada"
    with transaction.atomic():
        act(user)
        assert inventory.count(user=user) == 1
    assert inventory.count(user=user) == 0


@CHANGES
@pytest.mark.engines("memory", "db:sqlite")
def test_a_callback_of_the_project_that_fails_keeps_no_session(
    inventory: Any, user: Any, act: Any, reason: str, setting: str
) -> None:
    """The change is committed, and Django calls no callback after one that has failed."""

    def fail() -> None:
        raise RuntimeError("The broker does not answer.")

    @transaction.atomic
    def save() -> None:
        transaction.on_commit(fail)
        act(user)

    browsers(1)
    with pytest.raises(RuntimeError, match="broker"):
        save()
    assert inventory.count(user=user) == 0


@CHANGES
@pytest.mark.engines("memory")
def test_a_database_with_transactions_of_its_own(
    inventory: Any, user: Any, act: Any, reason: str, setting: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With django-mongodb-backend, Django's ``atomic()`` is none, and nobody calls what waits for
    its end. The callbacks of ``on_commit()`` are called at once."""
    database: Any = type(connections["default"])
    monkeypatch.setattr(database, "vendor", "mongodb")
    monkeypatch.setattr(database, "on_commit", lambda self, call, robust=False: call())
    browsers(1)
    with transaction.atomic():
        act(user)
        assert connections["default"].run_on_commit == []
        assert inventory.count(user=user) == 0


@pytest.mark.parametrize("how", ["delete", "deactivate"])
@pytest.mark.usefixtures("middleware")
@pytest.mark.engines("memory", "db:sqlite")
def test_a_request_by_which_a_user_leaves_is_answered(inventory: Any, user: Any, how: str) -> None:
    """Its own session is for its view to end; Django does not know its user any more."""
    mine, other = browsers(2)
    assert mine.get(f"/resign/{how}/").status_code == 200
    assert inventory.count(user=user) == 1
    assert who(mine) == who(other) == ""


def sign_in(engine: Any, user: Any) -> Any:
    session = engine.SessionStore()
    session[SESSION_KEY] = str(user.pk)
    session[BACKEND_SESSION_KEY] = "django.contrib.auth.backends.ModelBackend"
    session[HASH_SESSION_KEY] = user.get_session_auth_hash()
    session.save()
    return session.session_id


def elsewhere(act: Callable[[], Any]) -> Any:
    """Do something as another request does, on other connections."""
    (result,) = in_threads([act])
    return result


@contextmanager
def while_saved(act: Callable[[], object]) -> Iterator[None]:
    """Do something right before the next user is written, after what was there was looked at."""
    original, pending = models.sql.UpdateQuery.add_update_fields, [act]

    def add(*args: Any) -> Any:
        if pending:
            elsewhere(pending.pop())
        return original(*args)

    with mock.patch.object(models.sql.UpdateQuery, "add_update_fields", add):
        yield


def test_a_login_beside_a_change_of_password(engine: Any, inventory: Any, user: Any) -> None:
    """A login with the old password ends, and one with the new password stays, whenever it was
    stored."""
    user.set_password("old")
    user.save()
    outdated: list[str] = []
    with ended() as told, while_saved(lambda: outdated.append(sign_in(engine, user_at(user.pk)))):
        change(user)
    assert told == [(outdated[0], "password")]
    stays = elsewhere(lambda: sign_in(engine, user))
    assert {each.id for each in inventory.iterate(user=user)} == {stays}


@pytest.mark.engines(
    *("memory", "file", "db:postgresql", "cache:redis-cache", "cached_db:redis-cache+postgresql"),
    "cookie:django-redis",
)
def test_a_login_before_the_commit_of_a_password(engine: Any, inventory: Any, user: Any) -> None:
    """This happens with ``ATOMIC_REQUESTS``, for example. For other requests, the user still has
    the old password."""
    user.set_password("old")
    user.save()
    with ended() as told, transaction.atomic():
        change(user)
        outdated = elsewhere(lambda: sign_in(engine, user_at(user.pk)))
        own = sign_in(engine, user)
    stays = {elsewhere(lambda: sign_in(engine, user))}
    if engine.storage.holds_in_key:
        # Nothing but the moment tells them apart.
        assert {session_id for session_id, _ in told} == {outdated, own}
    else:
        assert told == [(outdated, "password")]
        stays.add(own)
    assert {each.id for each in inventory.iterate(user=user)} == stays


def user_at(pk: Any) -> Any:
    return get_user_model()._default_manager.get(pk=pk)


@pytest.mark.parametrize("is_early", [False, True], ids=["after", "before"])
@pytest.mark.engines("memory", "db:sqlite")
def test_a_user_that_a_receiver_saves_again(inventory: Any, user: Any, is_early: bool) -> None:
    """Such as one of models.py, which is connected before the package's."""

    def again(instance: Any, **kwargs: Any) -> None:
        if instance.first_name != "Ada":
            instance.first_name = "Ada"
            instance.save(update_fields=["first_name"])

    model_signals.post_save.connect(again, sender=get_user_model())
    try:
        if is_early:
            receivers = model_signals.post_save.receivers
            receivers.insert(0, receivers.pop())
            model_signals.post_save.sender_receivers_cache.clear()
        for act, reason in ((change, "password"), (deactivate, "deactivated")):
            for both in (True, False):
                user.is_active = True
                user.first_name = ""
                user.save()
                user.first_name = "" if both else "Ada"
                browsers(1)
                with ended() as told:
                    act(user)
                assert [each for _, each in told] == [reason]
                assert inventory.count(user=user) == 0
    finally:
        model_signals.post_save.disconnect(again, sender=get_user_model())


# What does not ------------------------------------------------------------------------------------


@pytest.mark.engines("memory")
def test_other_users_and_other_changes_end_nothing(
    inventory: Any, user: Any, django_assert_num_queries: Any
) -> None:
    """A login updates its user: that costs no further query."""
    (browser,) = browsers(1)
    with django_assert_num_queries(1):
        user.save(update_fields=["last_login"])
    with django_assert_num_queries(2):
        user.save()
    user.password = "not saved"
    user.save(update_fields=["email"])
    user.refresh_from_db()
    with django_assert_num_queries(1):
        other = get_user_model()._default_manager.create(username="bob")
    change(other)
    deactivate(other)
    other.delete()
    assert who(browser) == "ada"


@pytest.mark.engines("memory")
def test_a_save_that_failed_does_not_count_later(inventory: Any, user: Any) -> None:
    """The object may be saved again without the change."""
    (browser,) = browsers(1)
    change_of = mock.patch.object(
        models.sql.UpdateQuery, "add_update_fields", side_effect=ZeroDivisionError
    )
    with change_of, pytest.raises(ZeroDivisionError):
        change(user)
    user.refresh_from_db()
    user.save(update_fields=["email"])
    assert who(browser) == "ada"
    with change_of, pytest.raises(ZeroDivisionError):
        change(user)
    get_user_model()._default_manager.get(pk=user.pk).save()
    user.refresh_from_db()
    user.save()
    assert who(browser) == "ada"


@pytest.mark.engines("cookie:unregistered", "cache:memcached")
def test_an_engine_without_a_list_is_left_alone(
    engine: Any, user: Any, caplog: pytest.LogCaptureFixture, django_assert_num_queries: Any
) -> None:
    """The checks say what it does not protect: not each save of a user again."""
    with django_assert_num_queries(1):
        change(user)
    deactivate(user)
    delete(user)
    assert caplog.records == []


@pytest.mark.engines("memory")
@pytest.mark.parametrize("path", ["django.contrib.sessions.backends.db", "no.such.engine"])
def test_an_engine_of_others_is_left_alone(engine: Any, user: Any, path: str) -> None:
    """A site may move from one to the other, and a user has to be saved even so."""
    with override_settings(SESSION_ENGINE=path):
        change(user)


# Edges --------------------------------------------------------------------------------------------


def test_an_outage_leaves_the_change_and_is_logged(
    engine: Any, inventory: Any, user: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """The password must not stay the old one because a cache is down."""

    def broken(name: str) -> None:
        raise StorageUnavailable(f"{name} is broken.")

    (browser,) = browsers(1)
    storage = (
        engine.storage.authority if isinstance(engine.storage, LayeredStorage) else engine.storage
    )
    with observed(storage, before=broken):
        change(user)
    user.refresh_from_db()
    assert user.check_password("another")
    own = [each for each in caplog.records if each.name == "django_sessionstores"]
    # The first test of a folder warns that it was made.
    (record,) = [each for each in own if each.levelno == logging.ERROR]
    assert f"user {user.pk} " in record.getMessage()
    assert "is broken. End them" in record.getMessage()
    assert who(browser) == ""


@pytest.mark.engines("memory")
def test_a_session_of_an_earlier_request_is_not_the_one_at_work(inventory: Any, user: Any) -> None:
    """A thread serves many requests, and what an earlier one has made may linger."""
    mine, other = browsers(2)
    lingering = other.get("/who/").wsgi_request.session
    assert mine.get("/password/").status_code == 200
    assert inventory.get(lingering.session_id) is None
    lingering = mine.get("/who/").wsgi_request.session
    change(user)
    assert inventory.get(lingering.session_id) is None


@pytest.fixture
def own_models() -> Iterator[None]:
    """Models that a test makes are not there for the next, as ``makemigrations`` would see them."""
    before = {label: set(registered) for label, registered in apps.all_models.items()}
    yield
    for label, registered in apps.all_models.items():
        for name in registered.keys() - before[label]:
            del registered[name]
    apps.clear_cache()


@pytest.mark.engines("memory")
@pytest.mark.usefixtures("own_models")
def test_proxies_of_the_user_model(inventory: Any, user: Any) -> None:
    """Django tells the proxy, not the model."""

    class Customer(User):
        class Meta:
            proxy = True
            app_label = "auth"

    accounts.connect()
    for act in (change, deactivate):
        browsers(1)
        act(Customer._default_manager.get(pk=user.pk))
        assert inventory.count(user=user) == 0
        get_user_model()._default_manager.filter(pk=user.pk).update(is_active=True)
    browsers(1)
    Customer._default_manager.get(pk=user.pk).delete()
    assert inventory.count(user=user) == 0
