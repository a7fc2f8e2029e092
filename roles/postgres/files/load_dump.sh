# shellcheck shell=sh
# Read by a shell in a container of the new image, which has the data but runs no server: "sh -s VERSION STAMP". Loads the dump into a new
# cluster beside the one of VERSION, and puts it in that one's place. Until then nothing of the old one is touched, so it can be run again.
set -eu
umask 077
version=$1 stamp=$2
dump="${PGDATA%/*}/move.sql" new="$PGDATA.new" kept="$PGDATA.$version.$stamp"
# What a load that failed has left is of no use, and takes the space of the data.
clean() {
    [ ! -e "$new/postmaster.pid" ] || pg_ctl --pgdata "$new" --silent --mode immediate stop || true
    rm -rf "$new" "$dump"
}
# A function is run when all of it has come, so not by half if who sends it is killed.
load() {
    found=$(cat "$PGDATA/PG_VERSION")
    [ "$found" = "$version" ] || { echo "$PGDATA holds data of PostgreSQL $found, expected $version" >&2; exit 1; }
    trap clean EXIT
    rm -rf "$new"
    # shellcheck disable=SC2086 # the arguments are several words
    initdb --pgdata "$new" --username "$POSTGRES_USER" --pwfile "$POSTGRES_PASSWORD_FILE" --auth-host scram-sha-256 --auth-local peer \
        --encoding UTF8 --locale C.UTF-8 --data-checksums ${POSTGRES_INITDB_ARGS:-} > /dev/null
    # Nothing but this script reaches it, and it archives nothing. Until the load has ended nothing of it is of use after a crash.
    pg_ctl --pgdata "$new" --silent --wait --timeout 120 --log "$new/load.log" --options "-c listen_addresses= \
        -c unix_socket_directories=/run/postgresql -c hba_file=/run/config/pg_hba.conf -c archive_mode=off -c fsync=off \
        -c max_wal_size=1GB -c maintenance_work_mem=64MB" start || { tail -n 5 "$new/load.log" >&2; exit 1; }
    psql --no-psqlrc --quiet --set=ON_ERROR_STOP=1 --host=/run/postgresql --username "$POSTGRES_USER" --dbname postgres --file "$dump" > /dev/null
    vacuumdb --host=/run/postgresql --username "$POSTGRES_USER" --all --analyze-only --quiet
    pg_ctl --pgdata "$new" --silent --wait --timeout 600 --mode fast stop
    rm "$new/load.log"
    sync
    # Somebody started the server of before, and may have written what the dump lacks.
    [ ! -e "$PGDATA/postmaster.pid" ] || { echo "a server uses $PGDATA" >&2; exit 1; }
    # Ended from here on, it first finishes.
    trap '' TERM
    trap - EXIT
    # In one step where the system can do it, after which each has its name: a start between two steps would find no data and make an empty
    # cluster.
    mv --no-target-directory "$new" "$kept"
    if ! mv --exchange --no-target-directory "$kept" "$PGDATA" 2> /dev/null; then
        mv --no-target-directory "$kept" "$new"
        mv --no-target-directory "$PGDATA" "$kept"
        mv --no-target-directory "$new" "$PGDATA"
    fi
    rm "$dump"
    sync
    echo "${kept##*/}"
}
load
