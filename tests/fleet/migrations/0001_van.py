from django.db import migrations, models


class Migration(migrations.Migration):
    initial = True
    dependencies = [("dbpatterns_sharding", "0005_lookup_entries")]
    operations = [
        migrations.CreateModel(
            name="Van",
            fields=[
                ("id", models.UUIDField(primary_key=True)),
                ("plate", models.CharField(max_length=20)),
            ],
        )
    ]
