#!/bin/bash
# Seconds by the clock and of processor time of `site.yml` with nothing to do and of `drift.yml`, one after the other, three times each
# (ROUNDS). Options such as an inventory are passed to both.
set -eu
cd "$(dirname "$0")/.."
TIMEFORMAT='%R s, %U user, %S system'
.venv/bin/ansible-playbook playbooks/drift.yml "$@" > /dev/null # to warm up
for ((round = 1; round <= ${ROUNDS:-3}; round++)); do
    for playbook in site.yml playbooks/drift.yml; do
        echo -n "$playbook: "
        time .venv/bin/ansible-playbook "$playbook" "$@" > /dev/null
    done
done
