#!/bin/bash
# gpu_selftest.sh [--tests | --bench]: holds the CUDA plugin to its tests on the GPU of this machine,
# then measures it. They are the binaries that also run without a GPU, on the CUDA libraries of the
# system. What it prints is ready to paste. FOMOE_BUILD: the build folder, build/ by default.
set -euo pipefail

root=$(cd "$(dirname "$0")/.." && pwd)
build=${FOMOE_BUILD:-$root/build}
part=${1:-all}

die() {
    echo "gpu_selftest.sh: $*" >&2
    exit 1
}
case $part in all | --tests | --bench) ;; *) die "usage: gpu_selftest.sh [--tests | --bench]" ;; esac
for file in libfomoe_cuda.so tests/test_cuda tools/bench_ops tools/bench_step; do
    [ -e "$build/$file" ] || die "needs $build/$file; run scripts/build.sh where nvcc is in PATH"
done

echo "== $(date -u +%F), $(git -C "$root" rev-parse --short HEAD 2>/dev/null || echo 'no git')"
nvidia-smi --query-gpu=name,driver_version,memory.total,clocks.max.sm,power.limit \
    --format=csv,noheader || die "nvidia-smi finds no GPU"

status=0
if [ "$part" != --bench ]; then
    echo "== tests"
    # Those with [interpreter] are about the interpreter.
    (cd "$build" && tests/test_cuda "[cuda]~[interpreter]" --durations no) || status=$?
fi

step() {  # step CONFIG DTYPE
    echo "== a training step: configs/$1.yaml, $2"
    "$build/tools/bench_step" "$root/configs/$1.yaml" --backend cuda --steps 10 --set train.dtype="$2"
}

if [ "$part" != --tests ]; then
    echo "== ops, bf16"
    "$build/tools/bench_ops" --backend cuda --dtype bf16 --seconds 0.1
    step moe_1b bf16
    step moe_190m bf16
    step moe_190m f32
fi
exit $status
