"""Users of every kind that Django allows, in every place that names, searches or shows them.

Each kind of user model has a process of its own, see `tests.accounts.user_models`, in which every
place is tried; here is one test for each.
"""

import functools
import json
import os
import subprocess
import sys

import pytest
from django.contrib.auth import get_user_model

from django_sessionstores.accounts.users import find_users
from tests import ROOT
from tests.accounts.user_models import KINDS, VARIABLE, WITHOUT_ADMIN
from tests.accounts.user_models.places import PLACES
from tests.services import PostgreSQL, shared_service

USUAL = ("hexadecimal_key", "relation_username")
"""The kinds of which the most can go wrong, which every run of the tests tries."""

ON_POSTGRESQL = (
    *("uuid_key", "text_key", "huge_key", "decimal_key", "hexadecimal_key", "unchecked_key"),
    *("integer_username", "uuid_username", "relation_username", "any_case_username"),
)
"""The kinds whose keys or names are values that a database may refuse or compare differently."""


@functools.cache
def failures(kind: str, *, postgresql: bool = False) -> dict[str, str]:
    """Return the traceback of each place that fails, and empty strings for the others."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), VARIABLE: kind}
    if postgresql:
        port = shared_service(PostgreSQL).port
        environment["SESSIONSTORES_TEST_USERS_POSTGRESQL"] = str(port)
    done = subprocess.run(
        [sys.executable, "-m", "tests.accounts.user_models", kind],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=environment,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, str] = json.loads(done.stdout.splitlines()[-1])
    return found


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
def test_a_place(kind: str, place: str) -> None:
    """An operator finds, shows and ends the sessions of any user."""
    failure = failures(kind)[place]
    assert not failure, failure


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "place"), places(*ON_POSTGRESQL))
def test_a_place_on_postgresql(kind: str, place: str) -> None:
    """A value that this database refuses ends the transaction of the request; SQLite takes any."""
    failure = failures(kind, postgresql=True)[place]
    assert not failure, failure


@pytest.mark.django_db
def test_a_username_is_found_by_other_characters_for_it() -> None:
    """Django stores one form of each name, and an operator may paste another."""
    user = get_user_model().objects.create_user("ren\N{LATIN SMALL LETTER E WITH ACUTE}")
    assert [each.id for each in find_users("rene\N{COMBINING ACUTE ACCENT}")] == [str(user.pk)]
