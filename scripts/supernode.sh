#!/bin/sh
# Starts a SuperNode for good: `supernode.sh STATE_DIR [flower-supernode's options]`.
#
# A SuperNode that was killed must not come back at once. While the SuperLink has not missed it (up to
# 60 s) it is refused; coming back just then, the work it was killed over is never reported as failed
# and the round waits for its deadline. So after a kill, and only then, this waits before it starts.
set -u

if [ $# -lt 1 ] || [ "$1" = --help ]; then
  echo "Usage: supernode.sh STATE_DIR [flower-supernode's options]" >&2
  exit 2
fi
marker=$1/.supernode-running # left behind by a kill, and by nothing else
shift
missed_after_s=75 # Flower 1.41 gives up on a node 60 s after its last heartbeat, the server asks every 3 s

if [ -e "$marker" ]; then
  echo "supernode.sh: the last SuperNode here was killed, starting in $missed_after_s s"
  sleep "$missed_after_s" &
  pause=$!
  trap 'kill "$pause"; exit 143' TERM INT
  wait "$pause"
  trap - TERM INT
fi
: >"$marker" || exit 1

flower-supernode "$@" &
node=$!
trap 'kill -TERM "$node" 2>/dev/null' TERM INT
while :; do
  wait "$node"
  code=$?
  # A signal ends `wait` before the node is gone.
  kill -0 "$node" 2>/dev/null || break
done
[ "$code" -eq 137 ] || rm -f "$marker"
exit "$code"
