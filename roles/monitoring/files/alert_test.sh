# Read by a shell in the container alertmanager: raises an alert for a minute, and prints for each kind of receiver whether the receivers
# took a message. Its arguments are the stack's name, the runbook's URL and the kinds, each as often as there are receivers of it. Ends with
# status 1 if one refused or did not answer.
set -eu
stack=$1 runbook=$2
shift 2
# Requests to each kind so far, and those that failed: of messages a failure is counted only once Alertmanager has given up. The dead man's
# switch is a webhook too, and a call of it within the minute is not told apart.
told() {
    curl --config /run/secrets/curl --fail --silent http://127.0.0.1:9093/metrics |
        awk '/^alertmanager_notification_requests(_failed)?_total\{/ {
            kind = $1; sub(/.*integration="/, "", kind); sub(/".*/, "", kind); kinds[kind]
            if ($1 ~ /_failed_/) failed[kind] += $2; else made[kind] += $2
        } END { for (kind in kinds) print kind, made[kind] + 0, failed[kind] + 0 }'
}
told > /tmp/before
at() { date --utc --date="$1" +%Y-%m-%dT%H:%M:%SZ; }
# Without quotes in their values, amtool warns of its next version.
amtool --alertmanager.url=http://127.0.0.1:9093 --http.config.file=/run/config/amtool.yml alert add TestAlert severity=critical \
    stack="\"$stack\"" test="$(date +%s)" --start="$(at now)" --end="$(at '+1 minute')" --annotation='summary="This is a test of the alerts."' \
    --annotation='meaning="Nothing is wrong."' --annotation='remedy="Nothing."' --annotation="runbook=\"$runbook\"" --annotation='dashboard="-"'
found=
# The group waits for 10 s, and a receiver that does not answer for longer.
for _ in $(seq 20); do
    sleep 3
    told > /tmp/after
    # A kind that was never told before may not be there.
    found=$(awk -v wanted="$*" '
        FILENAME == ARGV[1] { made[$1] = $2; failed[$1] = $3; next }
        { all[$1] = $2 - made[$1]; bad[$1] = $3 - failed[$1] }
        END {
            many = split(wanted, words, " ")
            for (number = 1; number <= many; number++) receivers[words[number]]++
            for (kind in receivers)
                if (bad[kind] > 0) print kind ": FAILED (" bad[kind] " of " all[kind] " attempts, see the log of the container alertmanager)"
                else if (all[kind] < receivers[kind]) print kind ": FAILED (no answer)"
                else print kind ": sent"
        }' /tmp/before /tmp/after | sort)
    case $found in *'(no answer)'*) ;; *) break ;; esac
done
printf '%s\n' "${found:-Nobody was told: monitoring_receivers is empty.}"
case $found in '' | *FAILED*) exit 1 ;; esac
