"""Texts of SQLite that are not UTF-8, as a damaged file has them."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from django.db import OperationalError

if TYPE_CHECKING:
    from django.db.backends.base.base import BaseDatabaseWrapper

T = TypeVar("T")


def read_texts(connection: BaseDatabaseWrapper, read: Callable[[], T]) -> T:
    """Return what a function reads, with the replacement character for what is not UTF-8.

    The client of SQLite raises an error for such a text, so that one row would stop the list of all
    of them. Other databases contain none.
    """
    try:
        return read()
    except OperationalError as error:
        driver = connection.connection
        if not (isinstance(driver, sqlite3.Connection) and "decode to UTF-8" in str(error)):
            raise
    before = driver.text_factory
    driver.text_factory = _decode
    try:
        return read()
    finally:
        driver.text_factory = before


def _decode(text: bytes) -> str:
    return text.decode(errors="replace")
