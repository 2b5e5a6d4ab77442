#!/usr/bin/env bash
# The first learning curves of the paper on a GPU, as far as the time goes; called again with the same OUT it goes on:
#   WHEELS=.whl OUT=results/gpu MINUTES=9 benchmarks/gpu_evidence.sh
# WHEELS: a folder with the wheels that benchmarks/README.md names, left away where the package is installed already.
# OUT gets the logs, checkpoints, and curves.tar.xz with the CSV files.
set -u
cd "$(dirname "$0")/.."
source benchmarks/bare_host.sh
"$python" benchmarks/evidence.py --device "${DEVICE:-cuda}" --out "$OUT" --minutes "${MINUTES:-9}" "$@"
code=$?
forget_wheels
exit $code
