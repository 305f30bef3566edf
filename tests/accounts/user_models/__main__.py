"""Call every place for each kind of user model that the input names, and print what failed.

A line of the input is a kind and the port of a PostgreSQL server, or `WITHOUT_POSTGRESQL`. Its
answer is a line of JSON.
"""

import json
import os
import sys
import traceback
from importlib import import_module
from typing import Final

import django
import ua_parser

from tests.accounts.user_models import VARIABLE, WITHOUT_ADMIN, WITHOUT_POSTGRESQL

NEED_NO_SETTINGS: Final = (
    *("django.contrib.admin.helpers", "django.core.management.commands.migrate", "django.test"),
    *("django_sessionstores.backends.db", "django_sessionstores.testing.cases.running", "pytest"),
)


def main() -> None:
    # Once for all kinds: it takes longer than most places do.
    for module in NEED_NO_SETTINGS:
        import_module(module)
    ua_parser.parse("")  # Which makes its patterns.
    for line in sys.stdin:
        kind, port = line.split()
        child = os.fork()
        if child == 0:
            answer(kind, port)
            return
        os.waitpid(child, 0)


def answer(kind: str, port: str) -> None:
    os.environ[VARIABLE] = kind
    if port != WITHOUT_POSTGRESQL:
        os.environ["SESSIONSTORES_TEST_USERS_POSTGRESQL"] = port
    os.environ["DJANGO_SETTINGS_MODULE"] = "tests.accounts.user_models.settings"
    try:
        found = failures(kind)
    except Exception:  # noqa: BLE001
        found = {"": traceback.format_exc()}
    print(json.dumps(found), flush=True)


def failures(kind: str) -> dict[str, str]:
    """Return the traceback of each place that fails, and empty strings for the others."""
    django.setup()

    from django.core.management import call_command
    from django.db import connection
    from django.test.utils import setup_test_environment

    from tests.accounts.user_models.places import PLACES, clean

    setup_test_environment()
    if connection.vendor == "postgresql":
        with connection._nodb_cursor() as cursor:
            cursor.execute(f"DROP DATABASE IF EXISTS users_{kind}")
            cursor.execute(f"CREATE DATABASE users_{kind}")
    call_command("migrate", run_syncdb=True, verbosity=0)
    failed = {}
    for name, place in PLACES.items():
        if name.startswith("admin") and kind in WITHOUT_ADMIN:
            continue
        try:
            clean()
            place()
        except Exception:  # noqa: BLE001
            failed[name] = traceback.format_exc()
        else:
            failed[name] = ""
    return failed


main()
