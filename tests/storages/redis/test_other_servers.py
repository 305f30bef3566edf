"""Another server at the address of Redis, which speaks its protocol and gives other answers."""

import re
import socket
from collections.abc import Iterator
from contextlib import suppress
from threading import Thread
from typing import Any, Final

import pytest
from asgiref.sync import async_to_sync
from django.test import override_settings

from django_sessionstores.core.records import State, make_tombstone
from django_sessionstores.exceptions import StorageUnavailable, UnreadablePayload
from django_sessionstores.storages import loops
from django_sessionstores.storages.redis import storage as redis
from django_sessionstores.testing import now, successor
from tests.services import HOST
from tests.storages.records import HOUR, ID, make_record

OTHER_ID: Final = "b" * 40

ANSWERS: Final = {
    "OK": b"+OK\r\n",
    "number": b":7\r\n",
    "nothing": b"$-1\r\n",
    "empty list": b"*0\r\n",
    "list": b"*3\r\n:1\r\n:2\r\n:3\r\n",
    "text": b"$5\r\nhello\r\n",
    "float": b",1.5\r\n",
}
GREETING: Final = b"%1\r\n$5\r\nproto\r\n:3\r\n"
"""The part of the answer to HELLO that a client looks at."""
_COMMAND: Final = re.compile(rb"\*\d+\r\n\$\d+\r\n(\w+)\r\n")


class Server(Thread):
    """Gives one answer to each command, and a proper one to HELLO if it ``greets``."""

    def __init__(self, answer: bytes, *, greets: bool) -> None:
        super().__init__(daemon=True)
        self._answer, self._greets = answer, greets
        self._listener = socket.create_server((HOST, 0))
        self.port = self._listener.getsockname()[1]
        self.start()

    def run(self) -> None:
        with suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with suppress(OSError), connection:
            while said := connection.recv(65536):
                for name in _COMMAND.findall(said):
                    is_greeting = self._greets and name in {b"HELLO", b"CLIENT"}
                    own = GREETING if name == b"HELLO" else b"+OK\r\n"
                    connection.sendall(own if is_greeting else self._answer)

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()


@pytest.fixture(params=ANSWERS)
def answer(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=[True, False], ids=["greets", "greets in its own way"])
def storage(request: pytest.FixtureRequest, answer: str) -> Iterator[redis.RedisStorage]:
    server = Server(ANSWERS[answer], greets=request.param)
    entry = {
        "BACKEND": "django.core.cache.backends.redis.RedisCache",
        "LOCATION": f"redis://user:hunter2@{HOST}:{server.port}",
        "OPTIONS": {"socket_timeout": 1, "socket_connect_timeout": 1, "protocol": 3},
    }
    with override_settings(CACHES={"default": entry}):
        storage = redis.from_cache("default")
        yield storage
        storage.close()
    server.close()


@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
def test_its_answers_are_an_outage_and_nothing_counts_as_stored(
    storage: redis.RedisStorage, answer: str, is_async: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loops, "LOOP_TRIAL", 0)
    moment, base, other = now(), make_record(), make_record(OTHER_ID)
    tombstone = make_tombstone(ID, State.ROTATED, now=moment, seconds=60, successor=OTHER_ID)

    def call(name: str, *args: Any) -> Any:
        if is_async:
            return async_to_sync(getattr(storage, f"a{name}"))(*args)
        return getattr(storage, name)(*args)

    for name, args in {
        "create": (base, moment),
        "touch": (base, moment + HOUR, moment, moment),
        "delete": (ID,),
        "end_many": ([ID, OTHER_ID],),
    }.items():
        with pytest.raises(StorageUnavailable) as caught:
            call(name, *args)
        assert "hunter2" not in str(caught.value)
    # A text may be a damaged record, and nothing may be no record.
    refusals = (StorageUnavailable, UnreadablePayload)
    for name, args in {
        "read": (ID,),
        "update": (successor(base), base, moment),
        "rotate": (other, base, tombstone, moment),
    }.items():
        if answer == "nothing":
            continue
        with pytest.raises(refusals if answer in {"OK", "text"} else StorageUnavailable):
            call(name, *args)
