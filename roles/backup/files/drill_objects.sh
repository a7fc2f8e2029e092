# shellcheck shell=sh
# Read by a shell in a container like MinIO's, on restored volumes, after lines that name places of buckets: reads every object there, and
# prints how many there were and a line for each place that has none, or one that cannot be read. Those of /tmp/champions are written
# beside the buckets, each to a directory of its number, for a container that has no store.
set -eu
umask 077
drill_objects() {
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
            return
        fi
        sleep 0.5
    done
    total=0
    while read -r place; do
        mc --quiet find "root/$place" > /tmp/objects < /dev/null 2> /tmp/error || :
        count=$(wc -l < /tmp/objects)
        total=$((total + count))
        if [ "$count" -eq 0 ]; then
            echo "PROBLEM $place has no object"
        elif ! xargs --delimiter='\n' mc --quiet cat < /tmp/objects > /dev/null 2> /tmp/error; then
            echo "PROBLEM $place cannot be read: $(head -n 1 /tmp/error)"
        fi
    done < /tmp/places
    echo "OBJECTS $total"
    number=0
    while read -r place; do
        # No name of a bucket begins with a dot.
        mc --quiet cp --recursive "root/$place/" "/data/.drill/$number/" > /dev/null < /dev/null 2> /tmp/error \
            || echo "PROBLEM $place cannot be read: $(head -n 1 /tmp/error)"
        number=$((number + 1))
    done < /tmp/champions
    kill "$server"
}
