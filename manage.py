#!/usr/bin/env python
"""Django's command line for the demo site: ``manage.py demo`` sets it up and serves it."""

import os
import sys

from django.core.exceptions import ImproperlyConfigured
from django.core.management import execute_from_command_line


def main() -> None:
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "testproject.settings")
    try:
        execute_from_command_line(sys.argv)
    except ImproperlyConfigured as error:
        # A wrong value of the variable that chooses the engine, or a client that is not there.
        sys.exit(f"{error}")


if __name__ == "__main__":
    main()
