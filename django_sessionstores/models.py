"""The tables of the package, and what permissions and log entries are about."""

from typing import Final

from django.db import models
from django.utils.translation import gettext_lazy as _


class StoredSession(models.Model):
    """A `Record` as a row, field by field. A tombstone is a row whose state says so.

    The model is for the table, its migrations and its routing. Sessions are written by
    `DatabaseStorage` alone: a save of this model would overwrite what requests write meanwhile.
    """

    id = models.CharField(_("session id"), max_length=40, primary_key=True)
    payload = models.BinaryField(_("payload"))
    version = models.BigIntegerField(_("version"))
    state = models.SmallIntegerField(_("state"))
    # Null, not an empty string: an anonymous session has no user.
    user_id = models.CharField(_("user id"), max_length=255, null=True)  # noqa: DJ001
    # The times are milliseconds since the epoch, as in a record.
    created = models.BigIntegerField(_("created"))
    last_activity = models.BigIntegerField(_("last activity"))
    expires = models.BigIntegerField(_("expires"))
    # Text, not an address type: it says what a client claimed to be.
    ip = models.CharField(_("IP address"), max_length=45, blank=True)
    user_agent = models.TextField(_("user agent"), blank=True)

    class Meta:
        verbose_name = _("stored session")
        verbose_name_plural = _("stored sessions")
        # Nobody may edit rows, so there is nothing to permit. See `Session`.
        default_permissions = ()
        # Not on last_activity, which every save moves: with no indexed column changed,
        # PostgreSQL rewrites the row in its page and leaves the indexes alone.
        indexes = [
            models.Index(fields=["expires"], name="sessionstores_expires"),
            models.Index(fields=["user_id"], name="sessionstores_user"),
        ]

    def __str__(self) -> str:
        return self.id[:8]


class Session(StoredSession):
    """A session of any engine, as the admin's permissions and log entries name it.

    Never asked for rows: only `Inventory` knows the sessions of the engine in use. A proxy, as
    ``dumpdata`` would look for the table of an unmanaged model.
    """

    class Meta:
        proxy = True
        verbose_name = _("session")
        verbose_name_plural = _("sessions")
        default_permissions = ("view",)
        permissions = [
            # As Django's own, these are in English, which is what the table of them has.
            ("end_session", "Can end sessions"),
            ("view_session_data", "Can view what is in sessions, but for secrets"),
            ("view_session_secrets", "Can view secrets in sessions"),
        ]


class SessionTally(models.Model):
    """How many sessions began in an hour, or ended for a reason. Written by `tally` alone."""

    REASON_LENGTH: Final = 32

    # Hours since the epoch: they mean the same whatever USE_TZ says.
    hour = models.BigIntegerField(_("hour"))
    reason = models.CharField(_("reason"), max_length=REASON_LENGTH, blank=True)
    number = models.BigIntegerField(_("number"))

    class Meta:
        verbose_name = _("tally of sessions")
        verbose_name_plural = _("tallies of sessions")
        default_permissions = ()
        constraints = [
            models.UniqueConstraint(fields=["hour", "reason"], name="sessionstores_tally")
        ]

    def __str__(self) -> str:
        return f"{self.hour} {self.reason}: {self.number}"
