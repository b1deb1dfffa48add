#!/usr/bin/env bash
# Virtual hosts on this machine: each has its own network, hostname, mounts and /dev/shm; eth0 of host nI is 10.77.0.I,
# on a bridge in a namespace of its own. Needs root and the right to make namespaces; touches nothing of the machine's
# own network.
#
#   vcluster.sh up N | rate RATE|off | exec HOST WORDS.. | agent HOST WORDS.. | down      in the folder $VC_DIR
#
# agent is what Open MPI takes as plm_rsh_agent.
set -u
: "${VC_DIR:?expected a folder for the process ids}"

pid_of() { cat "$VC_DIR/$1.pid"; }

on() { # on HOST WORDS..
    local host=$1
    shift
    exec nsenter -t "$(pid_of "$host")" -m -u -n --wd="$PWD" -- "$@"
}

# Begins a process in new namespaces (unshare's OPTIONS) that sleeps, and returns when it does.
start() { # start NAME OPTIONS COMMANDS
    local tries=0
    rm -f "$VC_DIR/$1.ready"
    unshare $2 setsid bash -c "$3 touch '$VC_DIR/$1.ready'; exec sleep infinity" > /dev/null 2>&1 < /dev/null &
    echo $! > "$VC_DIR/$1.pid"
    until [ -e "$VC_DIR/$1.ready" ]; do
        sleep 0.05
        [ $((++tries)) -lt 100 ] || return 1
    done
}

up() {
    local i name
    mkdir -p "$VC_DIR" || return 1
    echo "127.0.0.1 localhost" > "$VC_DIR/hosts"
    for ((i = 1; i <= $1; i++)); do echo "10.77.0.$i n$i" >> "$VC_DIR/hosts"; done
    start bridge "-n" "set -e;" || return 1
    nsenter -t "$(pid_of bridge)" -n sh -ec 'ip link add br0 type bridge; ip link set br0 up' || return 1
    for ((i = 1; i <= $1; i++)); do
        name=n$i
        start "$name" "-n -u -m --propagation private" "set -e; hostname $name; mount -t tmpfs -o size=1g shm /dev/shm;
            mount -t sysfs sysfs /sys; mount --bind '$VC_DIR/hosts' /etc/hosts;" || return 1
        # Both ends are made where they belong: no name of them is ever the machine's.
        nsenter -t "$(pid_of bridge)" -n sh -ec "ip link add vp$i type veth peer name eth0 netns $(pid_of "$name")
            ip link set vp$i master br0 up" || return 1
        nsenter -t "$(pid_of "$name")" -n sh -ec "ip link set lo up; ip addr add 10.77.0.$i/24 dev eth0
            ip link set eth0 up" || return 1
    done
}

rate() {
    local file
    for file in "$VC_DIR"/n*.pid; do
        nsenter -t "$(cat "$file")" -n tc qdisc del dev eth0 root 2> /dev/null
        [ "$1" = off ] || nsenter -t "$(cat "$file")" -n tc qdisc add dev eth0 root tbf rate "$1" burst 256k latency 50ms ||
            return 1
    done
}

down() {
    local file
    for file in "$VC_DIR"/*.pid; do
        [ -e "$file" ] && kill "$(cat "$file")" 2> /dev/null
        rm -f "$file"
    done
    return 0
}

command=$1
shift
case $command in
up | rate | down) "$command" "$@" ;;
exec) on "$@" ;;
agent)
    host=$1
    shift
    on "$host" sh -c "$*"
    ;;
*)
    sed -n 2,8p "$0"
    exit 2
    ;;
esac
