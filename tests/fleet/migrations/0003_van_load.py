from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("fleet", "0002_plate_once")]
    operations = [migrations.AddField("van", "load", models.IntegerField(default=0))]
