"""What is forgotten or called when a setting changes, as ``override_settings`` does in tests."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any, TypeVar, cast

from django.core.signals import setting_changed

from .validation import NAME

R = TypeVar("R", bound=Callable[[], Any])
F = TypeVar("F", bound=Callable[..., Any])

_resets: list[tuple[frozenset[str], Callable[[], Any]]] = []


def reset_on_change(*names: str) -> Callable[[R], R]:
    """Have a function called when ``SESSIONSTORES`` or one of the named settings changes."""

    def register(reset: R) -> R:
        _resets.append((frozenset((NAME, *names)), reset))
        return reset

    return register


def cached_until_change(*names: str, maxsize: int | None = None) -> Callable[[F], F]:
    """Cache a function's results until ``SESSIONSTORES`` or one of the named settings changes.

    ``maxsize`` limits the number of results, which is unlimited by default.
    """

    def decorate(function: F) -> F:
        cached = lru_cache(maxsize)(function)
        reset_on_change(*names)(cached.cache_clear)
        return cast(F, cached)

    return decorate


def _on_setting_changed(*, setting: str, **kwargs: Any) -> None:
    for names, reset in _resets:
        if setting in names:
            reset()


setting_changed.connect(_on_setting_changed, dispatch_uid="django_sessionstores.conf")
