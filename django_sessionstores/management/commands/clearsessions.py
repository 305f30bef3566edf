"""Django's ``clearsessions``, for sites without ``django.contrib.sessions``."""

from importlib import import_module
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError


class Command(BaseCommand):
    """Removes expired sessions with whatever engine ``SESSION_ENGINE`` names.

    It says how many, and works without ``django.contrib.sessions``. Where that app stands before
    this one in ``INSTALLED_APPS``, Django's command of the same name runs instead, and does the
    same.
    """

    help = "Remove the expired sessions of SESSION_ENGINE. Meant to be run regularly."

    def handle(self, *, verbosity: int, **options: Any) -> None:
        engine = import_module(settings.SESSION_ENGINE)
        try:
            removed = engine.SessionStore.clear_expired()
        except NotImplementedError:
            raise CommandError(
                f"Session engine {settings.SESSION_ENGINE!r} doesn't support clearing expired "
                "sessions."
            ) from None
        if verbosity < 1:
            return
        # Engines outside this package do not count what they remove.
        number = "The" if removed is None else f"{removed:,}"
        self.stdout.write(f"{number} expired session{'' if removed == 1 else 's'} removed.")
