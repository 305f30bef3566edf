"""Options as the project's settings state them, each checked for its type and range.

Messages name the option and the type of its value, but not the value of an option that may be a
secret. They are phrases, because pages show them in the language of the reader.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Sequence
from datetime import timedelta
from types import NoneType
from typing import Any, Final, TypeVar, cast

from django.conf import settings as django_settings
from django.core.exceptions import ImproperlyConfigured
from django.utils.translation import gettext_noop as _

from ..core.phrases import Phrase
from ..core.records import is_storable

NAME: Final = "SESSIONSTORES"
"""The Django setting that holds the options."""
T = TypeVar("T")


class WrongValue(ImproperlyConfigured):
    """An option has a value of the wrong type, or a misspelt one.

    ``hint`` says what to write instead, or is ``None`` if the message already does.
    """

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.hint = hint


def typed_value(name: str, default: T, kind: type | tuple[type, ...]) -> T:
    """Return the value of an option, or its default if the project does not set it.

    ``True`` and ``False`` are accepted only if the kind is ``bool``, although they are integers.
    Raises `WrongValue`.
    """
    options = getattr(django_settings, NAME, {})
    if not isinstance(options, dict):
        raise WrongValue(wrong_type_message(NAME, (dict,), options))
    value = options.get(name, default)
    if not isinstance(value, kind) or isinstance(value, bool) is not (kind is bool):
        kinds = kind if isinstance(kind, tuple) else (kind,)
        raise WrongValue(
            wrong_type_message(full_name(name), kinds, value), _correction(kinds, value)
        )
    return cast("T", value)


def flag(name: str, *, default: bool) -> bool:
    """Return an option that is ``True`` or ``False``. Raises `WrongValue`."""
    return typed_value(name, default, bool)


def text(name: str, *, default: str) -> str:
    """Return an option that is a string. Raises `WrongValue` or ``ImproperlyConfigured``."""
    value = typed_value(name, default, str)
    if not is_storable(value):
        raise ImproperlyConfigured(
            Phrase(
                _("%(setting)s must be a string without NUL and surrogates."),
                setting=full_name(name),
            )
        )
    return value


def entries(name: str) -> Sequence[Any]:
    """Return an option that is a list, empty by default. Raises `WrongValue`.

    The caller checks the entries.
    """
    return typed_value(name, (), (list, tuple))


def seconds(name: str, *, default: float) -> float:
    """Return an option that is a number of seconds, 0 or more. Raises ``ImproperlyConfigured``."""
    value = typed_value(name, default, (int, float))
    if not (math.isfinite(value) and value >= 0):
        raise ImproperlyConfigured(wrong_seconds_message(full_name(name), value))
    return value


def seconds_above_zero(name: str) -> float | None:
    """Return an option that is a number of seconds greater than 0, or ``None``, its default.

    Raises ``ImproperlyConfigured``.
    """
    value = typed_value(name, None, (int, float, NoneType))
    if value is not None and not (math.isfinite(value) and value > 0):
        raise ImproperlyConfigured(
            Phrase(
                _(
                    "%(setting)s is %(value)s; it must be a number of seconds greater than 0, or "
                    "None."
                ),
                setting=full_name(name),
                value=value,
            )
        )
    return value


def wrong_seconds_message(setting: str, value: float) -> Phrase:
    """Return the message for a number that cannot be the seconds of a setting."""
    return Phrase(
        _("%(setting)s is %(value)s; it must be a number of seconds, 0 or more."),
        setting=setting,
        value=value,
    )


def count(name: str, *, default: int, least: int, most: float = math.inf) -> int:
    """Return an option that is a whole number in a range, both ends included.

    Raises ``ImproperlyConfigured``.
    """
    value = typed_value(name, default, int)
    if value < least:
        raise ImproperlyConfigured(
            Phrase(
                _("%(setting)s is %(value)s; it must be %(least)s or more."),
                setting=full_name(name),
                value=value,
                least=least,
            )
        )
    if value > most:
        raise ImproperlyConfigured(
            Phrase(
                _("%(setting)s is %(value)s; it must be %(most)s or less."),
                setting=full_name(name),
                value=value,
                most=most,
            )
        )
    return value


def choice(name: str, default: str, *others: str) -> str:
    """Return an option that is one of a few strings. Raises ``ImproperlyConfigured``."""
    value = typed_value(name, default, str)
    require_choice(full_name(name), value, (default, *others))
    return value


def require_choice(setting: str, value: str, choices: Sequence[str]) -> None:
    """Raise `WrongValue` if a value is not one of the choices."""
    if value not in choices:
        raise WrongValue(
            Phrase(
                _("%(setting)s is %(value)s; it must be one of: %(choices)s."),
                setting=setting,
                value=repr(value),
                choices=", ".join(map(repr, choices)),
            ),
            did_you_mean(value, choices),
        )


def did_you_mean(text: str, names: Iterable[str]) -> Phrase | None:
    """Return the question whether the name was meant that a text is like; ``None`` if none is."""
    near = difflib.get_close_matches(text, names, n=1)
    return Phrase(_("Did you mean %(option)s?"), option=repr(near[0])) if near else None


def full_name(name: str) -> str:
    """Return an option as the project's settings spell it: ``SESSIONSTORES['MERGE']``."""
    return f"{NAME}[{name!r}]"


def wrong_type_message(setting: str, kinds: tuple[type, ...], value: object) -> Phrase:
    """Return the message that a setting has a value of the wrong type.

    It names the type of the value only, because the value may be a secret.
    """
    return Phrase(
        _("%(setting)s must be %(expected)s, not %(type)s."),
        setting=setting,
        expected=_expectation(kinds),
        type=type(value).__name__,
    )


def _expectation(kinds: tuple[type, ...]) -> Phrase:
    # Not at import: even marking a text for translation reads Django's settings.
    return {
        (int,): Phrase(_("a whole number")),
        (int, float): Phrase(_("a number of seconds, such as 1800")),
        (int, float, NoneType): Phrase(_("None or a number of seconds, such as 1800")),
        (str,): Phrase(_("a string")),
        (bool,): Phrase(_("True or False")),
        (list, tuple): Phrase(_("a list")),
        (dict,): Phrase(_("a dict")),
    }[kinds]


def _correction(kinds: tuple[type, ...], value: object) -> Phrase | None:
    """Return what to write instead of the value, for two common mistakes."""
    if isinstance(value, str) and list in kinds:
        return Phrase(_("Write a list, also for a single entry: %(example)s."), example='["..."]')
    if isinstance(value, timedelta) and int in kinds:
        duration = value.total_seconds()
        return Phrase(
            _("Write a number of seconds: %(example)s."),
            example=str(int(duration) if duration.is_integer() else duration),
        )
    return None
