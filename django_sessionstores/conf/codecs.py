"""The key ring, serializers and codecs that the settings ask for.

They are made once, and again after a setting has changed: deriving a key takes much longer than
using it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from django.conf import settings as django_settings
from django.core.exceptions import ImproperlyConfigured
from django.utils.module_loading import import_string
from django.utils.translation import gettext_noop as _

from ..core.phrases import Phrase
from ..payloads.codec import Codec, KeyRing, Serializer, UnencryptedCodec
from ..payloads.serializers import TypedSerializer
from .options import settings
from .resets import cached_until_change

# Numbers of the serializers, part of the stored format: never reuse one.
TYPED_SERIALIZER: Final = 1
DJANGO_JSON_SERIALIZER: Final = 2
CUSTOM_SERIALIZER: Final = 3
_SETTINGS: Final = ("SECRET_KEY", "SECRET_KEY_FALLBACKS", "SESSION_SERIALIZER")
_DJANGO_JSON: Final = "django.contrib.sessions.serializers.JSONSerializer"


def serializer_path() -> str:
    """Return the dotted path of the serializer in use.

    This is the package's own unless the project sets ``SESSION_SERIALIZER``. Django's default
    would lose types, and the package's own serializer keeps everything that Django's keeps.
    """
    if django_settings.is_overridden("SESSION_SERIALIZER"):  # type: ignore[misc]
        return str(django_settings.SESSION_SERIALIZER)
    return f"{TypedSerializer.__module__}.{TypedSerializer.__qualname__}"


def serializer() -> Any:
    """Return the serializer in use, made as Django makes it: without arguments.

    Raises ``ImproperlyConfigured`` if it cannot be imported, or is not a serializer.
    """
    path = serializer_path()
    try:
        kind = import_string(path)
    except ImportError as error:
        raise ImproperlyConfigured(
            Phrase(
                _("SESSION_SERIALIZER is %(path)s, which cannot be imported: %(error)s."),
                path=repr(path),
                error=str(error),
            )
        ) from error
    try:
        made = kind()
    except Exception:  # noqa: BLE001 - the message says what it has to be
        made = None
    if not all(callable(getattr(made, name, None)) for name in ("dumps", "loads")):
        raise ImproperlyConfigured(
            Phrase(
                _(
                    "SESSION_SERIALIZER is %(path)s, which is not a class with the methods "
                    "dumps() and loads()."
                ),
                path=repr(path),
            )
        )
    return made


@cached_until_change(*_SETTINGS)
def key_ring() -> KeyRing:
    """Return the encryption keys."""
    secrets: Sequence[str | bytes] = settings.ENCRYPTION_KEYS or [
        django_settings.SECRET_KEY,
        *django_settings.SECRET_KEY_FALLBACKS,
    ]
    return KeyRing(secrets)


@cached_until_change(*_SETTINGS)
def codec() -> Codec:
    """Return the codec that serializes, compresses and encrypts session data."""
    return _make_codec(Codec)


@cached_until_change(*_SETTINGS)
def unencrypted_codec() -> Codec:
    """Return the codec for a storage that encrypts whole records itself."""
    return _make_codec(UnencryptedCodec)


def _make_codec(kind: type[Codec]) -> Codec:
    serializers: dict[int, Serializer] = {
        TYPED_SERIALIZER: TypedSerializer(),
        DJANGO_JSON_SERIALIZER: import_string(_DJANGO_JSON)(),
    }
    in_use = serializer()
    for number, known in serializers.items():
        if type(in_use) is type(known):
            writes = number
            break
    else:
        serializers[CUSTOM_SERIALIZER] = in_use
        writes = CUSTOM_SERIALIZER
    return kind(key_ring(), serializers, writes)
