from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("django_sessionstores", "0002_session_permissions")]

    operations = [
        migrations.CreateModel(
            name="SessionTally",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                ("hour", models.BigIntegerField(verbose_name="hour")),
                ("reason", models.CharField(blank=True, max_length=32, verbose_name="reason")),
                ("number", models.BigIntegerField(verbose_name="number")),
            ],
            options={
                "verbose_name": "tally of sessions",
                "verbose_name_plural": "tallies of sessions",
                "default_permissions": (),
                "constraints": [
                    models.UniqueConstraint(fields=("hour", "reason"), name="sessionstores_tally"),
                ],
            },
        ),
    ]
