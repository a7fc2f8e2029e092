# shellcheck shell=sh
# Read by a shell on the host, with the stack's name, the record and what is restored (restore_to) as arguments. Moves the content of
# volumes into others, on the same file system, so that it takes no time and no space. What a restore that was cut off has written is
# removed, unless a container was started on it.
#
# The record of a restore that has not ended, in lines: when it began, and what restore_to is; "moved" and a volume whose content is no
# longer that of before; "replaced" and what is restored, once all data is in place.
set -eu
stack=$1 record=$2 wanted=$3
umask 077
# When a container of the stack last started, in the form of the record's stamp.
last_start() {
    docker ps --all --quiet --filter "label=quantops.stack=$stack" | xargs --no-run-if-empty docker inspect --format '{{.State.StartedAt}}' \
        | tr -d ':-' | cut -c1-15 | sort | tail -n 1
}
mountpoint() { docker volume inspect --format '{{.Mountpoint}}' "$1" 2> /dev/null; }
set_aside() {
    mkdir -p "$(dirname "$record")"
    # One that was cut off may go on here without its run, and would remove what this one restores. What it starts holds it, too.
    exec 9< "$(dirname "$record")"
    flock --wait 60 9 || { echo "an earlier restore of $stack still moves data on this host (ps -e | grep find); run it again later" >&2; exit 1; }
    stamp=''
    [ ! -s "$record" ] || read -r stamp _ < "$record"
    stamp=${stamp:-$(date -u +%Y%m%dT%H%M%SZ)}
    {
        printf '%s %s\n' "$stamp" "$wanted"
        grep '^moved ' "$record" 2> /dev/null || :
    } > "$record.new"
    mv "$record.new" "$record"
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
