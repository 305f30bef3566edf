"""Rows that no process of the package has written: they stop nothing, and can be removed.

A column of SQLite can contain a value of any type. The others can contain numbers out of range.
"""

from __future__ import annotations

import io
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import pytest
from django.core.management import call_command
from django.db import connections
from django.test import Client, override_settings

from django_sessionstores.backends.file import SessionStore as FileStore
from django_sessionstores.core.records import State, make_tombstone, next_version, session_id
from django_sessionstores.exceptions import UnreadablePayload
from django_sessionstores.inventory import Inventory
from django_sessionstores.storages.sql import summary
from django_sessionstores.storages.sql.rows import key_of
from django_sessionstores.testing import now, successor
from tests.cases import Engine
from tests.management.test_sessions import typed
from tests.storages.records import ID, make_record

TABLE = "django_sessionstores_storedsession"
OTHERS = ("b" * 40, "c" * 40)
IDS = (OTHERS[0], ID, OTHERS[1])
USER = "7"
NOT_UTF8 = "CAST(x'ff' AS TEXT)"
OUT_OF_RANGE = ("-1", "9223372036854775807", "-9223372036854775808")
NUMBERS: Final = ("'soon'", "'5x'", "5.5", "1e300", "x'ff00'", NOT_UTF8, *OUT_OF_RANGE)
TEXTS: Final = ("5", "x'ff00'", "''", NOT_UTF8, "'a' || char(0)")
COLUMNS: Final = {
    "id": ("''", "'short'", f"'{'a' * 40}'", f"x'{'aa' * 21}'", "x'ff00'", NOT_UTF8),
    "payload": ("'text'", "''", "5", "99999999999999", "5.5", NOT_UTF8),
    **dict.fromkeys(("version", "created", "last_activity", "expires", "site"), NUMBERS),
    "state": ("'soon'", "5.5", "7", "x'ff00'", NOT_UTF8),
    "user_id": TEXTS,
    **dict.fromkeys(("ip", "user_agent"), (*TEXTS, "5.5")),
    "origin": (*TEXTS, "'short'", f"'{'a' * 40}'", f"x'{'aa' * 21}'"),
}
DAMAGE: Final = [(name, value) for name, values in COLUMNS.items() for value in values]
every_damage = pytest.mark.parametrize(("column", "value"), DAMAGE)
out_of_range = pytest.mark.parametrize(
    ("column", "value"),
    [
        (name, value)
        for name in ("version", "created", "last_activity", "expires")
        for value in OUT_OF_RANGE
    ],
)


def damage(engine: Engine, session_id: str, column: str, value: str) -> None:
    with connections[engine.database].cursor() as cursor:
        cursor.execute(f"UPDATE {TABLE} SET {column} = {value} WHERE id = %s", [key_of(session_id)])


def store_three(engine: Engine, column: str, value: str) -> Any:
    """Store three sessions of a user, damage the second one, and return the storage."""
    engine.empty()
    for each in IDS:
        engine.storage.create(make_record(each, user_id=USER, origin="d" * 40), now())
    damage(engine, ID, column, value)
    return engine.storage


def scan_all(storage: Any, limit: int, user_id: str | None) -> list[str]:
    found, cursor = list[str](), ""
    for _ in range(20):
        page = storage.scan(cursor, limit, user_id)
        found += [each.id for each in page.records]
        cursor = page.next
        if not cursor:
            return found
    raise AssertionError("The list does not end.")


def hold_to_promises(engine: Engine, column: str, value: str) -> None:
    """Let each operation meet a damaged row. Those beside it are as if it was not there."""
    storage = store_three(engine, column, value)
    for read in (storage.read, storage.lookup):
        with suppress(UnreadablePayload):
            read(ID)
    assert set(OTHERS) <= set(storage.lookup_many(IDS)) <= set(IDS)
    for user_id in (USER, None):
        for limit in (1, 2, 5):
            listed = scan_all(storage, limit, user_id)
            assert set(OTHERS) <= set(listed) <= set(IDS)
            assert len(listed) == len(set(listed))
        assert storage.count(now(), user_id) in {2, 3}
    assert storage.summarize(now(), 10).live in {2, 3}
    base = make_record(ID, user_id=USER)
    tombstone = make_tombstone(ID, State.ROTATED, now=now(), seconds=60, successor="e" * 40)
    storage.touch(base, now() + 1, now(), now())
    with suppress(UnreadablePayload):
        storage.update(successor(base), base, now())
    with suppress(UnreadablePayload):
        storage.rotate(make_record("e" * 40), base, tombstone, now())
    storage = store_three(engine, column, value)
    assert set(OTHERS) <= set(storage.end_many(IDS)) <= set(IDS)
    if column not in {"id", "site"}:
        assert storage.lookup_many(IDS) == {}
        storage = store_three(engine, column, value)
        storage.delete(ID)
        assert storage.read(ID) is None
    storage = store_three(engine, column, value)
    while storage.purge(now() + 10**12, 2):
        pass
    with connections[engine.database].cursor() as cursor:
        cursor.execute(f"SELECT COUNT(*) FROM {TABLE}")
        assert cursor.fetchone() == (0,)


@pytest.mark.engines("db:sqlite")
@every_damage
def test_a_damaged_row_stops_nothing(engine: Engine, column: str, value: str) -> None:
    hold_to_promises(engine, column, value)


@pytest.mark.engines("db:postgresql", "db:mariadb")
@out_of_range
def test_a_number_out_of_range_stops_nothing(engine: Engine, column: str, value: str) -> None:
    hold_to_promises(engine, column, value)


@pytest.mark.engines("db:sqlite")
def test_a_page_of_damaged_rows_is_followed_by_the_next(engine: Engine) -> None:
    """Those without an expiry come first, and a list of one session has many of them before it."""
    ids = [f"{number:040x}" for number in range(30)]
    for number, each in enumerate(ids):
        engine.storage.create(make_record(each, user_id=USER), now())
        if number % 3:
            damage(engine, each, "expires", "'soon'" if number % 2 else "9223372036854775807")
    for limit in (1, 3, 30):
        for user_id in (USER, None):
            assert sorted(scan_all(engine.storage, limit, user_id)) == ids[::3]
    assert engine.storage.count(now(), None) == engine.storage.count(now(), USER) == 10


@pytest.mark.engines("db:sqlite")
def test_a_sample_leaves_out_what_is_damaged(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(summary, "MOST_COUNTED", 1)
    for column in ("created", "last_activity", "expires", "user_agent"):
        storage = store_three(engine, column, "'soon'")
        assert storage.summarize(now(), 10).live == 2


def test_a_damaged_version_is_followed_by_one_that_fits() -> None:
    for version in (2**63 - 1, -(2**63), -1, 0):
        assert 0 <= next_version(version) < 2**63


@pytest.mark.engines("db:sqlite", "cached_db:locmem+sqlite", "cookie:sqlite")
@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize(
    ("column", "value"),
    [
        (name, values[index])
        for name, values in COLUMNS.items()
        for index in (1, -1)
        if name != "id"
    ],
)
def test_a_site_with_a_damaged_row(
    engine: Engine, column: str, value: str, django_user_model: Any, settings: Any
) -> None:
    """Requests, logins under a limit, lists, ends, commands, pages, and changes of the user."""
    make = django_user_model.objects.create_superuser
    user, boss = make("anna", password="x"), Client()
    boss.force_login(make("boss", password="x"))
    options = {**getattr(settings, "SESSIONSTORES", {}), "MAX_SESSIONS": 3}
    with override_settings(SESSIONSTORES=options):
        clients = [Client() for _ in range(4)]
        for each in clients[:3]:
            each.force_login(user)
        inventory = Inventory()
        damaged = inventory.list(user=user).sessions[-1].id
        damage(engine, damaged, column, value)
        others = {each.id for each in inventory.iterate(user=user)} - {damaged}
        assert len(others) == 2
        is_shown = inventory.get(damaged) is not None
        for each in clients:
            assert each.get("/read/").status_code == 200
        for arguments in (["list"], ["list", "--user=anna"], ["stats"], ["show", damaged]):
            code, said = typed(*arguments)
            assert "Traceback" not in said
            assert code == 0 or "There is no live session" in said
        place = "/admin/django_sessionstores/session/"
        pages = [place, f"{place}overview/", *([f"{place}{damaged}/change/"] if is_shown else [])]
        for page in pages:
            assert boss.get(page, follow=True).status_code == 200
        clients[3].force_login(user)
        assert inventory.count(user=user) <= 3
        damage(engine, inventory.list(user=user).sessions[0].id, column, value)
        user.set_password("new")
        user.save()
        inventory.end_all(user)
        assert list(inventory.iterate(user=user)) == []
        call_command("clearsessions", stdout=io.StringIO())
        user.delete()


@pytest.mark.engines("db:sqlite")
@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("column", COLUMNS)
def test_a_move_leaves_out_what_is_damaged(
    engine: Engine, column: str, settings: Any, tmp_path: Path
) -> None:
    store = engine.SessionStore
    keys = []
    for _ in range(3):
        session = store()
        session["color"] = "blue"
        session.save()
        keys.append(session.session_key)
    damage(engine, session_id(keys[1]), column, COLUMNS[column][-1])
    path = settings.SESSION_ENGINE
    changed = {"SESSION_ENGINE": path.replace(".db", ".file"), "SESSION_FILE_PATH": tmp_path}
    with override_settings(**changed):
        code, said = typed("move", f"--from={path}")
        assert "Traceback" not in said
        assert code == 0 or "cannot be moved" in said, said
        for each in (keys[0], keys[2]):
            assert FileStore(each)["color"] == "blue"
