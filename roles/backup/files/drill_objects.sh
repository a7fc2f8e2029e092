# shellcheck shell=sh
# Read by a shell in a container like MinIO's, on restored volumes, before lines that call its functions with places of buckets, each
# of which is one argument whatever characters it has.
set -eu
umask 077
start_store() {
    MC_CONFIG_DIR=$(mktemp -d)
    export MC_CONFIG_DIR GOMEMLIMIT=64MiB
    MC_HOST_root="http://$(cat /run/secrets/root_user):$(cat /run/secrets/root_password)@127.0.0.1:9000"
    export MC_HOST_root
    minio server /data --address 127.0.0.1:9000 > /tmp/minio.log 2>&1 &
    server=$!
    tries=0
    until curl --fail --silent --output /dev/null http://127.0.0.1:9000/minio/health/live; do
        tries=$((tries + 1))
        if [ "$tries" -ge 240 ] || ! kill -0 "$server" 2> /dev/null; then
            echo "PROBLEM MinIO does not start on the restored volume: $(tail -n 3 /tmp/minio.log | tr '\n' ' ')"
            exit 0
        fi
        sleep 0.5
    done
}
# Prints a line, whatever the place's name has.
problem() { echo "PROBLEM $(printf '%s' "$1" | tr '\n' ' ') $2"; }
# Copies the objects of a place beside the buckets, of which no name begins with a dot.
copy_objects() {
    mc --quiet cp --recursive "root/$1/" "/data/.drill/$2/" > /dev/null 2> /tmp/error \
        || problem "$1" "cannot be read: $(head -n 1 /tmp/error)"
}
# Reads every object of the places, and prints how many there are and a line for each place that has none, or one that cannot be read.
read_objects() {
    total=0
    for place in "$@"; do
        # A line of JSON for each, also of a name with a line break.
        count=$(mc --quiet --json find "root/$place/" 2> /dev/null | grep -c '"key":' || :)
        total=$((total + count))
        if [ "$count" -eq 0 ]; then
            problem "$place" "has no object"
        else
            copy_objects "$place" read
            rm -rf /data/.drill/read
        fi
    done
    echo "OBJECTS $total"
}
# For a container that has no store: each place becomes a directory of its number.
write_champions() {
    number=0
    for place in "$@"; do
        copy_objects "$place" "$number"
        number=$((number + 1))
    done
}
