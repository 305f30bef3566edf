"""What the length of a session in a cookie tells, and what opens where it should not."""

from __future__ import annotations

import os
import string
import zlib
from collections.abc import Callable
from random import Random
from typing import Any

import msgspec
import pytest
from django.contrib.sessions.backends.signed_cookies import SessionStore as SignedCookies
from django.contrib.sessions.serializers import JSONSerializer
from django.test import override_settings
from msgspec.msgpack import Ext

from django_sessionstores import conf
from django_sessionstores.core.clock import now
from django_sessionstores.exceptions import PayloadTooLarge, UnreadablePayload
from django_sessionstores.payloads import compact as compact_module
from django_sessionstores.payloads.codec import (
    _COMPRESSED,
    MAX_UNENCRYPTED,
    Codec,
    KeyRing,
    Snapshot,
    UnencryptedCodec,
)
from django_sessionstores.payloads.compact import DEFLATE_FROM, compact, expand
from django_sessionstores.payloads.serializers import TypedSerializer
from django_sessionstores.storages import cookie
from django_sessionstores.testing import at, suspicious_messages

ALPHABET = string.ascii_letters + string.digits
SECRET = "".join(Random(1).choices(ALPHABET, k=32))
BACKEND = "django.contrib.auth.backends.ModelBackend"

serializer = TypedSerializer()


def login(**data: Any) -> dict[str, Any]:
    return {
        "_auth_user_id": "17",
        "_auth_user_backend": BACKEND,
        "_auth_user_hash": "0123456789abcdef" * 4,
        **data,
    }


# What a length tells ----------------------------------------------------------------------------


def in_the_session(guess: str) -> dict[str, Any]:
    return login(_csrftoken=SECRET, last_search=guess)


def beside_a_long_text(guess: str) -> dict[str, Any]:
    return login(_csrftoken=SECRET, page=SECRET * 8, last_search=guess)


def in_one_dict(guess: str) -> dict[str, Any]:
    """As packages keep the state of a login elsewhere, and where it is to lead."""
    states = {"a1": {"verifier": SECRET, "next": "/"}, "a2": {"verifier": "x" * 90, "next": guess}}
    return login(socialaccount_states=states)


def in_one_list(guess: str) -> dict[str, Any]:
    return login(recent=[SECRET, guess, "something long " * 20])


def in_a_tuple(guess: str) -> dict[str, Any]:
    """Which is an extension of MessagePack."""
    return login(seen=(SECRET * 8, guess))


@pytest.mark.engines("cookie:unregistered")
@pytest.mark.parametrize(
    "session_of",
    [in_the_session, beside_a_long_text, in_one_dict, in_one_list, in_a_tuple],
)
@pytest.mark.parametrize("json", [False, True], ids=["own", "json"])
def test_a_length_does_not_tell_a_secret(
    engine: Any, session_of: Callable[[str], dict[str, Any]], json: bool
) -> None:
    """An attacker who can store text beside a secret and sees the length of the cookie must not
    learn whether the text has a part of the secret. When both were compressed together, 62 guesses
    found one character."""
    options = {}
    if json:
        if session_of is in_a_tuple:
            pytest.skip("JSON has no tuples")
        options = {"SESSION_SERIALIZER": f"{JSONSerializer.__module__}.JSONSerializer"}
    with at(now()), override_settings(**options):
        lengths: dict[int, set[int]] = {}
        for padding in ("", "~{}", "!#%&()*,;<>?"):
            for place in (3, 12, 28, 31):
                for character in ALPHABET:
                    guess = padding + SECRET[:place] + character
                    session = engine.SessionStore()
                    session.update(session_of(guess))
                    session.save()
                    lengths.setdefault(len(guess), set()).add(len(session.session_key))
        assert {size: len(of_size) for size, of_size in lengths.items()} == dict.fromkeys(
            lengths, 1
        )


@pytest.mark.parametrize("size", [60, 128, 400])
def test_equal_values_are_as_long_as_different_ones(size: int) -> None:
    """This holds even for a whole value that occurs twice, whether it is short or long."""
    one, other = (Random(seed).randbytes(size) for seed in (1, 2))
    lengths = {
        len(compact(serializer.dumps(login(secret=one, guess=guess))) or b"")
        for guess in (one, other)
    }
    assert len(lengths) == 1


def test_a_value_that_is_a_name_of_the_table_is_as_long_as_another() -> None:
    """The table is for what Django puts in certain places, not for what a visitor may guess."""
    lengths = {
        len(compact(serializer.dumps({"language": value})) or b"")
        for value in ("_csrftoken", "_somethin.", "_messages.")
    }
    assert len(lengths) == 1


def test_what_a_serializer_of_the_projects_writes_stays_as_it_is() -> None:
    """Where its values begin and end is not known, though it may look as if it were: a subclass
    may sign what it writes."""

    class Subclass(TypedSerializer):
        pass

    codec = UnencryptedCodec(KeyRing(["a"]), {3: Subclass()}, 3)
    snapshot = codec.serialize(login(text="x" * 1000))
    assert codec.encrypt("", snapshot) == b"\x03" + snapshot.data


# What gets shorter ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "data",
    [
        {},
        login(),
        login(_auth_user_hash="0123456789ABCDEF" * 4),
        login(_auth_user_hash="ab" * 31),
        login(_auth_user_hash=b"ab" * 32),
        login(_auth_user_hash="é" * 32),
        login(_auth_user_hash="x" * 500),
        login(_auth_user_backend="shop.backends.Backend"),
        login(_auth_user_backend=["nothing"]),
        {"_session_expiry": 300, "_csrftoken": SECRET, "testcookie": "worked"},
        {"text": "ultramarine " * 100, "bytes": b"\0" * 5000, "noise": os.urandom(500)},
        {f"key-{number}": number for number in range(40)},
        {"empty": "", "none": None, "set": set(), "tuple": (), "big": 2**80, "frozen": frozenset()},
        {"list": ["x" * 300] * 3, "dict": {1: {"x": "y" * 300}}, "exts": (1, b"x" * 200)},
        *({"edge": "x" * size} for size in range(DEFLATE_FROM - 4, DEFLATE_FROM + 4)),
        {"long": "x" * 70_000},
        {"": "empty name", "0": "digit", "é": "x" * 200},
    ],
    ids=lambda data: ",".join(data)[:40],
)
def test_it_comes_back_to_the_byte(data: dict[str, Any]) -> None:
    """Sessions are compared by their bytes."""
    before = serializer.dumps(data)
    short = compact(before)
    assert short is not None
    assert expand(memoryview(short), MAX_UNENCRYPTED) == before
    assert len(short) <= len(before)


def test_each_kind_gets_shorter() -> None:
    """Otherwise the tables and the compression would be useless."""

    def saved(data: dict[str, Any]) -> int:
        before = serializer.dumps(data)
        return len(before) - len(compact(before) or before)

    assert saved({"_csrftoken": ""}) == len("_csrftoken")
    assert saved({"_auth_user_hash": "ab" * 32}) == len("_auth_user_hash") + 31
    assert saved({"_auth_user_backend": BACKEND}) == len("_auth_user_backend") + len(BACKEND) - 1
    assert saved({"x": "ultramarine " * 20}) > 200
    assert saved({"x": b"ultramarine " * 20}) > 200


@pytest.mark.parametrize("data", [{1: "x" * 200}, {b"x": 1, "y": 2}, {(1, 2): 3}])
def test_keys_that_are_no_texts(data: dict[Any, Any]) -> None:
    """They stay as they are, and come back."""
    assert compact(serializer.dumps(data)) is None
    codec = conf.unencrypted_codec()
    assert codec.deserialize(codec.decrypt("", codec.encrypt("", codec.serialize(data)))) == data


def test_codes_of_the_format() -> None:
    """Tokens are out there: a code that means something else makes another session of them."""
    assert compact_module._NAMES[:9] == (
        "_auth_user_id",
        "_auth_user_backend",
        "_auth_user_hash",
        "_session_expiry",
        "_csrftoken",
        "_messages",
        "_password_reset_token",
        "testcookie",
        "_authenticated_at",
    )
    short = compact(serializer.dumps(login()))
    assert short == (
        b"\x83\x00\xa217\x01\xd4\x65\x00\x02\xc7\x20\x66" + bytes.fromhex("0123456789abcdef" * 4)
    )


@pytest.mark.engines("cookie:unregistered")
def test_a_login_is_shorter_than_djangos_signed_cookie(engine: Any) -> None:
    """The cookie is shorter although none of it is compressed and 32 bits of its version are
    random."""
    ours, signed = engine.SessionStore(), SignedCookies()
    for session in (ours, signed):
        session.update(login(_auth_user_hash=os.urandom(32).hex()))
        session.save()
    assert len(ours.session_key) < len(signed.session_key) * 4 / 5


# What does not open -----------------------------------------------------------------------------

encode = msgspec.msgpack.encode


def deflated(data: bytes, **options: Any) -> bytes:
    deflater = zlib.compressobj(9, zlib.DEFLATED, -15, **options)
    return deflater.compress(data) + deflater.flush()


MALFORMED = {
    "empty": b"",
    "no map": b"\x01",
    "more": b"\x80\x80",
    "cut": b"\x81\xa1",
    "key of another type": b"\x81\x90\x01",
    "key not in UTF-8": b"\x81\xa1\xff\x01",
    "unknown name": encode({99: 1}),
    "negative name": encode({-1: 1}),
    "unknown backend": encode({1: Ext(101, b"\x63")}),
    "no backend": encode({1: Ext(101, b"")}),
    "not deflated": encode({"x": Ext(103, b"zzzz")}),
    "deflated, and cut": encode({"x": Ext(103, deflated(b"\xa1x" * 200)[:-2])}),
    "deflated, and more": encode({"x": Ext(103, deflated(b"\xa1x") + b"x")}),
    "deflated with a dictionary": encode(
        {"x": Ext(103, deflated(b"ultramarine", zdict=b"ultramarine"))}
    ),
    "nested": b"\x81\xa1x" + b"\x91" * 100_000 + b"\x01",
}


@pytest.mark.parametrize("inner", MALFORMED.values(), ids=MALFORMED)
def test_what_compact_did_not_write(inner: bytes) -> None:
    """Rightly encrypted, but by another version, or with a key that got out: one kind of error."""
    with pytest.raises(UnreadablePayload):
        conf.unencrypted_codec().decrypt("", bytes((0x81,)) + inner)


@pytest.mark.parametrize("texts", [1, 4])
def test_inflating_is_bounded(texts: int) -> None:
    """All texts together, to the byte: a kilobyte of a cookie must not take gigabytes."""
    most = 4 * 2**17
    text = encode("x" * (most // texts - 5))
    data = {f"x{number}": Ext(103, deflated(text)) for number in range(texts)}
    assert expand(memoryview(encode(data)), most)
    with pytest.raises(UnreadablePayload):
        expand(memoryview(encode(data)), most - 1)


@pytest.mark.engines("cookie:unregistered")
def test_what_would_not_open_is_not_encrypted(engine: Any) -> None:
    """Even if it were compressed to few bytes, the next request could not read the session."""
    session = engine.SessionStore()
    session["fits"] = "x" * (MAX_UNENCRYPTED - 100)
    session.save()
    assert dict(engine.SessionStore(session.session_key).items()) == dict(session.items())
    session["more"] = "x" * 100
    with pytest.raises(PayloadTooLarge, match="'fits' with 1"):
        session.save()


def token(flags: int, packed: bytes) -> str:
    """Return a token with a valid encryption around anything."""
    record_id = os.urandom(20)
    encrypted = conf.key_ring().encrypt(cookie._context(record_id.hex()), flags, packed)
    return cookie._text(record_id + encrypted)


ENCRYPTED = {
    "fewer fields": (0, encode((1, 1))),
    "no MessagePack": (0, b"\xff\xfe"),
    "more fields": (0, encode((1, 1, 1, 10**15, None, b"\x01\x80", 1))),
    "another type": (0, encode((1, 1, 1, 10**15, None, "\x01"))),
    "not in UTF-8": (0, b"\x96\x01\x01\x01\x01\xa2\xed\xa0\xc4\x02\x01\x80"),
    "unknown flag": (2, encode((1, 1, 1, 10**15, None, b"\x01\x80"))),
    "no payload": (0, encode((1, 1, 1, 10**15, None, b""))),
    "unknown serializer": (0, encode((1, 1, 1, 10**15, None, b"\x09\x80"))),
    "no dict": (0, encode((1, 1, 1, 10**15, None, b"\x01\x90"))),
    "malformed data": (0, encode((1, 1, 1, 10**15, None, b"\x01\xc1"))),
    "malformed text": (0, encode((1, 1, 1, 10**15, None, b"\x81\x81\xa1x\xa1\xff"))),
    "not deflated": (0, encode((1, 1, 1, 10**15, None, b"\x81" + MALFORMED["not deflated"]))),
}


@pytest.mark.engines("cookie:unregistered")
@pytest.mark.parametrize(("flags", "packed"), ENCRYPTED.values(), ids=ENCRYPTED)
def test_a_valid_encryption_around_something_else(engine: Any, flags: int, packed: bytes) -> None:
    """A later version may write such a cookie before it is rolled back. The result is an empty
    session and a line in the log, never an error 500 for as long as the browser keeps its
    cookie."""
    key = token(flags, packed)
    with suspicious_messages() as messages:
        assert engine.SessionStore(key).load() == {}
    assert len(messages) == 1


def test_a_valid_encryption_around_what_does_not_decompress() -> None:
    """The same in a store."""
    codec = conf.codec()
    payload = conf.key_ring().encrypt("id", _COMPRESSED | 1, b"zzzz")
    with pytest.raises(UnreadablePayload, match="decompress"):
        codec.decrypt("id", payload)
    assert isinstance(codec, Codec)
    assert codec.decrypt("id", codec.encrypt("id", Snapshot(1, b"x" * 5000))).data == b"x" * 5000
