"""What is stored today can be read tomorrow: bytes of each format, and how they come about.

A project has sessions in its store and cookies in its visitors' browsers when it updates the
package. If a test here fails, an update would sign out everybody. Once there is a release, never
change a vector: add a format with a number of its own, and read the old one as well.
"""

from __future__ import annotations

import base64
import hashlib
import itertools
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Any
from unittest import mock
from uuid import UUID

import msgspec
import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from django.test import override_settings

from django_sessionstores import conf
from django_sessionstores.core.records import (
    Change,
    Record,
    State,
    derived_key,
    make_tombstone,
    pack,
    pack_times,
    session_id,
    unpack,
)
from django_sessionstores.payloads.codec import KeyRing
from django_sessionstores.payloads.cookie_chunks import join, split
from django_sessionstores.storages.cookie import CookieStorage
from django_sessionstores.storages.registered.journal import Journal, Save

SECRET = "the secret of the vectors, which no site has"
PREVIOUS_SECRET = "the secret that it had before"
KEY = "abcdefghijklmnopqrstuvwxyz234567"
ID = "9b2f0c6f2e4d4d57b2a3f0a7c5d1e8b6a4938271"
MOMENT = 1_800_000_000_123

DATA: dict[Any, Any] = {
    "text": "Žluťoučký kůň",
    "number": -7,
    "large": 2**70,
    "float": 0.1,
    "nothing": None,
    "yes": True,
    "bytes": b"\x00\xff",
    "list": [1, [2]],
    "dict": {1: "one", "two": 2},
    "set": {1},
    "tuple": (1, 2),
    "moment": datetime(2027, 1, 15, 8, 0, 0, 123, tzinfo=UTC),
    "naive": datetime(2027, 1, 15, 8, 0),
    "date": date(2027, 1, 15),
    "time": time(8, 30),
    "span": timedelta(days=1, microseconds=1),
    "decimal": Decimal("1.10"),
    "uuid": UUID("12345678-1234-5678-1234-567812345678"),
}
LOGIN = {
    "_auth_user_id": "7",
    "_auth_user_backend": "django.contrib.auth.backends.ModelBackend",
    "_auth_user_hash": hashlib.sha256(b"hash").hexdigest(),
}
LONG = {"text": "as long as it has to be, to be compressed " * 40}

RECORD = Record(
    id=ID,
    payload=b"payload",
    version=3,
    user_id="7",
    created=MOMENT,
    last_activity=MOMENT + 1,
    expires=MOMENT + 2,
    ip="2001:db8::1",
    user_agent="Mozilla/5.0",
    origin="0a" * 20,
    site=-559038737,
)
TOMBSTONE = make_tombstone(
    ID, State.ROTATED, now=MOMENT, seconds=60, of=RECORD, successor="0b" * 20, nonce=12
)
JOURNAL = Journal(
    [Save(2, MOMENT, b"\x01" * 8), Save(3, MOMENT + 1, b"\x02" * 8)], {b"\x03" * 8: (3, b"change")}
)
TOKEN_RECORD = msgspec.structs.replace(RECORD, ip="", user_agent="", origin="", site=0)

# Base64. Until the first release, "python -m tests.payloads.test_stored_formats" prints new ones.
VECTORS = {
    "payload": """
        AQEYxlDzAAECAwQFBgcICQoLLhBxjSjUIf17doQwUXnRmBG7czKxLu9at4qIosIWAZfJ8KW6FEm1yX/usgenFD0D
        4aYGKhBWbWQiNUkF8gi1XUMoRGD7cxU+z8WxzTyI0UxOjpWOEjM0S4T83PLbcz9GAmFf2asTYU5fumPAsqBG8r1U
        Pud6Jw/TIm3KXi92lJBYvYUKw8BWYcylV/2JsVpPZ2QyUP7s1nkoeKjDRJ2fujJHCBo4QBvHJsLv7Oa2ND3WIccm
        G981f6N/x70pTEK4VN1mPGQgnWK9MrNGCliM1Q+V3/UYiSM8nBrzUnsMcYbGH/FF8WDxhivbxCI7QHJFa5tc2SPw
        EB4t7ujqYkRHeAc07d63tjZKBba9WP+o23VxS48BkAk8M8tyoMsnJNAxcl/n1BRBzSmh4bqCUqDeJIlbgh4I8uf+
        hiW3+FXM
    """,
    "payload of a login": """
        AUEYxlDzAAECAwQFBgcICQoLcxDCHl1lPInKdBk69PfsA+rwdZVnVWFrsnXNNrKkibgkIC6l7WvCXJj4NevCaunK
        DOP099cBYlFSlwCT
    """,
    "payload of the previous secret": """
        AUGOkyvdAAECAwQFBgcICQoLMlJS4YUYRfXxvAbpvrqNmT/q9W4I9ujN4ZNiSjZev80cruEf5HUXoyMOVoRn7qNf
        xIKc1/TCIltztTC5
    """,
    "compressed payload": """
        AYEYxlDzAAECAwQFBgcICQoLiBEIdQ4jA9i6OFQeRg02uRohRFviXeNguiUfD51yPVORhZ1iiBpjGzA+zSmYIKhZ
        hXZXM6vCzYLPA1EUhXADvyWLZvCfHwVg/2dslXlQdK6IT1uzVNlAlbkk
    """,
    "record": """
        AQAAAAAAAAAAAwAAAaMYXFB7AAABoxhcUHwAAAGjGFxQfd6tvu+VoTfEECABDbgAAAAAAAAAAAAAAAHECk1vemls
        bGEvNerEFAoKCgoKCgoKCgoKCgoKCgoKCgoKxAdwYXlsb2Fk
    """,
    "tombstone": """
        AQMAAAAAAAAADAAAAaMYXFB7AAABoxhcUHsAAAGjGF06296tvu+VoTfEAMQAxADEFAsLCwsLCwsLCwsLCwsLCwsL
        CwsL
    """,
    "journal": """
        kpKTAs8AAAGjGFxQe8QIAQEBAQEBAQGTA88AAAGjGFxQfMQIAgICAgICAgKBxAgDAwMDAwMDA5IDxAZjaGFuZ2U=
    """,
    "token": """
        Lm15OE1ieTVOVFZleW9fQ254ZEhvdHFTVGduRUJBQmpHVVBNQUFRSURCQVVHQndnSkNndTF6UFR4SnNVSnFwM1VX
        MVpKc3ZCbWd5MVF2RTU4Y25FdUI1Q09kZnhuRmExVlVlNkJvTmNURXcyWTFfa3hlTF8tVjd2T2N6UXpYMDkyaFpt
        NUVyQ1c0M2xIbEdCd3B3QU02SkRqWVNN
    """,
}


def stored(name: str) -> bytes:
    return base64.b64decode("".join(VECTORS[name].split()))


@pytest.fixture(autouse=True)
def _keys() -> Iterator[None]:
    with override_settings(SECRET_KEY=SECRET, SECRET_KEY_FALLBACKS=[PREVIOUS_SECRET]):
        yield


@contextmanager
def fixed_nonces() -> Iterator[None]:
    """Bytes that count up, in place of random ones."""
    numbers = itertools.count()
    with mock.patch("os.urandom", lambda size: bytes(next(numbers) % 256 for _ in range(size))):
        yield


def encrypted(data: dict[Any, Any]) -> bytes:
    codec = conf.codec()
    with fixed_nonces():
        return codec.encrypt(ID, codec.serialize(data))


def token() -> str:
    codec = conf.unencrypted_codec()
    record = msgspec.structs.replace(
        TOKEN_RECORD, payload=codec.encrypt(ID, codec.serialize(LOGIN))
    )
    with fixed_nonces():
        return str(CookieStorage().create(record, MOMENT).key)


def written() -> dict[str, bytes]:
    """Return what the package writes today, in place of the vectors."""
    with override_settings(SECRET_KEY=PREVIOUS_SECRET, SECRET_KEY_FALLBACKS=[]):
        previous = encrypted(LOGIN)
    return {
        "payload": encrypted(DATA),
        "payload of a login": encrypted(LOGIN),
        "payload of the previous secret": previous,
        "compressed payload": encrypted(LONG),
        "record": pack(RECORD),
        "tombstone": pack(TOMBSTONE),
        "journal": JOURNAL.pack(),
        "token": token().encode(),
    }


# Read ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "data", "is_newest"),
    [
        ("payload", DATA, True),
        ("payload of a login", LOGIN, True),
        ("payload of the previous secret", LOGIN, False),
        ("compressed payload", LONG, True),
    ],
)
def test_a_payload_opens(name: str, data: dict[Any, Any], is_newest: bool) -> None:
    codec, payload = conf.codec(), stored(name)
    found = codec.deserialize(codec.decrypt(ID, payload))
    assert found == data
    assert [type(value) for value in found.values()] == [type(value) for value in data.values()]
    assert list(found) == list(data)
    assert codec.is_newest(payload) is is_newest


def test_a_record_is_unpacked() -> None:
    assert unpack(ID, stored("record")) == RECORD
    assert unpack(ID, stored("tombstone")) == TOMBSTONE


def test_a_journal_is_unpacked() -> None:
    journal = Journal.unpack(stored("journal"))
    assert journal == JOURNAL
    assert journal.changes_since(2, b"\x01" * 8) == (Change(3, b"change"),)


def test_a_token_opens() -> None:
    text = stored("token").decode()
    record = CookieStorage().read(text)
    assert record is not None
    codec = conf.unencrypted_codec()
    assert codec.deserialize(codec.decrypt(ID, record.payload)) == LOGIN
    plain = msgspec.structs.replace(record, payload=RECORD.payload, handle=None)
    assert plain == TOKEN_RECORD
    assert CookieStorage().mark(record) == base64.urlsafe_b64decode(text[1:] + "=" * 3)[-8:]


def test_states_have_their_numbers() -> None:
    """They stand in records and in the column ``state``."""
    assert {state.name: int(state) for state in State} == {
        "LIVE": 0,
        "SUPERSEDED": 1,
        "ENDED": 2,
        "ROTATED": 3,
    }


# Written ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [name for name in VECTORS if name != "compressed payload"])
def test_what_is_written_is_the_same(name: str) -> None:
    """Workers of the version before have to read it, as long as both run. (Another zlib may
    compress to other bytes.)"""
    assert written()[name] == stored(name)


def test_the_length_of_a_compressed_payload() -> None:
    assert abs(len(written()["compressed payload"]) - len(stored("compressed payload"))) < 20


def test_ids_and_derived_keys() -> None:
    """Sessions are found by them, so another digest would find none."""
    assert session_id(KEY) == "d5fad12217c88dd2f0c321d8200662e4559fe682"
    assert derived_key("secret") == "drmvrxpdktdrzodl3k4ofbjieuarqh7e"
    ring = KeyRing([SECRET, PREVIOUS_SECRET])
    assert ring.digest("str cart").hex() == "ac022a540661ef1e"
    assert [*ring.successors(KEY, MOMENT)] == [
        "lilnpkzlkd7ksxqt7xebksnx4bwn73tq",
        "vhpdpbp46bkeeaetex46x2672pd5styt",
    ]


def test_times_stand_where_scripts_look_for_them() -> None:
    packed = pack(RECORD)
    assert packed[:2] == b"\x01\x00"
    assert packed[2:10] == (3).to_bytes(8, "big")
    assert packed[10:18] == MOMENT.to_bytes(8, "big")
    assert packed[18:34] == pack_times(MOMENT + 1, MOMENT + 2)
    assert pack_times(MOMENT + 1, MOMENT + 2) == (
        (MOMENT + 1).to_bytes(8, "big") + (MOMENT + 2).to_bytes(8, "big")
    )


def test_parts_of_a_cookie() -> None:
    value = "." + "x" * 9000
    parts = split("sessionid", value)
    assert [len(name) + len(part) for name, part in parts.items()] == [4096, 4096, 842]
    assert parts["sessionid"].startswith("3..xxx")
    assert list(parts) == ["sessionid", "sessionid-1", "sessionid-2"]
    assert join("sessionid", parts) == value


# The recipe ---------------------------------------------------------------------------------------


def decrypted(secret: str, bound_to: str, payload: bytes) -> bytes:
    """Return what a payload holds, by what the documentation says of it and with none of the
    package."""
    head, nonce, rest = payload[:6], payload[6:18], payload[18:]
    key = HKDF(SHA256(), 32, salt=None, info=b"django_sessionstores payload").derive(
        secret.encode()
    )
    assert head[2:] == hashlib.blake2b(key, digest_size=4, person=b"key id").digest()
    subkey = hashlib.blake2b(bound_to.encode(), key=key, digest_size=32).digest()
    assert len(subkey) == 32  # AES-256.
    return AESGCM(subkey).decrypt(nonce, rest, head + bound_to.encode())


@pytest.mark.parametrize(
    ("name", "secret"),
    [("payload of a login", SECRET), ("payload of the previous secret", PREVIOUS_SECRET)],
)
def test_a_payload_opens_by_the_recipe(name: str, secret: str) -> None:
    """A key of 256 bits, a nonce of 96 and a tag of 128, bound to the session: a change of one of
    them could pass every test that encrypts and decrypts with the same code."""
    payload = stored(name)
    data = decrypted(secret, ID, payload)
    assert len(payload) == 6 + 12 + len(data) + 16
    assert hashlib.sha256(b"hash").digest() in data


def test_a_token_opens_by_the_recipe() -> None:
    token = base64.urlsafe_b64decode(stored("token")[1:] + b"=" * 3)
    assert token[:20].hex() == ID
    data = decrypted(SECRET, f"session cookie sessionid {ID}", token[20:])
    version, created, active, lifetime, user_id, _ = msgspec.msgpack.decode(data)
    assert (version, created, active, lifetime, user_id) == (3, MOMENT, 1, 1, "7")


def test_no_nonce_is_used_twice() -> None:
    """Each nonce has its full length."""
    codec = conf.codec()
    nonces = {codec.encrypt(ID, codec.serialize(LOGIN))[6:18] for _ in range(1000)}
    assert len(nonces) == 1000
    assert len({nonce[-1] for nonce in nonces}) > 100


if __name__ == "__main__":
    import os

    import django

    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "tests.settings")
    django.setup()
    with override_settings(SECRET_KEY=SECRET, SECRET_KEY_FALLBACKS=[PREVIOUS_SECRET]):
        for each, value in written().items():
            lines = textwrap.wrap(base64.b64encode(value).decode(), 88)
            print(f'    "{each}": """', *(f"        {line}" for line in lines), sep="\n")
            print('    """,')
