"""Users of the project, created for one case."""

from __future__ import annotations

from typing import Any

from django.apps import apps
from django.conf import settings
from django.contrib import auth
from django.http import HttpRequest

from .. import new_users
from .case import DoesNotApply


class UsersUnavailable(Exception):
    """The project has no users. The message is the reason."""


class UsersNotMade(Exception):
    """The command could not make a user. The message is the reason."""


def new_user() -> Any:
    """Return a new user of the project's model, without a usable password.

    The users of the command are in a test database, which counts from 1, but some backends keep
    sessions on the server of the real users, whose primary keys these must not be.
    """
    if not apps.is_installed("django.contrib.auth"):
        raise UsersUnavailable("django.contrib.auth is not in INSTALLED_APPS.")
    try:
        return new_users.new_user(has_distant_key=True)
    except Exception as error:
        raise UsersNotMade(
            f"No user of {settings.AUTH_USER_MODEL} could be made: {type(error).__name__}."
        ) from error


def log_in(request: HttpRequest, user: Any) -> None:
    """Log a user in with the first authentication backend of the project."""
    auth.login(request, user, backend=settings.AUTHENTICATION_BACKENDS[0])


def change_password(request: Any) -> None:
    """Give the user of a request another password, and keep the session of this request."""
    user = request.user
    if not hasattr(user, "set_unusable_password"):
        raise DoesNotApply("The users of the project have no password.")
    user.set_unusable_password()  # Another random one, so that the hash in the session changes.
    user.save()
    auth.update_session_auth_hash(request, user)
