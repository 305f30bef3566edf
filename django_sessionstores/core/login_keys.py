"""The keys of session data under which Django keeps a login.

They are Django's ``SESSION_KEY``, ``BACKEND_SESSION_KEY`` and ``HASH_SESSION_KEY``, for modules
that do not import Django. They are also part of the format of tokens.
"""

from __future__ import annotations

from typing import Final

USER_ID: Final = "_auth_user_id"
USER_BACKEND: Final = "_auth_user_backend"
USER_HASH: Final = "_auth_user_hash"
