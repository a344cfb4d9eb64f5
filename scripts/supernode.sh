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

child=
stopped=
pass_on() {
  stopped=yes
  [ -z "$child" ] || kill -TERM "$child" 2>/dev/null
}
# Before anything starts: a stop that comes while a child starts must reach that child.
trap pass_on TERM INT

# Runs a command to its end and passes a stop on to it; `code` is its exit status.
run() {
  [ -z "$stopped" ] || exit 143
  "$@" &
  child=$!
  if [ -n "$stopped" ]; then # the stop came before `child` was known
    command -p sleep 1       # until the fork became the command: before, it may swallow a signal
    kill -TERM "$child" 2>/dev/null
  fi
  while :; do
    wait "$child"
    code=$?
    # A signal ends `wait` before the child is gone.
    kill -0 "$child" 2>/dev/null || break
  done
  child=
}

if [ -e "$marker" ]; then
  echo "supernode.sh: the last SuperNode here was killed, starting in $missed_after_s s"
  run sleep "$missed_after_s"
fi
: >"$marker" || exit 1

# `corolla node` becomes flower-supernode; messages then need no Python of their own (docs/deployment.md).
if command -v corolla >/dev/null; then
  run corolla node "$@"
else
  run flower-supernode "$@"
fi
[ "$code" -eq 137 ] || rm -f "$marker"
exit "$code"
