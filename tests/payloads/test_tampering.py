"""At rest nothing is readable, and what was altered there is neither believed nor executed."""

import os
import pickle
import time
import zlib
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from asgiref.sync import async_to_sync
from django.conf import settings
from django.test import Client, override_settings

from django_sessionstores.conf import codec
from django_sessionstores.core.records import HEAD_SIZE, Record, draw_key, pack, session_id, unpack
from django_sessionstores.exceptions import SessionConflict, SessionEnded, UnreadablePayload
from django_sessionstores.inventory import Inventory
from django_sessionstores.storages.layered import LayeredStorage
from django_sessionstores.testing import suspicious_messages
from tests.dumps import Place, dump, places, spoil

WORDS = {"color": "ultramarine", "owner": "Rumpelstiltskin", "note": "straw into gold " * 200}
COOKIE = "sessionid"

# What the browser keeps is altered in tests/test_cookie.py.
pytestmark = pytest.mark.payload_stored

# In a payload: format, flags, key id, nonce, first byte of the text; and the tag at its end.
PAYLOAD_FIELDS = (0, 1, 2, 5, 6, 17, 18, -16, -1)


def stored(engine: Any, **data: Any) -> str:
    session = engine.SessionStore()
    session.update(data or WORDS)
    session.save()
    return str(session.session_key)


def request(key: str, path: str = "/read/") -> tuple[Any, list[str]]:
    """Return the response of Django, whole, to a request with this cookie; and what was logged."""
    browser = Client()
    browser.cookies[COOKIE] = key
    with suspicious_messages() as messages:
        return browser.get(path), messages


def payload_size(engine: Any, key: str) -> int:
    return len(engine.storage.read(session_id(key)).payload)


class Trap:
    """Leaves a trace where its pickle is loaded."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.trace),)


@pytest.fixture
def trap(tmp_path: Path) -> Iterator[bytes]:
    """Yield a pickle that must not be loaded; the test fails where it was."""
    trace = tmp_path / "executed"
    pickled = pickle.dumps(Trap(trace))
    pickle.loads(pickled)  # It works.
    trace.rmdir()
    yield pickled
    assert not trace.exists()


# At rest ---------------------------------------------------------------------------------------


def test_a_dump_holds_neither_key_nor_words(engine: Any) -> None:
    """Somebody who reads a backup must not be able to log in, or learn what is in the sessions."""
    key = stored(engine)
    everything = dump(engine).lower()
    assert engine.storage.read(session_id(key)).payload.lower() in everything  # It is a dump.
    assert key.encode() not in everything
    assert key.encode().hex().encode() not in everything
    for name, text in WORDS.items():
        assert name.encode() not in everything
        assert text[:12].lower().encode() not in everything


def test_what_was_saved_before_is_not_readable_either(engine: Any) -> None:
    """A save, a login and a logout leave no words behind."""
    session = engine.SessionStore(stored(engine))
    session["color"] = "vermilion"
    session.save()
    session.cycle_key()
    session.save()
    session.flush()
    everything = dump(engine)
    assert b"vermilion" not in everything
    assert b"ultramarine" not in everything


def test_equal_sessions_do_not_look_equal(engine: Any) -> None:
    """Otherwise a dump would tell which sessions have the same data."""
    first, second = stored(engine), stored(engine)
    payloads = {engine.storage.read(session_id(key)).payload for key in (first, second)}
    assert len(payloads) == 2


# Altered: every byte, in the codec --------------------------------------------------------------


@pytest.mark.parametrize("data", [{}, {"x": 1}, WORDS], ids=["empty", "small", "compressed"])
class TestPayload:
    ID = session_id(draw_key())

    def encrypted(self, data: dict[str, Any]) -> bytes:
        return codec().encrypt(self.ID, codec().serialize(data))

    def test_whole(self, data: dict[str, Any]) -> None:
        """The others below fail for what they did to it, not because nothing opens."""
        assert codec().deserialize(codec().decrypt(self.ID, self.encrypted(data))) == data

    def test_flipped_at_every_bit(self, data: dict[str, Any]) -> None:
        """Each change is detected, because the header is authenticated, too."""
        payload = self.encrypted(data)
        for position in range(len(payload)):
            for bit in range(8):
                altered = bytearray(payload)
                altered[position] ^= 1 << bit
                with pytest.raises(UnreadablePayload):
                    codec().decrypt(self.ID, bytes(altered))

    def test_cut_at_every_length(self, data: dict[str, Any]) -> None:
        """A torn write, or a column that is too short."""
        payload = self.encrypted(data)
        for length in range(len(payload)):
            with pytest.raises(UnreadablePayload):
                codec().decrypt(self.ID, payload[:length])

    def test_with_something_behind_it(self, data: dict[str, Any]) -> None:
        """A payload with more bytes at its end is refused."""
        with pytest.raises(UnreadablePayload):
            codec().decrypt(self.ID, self.encrypted(data) + b"\0")

    def test_of_another_session(self, data: dict[str, Any]) -> None:
        """Somebody who can write to the store must not be able to take over another session."""
        with pytest.raises(UnreadablePayload, match="another session"):
            codec().decrypt(session_id(draw_key()), self.encrypted(data))


def test_a_record_altered_at_every_byte_is_read_or_refused() -> None:
    """Any other error would be a 500 for as long as the cookie lives."""
    packed = pack(Record(id="a" * 40, payload=b"p" * 50, user_id="1", ip="::1", user_agent="B"))
    cut = [packed[:length] for length in range(len(packed))]
    flipped = [
        packed[:position] + bytes([value]) + packed[position + 1 :]
        for position in range(len(packed))
        for value in range(0, 256, 5)
    ]
    for data in cut + flipped:
        with suppress(UnreadablePayload):
            unpack("a" * 40, data)


# Altered: in the stores -------------------------------------------------------------------------


def assert_reads_as_empty(engine: Any, key: str, what: object) -> None:
    """Empty, logged once with a reason, no error and no cookie deleted; or, where there is a
    second store behind a cache, as it is there."""
    response, messages = request(key)
    assert response.status_code == 200, what
    assert COOKIE not in response.cookies, what
    if response.json() == {}:
        assert len(messages) == 1, what
        assert session_id(key) in messages[0]
        assert key not in messages[0]
    else:
        assert isinstance(engine.storage, LayeredStorage), what
        assert response.json() == WORDS, what
        assert messages == [], what


def each_place(engine: Any, key: str) -> Iterator[tuple[Place, bytes]]:
    """Yield each store of the session with what it holds, in turn the one that is asked first."""
    for place in places(engine, session_id(key)):
        original = place.read()
        yield place, original
        place.write(original)
        if engine.name == "cached_db":
            engine.empty_cache()


def test_payload_flipped_in_each_field(engine: Any) -> None:
    """Through the whole of Django, in each store of the case."""
    key = stored(engine)
    size = payload_size(engine, key)
    for place, original in each_place(engine, key):
        for field in PAYLOAD_FIELDS:
            position = (len(original) - size if field >= 0 else len(original)) + field
            altered = bytearray(original)
            altered[position] ^= 0x40
            place.write(bytes(altered))
            assert_reads_as_empty(engine, key, (place.name, field))


def test_payload_cut(engine: Any) -> None:
    """The payload is cut in the middle of each field, and to nothing."""
    key = stored(engine)
    size = payload_size(engine, key)
    for place, original in each_place(engine, key):
        for rest in (0, 1, 4, 10, 20, size - 1):
            place.write(original[: len(original) - size + rest])
            assert_reads_as_empty(engine, key, (place.name, rest))


def test_payload_moved_from_another_session(engine: Any) -> None:
    """Whole and encrypted by us, but for another session."""
    key, other = stored(engine), stored(engine, user="admin")
    theirs = places(engine, session_id(other))
    for number, (place, _) in enumerate(each_place(engine, key)):
        place.write(theirs[number].read())
        assert_reads_as_empty(engine, key, place.name)


def test_payload_replaced_by_a_pickle(engine: Any, trap: bytes) -> None:
    """It is not executed, whatever stands in SESSION_SERIALIZER's default."""
    key = stored(engine)
    size = payload_size(engine, key)
    for place, original in each_place(engine, key):
        for data in (trap, original[: len(original) - size] + trap):
            place.write(data)
            assert_reads_as_empty(engine, key, place.name)


@pytest.mark.usefixtures("middleware")
@pytest.mark.engines("file-cache")
def test_no_pickle_in_the_folder_of_a_cache_of_files_is_loaded(
    engine: Any, trap: bytes, tmp_path: Path
) -> None:
    """Django's cache executes what anybody has put there who can write. Sessions do not, neither
    where the cache would look for them nor where they are."""
    # An entry of the cache begins with another pickle, of its expiry.
    for container in (trap, pickle.dumps(time.time() + 3600) + zlib.compress(trap)):
        key = stored(engine)
        name = f"django_sessionstores:{session_id(key)}"
        engine.cache.set(name, WORDS)
        Path(engine.cache._key_to_file(name)).write_bytes(container)
        with suppress(Exception):
            engine.cache.get(name)
        (tmp_path / "executed").rmdir()  # It works.
        response, messages = request(key)
        assert (response.json(), messages) == (WORDS, [])
        places(engine, session_id(key))[0].write(container)
        assert_reads_as_empty(engine, key, container)
        assert request(key, "/write/x/1/")[0].status_code == 200
        assert request(key, "/logout/")[0].status_code == 200
        engine.SessionStore.clear_expired()


def test_record_header_flipped(engine: Any) -> None:
    """The fields beside the payload are not encrypted. An altered one never causes an error or
    shows other data."""
    key = stored(engine)
    size = payload_size(engine, key)
    for place, original in each_place(engine, key):
        for position in range(len(original) - size):
            for bit in (0x01, 0x80):
                altered = bytearray(original)
                altered[position] ^= bit
                place.write(bytes(altered))
                with suspicious_messages():
                    assert engine.SessionStore(key).load() in ({}, WORDS), (place.name, position)


def test_the_header_has_a_fixed_size() -> None:
    """The flips above reach it: it stands before the payload."""
    assert len(pack(Record(id="a" * 40))) > HEAD_SIZE


def damage(engine: Any, key: str) -> None:
    """Alter the stored payload in all stores of the case."""
    for place in places(engine, session_id(key)):
        whole = place.read()
        place.write(whole[:-1] + bytes([whole[-1] ^ 1]))


@pytest.mark.usefixtures("middleware")
@pytest.mark.usefixtures("middleware")
def test_a_damaged_session_is_not_overwritten(engine: Any) -> None:
    """Another worker may be able to read it. The visitor goes on in a new session."""
    key = stored(engine)
    damage(engine, key)
    before = [place.read() for place in places(engine, session_id(key))]
    assert before
    response, messages = request(key, "/write/x/1/")
    new_key = response.cookies[COOKIE].value
    assert new_key != key
    assert len(messages) == 1
    assert engine.SessionStore(new_key).load() == {"x": "1"}
    assert [place.read() for place in places(engine, session_id(key))] == before


def test_flush_removes_a_damaged_session(engine: Any) -> None:
    """A logout removes the session, whether or not it is readable."""
    key = stored(engine)
    damage(engine, key)
    payload = places(engine, session_id(key))[0].read()[-64:]
    response, _ = request(key, "/logout/")
    assert response.status_code == 200
    assert payload not in dump(engine)
    with suspicious_messages() as messages:
        assert engine.SessionStore(key).load() == {}
    assert messages == []


@pytest.mark.parametrize("previous", [(), ("django.contrib.sessions.backends.db",)])
@pytest.mark.parametrize("way", ["logout", "flush", "delete", "key", "id", "async"])
def test_what_is_no_record_ends_without_an_error(
    engine: Any, way: str, previous: tuple[str, ...]
) -> None:
    """Garbage, or what a newer release has stored: a logout must not fail until it has expired."""
    options = {**getattr(settings, "SESSIONSTORES", {}), "MIGRATE_FROM": previous}
    with override_settings(SESSIONSTORES=options):
        key = stored(engine)
        spoil(engine, session_id(key))
        session = engine.SessionStore(key)
        with suspicious_messages():
            if way == "logout":
                assert request(key, "/logout/")[0].status_code == 200
            elif way == "key":
                engine.SessionStore().delete(key)
            elif way == "id":
                Inventory().end(session_id(key))
            elif way == "async":
                async_to_sync(session.aflush)()
            else:
                assert session.get("color") is None
                getattr(session, way)()
        with suspicious_messages() as messages:
            assert engine.SessionStore(key).load() == {}
        assert messages == []
        assert b"\xff" * 60 not in dump(engine)


@pytest.mark.engines("db", "cache:redis-cache", "cache:database-cache")
def test_a_tombstone_is_no_garbage(engine: Any) -> None:
    """The removal of unreadable records must not remove a tombstone, which keeps the session
    ended."""
    key = stored(engine)
    session = engine.SessionStore(key)
    session.cycle_key()
    session.save()
    before = places(engine, session_id(key))[0].read()
    assert not engine.storage.delete(session_id(key))
    assert places(engine, session_id(key))[0].read() == before


def test_a_conflict_with_a_damaged_session_is_refused(engine: Any) -> None:
    """Saved by another request and damaged since: there is nothing to merge with, so nothing is
    overwritten, and the request that saves is told."""
    key = stored(engine)
    late, other = engine.SessionStore(key), engine.SessionStore(key)
    late["x"] = 1
    other["y"] = 2
    other.save()
    damage(engine, key)
    before = places(engine, session_id(key))[-1].read()
    with pytest.raises((SessionConflict, SessionEnded)):
        late.save()
    assert places(engine, session_id(key))[-1].read() == before


@pytest.mark.engines("memory")
def test_another_secret_key_reads_nothing(engine: Any) -> None:
    """The reason says which of the possible causes it is."""
    key = stored(engine)
    payload = engine.storage.read(session_id(key)).payload
    with (
        override_settings(SECRET_KEY="another"),
        pytest.raises(UnreadablePayload, match="unknown key"),
    ):
        codec().decrypt(session_id(key), payload)
