"""Cases of logout and of other ends: what is over stays over."""

from __future__ import annotations

from typing import Any

from django.contrib import auth
from django.test import override_settings

from .case import Need, case, expect
from .trial import Trial
from .users import change_password, log_in


@case(7, Need.ENDS)
def flush_ends_the_session(trial: Trial) -> None:
    """After flush(), the key reads as empty and does not exist."""
    key = trial.store(color="blue")
    trial.session(key).flush()
    expect(trial.data(key) == {}, "The session is found.")
    expect(not trial.session().exists(key), "The key exists.")


@case(7, Need.ENDS)
def delete_ends_the_session(trial: Trial) -> None:
    """After delete(key), the key reads as empty and does not exist."""
    key = trial.store(color="blue")
    trial.session().delete(key)
    expect(trial.data(key) == {}, "The session is found.")
    expect(not trial.session().exists(key), "The key exists.")


@case(7)
def deleting_twice_raises_no_error(trial: Trial) -> None:
    """delete() of a key that has ended, or that never existed, raises no error."""
    key = trial.store(color="blue")
    for each in (key, key, trial.unknown_key()):
        trial.session().delete(each)


@case(7)
def a_write_after_flush_goes_to_another_session(trial: Trial) -> None:
    """A write after flush() is stored under a new key, without the data from before."""
    key = trial.store(color="blue")
    session = trial.session(key)
    session.flush()
    session["size"] = 1
    new_key = trial.save(session)
    expect(new_key != key, "The key is the same.")
    expect(trial.data(new_key) == {"size": 1}, "The new session has other data.")


@case(7, Need.USERS, Need.ENDS)
def logout_ends_the_session(trial: Trial) -> None:
    """After a logout, the cookie from before leads to nobody and to no data."""
    browser, user = trial.browser(color="blue"), trial.user()
    browser.visit(lambda request: log_in(request, user))
    cookies = dict(browser.cookies)
    browser.visit(auth.logout)
    expect(browser.user_id() is None, "The browser is signed in.")
    browser.cookies = cookies
    expect(browser.user_id() is None, "The cookie from before the logout is signed in.")
    expect(browser.read() == {}, "The cookie from before the logout leads to data.")


@case(7, Need.USERS)
def logout_deletes_the_cookie(trial: Trial) -> None:
    """The response to a logout deletes the session cookie."""
    browser, user = trial.browser(), trial.user()
    browser.visit(lambda request: log_in(request, user))
    browser.visit(auth.logout)
    expect(browser.key is None, "The browser has a session cookie.")


@case(7, Need.USERS, Need.ENDS)
def a_write_beside_a_logout_signs_nobody_in(trial: Trial) -> None:
    """A request that writes beside a logout, and is answered after it, signs nobody in."""
    browser, user = trial.browser(), trial.user()
    browser.visit(lambda request: log_in(request, user))

    def write(request: Any) -> None:
        request.session["color"] = "blue"
        browser.visit(auth.logout)

    browser.visit(write)
    expect(browser.user_id() is None, "The browser is signed in.")


@case(7, Need.USERS, Need.ENDS)
def a_reader_beside_a_logout_signs_nobody_in(trial: Trial) -> None:
    """With SESSION_SAVE_EVERY_REQUEST, a request that reads beside a logout signs nobody in."""
    browser, user = trial.browser(), trial.user()
    browser.visit(lambda request: log_in(request, user))

    def read(request: Any) -> None:
        request.session.get("color")
        browser.visit(auth.logout)

    with override_settings(SESSION_SAVE_EVERY_REQUEST=True):
        browser.visit(read)
    expect(browser.user_id() is None, "The browser is signed in.")


@case(7, Need.USERS)
def a_new_password_ends_other_sessions(trial: Trial) -> None:
    """After a new password, the other browsers of the user are not signed in."""
    user = trial.user()
    browser, other = trial.browser(), trial.browser()
    for each in (browser, other):
        each.visit(lambda request: log_in(request, user))
    browser.visit(change_password)
    expect(other.user_id() is None, "Another browser is signed in.")


@case(7, Need.USERS)
def a_deleted_user_is_signed_out(trial: Trial) -> None:
    """The sessions of a user who was deleted are not signed in."""
    browser, user = trial.browser(), trial.user()
    browser.visit(lambda request: log_in(request, user))
    user.delete()
    expect(browser.user_id() is None, "The browser is signed in.")


@case(11, Need.USERS)
def a_login_of_another_user_drops_the_data(trial: Trial) -> None:
    """If another user logs in over a session, the data of the first one is not kept."""
    browser, first, second = trial.browser(), trial.user(), trial.user()
    browser.visit(lambda request: log_in(request, first))
    browser.visit(lambda request: request.session.update({"color": "blue"}))
    browser.visit(lambda request: log_in(request, second))
    expect(browser.user_id() == second.pk, "The second user is not signed in.")
    expect("color" not in browser.read(), "The data of the first user is found.")
