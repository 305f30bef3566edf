"""Two requests at once: no lost update and no session that comes back, on every engine.

Deterministically, request A is stopped before and after each call to a storage, the ones that the
storage makes of itself and of what it is made of included, while request B runs to its end. And
by force, with many threads and processes on one session.
"""

import json
import operator
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from django_sessionstores.core.clock import now
from django_sessionstores.exceptions import SessionConflict, SessionEnded
from django_sessionstores.inventory import Inventory
from django_sessionstores.testing import Twin, at, inner_storages, observed
from tests import ROOT
from tests.sessions.race_worker import SHARED_KEYS, WRITERS, write_in_threads

# Of the others' keys each is as good as the next, see `CookieStorage`.
pytestmark = pytest.mark.authoritative

MOST_STOPS = 60
PROCESSES = 4

ADA = {"_auth_user_id": "1", "_auth_user_backend": "b", "_auth_user_hash": "a"}
BOB = {"_auth_user_id": "2", "_auth_user_backend": "b", "_auth_user_hash": "b"}


@dataclass
class Request:
    """One request: what its view does, and what came of it."""

    session: Any
    view: Callable[[Any], object]
    saved: bool = False
    refused: Exception | None = None

    def run(self) -> None:
        try:
            self.view(self.session)
            if self.session.modified:
                self.session.save()
            self.saved = True
        except (SessionEnded, SessionConflict) as refused:
            self.refused = refused

    @property
    def key(self) -> str | None:
        """Return what the browser holds after it."""
        return self.session.session_key


@dataclass
class Race:
    """A and B on one stored session, A stopped once."""

    engine: Any
    awaited: bool
    start: dict[str, Any]
    cold: bool = False
    started: int | None = None
    """When the session was stored; now if not given."""
    key: str = field(init=False)

    def __post_init__(self) -> None:
        first = self.session(None)
        first.update(self.start)
        with at(self.started or now()):
            first.save()
        self.key = first.session_key
        if self.cold:
            self.engine.empty_cache()

    def session(self, key: str | None) -> Any:
        return Twin(self.engine.SessionStore(key), self.awaited)

    def data(self, key: str | None) -> dict[str, Any]:
        return dict(self.session(key).items())

    def run(
        self, view_a: Callable[[Any], object], view_b: Callable[[Any], object], stop: int
    ) -> tuple[Request, Request, str | None]:
        """Run A, with B at the stop of A with this number; return that stop, or None if A had
        fewer."""
        a, b = (Request(self.session(self.key), view) for view in (view_a, view_b))
        stops, where = 0, None

        def reached(place: str) -> None:
            nonlocal stops, where
            if where is None:
                if stops == stop:
                    where = place
                    b.run()
                stops += 1

        storage = self.engine.storage
        with observed(
            *(storage, *inner_storages(storage)),
            before=lambda name: reached(f"before {name}"),
            after=lambda name: reached(f"after {name}"),
        ):
            a.run()
        return a, b, where


def at_each_stop(
    engine: Any,
    awaited: bool,
    view_a: Callable[[Any], object],
    view_b: Callable[[Any], object],
    start: dict[str, Any],
    cold: bool = False,
    started: int | None = None,
) -> Iterator[tuple[Race, Request, Request, str]]:
    """Yield the outcome of the race for each stop that A has; at least two, or it tested
    nothing."""
    for stop in range(MOST_STOPS):
        race = Race(engine, awaited, start, cold, started)
        a, b, where = race.run(view_a, view_b, stop)
        if where is None:
            assert stop >= 2
            return
        yield race, a, b, where
    raise AssertionError(f"more than {MOST_STOPS} stops")


def setting(**data: Any) -> Callable[[Any], object]:
    """Return a view that reads the session and sets keys in it."""
    return lambda session: (session.get("x"), session.update(data))


def log_in(**user: Any) -> Callable[[Any], object]:
    """As ``django.contrib.auth.login`` over an anonymous session, or one of the same user."""
    return lambda session: (session.get("x"), session.cycle_key(), session.update(user))


def log_out(session: Any) -> None:
    session.flush()


def nest(key: str) -> Callable[[Any], object]:
    """Return a view that changes a dict in the session in place."""
    return lambda session: session.get(key).update(n=1)


both_ways = pytest.mark.parametrize("awaited", [False, True], ids=["sync", "async"])


# Nothing is lost -----------------------------------------------------------------------------


@both_ways
@pytest.mark.parametrize(
    ("view_a", "view_b", "expected"),
    [
        pytest.param(setting(a=1), setting(b=2), {"old": 0, "p": {}, "q": {}, "a": 1, "b": 2},
                     id="different-keys"),
        pytest.param(nest("p"), nest("q"), {"old": 0, "p": {"n": 1}, "q": {"n": 1}},
                     id="nested"),
        pytest.param(lambda s: s.pop("old", None), setting(b=2), {"p": {}, "q": {}, "b": 2},
                     id="delete-a-key/save"),
        pytest.param(setting(b=2), lambda s: s.pop("old", None), {"p": {}, "q": {}, "b": 2},
                     id="save/delete-a-key"),
        pytest.param(lambda s: s.clear(), setting(b=2), None, id="clear/save"),
    ],
)  # fmt: skip
def test_two_saves(
    engine: Any, awaited: bool, view_a: Any, view_b: Any, expected: dict[str, Any] | None
) -> None:
    """Both are answered as saved, and all that both did is there."""
    start = {"old": 0, "p": {}, "q": {}}
    for race, a, b, where in at_each_stop(engine, awaited, view_a, view_b, start):
        assert a.saved, where
        assert b.saved, where
        data = race.data(race.key)
        if expected is None:  # What was there at the start is cleared, at least.
            assert data.keys() <= {"b"}, where
        else:
            assert data == expected, where


@both_ways
def test_two_saves_of_one_key(engine: Any, awaited: bool) -> None:
    """One of the two values, whole; and the keys beside it stay."""
    views = setting(x="A"), setting(x="B")
    for race, a, b, where in at_each_stop(engine, awaited, *views, {"old": 0}):
        assert a.saved, where
        assert b.saved, where
        assert race.data(race.key) in ({"old": 0, "x": "A"}, {"old": 0, "x": "B"}), where


@both_ways
def test_save_during_login(engine: Any, awaited: bool) -> None:
    """A save that succeeded is in the session of the browser that has logged in."""
    for race, login, save, where in at_each_stop(
        engine, awaited, log_in(**ADA), setting(b=2), {"old": 0}
    ):
        assert login.saved, where
        expected = {"old": 0, **ADA, **({"b": 2} if save.saved else {})}
        # A save after the rotation comes too late: it finds the session under no key of its own.
        assert save.saved or save.refused, where
        assert race.data(login.key) == expected, where
        assert race.data(race.key) == {}, where


@both_ways
def test_login_during_save(engine: Any, awaited: bool) -> None:
    """The old key stays superseded, and what was saved before moved along."""
    for race, save, login, where in at_each_stop(
        engine, awaited, setting(a=1), log_in(**ADA), {"old": 0}
    ):
        assert login.saved, where
        assert race.data(login.key) == {"old": 0, **ADA, **({"a": 1} if save.saved else {})}, where
        assert race.data(race.key) == {}, where


def assert_logged_in(race: Race, *logins: tuple[Request, dict[str, Any]], where: str) -> None:
    """Assert that each login has the session of its own user.

    A login that began after the other one had ended found the session rotated and began with an
    empty one, so only the first login must have the data of the session."""
    found = [race.data(login.key) for login, _ in logins]
    for data, (_, user) in zip(found, logins, strict=True):
        assert data in ({"old": 0, **user}, user), where
    assert any("old" in data for data in found), where


@both_ways
def test_double_login(engine: Any, awaited: bool) -> None:
    """A form sent twice: whichever answer the browser gets last, it is logged in. The old key is
    not. Two that overlap go on in one session, so the keys may be the same."""
    for race, a, b, where in at_each_stop(
        engine, awaited, log_in(**ADA), log_in(**ADA), {"old": 0}
    ):
        assert a.saved, where
        assert b.saved, where
        assert_logged_in(race, (a, ADA), (b, ADA), where=where)
        assert race.data(race.key) == {}, where


# Nothing comes back ----------------------------------------------------------------------------


@both_ways
@pytest.mark.parametrize("start", [{"old": 0}, {"old": 0, **ADA}], ids=["anonymous", "logged-in"])
@pytest.mark.parametrize(
    "view",
    [
        pytest.param(setting(a=1), id="save"),
        pytest.param(lambda s: s.get("old"), id="read"),
        pytest.param(lambda s: s.set_expiry(1_000_000), id="touch"),
        pytest.param(lambda s: s.pop("old", None), id="delete-a-key"),
    ],
)
def test_logout_during_another_request(
    engine: Any, awaited: bool, view: Any, start: dict[str, Any]
) -> None:
    """The session never resolves again; a save that came too late says so."""
    for race, a, b, where in at_each_stop(engine, awaited, view, log_out, start):
        assert b.saved, where
        assert a.saved or a.refused, where
        assert race.data(race.key) == {}, where
        # Who came after the logout may have begun a session of its own, with nothing of the old.
        assert race.data(a.key).keys() <= {"a", "_session_expiry"}, where
        assert not race.session(None).exists(race.key), where


@both_ways
@pytest.mark.engines("cached_db")
@pytest.mark.parametrize("view", [lambda s: s.get("old"), setting(a=1)], ids=["read", "save"])
def test_logout_while_a_cold_cache_is_filled(engine: Any, awaited: bool, view: Any) -> None:
    """A reader on its way from the database to the cache must not put the session back."""
    start = {"old": 0, **ADA}
    for race, a, b, where in at_each_stop(engine, awaited, view, log_out, start, cold=True):
        assert b.saved, where
        assert race.data(race.key) == {}, where
        assert race.data(a.key).keys() <= {"a"}, where
        engine.empty_cache()
        assert race.data(race.key) == {}, where


@both_ways
def test_save_during_logout(engine: Any, awaited: bool) -> None:
    """The session never resolves again, whichever of the two was first."""
    for race, logout, save, where in at_each_stop(
        engine, awaited, log_out, setting(b=2), {"old": 0, **ADA}
    ):
        assert logout.saved, where
        assert save.saved or save.refused, where
        assert race.data(race.key) == {}, where
        # Who came after the logout may have begun a session of its own, with nothing of the old.
        assert race.data(save.key) in ({}, {"b": 2}), where


@both_ways
@pytest.mark.parametrize(
    "logout_is_first", [False, True], ids=["logout-during-rotation", "rotation-during-logout"]
)
def test_a_logout_and_a_rotation(engine: Any, awaited: bool, logout_is_first: bool) -> None:
    """The key that was logged out does not resolve, and a rotation that comes too late gives no
    other key to what was logged out."""
    rotate = operator.methodcaller("cycle_key")
    views = (log_out, rotate) if logout_is_first else (rotate, log_out)
    for race, a, b, where in at_each_stop(engine, awaited, *views, {"old": 0, **ADA}):
        logout, rotation = (a, b) if logout_is_first else (b, a)
        assert logout.saved, where
        assert race.data(race.key) == {}, where
        if not rotation.saved:
            assert race.data(rotation.key) == {}, where


@both_ways
def test_two_rotations_of_a_login(engine: Any, awaited: bool) -> None:
    """One wins, and the other's key leads nowhere: one login stays one session."""
    rotate = log_in()
    for race, a, b, where in at_each_stop(engine, awaited, rotate, rotate, {"old": 0, **ADA}):
        # Who came after the other's end may have begun a session of its own, which is empty.
        winner, loser = (a, b) if race.data(a.key) else (b, a)
        assert winner.saved, where
        assert race.data(winner.key) == {"old": 0, **ADA}, where
        assert race.data(loser.key) == {}, where
        assert race.data(race.key) == {}, where


@both_ways
def test_logins_of_two_users_do_not_mix(engine: Any, awaited: bool) -> None:
    """Both begin with one anonymous session. Each browser gets a session of its own user, with all
    keys of that login."""
    for race, a, b, where in at_each_stop(
        engine, awaited, log_in(**ADA), log_in(**BOB), {"old": 0}
    ):
        assert_logged_in(race, (a, ADA), (b, BOB), where=where)


# Ended by somebody else -------------------------------------------------------------------------


def ending_all(session: Any) -> None:
    """As an admin does who has just seen the session in a list."""
    for each in Inventory().iterate(user="1"):
        Inventory().end(each.id)


@both_ways
@pytest.mark.parametrize(
    "view",
    [setting(a=1), lambda s: s.get("old"), lambda s: s.set_expiry(1_000_000), log_in()],
    ids=["save", "read", "touch", "rotation"],
)
def test_an_end_during_another_request(engine: Any, awaited: bool, view: Any) -> None:
    """The session never resolves again, under whatever key."""
    if not engine.storage.lists:
        pytest.skip(f"{engine.id} has no list to end sessions from")
    for race, a, _, where in at_each_stop(engine, awaited, view, ending_all, {"old": 0, **ADA}):
        for key in (race.key, a.key):
            # Who came after the end may have begun a session of its own, with nothing of the old.
            assert race.data(key).keys() <= {"a", "_session_expiry"}, where


@both_ways
@pytest.mark.parametrize(
    "view",
    [setting(a=1), lambda s: s.set_expiry(1_000_000), log_in()],
    ids=["save", "touch", "rotation"],
)
def test_another_request_during_an_end(engine: Any, awaited: bool, view: Any) -> None:
    """Between looking for the session and deleting it, it may get another id."""
    if not engine.storage.lists:
        pytest.skip(f"{engine.id} has no list to end sessions from")

    def end_it(session: Any) -> None:
        (found,) = Twin(Inventory(), awaited).list(user="1").sessions
        assert Twin(Inventory(), awaited).end(found.id), "told that it was not there"

    for race, end, other, where in at_each_stop(engine, awaited, end_it, view, {"old": 0, **ADA}):
        assert end.saved, where
        for key in (race.key, other.key):
            assert race.data(key).keys() <= {"a", "_session_expiry"}, where


# By force --------------------------------------------------------------------------------------


def rounds_of(engine: Any) -> int:
    """Return how often each writer saves.

    A lock of the package that is missing somewhere is met by few saves out of many. A condition
    that is missing in what a server or a database is told is met by the first ones.
    """
    return 20 if engine.servers or engine.case.database else 50


def assert_nothing_lost(engine: Any, key: str, saved: list[list[str]]) -> None:
    if not all(storage.shared for storage in inner_storages(engine.storage)):
        engine.empty_cache()  # The copy of this process may be a lease behind.
    data = engine.SessionStore(key).load()
    everything = {name for names in saved for name in names}
    assert everything - data.keys() == set()
    # The workers repeat what was refused, so in the end all of it was saved.
    assert len(everything) == WRITERS * rounds_of(engine)
    assert data.keys() - everything == {"start", *SHARED_KEYS}
    assert data["start"] == "kept"


def new_key(engine: Any) -> str:
    session = engine.SessionStore()
    session["start"] = "kept"
    session.save()
    return str(session.session_key)


@pytest.mark.payload_stored
def test_many_threads(engine: Any) -> None:
    """There are 16 writers, every other one awaited. Of 50 saves each, Django's engines keep 50 to
    136."""
    key = new_key(engine)
    saved = write_in_threads(engine.SessionStore, key, rounds_of(engine), range(WRITERS))
    assert_nothing_lost(engine, key, saved)


@pytest.fixture(scope="module")
def workers() -> Iterator[list[subprocess.Popen[str]]]:
    """Yield several processes for all tests, because starting them costs more than a test."""
    started = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.sessions.race_worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        )
        for _ in range(PROCESSES)
    ]
    yield started
    for worker in started:
        worker.kill()
        worker.communicate()


def tell(worker: subprocess.Popen[str], line: str) -> None:
    assert worker.stdin is not None
    worker.stdin.write(line + "\n")
    worker.stdin.flush()


def hear(worker: subprocess.Popen[str]) -> str:
    assert worker.stdout is not None
    line = worker.stdout.readline()
    assert line, f"a worker ended with {worker.wait()}"
    return line


@pytest.mark.payload_stored
def test_many_processes(engine: Any, workers: list[subprocess.Popen[str]]) -> None:
    """The same with the writers in several processes, which share nothing but the store."""
    if not engine.storage.shared:
        pytest.skip("each process has sessions of its own")
    key = new_key(engine)
    places = {name: value for name, value in os.environ.items() if name.startswith("SESSIONSTORES")}
    for number, worker in enumerate(workers):
        writers = list(range(number, WRITERS, PROCESSES))
        job = {"case": engine.id, "environment": places, "key": key, "writers": writers}
        job["rounds"] = rounds_of(engine)
        tell(worker, json.dumps(job))
    assert [hear(worker) for worker in workers] == ["ready\n"] * PROCESSES
    for worker in workers:  # All are up before the first begins.
        tell(worker, "go")
    saved = [names for worker in workers for names in json.loads(hear(worker))]
    assert_nothing_lost(engine, key, saved)
