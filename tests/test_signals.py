"""Whoever listens is told what happens to sessions, once, without a key."""

import logging
from collections.abc import Iterator
from typing import Any

import pytest
from asgiref.sync import async_to_sync
from django.contrib.auth import get_user_model
from django.core import signing
from django.test import AsyncClient, Client, override_settings

from django_sessionstores import signals
from django_sessionstores.core.clock import now
from django_sessionstores.core.records import draw_key, session_id
from django_sessionstores.inventory import Inventory
from django_sessionstores.testing import DAY, HOUR, Twin, at, observed
from tests.cases import skip_unless_rotating
from tests.sessions.test_lifetimes import limits

COOKIE = "sessionid"
NAMES = (
    "session_created",
    "session_rotated",
    "session_ended",
    "session_rejected",
    "client_changed",
)
Told = list[tuple[str, dict[str, Any]]]


@pytest.fixture
def told(engine: Any) -> Iterator[Told]:
    """Yield the signals that were sent, each with its facts."""
    heard: Told = []
    receivers = []
    for name in NAMES:

        def receive(sender: Any, signal: Any, _name: str = name, **facts: Any) -> None:
            assert sender is engine.SessionStore
            if "reason" in facts:
                reasons = {
                    "session_ended": signals.END_REASONS,
                    "session_rejected": signals.REJECTION_REASONS,
                }
                assert facts["reason"] in reasons[_name]
            heard.append((_name, facts))

        getattr(signals, name).connect(receive)
        receivers.append((getattr(signals, name), receive))
    yield heard
    for signal, receive in receivers:
        signal.disconnect(receive)


@pytest.fixture(params=[False, True], ids=["sync", "async"])
def awaited(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


@pytest.fixture
def session(engine: Any, awaited: bool) -> Any:
    """Return a new session, not saved."""
    return Twin(engine.SessionStore(), awaited)


def test_created(session: Any, told: Told) -> None:
    """Once, however often it is saved afterwards."""
    session.set("x", 1)
    session.save()
    session.set("x", 2)
    session.save()
    assert told == [("session_created", {"session_id": session.session_id, "user_id": None})]


def test_rotated(engine: Any, awaited: bool, session: Any, told: Told) -> None:
    """A login sends the user and the two ids of the same visitor."""
    session.set("x", 1)
    session.save()
    previous = session.session_id
    again = Twin(engine.SessionStore(session.session_key), awaited)
    again.cycle_key()
    again.set("_auth_user_id", "7")
    again.save()
    assert told[1:] == [
        (
            "session_rotated",
            {"session_id": again.session_id, "previous_id": previous, "user_id": "7"},
        )
    ]


@pytest.mark.parametrize("how", ["flush", "delete"])
def test_ended_by_a_logout(session: Any, told: Told, how: str) -> None:
    """The signal has the id that was stored."""
    session.set("x", 1)
    session.save()
    ended = session.session_id
    getattr(session, how)()
    assert told[1:] == [
        ("session_ended", {"session_id": ended, "user_id": None, "reason": "logout"})
    ]


@pytest.mark.authoritative
def test_ended_by_the_inventory(engine: Any, awaited: bool, session: Any, told: Told) -> None:
    """If the session has already ended, no second signal is sent."""
    session.set("x", 1)
    session.save()
    inventory = Twin(Inventory(), awaited)
    inventory.end(session.session_id)
    inventory.end(session.session_id)
    facts = {"session_id": session.session_id, "user_id": None, "reason": "revoked"}
    assert told[1:] == [("session_ended", facts)]


def test_all_of_a_user_are_told(engine: Any, awaited: bool, told: Told) -> None:
    """One signal for each."""
    if not engine.storage.lists:
        pytest.skip(f"{engine.id} declares that it cannot list")
    for user in ("7", "7", "8"):
        session = engine.SessionStore()
        session["_auth_user_id"] = user
        session.save()
    Twin(Inventory(), awaited).end_all("7")
    ended = [(facts["reason"], facts["user_id"]) for name, facts in told if name == "session_ended"]
    assert ended == [("revoked", "7")] * 2


@pytest.mark.engines("memory")
def test_ended_by_want_of_room(engine: Any, awaited: bool, told: Told) -> None:
    """The one longest without a write; not one that has expired. Tombstones need no room."""
    moment = now()
    made = []
    with limits(MEMORY_MAX_SESSIONS=3):
        for number, minutes in enumerate([1, 60, 60, 60, 60]):
            with at(moment + number * 40_000):
                session = Twin(engine.SessionStore(), awaited)
                session.set_expiry(minutes * 60)
                session.save()
                made.append(session.session_id)
        ended = [facts for name, facts in told if name == "session_ended"]
        assert ended == [{"session_id": made[1], "user_id": None, "reason": "evicted"}]
        told.clear()
        session.cycle_key()
        session.save()
        assert [name for name, _ in told] == ["session_rotated"]
        told.clear()
        for _ in range(3):
            Twin(engine.SessionStore(), awaited).save()
        ended = [facts["session_id"] for name, facts in told if name == "session_ended"]
        assert ended == [*made[2:4], session.session_id]


@pytest.mark.engines("memory")
def test_who_is_ended_for_want_of_room_at_a_login_is_told(
    engine: Any, awaited: bool, told: Told
) -> None:
    """The lock of the login, and the tombstone of the session that it replaces, end nobody."""
    with limits(MEMORY_MAX_SESSIONS=4, MAX_SESSIONS=3):
        visitors = [engine.SessionStore() for _ in range(4)]
        for visitor in visitors:
            visitor["x"] = 1
            visitor.save()
        told.clear()
        session = Twin(engine.SessionStore(visitors[0].session_key), awaited)
        session.set("_auth_user_id", "7")
        session.save()
        session.flush()
        session.set("_auth_user_id", "8")
        session.save()
        assert not [facts for _, facts in told if facts.get("reason") == "evicted"]
        assert [engine.SessionStore(each.session_key).load() for each in visitors[1:]] == [
            {"x": 1}
        ] * 3
        assert engine.storage.count(now(), None) == 4


@pytest.mark.usefixtures("middleware")
def test_ended_by_the_login_of_another_user(
    engine: Any, awaited: bool, user: Any, told: Told
) -> None:
    """The first user did not log out. A logout before the login does not end a session in this
    way."""
    bob = get_user_model()._default_manager.create(username="bob")
    try:
        browser: Any = AsyncClient() if awaited else Client()
        get = async_to_sync(browser.get) if awaited else browser.get
        prefix = "/async" if awaited else ""
        get(f"{prefix}/login/ada/")
        session = engine.SessionStore(browser.cookies[COOKIE].value)
        assert session["_auth_user_id"] == str(user.pk)
        told.clear()
        get(f"{prefix}/login/bob/")
        assert [name for name, _ in told] == ["session_ended", "session_created"]
        facts = {"session_id": session.session_id, "user_id": str(user.pk), "reason": "replaced"}
        assert told[0][1] == facts
        told.clear()
        get(f"{prefix}/relogin/")
        assert [facts.get("reason") for _, facts in told] == ["logout", None]
    finally:
        bob.delete()


@pytest.mark.engines("memory", "db:sqlite", "cookie")
def test_expired(engine: Any, awaited: bool, session: Any, told: Told) -> None:
    """A request that comes too late finds the expired session, if the store still has it."""
    session.set("_auth_user_id", "7")
    session.save()
    with at(now() + 15 * DAY):
        Twin(engine.SessionStore(session.session_key), awaited).get("x")
    facts = {"session_id": session.session_id, "user_id": "7", "reason": "expired"}
    assert told[1:] == [("session_ended", facts)]


@pytest.mark.payload_stored
def test_an_unknown_key_is_rejected(engine: Any, awaited: bool, told: Told) -> None:
    """Many of them from one address are somebody guessing."""
    key = draw_key()
    Twin(engine.SessionStore(key), awaited).get("x")
    facts = {"session_id": session_id(key), "reason": "unknown", "detail": ""}
    assert told == [("session_rejected", facts)]


@pytest.mark.authoritative
def test_a_superseded_key_is_rejected(engine: Any, awaited: bool, session: Any, told: Told) -> None:
    """A parallel request of a login, or somebody who has the key from before it."""
    session.set("x", 1)
    session.save()
    previous, key = session.session_id, session.session_key
    session.cycle_key()
    session.save()
    told.clear()
    Twin(engine.SessionStore(key), awaited).get("x")
    facts = {"session_id": previous, "reason": "superseded", "detail": ""}
    assert told == [("session_rejected", facts)]


@pytest.mark.authoritative
@pytest.mark.usefixtures("in_requests")
def test_a_key_that_was_rotated_long_ago_is_rejected(
    engine: Any, awaited: bool, session: Any, told: Told
) -> None:
    """Its session goes on under another one."""
    skip_unless_rotating(engine)
    moment = now()
    with limits(ROTATE_AFTER=1800, ROTATION_GRACE=60):
        with at(moment):
            session.set("_auth_user_id", "7")
            session.save()
        previous, key = session.session_id, session.session_key
        with at(moment + HOUR):
            again = Twin(engine.SessionStore(key), awaited)
            again.get("x")
            again.save()
        told.clear()
        with at(moment + HOUR + 61_000):
            Twin(engine.SessionStore(key), awaited).get("x")
    facts = {"session_id": previous, "reason": "too old", "detail": ""}
    assert told == [("session_rejected", facts)]


@pytest.mark.engines("memory", "cookie")
def test_what_cannot_be_read_is_rejected(
    engine: Any, awaited: bool, session: Any, told: Told
) -> None:
    """The signal has the same reason as the log."""
    session.set("x", 1)
    session.save()
    told.clear()
    with override_settings(SECRET_KEY="another one, of another project"):
        Twin(engine.SessionStore(session.session_key), awaited).get("x")
    ((name, facts),) = told
    assert (name, facts["reason"]) == ("session_rejected", "foreign")
    assert facts["detail"] == "payload is encrypted under an unknown key"
    assert facts["session_id"] == session.session_id


_PREVIOUS = "django.contrib.sessions.backends.signed_cookies"


@pytest.mark.engines("cookie:unregistered", "cookie:sqlite")
@pytest.mark.parametrize("options", [{}, {"MIGRATE_FROM": [_PREVIOUS]}], ids=["alone", "moving"])
def test_the_id_of_a_rejected_cookie_is_the_one_that_it_states(
    engine: Any, awaited: bool, session: Any, told: Told, options: dict[str, Any]
) -> None:
    """Operators look for it. The id of a derived key would lead nowhere."""
    session.set("x", 1)
    session.save()
    token, plain = session.session_key, draw_key()
    cases: list[tuple[str, str, str | None]] = [
        (token[:-1] + ("A" if token[-1] != "A" else "E"), "tampered", session.session_id),
        (token[:81], "tampered", session.session_id),
        (token[:40] + "x:y" * 20, "tampered", None),
        ("." * 80, "tampered", None),
        (plain, "unknown", session_id(plain) if options else None),
    ]
    for cookie, reason, expected in cases:
        told.clear()
        with limits(**options):
            Twin(engine.SessionStore(cookie), awaited).get("x")
        ((_name, facts),) = told
        assert (facts["reason"], facts["session_id"]) == (reason, expected), cookie


@pytest.mark.engines("memory", "db:sqlite")
def test_an_unreadable_cookie_of_a_previous_backend_has_no_id(
    engine: Any, awaited: bool, told: Told
) -> None:
    """The key under which it would be stored is derived from it, and stands for no session."""
    cookie = signing.dumps({"x": 1}, key="another", salt=_PREVIOUS, compress=True)
    with override_settings(SESSIONSTORES={"MIGRATE_FROM": [_PREVIOUS]}):
        Twin(engine.SessionStore(cookie), awaited).get("x")
    ((_name, facts),) = told
    assert (facts["reason"], facts["session_id"]) == ("tampered", None)


@pytest.mark.engines("memory", "db:sqlite", "cookie:sqlite")
def test_a_changed_client(engine: Any, awaited: bool, told: Told) -> None:
    """The signal has the old and the new client. It is not sent for the first client, or for each
    request in between."""
    with override_settings(MIDDLEWARE=["django_sessionstores.middleware.SessionMiddleware"]):
        browser: Any = AsyncClient() if awaited else Client()

        def get(path: str, ip: str) -> None:
            if awaited:

                async def request() -> None:
                    await browser.get("/async" + path, headers={"x-forwarded-for": ip})

                async_to_sync(request)()
            else:
                browser.get(path, headers={"x-forwarded-for": ip})

        trusted = {"TRUSTED_PROXIES": ["127.0.0.1"]}
        if engine.case.registry:
            trusted["REGISTRY"] = engine.case.registry
        with override_settings(SESSIONSTORES=trusted):
            get("/write/x/1/", "192.0.2.1")
            get("/read/", "192.0.2.2")
            with at(now() + HOUR):
                get("/read/", "192.0.2.2")
                get("/read/", "192.0.2.2")
    changes = [facts for name, facts in told if name == "client_changed"]
    assert [(each["before"].ip, each["after"].ip) for each in changes] == [
        ("192.0.2.1", "192.0.2.2")
    ]


@pytest.mark.engines("memory", "db:sqlite", "file", "cache:django-redis", "cookie:sqlite")
@pytest.mark.parametrize(
    ("options", "rolling", "step"),
    [
        ({"IDLE_TIMEOUT": 600}, False, 30),
        ({}, True, 50),
        ({"TOUCH_INTERVAL": 3600}, False, 120),
        ({"TOUCH_INTERVAL": 3600}, True, 120),
    ],
    ids=["idle", "rolling", "activity", "rolling-activity"],
)
def test_steady_reading_does_not_hide_a_changed_client(
    engine: Any, told: Told, options: dict[str, Any], rolling: bool, step: int
) -> None:
    """Touches write as well. The client is stored in place of the first one, and is then known."""
    if engine.case.registry:
        options = {**options, "REGISTRY": engine.case.registry}
    browser, moment = Client(), now()
    with override_settings(
        MIDDLEWARE=["django_sessionstores.middleware.SessionMiddleware"],
        SESSIONSTORES=options,
        SESSION_SAVE_EVERY_REQUEST=rolling,
        SESSION_COOKIE_AGE=900,
    ):
        with at(moment):
            browser.get("/write/x/1/", REMOTE_ADDR="192.0.2.1", HTTP_USER_AGENT="owner")
        for seconds in range(step, 721, step):
            with at(moment + seconds * 1000):
                answer = browser.get("/read/", REMOTE_ADDR="192.0.2.2", HTTP_USER_AGENT="thief")
                assert answer.json() == {"x": "1"}
                found = Inventory().list().sessions if engine.storage.lists else []
    assert [(each.ip, each.user_agent) for each in found] == [("192.0.2.2", "thief")] * len(found)
    changes = [facts for name, facts in told if name == "client_changed"]
    assert [(each["before"].ip, each["after"].ip) for each in changes] == [
        ("192.0.2.1", "192.0.2.2")
    ]


def test_a_receiver_that_fails_changes_nothing(
    engine: Any, awaited: bool, session: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """The session is saved already; whoever counts sessions must not break the site."""

    def broken(**facts: Any) -> None:
        raise RuntimeError("broken receiver")

    signals.session_created.connect(broken)
    try:
        session.set("x", 1)
        with caplog.at_level(logging.ERROR):
            session.save()
    finally:
        signals.session_created.disconnect(broken)
    assert dict(engine.SessionStore(session.session_key).items()) == {"x": 1}
    assert "broken receiver" in caplog.text


@pytest.mark.engines("memory")
def test_an_async_receiver(engine: Any, session: Any, awaited: bool) -> None:
    """The receiver is awaited after a sync save as well as after an async one."""
    heard = []

    async def receive(session_id: str, **facts: Any) -> None:
        heard.append(session_id)

    signals.session_created.connect(receive)
    try:
        session.set("x", 1)
        session.save()
    finally:
        signals.session_created.disconnect(receive)
    assert heard == [session.session_id]


@pytest.mark.engines("memory")
def test_an_async_receiver_of_a_sync_save_in_a_loop_is_an_error_of_the_log(
    engine: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """The session is stored by then, so the save must not fail."""
    heard = []

    async def receive(session_id: str, **facts: Any) -> None:
        heard.append(session_id)

    async def scenario() -> Any:
        session = engine.SessionStore()
        session["x"] = 1
        session.save()
        return session

    signals.session_created.connect(receive)
    try:
        session = async_to_sync(scenario)()
    finally:
        signals.session_created.disconnect(receive)
    assert engine.SessionStore(session.session_key)["x"] == 1
    assert heard == []
    assert "Call the async one there, such as asave()" in caplog.text


def test_no_key_is_told(engine: Any, awaited: bool, session: Any, told: Told) -> None:
    """Receivers write logs, which must not contain keys."""
    session.set("x", 1)
    session.save()
    keys = [session.session_key]
    session.cycle_key()
    session.save()
    keys.append(session.session_key)
    session.flush()
    assert len(told) == 3
    assert not any(key in repr(told) for key in keys)


@pytest.mark.engines("memory")
def test_nothing_is_done_where_nobody_listens(engine: Any, session: Any) -> None:
    """A signal without receivers costs nothing, in a loop least of all a thread."""
    session.set("x", 1)
    with observed(engine.storage) as calls:
        session.save()
    assert calls == ["create"]
