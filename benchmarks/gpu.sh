#!/usr/bin/env bash
# Every measurement that needs a GPU, in under eight minutes, on a host that has Python and PyTorch with CUDA and nothing else:
#   WHEELS=.whl OUT=results/gpu benchmarks/gpu.sh
# WHEELS: a folder with the wheels that benchmarks/README.md names, left away where the package is installed already.
# OUT: where the tables and all numbers go. A part that fails or runs over its time leaves its log there, and the rest goes on.
set -u
cd "$(dirname "$0")/.."
source benchmarks/bare_host.sh
failed=0

part() { # name, seconds, script and arguments
    local name=$1 seconds=$2
    shift 2
    echo "== $name"
    timeout "$seconds" "$python" "benchmarks/$1" "${@:2}" >"$OUT/$name.log" 2>&1 || { failed=1; echo "$name: failed"; }
    tail -n 25 "$OUT/$name.log"
}

fast="--device ${DEVICE:-cuda} --cuda-graphs --coarse"
part check 60 check_cuda.py --device "${DEVICE:-cuda}"
part vic 180 throughput.py --algo ppo_snd_vic $fast --seconds 130 ${SIZES:-} \
    --against naive stock one-stream eager emulators nets --json "$OUT/vic.json"
for model in std v rnd; do
    algo=ppo_snd_$model
    [ $model = rnd ] && algo=ppo_rnd
    part $model 50 throughput.py --algo $algo $fast --seconds 25 ${SIZES:-} --against naive --json "$OUT/$model.json"
done
part phases 40 throughput.py --algo ppo_snd_vic --device "${DEVICE:-cuda}" --cuda-graphs --seconds 15 ${SIZES:-} --against
part profile 40 profile_update.py --device "${DEVICE:-cuda}" --n-steps 16
forget_wheels
exit $failed
