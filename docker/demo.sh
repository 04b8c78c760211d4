#!/bin/sh
# The scenario, then the site; run again it goes on with what is there.
set -e
python manage.py demo
exec python manage.py runserver --noreload 0.0.0.0:8000
