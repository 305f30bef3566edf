"""Functions to call when a setting changes, as ``override_settings`` does in tests."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from django.core.signals import setting_changed

from .validation import NAME

R = TypeVar("R", bound=Callable[[], Any])

_resets: list[tuple[frozenset[str], Callable[[], Any]]] = []


def reset_on_change(*names: str) -> Callable[[R], R]:
    """Have a function called when ``SESSIONSTORES`` or one of the named settings changes."""

    def register(reset: R) -> R:
        _resets.append((frozenset((NAME, *names)), reset))
        return reset

    return register


def _on_setting_changed(*, setting: str, **kwargs: Any) -> None:
    for names, reset in _resets:
        if setting in names:
            reset()


setting_changed.connect(_on_setting_changed, dispatch_uid="django_sessionstores.conf")
