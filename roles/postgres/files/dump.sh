# shellcheck shell=sh
# Read by a shell in the container of the running server: "sh -s ADMIN". Dumps everything into the volume of the data.
set -eu
umask 077
admin=$1
dump="${PGDATA%/*}/move.sql"
rm -f "$dump"
pg_dumpall --no-password --quote-all-identifiers --username "$admin" --file "$dump.new"
tail -n 5 "$dump.new" | grep -qF 'PostgreSQL database cluster dump complete'
# The new cluster is made with the administrator in it.
sed -i "/^CREATE ROLE \"$admin\";$/d" "$dump.new"
mv "$dump.new" "$dump"
