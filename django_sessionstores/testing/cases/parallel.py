"""Cases of parallel requests that write one session: what of it is kept."""

from __future__ import annotations

from typing import Any

from django.contrib import auth
from django.test import override_settings

from .case import Need, case, expect
from .trial import Trial, is_refused


def _two(trial: Trial, **data: Any) -> tuple[str, Any, Any]:
    """Return a key, and two session objects that have loaded its session."""
    key = trial.store(**data)
    first, second = trial.session(key), trial.session(key)
    for session in (first, second):
        session.get("color")
    return key, first, second


@case(2, Need.ENDS)
def writes_of_different_names_are_both_kept(trial: Trial) -> None:
    """Of two parallel requests that write different names, both changes are kept."""
    key, first, second = _two(trial, color="blue")
    first["cart"], second["language"] = [1], "fr"
    trial.save(first)
    trial.save(second)
    seen = trial.data(key)
    expect("cart" in seen, "The change of the request that saved first is lost.")
    expect("language" in seen, "The change of the request that saved last is lost.")


@case(2, Need.ENDS)
def the_later_write_of_one_name_stands(trial: Trial) -> None:
    """Of two parallel requests that write the same name, the later save stands."""
    key, first, second = _two(trial, color="blue")
    first["color"], second["color"] = "red", "green"
    trial.save(second)
    trial.save(first)
    expect(trial.data(key) == {"color": "red"}, "The value is not that of the later save.")


@case(2, Need.ENDS)
def a_removal_beside_a_write_is_kept(trial: Trial) -> None:
    """A name that one request removes is not brought back by the save of another one."""
    key, first, second = _two(trial, color="blue", coupon="X")
    del first["coupon"]
    second["color"] = "red"
    trial.save(first)
    trial.save(second)
    expect(trial.data(key) == {"color": "red"}, "The removed name is there again.")


@case(2, Need.ENDS)
def a_write_beside_a_removal_is_kept(trial: Trial) -> None:
    """A name that one request writes is kept if another one removes another name later."""
    key, first, second = _two(trial, color="blue", coupon="X")
    first["color"] = "red"
    del second["coupon"]
    trial.save(first)
    trial.save(second)
    expect(trial.data(key) == {"color": "red"}, "The change of the first request is lost.")


@case(2, Need.ENDS)
def a_late_reader_does_not_undo_a_write(trial: Trial) -> None:
    """A request that only reads does not undo a write when its session is saved later."""
    key, reader, writer = _two(trial, color="blue")
    writer["color"] = "red"
    trial.save(writer)
    trial.save(reader)
    expect(trial.data(key) == {"color": "red"}, "The write is undone.")


@case(2, Need.ENDS)
def nested_writes_of_different_names_are_both_kept(trial: Trial) -> None:
    """Of two parallel requests that change values inside different names, both are kept."""
    key, first, second = _two(trial, cart={"lines": []}, seen={"pages": []})
    first["cart"]["lines"].append(1)
    second["seen"]["pages"].append(2)
    for session in (first, second):
        session.modified = True
        trial.save(session)
    seen = trial.data(key)
    expect(seen == {"cart": {"lines": [1]}, "seen": {"pages": [2]}}, "A change is lost.")


@case(2, Need.ENDS)
def requests_that_write_different_names_are_both_kept(trial: Trial) -> None:
    """A request that runs inside another one, and writes another name, keeps its change."""
    browser = trial.browser(color="blue")

    def outer(request: Any) -> None:
        request.session["cart"] = [1]
        browser.visit(lambda inner: inner.session.update({"language": "fr"}))

    browser.visit(outer)
    seen = browser.read()
    expect("cart" in seen and "language" in seen, "The change of one request is lost.")


@case(7, Need.ENDS)
def a_late_save_does_not_revive_an_ended_session(trial: Trial) -> None:
    """A save that was under way when the session was deleted does not bring it back."""
    key, late, other = _two(trial, color="blue")
    late["color"] = "red"
    other.flush()
    refused = is_refused(lambda: trial.save(late))
    expect(trial.data(key) == {}, "The session is there again.")
    expect(refused, "The session stays ended, but save() reported no error.")


@case(7, Need.ENDS)
def a_late_reader_does_not_revive_an_ended_session(trial: Trial) -> None:
    """A request that only reads does not bring back a session that was deleted meanwhile."""
    key, late, other = _two(trial, color="blue")
    other.flush()
    is_refused(lambda: trial.save(late))
    expect(trial.data(key) == {}, "The session is there again.")


@case(7, Need.USERS, Need.ENDS)
def cycle_key_does_not_revive_an_ended_session(trial: Trial) -> None:
    """cycle_key() of a session that was deleted meanwhile does not bring its data back."""
    key, late, other = _two(trial, color="blue", **{auth.SESSION_KEY: str(trial.user().pk)})
    other.flush()

    def cycle() -> None:
        late.cycle_key()
        trial.save(late)

    is_refused(cycle)
    expect(trial.data(key) == {}, "The session is there again.")
    expect(trial.data(late.session_key) == {}, "Its data is found under another key.")


@case(11, Need.USERS, Need.ENDS)
def two_new_keys_at_once_leave_one_session(trial: Trial) -> None:
    """If two requests change the key of a signed-in session, one session is left."""
    _, first, second = _two(trial, color="blue", **{auth.SESSION_KEY: str(trial.user().pk)})

    def cycle(session: Any) -> None:
        session.cycle_key()
        trial.save(session)

    for session in (first, second):
        is_refused(lambda session=session: cycle(session))  # type: ignore[misc]
    live = [session for session in (first, second) if trial.data(session.session_key)]
    expect(live, "No session is left.")
    expect(len(live) == 1, "Two sessions are left.")


@case(17, Need.ENDS)
def a_reader_beside_an_end_gets_no_error(trial: Trial) -> None:
    """With SESSION_SAVE_EVERY_REQUEST, a request that only reads is answered without an error
    if the session ends meanwhile."""
    browser = trial.browser(color="blue")

    def read(request: Any) -> None:
        request.session.get("color")
        browser.visit(lambda inner: inner.session.flush())

    with override_settings(SESSION_SAVE_EVERY_REQUEST=True):
        answer = browser.visit(read)
    expect(answer.status == 200, f"It was answered with status {answer.status}.")
