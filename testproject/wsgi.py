"""The demo for a WSGI server. Run ``manage.py demo`` once before."""

import os

from django.contrib.staticfiles.handlers import StaticFilesHandler
from django.core.wsgi import get_wsgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "testproject.settings")
application = StaticFilesHandler(get_wsgi_application())
