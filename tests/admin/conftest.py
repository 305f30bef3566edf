"""Fixtures of all tests of the admin."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from django.test import Client, override_settings

from tests.admin.pages import person, signed_in
from tests.pages import MIDDLEWARE


@pytest.fixture
def site(engine: Any) -> Iterator[Any]:
    """Yield a site with an admin, on an engine that lists."""
    if not engine.storage.lists:
        pytest.skip(f"{engine.id} declares that it cannot list")
    with override_settings(MIDDLEWARE=MIDDLEWARE):
        yield engine


@pytest.fixture
def root(site: Any) -> Any:
    return person("root", is_superuser=True)


@pytest.fixture
def client(root: Any) -> Client:
    """Return the browser of an administrator."""
    return signed_in(root)
