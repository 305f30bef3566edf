"""Payloads in the compact form, which stores in memory get."""

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


@pytest.mark.parametrize("data", [{}, {"a": 1}, LOGIN, {"text": "word " * 100}, {1: 2}])
def test_every_codec_reads_a_compact_payload(data: dict[object, object]) -> None:
    """A session may come from another engine, or from a version that did not write it."""
    plain, compact = conf.codec(), conf.compact_codec()
    snapshot = plain.serialize(data)
    short, long = compact.encrypt(ID, snapshot), plain.encrypt(ID, snapshot)
    assert len(short) <= len(long)
    for codec in (plain, compact):
        for payload in (short, long):
            assert codec.decrypt(ID, payload) == snapshot
            assert codec.deserialize(codec.decrypt(ID, payload)) == data


def test_a_login_takes_half() -> None:
    compact, snapshot = conf.compact_codec(), conf.codec().serialize(LOGIN)
    assert len(compact.encrypt(ID, snapshot)) < len(conf.codec().encrypt(ID, snapshot)) / 2


@override_settings(SESSION_SERIALIZER="django.contrib.sessions.serializers.JSONSerializer")
def test_only_the_packages_serializer_has_a_compact_form() -> None:
    compact, snapshot = conf.compact_codec(), conf.codec().serialize(LOGIN)
    payload = compact.encrypt(ID, snapshot)
    assert len(payload) == len(conf.codec().encrypt(ID, snapshot))
    assert compact.decrypt(ID, payload) == snapshot
