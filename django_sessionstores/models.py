"""The tables of the package, and the model to which permissions and log entries refer."""

from typing import Final

from django.db import models
from django.utils.translation import gettext_lazy as _

from .core.records import MAX_USER_ID


class StoredSession(models.Model):
    """A `Record` as a row, field by field. ``state`` tells sessions from tombstones.

    The model defines the table, its migrations and its routing. Only `DatabaseStorage` writes
    sessions: saving an instance of this model would overwrite changes of requests.
    """

    id = models.CharField(_("session id"), max_length=40, primary_key=True)
    payload = models.BinaryField(_("payload"))
    version = models.BigIntegerField(_("version"))
    state = models.SmallIntegerField(_("state"))
    # Null, not an empty string: an anonymous session has no user.
    user_id = models.CharField(_("user id"), max_length=MAX_USER_ID, null=True)  # noqa: DJ001
    # The times are milliseconds since the epoch, as in a record.
    created = models.BigIntegerField(_("created"))
    last_activity = models.BigIntegerField(_("last activity"))
    expires = models.BigIntegerField(_("expires"))
    # Text, because a client may claim anything, and not only an address.
    ip = models.CharField(_("IP address"), max_length=45, blank=True)
    user_agent = models.TextField(_("user agent"), blank=True)
    # The id under which the session began, if its key was rotated since.
    origin = models.CharField(_("first session id"), max_length=40, blank=True)
    # Several sites may share the table.
    site = models.IntegerField(_("mark of the site"), default=0)

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
        return self.id[:8]


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
