#!/bin/bash
# Seconds of the first start, images there, and of `site.yml` with nothing to do, for each of several inventories of one stack, in turn:
# the same services over three hosts and on one. Removes the stack with ALL ITS DATA before each start.
# Usage: DESTROY=NAME-OF-THE-STACK start_and_noop.sh 'OPTIONS OF THE FIRST' 'OPTIONS OF THE SECOND' …, such as '-i inventories/three'.
set -euo pipefail
cd "$(dirname "$0")/.."
: "${DESTROY:?The name of the stack, whose data are removed}"
TIMEFORMAT='%R s, %U user, %S system'
play() { .venv/bin/ansible-playbook "$@" > /tmp/start_and_noop.$$ 2>&1 || { tail -n 60 /tmp/start_and_noop.$$ >&2; exit 1; }; }
trap 'rm -f /tmp/start_and_noop.$$' EXIT
for ((round = 1; round <= ${ROUNDS:-1}; round++)); do
    for options; do
        read -ra words <<< "$options"
        for run in start 'with nothing to do' 'with nothing to do' 'with nothing to do'; do
            printf '%s, %s, load %s: ' "$options" "$run" "$(cut -d' ' -f1 /proc/loadavg)"
            time play site.yml "${words[@]}"
        done
        play playbooks/destroy.yml "${words[@]}" -e destroy_data=true -e destroy_confirm="$DESTROY"
    done
done
