# shellcheck shell=sh
# Read by a shell in MinIO's container, after a line that calls it with an age and buckets: removes the versions of objects that are
# younger, and the marks of later deletions.
set -eu
umask 077
rewind() {
    age=$1
    shift
    MC_CONFIG_DIR=$(mktemp -d)
    export MC_CONFIG_DIR GOMEMLIMIT=64MiB
    trap 'rm -rf "$MC_CONFIG_DIR"' EXIT
    MC_HOST_root="http://$(cat /run/secrets/root_user):$(cat /run/secrets/root_password)@127.0.0.1:9000"
    export MC_HOST_root
    for bucket in "$@"; do
        mc --quiet --no-color rm --recursive --versions --force --newer-than "$age" "root/$bucket" < /dev/null
    done
}
