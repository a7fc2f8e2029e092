# Read by a shell in the container alertmanager: raises an alert for a minute, and prints for each kind of receiver how many messages it
# has taken or refused since. Ends with status 1 if one refused, or nobody took any.
set -eu
# Attempts and failures of each kind so far; the dead man's switch is a webhook too, and not a reader of this alert.
told() {
    curl --fail --silent http://127.0.0.1:9093/metrics |
        awk '/^alertmanager_notifications(_failed)?_total\{/ {
            kind = $1; sub(/.*integration="/, "", kind); sub(/".*/, "", kind)
            if ($1 ~ /_failed_/) failed[kind] += $2; else sent[kind] += $2
        } END { for (kind in sent) print kind, sent[kind], failed[kind] + 0 }' | sort
}
told > /tmp/before
end=$(date --utc --date='+1 minute' +%Y-%m-%dT%H:%M:%SZ)
amtool --alertmanager.url=http://127.0.0.1:9093 alert add TestAlert severity=critical --end="$end" \
    --annotation=summary='This is a test of the alerts.' --annotation=meaning='Nothing is wrong.' --annotation=remedy='Nothing.' \
    --annotation=runbook=docs/monitoring.md --annotation=dashboard=-
# The group waits for 10 s, and a receiver that does not answer for longer.
for _ in $(seq 20); do
    sleep 3
    told > /tmp/after
    found=$(join /tmp/before /tmp/after | awk -v known=" $1 " '
        index(known, " " $1 " ") && ($4 > $2 || $5 > $3) {
            bad = $5 - $3; good = $4 - $2 - bad
            print $1 ": " (good > 0 ? "sent" : "FAILED") (bad > 0 ? " (" bad " attempts failed, see the log of the container alertmanager)" : "")
        }')
    [ "$(printf '%s\n' "$found" | grep -c .)" -lt "$2" ] || break
done
printf '%s\n' "${found:-Nobody was told: monitoring_receivers is empty, or wants other alerts.}"
case $found in '' | *FAILED*) exit 1 ;; esac
