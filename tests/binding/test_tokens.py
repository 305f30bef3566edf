"""Challenges and the bound cookie: only this site can make them, for one purpose, for a time."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from django_sessionstores.binding.headers import InvalidProof
from django_sessionstores.binding.tokens import (
    CLOCKS,
    check_challenge,
    is_bound_value,
    make_bound_value,
    make_challenge,
)
from django_sessionstores.payloads.codec import KeyRing

RING, OTHER = KeyRing(["a secret"]), KeyRing(["another secret"])
NOW, LIFE = 1_764_000_000_000, 300_000


def check(challenge: str, subject: str = "one", at: int = NOW, ring: KeyRing = RING) -> int:
    return check_challenge(ring, challenge, subject, at, LIFE)


def test_a_challenge_tells_when_it_was_made() -> None:
    challenge = make_challenge(RING, "one", NOW)
    assert check(challenge) == check(challenge, at=NOW + LIFE) == NOW
    assert challenge != make_challenge(RING, "one", NOW)
    assert len(challenge) == 40


REFUSED: dict[str, Callable[[str], int]] = {
    "another subject": lambda text: check(text, "two"),
    "another site": lambda text: check(text, ring=OTHER),
    "expired": lambda text: check(text, at=NOW + LIFE + 1),
    "of the future": lambda text: check(text, at=NOW - CLOCKS - 1),
    "cut": lambda text: check(text[:-2]),
    "longer": lambda text: check(text + "AAAA"),
    "empty": lambda _text: check(""),
    "padded": lambda text: check(text + "=="),
    "a bound cookie": lambda _text: check(make_bound_value(RING, "one", NOW)),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_a_challenge_is_of_one_subject_for_a_time(kind: str) -> None:
    with pytest.raises(InvalidProof):
        REFUSED[kind](make_challenge(RING, "one", NOW))


def test_no_changed_bit_is_accepted() -> None:
    draw = random.Random(20261202)
    challenge = make_challenge(RING, "one", NOW)
    letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    for place, letter in enumerate(challenge):
        other = draw.choice(letters.replace(letter, ""))
        with pytest.raises(InvalidProof):
            check(challenge[:place] + other + challenge[place + 1 :])


def test_clocks_may_differ() -> None:
    assert check(make_challenge(RING, "one", NOW), at=NOW - CLOCKS) == NOW


def test_a_bound_cookie_is_of_one_binding_for_a_time() -> None:
    value = make_bound_value(RING, "one", NOW + LIFE)
    assert is_bound_value(RING, value, "one", NOW)
    assert is_bound_value(RING, value, "one", NOW + LIFE - 1)
    assert not is_bound_value(RING, value, "one", NOW + LIFE)
    assert not is_bound_value(RING, value, "two", NOW)
    assert not is_bound_value(OTHER, value, "one", NOW)
    assert not is_bound_value(RING, make_challenge(RING, "one", NOW + LIFE), "one", NOW)
    assert not is_bound_value(RING, "\u00e9", "one", NOW)
    assert not is_bound_value(RING, "", "one", NOW)
    assert len(value) == 30


def test_a_new_secret_key_keeps_what_the_old_one_has_signed() -> None:
    value = make_bound_value(RING, "one", NOW + LIFE)
    challenge = make_challenge(RING, "one", NOW)
    rotated = KeyRing(["a new secret", "a secret"])
    assert is_bound_value(rotated, value, "one", NOW)
    assert check(challenge, ring=rotated) == NOW
    assert not is_bound_value(KeyRing(["a new secret"]), value, "one", NOW)
    # The new key signs.
    assert is_bound_value(
        KeyRing(["a new secret"]), make_bound_value(rotated, "one", NOW + LIFE), "one", NOW
    )
