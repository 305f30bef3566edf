"""The counts of all sessions of a table, and of a sample of a large one."""

from __future__ import annotations

from typing import Any

import pytest
from django.db import connections
from django.test.utils import CaptureQueriesContext

from django_sessionstores.core.lifetime import utc_datetime
from django_sessionstores.core.records import session_id
from django_sessionstores.core.summary import summarize as summary_of
from django_sessionstores.inventory import Inventory
from django_sessionstores.operations import overview
from django_sessionstores.storages.sql import summary
from django_sessionstores.testing import HOUR, now
from tests.storages.records import make_record

pytestmark = pytest.mark.engines("db:sqlite", "db:postgresql", "db:mariadb")


def store(engine: Any, number: int, moment: int) -> None:
    for each in range(number):
        user = str(each) if each % 3 else None
        expires = moment + (HOUR if each % 4 else -1)
        agent = f"agent {each}"
        record = make_record(session_id(str(each)), user_id=user, user_agent=agent, expires=expires)
        engine.storage.create(record, moment - HOUR)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(summary, "MOST_COUNTED", 20)
    monkeypatch.setattr(summary, "LEAST_SAMPLED", 5)
    monkeypatch.setattr(overview, "SAMPLE", 5)


def test_a_large_table_is_sampled(engine: Any, small: None) -> None:
    """Each session has its turn. The number of live sessions is of all, and the rest says of how
    many it is."""
    moment = now()
    store(engine, 20, moment)
    whole = engine.storage.summarize(moment, 3)
    assert (whole.is_whole, whole.live, whole.expired) == (True, 15, 5)
    assert len(whole.user_agents) == 15
    store(engine, 30, moment)
    seen = set[str]()
    for _ in range(400):
        found = engine.storage.summarize(moment, 3)
        assert not found.is_whole
        assert found.live + found.expired == sum(found.expires.values()) == 5
        assert sum(found.user_agents.values()) == sum(found.created.values()) == found.live
        seen.update(found.user_agents)
        if len(seen) == 22:
            break
    assert len(seen) == 22
    figures = overview.overview(Inventory(), utc_datetime(moment))
    assert (figures.live, figures.is_complete, figures.sampled) == (22, False, 5)


def test_a_sample_has_what_a_summary_needs(
    engine: Any, small: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is summarized as the records are."""
    moment = now()
    store(engine, 30, moment)
    monkeypatch.setattr(summary, "LEAST_SAMPLED", 30)
    records = engine.storage.scan("", 100, None).records
    assert engine.storage.summarize(moment, 3) == summary_of(records, moment, is_whole=False)


@pytest.mark.engines("db:sqlite")
def test_no_row_is_looked_up_from_an_index(engine: Any) -> None:
    """SQLite would take the index on the expiry, and look up nearly each row: ten times slower."""
    store(engine, 10, moment := now())
    connection = connections[engine.database]
    with CaptureQueriesContext(connection) as captured:
        engine.storage.summarize(moment, 3)
        assert engine.storage.count(moment, None) == 7
    assert len(captured) == 8
    for query in captured:
        with connection.cursor() as cursor:
            cursor.execute(f"EXPLAIN QUERY PLAN {query['sql']}")
            plan = " ".join(row[-1] for row in cursor.fetchall())
        assert "INDEX" not in plan, query["sql"]
