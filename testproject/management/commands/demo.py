"""``manage.py demo``: set the demo up in a fresh checkout and serve its page."""

import os
import socket
from typing import Any

from django.conf import settings
from django.core.management import call_command
from django.core.management.base import BaseCommand, CommandError, CommandParser

from django_sessionstores.management.outages import outages_reported_once
from django_sessionstores.operations.doctor import ask_stores
from testproject import engines
from testproject.crowd import seed_crowd
from testproject.selfcheck import CheckFailed, checks
from testproject.setup import USERS, SetUpFailed, seed_sessions, seed_users, session_store, set_up

# It must be this address, because everyone knows the passwords.
HOST = "127.0.0.1"


class Command(BaseCommand):
    """Set the demo up and serve it, or only check it."""

    help = (
        "Set up the demo site and serve it on this machine. The variable "
        f"{engines.VARIABLE} moves it to another engine and store."
    )
    # The checks need the folders that this command makes. runserver runs them afterwards.
    requires_system_checks = []

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--port", type=int, default=8000, help="port to listen on (8000)")
        parser.add_argument(
            "--check",
            action="store_true",
            help="make a few requests to the site in this process instead of serving it",
        )

    def handle(self, *, port: int, check: bool, **options: Any) -> None:
        if not check:
            self._refuse_taken(port)
        with outages_reported_once(self) as reported:
            try:
                set_up()
                seed_users()
                seeded = seed_sessions()
            except SetUpFailed as error:
                raise CommandError(str(error)) from error
            self._introduce(seeded)
            if check:
                self._check(reported)
                return
        seed_crowd(session_store())
        site = f"http://{HOST}:{port}/"
        self.stdout.write(f"  Admin      {site}admin/ as staff, to find and end sessions\n")
        self.stdout.write(f"  Tour       {site}tour/, five steps without signing in first\n")
        self.stdout.write(f"\n  Open       {site}\n  Stop       Ctrl-C\n\n")
        self.stdout.flush()
        call_command("runserver", f"{HOST}:{port}", use_reloader=False)

    def _refuse_taken(self, port: int) -> None:
        # runserver would find out as well, but only after everything was set up and printed.
        with socket.socket() as listener:
            if os.name == "posix":  # On Windows, the option would share a port that is in use.
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                listener.bind((HOST, port))
            except (OSError, OverflowError) as error:
                reason = getattr(error, "strerror", None) or error
                raise CommandError(
                    f"Port {port} cannot be used ({reason}). Choose another one with --port."
                ) from error

    def _introduce(self, seeded: int) -> None:
        storage = session_store().storage()
        names = " or ".join(USERS)
        has_expired = storage.shared and not storage.self_expiring
        expired = ", one of them expired: try manage.py clearsessions" if has_expired else ""
        self.stdout.write(
            f"  Engine     {settings.SESSION_ENGINE}\n"
            f"  Storage    {storage.describe()}\n"
            f"  Sessions   {seeded} made{expired}\n"
            f"  Sign in    as {names}; the password is the name. Everyone knows that,\n"
            "             so the site listens on this machine only\n"
            f"  Variable   {engines.VARIABLE}={settings.DEMO.text}, see the end of the page"
        )

    def _check(self, reported: list[str]) -> None:
        """Make the checks, and add to ``reported`` what was said of stores."""
        failures = 0
        # Each by itself: requests go on while the cache in front of a database is unreachable.
        for store in ask_stores(session_store().own_storage()):
            problem = store.error or store.write_obstacle
            failures += bool(problem)
            result = (
                f"FAILED     {store.description}: {problem}"
                if problem
                else (f"ok         {store.description}: answers")
            )
            self.stdout.write(f"  {result}")
            reported.append(result)
        for what, run in checks():
            for flavour in ("/", "/async/"):
                try:
                    run(flavour)
                except CheckFailed as failure:
                    failures += 1
                    self.stdout.write(f"  FAILED     {flavour} {what}: {failure}")
                else:
                    self.stdout.write(f"  ok         {flavour} {what}")
        if failures:
            raise CommandError(f"{failures} checks failed.")
