# shellcheck shell=sh
# Read by a shell in MinIO's container: waits for the reconciliation in the background and tells how it went.
for _ in $(seq 600); do
    [ ! -e /tmp/reconciled ] || break
    sleep 0.2
done
cat /tmp/reconcile.err >&2
cat /tmp/reconcile.out
read -r status < /tmp/reconciled || { echo "still at work after 120 s" >&2; exit 1; }
exit "$status"
