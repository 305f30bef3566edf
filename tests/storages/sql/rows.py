"""The rows of sessions in databases, as another connection of the site meets them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from django.db import connections

from django_sessionstores.core.records import Record
from tests import cases
from tests.storages.records import make_record

IDS = [f"{number:040x}" for number in range(30)]


@contextmanager
def opened(case: cases.Case) -> Iterator[cases.Engine]:
    """Run with a case in force, and close its connection, which may be in any state."""
    with cases.activate(case) as engine:
        yield engine
        connections[engine.database].close()


def record(record_id: str = IDS[0], **fields: Any) -> Record:
    return make_record(record_id, **fields)


def table(site: cases.Engine) -> tuple[str, str]:
    """Return the table of the sessions, and the beginning of a condition that names a row.

    The parameter is of `row_name`.
    """
    if site.name == "db":
        return "django_sessionstores_storedsession", "id ="
    return cases.CACHE_TABLE, "cache_key LIKE"


def row_name(site: cases.Engine, record_id: str) -> str | bytes:
    return bytes.fromhex(record_id) if site.name == "db" else f"%{record_id}"


def change(site: cases.Engine, cursor: Any, *record_ids: str) -> None:
    """Write rows as another request does, without changing what they say."""
    name, condition = table(site)
    later = "expires + 1" if site.name == "db" else "expires + INTERVAL '1' SECOND"
    for each in record_ids:
        cursor.execute(
            f"UPDATE {name} SET expires = {later} WHERE {condition} %s", [row_name(site, each)]
        )


@contextmanager
def other_cursor(site: cases.Engine) -> Iterator[Any]:
    other = connections[site.database].copy()
    try:
        with other.cursor() as cursor:
            yield cursor
    finally:
        other.close()
