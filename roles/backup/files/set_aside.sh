# shellcheck shell=sh
# Read by a shell on the host, with the stack's name, the record and the backup's id as arguments. Moves the content of volumes into
# others, on the same file system, so that it takes no time and no space. What a restore that was cut off has written is removed, unless
# a container was started on it.
set -eu
stack=$1 record=$2 backup=$3
umask 077
# When a container of the stack last started, in the form of the record's stamp.
last_start() {
    docker ps --all --quiet --filter "label=quantops.stack=$stack" | xargs --no-run-if-empty docker inspect --format '{{.State.StartedAt}}' \
        | tr -d ':-' | cut -c1-15 | sort | tail -n 1
}
mountpoint() { docker volume inspect --format '{{.Mountpoint}}' "$1" 2> /dev/null; }
set_aside() {
    mkdir -p "$(dirname "$record")"
    if [ ! -s "$record" ]; then
        printf '%s %s\n' "$(date -u +%Y%m%dT%H%M%SZ)" "$backup" > "$record.new"
        mv "$record.new" "$record"
    fi
    read -r stamp _ < "$record"
    begun=${stamp%Z}
    # Somebody has worked with it since: no part of a backup any more.
    used=''
    [ "$(printf '%s\n%s\n' "$begun" "$(last_start)" | sort | tail -n 1)" = "$begun" ] || used=$(date -u +%Y%m%dT%H%M%SZ)
    for name in "$@"; do
        from=$(mountpoint "$stack-$name") || continue
        kept="$stack-$name.until-$stamp"
        if grep -qxF "moved $name" "$record"; then
            if [ -z "$used" ]; then
                find "$from" -mindepth 1 -delete
                continue
            fi
            kept="$stack-$name.until-$used"
        fi
        if [ -n "$(find "$from" -mindepth 1 -maxdepth 1 -print -quit)" ]; then
            docker volume create --label "quantops.stack=$stack" --label "quantops.kept=$stamp" "$kept" > /dev/null
            to=$(mountpoint "$kept")
            find "$from" -mindepth 1 -maxdepth 1 -exec mv --no-clobber --target-directory "$to" {} +
            chown --reference="$from" "$to"
            chmod --reference="$from" "$to"
            [ -z "$(find "$from" -mindepth 1 -maxdepth 1 -print -quit)" ] || { echo "$from could not be emptied" >&2; exit 1; }
            echo "$kept"
        fi
        grep -qxF "moved $name" "$record" || echo "moved $name" >> "$record"
    done
}
