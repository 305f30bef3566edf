"""Sessions end with what they rest on: the password, the permission to log in, the account.

Django finds out at the next request of each session, if its backend does at all, and leaves the
session stored and listed. What is here ends them when the user is saved or deleted.

Which session the change was made in cannot be seen from the model. It is left to its request (see
`in_use`): after a change of password it goes on under a new key, which ``update_session_auth_hash``
asks for, and whoever deletes an account calls ``logout()``.

Receivers compare with the stored row, not with what the instance was loaded with: remembering that
would cost at each request, and miss what was changed since.
"""

from __future__ import annotations

import logging
from functools import partial
from importlib import import_module
from typing import Any, Final

from django.apps import apps
from django.conf import settings as django_settings
from django.core.exceptions import ImproperlyConfigured
from django.db import models, transaction
from django.db.models import signals as model_signals

from . import in_use
from .conf import settings
from .exceptions import StorageUnavailable
from .inventory import Inventory
from .session import SessionStore

logger: Final = logging.getLogger("django_sessionstores")

_CAUSE: Final = "_sessions_end_for"
"""The attribute of a user between the two signals of its save: why its sessions end."""
_UID: Final = "django_sessionstores.accounts"


def connect() -> None:
    """Listen to what happens to users. Called when all models are loaded."""
    try:
        user_model = apps.get_model(django_settings.AUTH_USER_MODEL)
    except (LookupError, ValueError):
        return  # A site without users, or whose setting Django complains of.
    # Signals tell the class that was saved, which may be a proxy or a child of the model.
    for model in apps.get_models():
        if issubclass(model, user_model):
            for signal, receiver in (
                (model_signals.pre_save, _before_save),
                (model_signals.post_save, _after_save),
                (model_signals.post_delete, _after_delete),
            ):
                signal.connect(receiver, sender=model, dispatch_uid=_UID)


def _before_save(
    instance: models.Model, raw: bool, using: str, update_fields: frozenset[str] | None, **_: Any
) -> None:
    setattr(instance, _CAUSE, None)
    # A fixture states what is, and may be half loaded.
    if raw or instance._state.adding:
        return
    causes = {
        "password": settings.END_ON_PASSWORD_CHANGE,
        "is_active": settings.END_ON_DEACTIVATION,
    }
    user_model = _user_model()
    watched = [
        field.name
        for field in user_model._meta.concrete_fields
        if causes.get(field.name) and (update_fields is None or field.name in update_fields)
    ]
    if not watched or not _can_end():
        return
    stored = user_model._base_manager.using(using).filter(pk=_pk(instance)).values(*watched).first()
    if stored is None:
        return
    if stored.get("is_active") and not getattr(instance, "is_active", True):
        setattr(instance, _CAUSE, "deactivated")
    elif "password" in stored and stored["password"] != getattr(instance, "password", None):
        setattr(instance, _CAUSE, "password")


def _after_save(instance: models.Model, using: str, **_: Any) -> None:
    cause = instance.__dict__.pop(_CAUSE, None)
    if cause is not None:
        _end_after_commit(instance, cause, using)


def _after_delete(sender: type[models.Model], instance: models.Model, using: str, **_: Any) -> None:
    # With a child of the model its parent is deleted, which Django tells as well.
    is_user = sender._meta.concrete_model is _user_model()._meta.concrete_model
    if is_user and settings.END_ON_DELETION and _can_end():
        _end_after_commit(instance, "deleted", using)


def _user_model() -> type[models.Model]:
    return apps.get_model(django_settings.AUTH_USER_MODEL)


def _pk(user: models.Model) -> Any:
    """The key by which sessions know the user, which a child of the model may call otherwise."""
    return getattr(user, _user_model()._meta.pk.attname)


def _can_end() -> bool:
    """Whether the engine in use knows which sessions a user has."""
    try:
        store = import_module(django_settings.SESSION_ENGINE).SessionStore
        return issubclass(store, SessionStore) and store.storage().lists
    except (ImportError, AttributeError, ImproperlyConfigured):
        return False  # The checks say so. Users can be saved all the same.


def _end_after_commit(user: models.Model, cause: str, using: str) -> None:
    """End the sessions once the change is there to stay; a change that is undone ends nothing."""
    transaction.on_commit(partial(_end, str(_pk(user)), cause), using=using, robust=True)


def _end(user_id: str, cause: str) -> None:
    held = set[str]().union(*(each.stored_ids for each in in_use.sessions()))
    try:
        Inventory().end_for(cause, user_id, held)
    except StorageUnavailable as error:
        # The change stands, and Django's own comparison protects what it covers.
        logger.error(  # noqa: TRY400 - the error says it; a traceback adds frames with secrets.
            "The sessions of user %s may go on, although they had to end (%s): %s. End them with: "
            "manage.py sessions end --user",
            user_id,
            cause,
            error,
        )
