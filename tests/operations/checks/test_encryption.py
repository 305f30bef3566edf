"""Checks of the encryption keys."""

from __future__ import annotations

from django.test import override_settings

from django_sessionstores.operations.checks.encryption import check_encryption_keys


def test_short_encryption_keys_are_named_by_position_only():
    """W005: a weak key is found, and not printed."""
    keys = ["k" * 40, "hunter2", "l" * 32, "m" * 31]
    with override_settings(SESSIONSTORES={"ENCRYPTION_KEYS": keys}):
        (message,) = check_encryption_keys(None)
    assert message.id == "sessionstores.W005"
    assert "at: 1, 3." in message.msg
    assert not any(key in str(message) for key in keys)
