#!/bin/sh
# What lstm_embed does on a machine's GPU, in under ten minutes and without a network; see bench_gpu.py beside this.
#
#   sh tests/benchmarks/gpu.sh --output DIR [--wheels WHEELS] [--input DUMP] [--only SECTION ...]
#
# WHEELS holds wheels of all dependencies (pip download '.[test]' on a like machine); without it PYTHON has them already.
set -eu
root=$(cd "$(dirname "$0")/../.." && pwd)
python=${PYTHON:-python3}
wheels= output=
for argument; do
  case ${previous:-} in
    --wheels) wheels=$argument ;;
    --output) output=$argument ;;
  esac
  previous=$argument
done
: "${output:?Say where the results go: --output DIR}"
if [ -n "$wheels" ]; then
  mkdir -p "$output"
  packages=$(cd "$output" && pwd)/packages
  [ -d "$packages" ] || "$python" -m pip install --quiet --no-index --no-deps --target "$packages" "$wheels"/*.whl
  export PYTHONPATH="$packages${PYTHONPATH:+:$PYTHONPATH}"
fi
export PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}"
exec "$python" "$root/tests/benchmarks/bench_gpu.py" "$@"
