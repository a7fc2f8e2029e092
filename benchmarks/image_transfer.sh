#!/bin/bash
# Seconds for an image that one of two hosts lacks: `docker save | docker load` between them, and `site.yml --tags images`, which is also
# timed with nothing to send. In turn, ROUNDS times.
# Usage: image_transfer.sh IMAGE 'ssh data' 'ssh w1' -i INVENTORY…, or for test hosts 'docker exec --interactive NAME'.
set -euo pipefail
cd "$(dirname "$0")/.."
image=$1 source=$2 target=$3
shift 3
TIMEFORMAT='%R s'
say() { printf '%s, load %s: ' "$1" "$(cut -d' ' -f1 /proc/loadavg)"; }
for ((round = 1; round <= ${ROUNDS:-2}; round++)); do
    $target docker rmi --force "$image" > /dev/null
    say 'docker save | docker load'
    time $source docker save "$image" | $target docker load > /dev/null
    say 'site.yml with the image there'
    time .venv/bin/ansible-playbook site.yml --tags images "$@" > /dev/null
    $target docker rmi --force "$image" > /dev/null
    say 'site.yml with the image missing'
    time .venv/bin/ansible-playbook site.yml --tags images "$@" > /dev/null
done
