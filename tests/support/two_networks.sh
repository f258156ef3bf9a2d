#!/bin/sh
# Two network namespaces joined by one cable, and mpirun over both, one host each.
#   two_networks.sh up NAME            makes them; NAME: up to 8 letters and digits
#   two_networks.sh sent NAME          prints the bytes that each end has sent so far
#   two_networks.sh run NAME ARGS...   mpirun ARGS..., one rank a host
#   two_networks.sh down NAME
# Needs the right to make namespaces. mpirun starts its daemon on the other host by this script, too.
set -eu
self=$(cd "$(dirname "$0")" && pwd)/two_networks.sh
network=10.93.0
frame=9000

command=$1
case $command in
    up | sent | run | down) name=$2 && shift 2 ;;
    "$network".2)
        shift
        exec ip netns exec "$FOMOE_NETWORK-b" unshare --uts sh -c "hostname $FOMOE_NETWORK-b; $*"
        ;;
    *)
        sed -n 2,7p "$self" >&2
        exit 2
        ;;
esac

case $command in
    up)
        ip netns add "$name-a"
        ip netns add "$name-b"
        ip -n "$name-a" link add cable type veth peer name cable netns "$name-b"
        for end in a b; do
            ip -n "$name-$end" link set lo up
            ip -n "$name-$end" link set cable mtu $frame up
        done
        ip -n "$name-a" address add $network.1/24 dev cable
        ip -n "$name-b" address add $network.2/24 dev cable
        ;;
    sent)
        for end in a b; do
            ip netns exec "$name-$end" cat /sys/class/net/cable/statistics/tx_bytes
        done
        ;;
    run)
        export FOMOE_NETWORK="$name"
        exec ip netns exec "$name-a" unshare --uts sh -c 'hostname $FOMOE_NETWORK-a; exec "$@"' sh \
            mpirun --quiet --mca plm_rsh_agent "$self" --mca oob_tcp_if_include $network.0/24 \
            --mca pml ob1 --mca btl tcp,vader,self --mca btl_tcp_if_include $network.0/24 \
            --bind-to none -x FOMOE_NETWORK -n 2 --host $network.1:1,$network.2:1 "$@"
        ;;
    down)
        ip netns del "$name-a"
        ip netns del "$name-b"
        ;;
esac
