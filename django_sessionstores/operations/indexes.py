"""The indexes of stores that are not databases of Django, which ``migrate`` makes."""

from __future__ import annotations

import logging
from typing import Any, Final

from django.apps import AppConfig
from django.db.models.signals import post_migrate

from ..exceptions import StorageUnavailable
from .checks.configuration import parts, usable_storage

logger: Final = logging.getLogger("django_sessionstores")


def connect(app: AppConfig) -> None:
    """Have the indexes made after each ``migrate``."""
    post_migrate.connect(make_indexes, sender=app, dispatch_uid="django_sessionstores.indexes")


def make_indexes(**kwargs: Any) -> None:
    """Make the indexes of the stores that sessions are in.

    An error is logged only: the migrations of the databases are done, and sessions work without
    indexes.
    """
    for part in parts(usable_storage()):
        try:
            part.make_indexes()
        except StorageUnavailable as error:
            # The log has the reason, if the error was counted as an outage.
            logger.warning(
                "The indexes of sessions were not made, so that expired sessions may stay. When "
                "the store works, run: python manage.py sessions reindex.%s",
                "" if error.was_logged else f" {error}",
            )
