"""Users of the project, created for one case."""

from __future__ import annotations

from typing import Any

from django.apps import apps
from django.conf import settings
from django.contrib import auth
from django.http import HttpRequest
from django.utils.crypto import get_random_string


class UsersUnavailable(Exception):
    """The command cannot create users. The message is the reason."""


def new_user() -> Any:
    """Return a new user of the project's model, without a usable password."""
    if not apps.is_installed("django.contrib.auth"):
        raise UsersUnavailable("django.contrib.auth is not in INSTALLED_APPS.")
    model: Any = auth.get_user_model()
    names = {model.USERNAME_FIELD, *model.REQUIRED_FIELDS}
    # Also valid as the address that many projects sign users in with.
    values = dict.fromkeys(names, f"{get_random_string(12).lower()}@example.com")
    try:
        return model._default_manager.create_user(**values)
    except Exception as error:
        raise UsersUnavailable(
            f"{settings.AUTH_USER_MODEL} could not be created: {type(error).__name__}."
        ) from error


def log_in(request: HttpRequest, user: Any) -> None:
    """Log a user in with the first authentication backend of the project."""
    auth.login(request, user, backend=settings.AUTHENTICATION_BACKENDS[0])


def change_password(request: Any) -> None:
    """Give the user of a request another password, and keep the session of this request."""
    user = request.user
    user.set_unusable_password()  # Another random one, so that the hash in the session changes.
    user.save()
    auth.update_session_auth_hash(request, user)
