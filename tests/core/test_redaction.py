"""What people may read of a session: no secret, and not more than a page can bear."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest

from django_sessionstores.core.redaction import Node, Redactor

SECRET = "hush-hush"


def nodes(found: list[Node]) -> Iterator[Node]:
    for node in found:
        yield node
        yield from nodes(node.children)


def texts(data: dict[Any, Any], *names: str) -> str:
    """Return all that a page would show of it."""
    return " ".join(f"{each.name} {each.text}" for each in nodes(Redactor(names).tree(data)))


@pytest.mark.parametrize(
    "name",
    [
        "_auth_user_hash",
        "password",
        "DB_PASSWD",
        "api_key",
        "apiKey",
        "API-KEY",
        "key",
        "access_token",
        "oauthToken",
        "_password_reset_token",
        "client secret",
        "csrftoken",
        "sessionid",
        "session_key",
        "otp",
        "sms_code",
        "card_cvc",
        "Authorization",
        "pkce_code_verifier",
    ],
)
def test_names_of_secrets(name: str) -> None:
    """The spelling of a name does not matter."""
    assert Redactor().is_secret(name)


@pytest.mark.parametrize(
    "name",
    ["cart", "_auth_user_id", "author", "monkey", "laptop", "compass", "promo_code", "pinned", 7],
)
def test_other_names(name: Any) -> None:
    """Hiding every value would leave nothing to show."""
    assert not Redactor().is_secret(name)


def test_names_of_the_project() -> None:
    """Only the project knows which of its values are secret."""
    redactor = Redactor(["Health_Record"])
    assert redactor.is_secret("old-health-records")
    assert not redactor.is_secret("record")


@pytest.mark.parametrize(
    "value",
    [
        {"token": SECRET},
        [{"deep": [{"password": {"all": SECRET}}]}],
        f"https://example.com/?step=2&token={SECRET}&x=1",
        f"Cookie: a\nAuthorization: Bearer {SECRET}",
        json.dumps({"a": {"access_token": SECRET}}),
        "{'broken': 'json', 'access_token': '" + SECRET + "'",
        "[" * 2000 + f'"token": "{SECRET}"',
        SECRET.encode(),
        bytearray(SECRET.encode()),
    ],
    ids=["dict", "deep", "url", "header", "json", "broken", "many", "bytes", "bytearray"],
)
def test_no_secret_is_shown(value: Any) -> None:
    """The place of the secret does not matter."""
    assert SECRET not in texts({"value": value})


def test_a_tree_of_values() -> None:
    """Names, types and values as a person reads them."""
    moment = datetime(2026, 1, 2, tzinfo=UTC)
    found = Redactor().tree({"b": [1, {"c": "x"}], "a": moment, 3: {2, 1}, "e": ""})
    assert [(each.name, each.kind, each.text) for each in nodes(found)] == [
        ("3", "set", ""),
        ("0", "int", "1"),
        ("1", "int", "2"),
        ("a", "datetime", repr(moment)),
        ("b", "list", ""),
        ("0", "int", "1"),
        ("1", "dict", ""),
        ("c", "str", "x"),
        ("e", "str", ""),
    ]


def test_a_tree_has_its_bounds() -> None:
    """One session must not make a page of a hundred megabytes."""
    deep: list[Any] = []
    for _ in range(500):
        deep = [deep]
    data = {"deep": deep, "long": "x" * 10**6, "many": list(range(10**5)), "wide": [[0] * 99] * 99}
    found = Redactor().tree(data)
    assert sum(1 for _ in nodes(found)) <= 2000
    assert max(len(each.text) for each in nodes(found)) < 1000
    many = next(each for each in found if each.name == "many")
    assert (len(many.children), many.left_out) == (100, 10**5 - 100)
