#!/bin/bash
# Seconds of `site.yml` on a stack that is as declared, by the clock and of Ansible's processor time: one run to warm up, then five (ROUNDS).
# Options such as an inventory are passed on.
set -eu
cd "$(dirname "$0")/.."
TIMEFORMAT='%R s, %U user, %S system'
for run in warm-up $(seq "${ROUNDS:-5}"); do
    time last=$(.venv/bin/ansible-playbook site.yml "$@" | grep -o 'changed=[0-9]*' | xargs)
    echo "$run: $last, load $(cut -d' ' -f1 /proc/loadavg)"
done
