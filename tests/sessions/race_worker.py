"""Writers on one session, in the tests' own process and, as a program, in others.

``python -m tests.sessions.race_worker`` takes jobs from its input, one JSON object a line:
``case``, ``environment`` (which has the ports of the servers, see `tests.services.shared_service`),
``key``, ``writers`` and ``rounds``. It prints ``ready`` when it can begin, waits for a line, and
prints as JSON what was answered as saved.
"""

import json
import os
import sys
from collections.abc import Iterable
from functools import partial
from typing import Any

from django_sessionstores.exceptions import SessionConflict, StorageUnavailable
from django_sessionstores.testing import Twin, in_threads
from tests.cases import attach

WRITERS = 16
SHARED_KEYS = ("shared-0", "shared-1", "shared-2")
MOST_TRIES = 100


def write_rounds(engine: Any, key: str, rounds: int, writer: int) -> list[str]:
    """Save one key for each round, each in its own request; return the keys that were saved.

    What the engine refuses, for a conflict or because the store is busy, is tried again, as the
    visitor would.
    """
    saved = []
    for number in range(rounds):
        name = f"{writer}-{number}"
        for _ in range(MOST_TRIES):
            session = Twin(engine(key), awaited=bool(writer % 2))
            session.set(name, number)
            session.set(SHARED_KEYS[number % len(SHARED_KEYS)], writer)
            try:
                session.save()
            except (SessionConflict, StorageUnavailable):
                continue
            saved.append(name)
            break
    return saved


def write_in_threads(engine: Any, key: str, rounds: int, writers: Iterable[int]) -> list[list[str]]:
    """`write_rounds` of each writer, all at the same time."""
    return in_threads([partial(write_rounds, engine, key, rounds, writer) for writer in writers])


def main() -> None:
    for line in sys.stdin:
        job = json.loads(line)
        os.environ.update(job["environment"])
        with attach(job["case"]) as engine:
            print("ready", flush=True)
            sys.stdin.readline()
            saved = write_in_threads(engine.SessionStore, job["key"], job["rounds"], job["writers"])
        print(json.dumps(saved), flush=True)


if __name__ == "__main__":
    main()
