#!/bin/sh
# install_cuda.sh [FOLDER]: the CUDA 13.0 toolkit as far as fomoe is built from it, out of PyPI's
# packages, into FOLDER, where scripts/build.sh looks for it (about 1.1 GB). No root, no GPU and no
# driver are needed. Not needed where nvcc of CUDA 13 is in PATH.
set -eu

folder=${1:-${XDG_DATA_HOME:-$HOME/.local/share}/fomoe/cuda}
packages="nvidia-cuda-nvcc==13.0.88 nvidia-cuda-crt==13.0.88 nvidia-nvvm==13.0.88
    nvidia-cuda-runtime==13.0.96 nvidia-cublas==13.0.2.14 nvidia-nvtx==13.0.85
    nvidia-cuda-cccl==13.0.85 nvidia-nccl-cu13==2.28.9"

if [ -x "$folder/bin/nvcc" ] && [ -f "$folder/include/nccl.h" ]; then
    echo "CUDA is in $folder"
    exit 0
fi
command -v python3 >/dev/null || { echo "install_cuda.sh needs python3 with pip" >&2; exit 2; }
python3 -m pip --version >/dev/null 2>&1 || {
    echo "install_cuda.sh needs pip (Debian: apt-get install python3-pip)" >&2
    exit 2
}

mkdir -p "$(dirname "$folder")"
work=$(mktemp -d "$folder.XXXXXX")
trap 'rm -rf "$work"' EXIT
# shellcheck disable=SC2086
python3 -m pip install --quiet --no-deps --target "$work/packages" $packages
toolkit=$work/packages/nvidia/cu13
# NCCL's package has a folder of its own.
cp -r "$work/packages/nvidia/nccl/include/." "$toolkit/include/"
cp -r "$work/packages/nvidia/nccl/lib/." "$toolkit/lib/"
ln -s lib "$toolkit/lib64"
# The packages have no development links.
for library in "$toolkit"/lib/*.so.*; do
    name=${library##*/}
    ln -sf "$name" "$toolkit/lib/${name%%.so.*}.so"
done
rm -rf "$folder"
mv "$toolkit" "$folder"
echo "CUDA is in $folder"
