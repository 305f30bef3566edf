"""User models: one of them is ``User``, as the settings say."""

from __future__ import annotations

import uuid
from decimal import Decimal
from typing import Any

import django
from django.conf import settings
from django.contrib.auth.base_user import AbstractBaseUser, BaseUserManager
from django.contrib.auth.models import AbstractUser, PermissionsMixin
from django.db import models

KIND = settings.KIND
NAMES = ("ada", "bob", "root")


class Account(AbstractBaseUser, PermissionsMixin):
    """What most user models have, without a username."""

    email = models.EmailField(blank=True)
    is_active = models.BooleanField(default=True)
    is_staff = models.BooleanField(default=True)
    objects: Any = BaseUserManager()

    class Meta(AbstractBaseUser.Meta, PermissionsMixin.Meta):
        abstract = True


class NamedAccount(Account):
    username = models.CharField(max_length=80, unique=True)
    USERNAME_FIELD = "username"

    class Meta(Account.Meta):
        abstract = True


class HugeIntegerField(models.CharField):
    """An integer of up to 40 digits, with more than 64 bits, which databases keep as text."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options | {"max_length": 40})

    def to_python(self, value: Any) -> Any:
        return None if value is None else int(value)

    def from_db_value(self, value: Any, *args: Any) -> Any:
        return self.to_python(value)

    def get_prep_value(self, value: Any) -> Any:
        return None if value is None else f"{int(value):040}"


class HexadecimalField(models.CharField):
    """A UUID whose text is not that of ``str()``."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options | {"max_length": 32})

    def to_python(self, value: Any) -> Any:
        return value if value is None or isinstance(value, uuid.UUID) else uuid.UUID(str(value))

    def from_db_value(self, value: Any, *args: Any) -> Any:
        return self.to_python(value)

    def get_prep_value(self, value: Any) -> Any:
        return None if value is None else self.to_python(value).hex

    def value_to_string(self, obj: Any) -> str:
        return str(self.get_prep_value(self.value_from_object(obj)))


class UncheckedField(models.CharField):
    """A field that leaves it to the database to refuse a text, as PostgreSQL does for UUIDs."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options | {"max_length": 36})

    def db_type(self, connection: Any) -> str | None:
        return "uuid" if connection.vendor == "postgresql" else super().db_type(connection)

    def from_db_value(self, value: Any, *args: Any) -> Any:
        return None if value is None else str(value)


class BadgeManager(models.Manager):
    def get_by_natural_key(self, serial: Any) -> Any:
        return self.get(serial=serial)


class Badge(models.Model):
    """What a person has in place of a username."""

    label = models.CharField(max_length=20)
    serial = models.IntegerField(unique=True)
    objects = BadgeManager()

    def __str__(self) -> str:
        return self.label


class Person(models.Model):  # noqa: DJ008
    """Somebody who may be a user."""

    note = models.CharField(max_length=20, default="a person")


def values(number: int) -> dict[str, Any]:
    """Return the values of the user with this number, 0 to 2, without the common ones."""
    name = NAMES[number]
    return {
        "text_key": {"code": f"Org/{name} #1", "username": name},
        "huge_key": {"id": 2**80 + number, "username": name},
        # Not yet as the database gives it back.
        "decimal_key": {"id": Decimal(number + 7), "username": name},
        "one_to_one_key": {"username": name},
        "composite_key": {"tenant": 5, "number": number + 1, "username": name},
        "integer_username": {"number": 4711 + number},
        "uuid_username": {"number": uuid.UUID(int=2**100 + number)},
        "relation_username": {},
        "any_case_username": {"username": name.title()},
        "email_username": {"email": f"{name.title()}@example.com"},
        "without_base": {"name": name},
    }.get(KIND, {"username": name})


def make(number: int) -> Any:
    """Return the user with this number, as it is before it was read again."""
    given = values(number)
    fields = {field.name for field in User._meta.get_fields()}
    if "email" in fields:
        given.setdefault("email", f"{NAMES[number]}.mail@example.org")
    if "is_superuser" in fields:
        given["is_superuser"] = number == 2
    if "is_staff" in fields:
        given["is_staff"] = True
    if KIND == "relation_username":
        given["badge"] = Badge.objects.create(
            label=f"b-{number + 17}-{NAMES[number]}", serial=8000 + number
        )
    if KIND == "one_to_one_key":
        given["person"] = Person.objects.create()
    return User._base_manager.create(**given)


if KIND == "uuid_key":

    class User(NamedAccount):
        id = models.UUIDField(primary_key=True, default=uuid.uuid4)

elif KIND == "text_key":

    class User(NamedAccount):
        code = models.CharField(primary_key=True, max_length=40)

elif KIND == "huge_key":

    class User(NamedAccount):
        id = HugeIntegerField(primary_key=True)

elif KIND == "decimal_key":

    class User(NamedAccount):
        id = models.DecimalField(primary_key=True, max_digits=20, decimal_places=2)

elif KIND == "hexadecimal_key":

    class User(NamedAccount):
        id = HexadecimalField(primary_key=True, default=uuid.uuid4)

elif KIND == "unchecked_key":

    class User(NamedAccount):
        id = UncheckedField(primary_key=True, default=lambda: str(uuid.uuid4()))

elif KIND == "child":

    class User(Person, AbstractUser):  # noqa: DJ008
        pass

elif KIND == "one_to_one_key":

    class User(NamedAccount):
        person = models.OneToOneField(Person, models.CASCADE, primary_key=True)

elif KIND == "composite_key":

    class User(AbstractBaseUser):
        pk = models.CompositePrimaryKey("tenant", "number")
        tenant = models.IntegerField()
        number = models.IntegerField()
        username = models.CharField(max_length=80, unique=True)
        email = models.EmailField(blank=True)
        is_active = models.BooleanField(default=True)
        objects = BaseUserManager()
        USERNAME_FIELD = "username"

elif KIND == "integer_username":

    class User(Account):
        number = models.PositiveIntegerField(unique=True)
        USERNAME_FIELD = "number"

elif KIND == "uuid_username":

    class User(Account):
        number = models.UUIDField(unique=True)
        USERNAME_FIELD = "number"

elif KIND == "relation_username":

    class User(Account):
        badge = models.OneToOneField(Badge, models.CASCADE)
        USERNAME_FIELD = "badge"

elif KIND == "any_case_username":

    class AnyCaseManager(BaseUserManager):
        def get_by_natural_key(self, username: Any) -> Any:
            return self.get(username__iexact=username.removeprefix("@"))

    class User(NamedAccount):
        objects = AnyCaseManager()

elif KIND == "email_username":

    class User(AbstractBaseUser, PermissionsMixin):
        email = models.EmailField(unique=True)
        is_active = models.BooleanField(default=True)
        is_staff = models.BooleanField(default=True)
        objects = BaseUserManager()
        USERNAME_FIELD = "email"

elif KIND == "hidden":

    class NobodyManager(BaseUserManager):
        """As one that leaves out users that are marked as deleted: here, all."""

        def get_queryset(self) -> Any:
            return super().get_queryset().none()

    class User(NamedAccount):
        objects = NobodyManager()

elif KIND == "proxied":

    class Stored(NamedAccount):
        pass

    class User(Stored):
        class Meta:
            proxy = True

elif KIND == "without_base":

    class User(models.Model):  # noqa: DJ008
        """What Django needs of a user model, and nothing else: no password, no manager."""

        name = models.CharField(max_length=80, unique=True)
        is_active = models.BooleanField(default=True)
        USERNAME_FIELD = "name"
        REQUIRED_FIELDS = ()
        is_anonymous, is_authenticated, is_staff = False, True, True

        def has_perm(self, *args: Any) -> bool:
            return True

        def has_module_perms(self, *args: Any) -> bool:
            return True

        if django.VERSION >= (6, 1):  # Which needs this, too.

            def get_session_auth_hash(self) -> str:
                return "the same hash for ever"

else:

    class User(NamedAccount):
        pass
