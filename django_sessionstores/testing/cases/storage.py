"""Cases of storage: what was saved is there, and what was not is not."""

from __future__ import annotations

from django.contrib.sessions.backends.base import CreateError

from .browser import without_private
from .case import Failed, Need, case, expect
from .trial import Trial


@case(1)
def a_saved_value_is_read_back(trial: Trial) -> None:
    """A value that was saved is found by later requests with the key."""
    key = trial.store(color="blue")
    expect(trial.data(key) == {"color": "blue"}, "The value is missing.")


@case(1)
def a_later_value_replaces_an_earlier_one(trial: Trial) -> None:
    """A later save of a name replaces its value, and leaves the other names alone."""
    session = trial.session(trial.store(color="blue", size=1))
    session["color"] = "red"
    seen = trial.data(trial.save(session))
    expect(seen == {"color": "red", "size": 1}, "The data is not that of the later save.")


@case(1)
def a_removed_name_stays_removed(trial: Trial) -> None:
    """A name that was removed from the session is not found by later requests."""
    session = trial.session(trial.store(color="blue", size=1))
    del session["color"]
    expect(trial.data(trial.save(session)) == {"size": 1}, "The name is there again.")


@case(1)
def clear_removes_all_data(trial: Trial) -> None:
    """After clear() and a save, later requests find no data."""
    session = trial.session(trial.store(color="blue"))
    session.clear()
    expect(trial.data(trial.save(session)) == {}, "Data is there again.")


@case(1)
def load_returns_what_is_stored(trial: Trial) -> None:
    """load() returns the stored data, and not the unsaved changes of the object."""
    session = trial.session(trial.store(color="blue"))
    session["color"] = "red"
    loaded = without_private(session.load().items())
    expect(loaded == {"color": "blue"}, "load() returned something else.")


@case(1)
def a_change_that_is_not_saved_is_not_seen(trial: Trial) -> None:
    """Other requests do not find a change that was not saved, also one inside a value."""
    key = trial.store(color="blue", lines=[1])
    session = trial.session(key)
    session["color"] = "red"
    session["lines"].append(2)
    expect(trial.data(key) == {"color": "blue", "lines": [1]}, "The change is found.")


@case(1, Need.ENDS)
def a_taken_key_is_not_created_again(trial: Trial) -> None:
    """save(must_create=True) raises CreateError if the key is taken, and changes nothing."""
    key = trial.store(color="blue")
    other = trial.session(key)
    try:
        other.save(must_create=True)
    except CreateError:
        expect(trial.data(key) == {"color": "blue"}, "The stored data has changed.")
    else:
        raise Failed("CreateError was not raised.")
