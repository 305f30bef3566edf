"""The demo for a WSGI server. Set it up once with ``manage.py demo``."""

import os

from django.contrib.staticfiles.handlers import StaticFilesHandler
from django.core.wsgi import get_wsgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "testproject.settings")
application = StaticFilesHandler(get_wsgi_application())
