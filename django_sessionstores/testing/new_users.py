"""New users for tests, of any user model that can be filled by the kinds of its fields."""

from __future__ import annotations

import datetime
import secrets
import uuid
from collections.abc import Iterator
from contextlib import suppress
from decimal import Decimal
from typing import Any, Final

from django.contrib.auth import get_user_model
from django.core.exceptions import ValidationError
from django.db import models
from django.db.models import NOT_PROVIDED
from django.utils import timezone

UNSUITABLE: Final = (TypeError, ValueError, ArithmeticError, ValidationError)
"""What fields raise for a value that they cannot keep."""
_COUNTED: Final = {"AutoField", "BigAutoField", "SmallAutoField"}
"""The kinds of primary keys that count up."""


def new_user(*, has_distant_key: bool = False) -> Any:
    """Return a new, saved user of the project's model, without a usable password.

    Each field that is required or unique has a random value of its kind, and a model to which such
    a field refers has a new instance. With ``has_distant_key``, a primary key that the database
    would count up is a large random number, which is not that of a real user.
    """
    made = _new_instance(get_user_model(), has_distant_key, ())
    # With the values as the database returns them, also if the default manager hides the user.
    return type(made)._base_manager.get(pk=made.pk)


def _new_instance(model: Any, has_distant_key: bool, makers: tuple[Any, ...]) -> Any:
    if model in makers:
        raise ValueError(f"{model._meta.label} needs another instance of itself.")
    unique = set(_unique_names(model))
    values = {}
    for field in model._meta.concrete_fields:
        if field.remote_field is not None and getattr(field.remote_field, "parent_link", False):
            continue
        if isinstance(field, models.AutoField):
            # Some databases draw keys of another kind, which are random anyway.
            needs_value = has_distant_key and field.get_internal_type() in _COUNTED
        else:
            needs_value = _needs_value(field, is_unique=field.unique or field.name in unique)
        if not needs_value:
            continue
        if field.remote_field is not None:
            related = field.remote_field.model
            values[field.name] = _new_instance(related, has_distant_key, (*makers, model))
        else:
            values[field.name] = _value(field)
    made = model(**values)
    if hasattr(made, "set_unusable_password"):
        made.set_unusable_password()
    made.save()
    return made


def _unique_names(model: Any) -> Iterator[str]:
    """Yield the names of the fields that have to differ, alone or together with others."""
    yield getattr(model, "USERNAME_FIELD", "")
    yield from getattr(model, "REQUIRED_FIELDS", ())
    for options in (parent._meta for parent in (model, *model._meta.get_parent_list())):
        for names in options.unique_together:
            yield from names
        for constraint in options.constraints:
            if isinstance(constraint, models.UniqueConstraint):
                yield from constraint.fields
                # Such as Lower("email").
                expressions: Any = constraint.expressions
                for part in (part for each in expressions for part in each.flatten()):
                    if isinstance(part, models.F):
                        yield part.name  # type: ignore[attr-defined]


def _needs_value(field: Any, *, is_unique: bool) -> bool:
    if getattr(field, "generated", False):
        return False
    has_default = field.has_default() or field.db_default is not NOT_PROVIDED
    if is_unique:
        # A default that is a function makes a new value for each instance.
        return not (field.has_default() and callable(field.default)) and not (
            field.null and field.name != getattr(field.model, "USERNAME_FIELD", "")
        )
    return not (has_default or field.null or field.blank)


def _value(field: Any) -> Any:
    """Return a random value that a field accepts. Its validators are a wish only."""
    candidates = [*(key for key, _ in field.flatchoices), *_candidates(field)]
    for accepts in (lambda value: field.clean(value, None), field.get_prep_value):
        for value in candidates:
            with suppress(*UNSUITABLE):
                accepts(value)
                return value
    raise ValueError(f"{field} has no value that is known.")


def _candidates(field: Any) -> Iterator[Any]:
    now = timezone.now()
    match field:
        case models.BooleanField():
            yield field.name == "is_active"
        case models.IntegerField():
            yield from (2**bits + secrets.randbelow(2**bits - 1) for bits in (52, 30, 14))
        case models.DecimalField():
            # SQLite keeps 15 digits.
            number = Decimal(secrets.randbelow(10 ** min(field.max_digits, 15)))
            yield number.scaleb(-field.decimal_places)
        case models.FloatField():
            yield float(secrets.randbelow(2**52))
        case models.DateTimeField():
            yield now
        case models.DateField():
            yield now.date()
        case models.TimeField():
            yield now.time()
        case models.DurationField():
            yield datetime.timedelta(microseconds=secrets.randbelow(10**12))
        case models.UUIDField():
            yield uuid.uuid4()
        case models.BinaryField():
            yield secrets.token_bytes(8)
        case models.GenericIPAddressField():
            yield "10." + ".".join(str(secrets.randbelow(255)) for _ in range(3))
        case models.JSONField():
            yield {}
        case _:
            yield from _texts(field.max_length)


def _texts(limit: int | None) -> Iterator[str]:
    """Yield an address, which is valid as most names, and texts for narrower fields."""
    number, digits = secrets.token_hex(16), f"{10**11 + secrets.randbelow(9 * 10**11)}"
    for text in (f"{number[:12]}@example.com", f"https://example.com/{number}", number, digits):
        if limit is None or len(text) <= limit:
            yield text
    yield from (each[:limit] for each in (number, digits))
