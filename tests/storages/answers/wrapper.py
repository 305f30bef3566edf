"""A storage around another one that does nothing itself."""

from __future__ import annotations

from collections.abc import Iterator

from django_sessionstores.storages.base import (
    Storage,
)
from django_sessionstores.storages.composed import Wrapper
from tests.storages.answers.common import ARGUMENTS, FORWARDED, Case
from tests.storages.scripted import (
    Script,
    Scripted,
)


def wrapper(script: Script) -> Storage:
    return Wrapper(Scripted("inner", script, FORWARDED))


def cases() -> Iterator[Case]:
    for method, args in ARGUMENTS.items():
        yield Case("wrapper", method, wrapper, method, args)
