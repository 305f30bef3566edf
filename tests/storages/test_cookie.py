"""The storage of records in the session key, call by call."""

from __future__ import annotations

import base64
from typing import Any

import pytest
from django.test import override_settings

from django_sessionstores import conf
from django_sessionstores.core.records import Record, SecretText, State, make_tombstone
from django_sessionstores.exceptions import PayloadTooLarge, UnreadablePayload
from django_sessionstores.storages import cookie
from django_sessionstores.storages.base import Updated
from django_sessionstores.storages.cookie import CookieStorage
from django_sessionstores.testing import Twin, without_handle
from tests.storages.records import make_record

RECORD = make_record(created=1000, last_activity=3000, expires=7000, user_id="7", version=5)
MIDDLEWARE = "django_sessionstores.middleware.SessionMiddleware"


@pytest.fixture(params=[False, True], ids=["sync", "async"])
def store(request: pytest.FixtureRequest) -> Any:
    return Twin(CookieStorage(), request.param)


def token_of(record: Record = RECORD) -> str:
    return str(CookieStorage().create(record, 0).key)


def test_what_it_is() -> None:
    named = ["authoritative", "durable", "holds_in_key", "indexes_counts", "indexes_users"]
    named += ["keeps_changes", "keeps_client", "lists", "lists_lost", "max_payload"]
    named += ["native_async", "self_expiring", "shared", "thread_sensitive"]
    stated = {name for name in named if getattr(CookieStorage(), name)}
    assert stated == {"durable", "holds_in_key", "native_async", "self_expiring", "shared"}


TOMBSTONE = make_tombstone(RECORD.id, State.SUPERSEDED, now=0, seconds=60)
WRITES: list[tuple[str, tuple[Any, ...]]] = [
    ("create", (RECORD, 0)),
    ("update", (RECORD, make_record("b" * 40), 0)),
    ("rotate", (RECORD, make_record("b" * 40), TOMBSTONE, 0)),
]


@pytest.mark.parametrize(("name", "args"), WRITES, ids=[name for name, _ in WRITES])
def test_each_write_makes_a_token(store: Any, name: str, args: tuple[Any, ...]) -> None:
    outcome = getattr(store, name)(*args)
    assert isinstance(outcome, Updated)
    assert isinstance(outcome.key, SecretText)
    read = store.read(outcome.key)
    assert without_handle(read) == without_handle(RECORD)
    assert read.handle == outcome.record.handle
    storage = store.target
    assert storage.mark(read) == storage.mark(outcome.record)
    assert not storage.is_outdated(read)
    assert not storage.is_outdated(outcome.record)


def test_two_tokens_of_one_record_have_marks_of_their_own() -> None:
    storage = CookieStorage()
    marks = {storage.mark(storage.create(RECORD, 0).record) for _ in range(10)}
    assert len(marks) == 10
    assert {len(mark) for mark in marks} == {8}
    token = token_of()
    end = base64.urlsafe_b64decode(token[1:] + "=" * (-len(token[1:]) % 4))[-8:]
    record = storage.read(token)
    assert record is not None
    assert storage.mark(record) == end


def test_a_token_under_a_previous_key_is_outdated() -> None:
    token, storage = token_of(), CookieStorage()
    with override_settings(SECRET_KEY="another", SECRET_KEY_FALLBACKS=["tests only"]):
        record = storage.read(token)
        assert record is not None
        assert storage.is_outdated(record)
    assert not storage.is_outdated(RECORD)  # It is in no token yet.


@pytest.mark.parametrize(
    ("name", "args", "answer"),
    [
        ("touch", (RECORD, 9000, 4000, 0), False),
        ("delete", (RECORD.id,), False),
        ("end", (RECORD.id, None), False),
        ("purge", (10_000, 10), 0),
    ],
)
def test_what_it_cannot_do(store: Any, name: str, args: tuple[Any, ...], answer: object) -> None:
    returned = getattr(store, name)(*args)
    assert returned == answer
    assert type(returned) is type(answer)


@pytest.mark.parametrize(
    ("length", "is_key"), [(7, False), (8, True), (405_504, True), (405_505, False)]
)
def test_the_length_of_a_key(length: int, is_key: bool) -> None:
    """A value that is longer than all cookies of a site together is refused without reading it."""
    value = "." * length
    assert CookieStorage().key_of(value) == (value if is_key else None)


def test_what_is_too_short_for_a_token_is_none(store: Any) -> None:
    """Of the shortest token only the last character is missing, or none."""
    empty = Record(id="0" * 40, user_id=None)
    shortest = len(token_of(empty))
    assert shortest >= cookie._LEAST
    assert store.read("." * 74) is None
    for text in ("." * 75, "." + "-" * 120):
        with pytest.raises(UnreadablePayload):
            store.read(text)
    for text in ("a" * 75, "a" * 128):  # Plain keys.
        assert store.read(text) is None
        assert store.target.identify(text) is None


def test_the_id_of_a_token() -> None:
    storage, token = CookieStorage(), token_of()
    assert storage.identify(token) == RECORD.id
    assert storage.identify("short") is None
    assert storage.identify("." * 80) is None
    assert storage.locate(token) == token
    assert isinstance(storage.locate(token), SecretText)


@pytest.mark.parametrize(
    ("flags", "packed"),
    [(1, None), (0, b"\xc1"), (0, b"\x93\x01\x02\x03")],
    ids=["flags", "damaged", "short"],
)
def test_a_token_of_another_version(flags: int, packed: bytes | None) -> None:
    whole = cookie._encode((5, 1000, 2000, 4000, "7", b"encrypted"))
    context = cookie._context(RECORD.id)
    encrypted = conf.key_ring().encrypt(context, flags, whole if packed is None else packed)
    token = cookie._text(bytes.fromhex(RECORD.id) + encrypted)
    with pytest.raises(UnreadablePayload, match="token is of an unknown format"):
        CookieStorage().read(token)
    assert CookieStorage().identify(token) is None


@pytest.mark.parametrize("change", ["padding", "sign", "bits", "space"])
def test_a_token_has_one_spelling(change: str) -> None:
    """Otherwise the mark would not tell one cookie from another."""
    token = token_of()
    while len(token[1:]) % 4 != 2:  # So that the last character has bits that do not count.
        token = token_of(make_record(payload=b"x" * len(token)))
    last = chr(ord(token[-1]) + 1)
    spelled = {
        "padding": f"{token}==",
        "sign": token[1:],
        "bits": token[:-1] + last,
        "space": f"{token[:40]} {token[40:]}",
    }[change]
    assert CookieStorage().read(token) is not None
    with pytest.raises(UnreadablePayload):
        CookieStorage().read(spelled)


@pytest.mark.parametrize(
    ("parts", "most", "splits", "says"),
    [
        (1, 20_000, True, "one cookie may hold 4"),
        (2, 20_000, True, "2 cookies may hold 8"),
        (3, 20_000, True, "3 cookies may hold 1"),
        (3, 4000, True, "3 cookies may hold 4000; .* raise COOKIE_MAX_PARTS"),
        (3, 20_000, False, "one cookie may hold 4.* replace Django's SessionMiddleware"),
        (3, 4000, False, "one cookie may hold 4000; .* raise COOKIE_MAX_PARTS"),
    ],
)
def test_what_is_too_large_says_what_helps(parts: int, most: int, splits: bool, says: str) -> None:
    options = {"COOKIE_MAX_PARTS": parts, "COOKIE_MAX_BYTES": most}
    middleware = [
        MIDDLEWARE
        if splits
        else MIDDLEWARE.replace("django_sessionstores", "django.contrib.sessions")
    ]
    with (
        override_settings(SESSIONSTORES=options, MIDDLEWARE=middleware),
        pytest.raises(PayloadTooLarge, match=says),
    ):
        token_of(make_record(payload=b"x" * 20_000))


def test_a_token_may_be_as_long_as_the_limit() -> None:
    record = make_record(payload=b"x" * 1000)
    length = len(token_of(record))
    for most in length, length - 1:
        with override_settings(SESSIONSTORES={"COOKIE_MAX_BYTES": most}, MIDDLEWARE=[MIDDLEWARE]):
            if most == length:
                assert len(token_of(record)) == length
            else:
                with pytest.raises(PayloadTooLarge):
                    token_of(record)
