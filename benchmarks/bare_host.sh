# To be sourced: a host that has Python and PyTorch with CUDA and nothing else gets the wheels of the folder WHEELS, if it is
# given, without their dependencies, in a place that is forgotten (see forget_wheels). Sets python and OUT.
OUT=${OUT:-results/gpu}
python=${PYTHON:-python3}
mkdir -p "$OUT"
if [ -n "${WHEELS:-}" ]; then
    site=$(mktemp -d)
    "$python" -m pip install --quiet --no-index --no-deps --no-compile --target "$site" "$WHEELS"/*.whl || exit 1
    export PYTHONPATH=$site
fi
export PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH} PYTHONUNBUFFERED=1

forget_wheels() { rm -rf "${site:-}"; }
