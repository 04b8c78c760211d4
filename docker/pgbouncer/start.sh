#!/bin/sh
# The password comes from the environment and goes into a file that only PgBouncer may read.
set -eu
umask 077
escaped=$(printf %s "$POSTGRES_PASSWORD" | sed 's/"/""/g')
printf '"%s" "%s"\n' "$POSTGRES_USER" "$escaped" >/run/pgbouncer-users/userlist.txt
exec pgbouncer /opt/pgbouncer/pgbouncer.ini
