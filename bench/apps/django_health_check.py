"""Peer: django-health-check with its check of the database, SQLite in memory."""

import django
from django.conf import settings
from django.core.wsgi import get_wsgi_application

settings.configure(
    ALLOWED_HOSTS=["*"],
    DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}},
    INSTALLED_APPS=["health_check"],
    LOGGING_CONFIG=None,
    MIDDLEWARE=["django.middleware.common.CommonMiddleware"],  # it sets Content-Length
    ROOT_URLCONF=__name__,
    SECRET_KEY="of-the-bench",
)
django.setup()

from django.urls import path  # noqa: E402 - Django wants its settings first
from health_check.views import HealthCheckView  # noqa: E402

urlpatterns = [
    path("health/", HealthCheckView.as_view(checks=["health_check.checks.Database"])),
]
app = get_wsgi_application()
