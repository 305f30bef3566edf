"""No check complains about a sound configuration."""

from __future__ import annotations

import pytest
from django.test import override_settings

from django_sessionstores.operations.checks.cookies import (
    check_cookie,
    check_cookie_protection,
    check_cookie_size,
)
from django_sessionstores.operations.checks.encryption import check_encryption_keys
from django_sessionstores.operations.checks.engine import check_engine
from django_sessionstores.operations.checks.folders import (
    check_file_path,
    check_folder,
    check_mount_point,
    check_place,
)
from django_sessionstores.operations.checks.installed_apps import check_order_of_apps
from django_sessionstores.operations.checks.middleware import (
    check_devices_page,
    check_middleware,
    check_middleware_order,
)
from django_sessionstores.operations.checks.options import (
    check_merge_functions,
    check_settings,
    check_unused_options,
)
from django_sessionstores.operations.checks.previous_backends import check_previous_backends
from django_sessionstores.operations.checks.registry import check_registry
from django_sessionstores.operations.checks.stores import (
    check_cache,
    check_database,
    check_memory,
    check_write_access,
)
from tests.operations.checks.configurations import ENGINES, ids


@pytest.mark.parametrize(
    "check",
    [
        check_settings,
        check_merge_functions,
        check_engine,
        check_unused_options,
        check_memory,
        check_cache,
        check_registry,
        check_database,
        check_file_path,
        check_place,
        check_mount_point,
        check_folder,
        check_write_access,
        check_encryption_keys,
        check_cookie,
        check_cookie_size,
        check_middleware,
        check_middleware_order,
        check_devices_page,
        check_order_of_apps,
        check_cookie_protection,
        check_previous_backends,
    ],
)
@override_settings(SESSION_ENGINE=ENGINES + "memory", DEBUG=True)
def test_a_sound_configuration_passes(check):
    """No check cries wolf: noise teaches people to ignore checks."""
    assert ids(check) == []
