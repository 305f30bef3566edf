"""The Django project under which the cases run."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

import django
from django.conf import ENVIRONMENT_VARIABLE, settings
from django.test.runner import DiscoverRunner


@contextmanager
def site() -> Iterator[None]:
    """Load the settings of the project, or minimal ones, and create test databases.

    The databases of the project are not used.
    """
    with tempfile.TemporaryDirectory() as folder:
        if not (settings.configured or os.environ.get(ENVIRONMENT_VARIABLE)):
            _configure(folder)
        django.setup()
        runner = DiscoverRunner(verbosity=0, interactive=False)
        databases = runner.setup_databases()
        try:
            yield
        finally:
            runner.teardown_databases(databases)


def _configure(folder: str) -> None:
    settings.configure(
        DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}},
        DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",
        INSTALLED_APPS=[
            "django.contrib.contenttypes",
            "django.contrib.auth",
            "django.contrib.sessions",
            "django_sessionstores",
        ],
        SECRET_KEY="of no site",  # noqa: S106 - the sessions live as long as the command
        SESSION_FILE_PATH=folder,
        USE_TZ=True,
    )
