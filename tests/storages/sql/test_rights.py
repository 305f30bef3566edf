"""The rights that the documentation lists for a user of a database: enough for all, and needed."""

from __future__ import annotations

import re
import unittest
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

import pytest
from django.test import override_settings

from django_sessionstores.core.clock import now
from django_sessionstores.exceptions import StorageUnavailable
from django_sessionstores.operations import statistics
from django_sessionstores.storages.sql.storage import DatabaseStorage
from django_sessionstores.testing import StorageContract
from tests import ROOT
from tests.operations.test_faults import SHOP, database, shop, sql
from tests.operations.test_faults import mariadb as mariadb  # A fixture, like the next ones.
from tests.operations.test_faults import open_database as open_database
from tests.operations.test_faults import postgresql as postgresql
from tests.services import MariaDB, PostgreSQL
from tests.storages.records import ID, make_record

PAGE: Final = (ROOT / "docs/reference/engines/db.rst").read_text(encoding="utf-8")
GRANTS: Final = re.findall(r"^    (GRANT .*;)$", PAGE, re.MULTILINE)
ON_SESSIONS: Final = [each for each in GRANTS if "storedsession" in each]
ON_STATISTICS: Final = [each for each in GRANTS if "sessionstatistics" in each]
TABLE: Final = "django_sessionstores_storedsession"
RIGHTS: Final = re.findall("[A-Z]+", ON_SESSIONS[0].partition(" ON ")[0].removeprefix("GRANT "))


@pytest.fixture(params=["postgresql", pytest.param("mariadb", marks=pytest.mark.slow)])
def server(request: pytest.FixtureRequest) -> PostgreSQL | MariaDB:
    served: PostgreSQL | MariaDB = request.getfixturevalue(request.param)
    return served


def of(server: PostgreSQL | MariaDB, grants: list[str]) -> str:
    """Return the one of the grants that is for this kind of server."""
    (grant,) = [each for each in grants if ("'shop'@'%'" in each) == isinstance(server, MariaDB)]
    return grant.replace("shop.django", "sessions.django")


@contextmanager
def restricted(
    server: PostgreSQL | MariaDB, open_database: Any, *grants: str
) -> Iterator[DatabaseStorage]:
    """Yield the storage of a user with these rights only."""
    shop(server)
    with database(server, open_database, **SHOP):
        sql(server, f"DELETE FROM {TABLE}", *grants)
        yield DatabaseStorage()


def test_the_rights_are_enough_for_all(server: PostgreSQL | MariaDB, open_database: Any) -> None:
    with restricted(server, open_database, of(server, ON_SESSIONS)) as restricted_storage:

        class Contract(StorageContract, unittest.TestCase):
            def setUp(self) -> None:
                super().setUp()
                sql(server, f"DELETE FROM {TABLE}")
                self.storage = restricted_storage

        result = unittest.TestResult()
        unittest.defaultTestLoader.loadTestsFromTestCase(Contract).run(result)
    assert [said for _, said in (*result.errors, *result.failures)] == []
    assert result.testsRun > len(result.skipped) + 50


USES: Final[dict[str, Callable[[DatabaseStorage], object]]] = {
    "SELECT": lambda storage: storage.read(ID),
    "INSERT": lambda storage: storage.create(make_record(), now()),
    "UPDATE": lambda storage: storage.touch(make_record(), now() + 1, now(), now()),
    "DELETE": lambda storage: storage.delete(ID),
}


@pytest.mark.parametrize("right", RIGHTS)
def test_each_right_is_needed(server: PostgreSQL | MariaDB, open_database: Any, right: str) -> None:
    user = "shop@'%'" if isinstance(server, MariaDB) else "shop"
    revoke = f"REVOKE {right} ON {TABLE} FROM {user}"
    with (
        restricted(server, open_database, of(server, ON_SESSIONS), revoke) as storage,
        pytest.raises(StorageUnavailable, match="does not give its user the rights") as caught,
    ):
        USES[right](storage)
    assert f"GRANT {', '.join(RIGHTS)} ON" in str(caught.value)


def test_the_rights_for_statistics(server: PostgreSQL | MariaDB, open_database: Any) -> None:
    grants = of(server, ON_SESSIONS), of(server, ON_STATISTICS)
    with (
        restricted(server, open_database, *grants),
        override_settings(SESSIONSTORES={"STATISTICS": True}),
    ):
        for _ in range(2):  # Inserted, and then updated.
            statistics.Statistics()._store("sessions", {(1, "created", "sessions", 0): 1})  # type: ignore[arg-type]
