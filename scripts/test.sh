#!/bin/sh
# Builds and runs the default tests, or with --all every test. Installs what is missing first.
set -eu
cd "$(dirname "$0")/.."

case "$*" in
    "") chosen="--label-exclude ^tagged$" ;;
    --all) chosen="" ;;
    *)
        echo "usage: scripts/test.sh [--all]" >&2
        exit 2
        ;;
esac

if [ "$*" = --all ]; then
    scripts/install_packages.sh clang-22 libclang-rt-22-dev chromium python3-venv \
        python3-jsonschema jq slurmctld slurmd slurm-client munge
    if ! command -v nvcc >/dev/null; then scripts/install_cuda.sh; fi
else
    scripts/install_packages.sh
fi
scripts/build.sh
if [ "$*" = --all ]; then
    if [ ! -x build/venv/bin/pip ]; then python3 -m venv build/venv; fi
    build/venv/bin/pip install -q -r tools/requirements.txt
    for plugin in build/libfomoe_cuda.so build/clang/libfomoe_cuda.so; do
        if [ ! -e $plugin ]; then
            echo "$plugin was not built: delete build/, so that its compiler is looked for again" >&2
            exit 1
        fi
    done
fi

# Runs write many small checkpoints, each made durable: in memory where there is enough of it, so that
# no test waits for a slow disk.
if [ -z "${TMPDIR:-}" ] && [ "$(df -k --output=avail /dev/shm 2>/dev/null | tail -n 1)" -gt 8000000 ]; then
    export TMPDIR=/dev/shm
fi
# Tests start MPI jobs of more ranks than there are cores, in containers as root.
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
export OMPI_MCA_mpi_yield_when_idle=1 OMPI_MCA_rmaps_base_oversubscribe=1
exec ctest --test-dir build --output-on-failure --no-tests=error --no-label-summary --timeout 1800 \
    --parallel "$(nproc)" $chosen
