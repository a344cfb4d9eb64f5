#!/bin/sh
# Starts a SuperLink whose runs' folder others make run directories in: `superlink.sh RUNS [options]`.
#
# It leaves a file in RUNS whose owner is who it runs as: `corolla run` compares that with who submits,
# before anything is submitted. Where it cannot even write there, it says so and does not start.
set -u

if [ $# -lt 1 ] || [ "$1" = --help ]; then
  echo "Usage: superlink.sh RUNS [flower-superlink's options]" >&2
  exit 2
fi
runs=$1
shift
marker=$runs/.superlink-uid
rm -f "$marker" 2>/dev/null # one of another user says nothing about this one
if ! touch "$marker" 2>/dev/null; then
  echo "superlink.sh: uid $(id -u) cannot write to $runs, which belongs to uid $(stat -c %u "$runs"):" \
    "build the image with COROLLA_UID and COROLLA_GID of its owner" >&2
  exit 2
fi
exec flower-superlink "$@"
