"""Checks of INSTALLED_APPS."""

from __future__ import annotations

import pytest
from django.core.management import get_commands
from django.test import override_settings

from django_sessionstores.operations.checks.installed_apps import check_order_of_apps

OWN = "django_sessionstores"
DJANGOS = "django.contrib.sessions"
AUTH = ["django.contrib.auth", "django.contrib.contenttypes"]


@pytest.mark.parametrize(
    ("own_apps", "found"),
    [
        ([DJANGOS, *AUTH, OWN], ["sessionstores.W033"]),
        (["django.contrib.sessions.apps.SessionsConfig", OWN], ["sessionstores.W033"]),
        ([OWN, DJANGOS], []),
        ([OWN], []),
        ([DJANGOS], []),
        ([], []),
    ],
    ids=["wrong", "by its class", "right", "without Django's", "without the package's", "none"],
)
def test_the_wrong_order_is_found(own_apps, found):
    """The wrong command would run, and nothing would say so."""
    with override_settings(INSTALLED_APPS=own_apps):
        get_commands.cache_clear()
        is_djangos = get_commands().get("clearsessions") == DJANGOS
        messages = check_order_of_apps(None)
    get_commands.cache_clear()
    assert [each.id for each in messages] == found
    assert is_djangos == (bool(found) or own_apps == [DJANGOS])
    for each in messages:
        assert each.hint == f"Move the line {OWN!r} above {DJANGOS!r}."
