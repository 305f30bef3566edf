"""What Django needs to know of the package, for its table, its commands and its checks."""

from django.apps import AppConfig
from django.core.exceptions import ImproperlyConfigured
from django.utils.translation import gettext_lazy as _


class SessionStoresConfig(AppConfig):
    """Needed in ``INSTALLED_APPS`` only for engines with a table, commands, checks and pages."""

    name = "django_sessionstores"
    verbose_name = _("Sessions")
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        from . import accounts, checks, freshness, tally  # noqa: F401 - checks registers them
        from .conf import settings

        accounts.connect()
        freshness.connect()
        tally.connect()
        try:
            is_measured = settings.OPENTELEMETRY
        except ImproperlyConfigured:
            return  # The checks say so.
        if is_measured:
            from . import telemetry

            telemetry.instrument()
