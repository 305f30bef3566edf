"""Session engines for Django, reached through ``SESSION_ENGINE``.

See ``django_sessionstores.backends`` for the engines, ``storages`` for where sessions live and
``sessions`` for how they behave.
"""
