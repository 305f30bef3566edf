"""What Django needs to know of the package, for its table, its commands and its checks."""

from django.apps import AppConfig
from django.core.exceptions import ImproperlyConfigured
from django.utils.text import capfirst
from django.utils.translation import gettext_lazy as _


class SessionStoresConfig(AppConfig):
    """Needed in ``INSTALLED_APPS`` only for engines with a table, commands, checks and pages."""

    name = "django_sessionstores"
    # The word of the model: some of Django's catalogs have another for "Sessions".
    verbose_name = capfirst(_("sessions"))
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
