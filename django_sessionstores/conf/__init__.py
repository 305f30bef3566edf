"""The settings of the package, and the objects that are made from them.

===================== ===========================================================
`options`             the options in ``SESSIONSTORES``, with defaults and meaning
`validation`          reads an option and checks its type and range
`previous_backends`   the entries of ``MIGRATE_FROM``
`engines`             engines by path, and the settings that choose their storage
`codecs`              key ring, serializers and codecs
`cookies`             the lifetime and the size of the session cookie
`merge`, `proxies`    merge functions and trusted proxies
`isolation`           the sites and tenants that share a store
`resets`              functions to call when a setting changes
===================== ===========================================================
"""

from .codecs import codec, key_ring, serializer, unencrypted_codec
from .cookies import cookie_age, cookie_bytes, cookie_parts, splits_cookies
from .engines import (
    engine_setting,
    engine_setting_name,
    file_path,
    session_store,
    settings_of,
)
from .isolation import sites, tenant
from .merge import merge_functions
from .options import DURATIONS, OPTIONS, Settings, settings, stated_options
from .previous_backends import PreviousBackend, hide_addresses, previous_backend
from .proxies import trusted_proxies
from .resets import cached_until_change, reset_on_change
from .validation import NAME, did_you_mean, full_name, wrong_type_message

__all__ = [
    "DURATIONS",
    "NAME",
    "OPTIONS",
    "PreviousBackend",
    "Settings",
    "cached_until_change",
    "codec",
    "cookie_age",
    "cookie_bytes",
    "cookie_parts",
    "did_you_mean",
    "engine_setting",
    "engine_setting_name",
    "file_path",
    "full_name",
    "hide_addresses",
    "key_ring",
    "merge_functions",
    "previous_backend",
    "reset_on_change",
    "serializer",
    "session_store",
    "settings",
    "settings_of",
    "sites",
    "splits_cookies",
    "stated_options",
    "tenant",
    "trusted_proxies",
    "unencrypted_codec",
    "wrong_type_message",
]
