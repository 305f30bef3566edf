"""The table of cases holds what tests build on."""

import shutil
import sys
from functools import partial
from typing import Any

import pytest

from tests import cases, dumps
from tests.services import Redis, run

READ_IN_SUBPROCESS = """
import sys
from tests.cases import attach
assert "pytest" not in sys.modules, "its import takes a third of the time that this program takes"
with attach(sys.argv[1]) as engine:
    print(engine.SessionStore(sys.argv[2]).get("pet"))
"""


def test_ids_are_unique() -> None:
    """Two rows with one id could not be told apart in a report, nor be run alone."""
    ids = [case.id for case in cases.CASES]

    assert len(set(ids)) == len(ids)


def test_a_name_that_selects_nothing_is_an_error() -> None:
    """A misspelt marker would make its test vanish from every run without a trace."""
    with pytest.raises(ValueError, match="rediss"):
        cases.select("redis", "rediss")


def test_a_server_selects_every_case_that_uses_it() -> None:
    """An outage test of Redis that left out the rows behind cached_db would miss half of it."""
    assert {case.id for case in cases.select("redis")} == {
        "cache:django-redis",
        "cache:redis-cache",
        "cached_db:django-redis+sqlite",
        "cached_db:redis-cache+postgresql",
        "cookie:django-redis",
        "cookie:redis-cache+postgresql",
    }


@pytest.mark.authoritative
def test_a_case_starts_empty(engine: cases.Engine) -> None:
    """Sessions of other tests would be counted, listed and purged by the next one."""
    session = engine.SessionStore()
    session["pet"] = "cat"
    session.save()

    with cases.activate(engine.case) as anew:
        assert not anew.SessionStore().exists(session.session_key)


@pytest.mark.authoritative
def test_emptying_removes_sessions_at_any_time(engine: cases.Engine) -> None:
    """A test that counts sessions between two steps would count those of the first step too."""
    session = engine.SessionStore()
    session["pet"] = "cat"
    session.save()
    engine.empty()

    assert not engine.SessionStore().exists(session.session_key)


@pytest.mark.engines("memory")
def test_a_storage_that_is_new_to_the_tests_is_emptied(engine: cases.Engine) -> None:
    """Its author adds a row to the table, and need not tell how to empty the store."""
    session = engine.SessionStore()
    session["pet"] = "cat"
    session.save()
    session.cycle_key()
    session.save()
    cases.Engine(cases.Case("bag"), engine.SessionStore, engine.database).empty()

    assert not engine.SessionStore().exists(session.session_key)
    assert engine.storage._sessions == {}


@pytest.mark.engines("memory")
def test_the_folder_of_an_engine_that_is_new_to_the_tests_exists(engine: cases.Engine) -> None:
    """``SESSION_FILE_PATH`` names it, and a storage may expect a mounted folder there."""
    shutil.rmtree(engine.file_path)
    with cases.activate(engine.case):
        assert engine.file_path.is_dir()


@pytest.mark.engines("memory")
@pytest.mark.parametrize("read", [partial(dumps.places, session_id="x"), dumps.dump])
def test_a_dump_of_a_store_that_is_new_to_the_tests_is_refused(
    engine: cases.Engine, read: Any
) -> None:
    """It would have nothing in it, and nothing is what most tests want to find in a dump."""
    new = cases.Engine(cases.Case("bag"), engine.SessionStore, engine.database)
    with pytest.raises(LookupError, match=r"'bag' .* Add its place to places\(\)"):
        read(new)


@pytest.mark.slow
def test_a_subprocess_meets_its_parent_in_the_store(engine: cases.Engine) -> None:
    """Processes that write to stores of their own would never conflict: every test of lost
    updates across processes would pass."""
    if not engine.storage.shared:
        pytest.skip(f"{engine.id} lives in one process")
    session = engine.SessionStore()
    session["pet"] = "cat"
    session.save()

    said = run(sys.executable, "-c", READ_IN_SUBPROCESS, engine.id, session.session_key)

    assert said.strip() == "cat"


@pytest.mark.slow
@pytest.mark.engines("redis", "memcached", "postgresql", "mariadb")
@pytest.mark.private_servers
def test_private_servers_are_reached_by_subprocesses(engine: cases.Engine) -> None:
    """A worker of an outage test that talked to the shared server would see no outage."""
    test_a_subprocess_meets_its_parent_in_the_store(engine)


@pytest.mark.engines("cache:redis-cache")
@pytest.mark.private_servers({Redis: partial(Redis, maxmemory="3mb")})
def test_private_servers_are_made_as_asked(engine: cases.Engine) -> None:
    """Out of memory is tested on a full server: without its limit, it never gets full."""
    assert engine.server().cli("config", "get", "maxmemory").split()[1] == "3145728"
