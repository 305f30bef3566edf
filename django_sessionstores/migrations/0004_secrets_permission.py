from django.db import migrations


class Migration(migrations.Migration):
    dependencies = [("django_sessionstores", "0003_session_tally")]

    operations = [
        migrations.AlterModelOptions(
            name="session",
            options={
                "default_permissions": ("view",),
                "permissions": [
                    ("end_session", "Can end sessions"),
                    ("view_session_data", "Can view what is in sessions, but for secrets"),
                    ("view_session_secrets", "Can view secrets in sessions"),
                ],
                "verbose_name": "session",
                "verbose_name_plural": "sessions",
            },
        ),
    ]
