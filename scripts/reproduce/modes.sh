#!/bin/sh
# What groups do with experts they lack: trains every way of it on the same text with the same steps,
# twice, all groups on one mixture and each group on a domain of its own, then writes a table and a
# plot of quality against bytes sent. Started again, it goes on where it was.
#   scripts/reproduce/modes.sh [small|full]     small: half an hour on two cores; full: a night
set -eu
cd "$(dirname "$0")/../.."
root=$(pwd)

size=${1:-small}
case $size in
    small) calibration=60 ;;
    full) calibration=200 ;;
    *)
        sed -n 2,6p "$0" >&2
        exit 2
        ;;
esac
out=runs/modes_$size
mkdir -p "$out"

scripts/install_packages.sh
scripts/build.sh fomoe-train fomoe-eval fomoe-data
scripts/get_corpus.sh

cat >"$out/same.yaml" <<END
topology: {groups: [{name: north}, {name: east}, {name: south}, {name: west}]}
END
cat >"$out/domains.yaml" <<END
topology:
  groups:
    - {name: north, data: {literature: 1}}
    - {name: east, data: {dictionary: 1}}
    - {name: south, data: {kernel: 1}}
    - {name: west, data: {mathematics: 1}}
END
# One group with the batch of four.
cat >"$out/same_one.yaml" <<END
topology: {groups: [{name: all, ranks: 4}]}
federation: {replication: 1}
END
cat >"$out/domains_one.yaml" <<END
topology:
  groups:
    - {name: all, ranks: 4, data: {literature: 1, dictionary: 1, kernel: 1, mathematics: 1}}
federation: {replication: 1}
END

# arm NAME TOPOLOGY SETTING...
arm() {
    name=$1 topology=$2
    shift 2
    for data in same domains; do
        run=${data}_$name
        result=$out/$run.json
        if [ -s "$result" ]; then continue; fi
        echo "== $data $name" >&2
        sets="--set name=$run"
        for setting in "$@"; do sets="$sets --set $setting"; done
        (cd "$out" && "$root/build/fomoe-train" "$root/configs/modes_$size.yaml" \
            "$data$topology.yaml" $sets --calibrate "$calibration")
        build/fomoe-eval "$out/runs/$run" --mode union,own,document --json >"$result.part"
        mv "$result.part" "$result"
    done
}

arm data_parallel _one train.batch="$(($(sed -n 's/^  batch: //p' "configs/modes_$size.yaml") * 4))"
arm fedavg "" federation.replication=4 federation.outer.optimizer=average
arm diloco "" federation.replication=4
arm skip_r2 "" federation.replication=2
arm skip_r1 "" federation.replication=1
arm reroute_r2 "" federation.replication=2 federation.absent=reroute
arm reroute_r1 "" federation.replication=1 federation.absent=reroute
arm reroute_affinity_r2 "" federation.replication=2 federation.absent=reroute \
    federation.affinity_loss=0.05 federation.router.average=owners
arm renormalize_r2 "" federation.replication=2 federation.absent=renormalize
arm proxy_r2 "" federation.replication=2 federation.absent=proxy
arm skip_shared_r2 "" federation.replication=2 model.moe.n_shared_experts=1

python3 scripts/reproduce/modes_table.py "$out"
