# shellcheck shell=sh
# Read by a shell on the host, with the stack's name, the record and the backup's id as arguments. Moves the content of volumes into
# others, on the same file system, so that it takes no time and no space. What a restore that was cut off has written is removed.
set -eu
stack=$1 record=$2 backup=$3
umask 077
mountpoint() { docker volume inspect --format '{{.Mountpoint}}' "$1" 2> /dev/null; }
set_aside() {
    mkdir -p "$(dirname "$record")"
    if [ ! -s "$record" ]; then
        printf '%s %s\n' "$(date -u +%Y%m%dT%H%M%SZ)" "$backup" > "$record.new"
        mv "$record.new" "$record"
    fi
    read -r stamp _ < "$record"
    for name in "$@"; do
        from=$(mountpoint "$stack-$name") || continue
        kept="$stack-$name.until-$stamp"
        if grep -qxF "moved $name" "$record"; then
            find "$from" -mindepth 1 -delete
            continue
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
        echo "moved $name" >> "$record"
    done
}
