"""A site with a user model of one kind, for `tests.accounts.test_user_models`.

A process has one user model, so each kind has a process of its own: a fork of ``python -m
tests.accounts.user_models``, which calls everything in `places` and prints as JSON what failed.
"""

from typing import Final

VARIABLE: Final = "SESSIONSTORES_TEST_USERS"
"""The environment variable with the kind."""
WITHOUT_POSTGRESQL: Final = "sqlite"
"""Stands in place of the port of a PostgreSQL server: the database is one of SQLite."""
KINDS: Final = (
    "plain",
    "uuid_key",
    "text_key",
    "huge_key",
    "decimal_key",
    "hexadecimal_key",
    "unchecked_key",
    "child",
    "one_to_one_key",
    "composite_key",
    "integer_username",
    "uuid_username",
    "relation_username",
    "any_case_username",
    "email_username",
    "hidden",
    "proxied",
    "without_base",
)
WITHOUT_ADMIN: Final = ("composite_key",)
"""Kinds that cannot be in Django's admin, because no model can refer to them."""
