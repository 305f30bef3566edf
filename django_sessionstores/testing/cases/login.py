"""Cases of login: the new key, the old key, and the requests beside it."""

from __future__ import annotations

from typing import Any

from django.test import override_settings

from .browser import Browser
from .case import Need, case, expect
from .trial import Trial
from .users import change_password, log_in


def _read(request: Any) -> None:
    request.session.get("color")


@case(11, Need.USERS)
def a_login_makes_a_new_key(trial: Trial) -> None:
    """A login gives the session a new key, under which the user is signed in."""
    browser, user = trial.browser(color="blue"), trial.user()
    before = browser.key
    browser.visit(lambda request: log_in(request, user))
    expect(browser.key != before, "The key is the same.")
    expect(browser.user_id() == user.pk, "The user is not signed in.")


@case(11, Need.USERS)
def a_second_login_makes_a_new_key(trial: Trial) -> None:
    """A login of a user who is signed in gives the session a new key."""
    browser, user = trial.browser(), trial.user()
    browser.visit(lambda request: log_in(request, user))
    before = browser.key
    browser.visit(lambda request: log_in(request, user))
    expect(browser.key != before, "The key is the same.")


@case(11, Need.USERS)
def the_key_from_before_a_login_is_anonymous(trial: Trial) -> None:
    """The key from before a login, which an attacker may have planted, leads to no user."""
    browser, user = trial.browser(color="blue"), trial.user()
    cookies = dict(browser.cookies)
    browser.visit(lambda request: log_in(request, user))
    attacker = trial.browser()
    attacker.cookies = cookies
    expect(attacker.user_id() is None, "It is signed in.")


@case(11, Need.USERS, Need.ENDS)
def a_write_with_the_key_from_before_a_login_is_refused(trial: Trial) -> None:
    """A request that writes with the key from before a login is refused, and sets no cookie."""
    browser, user = trial.browser(color="blue"), trial.user()
    before = dict(browser.cookies)
    browser.visit(lambda request: log_in(request, user))
    answer = browser.send(lambda request: request.session.update({"size": 1}), cookies=before)
    expect(not answer.session_cookie, "It was stored in another session, whose key was set.")
    expect(answer.status == 400, f"It was answered with status {answer.status}.")


@case(13, Need.USERS)
def a_login_keeps_the_data(trial: Trial) -> None:
    """The data of an anonymous session is kept at the login."""
    browser, user = trial.browser(color="blue"), trial.user()
    browser.visit(lambda request: log_in(request, user))
    expect(browser.read().get("color") == "blue", "The data is missing.")


@case(13, Need.USERS, Need.ENDS)
def a_login_keeps_what_is_saved_beside_it(trial: Trial) -> None:
    """What another request saves while a login is under way is kept at the login."""
    browser, user = trial.browser(color="blue"), trial.user()

    def login(request: Any) -> None:
        request.session.get("color")
        browser.visit(lambda inner: inner.session.update({"cart": [1]}))
        log_in(request, user)

    browser.visit(login)
    expect(browser.user_id() == user.pk, "The user is not signed in.")
    expect(browser.read().get("cart") == [1], "The change of the other request is lost.")


@case(11, Need.USERS)
def a_new_password_makes_a_new_key(trial: Trial) -> None:
    """update_session_auth_hash() gives the session a new key, and the user stays signed in."""
    browser, user = trial.browser(), trial.user()
    browser.visit(lambda request: log_in(request, user))
    before = browser.key
    browser.visit(change_password)
    expect(browser.key != before, "The key is the same.")
    expect(browser.user_id() == user.pk, "The user is not signed in.")


def _late(browser: Browser, before: dict[str, str]) -> None:
    """Send a request with the cookies from before, which is answered last."""
    browser.receive(browser.send(_read, cookies=before))


@case(15, Need.USERS)
def a_late_reader_does_not_undo_a_login(trial: Trial) -> None:
    """A request with the key from before a login, answered after it, signs nobody out."""
    browser, user = trial.browser(color="blue"), trial.user()
    before = dict(browser.cookies)
    browser.visit(lambda request: log_in(request, user))
    _late(browser, before)
    expect(browser.user_id() == user.pk, "The browser is signed out.")


@case(15, Need.USERS)
def a_late_reader_does_not_undo_a_new_password(trial: Trial) -> None:
    """A request with the key from before a new password, answered after it, signs nobody out."""
    browser, user = trial.browser(), trial.user()
    browser.visit(lambda request: log_in(request, user))
    before = dict(browser.cookies)
    browser.visit(change_password)
    _late(browser, before)
    expect(browser.user_id() == user.pk, "The browser is signed out.")


@case(15, Need.USERS, Need.ENDS)
def a_write_beside_a_login_does_not_undo_it(trial: Trial) -> None:
    """A request that writes beside a login, and is answered after it, signs nobody out."""
    browser, user = trial.browser(color="blue"), trial.user()

    def write(request: Any) -> None:
        request.session["size"] = 1
        browser.visit(lambda inner: log_in(inner, user))

    browser.visit(write)
    expect(browser.user_id() == user.pk, "The browser is signed out.")


@case(15, Need.USERS, Need.ENDS)
def a_saving_reader_beside_a_login_does_not_undo_it(trial: Trial) -> None:
    """With SESSION_SAVE_EVERY_REQUEST, a request that reads beside a login signs nobody out."""
    browser, user = trial.browser(color="blue"), trial.user()

    def read(request: Any) -> None:
        request.session.get("color")
        browser.visit(lambda inner: log_in(inner, user))

    with override_settings(SESSION_SAVE_EVERY_REQUEST=True):
        browser.visit(read)
    expect(browser.user_id() == user.pk, "The browser is signed out.")


@case(15, Need.USERS)
def two_logins_at_once_leave_the_browser_signed_in(trial: Trial) -> None:
    """Two logins of one browser at once leave it signed in, whichever is answered last."""
    for inner_is_last in (False, True):
        browser, user = trial.browser(color="blue"), trial.user()
        inner = []

        def login(request: Any) -> None:
            request.session.get("color")
            inner.append(browser.send(lambda other: log_in(other, user)))  # noqa: B023
            log_in(request, user)  # noqa: B023

        outer = browser.send(login)
        for answer in (outer, inner[0]) if inner_is_last else (inner[0], outer):
            browser.receive(answer)
        expect(browser.user_id() == user.pk, "The browser is signed out.")


@case(15, Need.USERS)
def an_error_page_after_a_new_key_signs_nobody_out(trial: Trial) -> None:
    """If a view calls cycle_key() and is answered with status 500, the user stays signed in."""
    browser, user = trial.browser(), trial.user()
    browser.visit(lambda request: log_in(request, user))
    browser.visit(lambda request: request.session.cycle_key(), status=500)
    expect(browser.user_id() == user.pk, "The browser is signed out.")


@case(13)
def an_error_page_after_a_new_key_loses_no_data(trial: Trial) -> None:
    """If a view calls cycle_key() and is answered with status 500, the session keeps its data."""
    browser = trial.browser(color="blue")
    browser.visit(lambda request: request.session.cycle_key(), status=500)
    expect(browser.read().get("color") == "blue", "The data is missing.")
