"""What error reports show of a session: they hold the variables of every frame, and go by mail or
to a service. Neither a cookie that signs somebody in nor what is in a session belongs there."""

from __future__ import annotations

import base64
import concurrent.futures
import os
import sys
from collections.abc import Callable, Iterator
from html import unescape
from typing import Any
from unittest import mock

import pytest
from asgiref.sync import async_to_sync
from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.http import HttpResponse
from django.test import RequestFactory, override_settings
from django.views.debug import ExceptionReporter

from django_sessionstores import conf
from django_sessionstores.core.records import ID_SIZE, Change, Client, Record
from django_sessionstores.exceptions import (
    ForeignPayload,
    PayloadTooLarge,
    SessionConflict,
    SessionEnded,
    StorageUnavailable,
    UnreadablePayload,
    UnserializableValue,
)
from django_sessionstores.middleware import SessionMiddleware
from django_sessionstores.payloads.codec import newest_data
from django_sessionstores.sessions.state import RequestPolicy
from django_sessionstores.storages import cookie
from django_sessionstores.testing import observed, stores_of

pytestmark = pytest.mark.engines("cookie:unregistered", "cookie:sqlite")
REGISTERED = pytest.mark.engines("cookie:sqlite")

# Not as text in this source, which a report shows too; too long to be there by chance.
CARD = str(7**20)
OURS = "django_sessionstores.middleware.SessionMiddleware"


class Visit:
    """A session that is stored, one object that has loaded it, and all tokens that were made.

    An object, so that no frame of a test has a variable that a report should not show.
    """

    def __init__(self, engine: Any, awaited: bool) -> None:
        self.engine, self.awaited = engine, awaited
        self.tokens: list[str] = []
        self.session = self.new()

    def new(self, key: str | None = None) -> Any:
        return self.engine.SessionStore(key)

    def again(self) -> Any:
        """Another request with the cookie that was set last."""
        return self.new(str(self.tokens[-1]))

    def begin(self) -> None:
        self.session = self.new()
        self.session.update({"card": CARD, "_auth_user_id": "1", "nested": {"cards": [CARD]}})
        self.session.save()
        self.session = self.again()
        self.session["also"] = [CARD]

    async def call(self, target: Any, name: str) -> Any:
        return await getattr(target, "a" + name)() if self.awaited else getattr(target, name)()

    async def call_with_key(self, target: Any, name: str) -> Any:
        if self.awaited:
            return await getattr(target, "a" + name)(str(self.tokens[-1]))
        return getattr(target, name)(str(self.tokens[-1]))

    # What a request does.

    async def load(self) -> None:
        await self.call(self.again(), "load")

    async def save(self) -> None:
        await self.call(self.session, "save")

    async def save_anew(self) -> None:
        session = self.new()
        session["card"] = CARD
        await self.call(session, "save")

    async def save_after_clear(self) -> None:
        session = self.again()
        session.clear()
        session["card"] = CARD
        await self.call(session, "save")

    async def exists(self) -> None:
        await self.call_with_key(self.new(), "exists")

    async def delete(self) -> None:
        await self.call(self.session, "delete")

    async def delete_by_key(self) -> None:
        await self.call_with_key(self.new(), "delete")

    async def flush(self) -> None:
        await self.call(self.session, "flush")

    async def cycle(self) -> None:
        await self.call(self.session, "cycle_key")
        await self.call(self.session, "save")

    async def cycle_unloaded(self) -> None:
        session = self.again()
        await self.call(session, "cycle_key")
        await self.call(session, "save")

    async def create(self) -> None:
        await self.call(self.session, "create")


DEEDS = [
    Visit.load,
    Visit.save,
    Visit.save_anew,
    Visit.save_after_clear,
    Visit.exists,
    Visit.delete,
    Visit.delete_by_key,
    Visit.flush,
    Visit.cycle,
    Visit.cycle_unloaded,
    Visit.create,
]
SAVES = [Visit.save, Visit.save_anew, Visit.save_after_clear, Visit.cycle, Visit.create]
Deed = Callable[[Visit], Any]


@pytest.fixture(params=[False, True], ids=["sync", "async"])
def visit(request: pytest.FixtureRequest, engine: Any) -> Iterator[Visit]:
    visit = Visit(engine, awaited=request.param)
    encrypt = cookie._encrypt

    def encrypted(*args: Any) -> Any:
        result = encrypt(*args)
        visit.tokens.append(str(result[0]))
        return result

    with mock.patch.object(cookie, "_encrypt", encrypted), override_settings(MIDDLEWARE=[OURS]):
        visit.begin()
        yield visit


def error_of(visit: Visit, deed: Deed) -> type[BaseException] | None:
    """Return the error that an action raises, after checking that its report shows no secret."""
    try:
        if visit.awaited:
            async_to_sync(deed)(visit)
        else:
            # Not in a loop: Django's database would refuse to be called.
            drive(deed(visit))
    except Exception as error:  # noqa: BLE001 - of all kinds
        kind = type(error)
        page = report()
    else:
        return None
    assert "django_sessionstores" in page
    assert CARD not in page
    for token in visit.tokens:
        assert token not in page
        text = token[1:]
        encrypted = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))[ID_SIZE:]
        assert repr(encrypted)[2:-1] not in page
    return kind


def drive(coroutine: Any) -> None:
    """Run to its end what awaits nothing."""
    try:
        coroutine.send(None)
    except StopIteration:
        return
    raise AssertionError


def report() -> str:
    """Return what is shown of the error: Django's page, and all variables as Python writes them.

    Pages break long values into lines.
    """
    reporter = ExceptionReporter(None, *sys.exc_info())
    frames = reporter.get_traceback_frames()
    shown = [repr(value) for frame in frames for _, value in frame["vars"]]
    return "\n".join((unescape(reporter.get_traceback_html()), *shown))


@REGISTERED
@pytest.mark.parametrize("deed", DEEDS, ids=lambda deed: deed.__name__)
def test_an_outage_of_the_registry(engine: Any, visit: Visit, deed: Deed) -> None:
    """Each of the calls to the registry fails in turn."""
    errors = []
    for place in range(6):
        visit.begin()
        with observed(*stores_of(engine.storage)[:1], before=failing_at(place)):
            errors.append(error_of(visit, deed))
    assert errors[0] is StorageUnavailable
    assert errors[-1] is None


def failing_at(place: int) -> Callable[[str], None]:
    calls = iter(range(100))

    def fail(name: str) -> None:
        if next(calls) == place:
            raise StorageUnavailable("by the test")

    return fail


@pytest.mark.parametrize("deed", SAVES, ids=lambda deed: deed.__name__)
@pytest.mark.parametrize("limit", [True, False], ids=["for a cookie", "to be encrypted"])
def test_too_large(visit: Visit, deed: Deed, limit: bool) -> None:
    """The token that is too long is a token; who finds it in a report is signed in."""
    with override_settings(SESSIONSTORES={"COOKIE_MAX_BYTES": 300 if limit else 16_000}):
        visit.session["large"] = os.urandom(300) if limit else "x" * 2**20
        if deed in {Visit.save_anew, Visit.save_after_clear}:
            deed = saving_too_much(visit.session["large"])
        assert error_of(visit, deed) is PayloadTooLarge


def saving_too_much(large: Any) -> Deed:
    async def save(visit: Visit) -> None:
        session = visit.new()
        session.update({"card": CARD, "large": large})
        await visit.call(session, "save")

    return save


@pytest.mark.parametrize("deed", [Visit.save, Visit.cycle, Visit.create])
@pytest.mark.parametrize("place", ["session", "list", "beside"])
def test_a_value_that_cannot_be_kept(visit: Visit, deed: Deed, place: str) -> None:
    """The report names its key, and shows neither its neighbours nor the others."""
    visit.session["culprit"] = {
        "session": object(),
        "list": [CARD, object()],
        "beside": {"card": CARD, "x": [{CARD: object()}]},
    }[place]
    assert error_of(visit, deed) is UnserializableValue


async def read_directly(visit: Visit) -> None:
    storage = visit.engine.storage
    locator = storage.locate(visit.tokens[-1])
    await storage.aread(locator) if visit.awaited else storage.read(locator)


@pytest.mark.parametrize(
    ("changed", "error"),
    [
        ({"SESSION_COOKIE_NAME": "other"}, UnreadablePayload),
        ({"SECRET_KEY": "of another project" * 3}, ForeignPayload),
    ],
)
def test_a_token_that_does_not_open_here(
    visit: Visit, changed: dict[str, Any], error: type[Exception]
) -> None:
    """The token can be decrypted elsewhere."""
    with override_settings(**changed):
        assert error_of(visit, read_directly) is error


@pytest.mark.parametrize("deed", [Visit.save, Visit.cycle, Visit.create])
def test_a_client_that_cannot_be_told(visit: Visit, deed: Deed) -> None:
    """Code of others runs in the middle of a save."""

    def client() -> Client:
        raise ZeroDivisionError

    visit.session.policy = RequestPolicy(client=client)
    assert error_of(visit, deed) is ZeroDivisionError


async def write_in_a_request(visit: Visit) -> None:
    name = settings.SESSION_COOKIE_NAME
    request = RequestFactory().get("/", headers={"Cookie": f"{name}={visit.tokens[-1]}"})
    SessionMiddleware(lambda request: HttpResponse()).process_request(request)
    await visit.call(request.session, "load")
    request.session["another"] = CARD
    await visit.call(request.session, "save")


@REGISTERED
def test_an_outage_in_a_request(engine: Any, visit: Visit) -> None:
    """The headers of the request, which the middleware hands to the session, hold the cookie."""
    with observed(*stores_of(engine.storage)[:1], before=failing_at(0)):
        assert error_of(visit, write_in_a_request) is StorageUnavailable


@REGISTERED
def test_an_error_while_a_cookie_is_proved(visit: Visit) -> None:
    """A view has stored the session under another key, and has failed then."""

    def view(request: Any) -> HttpResponse:
        session = request.session
        session.cycle_key()
        session.save()
        visit.tokens.append(session.session_key)
        session.is_proved = False
        session.prove = mock.Mock(side_effect=ZeroDivisionError)
        return HttpResponse(status=500)

    async def answer(visit: Visit) -> None:
        request = RequestFactory().get("/")
        request.COOKIES[settings.SESSION_COOKIE_NAME] = visit.tokens[-1]
        with concurrent.futures.ThreadPoolExecutor(1) as thread:
            thread.submit(SessionMiddleware(view), request).result()

    assert error_of(visit, answer) is ZeroDivisionError


@REGISTERED
def test_proxies_that_cannot_be_told(visit: Visit) -> None:
    """Their setting is read when the client is asked for."""
    options = {"REGISTRY": "db", "TRUSTED_PROXIES": ["no address"]}
    with override_settings(SESSIONSTORES=options):
        assert error_of(visit, write_in_a_request) is ImproperlyConfigured


@pytest.mark.parametrize("head", [0x81, 0x01, 0x02], ids=["compact", "plain", "json"])
def test_data_that_cannot_be_read(visit: Visit, head: int) -> None:
    """Rightly encrypted by another version: what is legible of it is not shown."""
    record = Record(id="", payload=bytes((head,)) + b"\x82\xa1x\xb1" + CARD.encode())

    async def open_it(visit: Visit) -> None:
        codec = conf.unencrypted_codec()
        codec.deserialize(codec.decrypt(record.id, record.payload))

    assert error_of(visit, open_it) is UnreadablePayload


def test_data_that_cannot_be_read_from_a_store(visit: Visit) -> None:
    """The same, of the other engines."""
    flags = 0x81
    record = Record(id="", payload=conf.key_ring().encrypt("", flags, b"x" + CARD.encode()))

    async def open_it(visit: Visit) -> None:
        conf.codec().decrypt(record.id, record.payload)

    assert error_of(visit, open_it) is UnreadablePayload


@REGISTERED
def test_a_session_that_ended_meanwhile(visit: Visit) -> None:
    """The report does not show the data that could not be saved."""
    visit.again().delete()
    assert error_of(visit, Visit.save) is SessionEnded


@REGISTERED
def test_too_many_conflicts(visit: Visit) -> None:
    """The report shows neither the data of this save nor that of the others."""
    other = visit.again()
    other["other"] = CARD
    other.save()
    with override_settings(SESSIONSTORES={"REGISTRY": "db", "CONFLICT_RETRIES": 0}):
        assert error_of(visit, Visit.save) is SessionConflict


@REGISTERED
def test_a_conflict_with_what_cannot_be_read(visit: Visit) -> None:
    """Saved by a worker with a newer key."""
    with override_settings(
        SECRET_KEY="a newer one, and long enough for a key",
        SECRET_KEY_FALLBACKS=[settings.SECRET_KEY],
    ):
        other = visit.again()
        other["other"] = CARD
        other.save()
    assert error_of(visit, Visit.save) is SessionConflict


def refuse(base: Any, mine: Any, theirs: Any) -> Any:
    """Raise an error, as a merge function with a mistake does."""
    raise ZeroDivisionError


@REGISTERED
@pytest.mark.parametrize("deed", [Visit.save, Visit.cycle], ids=lambda deed: deed.__name__)
def test_a_merge_function_that_raises(visit: Visit, deed: Deed) -> None:
    """Its frame shows the values that it was called with, and no frame shows the others."""
    other = visit.again()
    other.update({"n": 1, "other": CARD})
    other.save()
    visit.session["n"] = 2
    options = {"REGISTRY": "db", "MERGE": {"n": refuse}}
    with override_settings(SESSIONSTORES=options):
        assert error_of(visit, deed) is ZeroDivisionError


def test_a_change_that_cannot_be_read(visit: Visit) -> None:
    """The report does not show the data to which the change belongs."""
    codec = conf.unencrypted_codec()
    payload = codec.encrypt("", codec.serialize({"card": CARD}))
    record = Record(id="", payload=payload, pending=(Change(1, b"of another worker"),))

    async def open_it(visit: Visit) -> None:
        newest_data(record, codec, conf.codec())

    assert error_of(visit, open_it) is UnreadablePayload


@REGISTERED
def test_a_merge_function_whose_value_cannot_be_kept(visit: Visit) -> None:
    """The report does not show the merged values."""
    other = visit.again()
    other["nested"] = [CARD, CARD]
    other.save()
    visit.session["nested"] = {CARD: CARD}
    options = {"REGISTRY": "db", "MERGE": {"nested": lambda *versions: object()}}
    with override_settings(SESSIONSTORES=options):
        assert error_of(visit, Visit.save) is UnserializableValue


def test_the_reports_of_these_tests_show_variables(visit: Visit) -> None:
    """Otherwise all of these tests would pass, whatever a report shows."""

    async def fail(visit: Visit) -> None:
        shown = visit.tokens[-1]
        visit.engine.storage.read(shown + shown)
        raise AssertionError

    with pytest.raises(AssertionError, match="not in"):
        error_of(visit, fail)
