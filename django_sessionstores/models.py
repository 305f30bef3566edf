"""The tables of the package, and the model to which permissions and log entries refer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from django.db import models
from django.utils.translation import gettext_lazy as _

from .core.client_bytes import MAX_IP_SIZE
from .core.records import ID_SIZE, MAX_USER_ID

if TYPE_CHECKING:
    from django.db.backends.base.base import BaseDatabaseWrapper


class ShortBytesField(models.BinaryField):  # type: ignore[type-arg]
    """A few bytes, compared byte by byte. A session id takes half the space of its text."""

    def db_type(self, connection: BaseDatabaseWrapper) -> str | None:
        # Otherwise it would be of a type that cannot be a primary key.
        types = {"mysql": f"varbinary({self.max_length})", "oracle": f"raw({self.max_length})"}
        return types.get(connection.vendor) or super().db_type(connection)


class StoredSession(models.Model):
    """A `Record` as a row, field by field. ``state`` tells sessions from tombstones.

    The model defines the table, its migrations and its routing. Only `DatabaseStorage` writes
    sessions: saving an instance of this model would overwrite changes of requests.
    """

    # The numbers come first, the long ones before the short ones: PostgreSQL would fill up what is
    # before a number that follows a text. The times are milliseconds since the epoch.
    version = models.BigIntegerField(_("version"))
    created = models.BigIntegerField(_("created"))
    last_activity = models.BigIntegerField(_("last activity"))
    expires = models.BigIntegerField(_("expires"))
    # Several sites may share the table.
    site = models.IntegerField(_("mark of the site"), default=0)
    state = models.SmallIntegerField(_("state"))
    id = ShortBytesField(_("session id"), max_length=ID_SIZE, primary_key=True)
    # Null, not an empty string: an anonymous session has no user.
    user_id = models.CharField(_("user id"), max_length=MAX_USER_ID, null=True)  # noqa: DJ001
    # As `client_bytes` makes them. An address may be any text in place of one, so it has more room.
    ip = ShortBytesField(_("IP address"), max_length=MAX_IP_SIZE, blank=True)
    user_agent = models.BinaryField(_("user agent"), blank=True)
    # The id under which the session began, if its key was rotated since.
    origin = ShortBytesField(_("first session id"), max_length=ID_SIZE)
    payload = models.BinaryField(_("payload"))

    class Meta:
        verbose_name = _("stored session")
        verbose_name_plural = _("stored sessions")
        # Nobody may edit rows, so there are no permissions for that. See `Session`.
        default_permissions = ()
        # There is no index on last_activity, which every save changes: if no indexed column has
        # changed, PostgreSQL rewrites the row in its page and does not touch the indexes.
        indexes = [
            models.Index(fields=["expires"], name="sessionstores_expires"),
            # With the expiry, so that the list of a user does not read rows that have expired.
            models.Index(fields=["user_id", "expires"], name="sessionstores_user"),
        ]

    def __str__(self) -> str:
        return bytes(self.id).hex()[:8]


class Session(StoredSession):
    """A session of any engine, for the permissions and log entries of the admin.

    Do not query it: only `Inventory` knows the sessions of the engine in use. It is a proxy model
    because ``dumpdata`` would look for the table of an unmanaged model.
    """

    class Meta:
        proxy = True
        verbose_name = _("session")
        verbose_name_plural = _("sessions")
        default_permissions = ("view",)
        permissions = [
            # In English, like Django's own, because their table stores the texts.
            ("end_session", "Can end sessions"),
            ("export_session", "Can export the list of sessions"),
            ("view_session_data", "Can view session data, except secrets"),
            ("view_session_secrets", "Can view secrets in sessions"),
        ]


class SessionStatistics(models.Model):
    """How many sessions began in an hour, or ended for a reason. Only `statistics` writes it."""

    REASON_LENGTH: Final = 32

    # Several sites may share the table, see `Record.site`.
    site = models.IntegerField(_("mark of the site"), default=0)
    # Hours since the epoch, which do not depend on USE_TZ.
    hour = models.BigIntegerField(_("hour"))
    reason = models.CharField(_("reason"), max_length=REASON_LENGTH, blank=True)
    number = models.BigIntegerField(_("number"))

    class Meta:
        verbose_name = _("session statistics")
        verbose_name_plural = _("session statistics")
        default_permissions = ()
        constraints = [
            models.UniqueConstraint(
                fields=["hour", "reason", "site"], name="sessionstores_statistics"
            )
        ]

    def __str__(self) -> str:
        return f"{self.hour} {self.reason}: {self.number}"
