#!/bin/bash
# A Slurm of one node for tests, without systemd: munged, slurmctld and slurmd as root, with all that
# they write below one directory.
#
# usage: slurm.sh up DIR      prints the path of slurm.conf, for SLURM_CONF
#        slurm.sh down DIR
#
# Two partitions: jobs of `urgent` preempt those of `work`, which have 30 seconds to save and are
# queued again.
set -euo pipefail
dir=$(realpath "$2")
host=$(hostname)
export SLURM_CONF=$dir/slurm.conf

two_free_ports() {
    python3 -c 'import socket
sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
print(*(s.getsockname()[1] for s in sockets))'
}

up() {
    mkdir -p "$dir/state" "$dir/spool" "$dir/munge"
    chmod 755 "$dir" "$dir/munge"
    (umask 077 && head -c 1024 /dev/urandom > "$dir/munge/key")
    munged --force --key-file="$dir/munge/key" --socket="$dir/munge/socket" \
        --pid-file="$dir/munge/pid" --log-file="$dir/munge/log" --seed-file="$dir/munge/seed"
    read -r controller daemon < <(two_free_ports)
    cat > "$SLURM_CONF" << END
ClusterName=test
SlurmctldHost=$host(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket=$dir/munge/socket
StateSaveLocation=$dir/state
SlurmdSpoolDir=$dir/spool
SlurmctldPidFile=$dir/slurmctld.pid
SlurmdPidFile=$dir/slurmd.pid
SlurmctldLogFile=$dir/slurmctld.log
SlurmdLogFile=$dir/slurmd.log
SlurmctldPort=$controller
SlurmdPort=$daemon
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SlurmdParameters=config_overrides
MpiDefault=pmix
ReturnToService=2
KillWait=30
NodeName=$host NodeAddr=127.0.0.1 CPUs=5 Boards=1 SocketsPerBoard=1 CoresPerSocket=5 ThreadsPerCore=1 RealMemory=1000 State=UNKNOWN
PartitionName=work Nodes=ALL Default=YES MaxTime=INFINITE State=UP PriorityTier=1 GraceTime=30
PartitionName=urgent Nodes=ALL MaxTime=INFINITE State=UP PriorityTier=2 PreemptMode=off
END
    slurmctld -c -f "$SLURM_CONF"
    slurmd -c -f "$SLURM_CONF"
    for _ in $(seq 3000); do
        if [ "$(sinfo -h -p work -o %t 2> "$dir/sinfo")" = idle ]; then
            echo "$SLURM_CONF"
            return
        fi
        sleep 0.1
    done
    echo "no idle node:" >&2
    cat "$dir/sinfo" "$dir/slurmctld.log" "$dir/slurmd.log" "$dir/munge/log" >&2
    return 1
}

down() {
    scontrol shutdown || true
    for file in "$dir/slurmd.pid" "$dir/slurmctld.pid" "$dir/munge/pid"; do
        pid=$(cat "$file" 2> /dev/null) || continue
        for _ in $(seq 100); do
            kill "$pid" 2> /dev/null || break
            sleep 0.1
        done
    done
}

"$1"
