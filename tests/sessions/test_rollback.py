"""Which writes of an object were rolled back, by what their transactions tell."""

from __future__ import annotations

import pytest

from django_sessionstores.core.records import SecretText
from django_sessionstores.sessions.rollback import ProvisionalStates
from django_sessionstores.sessions.state import New, State

A, B, C = (New(SecretText(key)) for key in "abc")


@pytest.mark.parametrize(
    ("committed", "undone", "waiting"),
    [
        ([None], [], [A]),
        ([True], [], []),
        ([False], [A], []),
        ([True, True], [], []),
        ([True, False], [B], []),
        ([False, True], [A, B], []),
        ([False, False], [A, B], []),
        ([None, True], [], [A]),
        ([None, False], [B], [A]),
        ([True, None], [], [A, B]),
        ([None, True, False], [C], [A]),
        ([True, None, True], [], [B]),
        ([None, False, True], [B, C], [A]),
    ],
)
def test_writes_are_settled(
    committed: list[bool | None], undone: list[State], waiting: list[State]
) -> None:
    """A rollback undoes what was written since. What is still open is asked about again."""
    states = ProvisionalStates()
    for before, answer in zip((A, B, C), committed, strict=False):
        with states.note_write(before) as note:
            assert note.has_committed() is None
            note.has_committed = lambda answer=answer: answer  # type: ignore[misc]
    assert [each.before for each in states.settle()] == undone
    assert [each.before for each in states] == waiting
