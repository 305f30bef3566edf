"""Django's ``clearsessions``, for sites without ``django.contrib.sessions``."""

from typing import Any

from django.core.management.base import BaseCommand

from ..engine import purge, purged, until_nobody_reads


class Command(BaseCommand):
    """Removes expired sessions with whatever engine ``SESSION_ENGINE`` names.

    It says how many, and works without ``django.contrib.sessions``. Where that app stands before
    this one in ``INSTALLED_APPS``, Django's command of the same name runs instead, and does the
    same.
    """

    help = "Remove the expired sessions of SESSION_ENGINE. Meant to be run regularly."

    def handle(self, *, verbosity: int, **options: Any) -> None:
        removed = purge()
        if verbosity > 0:
            with until_nobody_reads(self.stdout):
                self.stdout.write(purged(removed))
