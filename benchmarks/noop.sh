#!/bin/sh
# Seconds of `site.yml` on a stack that is as declared: one run to warm up, then five.
set -eu
cd "$(dirname "$0")/.."
for run in warm-up 1 2 3 4 5; do
    begun=$(date +%s.%N)
    last=$(.venv/bin/ansible-playbook site.yml "$@" | grep -o 'changed=[0-9]*')
    echo "$run: $(echo "$(date +%s.%N) - $begun" | bc) s, $last"
done
