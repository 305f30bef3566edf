"""Users of every kind that Django allows, in every place that names, searches or shows them.

Each kind of user model has a process of its own, see `tests.accounts.user_models`, in which every
place is tried; here is one test for each.
"""

import functools
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest
from django.contrib.auth import get_user_model

from django_sessionstores.accounts.users import find_users
from tests import ROOT
from tests.accounts.user_models import KINDS, WITHOUT_ADMIN, WITHOUT_POSTGRESQL
from tests.accounts.user_models.places import PLACES
from tests.services import PostgreSQL, shared_service

USUAL = ("hexadecimal_key", "relation_username")
"""The kinds of which the most can go wrong, which every run of the tests tries."""

ON_POSTGRESQL = (
    *("uuid_key", "text_key", "huge_key", "decimal_key", "hexadecimal_key", "unchecked_key"),
    *("integer_username", "uuid_username", "relation_username", "any_case_username"),
)
"""The kinds whose keys or names are values that a database may refuse or compare differently."""


Failures = Callable[..., dict[str, str]]


@pytest.fixture(scope="module")
def failures() -> Iterator[Failures]:
    """Yield a function that returns the traceback of each place that fails for a kind of users,
    and empty strings for the others."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.accounts.user_models"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert process.stdin is not None
    assert process.stdout is not None
    stdin, stdout = process.stdin, process.stdout

    @functools.cache
    def failures_of(kind: str, database: str = WITHOUT_POSTGRESQL) -> dict[str, str]:
        stdin.write(f"{kind} {database}\n")
        stdin.flush()
        found: dict[str, str] = json.loads(stdout.readline())
        assert "" not in found, found[""]
        return found

    yield failures_of
    process.communicate()


def places(*kinds: str) -> list[object]:
    return [
        pytest.param(
            kind,
            place,
            id=f"{kind}-{place}",
            marks=[] if kind in USUAL else pytest.mark.slow,
        )
        for kind in kinds
        for place in PLACES
        if not (place.startswith("admin") and kind in WITHOUT_ADMIN)
    ]


@pytest.mark.parametrize(("kind", "place"), places(*KINDS))
def test_a_place(failures: Failures, kind: str, place: str) -> None:
    """An operator finds, shows and ends the sessions of any user."""
    failure = failures(kind)[place]
    assert not failure, failure


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "place"), places(*ON_POSTGRESQL))
def test_a_place_on_postgresql(failures: Failures, kind: str, place: str) -> None:
    """A value that this database refuses ends the transaction of the request; SQLite takes any."""
    failure = failures(kind, str(shared_service(PostgreSQL).port))[place]
    assert not failure, failure


@pytest.mark.django_db
def test_a_username_is_found_by_other_characters_for_it() -> None:
    """Django stores one form of each name, and an operator may paste another."""
    user = get_user_model().objects.create_user("ren\N{LATIN SMALL LETTER E WITH ACUTE}")
    assert [each.id for each in find_users("rene\N{COMBINING ACUTE ACCENT}")] == [str(user.pk)]
