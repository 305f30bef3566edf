"""The engines: modules for ``SESSION_ENGINE`` to name, each a ``SessionStore`` over a storage."""
