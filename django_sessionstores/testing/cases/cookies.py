"""Cases of cookies: what responses set, and that it leads to a session."""

from __future__ import annotations

from typing import Any

from django.conf import settings

from .case import Need, case, expect
from .trial import Trial
from .users import log_in


@case(4)
def reading_an_empty_session_sets_no_cookie(trial: Trial) -> None:
    """A visitor without a cookie whose request only reads gets none."""
    answer = trial.browser().visit(lambda request: request.session.get("color"))
    expect(answer.session_cookie is None, "A cookie was set.")


@case(4)
def reading_a_session_sets_no_cookie(trial: Trial) -> None:
    """A request that only reads a session sets no cookie."""
    answer = trial.browser(color="blue").visit(lambda request: request.session.get("color"))
    expect(answer.session_cookie is None, "A cookie was set.")


@case(16)
def the_first_write_sets_the_cookie_of_its_session(trial: Trial) -> None:
    """The response to the first write sets a cookie that leads to what was written."""
    browser = trial.browser()
    answer = browser.visit(lambda request: request.session.update({"color": "blue"}))
    expect(answer.session_cookie, "No cookie was set.")
    expect(browser.read() == {"color": "blue"}, "It does not lead to the session.")


@case(16)
def a_failed_request_sets_no_cookie(trial: Trial) -> None:
    """The response with status 500 to a first write sets no cookie."""
    browser = trial.browser()
    answer = browser.visit(lambda request: request.session.update({"color": "blue"}), status=500)
    expect(not answer.session_cookie, "A cookie was set.")


@case(16)
def a_new_key_is_set_by_its_response(trial: Trial) -> None:
    """The response to a request that calls cycle_key() sets the key that the object has."""
    browser = trial.browser(color="blue")
    seen: list[Any] = []

    def view(request: Any) -> None:
        request.session.cycle_key()
        seen.append(request.session)

    answer = browser.visit(view)
    expect(answer.session_cookie == seen[0].session_key, "Cookie and object have other keys.")
    expect(browser.read() == {"color": "blue"}, "It does not lead to the session.")


@case(1)
def a_cookie_lives_as_long_as_its_session(trial: Trial) -> None:
    """The cookie of a session lives as long as the session."""
    browser = trial.browser()

    def view(request: Any) -> None:
        request.session["color"] = "blue"
        request.session.set_expiry(3600)

    morsel = browser.visit(view).cookies[settings.SESSION_COOKIE_NAME]
    expect(abs(int(morsel["max-age"]) - 3600) <= 5, "Its max-age is another one.")


@case(1)
def two_visitors_have_two_sessions(trial: Trial) -> None:
    """Two visitors without a cookie get two sessions, each with its own data."""
    first, second = trial.browser(color="blue"), trial.browser(color="red")
    expect(first.key != second.key, "They have the same key.")
    expect(first.read() == {"color": "blue"}, "The first one has the data of the second one.")


@case(1, Need.USERS)
def two_users_have_two_sessions(trial: Trial) -> None:
    """Two users who sign in get two sessions, and nothing of one is found in the other."""
    first, second = trial.browser(), trial.browser()
    for browser in (first, second):
        user = trial.user()
        browser.visit(lambda request: log_in(request, user))  # noqa: B023
    first.visit(lambda request: request.session.update({"color": "blue", "_cart": [1]}))
    expect(first.key != second.key, "They have the same key.")
    expect(first.read() == {"color": "blue"}, "The data of the first one is missing.")
    seen: dict[str, Any] = {}
    second.visit(lambda request: seen.update(request.session.items()))
    expect(not {"color", "_cart"} & seen.keys(), "The second one has data of the first one.")


@case(29)
def a_view_can_replace_the_session(trial: Trial) -> None:
    """A view that assigns another session object to request.session hands it to the browser."""
    browser = trial.browser(color="blue")

    def view(request: Any) -> None:
        request.session = trial.session()
        request.session["size"] = 1

    browser.visit(view)
    expect(browser.read() == {"size": 1}, "The browser has another session.")
