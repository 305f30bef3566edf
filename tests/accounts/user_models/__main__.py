"""Call every place for one kind of user model, and print what failed as JSON."""

import json
import os
import sys
import traceback

import django

from tests.accounts.user_models import VARIABLE, WITHOUT_ADMIN


def main(kind: str) -> None:
    os.environ[VARIABLE] = kind
    os.environ["DJANGO_SETTINGS_MODULE"] = "tests.accounts.user_models.settings"
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
    failures = {}
    for name, place in PLACES.items():
        if name.startswith("admin") and kind in WITHOUT_ADMIN:
            continue
        try:
            clean()
            place()
        except Exception:  # noqa: BLE001
            failures[name] = traceback.format_exc()
        else:
            failures[name] = ""
    print(json.dumps(failures))


main(sys.argv[1])
