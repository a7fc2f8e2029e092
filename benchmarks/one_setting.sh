#!/bin/sh
# Seconds of one role with one changed setting, and how many containers it recreated. Sets it back at the end.
set -eu
cd "$(dirname "$0")/.."
stack=${STACK:-quantops}
ids() { docker ps --no-trunc --filter "label=quantops.stack=$stack" --format '{{.ID}}' | sort; }
for size in 120mb 121mb 122mb 123mb 124mb; do
    before=$(mktemp)
    ids > "$before"
    begun=$(date +%s.%N)
    .venv/bin/ansible-playbook playbooks/redis.yml -e "redis_maxmemory=$size" "$@" > /dev/null
    took=$(echo "$(date +%s.%N) - $begun" | bc)
    echo "redis_maxmemory=$size: $took s, $(ids | comm -13 "$before" - | wc -l) container(s) recreated"
    rm "$before"
done
.venv/bin/ansible-playbook playbooks/redis.yml "$@" > /dev/null
