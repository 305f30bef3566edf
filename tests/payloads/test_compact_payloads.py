"""Payloads in the compact form."""

from __future__ import annotations

import pytest
from django.test import override_settings

from django_sessionstores import conf

ID = "0123456789abcdef0123456789abcdef01234567"
LOGIN = {
    "_auth_user_id": "7",
    "_auth_user_backend": "django.contrib.auth.backends.ModelBackend",
    "_auth_user_hash": "0123456789abcdef" * 4,
}


def added(data: dict[object, object]) -> int:
    """Return by how many bytes the payload is longer than the data."""
    codec = conf.codec()
    snapshot = codec.serialize(data)
    payload = codec.encrypt(ID, snapshot)
    assert codec.decrypt(ID, payload) == snapshot
    assert codec.deserialize(codec.decrypt(ID, payload)) == data
    return len(payload) - len(snapshot.data)


@pytest.mark.parametrize("data", [{}, {"a": 1}, {"text": "word " * 100}, {1: 2}])
def test_no_payload_is_longer_for_it(data: dict[object, object]) -> None:
    assert added(data) <= added({})


def test_a_login_takes_a_third() -> None:
    """Its long names and its hash are most of an ordinary session."""
    snapshot = conf.codec().serialize(LOGIN)
    assert added(LOGIN) - added({}) < -len(snapshot.data) * 2 / 3


@override_settings(SESSION_SERIALIZER="django.contrib.sessions.serializers.JSONSerializer")
def test_only_the_packages_serializer_has_a_compact_form() -> None:
    assert added(LOGIN) == added({})
