"""Cases of keys: which keys lead to a session, and which keys a session gets."""

from __future__ import annotations

from typing import Final

from ..conformance.values import MALFORMED_KEYS
from .case import Need, case, expect
from .forks import keys_of_forks
from .trial import Trial

_MALFORMED_KEYS: Final = [key for key in MALFORMED_KEYS if key.isprintable() or key.isascii()]
"""Without those that Django's parser of cookies never returns, because they are not UTF-8."""


@case(14)
def an_unknown_key_reads_as_empty(trial: Trial) -> None:
    """A key that was never issued reads as an empty session."""
    expect(trial.data(trial.unknown_key()) == {}, "Data was found.")


@case(14)
def an_unknown_key_leaves_no_session(trial: Trial) -> None:
    """Reading with a key that was never issued stores nothing."""
    key = trial.unknown_key()
    trial.data(key)
    expect(not trial.session().exists(key) or trial.backend.holds_data_in_key, "It exists.")


@case(14)
def an_unknown_key_is_not_accepted(trial: Trial) -> None:
    """A save with a key that was never issued goes to another key."""
    key = trial.unknown_key()
    session = trial.session(key)
    session.get("color")
    session["color"] = "blue"
    expect(trial.save(session) != key, "The session was stored under the key of the visitor.")
    expect(trial.data(key) == {}, "The key of the visitor leads to the session.")


@case(14)
def a_malformed_key_reads_as_empty(trial: Trial) -> None:
    """A cookie with a malformed key, such as a path or control characters, reads as empty."""
    for key in _MALFORMED_KEYS:
        expect(trial.data(key) == {}, "Data was found.")


@case(14)
def a_key_in_other_case_is_another_key(trial: Trial) -> None:
    """A key with its letters in the other case does not lead to the session."""
    key = trial.store(color="blue")
    expect(trial.data(key.swapcase()) == {}, "It leads to the session.")


@case(24)
def an_altered_key_reads_as_empty(trial: Trial) -> None:
    """A key in which one character was changed does not lead to the session."""
    key = trial.store(color="blue")
    trial.data(key)  # A backend may remember the keys that it has seen.
    # A key that holds the session is long: some of its characters stand for all.
    step = max(1, len(key) // 64)
    for place in {*range(0, len(key), step), len(key) - 1}:
        other = "a" if key[place] != "a" else "b"
        altered = key[:place] + other + key[place + 1 :]
        expect(trial.data(altered) == {}, "It leads to the session.")


@case(14)
def keys_cannot_be_guessed(trial: Trial) -> None:
    """Each session has a key of its own, keys differ in at least 22 of their characters, and
    processes that are started alike draw different ones."""
    keys = [trial.store(number=number) for number in range(50)]
    expect(len(set(keys)) == len(keys), "Two sessions have the same key.")
    varied = sum(len({key[place] for key in keys}) > 8 for place in range(min(map(len, keys))))
    expect(varied >= 22, f"Keys differ in only {varied} of their characters.")
    drawn = keys_of_forks(trial.backend.SessionStore)
    for key in {key for each in drawn for key in each}:
        trial.session(key)  # It is removed if the fork has stored it.
    repeated = set(drawn[0]).intersection(*drawn[1:]) if drawn else set()
    expect(not repeated, "Two processes that are started alike draw the same keys.")


@case(11)
def cycle_key_keeps_the_data(trial: Trial) -> None:
    """After cycle_key() and a save, the new key leads to the data."""
    key = trial.store(color="blue")
    session = trial.session(key)
    session.cycle_key()
    new_key = trial.save(session)
    expect(trial.data(new_key) == {"color": "blue"}, "The data is missing.")


@case(11, Need.ENDS)
def cycle_key_ends_the_old_key(trial: Trial) -> None:
    """After cycle_key() and a save, the old key reads as empty."""
    key = trial.store(color="blue")
    session = trial.session(key)
    session.cycle_key()
    expect(trial.save(session) != key, "The key is the same.")
    expect(trial.data(key) == {}, "The old key leads to the session.")
