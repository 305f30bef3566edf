"""Users: by the text that an operator enters, by the user ids in sessions, and by request.

The functions work with every user model. A text that cannot be a value of a field matches no user,
whatever error the field or the database has for it; only a database that does not answer raises
Django's ``Error``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import nullcontext
from itertools import islice
from typing import Any, Final, NamedTuple

from django.contrib.auth import get_user_model
from django.core.exceptions import (
    FieldDoesNotExist,
    ImproperlyConfigured,
    MultipleObjectsReturned,
    ObjectDoesNotExist,
    ValidationError,
)
from django.db import DataError, Error, connections, transaction
from django.db.models import CharField, ForeignKey, Model, Q, QuerySet, TextField
from django.http import HttpRequest

from ..core.phrases import escape_invisible
from ..core.records import is_storable
from ..inventory import Inventory
from ..sessions.user_ids import normal_user_id, primary_key, user_id_of, value_from_text

_AT_ONCE: Final = 200
"""How many users one query reads by their primary keys: databases limit its parameters."""
_MOST_NAMESAKES: Final = 20
"""How many users with the same text are read."""
_PERSONAL: Final = ("first_name", "last_name", "full_name", "name")
"""Fields that have names of people in common user models."""
_REFUSED: Final = (ValueError, TypeError, ArithmeticError, ValidationError)
"""The errors of fields and of database drivers for a value that cannot be compared."""


class FoundUser(NamedTuple):
    """A user that an operator may have meant."""

    id: str
    """The user id, see `sessions.user_ids`."""
    name: str
    """The username; the user id if there is no username, or if the user no longer exists."""
    exists: bool = True


class Usernames(dict[str, str]):
    """Usernames by user id. Users that no longer exist are left out."""

    problem: Error | None = None
    """The error of the database of users; ``None`` if it has answered."""

    def of(self, user_id: str) -> str:
        """Return the username; the user id if it is not known."""
        return self.get(user_id, user_id)

    def shown(self, user_id: str) -> str:
        """Return the username, or else the user id, as pages show it."""
        return escape_invisible(self.of(user_id))


# --- By user id ---------------------------------------------------------------------------------


def usernames(user_ids: Iterable[str | None]) -> Usernames:
    """Return the usernames of users. There are none if their database does not answer."""
    names, wanted = Usernames(), {each for each in user_ids if each is not None}
    try:
        users = get_user_model()
    except ImproperlyConfigured:
        return names
    # The stored form may be from before a change of the model.
    forms = {user_id: normal_user_id(user_id) for user_id in wanted if is_storable(user_id)}
    keys = {form: pk for form in forms.values() if (pk := primary_key(form)) is not None}
    found: dict[str, str] = {}
    try:
        queryset = _with_usernames(users._base_manager.all())
        for each in _read_by_primary_keys(queryset, list(keys.values())):
            found[user_id_of(each)] = name_of(each)
    except Error as error:
        # Usernames are optional: sessions can be listed while this database does not answer.
        names.problem = error
        return names
    names.update({user_id: found[form] for user_id, form in forms.items() if form in found})
    return names


def find_user(user_id: str) -> Model | None:
    """Return the user with this user id; ``None`` if there is none or it cannot be read."""
    try:
        users = get_user_model()._base_manager.all()
        pk = primary_key(user_id) if is_storable(user_id) else None
        return next(iter(_read_by_primary_keys(users, [] if pk is None else [pk])), None)
    except (Error, ImproperlyConfigured):
        return None


def name_of(user: Any) -> str:
    """Return the username of a user as text.

    The user id if the user has none, or if it is in a row that no longer exists.
    """
    try:
        get_username = getattr(user, "get_username", None)
        name = get_username() if get_username else getattr(user, user.USERNAME_FIELD)
        text = "" if name is None else str(name)
    except (ObjectDoesNotExist, AttributeError, *_REFUSED):
        text = ""
    return text or user_id_of(user)


# --- By the text of an operator -----------------------------------------------------------------


def find_users(text: str) -> list[FoundUser]:
    """Return the users that have this text as primary key, username or email address.

    There may be several: the primary key of one user is the username of another. The case of the
    text only counts if it tells users apart, and email addresses if nothing else matches. Raises
    Django's ``Error`` if the database of users does not answer.
    """
    try:
        users: Any = get_user_model()
    except ImproperlyConfigured:
        return []
    if not text or not is_storable(text):
        return []  # The error of a database driver would be mistaken for an outage.
    username = users._meta.get_field(users.USERNAME_FIELD)
    pk = primary_key(text)
    exact = [] if pk is None else _select(Q(pk=pk))
    value = value_from_text(username, text)
    if value is not None:
        exact += _select(Q(**{username.name: value}))
    if (normal := _normal_username(users, text)) not in {None, text}:
        exact += _select(Q(**{username.name: normal}))
    exact += _by_natural_key(users, text)
    if isinstance(username, ForeignKey):
        exact += _by_related(username, text)
    if exact:
        return _sorted(exact)
    for field in (username, users._meta.pk, _email_field(users)):
        if _is_text(field) and (found := _select(Q(**{f"{field.name}__iexact": text}))):
            return _sorted(found)
    return []


def find_users_by_part(text: str, most: int) -> list[FoundUser]:
    """Return up to ``most`` users with this text in their username, email address or name.

    Each word of the text must be in one of them. Raises Django's ``Error`` if the database of users
    does not answer.
    """
    try:
        users: Any = get_user_model()
    except ImproperlyConfigured:
        return []
    words = text.split()
    if not words or not is_storable(text):
        return []
    lookups = list(_lookups_of_names(users))
    condition = Q()
    for word in words:
        condition &= Q(*[(f"{lookup}__icontains", word) for lookup in lookups], _connector=Q.OR)
    return _sorted(_select(condition, most)) if lookups else []


def find_unknown_user(inventory: Inventory, text: str, within: int | None = None) -> str | None:
    """Return the user id that a text is, if sessions of it are stored; ``None`` otherwise.

    The user may have been deleted, or the database of users may not answer. ``within`` limits how
    many sessions are read if there is no index of users.
    """
    if not text or not is_storable(text):
        return None
    user_id = normal_user_id(text)
    sessions, _ = inventory.list(user=user_id, limit=1, within=within, expired=None)
    return user_id if sessions else None


def _by_natural_key(users: Any, text: str) -> list[Model]:
    """Return the user that the model's manager finds by natural key, as at login."""
    manager = users._default_manager
    find = getattr(manager, "get_by_natural_key", None)
    try:
        with _savepoint(manager.all()):
            return [find(text)] if find else []
    except (ObjectDoesNotExist, MultipleObjectsReturned, DataError, *_REFUSED):
        return []


def _by_related(username: Any, text: str) -> list[Model]:
    """Return the users whose username is an object that a text names.

    That is its natural key, or the text that stands for it in lists.
    """
    related = username.remote_field.model
    found = [
        user
        for each in _by_natural_key(related, text)
        for user in _select(Q(**{username.name: each}))
    ]
    fields = [field.name for field in related._meta.concrete_fields if _is_text(field)]
    if fields:
        lookups = [(f"{username.name}__{name}__iexact", text) for name in fields]
        alike = _select(Q(*lookups, _connector=Q.OR))
        found += [user for user in alike if name_of(user).casefold() == text.casefold()]
    return found


def _lookups_of_names(users: Any) -> Iterator[str]:
    """Return the lookups of the fields in which parts of names are searched."""
    for name in dict.fromkeys((users.USERNAME_FIELD, _email_field_name(users), *_PERSONAL)):
        field = _field(users, name)
        if _is_text(field):
            yield name
        elif isinstance(field, ForeignKey) and name == users.USERNAME_FIELD:
            others = field.remote_field.model._meta.concrete_fields
            yield from (f"{name}__{other.name}" for other in others if _is_text(other))


def _normal_username(users: Any, text: str) -> str | None:
    """Return a username in the form in which it was stored, see ``normalize_username()``."""
    normalize = getattr(users, "normalize_username", None)
    normal = normalize(text) if normalize else None
    return normal if isinstance(normal, str) else None


def _email_field_name(users: Any) -> str:
    get_name = getattr(users, "get_email_field_name", None)
    return str(get_name()) if get_name else "email"


def _email_field(users: Any) -> Any:
    return _field(users, _email_field_name(users))


def _field(users: Any, name: str) -> Any:
    """Return a field of the table of users; ``None`` if the model has no such field."""
    try:
        field = users._meta.get_field(name)
    except FieldDoesNotExist:
        return None
    return field if field.concrete else None


def _is_text(field: Any) -> bool:
    return isinstance(field, CharField | TextField)


def _sorted(users: Iterable[Model]) -> list[FoundUser]:
    """Return each user once, in an order that does not depend on the model."""
    found = {(id_ := user_id_of(each)): FoundUser(id_, name_of(each)) for each in users}
    return sorted(found.values(), key=lambda each: (each.name.casefold(), each.id))


# --- Reading ------------------------------------------------------------------------------------


def _select(condition: Q, most: int = _MOST_NAMESAKES) -> list[Model]:
    """Return the users that match. Raises ``Error`` if the database does not answer."""
    queryset = get_user_model()._base_manager.all()
    try:
        with _savepoint(queryset):
            found = _with_usernames(queryset.filter(condition)).order_by("pk")
            return list(found[:most])
    except (DataError, *_REFUSED):
        return []


def _read_by_primary_keys(queryset: QuerySet[Model], keys: list[Any]) -> list[Model]:
    """Return the users with these primary keys. Raises ``Error`` as `_select` does.

    A key that the database refuses matches no user, and leaves the others alone.
    """
    found: list[Model] = []
    remaining = iter(keys)
    while batch := list(islice(remaining, _AT_ONCE)):
        try:
            with _savepoint(queryset):
                found += queryset.filter(pk__in=batch).order_by()
        except (DataError, *_REFUSED):
            if len(batch) > 1:
                found += [user for key in batch for user in _read_by_primary_keys(queryset, [key])]
    return found


def _with_usernames(users: QuerySet[Any]) -> QuerySet[Any]:
    """Return users that know their usernames without another query, and little else."""
    # Not at the top: it needs the app registry.
    from django.contrib.auth.base_user import AbstractBaseUser

    model = users.model
    username = model._meta.get_field(model.USERNAME_FIELD)
    if isinstance(username, ForeignKey):
        users = users.select_related(username.name)
    # A method of the project's own may read any field.
    get_username = getattr(model, "get_username", AbstractBaseUser.get_username)
    return users.only(username.name) if get_username is AbstractBaseUser.get_username else users


def _savepoint(users: QuerySet[Any]) -> Any:
    """Return a context in which an error of the database leaves the caller's transaction whole."""
    in_transaction = connections[users.db].in_atomic_block
    return transaction.atomic(using=users.db) if in_transaction else nullcontext()


# --- By request ---------------------------------------------------------------------------------


class RequestUser:
    """The user of a request, with a sync and an async method for a flow to call."""

    def __init__(self, request: HttpRequest) -> None:
        self._request = request

    def get(self) -> Any:
        return self._request.user

    async def aget(self) -> Any:
        return await self._request.auser()
