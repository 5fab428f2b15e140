#!/bin/bash
# Starts PostgreSQL as the official image's entry point does, as far as manifests/tracking-database.yaml
# relies on it: the first start makes the cluster, its user, its database and who may log in.
set -euo pipefail
umask 077
if [ ! -s "$PGDATA/PG_VERSION" ]; then
  mkdir -p "$PGDATA"
  # Word splitting is meant: the variable holds options.
  # shellcheck disable=SC2086
  initdb --username="$POSTGRES_USER" --pwfile="$POSTGRES_PASSWORD_FILE" $POSTGRES_INITDB_ARGS
  echo "host all all all scram-sha-256" >>"$PGDATA/pg_hba.conf"
  pg_ctl --wait start --options="-c listen_addresses=''"
  if [ "$POSTGRES_DB" != postgres ]; then createdb "$POSTGRES_DB" --username="$POSTGRES_USER"; fi
  pg_ctl --wait stop --mode=fast
fi
if [ "${1:-}" = postgres ]; then shift; fi
exec postgres -c listen_addresses='*' "$@"
