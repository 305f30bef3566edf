"""A purge beside everything else: no live session is purged, however it is disturbed.

What each storage does between two steps of its own has its tests in `tests.storages`.
"""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from django_sessionstores.core.clock import now
from django_sessionstores.core.records import Record, draw_key, session_id
from django_sessionstores.exceptions import StorageUnavailable
from django_sessionstores.storages.base import Updated
from django_sessionstores.testing import in_threads
from tests import ROOT

# Of the others' keys each is as good as the next, and no store has them.
pytestmark = [pytest.mark.authoritative, pytest.mark.payload_stored]

HOUR = 3_600_000
TOUCHED = 40
LOGINS = 40
EARLY = (200, 50, 10, 3, 1, -2)
"""Milliseconds before its end in which a session is touched."""


def stored(engine: Any, expires: int, user_id: str | None = "7") -> Record:
    moment = now()
    record = Record(
        id=session_id(draw_key()),
        payload=b"encrypted",
        user_id=user_id,
        created=moment,
        last_activity=moment,
        expires=expires,
    )
    outcome = patiently(partial(engine.storage.create, record, moment))
    assert isinstance(outcome, Updated)
    return outcome.record


def patiently(call: Callable[[], Any]) -> Any:
    """As the visitor would, who tries again: SQLite has one writer."""
    for _ in range(100):
        try:
            return call()
        except StorageUnavailable:
            time.sleep(0.01)
    return call()


def purge_all(engine: Any) -> int:
    """Return how many a purge removes until it says that there is nothing left."""
    total = 0
    while removed := patiently(lambda: engine.storage.purge(now(), 10)):
        total += removed
    return total


def live_ids(engine: Any, records: list[Record]) -> set[str]:
    found = [engine.storage.read(record.id) for record in records]
    return {each.id for each in found if each is not None and each.is_live(now())}


def assert_listed(engine: Any, expected: set[str]) -> None:
    if not engine.storage.lists:
        return
    found, cursor = set(), ""
    while True:
        page = engine.storage.scan(cursor, 7, None)
        found |= {record.id for record in page.records if record.is_live(now())}
        cursor = page.next
        if not cursor:
            break
    assert found == expected
    assert engine.storage.count(now(), None) == len(expected)


def test_two_purges_beside_touches_and_logins(engine: Any) -> None:
    """Each session is touched in the moment in which it expires. Either the touch says that it
    came too late, or the session lives on; and the logins of that time are all there."""
    started = now()
    lost = [stored(engine, now() + 300, "8") for _ in range(TOUCHED)]
    # So much later that they are all stored by then.
    ready = now() + 200 + 2 * (now() - started)
    soon = [stored(engine, ready + 15 * n) for n in range(TOUCHED)]
    done = threading.Event()

    def purge() -> None:
        while not done.is_set():
            purge_all(engine)

    def touch() -> list[Record]:
        kept = []
        for number, record in enumerate(soon):
            while now() < record.expires - EARLY[number % len(EARLY)]:
                time.sleep(0.0005)
            moment = now()
            touch = partial(engine.storage.touch, record, moment + HOUR, moment, moment)
            if patiently(touch):
                kept.append(record)
        return kept

    def log_in() -> list[Record]:
        return [stored(engine, now() + HOUR, "9") for _ in range(LOGINS)]

    def disturb() -> list[Record]:
        try:
            return touch()
        finally:
            done.set()

    _, _, kept, logged_in = in_threads([purge, purge, disturb, log_in])

    purge_all(engine)
    assert live_ids(engine, kept) == {record.id for record in kept}
    assert live_ids(engine, logged_in) == {record.id for record in logged_in}
    late = {record.id for record in soon} - {record.id for record in kept}
    assert live_ids(engine, soon) & late == set()
    assert live_ids(engine, lost) == set()
    assert kept  # Or there was no race.
    assert_listed(engine, {record.id for record in [*kept, *logged_in]})


def test_a_purge_that_is_killed_is_finished_by_the_next(engine: Any) -> None:
    """The process is killed by ``kill -9``, between two batches or within one."""
    if not engine.storage.shared:
        pytest.skip("no other process can purge it")
    alive = [stored(engine, now() + HOUR) for _ in range(20)]
    expired = [stored(engine, now() + 50) for _ in range(200)]
    while now() <= expired[-1].expires:
        time.sleep(0.01)
    places = {name: value for name, value in os.environ.items() if name.startswith("SESSIONSTORES")}
    killed = subprocess.Popen(
        [sys.executable, "-m", "tests.storages.purge_worker", engine.id],
        stdout=subprocess.PIPE,
        cwd=ROOT,
        env={**os.environ, **places},
    )
    assert killed.stdout is not None
    killed.stdout.readline()  # The first batch is done.
    killed.send_signal(signal.SIGKILL)
    killed.communicate()

    purge_all(engine)
    assert purge_all(engine) == 0
    assert live_ids(engine, alive) == {record.id for record in alive}
    assert live_ids(engine, expired) == set()
    assert_listed(engine, {record.id for record in alive})
