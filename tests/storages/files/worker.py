"""Processes that write sessions in a folder, for the tests of the file engine.

``python -m tests.storages.files.worker kill <folder> <times>`` prints a report as JSON;
``... count <folder> <rounds>`` adds to a counter; ``... churn <folder> <rounds>`` begins and ends
sessions in one shard.
"""

import json
import os
import random
import signal
import sys
import time
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from uuid import uuid4

import msgspec
from django.conf import settings

from django_sessionstores.core.records import Record
from django_sessionstores.storages.base import Conflict, Taken, Updated
from django_sessionstores.storages.files.storage import FileStorage

COUNTER = "c0" * 20
SHARED = "3f" * 20
FAR = 2**42


def is_of_index(path: str) -> bool:
    """Return whether a path in the folder is what stays of the index without sessions."""
    return path in {"users", "users/.complete", "users/.entry"} or path.startswith("users/.sites")


def add(storage: FileStorage, rounds: int) -> None:
    """Add one to the version of the counter, so many times, against all others who do."""
    for _ in range(rounds):
        base = storage.read(COUNTER)
        while True:
            assert base is not None
            successor = Record(id=COUNTER, version=base.version + 1, expires=FAR)
            outcome = storage.update(successor, base, now=0)
            if isinstance(outcome, Updated):
                break
            assert isinstance(outcome, Conflict)
            base = outcome.current


def churn(storage: FileStorage, rounds: int) -> None:
    """Begin, save and end sessions in one shard: one of its own, and one that all others want.

    Nobody else changes a session between its creation and its end.
    """
    own = SHARED[:2] + uuid4().hex + "000000"
    for number in range(rounds):
        for session_id in (own, SHARED):
            payload = b"%d of %d" % (number, os.getpid())
            first = Record(id=session_id, payload=payload, expires=FAR)
            outcome = storage.create(first, now=0)
            if isinstance(outcome, Taken):
                assert session_id == SHARED
                continue
            second = msgspec.structs.replace(first, version=2)
            assert storage.update(second, first, now=0) == Updated(second), "lost"
            storage.touch(second, FAR + 1, 1, now=0)  # Unless another worker holds the lock.
            assert storage.read(second.id) is not None, "lost"
            third = msgspec.structs.replace(second, version=3, last_activity=1, expires=FAR + 1)
            assert storage.update(third, second, now=0) == Updated(third), "lost"
            assert storage.read(session_id) == third, "lost"
            storage.delete(session_id)
            assert session_id == SHARED or storage.read(session_id) is None, "came back"
        time.sleep(random.uniform(0, 0.004))  # So that the shard is empty at times.


def _content(number: int) -> dict[str, Any]:
    # Random, so that it does not compress: a write that takes a while is more often interrupted.
    body = random.randbytes(random.choice((100, 60_000, 200_000)))
    return {"number": number, "body": body, "sum": zlib.crc32(body)}


def _is_whole(session: Any, at_least: int) -> bool:
    body = session.get("body", b"")
    return session.get("number", -1) >= at_least and session["sum"] == zlib.crc32(body)


def _save_forever(keys: Sequence[str], answered: int) -> None:
    """Save the sessions in turn; say the number of each save when it was answered as done."""
    from django_sessionstores.backends.file import SessionStore

    sessions = [SessionStore(key) for key in keys]
    number = max(session["number"] for session in sessions)
    while True:
        number += 1
        session = sessions[number % len(sessions)]
        session.update(_content(number))
        session.save()
        os.write(answered, b"%d %d\n" % (number % len(sessions), number))
        if random.random() < 0.1:
            SessionStore().create()


def kill(times: int) -> dict[str, Any]:
    """Fork a saving process, kill it, look at the sessions; so many times."""
    from django_sessionstores.backends.file import SessionStore, session_folder
    from django_sessionstores.testing import at

    keys = []
    for number in range(4):
        session = SessionStore()
        session.update(_content(number))
        session.save()
        keys.append(session.session_key)
    report: dict[str, Any] = {"torn": 0, "saves": 0, "interrupted": 0}
    saved = [0] * len(keys)
    for _ in range(times):
        answers, answered = os.pipe()
        child = os.fork()
        if not child:
            try:
                random.seed()
                _save_forever(keys, answered)
            finally:
                os._exit(1)
        os.close(answered)
        said = os.read(answers, 1)  # It has saved once.
        time.sleep(random.uniform(0, 0.01))
        os.kill(child, signal.SIGKILL)
        assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
        with os.fdopen(answers, "rb") as rest:
            said += rest.read()
        for line in said.splitlines():
            index, number = map(int, line.split())
            saved[index] = number
            report["saves"] += 1
        report["torn"] += not all(
            _is_whole(SessionStore(key), number) for key, number in zip(keys, saved, strict=True)
        )
        report["interrupted"] += any(session_folder().glob("*/.new"))
    # What a last killed writer left must go without another write in its shard.
    for shard in session_folder().glob("[0-9a-f][0-9a-f]"):
        (shard / ".new").write_bytes(b"half a record")
    SessionStore.clear_expired()
    report["litter"] = sorted(map(str, _litter(session_folder())))
    report["all"] = all(_is_whole(SessionStore(key), 0) for key in keys)
    with at(FAR):
        SessionStore.clear_expired()
    left = {path.relative_to(session_folder()).as_posix() for path in session_folder().rglob("*")}
    report["left"] = sorted(each for each in left if not is_of_index(each))
    return report


def _litter(folder: Path) -> Iterator[Path]:
    """Yield what is neither a session nor the lock or the folder of one."""
    for shard in folder.glob("[0-9a-f][0-9a-f]"):
        names = {path.name for path in shard.iterdir()}
        sessions = {name for name in names if not name.startswith(".")}
        if not sessions:
            yield shard
        yield from (shard / name for name in names - sessions - {".lock"})


CHANGING = {"count": add, "churn": churn}

if __name__ == "__main__":
    what, folder, count = sys.argv[1:]
    if what in CHANGING:
        CHANGING[what](FileStorage(Path(folder)), int(count))
    else:
        import django

        settings.configure(
            SECRET_KEY="tests only",
            SESSION_FILE_PATH=folder,
            SESSION_ENGINE="django_sessionstores.backends.file",
        )
        django.setup()
        json.dump(kill(int(count)), sys.stdout)
