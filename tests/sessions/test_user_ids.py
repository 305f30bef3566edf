"""The ids of users, in the one form in which they are stored and compared."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from django.contrib.auth import get_user_model
from django.test import override_settings

from django_sessionstores.sessions.user_ids import (
    normal_user_id,
    primary_key,
    user_id_of,
    value_from_text,
)


@pytest.mark.parametrize(
    ("user", "user_id"),
    [
        (7, "7"),
        ("7", "7"),
        ("007", "7"),
        ("-0", "0"),
        (" 7", " 7"),
        ("7_0", "7_0"),
        ("\u0667", "\u0667"),
        ("not a number", "not a number"),
        ("seven", "seven"),
        ("", ""),
        (SimpleNamespace(pk=7), "7"),
        (SimpleNamespace(pk="007"), "7"),
        (None, "None"),
        (7.5, "7.5"),
    ],
)
def test_the_user_id_of_a_user(user: Any, user_id: str) -> None:
    assert user_id_of(user) == user_id


def test_the_user_id_of_an_object() -> None:
    assert user_id_of(get_user_model()(pk=7)) == "7"


def test_the_primary_key_of_a_user_id() -> None:
    field = get_user_model()._meta.pk
    assert primary_key("7") == 7
    assert primary_key("seven") is None
    assert value_from_text(field, "7") == 7
    assert value_from_text(field, "seven") is None


@pytest.mark.parametrize("user", [7, "7", "007", SimpleNamespace(pk=7)])
def test_a_site_without_users(user: Any) -> None:
    """Its sessions may have a user nevertheless, of whom nothing is known."""
    with override_settings(AUTH_USER_MODEL="missing.User"):
        assert user_id_of(user) == str(getattr(user, "pk", user))
        assert normal_user_id("007") == "007"
        assert primary_key("7") is None


def test_a_value_that_a_database_refuses() -> None:
    """Its error would be taken for an outage."""

    class Field:
        def to_python(self, text: str) -> str:
            return text

        def get_prep_value(self, value: str) -> str:
            if value == "wrong":
                raise ValueError(value)
            return value

    assert value_from_text(Field(), "right") == "right"
    assert value_from_text(Field(), "wrong") is None
