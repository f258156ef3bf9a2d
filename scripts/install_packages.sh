#!/bin/sh
# install_packages.sh [PACKAGE...]: installs the Debian 12 packages that fomoe is built from, and
# these, those that are missing only.
# On another distribution it names them and ends with 2; FOMOE_PACKAGES=installed skips this step.
set -eu

packages="
    g++ make cmake ninja-build pkg-config
    openmpi-bin libopenmpi-dev
    libdnnl-dev
    libyaml-cpp-dev libcli11-dev libspdlog-dev libfmt-dev nlohmann-json3-dev libxxhash-dev
    libsentencepiece-dev
    catch2 iproute2 python3 python3-pip $*"

if [ "${FOMOE_PACKAGES:-}" = installed ]; then exit 0; fi

refuse() {
    echo "$1 fomoe needs these packages, named as in Debian 12:" >&2
    echo "$packages" >&2
    echo "Once they are installed, run again with FOMOE_PACKAGES=installed." >&2
    exit 2
}

system=unknown
if [ -r /etc/os-release ]; then
    system=$(. /etc/os-release && echo "${ID:-unknown} ${VERSION_ID:-}")
fi
if [ "$system" != "debian 12" ]; then refuse "This is not Debian 12 but '$system'."; fi

missing=""
for package in $packages; do
    status=$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null || true)
    if [ "$status" != installed ]; then missing="$missing $package"; fi
done
if [ -z "$missing" ]; then exit 0; fi

as_root=""
if [ "$(id -u)" -ne 0 ]; then
    command -v sudo >/dev/null || refuse "This needs root or sudo, to install:$missing."
    as_root=sudo
fi
echo "Installing:$missing" >&2
$as_root apt-get update -q || echo "apt-get update failed; going on with the lists at hand" >&2
$as_root env DEBIAN_FRONTEND=noninteractive \
    apt-get install -q -y --no-install-recommends $missing
