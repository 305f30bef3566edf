"""Named cases that hold any session backend of Django to the promises of a session.

Unlike the conformance suite, the cases only use what Django documents: a session backend's methods
and requests through a session middleware. So they run on backends of other packages, too::

    python -m django_sessionstores.testing django.contrib.sessions.backends.db

Each module of a subject has functions with the decorator `case`. They get a `Trial`, which has
sessions, browsers and users for them. Parallel requests are two session objects, or a request
inside the view of another one, so that each run is the same.
"""
