"""Checks of the encryption keys."""

from __future__ import annotations

from django.test import override_settings

from django_sessionstores.operations.checks.encryption import check_encryption_keys


def test_short_encryption_keys_are_named_by_position_only():
    """W005: a weak key is found, and not printed."""
    with override_settings(SESSIONSTORES={"ENCRYPTION_KEYS": ["k" * 40, "hunter2"]}):
        (message,) = check_encryption_keys(None)
    assert message.id == "sessionstores.W005"
    assert "hunter2" not in str(message)
