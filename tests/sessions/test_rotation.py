"""A key that has grown old is replaced. Only a thief of the old key notices."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from django.contrib.auth import HASH_SESSION_KEY, SESSION_KEY
from django.test import Client, override_settings

from django_sessionstores.conf import codec
from django_sessionstores.core.clock import now
from django_sessionstores.core.flow import Flow, run
from django_sessionstores.core.records import SecretDict, State
from django_sessionstores.exceptions import SessionEnded
from django_sessionstores.inventory import Inventory
from django_sessionstores.payloads.merge import AUTHENTICATED_AT
from django_sessionstores.sessions import conflicts, rotation, verification
from django_sessionstores.sessions.state import RequestPolicy
from django_sessionstores.testing import HOUR, Twin, at, in_threads
from tests.cases import skip_unless_rotating
from tests.migration.previous_backends import DJANGO, migrating
from tests.sessions.test_lifetimes import limits
from tests.sessions.test_races import ADA, at_each_stop, both_ways, log_out, setting

COOKIE = "sessionid"
MINUTE = 60_000
ROTATION = {"ROTATE_AFTER": 3600, "ROTATION_GRACE": 120, "TOMBSTONE_AGE": 60}


@pytest.fixture(autouse=True)
def _rotating(engine: Any, in_requests: None) -> Iterator[None]:
    skip_unless_rotating(engine)
    with limits(**ROTATION):
        yield


@pytest.fixture(params=["sync", "async"])
def visit(request: pytest.FixtureRequest, user: Any, middleware: str) -> Callable[..., Any]:
    """Make a request of a browser's, with sync or async views, and return the text of the answer.

    Without a path it is the name of the user that the site sees.
    """
    prefix = "/async" if request.param == "async" else ""

    def get(browser: Client, path: str = "/who/") -> str:
        response = browser.get(prefix + path)
        assert response.status_code == 200
        return response.content.decode()

    return get


def carrying(key: str) -> Client:
    browser = Client()
    browser.cookies[COOKIE] = key
    return browser


def key_of(browser: Client) -> str:
    return browser.cookies[COOKIE].value


def log_in(visit: Any, moment: int) -> tuple[Client, str]:
    """Return a browser in which ada logged in at ``moment`` (ms), and the key that it got."""
    browser = Client()
    with at(moment):
        visit(browser, "/login/ada/")
    return browser, key_of(browser)


def stored(engine: Any, moment: int) -> Any:
    """Return a session of ada's that was stored at ``moment`` (ms)."""
    with at(moment):
        session = engine.SessionStore()
        session.update(ADA)
        session.save()
    return session


def save(engine: Any, key: str) -> Any:
    """Return a session opened by its key, after a save of ``x``."""
    session = engine.SessionStore(key)
    session["x"] = 1
    session.save()
    return session


def test_an_old_key_is_replaced(visit: Any) -> None:
    """The response to a request that only reads has the new key. A recent key stays."""
    moment = now()
    browser, old = log_in(visit, moment)
    with at(moment + 59 * MINUTE):
        assert visit(browser) == "ada"
        assert key_of(browser) == old
    with at(moment + 61 * MINUTE):
        assert visit(browser) == "ada"
        assert key_of(browser) != old
        rotated = key_of(browser)
        assert visit(browser) == "ada"
        assert key_of(browser) == rotated
    with at(moment + 122 * MINUTE):
        assert visit(browser) == "ada"
        assert key_of(browser) not in {old, rotated}


@pytest.mark.parametrize("in_async", [False, True], ids=["sync", "async"])
def test_an_old_key_exists_for_a_grace_and_no_longer(engine: Any, in_async: bool) -> None:
    """As long as it leads to the session."""
    moment, session = now(), Twin(engine.SessionStore(), in_async)
    old = stored(engine, moment).session_key
    with at(moment + HOUR):
        new = save(engine, old).session_key
        assert (session.exists(old), session.exists(new)) == (True, True)
    with at(moment + HOUR + 3 * MINUTE):
        assert (session.exists(old), session.exists(new)) == (False, True)


def test_a_save_without_changes_that_comes_after_a_rotation(engine: Any) -> None:
    """Of a server whose clock is behind, for which the key is not old yet. It gets the new one."""
    moment = now()
    key = stored(engine, moment).session_key
    late = engine.SessionStore(key)
    late.load()
    with at(moment + HOUR):
        rotated = save(engine, key)
    assert rotated.session_key != key
    with at(moment + HOUR - 1000):
        late.modified = True
        late.save()
    assert late.session_key == rotated.session_key
    assert late["x"] == 1


@pytest.mark.parametrize("policy", [None, RequestPolicy()], ids=["Django's", "the package's"])
@pytest.mark.parametrize("seconds", [0, 100], ids=["at once", "when the expiry has to move"])
def test_a_save_without_changes_under_an_old_key_makes_a_cookie_due_once(
    engine: Any, policy: RequestPolicy | None, seconds: int
) -> None:
    """The cookie has the new key, and is sent only if the store confirms it."""
    moment = now()
    key = stored(engine, moment).session_key
    with at(moment + HOUR):
        rotated = save(engine, key)
    with at(moment + HOUR + seconds * 1000):
        late = engine.SessionStore(key)
        late.policy = policy
        late.load()
        late.save()
        assert late.session_key == rotated.session_key
        assert (late.cookie_is_due, late.is_proved, late.modified) == (True, True, True)
        late.cookie_is_due = False
        late.save()
        assert not late.cookie_is_due


@pytest.mark.parametrize("way", ["flush", "cycle_key"])
def test_a_save_with_the_old_key_of_a_session_that_has_ended_under_the_new(
    engine: Any, way: str
) -> None:
    """The old key leads no further, and the save says so."""
    moment = now()
    key = stored(engine, moment).session_key
    late = engine.SessionStore(key)
    late.load()
    with at(moment + HOUR):
        getattr(save(engine, key), way)()
        late["x"] = 2
        with pytest.raises(SessionEnded):
            late.save()


def test_the_old_key_goes_on_for_a_grace_and_no_longer(visit: Any) -> None:
    """Requests under way need the old key, and so does a browser that the response did not reach:
    it gets the new key again. After that, the old key is of no use."""
    moment = now()
    browser, old = log_in(visit, moment)
    with at(moment):
        visit(browser, "/write/cart/full/")
    with at(moment + HOUR):
        visit(browser)
    with at(moment + HOUR + 119_999):
        late = carrying(old)
        assert visit(late) == "ada"
        assert key_of(late) == key_of(browser)
        assert '"cart": "full"' in visit(carrying(old), "/read/")
    with at(moment + HOUR + 120_000):
        # Anonymous, but its cookie stays: the browser may hold the new one already.
        late = carrying(old)
        assert visit(late) == ""
        assert key_of(late) == old
    with at(moment + HOUR + 181_000):
        assert visit(carrying(old)) == ""
        assert visit(browser) == "ada"


@pytest.mark.parametrize("entries", [[], [f"{DJANGO}.db"]], ids=["alone", "migrating"])
def test_a_replaced_key_is_known_for_a_while(visit: Any, entries: list[str]) -> None:
    """After the grace as after ``cycle_key()``: its request is anonymous and keeps the cookie,
    until nobody knows the key. Its tombstone lasts longer while sessions are migrated."""
    moment = now()
    with migrating(*entries):
        browser, old = log_in(visit, moment)
        with at(moment + HOUR):
            visit(browser)
        for seconds, who, key in [
            (119, "ada", key_of(browser)),
            (121, "", old),
            (179, "", old),
            (181, "", ""),
        ]:
            with at(moment + HOUR + seconds * 1000):
                late = carrying(old)
                assert (visit(late), key_of(late)) == (who, key)


@pytest.mark.parametrize("entries", [[], [f"{DJANGO}.db"]], ids=["alone", "migrating"])
def test_a_superseded_key_is_known_for_a_while(engine: Any, visit: Any, entries: list[str]) -> None:
    """This holds if sessions end sooner than tombstones, too."""
    moment = now()
    with migrating(*entries, IDLE_TIMEOUT=30):
        with at(moment):
            session = engine.SessionStore()
            session["x"] = 1
            session.save()
            old = session.session_key
            session.cycle_key()
            session.save()
        for seconds, key in [(29, old), (59, old), (61, "")]:
            with at(moment + seconds * 1000):
                late = carrying(old)
                assert (visit(late), key_of(late)) == ("", key)


def test_a_write_with_the_old_key_counts(visit: Any) -> None:
    """The response brings the new key."""
    moment = now()
    browser, old = log_in(visit, moment)
    late = carrying(old)
    with at(moment + HOUR):
        visit(browser, "/write/a/1/")
        visit(late, "/write/b/2/")
        assert key_of(late) == key_of(browser)
        assert '"a": "1"' in visit(browser, "/read/")
        assert '"b": "2"' in visit(browser, "/read/")


def test_a_login_ends_the_grace(visit: Any) -> None:
    """The old key must not survive a change of privilege, because anyone who stole it would be
    logged in."""
    moment = now()
    browser, old = log_in(visit, moment)
    with at(moment + HOUR):
        visit(browser)
        rotated = key_of(browser)
        visit(browser, "/relogin/")
        assert visit(browser) == "ada"
        assert visit(carrying(old)) == ""
        assert visit(carrying(rotated)) == ""


def test_a_key_cycled_by_hand_ends_the_grace(engine: Any) -> None:
    """A change of password ends it, too."""
    moment = now()
    old = stored(engine, moment).session_key
    with at(moment + HOUR):
        rotated = save(engine, old)
        session = engine.SessionStore(rotated.session_key)
        session.cycle_key()
        session.save()

        assert dict(engine.SessionStore(old).items()) == {}
        assert engine.SessionStore(session.session_key)["x"] == 1


def test_a_key_cycled_by_hand_is_new(engine: Any) -> None:
    """It does not grow old before its time."""
    moment = now()
    session = stored(engine, moment)
    with at(moment + HOUR):
        session.rotate_later()
        session.save()
    with at(moment + HOUR + MINUTE):
        assert save(engine, session.session_key).session_key == session.session_key


def test_a_password_is_changed_beside_a_new_key_that_has_been_rotated(
    engine: Any, visit: Any, user: Any
) -> None:
    """The request with the first key follows both, because it has set the password."""
    browser = Client()
    visit(browser, "/login/ada/")
    session = engine.SessionStore(key_of(browser))
    session.load()
    moment = now()
    other = engine.SessionStore(key_of(browser))
    other.cycle_key()
    with at(moment + HOUR):
        other["x"] = 1
        other.save()
    session.cycle_key()
    user.set_password("another")
    user.save()
    session[HASH_SESSION_KEY] = user.get_session_auth_hash()
    session.save()
    assert visit(carrying(session.session_key)) == "ada"
    assert engine.SessionStore(session.session_key)["x"] == 1


@pytest.mark.parametrize("with_old_key", [False, True])
def test_a_logout_ends_it_under_both_keys(visit: Any, with_old_key: bool) -> None:
    moment = now()
    browser, old = log_in(visit, moment)
    with at(moment + HOUR):
        visit(browser)
        rotated = key_of(browser)
        visit(carrying(old) if with_old_key else browser, "/logout/")

        assert visit(carrying(old)) == ""
        assert visit(carrying(rotated)) == ""


def test_an_end_ends_it_under_both_keys(engine: Any, visit: Any, user: Any) -> None:
    """There is one session to be listed, and nothing of it is left."""
    moment = now()
    browser, old = log_in(visit, moment)
    with at(moment + HOUR):
        visit(browser)
        (found,) = Inventory().list(user=user).sessions
        assert Inventory().end(found.id)

        assert visit(carrying(old)) == ""
        assert visit(browser) == ""


@pytest.mark.parametrize("way", ["flush", "delete", "key", "id"])
def test_an_old_key_ends_what_it_leads_to(engine: Any, way: str) -> None:
    """This holds even if a view has put another user into the session since, without a new key."""
    moment = now()
    first = stored(engine, moment)
    old = first.session_key
    with at(moment + HOUR):
        session = engine.SessionStore(save(engine, old).session_key)
        session["_auth_user_id"] = "2"
        session.save()
        assert engine.SessionStore(old)["_auth_user_id"] == "2"
        if way == "key":
            engine.SessionStore().delete(old)
        elif way == "id":
            assert Inventory().end(first.session_id)
        else:
            getattr(engine.SessionStore(old), way)()

        assert dict(engine.SessionStore(session.session_key).items()) == {}
        assert dict(engine.SessionStore(old).items()) == {}


@pytest.mark.parametrize(
    ("change", "later", "by_id", "by_key"),
    [
        ("age", 119, True, True),
        ("age", 121, True, False),
        ("age", 179, True, False),
        ("cycle_key", 59, True, False),
        ("login", 1, False, False),
    ],
)
@pytest.mark.parametrize("way", ["id", "delete", "flush"])
def test_how_long_a_noted_key_or_id_ends_the_session(
    engine: Any, way: str, change: str, later: int, by_id: bool, by_key: bool
) -> None:
    """The page on the inventory has these times, for code that notes one of them at the login."""
    moment = now()
    noted = stored(engine, moment)
    with at(moment + HOUR):
        session = engine.SessionStore(noted.session_key)
        session["x"] = 1
        if change != "age":
            session.cycle_key()
        if change == "login":
            session[AUTHENTICATED_AT] = moment + HOUR
        session.save()
        assert session.session_id != noted.session_id
    with at(moment + HOUR + later * 1000):
        if way == "id":
            assert Inventory().end(noted.session_id) is by_id
        elif way == "delete":
            engine.SessionStore().delete(noted.session_key)
        else:
            engine.SessionStore(noted.session_key).flush()
        is_over = by_id if way == "id" else by_key
        assert bool(dict(engine.SessionStore(session.session_key).items())) is not is_over


def test_anonymous_sessions_keep_their_key(visit: Any) -> None:
    """The login brings another key."""
    browser, moment = Client(), now()
    with at(moment):
        visit(browser, "/write/cart/full/")
        old = key_of(browser)
    with at(moment + 2 * HOUR):
        assert "full" in visit(browser, "/read/")
        assert key_of(browser) == old


def test_what_the_session_was_stays(engine: Any, user: Any) -> None:
    """A rotation is not a login, so the absolute end does not move."""
    moment = now()
    session = stored(engine, moment)
    before = Inventory().get(session.session_id)
    with at(moment + HOUR):
        rotated = save(engine, session.session_key)
    after = Inventory().get(rotated.session_id)
    assert before is not None
    assert after is not None
    assert after.id != before.id
    assert (after.created, after.user_id) == (before.created, before.user_id)


def test_a_new_secret_key_in_the_grace(engine: Any) -> None:
    """The way from the old key to the new one is made with the secret of that time."""
    moment = now()
    with override_settings(SECRET_KEY="s" * 50):
        session = stored(engine, moment)
    with at(moment + HOUR):
        with override_settings(SECRET_KEY="s" * 50):
            rotated = save(engine, session.session_key)
        with override_settings(SECRET_KEY="t" * 50, SECRET_KEY_FALLBACKS=["s" * 50]):
            late = engine.SessionStore(session.session_key)
            assert late["x"] == 1
            assert late.session_key == rotated.session_key


def test_the_store_holds_no_way_to_the_new_key(engine: Any) -> None:
    """A reader of the store learns neither key, and the old key is of no use without the secret."""
    moment = now()
    session = stored(engine, moment)
    with at(moment + HOUR):
        rotated = save(engine, session.session_key)
        tombstone = engine.storage.read(session.session_id)
        assert tombstone.state is State.ROTATED
        assert rotated.session_key.encode() not in bytes(tombstone.payload)
        with override_settings(SECRET_KEY="another" * 8):
            assert dict(engine.SessionStore(session.session_key).items()) == {}


# Races --------------------------------------------------------------------------------------------


def _old(session: Any) -> None:
    """Read the session, as a request an hour after the login does."""
    session.get("old")


@both_ways
@pytest.mark.parametrize("view_a", [_old, setting(a=1)], ids=["read", "save"])
@pytest.mark.parametrize("view_b", [_old, setting(b=2)], ids=["read", "save"])
def test_two_requests_with_an_old_key(engine: Any, awaited: bool, view_a: Any, view_b: Any) -> None:
    """A page asks for ten things at once: one key comes of it, and no change is lost."""
    moment = now()
    for race, a, b, where in at_each_stop(
        engine, awaited, view_a, view_b, {"old": 0, **ADA}, started=moment - HOUR
    ):
        assert a.saved, where
        assert b.saved, where
        data = race.data(race.key)
        data.pop("_session_rotated", None)
        expected = {"old": 0, **ADA}
        if view_a is not _old:
            expected["a"] = 1
        if view_b is not _old:
            expected["b"] = 2
        assert data == expected, where
        keys = {a.key, b.key} - {race.key}
        assert len(keys) == 1, where
        assert Inventory().end_all("1") == 1, where


def _read_and_log_out(session: Any) -> None:
    session.get("old")
    log_out(session)


@both_ways
@pytest.mark.parametrize("view", [_old, setting(a=1)], ids=["read", "save"])
@pytest.mark.parametrize(
    "logout_is_first", [False, True], ids=["logout-during-rotation", "rotation-during-logout"]
)
def test_a_logout_and_a_rotation(
    engine: Any, awaited: bool, view: Any, logout_is_first: bool
) -> None:
    """No key is left that leads to the session."""
    views = [_read_and_log_out, view] if logout_is_first else [view, _read_and_log_out]
    for race, a, b, where in at_each_stop(
        engine, awaited, *views, {"old": 0, **ADA}, started=now() - HOUR
    ):
        logout = a if logout_is_first else b
        assert logout.saved, where
        assert race.data(race.key).keys() <= {"a"}, where
        assert Inventory().end_all("1") == 0, where


def test_many_requests_with_an_old_key(engine: Any) -> None:
    """The requests run in parallel, not one after the other at chosen moments."""
    first = stored(engine, now() - HOUR)

    def save_one(number: int) -> str:
        session = Twin(engine.SessionStore(first.session_key), bool(number % 2))
        session.set(f"x{number}", number)
        session.save()
        return str(session.target.session_key)

    keys = in_threads([lambda number=number: save_one(number) for number in range(8)])
    assert len(set(keys)) == 1
    data = engine.SessionStore(keys[0]).load()
    assert {f"x{number}" for number in range(8)} <= data.keys()
    assert Inventory().count(user="1") == 1


def test_only_a_login_or_a_new_password_is_proof() -> None:
    """A logout is not, nor is a request that changes anything else."""
    before = {"_auth_user_id": "1", "_auth_user_hash": "of the old password"}
    base = codec().serialize(before)
    assert not rotation.has_proof(base, {})
    assert not rotation.has_proof(base, {**before, "cart": 1})
    assert rotation.has_proof(base, {"_auth_user_id": "2", "_auth_user_hash": "of another user"})
    assert rotation.has_proof(base, {**before, "_auth_user_hash": "of the new password"})


@pytest.mark.engines("db:sqlite")
@pytest.mark.parametrize(
    ("base", "mine", "theirs", "is_asked"),
    [
        (("1", "old"), ("1", "new"), ("1", "newer"), True),
        (None, ("1", "new"), ("1", "newer"), True),
        (None, ("1", "new"), ("2", "newer"), False),
        (("1", "old"), ("1", "new"), None, False),
        (("1", "old"), None, ("1", "newer"), False),
        (("1", "old"), ("1", "old"), ("1", "newer"), False),
        (("1", "old"), ("1", "new"), ("1", "old"), False),
        (("1", "old"), ("1", "new"), ("1", "new"), False),
        (None, None, None, False),
    ],
)
@pytest.mark.parametrize("is_outdated", [False, True])
def test_of_two_new_passwords_the_one_in_use_is_kept(
    monkeypatch: pytest.MonkeyPatch,
    base: tuple[str, str] | None,
    mine: tuple[str, str] | None,
    theirs: tuple[str, str] | None,
    is_asked: bool,
    is_outdated: bool,
) -> None:
    """Two requests change the password of the same user. Only then the user is read."""

    def login_is_outdated(data: dict[str, Any]) -> Flow[bool]:
        asked.append(data[HASH_SESSION_KEY])
        yield from ()
        return is_outdated

    asked: list[str] = []
    monkeypatch.setattr(verification, "login_is_outdated", login_is_outdated)
    known, own, stored = map(_login, (base, mine, theirs))
    merged = run(conflicts.merge_with_stored(known, own | {"x": 1}, codec().serialize(stored)))
    assert asked == (["new"] if is_asked else [])
    assert merged["x"] == 1
    if is_asked:
        assert merged[HASH_SESSION_KEY] == ("newer" if is_outdated else "new")


def _login(login: tuple[str, str] | None) -> SecretDict:
    return SecretDict(zip((SESSION_KEY, HASH_SESSION_KEY), login, strict=True) if login else ())
