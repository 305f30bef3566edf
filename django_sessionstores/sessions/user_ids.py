"""User ids: the primary key of a user as text, which session data and records contain.

Django writes this text at login, by ``value_to_string()`` of the field. It is not ``str()`` for
every field, and it is not the same before and after the user is read: the number 7 becomes 7.00. So
each user id is brought into one form before it is stored or compared.
"""

from __future__ import annotations

import re
from contextlib import suppress
from decimal import Decimal
from types import SimpleNamespace
from typing import Any, Final

from ..conf import cached_until_change

_LITERAL: Final = re.compile(r"[!-^`-~]+")
"""A text of visible ASCII characters without the underscore."""


def user_id_of(user: Any) -> str:
    """Return the user id of a user, which is an object, a primary key or a user id."""
    if hasattr(user, "_meta"):
        user_model = _user_model()
        # The table of a child of the user model may have another primary key.
        model = user_model if user_model and isinstance(user, user_model) else user
        return normal_user_id(model._meta.pk.value_to_string(user))
    pk = getattr(user, "pk", user)
    return normal_user_id(pk) if isinstance(pk, str) else _text_of(pk) or str(pk)


# Each save of a session asks several times.
@cached_until_change("AUTH_USER_MODEL", maxsize=1024)
def normal_user_id(text: str) -> str:
    """Return a user id in the one form that is stored.

    A text that cannot be a primary key of the user model is returned unchanged. It may be the
    primary key of another model that the site used before.
    """
    if not _LITERAL.fullmatch(text):
        return text  # Python would read " 7", "7_0" and other digits as numbers.
    return _text_of(primary_key(text)) or text


def primary_key(user_id: str) -> Any:
    """Return the primary key that a user id stands for; ``None`` if it cannot be one."""
    user_model = _user_model()
    return None if user_model is None else value_from_text(user_model._meta.pk, user_id)


def value_from_text(field: Any, text: str) -> Any:
    """Return the value of a model's field that a text stands for; ``None`` if there is none."""
    # A field of another package may raise anything.
    with suppress(Exception):
        value = field.to_python(text)
        # The error would otherwise come from the database, and be taken for an outage.
        field.get_prep_value(value)
        return value
    return None


def _text_of(pk: Any) -> str:
    """Return the user id of a primary key; an empty string if it is not one of the user model."""
    user_model = _user_model()
    if pk is None or user_model is None:
        return ""
    field = user_model._meta.pk
    # A field of another package may raise anything.
    with suppress(Exception):
        if isinstance(pk, Decimal):
            pk = _with_all_places(_target(field), pk)
        return str(field.value_to_string(SimpleNamespace(**{field.attname: pk, field.name: pk})))
    return ""


def _with_all_places(field: Any, number: Decimal) -> Decimal:
    """Return a number with the decimal places that the database gives it."""
    return number.quantize(Decimal(1).scaleb(-field.decimal_places), context=field.context)


def _target(field: Any) -> Any:
    """Return the field that a primary key refers to, if it is a relation, or else itself."""
    while field.remote_field is not None:
        field = field.target_field
    return field


def _user_model() -> Any:
    # Not at the top: the models of django.contrib.auth need the app registry.
    from django.contrib.auth import get_user_model
    from django.core.exceptions import ImproperlyConfigured

    try:
        return get_user_model()
    except ImproperlyConfigured:
        return None  # The site has no users.
