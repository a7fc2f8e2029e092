# shellcheck shell=sh
# Read by a shell in Redis's container: compares users and settings of the running server with those that its files declare. Prints a
# line for each difference, with tabs: DRIFT, kind, name, difference; never a rule, a hash or a value.
# A second server reads the files, so that both write rules and settings in the same form.
set -eu
umask 077
work=$(mktemp -d)
server=
# It has nothing to save.
trap '[ -z "$server" ] || kill -9 "$server" 2> /dev/null || :; rm -rf "$work"' EXIT
REDISCLI_AUTH=$(cat /run/secrets/redis_admin_password)
export REDISCLI_AUTH
ask() { redis-cli --no-auth-warning --user admin "$@" < /dev/null; }
if [ "$(ask PING 2> /dev/null)" != PONG ]; then
    printf 'DRIFT\tacl\tadmin\tcannot log in: users and settings were not compared\n'
    exit 0
fi
redis-server /run/config/redis.conf --port 0 --unixsocket "$work/socket" --dir "$work" > "$work/log" 2>&1 &
server=$!
for _ in $(seq 100); do
    [ "$(ask -s "$work/socket" PING 2> /dev/null)" != PONG ] || break
    sleep 0.1
done
list() {
    ask "$@" ACL LIST | cut -d ' ' -f 2- | sed 's/^\([^ ]*\) /acl\t\1\t/'
    # A name and its value, a line each. Where it listens and writes is its own.
    ask "$@" CONFIG GET '*' | paste -d '\t' - - | sed 's/^/setting\tredis /' |
        grep -vE "^setting$(printf '\t')redis (port|unixsocket|dir)$(printf '\t')"
}
list -s "$work/socket" > "$work/declared" || { cat "$work/log" >&2; exit 1; }
list > "$work/running"
awk -F '\t' '
    function tell(text) { printf "DRIFT\t%s\t%s\t%s\n", $1, $2, text }
    { key = $1 FS $2; value = substr($0, length(key) + 2) }
    NR == FNR { declared[key] = value; next }
    !(key in declared) { tell("not declared"); next }
    value != declared[key] { tell($1 == "acl" ? "has other rules" : "has another value") }
    { delete declared[key] }
    END { for (key in declared) printf "DRIFT\t%s\tmissing\n", key }
' "$work/declared" "$work/running"
