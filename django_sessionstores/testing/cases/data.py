"""Cases of data: what comes out is what was put in, or it is refused."""

from __future__ import annotations

import datetime
import decimal
import uuid
from typing import Any

from django.utils.crypto import get_random_string

from .case import Failed, Need, case, expect
from .trial import Trial


@case(6)
def json_values_are_read_back(trial: Trial) -> None:
    """Nested dicts and lists, numbers, texts, booleans and None come back as they were."""
    data = {
        "nested": {"list": [{"a": [1, [2, [3]]]}, {}, []]},
        "numbers": [0, -1, 2**53 + 1, 2**63, 0.1, 1e300],
        "texts": ["", "ünïcödé 😀", "\x00", "line\nbreak", '"\\'],
        "others": [True, False, None],
    }
    seen = trial.data(trial.store(**data))
    expect(seen == data, "A value is another one.")
    expect(repr(seen) == repr(data), "A value has another type.")


@case(6)
def the_order_of_a_dict_is_kept(trial: Trial) -> None:
    """The names in a dict come back in their order."""
    data = {"z": 1, "a": {"y": 1, "b": 2}, "m": 3}
    seen = trial.data(trial.store(**data))
    expect(list(seen) == list(data) and list(seen["a"]) == ["y", "b"], "The order is another one.")


def _kept_or_refused(trial: Trial, value: Any) -> None:
    try:
        key = trial.store(value=value)
    except Exception:  # noqa: BLE001 - Django names no error for this
        return
    seen = trial.data(key).get("value")
    expect(seen == value and type(seen) is type(value), "A value was stored as another one.")


@case(6)
def other_types_are_kept_or_refused(trial: Trial) -> None:
    """Dates, decimals, UUIDs, bytes and sets come back with their types, or are refused."""
    for value in (
        datetime.datetime(2026, 2, 3, 4, 5, 6, 789, tzinfo=datetime.UTC),
        datetime.date(2026, 2, 3),
        datetime.timedelta(days=-1, microseconds=5),
        decimal.Decimal("1.10"),
        uuid.UUID(int=7),
        bytes(range(256)),
        {1, 2},
    ):
        _kept_or_refused(trial, value)


@case(6)
def tuples_are_kept_or_refused(trial: Trial) -> None:
    """A tuple comes back as a tuple, or is refused."""
    _kept_or_refused(trial, (1, 2))


@case(6)
def keys_of_dicts_are_kept_or_refused(trial: Trial) -> None:
    """A dict whose keys are numbers comes back with numbers, or is refused."""
    _kept_or_refused(trial, {1: "one", -2: "two"})


@case(6)
def names_of_fields_are_harmless(trial: Trial) -> None:
    """Names in the session that stores use for their own fields come back as they were."""
    names = (
        *("id", "key", "session_key", "session_data", "expire_date", "expires", "data"),
        *("user_id", "version", "_id", "__class__", "__proto__", "", "\x00", "$where", "a.b"),
    )
    data = dict.fromkeys(names, "x")
    seen = trial.session(trial.store(**data))
    kept = all(seen.get(name) == "x" for name in names)
    expect(kept, "A name is missing or has another value.")


@case(6)
def one_hundred_kilobytes_are_kept_or_refused(trial: Trial) -> None:
    """100 KB are there in the next request, or their request fails."""
    text = get_random_string(100_000)
    browser = trial.browser(color="blue")
    try:
        answer = browser.visit(lambda request: request.session.update({"text": text}))
    except Exception:  # noqa: BLE001 - Django names no error for this
        return
    seen = browser.read()
    if answer.status < 400:
        expect(seen.get("text") == text, "No error was reported, and the data is missing.")
    expect(seen.get("color") == "blue", "The data from before is missing.")


def _unstorable() -> Any:
    """Return a value that neither JSON nor pickle can keep."""
    return (number for number in range(0))


def _fail_to_save(trial: Trial) -> tuple[str, Any, Exception]:
    """Return a key, its session object with a value that cannot be stored, and the error."""
    key = trial.store(color="blue")
    session = trial.session(key)
    session["color"] = "red"
    session["culprit"] = {"deep": [_unstorable()]}
    try:
        trial.save(session)
    except Exception as error:  # noqa: BLE001 - Django names no error for this
        return key, session, error
    raise Failed("No error was raised.")


@case(6)
def a_value_that_cannot_be_stored_is_named(trial: Trial) -> None:
    """A value that cannot be stored is refused, with its name in the message."""
    error = _fail_to_save(trial)[2]
    expect("culprit" in str(error), f"{type(error).__name__} does not name it.")


@case(3)
def a_failed_save_changes_nothing(trial: Trial) -> None:
    """A save that raises leaves the stored session as it was."""
    key = _fail_to_save(trial)[0]
    expect(trial.data(key) == {"color": "blue"}, "The stored session has changed.")


@case(3)
def a_failed_save_can_be_tried_again(trial: Trial) -> None:
    """After a save that raised, the same object can be saved without the value."""
    _, session, _ = _fail_to_save(trial)
    del session["culprit"]
    expect(trial.data(trial.save(session)) == {"color": "red"}, "The data is another one.")


@case(3)
def a_failed_first_save_can_be_tried_again(trial: Trial) -> None:
    """After a first save that raised, the same object can be saved without the value."""
    session = trial.session()
    session["culprit"] = _unstorable()
    try:
        trial.save(session)
    except Exception:  # noqa: BLE001 - Django names no error for this
        del session["culprit"]
        session["color"] = "blue"
        expect(trial.data(trial.save(session)) == {"color": "blue"}, "The data is another one.")
    else:
        raise Failed("No error was raised.")


@case(5)
def a_nested_change_is_saved(trial: Trial) -> None:
    """A request that changes a value inside another one saves it, without modified = True."""
    browser = trial.browser(cart={"lines": [1]})
    browser.visit(lambda request: request.session["cart"]["lines"].append(2))
    expect(browser.read() == {"cart": {"lines": [1, 2]}}, "The change is lost.")


@case(5, Need.ENDS)
def an_equal_value_is_no_write(trial: Trial) -> None:
    """Assigning the value that was loaded does not undo what another request has written."""
    key = trial.store(color="blue")
    session, other = trial.session(key), trial.session(key)
    session["color"] = session["color"]
    other["color"] = "red"
    trial.save(other)
    trial.save(session)
    expect(trial.data(key) == {"color": "red"}, "The write of the other request is undone.")
