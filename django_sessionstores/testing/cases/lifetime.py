"""Cases of lifetimes: how long a session lives, and what its end means."""

from __future__ import annotations

from contextlib import suppress
from datetime import timedelta
from typing import Any

from django.conf import settings
from django.contrib.sessions.backends.base import UpdateError
from django.utils import timezone

from .case import Need, case, expect
from .clocks import default_lifetime, moved_clock, own_lifetime
from .trial import Trial

_DAY = 86_400


@case(1)
def a_lifetime_is_kept(trial: Trial) -> None:
    """The lifetime of set_expiry() is that of later requests, too."""
    for lifetime in (3600, timedelta(hours=1), timezone.now() + timedelta(hours=1)):
        session = trial.session()
        session["color"] = "blue"
        session.set_expiry(lifetime)
        later = trial.session(trial.save(session))
        expect(abs(later.get_expiry_age() - 3600) <= 5, "get_expiry_age() is another one.")


@case(1)
def a_lifetime_of_400_days_is_kept(trial: Trial) -> None:
    """Sessions with a lifetime of 31, 60 and 400 days can be read."""
    for days in (31, 60, 400):
        session = trial.session()
        session["color"] = "blue"
        session.set_expiry(days * _DAY)
        seen = trial.data(trial.save(session))
        expect(seen.get("color") == "blue", f"Not found with a lifetime of {days} days.")


@case(1)
def a_session_until_the_browser_closes_is_kept(trial: Trial) -> None:
    """After set_expiry(0), later requests find the session, and its cookie has no expiry."""
    browser = trial.browser()

    def view(request: Any) -> None:
        request.session["color"] = "blue"
        request.session.set_expiry(0)

    answer = browser.visit(view)
    expect(browser.read().get("color") == "blue", "The session is missing.")
    morsel = answer.cookies[settings.SESSION_COOKIE_NAME]
    expect(not morsel["max-age"] and not morsel["expires"], "The cookie has an expiry.")


@case(7)
def an_expired_session_reads_as_empty(trial: Trial) -> None:
    """A session whose lifetime is over reads as empty, also if the cookie is sent again."""
    session = trial.session()
    session["color"] = "blue"
    session.set_expiry(-1)
    expect("color" not in trial.data(trial.save(session)), "Its data is found.")


@case(7)
def a_session_expires_by_the_clock(trial: Trial) -> None:
    """A session reads as empty once SESSION_COOKIE_AGE has passed, and not before."""
    with default_lifetime(trial.backend) as lifetime:
        key = trial.store(color="blue")
        with lifetime.nearly_over():
            expect(trial.data(key) == {"color": "blue"}, "It was missing too early.")
        with lifetime.over():
            expect(trial.data(key) == {}, "Its data is found too late.")


@case(7)
def a_lifetime_of_its_own_expires_by_the_clock(trial: Trial) -> None:
    """A session with set_expiry(3600) reads as empty after an hour."""
    lifetime = own_lifetime(trial.backend)
    session = trial.session()
    session["color"] = "blue"
    session.set_expiry(lifetime.seconds)
    key = trial.save(session)
    with lifetime.over():
        expect("color" not in trial.data(key), "Its data is found too late.")


@case(1, Need.CLOCK)
def a_save_moves_the_expiry(trial: Trial) -> None:
    """A save gives the session its whole lifetime again."""
    # The second save is made now: the times of files cannot be moved.
    with moved_clock(-10 * _DAY):
        key = trial.store(color="blue")
    session = trial.session(key)
    session["size"] = 1
    key = trial.save(session)
    with moved_clock(10 * _DAY):
        expect(trial.data(key).get("color") == "blue", "It expired by its first save.")


@case(7, Need.ENDS)
def a_late_save_does_not_revive_an_expired_session(trial: Trial) -> None:
    """A save that was under way when the session expired does not bring it back."""
    key = trial.store(color="blue")
    late, other = trial.session(key), trial.session(key)
    late["size"] = 1
    other.set_expiry(-1)
    trial.save(other)
    with suppress(UpdateError):
        trial.save(late)
    expect(trial.data(key) == {}, "It is there again.")


@case(1)
def clear_expired_keeps_live_sessions(trial: Trial) -> None:
    """clear_expired() removes no live session, however short its lifetime."""
    keys = []
    for lifetime in (None, 0, 60):
        session = trial.session()
        session["color"] = "blue"
        if lifetime is not None:
            session.set_expiry(lifetime)
        keys.append(trial.save(session))
    trial.backend.SessionStore.clear_expired()
    for key in keys:
        expect(trial.data(key) == {"color": "blue"}, "A live session is missing.")


@case(23, Need.ENDS)
def clear_expired_removes_expired_sessions(trial: Trial) -> None:
    """After clear_expired(), an expired session does not exist."""
    session = trial.session()
    session["color"] = "blue"
    session.set_expiry(-1)
    key = trial.save(session)
    trial.backend.SessionStore.clear_expired()
    expect(not trial.session().exists(key), "It exists.")
