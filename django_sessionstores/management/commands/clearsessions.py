"""``manage.py clearsessions``, for sites without ``django.contrib.sessions``."""

from typing import Any

from django.core.management.base import BaseCommand, CommandError

from ..engine import purge
from ..outages import outages_reported_once
from ..reports import purge_summary
from ..terminal import exit_if_pipe_closes, respect_no_color, reword


class Command(BaseCommand):
    """Removes the expired sessions of any engine, and says how many it removed.

    It works without ``django.contrib.sessions``. If that app is before this one in
    ``INSTALLED_APPS``, Django's command of the same name runs instead, and does the same.
    """

    help = "Remove the expired sessions of SESSION_ENGINE. Meant to be run regularly."

    def handle(self, *, verbosity: int, **options: Any) -> None:
        respect_no_color(self, force_color=options["force_color"])
        try:
            with outages_reported_once(self):
                removed = purge()
        except CommandError as error:
            reword(error, self.stderr)
            raise
        if verbosity > 0:
            with exit_if_pipe_closes(self.stdout):
                self.stdout.write(purge_summary(removed))
