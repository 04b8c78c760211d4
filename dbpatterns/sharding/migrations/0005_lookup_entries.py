"""The entries of lookup indexes."""

import uuid

import django.utils.timezone
from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("dbpatterns_sharding", "0004_shard_migration"),
    ]

    operations = [
        migrations.CreateModel(
            name="LookupEntry",
            fields=[
                ("id", models.UUIDField(default=uuid.uuid4, primary_key=True, serialize=False)),
                ("index", models.CharField(max_length=200)),
                ("value", models.CharField(max_length=255)),
                ("key", models.CharField(blank=True, max_length=300)),
                ("shard", models.CharField(max_length=100)),
                ("token", models.UUIDField()),
                ("is_settled", models.BooleanField(default=False)),
                ("changed_at", models.DateTimeField(default=django.utils.timezone.now)),
            ],
            options={
                "verbose_name_plural": "lookup entries",
                "db_table": "dbpatterns_sharding_lookupentry",
                "indexes": [
                    models.Index(
                        condition=models.Q(("is_settled", False)),
                        fields=["index", "changed_at"],
                        name="dbpatterns_sharding_pending",
                    ),
                    models.Index(fields=["token"], name="dbpatterns_sharding_token"),
                ],
                "constraints": [
                    models.UniqueConstraint(
                        fields=("index", "value"), name="dbpatterns_sharding_value_once"
                    )
                ],
            },
        ),
    ]
