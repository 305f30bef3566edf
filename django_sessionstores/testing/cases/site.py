"""The Django project under which the cases run."""

from __future__ import annotations

import os
import tempfile
from contextlib import ExitStack
from typing import Any, Final

import django
from django.conf import ENVIRONMENT_VARIABLE, settings
from django.test.runner import DiscoverRunner

URLCONF: Final = "django_sessionstores.testing.cases.urls"


class Site:
    """The project of DJANGO_SETTINGS_MODULE, or a minimal one, with test databases."""

    def __init__(self) -> None:
        self._stack = ExitStack()

    def set_up(self) -> None:
        """Load the settings and create test databases: those of the project are not used."""
        if not (settings.configured or os.environ.get(ENVIRONMENT_VARIABLE)):
            folder = self._stack.enter_context(tempfile.TemporaryDirectory())
            settings.configure(**minimal_settings(folder))
        django.setup()
        runner = DiscoverRunner(verbosity=0, interactive=False)
        self._stack.callback(runner.teardown_databases, runner.setup_databases())

    def tear_down(self) -> None:
        """Remove the test databases."""
        self._stack.close()


def minimal_settings(folder: str) -> dict[str, Any]:
    """Return the settings of a project that has nothing but sessions and users."""
    return {
        "DATABASES": {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}},
        "DEFAULT_AUTO_FIELD": "django.db.models.BigAutoField",
        "INSTALLED_APPS": [
            "django.contrib.contenttypes",
            "django.contrib.auth",
            "django.contrib.sessions",
            "django_sessionstores",
        ],
        "ROOT_URLCONF": URLCONF,
        "SECRET_KEY": "of no site",  # The sessions live as long as the command.
        "SESSION_FILE_PATH": folder,
        "USE_TZ": True,
    }
