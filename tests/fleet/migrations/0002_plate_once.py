from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("fleet", "0001_van")]
    operations = [
        migrations.AddConstraint("van", models.UniqueConstraint("plate", name="fleet_plate_once"))
    ]
