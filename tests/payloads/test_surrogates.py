"""Texts that JSON can carry and UTF-8 cannot: halves of emoji, and undecodable file names.

Python has them as surrogates. A browser sends half an emoji in JSON when it cuts a text at a
number of UTF-16 units; a file name that is not in UTF-8 has one surrogate for each byte.
"""

from __future__ import annotations

import json
from typing import Any

import pytest
from django.contrib.sessions.serializers import JSONSerializer
from django.http import HttpRequest, HttpResponse
from django.test import Client, override_settings
from django.urls import path
from hypothesis import given
from hypothesis import strategies as st

from django_sessionstores.core.redaction import Redactor
from django_sessionstores.exceptions import UnserializableValue
from django_sessionstores.inventory import Inventory
from django_sessionstores.payloads.compact import compact, expand
from django_sessionstores.payloads.merge import is_same
from django_sessionstores.payloads.serializers import TypedSerializer
from tests import urls
from tests.migration.previous_backends import DJANGO, empty_django
from tests.payloads.test_types import load, stored
from tests.sessions.test_lifetimes import limits

HALF = "\ud83d"
NAME = "caf\udce9.txt"
JSON = "django.contrib.sessions.serializers.JSONSerializer"

TEXTS: dict[str, Any] = {
    "half": HALF,
    "other half": "\ude00 cut",
    "both halves": "\ud83d\ude00",
    "whole beside half": f"😀{HALF}",
    "file name": NAME,
    "long": f"{'ünïcödé ' * 100}{HALF}",
    "in a list": [1, [HALF, "ä"]],
    "key": {NAME: 1, "a": 2},
    "deep key": [{"a": {HALF: {NAME: "ä"}}}],
}
TYPED: dict[str, Any] = {
    "tuple": (HALF, (NAME,)),
    "set": {HALF, "a", (NAME, 1)},
    "mixed keys": {1: HALF, HALF: 1, None: (NAME,)},
}

ANY_TEXT = st.text(st.characters())
VALUES = st.recursive(
    ANY_TEXT | st.integers(),
    lambda inner: (
        st.lists(inner)
        | st.dictionaries(ANY_TEXT | st.integers(), inner)
        | st.lists(inner).map(tuple)
        | st.frozensets(ANY_TEXT)
    ),
    max_leaves=8,
)


class Text(str):
    """Such as a SafeString."""


@given(st.dictionaries(ANY_TEXT, VALUES, max_size=4))
def test_every_text_comes_back(data: Any) -> None:
    """Each text comes back unchanged and has the same bytes each time, also in a cookie."""
    serializer = TypedSerializer()
    dumped = serializer.dumps(data)
    loaded = serializer.loads(dumped)
    assert is_same(loaded, data)
    assert loaded == data
    assert serializer.dumps(loaded) == dumped
    short = compact(dumped)
    if short is not None:
        assert expand(memoryview(short), 10**6) == dumped


def test_a_long_text_takes_as_little_of_a_cookie() -> None:
    """It is deflated by itself, like any other text."""
    long, beside = "as long as it has to be " * 100, {"a": 1}
    data = TypedSerializer().dumps({"text": f"{long}{HALF}", **beside})
    short = compact(data)
    assert short is not None
    assert len(short) < 100
    assert expand(memoryview(short), 10**6) == data
    # But no other extension, because a container may have values of several origins.
    data = TypedSerializer().dumps({"tuple": (long, HALF)})
    assert compact(data) == data


def test_its_bytes_are_part_of_the_stored_format() -> None:
    """UTF-8 with surrogates, as an extension of its own. Other texts are as they were."""
    assert TypedSerializer().dumps(["ä", HALF]).hex() == "92a2c3a4c7030ceda0bd"
    assert TypedSerializer().dumps({HALF: 1}).hex() == "d70b92c7030ceda0bd01"


def test_a_subclass_of_text() -> None:
    assert TypedSerializer().loads(TypedSerializer().dumps([Text(HALF), 2**70])) == [HALF, 2**70]


@pytest.mark.parametrize("name", [*TEXTS, *TYPED])
def test_a_store_keeps_it(engine: Any, name: str) -> None:
    """Every engine stores what Django's backends store, and reading it is not a change."""
    value = (TEXTS | TYPED)[name]
    key = stored(engine, value=value)
    assert is_same(load(engine, key), {"value": value})
    session = engine.SessionStore(key)
    assert session["value"] == value
    assert not session.modified


@pytest.mark.parametrize("name", TEXTS)
@pytest.mark.engines("memory", "file", "db:sqlite", "cookie:sqlite")
def test_djangos_serializer_keeps_it(engine: Any, name: str) -> None:
    with override_settings(SESSION_SERIALIZER=JSON):
        expected = JSONSerializer().loads(JSONSerializer().dumps({"value": TEXTS[name]}))
        assert load(engine, stored(engine, value=TEXTS[name])) == expected


@pytest.mark.authoritative
def test_both_of_two_changes_are_kept(engine: Any) -> None:
    """The keys have surrogates, and the registry remembers them by their digests."""
    session = engine.SessionStore()
    session.update({HALF: 1, NAME: [1], "x": 1})
    session.save()
    one, two = (engine.SessionStore(session.session_key) for _ in range(2))
    one[HALF] = f"one {HALF}"
    del two[NAME]
    two["x"] = NAME
    one.save()
    two.save()
    assert load(engine, two.session_key) == {HALF: f"one {HALF}", "x": NAME}


def show(request: HttpRequest) -> HttpResponse:
    """Stores the body, a JSON document as a browser sends it, and answers with what was stored."""
    if request.method == "POST":
        request.session["text"] = json.loads(request.body)
    return HttpResponse(json.dumps(request.session.get("text")), "application/json")


urlpatterns = [*urls.urlpatterns, path("show/", show)]


@pytest.mark.usefixtures("middleware")
def test_half_an_emoji_from_a_browser(engine: Any) -> None:
    """Through the whole of Django, where it was answered with a 500."""
    body = rb'{"comment": "so good \ud83d", "\ud83d": ["\udce9"]}'
    with override_settings(ROOT_URLCONF=__name__):
        browser = Client()
        assert browser.post("/show/", body, "application/json").status_code == 200
        assert browser.get("/show/").json() == json.loads(body)


@pytest.mark.parametrize("name", [*TEXTS, *TYPED])
@pytest.mark.parametrize("reveals", [True, False])
def test_a_page_shows_it(name: str, reveals: bool) -> None:
    """The text is escaped, because the page is sent as UTF-8."""
    for data in (TEXTS | TYPED, {HALF: NAME, "text": json.dumps({HALF: NAME})}):
        for node in Redactor(reveals=reveals).tree(data):
            (node.name + node.text + repr(node)).encode()
    (node,) = Redactor().tree({"file": NAME})
    assert node.text == r"caf\udce9.txt"


@pytest.mark.engines("memory", "db:sqlite")
def test_a_session_of_djangos_backend_is_migrated(engine: Any) -> None:
    """Any text that Django's JSON serializer has stored is migrated."""
    from django.contrib.sessions.backends.db import SessionStore

    empty_django()
    previous = SessionStore()
    previous.update(TEXTS)
    previous.save()
    with limits(MIGRATE_FROM=[f"{DJANGO}.db"]):
        migrated = load(engine, str(previous.session_key))
    assert migrated == JSONSerializer().loads(JSONSerializer().dumps(TEXTS))
    empty_django()


# Users -------------------------------------------------------------------------------------------

BAD_USERS = [HALF, f"7{NAME}", "nul\0nul", "7" * 256]


@pytest.mark.parametrize("user_id", BAD_USERS, ids=["half", "name", "nul", "long"])
def test_a_user_that_no_index_can_hold_is_refused(engine: Any, user_id: str) -> None:
    """Every engine raises an error that names the key, and the stored session stays as it was."""
    key = stored(engine, color="blue")
    session = engine.SessionStore(key)
    session["_auth_user_id"] = user_id
    with pytest.raises(UnserializableValue, match=r"session\['_auth_user_id'\]"):
        session.save()
    with pytest.raises(UnserializableValue, match=r"session\['_auth_user_id'\]"):
        stored(engine, _auth_user_id=user_id)
    assert load(engine, key) == {"color": "blue"}


@pytest.mark.parametrize("user_id", ["山" * 255, "a b\n:*'\"\\%😀"], ids=["long", "odd"])
def test_any_other_user_is_found(engine: Any, user_id: str) -> None:
    """A project may have any kind of primary key."""
    key = stored(engine, _auth_user_id=user_id)
    assert load(engine, key) == {"_auth_user_id": user_id}
    if engine.storage.lists:
        (found,) = Inventory().list(user=user_id).sessions
        assert found.user_id == user_id
        assert Inventory().end_all(user_id) == 1


@pytest.mark.engines("memory", "db:sqlite")
def test_a_session_of_djangos_with_such_a_user_reads_as_empty(engine: Any) -> None:
    """The page does not fail."""
    from django.contrib.sessions.backends.db import SessionStore

    empty_django()
    previous = SessionStore()
    previous["_auth_user_id"] = HALF
    previous.save()
    with limits(MIGRATE_FROM=[f"{DJANGO}.db"]):
        assert load(engine, str(previous.session_key)) == {}
    empty_django()
