# shellcheck shell=sh
# Read by a shell in MinIO's container, followed by a line that calls one of its functions: takes buckets back to a moment, in seconds
# since 1970.
set -eu
umask 077
MC_CONFIG_DIR=$(mktemp -d)
export MC_CONFIG_DIR GOMEMLIMIT=64MiB
trap 'rm -rf "$MC_CONFIG_DIR"' EXIT
MC_HOST_root="http://$(cat /run/secrets/root_user):$(cat /run/secrets/root_password)@127.0.0.1:9000"
export MC_HOST_root
client() { mc --quiet --no-color "$@" < /dev/null; }
# MinIO's client knows ages only, and begins to count them some time after it was started. So it removes what is certainly later, and
# lists what may be, with its exact time.
remove_later() {
    moment=$1
    shift
    for bucket in "$@"; do
        later=$(($(date +%s) - moment - 120))
        [ "$later" -le 0 ] || client rm --recursive --versions --force --newer-than "${later}s" "root/$bucket" >&2
        about=$(($(date +%s) - moment + 60))
        if [ "$about" -gt 0 ]; then
            client find "root/$bucket" --versions --newer-than "${about}s" --json
        else
            # The clock has not reached that moment yet, as it may be on another host: ages say nothing.
            client find "root/$bucket" --versions --json
        fi
    done
}
# Reads ids of versions and keys in turn.
remove_versions() {
    while [ "$#" -gt 0 ]; do
        client rm --version-id "$1" "$2"
        shift 2
    done
}
# The newest versions of now, and those of a moment.
list_objects() {
    client ls --recursive --json "root/$1/" | sed 's/^/NOW /'
    client ls --recursive --json --rewind "$2" "root/$1/" | sed 's/^/THEN /'
}
# A copy of an older version becomes the newest one.
restore_version() {
    client cp --version-id "$1" "root/$2" "root/$2"
}
