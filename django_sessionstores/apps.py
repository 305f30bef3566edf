"""The app configuration, for the package's table, commands, checks and pages."""

from django.apps import AppConfig
from django.core.exceptions import ImproperlyConfigured
from django.utils.text import capfirst
from django.utils.translation import gettext_lazy as _


class SessionStoresConfig(AppConfig):
    """The app "django_sessionstores".

    It must be in ``INSTALLED_APPS`` for engines with a table, and for commands, checks and pages.
    """

    name = "django_sessionstores"
    # The same word as in the model: some of Django's catalogs have another one for "Sessions".
    verbose_name = capfirst(_("sessions"))
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        from .accounts import changes as accounts
        from .accounts import recent_authentication
        from .conf import settings
        from .devices import new_sign_ins
        from .operations import checks, indexes, statistics  # noqa: F401 - checks registers them

        accounts.connect()
        recent_authentication.connect()
        new_sign_ins.connect()
        statistics.connect()
        indexes.connect(self)
        try:
            is_measured = settings.OPENTELEMETRY
        except ImproperlyConfigured:
            return  # The system checks report it.
        if is_measured:
            from .operations import telemetry

            telemetry.instrument()
