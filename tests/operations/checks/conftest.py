"""Fixtures of the tests of the checks."""

from __future__ import annotations

import pytest
from django.core import mail
from django.test import override_settings


@pytest.fixture
def production(monkeypatch):
    """As on a live site: DEBUG off and no test runner's mail outbox."""
    monkeypatch.delattr(mail, "outbox", raising=False)
    with override_settings(DEBUG=False):
        yield
