"""Processes that write sessions in a folder, for the tests of the file engine.

``python -m tests.storages.file_worker kill <folder> <times>`` prints a report as JSON;
``... count <folder> <rounds>`` adds to a counter.
"""

import json
import os
import random
import signal
import sys
import time
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from django.conf import settings

from django_sessionstores.records import Record
from django_sessionstores.storages.base import Conflict, Updated
from django_sessionstores.storages.file import FileStorage

COUNTER = "c0" * 20
FAR = 2**42


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
    for shard in session_folder().iterdir():
        (shard / ".new").write_bytes(b"half a record")
    SessionStore.clear_expired()
    hidden = {path.name for path in session_folder().glob("*/.*")}
    report["left"] = sorted(hidden - {".lock"})
    report["all"] = all(_is_whole(SessionStore(key), 0) for key in keys)
    return report


if __name__ == "__main__":
    what, folder, count = sys.argv[1:]
    if what == "count":
        add(FileStorage(Path(folder)), int(count))
    else:
        import django

        settings.configure(
            SECRET_KEY="tests only",
            SESSION_FILE_PATH=folder,
            SESSION_ENGINE="django_sessionstores.backends.file",
        )
        django.setup()
        json.dump(kill(int(count)), sys.stdout)
