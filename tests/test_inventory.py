"""Every session can be found and ended: one suite for every engine that keeps a list."""

import copy
import datetime
import pickle
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any
from unittest import mock

import pytest
from django.db import connections, transaction
from django.test import Client, override_settings
from django.test.utils import CaptureQueriesContext

from django_sessionstores import signals
from django_sessionstores.core.clock import now
from django_sessionstores.core.records import Client as Who
from django_sessionstores.core.records import draw_key, session_id
from django_sessionstores.core.summary import Summary, summarize
from django_sessionstores.exceptions import (
    CannotList,
    PartlyEnded,
    SessionEnded,
    StorageUnavailable,
    UnreadablePayload,
)
from django_sessionstores.inventory import Inventory, SessionInfo
from django_sessionstores.inventory import ending as inventory_ending
from django_sessionstores.sessions.state import RequestPolicy
from django_sessionstores.storages import inspection
from django_sessionstores.storages.layered import LayeredStorage
from django_sessionstores.storages.redis.client import Server
from django_sessionstores.testing import DAY, HOUR, Twin, at, in_threads, observed, stores_of
from tests import cases
from tests.sessions.test_lifetimes import limits
from tests.stored_sessions import is_alive

COOKIE = "sessionid"


@pytest.fixture(params=[False, True], ids=["sync", "async"])
def inventory(request: pytest.FixtureRequest, engine: Any) -> Any:
    return Twin(Inventory(), request.param)


@pytest.fixture
def listing(inventory: Any, engine: Any) -> Any:
    """Return the inventory, of an engine that can list."""
    if not engine.storage.lists:
        pytest.skip(f"{engine.id} declares that it cannot list")
    return inventory


def stored(engine: Any, user: Any = None, **data: Any) -> Any:
    """Return a saved session."""
    session = engine.SessionStore()
    session.update({"x": 1, **data})
    if user is not None:
        session["_auth_user_id"] = str(user)
    session.save()
    return session


def pages_of(listing: Any) -> Iterator[Any]:
    """Yield each page of two sessions of the users who are logged in."""
    cursor = ""
    for _ in range(100):
        page = listing.list(cursor=cursor, limit=2, logged_in=True)
        yield page
        cursor = page.next
        if not cursor:
            return
    raise AssertionError("the pages do not end")


def ids(sessions: list[SessionInfo]) -> set[str]:
    return {session.id for session in sessions}


# Find ---------------------------------------------------------------------------------------------


def test_list_shows_what_there_is(engine: Any, listing: Any) -> None:
    """The list shows who is logged in, since when and until when, but nothing that would let a
    reader take over a session."""
    session = stored(engine, user=7)
    ((found,), cursor) = listing.list()
    assert (found.id, found.user_id, cursor) == (session.session_id, "7", "")
    assert not found.is_expired
    moment = datetime.datetime.now(datetime.UTC)
    assert abs((found.created - moment).total_seconds()) < 60
    assert abs((found.expires - moment).total_seconds() - 14 * 86_400) < 60
    assert session.session_key not in repr(found)


def test_pages_hold_each_session_once(engine: Any, listing: Any) -> None:
    """This holds with a filter that leaves out most of a page, too: the cursor continues after the
    last session."""
    wanted = {stored(engine, user=7).session_id for _ in range(5)}
    for _ in range(6):
        stored(engine)
    found = [each for page in pages_of(listing) for each in page.sessions]
    assert ids(found) == wanted
    assert len(found) == 5


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        ({}, {"ada", "bob", "visitor"}),
        ({"user": 1}, {"ada"}),
        ({"logged_in": True}, {"ada", "bob"}),
        ({"logged_in": False}, {"visitor"}),
        ({"user": 1, "logged_in": False}, set()),
        ({"ip": "192.0.2.1"}, {"visitor"}),
        ({"ip": "192.0.2.0/24"}, {"visitor"}),
        ({"ip": "198.51.100.0/24"}, set()),
        ({"where": lambda session: session.user_agent == "browser"}, {"visitor"}),
        ({"where": lambda session: session.user_agent == "browser", "user": 1}, set()),
    ],
    ids=[
        *("all", "user", "logged in", "anonymous", "user, anonymous"),
        *("ip", "network", "no network", "where", "user, where"),
    ],
)
def test_filters(engine: Any, listing: Any, filters: dict[str, Any], expected: set[str]) -> None:
    """A session must match all of the filters."""
    visitor = engine.SessionStore()
    sessions = {"ada": stored(engine, user=1), "bob": stored(engine, user=2)}
    visitor.policy = RequestPolicy(client=lambda: Who("192.0.2.1", "browser"))
    visitor["x"] = 1
    visitor.save()
    sessions["visitor"] = visitor
    found = ids(listing.list(**filters).sessions)
    assert found == {sessions[name].session_id for name in expected}


def test_few_that_match_cost_few_calls(engine: Any, listing: Any) -> None:
    """One that is missing on the page must not mean a call for each that is looked at; and the
    next page begins after the last that was shown, however many were looked at."""
    sought = set()
    for number in range(30):
        session = stored(engine, user=None if number % 6 else 7)
        if not number % 6:
            sought.add(session.session_id)
    found: list[SessionInfo] = []
    pages = pages_of(listing)
    while True:
        with observed(engine.storage) as calls:
            page = next(pages, None)
        assert len(calls) <= 3
        if page is None:
            break
        found += page.sessions
    assert ids(found) == sought
    assert len(found) == 5


def test_idle_since(engine: Any, listing: Any) -> None:
    """Sessions that nobody has used for long are the first to end."""
    with at(now() - 2 * HOUR):
        idle = stored(engine)
    stored(engine)
    an_hour_ago = datetime.datetime.now(datetime.UTC) - datetime.timedelta(hours=1)
    assert ids(listing.list(idle_since=an_hour_ago).sessions) == {idle.session_id}


@pytest.mark.engines("memory", "file", "db", "cookie:sqlite")
def test_the_moment_from_which_a_session_is_idle_or_expired(engine: Any, listing: Any) -> None:
    """It is idle since its last use, and expires at the moment that lists show."""
    stored(engine)
    (info,) = listing.list().sessions
    for early in (0, 1):
        since = info.last_activity - datetime.timedelta(milliseconds=early)
        assert len(listing.list(idle_since=since).sessions) == 1 - early
        with at(round(info.expires.timestamp() * 1000) - early):
            found = [len(listing.list(expired=each).sessions) for each in (True, False)]
            assert found == [1 - early, early]


def test_expired_sessions_are_not_listed_unless_asked_for(engine: Any, listing: Any) -> None:
    """They are as good as absent, though some stores still hold them."""
    stored(engine)
    with at(now() + 15 * DAY):
        assert listing.list().sessions == []
        assert listing.count() == 0
        for session in listing.list(expired=True).sessions:
            assert session.is_expired


@pytest.mark.engines("db", "cached_db:locmem+sqlite", "cookie:sqlite")
def test_expired_sessions_are_found_without_reading_the_live_ones(
    engine: Any, listing: Any
) -> None:
    """Where they are the last in the list, there may be a million before them."""
    with at(now() - 30 * DAY):
        gone = {stored(engine, user=user).session_id for user in (7, 7, 8)}
    for _ in range(9):
        stored(engine, user=7)
    with observed(engine.storage) as calls:
        assert ids(listing.list(expired=True, limit=5).sessions) == gone
        assert len(listing.list(expired=True, limit=5, user=7).sessions) == 2
    assert calls == ["scan", "scan"]


def test_a_logged_out_session_is_not_listed(engine: Any, listing: Any, user: Any) -> None:
    """The anonymous session that a login replaced is not listed, either."""
    browser = Client()
    browser.get("/write/x/1/")
    browser.get("/login/ada/")
    assert [each.user_id for each in listing.list().sessions] == [str(user.pk)]
    browser.get("/logout/")
    assert listing.list(expired=None).sessions == []


def test_a_page_looks_at_so_many(engine: Any, listing: Any) -> None:
    """A rare session is found in steps, each of which may find nothing; of a user, too, where
    there is no index of users."""
    wanted = stored(engine, user=7)
    for _ in range(9):
        stored(engine, user=8)
    for filters in ({"user": 7}, {"id_prefix": wanted.session_id[:30]}):
        found: list[SessionInfo] = []
        cursor = ""
        for _ in range(10):
            page = listing.list(cursor=cursor, limit=10, within=2, **filters)
            found += page.sessions
            cursor = page.next
            if not cursor:
                break
        assert ids(found) == {wanted.session_id}


def test_a_bounded_page_is_a_bounded_number_of_calls(engine: Any, listing: Any) -> None:
    """None for each session that does not match."""
    for _ in range(9):
        stored(engine)
    with observed(engine.storage) as calls:
        assert listing.list(limit=3, within=7, ip="192.0.2.99").sessions == []
    assert calls == ["scan"] * 2


def test_sizes(engine: Any, listing: Any) -> None:
    """The size is that of the stored data. It is unknown if only a registry is asked, which does
    not have the data."""
    small, large = stored(engine), stored(engine, text="".join(draw_key() for _ in range(20)))
    sizes = {each.id: each.size for each in listing.list().sessions}
    assert listing.get(large.session_id).size == sizes[large.session_id]
    if engine.case.registry:
        assert set(sizes.values()) == {None}
    else:
        assert 0 < sizes[small.session_id] < 300 < sizes[large.session_id]


def test_data(engine: Any, inventory: Any) -> None:
    """The inventory returns the data of a session by its id. With the cookie engine, only the
    browser has it."""
    session = stored(engine, user=7, cart={"apples": 3})
    if engine.storage.holds_in_key:
        with pytest.raises(UnreadablePayload, match="only in the browser"):
            inventory.data(session.session_id)
        return
    assert inventory.data(session.session_id) == {
        "x": 1,
        "cart": {"apples": 3},
        "_auth_user_id": "7",
    }
    inventory.end(session.session_id)
    assert inventory.data(session.session_id) is None
    assert inventory.data(session_id(draw_key())) is None


def test_count(engine: Any, listing: Any) -> None:
    """The count is that of all sessions, or of a user's."""
    for user in (1, 1, 2, None):
        stored(engine, user=user)
    assert (listing.count(), listing.count(user=1), listing.count(user=3)) == (4, 2, 0)


def test_get(engine: Any, inventory: Any) -> None:
    """Every engine finds a session by its id, whether or not it can list sessions."""
    session = stored(engine, user=7)
    if engine.storage.authoritative:
        assert inventory.get(session.session_id).user_id == "7"
    assert inventory.get(session_id(draw_key())) is None


# End ----------------------------------------------------------------------------------------------


@pytest.mark.authoritative
def test_an_ended_session_is_gone_for_the_next_request(engine: Any, inventory: Any) -> None:
    """Copies in a cache or in a cookie do not matter."""
    session, other = stored(engine), stored(engine)
    assert is_alive(engine, session)
    assert inventory.end(session.session_id)
    assert not is_alive(engine, session)
    assert is_alive(engine, other)
    assert inventory.get(session.session_id) is None
    assert not inventory.end(session.session_id)


@contextmanager
def noting_ends() -> Iterator[list[tuple[str, str | None]]]:
    """Yield a list of the ids and users of which ``session_ended`` tells."""
    noted: list[tuple[str, str | None]] = []

    def receiver(session_id: str, user_id: str | None, **kwargs: Any) -> None:
        noted.append((session_id, user_id))

    signals.session_ended.connect(receiver)
    try:
        yield noted
    finally:
        signals.session_ended.disconnect(receiver)


@pytest.mark.authoritative
@pytest.mark.parametrize("user", [7, None])
def test_the_end_of_an_expired_session_is_answered_truly(
    engine: Any, inventory: Any, user: int | None
) -> None:
    """It ended when it expired, though some stores still have it."""
    sessions = [stored(engine, user=user).session_id for _ in range(3)]
    with at(now() + 15 * DAY), noting_ends() as noted:
        assert not inventory.end(sessions[0])
        assert inventory.end_many(sessions[1:]) == []
        assert noted == []


def test_end_all_of_a_user_but_one(engine: Any, listing: Any) -> None:
    """Sites offer this as "Log out on all other devices"."""
    mine = [stored(engine, user=7) for _ in range(4)]
    others = [stored(engine, user=77), stored(engine)]
    assert listing.end_all(7, but=mine[0].session_id) == 3
    assert [is_alive(engine, each) for each in mine] == [True, False, False, False]
    assert listing.end_all("7") == 1
    assert not is_alive(engine, mine[0])
    assert all(is_alive(engine, each) for each in others)


def test_end_all_takes_a_user_object(engine: Any, listing: Any, user: Any) -> None:
    """Django's functions accept a user object as well."""
    browser = Client()
    browser.get("/login/ada/")
    assert listing.end_all(user) == 1
    assert browser.get("/who/").content == b""


def test_end_all_spares_a_session_whose_key_has_just_changed(engine: Any, listing: Any) -> None:
    """Django cycles the key of a request that it knows by an old ``SECRET_KEY``. What is stored
    then is the previous id, and the session would be lost with it."""
    mine, other = stored(engine, user=7), stored(engine, user=7)
    current = engine.SessionStore(mine.session_key)
    current.load()
    current.cycle_key()
    assert listing.end_all(7, but=current.stored_ids) == 1
    current.save()
    assert is_alive(engine, current)
    assert not is_alive(engine, other)


@pytest.mark.engines("memory", "file", "db:sqlite", "cookie:sqlite")
@pytest.mark.parametrize("is_earlier", [False, True], ids=["the id", "an earlier id"])
def test_end_all_spares_a_session_that_gets_another_key_meanwhile(
    engine: Any, listing: Any, is_earlier: bool
) -> None:
    """A parallel request of the same browser must not lose it. It has had other ids before, too."""
    mine, other = stored(engine, user=7), stored(engine, user=7)
    known = [mine.session_id]
    mine.cycle_key()
    mine.save()
    known.append(mine.session_id)

    def rotate(name: str) -> None:
        if name == "scan" and mine.session_id == known[1]:
            mine.cycle_key()
            mine.save()

    with observed(engine.storage, before=rotate):
        but = {known[not is_earlier], session_id("nobody's")}
        assert listing.end_all(7, but=but) == 1
    assert len({*known, mine.session_id}) == 3
    assert is_alive(engine, mine)
    assert not is_alive(engine, other)


def test_end_only_what_is_a_users(engine: Any, listing: Any) -> None:
    """Users end sessions by ids that they send, which may be anybody's."""
    mine, other, visitor = stored(engine, user=7), stored(engine, user=77), stored(engine)
    for session in (other, visitor):
        assert not listing.end(session.session_id, user=7)
        assert is_alive(engine, session)
    assert not listing.end(session_id("nobody's"), user=7)
    assert listing.end(mine.session_id, user=7)
    assert not is_alive(engine, mine)
    assert not listing.end(mine.session_id, user=7)


@pytest.mark.engines("file", "db", "cache", "cached_db")
@pytest.mark.usefixtures("in_requests")
def test_end_a_users_session_by_its_previous_id(engine: Any, listing: Any) -> None:
    """A page that was read before a rotation has it."""
    cases.skip_unless_rotating(engine)
    session = stored(engine, user=7)
    with limits(ROTATE_AFTER=60), at(now() + HOUR):
        rotated = engine.SessionStore(session.session_key)
        rotated.load()
        rotated.save()
        assert rotated.session_id != session.session_id
        assert not listing.end(session.session_id, user=77)
        assert is_alive(engine, rotated)
        assert listing.end(session.session_id, user=7)
        assert not is_alive(engine, rotated)


def test_end_everything(engine: Any, listing: Any) -> None:
    """A site may need this after a breach."""
    sessions = [stored(engine, user=user) for user in (1, 2, None)]
    assert listing.end_everything() == 3
    assert not any(is_alive(engine, each) for each in sessions)
    assert listing.list(expired=None).sessions == []


def test_more_sessions_than_a_page(engine: Any, listing: Any) -> None:
    """Ending while paging must not skip what moves up."""
    for _ in range(12):
        stored(engine, user=7)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("django_sessionstores.inventory.ending.PAGE_SIZE", 5)
        assert listing.end_all(7) == 12


def test_end_so_many(engine: Any, listing: Any) -> None:
    """A caller with limited time can end the rest later."""
    sessions = [stored(engine, user=7) for _ in range(5)]
    assert listing.end_all(7, most=2) == 2
    assert sum(is_alive(engine, each) for each in sessions) == 3
    (kept, *_) = [each for each in sessions if is_alive(engine, each)]
    assert listing.end_everything(but=kept.session_id, most=9) == 2
    assert is_alive(engine, kept)


def test_end_for_so_long(engine: Any, listing: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A request has only so long before a proxy gives up. Each gets one batch further."""
    monkeypatch.setattr(inventory_ending, "MOST_AT_ONCE", 2)
    for _ in range(5):
        stored(engine, user=7)
    totals = [listing.end_all(7, seconds=0) for _ in range(4)]
    assert totals == [2, 2, 1, 0]
    # Who has ended the last ones need not call again to learn that.
    assert [total.is_complete for total in totals] == [False, False, True, True]
    first, *_ = (stored(engine, user=7) for _ in range(4))
    totals = [listing.end_all(7, but=first.session_id, most=most) for most in (2, 1)]
    assert [(int(total), total.is_complete) for total in totals] == [(2, False), (1, True)]
    total = listing.end_everything(seconds=60)
    assert (total, total.is_complete) == (1, True)
    for copied in (copy.deepcopy(total), pickle.loads(pickle.dumps(total))):
        assert (copied, copied.is_complete) == (1, True)


def test_many_end_in_few_calls(engine: Any, listing: Any) -> None:
    """Ending one session costs a database a commit, so ending thousands took minutes."""
    for _ in range(12):
        stored(engine, user=7)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(inventory_ending, "PAGE_SIZE", 5)
        with observed(engine.storage) as calls:
            assert listing.end_all(7) == 12
    assert calls.count("end_many") == 3
    assert set(calls) == {"scan", "end_many"}
    # Three pages; and once more, because a rotation may have moved a session to a read one.
    assert calls.count("scan") <= 5


@pytest.mark.engines("db", "cached_db", "cookie:sqlite", "cache:memcached+sqlite")
def test_what_a_rollback_undoes_has_not_ended(engine: Any, inventory: Any) -> None:
    """Nobody is told of it, and the caches do not keep it."""
    sessions = [stored(engine, user=7) for _ in range(3)]
    with noting_ends() as noted:
        with suppress(ZeroDivisionError), transaction.atomic(using=engine.database):
            assert Inventory().end_all(7) == 3
            raise ZeroDivisionError
        assert noted == []
        assert all(is_alive(engine, each) for each in sessions)
        with transaction.atomic(using=engine.database):
            assert Inventory().end_all(7) == 3
            assert noted == []
            assert not any(is_alive(engine, each) for each in sessions)
        assert sorted(noted) == sorted((each.session_id, "7") for each in sessions)
        assert not any(is_alive(engine, each) for each in sessions)


@pytest.mark.authoritative
def test_a_session_that_rotates_before_its_batch_ends_is_followed(
    engine: Any, listing: Any
) -> None:
    """It was listed under the id that it had, and is told under the one that it got."""
    sessions = [stored(engine, user=7) for _ in range(3)]
    rotated: list[Any] = []

    def rotate(name: str) -> None:
        if name == "end_many" and not rotated:
            again = engine.SessionStore(sessions[1].session_key)
            rotated.append(again)
            again["y"] = 2
            again.cycle_key()
            again.save()

    with noting_ends() as noted, observed(engine.storage, before=rotate):
        assert listing.end_all(7) == 3
    (again,) = rotated
    expected = {sessions[0].session_id, again.session_id, sessions[2].session_id}
    assert again.session_id != sessions[1].session_id
    assert sorted(noted) == sorted((each, "7") for each in expected)
    assert not any(is_alive(engine, each) for each in [*sessions, again])


@pytest.mark.authoritative
def test_a_session_between_the_steps_of_a_rotation_counts_once(engine: Any) -> None:
    """It has two records then, which both end, at whichever call of a store it happens."""
    if not engine.storage.lists:
        pytest.skip(f"{engine.id} declares that it cannot list")
    for step in range(1, 12):
        session, told, calls, totals = stored(engine, user=7), list[str](), 0, list[int]()

        def receiver(session_id: str, told: Any = told, **kwargs: Any) -> None:
            told.append(session_id)

        def end(name: str, step: int = step, totals: list[int] = totals) -> None:
            nonlocal calls
            calls += 1
            if calls == step:
                totals.append(Inventory().end_all(7))

        signals.session_ended.connect(receiver)
        try:
            with observed(*stores_of(engine.storage), before=end), suppress(SessionEnded):
                again = engine.SessionStore(session.session_key)
                again["y"] = 2
                again.cycle_key()
                again.save()
            if not totals:
                break
            assert totals == [1], step
            assert len(told) == 1, step
            assert Inventory().count(user=7) == 0
        finally:
            signals.session_ended.disconnect(receiver)
        assert not is_alive(engine, session)


def test_end_many_by_their_ids(engine: Any, inventory: Any) -> None:
    """They end in one call of the storage. Sessions that have another id by now end, too, and no
    signal is sent twice."""
    if not engine.storage.authoritative:
        pytest.skip(f"{engine.id} declares that it cannot end sessions")
    sessions = [stored(engine, user=number) for number in range(4)]
    kept, gone = stored(engine), stored(engine)
    Inventory().end(gone.session_id)
    again = None
    if not engine.storage.holds_in_key:
        again = engine.SessionStore(sessions[3].session_key)
        again["y"] = 2
        again.rotate_later()
        again.save()
    ids = [each.session_id for each in (*sessions, gone, sessions[0])]
    with noting_ends() as noted, observed(engine.storage) as calls:
        ended = inventory.end_many(ids)
    assert calls[:2] == ["lookup_many", "end_many"]
    newest = [*sessions[:3], sessions[3] if again is None else again]
    expected = [(each.session_id, str(number)) for number, each in enumerate(newest)]
    assert sorted((each.id, each.user_id) for each in ended) == sorted(expected)
    assert sorted(noted) == sorted(expected)
    assert not any(is_alive(engine, each) for each in newest)
    assert is_alive(engine, kept)
    assert inventory.end_many(ids) == []
    with pytest.raises(ValueError, match="not a session id"):
        inventory.end_many([kept.session_id, "nonsense"])
    assert is_alive(engine, kept)


@pytest.mark.engines("db:sqlite", "db:postgresql", "cache:django-redis")
@pytest.mark.parametrize("number", [3, 30])
def test_many_are_found_and_ended_in_so_many_statements(
    engine: Any, inventory: Any, number: int
) -> None:
    """Ids of sessions that have ended cost no more."""
    inventory.end_many([stored(engine).session_id])  # Redis knows the script from here on.
    ids = [stored(engine, user=1).session_id for _ in range(number)]
    ids += [session_id(draw_key()) for _ in range(number)]
    with statements(engine) as asked:
        assert len(inventory.get_many(ids)) == number
    assert len(asked) == 1
    with statements(engine) as asked:
        assert len(inventory.end_many(ids)) == number
    # PostgreSQL is asked once more for those that are locked.
    assert len(asked) == (3 if engine.case.database == cases.POSTGRESQL else 2)
    with statements(engine) as asked:
        assert inventory.end_many(ids) == []
    assert len(asked) <= 3


@contextmanager
def statements(engine: Any) -> Iterator[list[str]]:
    """Yield a list that grows by what the store is asked: by statements or pipelines."""
    if engine.case.database:
        with CaptureQueriesContext(connections[engine.database]) as queries:
            yield (asked := [])
        asked += [each["sql"] for each in queries]
        return
    with ExitStack() as stack:
        asked = []
        for name in ("ask", "ask_all", "aask", "aask_all"):
            method = getattr(Server, name)

            # An async method returns what is to be awaited.
            def ask(self: Any, *args: Any, method: Any = method) -> Any:
                if asked[-1:] != [str(args)]:  # Unless an async method calls the blocking one.
                    asked.append(str(args))
                return method(self, *args)

            stack.enter_context(mock.patch.object(Server, name, ask))
        yield asked


@pytest.mark.engines("db:sqlite", "db:postgresql")
def test_selected_ones_end_in_one_statement(engine: Any, inventory: Any) -> None:
    sessions = [stored(engine) for _ in range(20)]
    ids = [each.session_id for each in sessions]
    with CaptureQueriesContext(connections[engine.database]) as captured:
        assert len(Inventory().end_many(ids)) == 20
    words = [query["sql"].split()[0] for query in captured]
    assert words == ["SELECT", "DELETE"]


@pytest.mark.authoritative
def test_an_outage_while_selected_ones_end(
    engine: Any, inventory: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The caller learns which have ended."""
    monkeypatch.setattr(inventory_ending, "MOST_AT_ONCE", 2)
    sessions = [stored(engine, user=7) for _ in range(4)]
    ids = [each.session_id for each in sessions]
    done: list[str] = []

    def broken(name: str) -> None:
        if name == "end_many":
            done.append(name)
            if len(done) > 1:
                raise StorageUnavailable("no route")

    with observed(engine.storage, before=broken), pytest.raises(PartlyEnded) as caught:
        inventory.end_many(ids)
    assert caught.value.ended == 2
    for each in (caught.value, pickle.loads(pickle.dumps(caught.value))):
        assert [info.id for info in each.sessions] == ids[:2]
    assert [is_alive(engine, each) for each in sessions] == [False, False, True, True]


def test_purge_so_many(engine: Any, listing: Any) -> None:
    """The batch that exceeds the number is finished."""
    if engine.storage.self_expiring:
        pytest.skip("nothing to purge")
    with at(now() - 30 * DAY):
        for _ in range(5):
            stored(engine)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("django_sessionstores.sessions.engine._PURGE_BATCH", 2)
        assert listing.purge(most=3) >= 3
        assert len(listing.list(expired=True).sessions) <= 2
        listing.purge()
    assert listing.list(expired=True).sessions == []


@pytest.mark.engines("memory", "file", "db:sqlite", "cookie:sqlite")
def test_an_outage_in_the_middle_tells_how_many(
    engine: Any, listing: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ "It did not work" would be half the truth."""
    monkeypatch.setattr(inventory_ending, "MOST_AT_ONCE", 2)
    sessions = [stored(engine, user=7) for _ in range(4)]
    done: list[str] = []

    def broken(name: str) -> None:
        if name == "end_many":
            done.append(name)
            if len(done) > 1:
                raise StorageUnavailable("no route")

    with observed(engine.storage, before=broken), pytest.raises(PartlyEnded) as caught:
        listing.end_all(7)
    assert caught.value.ended == 2
    assert "no route" in str(caught.value)
    assert sum(is_alive(engine, each) for each in sessions) == 2


@pytest.mark.engines("memory")
def test_an_outage_in_the_middle_of_a_purge_tells_how_many(
    engine: Any, listing: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = iter([1000, 7])

    def purge(now: int, batch: int) -> int:
        for answer in answers:
            return answer
        raise StorageUnavailable("no route")

    monkeypatch.setattr(engine.storage, "purge", purge)
    with pytest.raises(PartlyEnded, match="no route") as caught:
        listing.purge()
    assert caught.value.ended == 1007
    with pytest.raises(StorageUnavailable):
        listing.purge()


@pytest.mark.engines("memory", "file", "db", "cached_db", "cookie:sqlite")
def test_ending_holds_against_saves_and_logins_meanwhile(engine: Any) -> None:
    """A request that cycles the key while the user's sessions are ended: its new id ends too, or
    it is refused."""
    sessions = [stored(engine, user=7) for _ in range(4)]
    kept: list[Any] = []

    def request(session: Any) -> Callable[[], None]:
        def cycle() -> None:
            again = engine.SessionStore(session.session_key)
            for _ in range(5 if again.get("_auth_user_id") else 0):
                again["y"] = 2
                again.cycle_key()
                try:
                    again.save()
                except (SessionEnded, StorageUnavailable):
                    return
            kept.append(again)

        return cycle

    ending = Inventory()
    in_threads([*map(request, sessions), lambda: ending.end_all(7)])
    # What a login has made after the end was over is a session of its own.
    ending.end_all(7)
    assert ending.count(user=7) == 0
    assert not any(is_alive(engine, session) for session in [*sessions, *kept])


@pytest.mark.authoritative
def test_a_save_does_not_survive_the_end(engine: Any, inventory: Any) -> None:
    """The save begins before the session ends, and finishes after that."""
    session = stored(engine)
    late = engine.SessionStore(session.session_key)
    late["x"] = 2
    inventory.end(session.session_id)
    with pytest.raises(SessionEnded):
        late.save()
    assert not is_alive(engine, session)


# What it says -------------------------------------------------------------------------------------


def test_an_engine_that_cannot_list_says_so(engine: Any, inventory: Any) -> None:
    """An empty list would mean that nobody is logged in."""
    if engine.storage.lists:
        pytest.skip(f"{engine.id} lists")
    stored(engine, user=7)
    for call in (inventory.list, inventory.count, inventory.end_everything):
        with pytest.raises(CannotList, match=r"\['REGISTRY'\], for example to 'db'"):
            call()
    with pytest.raises(CannotList):
        inventory.end_all(7)


def test_an_outage_is_no_empty_list(engine: Any, listing: Any) -> None:
    """A caller that ends the sessions of a user must know if that failed."""

    def broken(name: str) -> None:
        raise StorageUnavailable(f"{name} is broken")

    storage = (
        engine.storage.authority if isinstance(engine.storage, LayeredStorage) else engine.storage
    )
    stored(engine, user=7)
    with observed(storage, before=broken), pytest.raises(StorageUnavailable):
        listing.end_all(7)


@pytest.mark.engines("memory")
def test_bad_input(engine: Any, inventory: Any) -> None:
    """It ends no session, and the error says what is wrong."""
    session = stored(engine, user=7)
    with pytest.raises(ValueError, match="limit"):
        inventory.list(limit=0)
    with pytest.raises(ValueError, match="within"):
        inventory.list(within=0)
    with pytest.raises(TypeError, match="colour"):
        inventory.list(colour="blue")
    assert is_alive(engine, session)


@pytest.mark.engines("db:sqlite")
def test_a_cursor_that_no_page_gave(engine: Any, inventory: Any) -> None:
    """Anybody can type a cursor into an address bar."""
    stored(engine)
    with pytest.raises(ValueError, match="cursor"):
        inventory.list(cursor="nonsense")


@pytest.mark.engines("memory")
def test_engines_of_others_are_refused(engine: Any) -> None:
    """Their sessions have keys, but no ids."""
    with (
        override_settings(SESSION_ENGINE="django.contrib.sessions.backends.db"),
        pytest.raises(CannotList, match="not an engine of django_sessionstores"),
    ):
        Inventory()


def test_an_index_can_be_made_anew(engine: Any, listing: Any) -> None:
    """The new index has each session exactly once."""
    sessions = [stored(engine, 7), stored(engine, 7), stored(engine)]
    assert listing.reindex() in {None, len(sessions)}

    assert ids(listing.list().sessions) == {each.session_id for each in sessions}
    assert listing.count(user=7) == 2


# Summaries ----------------------------------------------------------------------------------------


def test_a_summary_counts_every_session(engine: Any, listing: Any) -> None:
    """A database counts by queries, and other stores count one by one, with the same result."""
    moment = now()
    for hours, user, agent in [
        (0, None, "a"),
        (0, 1, "a"),
        (4.7 / 60, None, "a"),
        (5.2 / 60, None, "a"),
        (1, 1, "b"),
        (2, 2, ""),
        (30, 2, "a"),
        (200, None, "c"),
    ]:
        with at(moment - int(hours * HOUR) - 1234):
            session = engine.SessionStore()
            session.policy = RequestPolicy(client=lambda agent=agent: Who("", agent))
            session["x"] = 1
            if user is not None:
                session["_auth_user_id"] = str(user)
            session.set_expiry(20 * 3600)
            session.save()
    with at(moment):
        found = Inventory().summarize(100)
        records = engine.storage.scan("", 100, None).records
        if engine.storage.self_expiring and not found.expired:  # By another clock.
            records = [each for each in records if each.is_live(moment)]
    assert found == summarize(records, moment, is_whole=True)
    assert (found.live, found.logged_in) == (6, 3)
    assert found.expired == 2 or engine.storage.self_expiring
    assert found.active == (3, 4, 6, 6)
    assert found.user_agents == {"a": 4, "b": 1, "": 1}
    assert sum(found.created.values()) == found.live
    assert sum(found.expires.values()) == found.live + found.expired
    assert all((moment - each) % HOUR == HOUR - 1 for each in (*found.created, *found.expires))


@pytest.mark.engines("memory", "file", "cache:django-redis", "cache:locmem", "cookie:django-redis")
def test_a_sample_is_random(engine: Any, listing: Any) -> None:
    """Each session has its turn, so that none is left out for its place in the order."""
    for user in range(7):
        stored(engine, user=user, x=user)
    seen = set[str]()
    for _ in range(300):
        with mock.patch.object(inspection, "summarize", seen_in(seen)):
            found = Inventory().summarize(3)
        assert not found.is_whole
        assert found.live == 3
        if len(seen) == 7:
            break
    assert len(seen) == 7
    assert Inventory().summarize(7).is_whole


def seen_in(seen: set[str]) -> Callable[..., Summary]:
    """Return `summarize`, which adds to a set the users that it counts."""

    def see(records: Any, moment: int, **options: Any) -> Summary:
        seen.update(str(each.user_id) for each in records)
        return summarize(records, moment, **options)

    return see
