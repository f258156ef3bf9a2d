#!/bin/sh
# Configures and builds into build/, with Ninja if it is there. Arguments: targets; none: everything.
set -eu
cd "$(dirname "$0")/.."

if [ ! -f build/build.ninja ] && [ ! -f build/Makefile ]; then
    generator="Unix Makefiles"
    if command -v ninja >/dev/null; then generator=Ninja; fi
    # Where scripts/install_cuda.sh has put it.
    nvcc=${XDG_DATA_HOME:-$HOME/.local/share}/fomoe/cuda/bin/nvcc
    if [ -x "$nvcc" ] && ! command -v nvcc >/dev/null; then export CUDACXX="${CUDACXX:-$nvcc}"; fi
    cmake -S . -B build -G "$generator"
fi
if [ $# -gt 0 ]; then
    cmake --build build --parallel "$(nproc)" --target "$@"
else
    cmake --build build --parallel "$(nproc)"
fi
