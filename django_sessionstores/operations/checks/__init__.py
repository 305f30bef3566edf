"""System checks: each message has an id, says what is wrong and what to do about it.

There is one module per subject, and importing this package registers the checks of all of them. To
add a check, write a function in the module of its subject, with ``@checks.register``, and describe
its ids in ``docs/reference/checks.rst``. Never reuse an id.

No check connects to a store. Messages are phrases: English, like those of Django's checks, and
translated on pages. `configuration` holds what several modules need.
"""

from . import (
    cookies,
    device_binding,
    encryption,
    engine,
    folders,
    installed_apps,
    isolation,
    middleware,
    options,
    previous_backends,
    recent_authentication,
    registry,
    stores,
)

__all__ = [
    "cookies",
    "device_binding",
    "encryption",
    "engine",
    "folders",
    "installed_apps",
    "isolation",
    "middleware",
    "options",
    "previous_backends",
    "recent_authentication",
    "registry",
    "stores",
]
