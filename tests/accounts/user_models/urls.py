"""The admin, if it is installed, and the devices of a user."""

from django.apps import apps
from django.contrib import admin
from django.urls import include, path

urlpatterns = [path("devices/", include("django_sessionstores.urls"))]
if apps.is_installed("django.contrib.admin"):
    urlpatterns.append(path("admin/", admin.site.urls))
