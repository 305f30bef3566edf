"""What storages around other storages do with each answer of those, sync and async.

The answers are in the folder ``answers``. A difference is either a fault, or a change that was
meant: then ``python -m tests.storages.answers`` writes them anew.
"""

from __future__ import annotations

import pytest

from django_sessionstores.storages.base import Storage
from django_sessionstores.storages.contract import LOCAL_CALLS, SAME_AS, TWINS
from tests.storages.answers import CASES, FILES, trees_of
from tests.storages.answers.common import ARGUMENTS, Case


@pytest.mark.parametrize(
    "awaited",
    [pytest.param(False, id="sync"), pytest.param(True, id="async", marks=pytest.mark.slow)],
)
@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.file}: {case.title}")
def test_each_answer(case: Case, awaited: bool) -> None:
    """The calls that a storage makes, and what it answers, follow from what it is answered."""
    assert case.tree(awaited=awaited) == trees_of(case.file)[case.title]


def test_each_method_is_tried() -> None:
    """A method that the contract gets has trees, too."""
    of_caches = {name for name in TWINS if not hasattr(Storage, name)}
    assert ARGUMENTS.keys() == TWINS - of_caches


def test_methods_are_named_that_there_are() -> None:
    """Those that the contract tells apart from the others."""
    assert LOCAL_CALLS | SAME_AS.keys() | set(SAME_AS.values()) <= TWINS


@pytest.mark.parametrize("file", FILES)
def test_the_files_have_the_trees_that_are_made(file: str) -> None:
    """A tree that nothing makes would tell what no storage does."""
    assert list(trees_of(file)) == [case.title for case in CASES if case.file == file]
