#!/bin/bash
# A whole Slurm on this machine, without systemd: munge, the controller, and some nodes, which are all this host.
#
#   slurm.sh start FOLDER [NODES]   everything it writes is below FOLDER; then export SLURM_CONF=FOLDER/slurm.conf
#   slurm.sh stop FOLDER
#
# A node that does not answer is given up after SLURMD_TIMEOUT seconds (300). Needs root, and Debian's slurmctld slurmd
# slurm-client munge. Ports are 16817 and 17001.. .
set -u
folder=$2
host=$(hostname -s)
export SLURM_CONF=$folder/slurm.conf

# Jobs that are put into the queue again wait until the credential of their first start has expired: 5 s, not 2 minutes.
write_configuration() { # NODES
    cat << END
ClusterName=stemma
SlurmctldHost=$host(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket=$folder/munge.sock,cred_expire=5
SlurmctldPort=16817
SlurmctldPidFile=$folder/slurmctld.pid
SlurmdPidFile=$folder/slurmd-%n.pid
SlurmctldLogFile=$folder/slurmctld.log
SlurmdLogFile=$folder/slurmd-%n.log
StateSaveLocation=$folder/state
SlurmdSpoolDir=$folder/spool-%n
TmpFS=$folder/tmp-%n
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=sched_interval=1,bf_interval=1,batch_sched_delay=1
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
SlurmdParameters=config_overrides
PropagateResourceLimits=NONE
ReturnToService=2
KillWait=5
SlurmdTimeout=${SLURMD_TIMEOUT:-300}
MinJobAge=600
JobRequeue=1
NodeName=n[1-$1] NodeHostname=$host NodeAddr=127.0.0.1 Port=[17001-$((17000 + $1))] CPUs=4 CoresPerSocket=4 RealMemory=1000
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP
END
}

start() { # NODES
    local i
    mkdir -p "$folder/state" && chmod 755 "$folder"
    write_configuration "$1" > "$folder/slurm.conf"
    head -c 128 /dev/urandom > "$folder/munge.key" && chmod 600 "$folder/munge.key"
    munged --force --key-file="$folder/munge.key" --socket="$folder/munge.sock" --pid-file="$folder/munged.pid" \
        --log-file="$folder/munged.log" --seed-file="$folder/munged.seed" || return 1
    slurmctld -f "$SLURM_CONF" || return 1
    for ((i = 1; i <= $1; i++)); do
        mkdir -p "$folder/spool-n$i" "$folder/tmp-n$i"
        slurmd -f "$SLURM_CONF" -N "n$i" || return 1
    done
    for ((i = 0; i < 200; i++)); do
        [ "$(sinfo -h -t idle -o %D 2> /dev/null)" = "$1" ] && return
        sleep 0.1
    done
    echo "the nodes do not come up: $(tail -n 3 "$folder/slurmctld.log")" >&2
    return 1
}

stop() {
    local file i
    scancel -u root 2> /dev/null
    for ((i = 0; i < 100; i++)); do # a job that outlived its daemons would stay for ever
        [ -n "$(squeue -h 2> /dev/null)" ] || break
        sleep 0.1
    done
    for file in "$folder"/slurmd-*.pid "$folder/slurmctld.pid" "$folder/munged.pid"; do
        [ -s "$file" ] || continue
        kill "$(cat "$file")" 2> /dev/null
        for ((i = 0; i < 50; i++)); do # each says goodbye to the next
            [ -e "$file" ] || break
            sleep 0.1
        done
    done
    return 0
}

# The daemons would keep the caller's pipes open for ever.
case $1 in
start) start "${3:-2}" > "$folder.log" 2>&1 < /dev/null || { cat "$folder.log" >&2; exit 1; } ;;
stop) stop > /dev/null 2>&1 < /dev/null ;;
*) sed -n '2,7s/^# \{0,1\}//p' "$0" && exit 2 ;;
esac
