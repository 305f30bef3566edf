"""The package's session middleware, and what is known of the middlewares of a project.

`session_middleware` has the class: when a session is saved, and when its cookie is sent. `cookies`
writes the cookie, `outages` the response if the store does not answer, `caching` the headers that
keep a response out of caches, and `policy` tells the session about its request. `installed` reads
the project's settings.
"""

from .installed import require_app
from .session_middleware import SessionMiddleware

__all__ = ["SessionMiddleware"]

require_app()
