"""The settings under which the suite runs, whatever the project has set."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, Final

from django.conf import global_settings
from django.conf import settings as django_settings
from django.test import override_settings

from ...conf import NAME

_LIFETIME: Final = (
    "SESSION_COOKIE_AGE",
    "SESSION_EXPIRE_AT_BROWSER_CLOSE",
    "SESSION_SAVE_EVERY_REQUEST",
)
"""Settings of Django by which a session lives."""
KEPT: Final = frozenset(
    {
        "REGISTRY",
        "ENCRYPTION_KEYS",
        "DATABASE_TIMEOUT",
        "CACHED_STORE",
        "MONGODB_URI",
        "MONGODB_CLIENT",
        "MONGODB_DATABASE",
        "MONGODB_COLLECTION",
        "SITE",
    }
)
"""Options that say where and how sessions are stored, and not how they behave."""


class NeutralSettings:
    """The base of the suite's classes: each of their tests runs under `neutral_settings`.

    A test that a project adds runs under the settings of the project.
    """

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if cls.__module__.startswith(f"{__package__}."):
            for name, value in list(vars(cls).items()):
                if name.startswith("test_"):
                    setattr(cls, name, _under_neutral_settings(value))


def _under_neutral_settings(test: Callable[..., None]) -> Callable[..., None]:
    @wraps(test)
    def run(*args: Any, **kwargs: Any) -> None:
        with override_settings(**neutral_settings()):
            test(*args, **kwargs)

    return run


def neutral_settings(**options: Any) -> dict[str, Any]:
    """Return the settings to override so that sessions behave as they do by default.

    ``options`` are options of the package that replace those of the project.
    """
    changes: dict[str, Any] = {
        name: getattr(global_settings, name)
        for name in _LIFETIME
        if getattr(django_settings, name) != getattr(global_settings, name)
    }
    of_project = getattr(django_settings, NAME, {})
    if isinstance(of_project, dict) and (options or of_project.keys() - KEPT):
        kept = {name: of_project[name] for name in KEPT & of_project.keys()}
        changes[NAME] = {**kept, **options}
    return changes
