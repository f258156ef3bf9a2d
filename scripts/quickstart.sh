#!/bin/sh
# From a fresh Debian 12 to a trained federation: installs packages, builds, prepares the corpus,
# trains configs/quickstart.yaml, evaluates the result and writes a sample with it.
set -eu
cd "$(dirname "$0")/.."

scripts/install_packages.sh
scripts/build.sh fomoe-train fomoe-eval fomoe-data
scripts/get_corpus.sh

build/fomoe-train configs/quickstart.yaml
build/fomoe-eval runs/quickstart
echo
build/fomoe-eval runs/quickstart --generate "It is a truth universally acknowledged, that "
echo
echo "The run lies in $(pwd)/runs/quickstart: checkpoints, metrics and the config it ran with."
