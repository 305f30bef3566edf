"""Not an engine: the error names the engine that is called so in Django."""

from django.core.exceptions import ImproperlyConfigured
from django.utils.translation import gettext_noop as _

from ..core.phrases import Phrase

raise ImproperlyConfigured(
    Phrase(
        _("The engine that keeps sessions in the cookie is called %(engine)s here. Name that one."),
        engine=repr(f"{__package__}.cookie"),
    )
)
