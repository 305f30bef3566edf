"""The versions of records: a counter, random bits, and whether the session is bound."""

from __future__ import annotations

import pytest

from django_sessionstores.core import records
from django_sessionstores.core.records import (
    Record,
    State,
    next_version,
    next_version_for,
    refused_version,
    saves_of,
)


def a_record(version: int, state: State = State.LIVE) -> Record:
    return Record(id="0" * 40, version=version, state=state)


@pytest.mark.parametrize("is_bound", [True, False])
def test_a_version_says_whether_the_session_is_bound(
    is_bound: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Until a save says something else, whatever the random bits are."""
    for bits in (0, 2**32 - 1, records._BOUND, records._BOUND << 16):
        monkeypatch.setattr(records.random, "getrandbits", lambda _, bits=bits: bits)
        first = next_version(is_bound=is_bound)
        second = next_version(first)
        for version in (first, second):
            assert a_record(version).is_bound is is_bound
            assert not a_record(version, State.ENDED).is_bound
        assert a_record(next_version(second, is_bound=not is_bound)).is_bound is not is_bound
        assert (saves_of(a_record(first)), saves_of(a_record(second))) == (1, 2)


def test_a_version_says_whether_the_session_was_refused() -> None:
    """As long as it is bound, and in the entry of a registry as well."""
    bound = next_version(is_bound=True)
    refused = a_record(refused_version(bound))
    assert (refused.is_bound, refused.was_refused, saves_of(refused)) == (True, True, 2)
    for version in (
        next_version(refused.version),
        next_version(refused.version, is_bound=True),
        next_version_for(refused, 7 << 32),
    ):
        assert a_record(version).was_refused
    for version in (
        next_version(refused.version, is_bound=False),
        next_version_for(a_record(bound), refused.version),
        next_version_for(a_record(1), refused.version),
    ):
        assert not a_record(version).was_refused
    assert a_record(next_version_for(a_record(bound), refused.version)).is_bound


def test_versions_of_the_same_save_differ() -> None:
    """What was rolled back is told from what took its place, also of a bound session."""
    assert len({next_version(5 << 32) for _ in range(50)}) == 50
    assert len({next_version(5 << 32, is_bound=True) for _ in range(50)}) > 40
