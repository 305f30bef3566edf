from django.db import migrations


class Migration(migrations.Migration):
    dependencies = [("django_sessionstores", "0001_initial")]

    operations = [
        migrations.CreateModel(
            name="Session",
            fields=[],
            options={
                "verbose_name": "session",
                "verbose_name_plural": "sessions",
                "default_permissions": ("view",),
                "permissions": [
                    ("end_session", "Can end sessions"),
                    ("view_session_data", "Can view what is in sessions, but for secrets"),
                ],
                "proxy": True,
                "indexes": [],
                "constraints": [],
            },
            bases=("django_sessionstores.storedsession",),
        ),
        migrations.AlterModelOptions(
            name="storedsession",
            options={
                "default_permissions": (),
                "verbose_name": "stored session",
                "verbose_name_plural": "stored sessions",
            },
        ),
    ]
