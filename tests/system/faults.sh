#!/bin/bash
# A rank that is killed, stopped, crashes, hangs or runs out of memory, in each phase of a run: the job ends soon, with
# another exit code than 0, one message that names rank, host, phase and step, and no process left. And no false alarm.
# `faults.sh brief`: some of it, for another MPI (mpich.sh).
. "$(dirname "$0")/common.sh"
cd "$work" || exit 1
. "$tests/support/toy.sh"
brief=${1:-}
host=$(hostname)

# What makes a phase last: a library that lets fsync of a checkpoint wait, a reward that sleeps, a file that never comes.
cat > slow.c << 'END'
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>
int fsync(int file)
{
    char link[64], path[512] = "";
    snprintf(link, sizeof link, "/proc/self/fd/%d", file);
    if (readlink(link, path, sizeof path - 1) > 0 && strstr(path, "/checkpoints/")) {
        close(open("here", O_CREAT | O_WRONLY, 0666));
        sleep(60);
    }
    return (int)syscall(SYS_fsync, file);
}
END
# Stops rank 1 before MPI, or after it, at the call that STOPS_AT names. Where LATE is set, rank 0 is the last to leave MPI.
cat > stops.c << 'END'
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
static void stop_at(const char *call)
{
    const char *at = getenv("STOPS_AT"), *rank = getenv("OMPI_COMM_WORLD_RANK");
    if (at && rank && strcmp(at, call) == 0 && strcmp(rank, "1") == 0)
        raise(SIGSTOP);
}
int PMPI_Init_thread(int *n, char ***words, int wanted, int *provided);
int PMPI_Finalize(void);
int MPI_Init_thread(int *n, char ***words, int wanted, int *provided)
{
    stop_at("start");
    return PMPI_Init_thread(n, words, wanted, provided);
}
int MPI_Finalize(void)
{
    stop_at("end");
    const char *rank = getenv("OMPI_COMM_WORLD_RANK");
    const int code = PMPI_Finalize();
    if (getenv("LATE") && rank && strcmp(rank, "0") == 0)
        for (int left = 5; left > 0;)
            left = (int)sleep((unsigned)left); /* whatever signal comes */
    return code;
}
END
for name in slow stops; do ${CC:-cc} -shared -fPIC -o $name.so $name.c || die "$name.c is not compiled"; done
mkfifo never.jsonl
exec 7<> never.jsonl # so that it opens, and the rank that reads it, 0, is seen to have it open
sed -i 's/max_new_tokens: 4/max_new_tokens: 40/' base.yaml
input run.yaml run 9 'parallel: { machine: none }\n'

# The command line of a run that stays in the phase; touches `here` (or says so in the log) when it is there.
run_in() {
    ready=here preload=
    case $1 in
    load) ready=never.jsonl words=(data.prompts=never.jsonl) ;;
    rollout) ready='starting from' words=(rollout.group_size=20000) ;;
    reward) words=('reward=[{name: command, command: "touch here; exec sleep 61", timeout_s: 50}]') ;;
    update) ready='starting from' words=(update.epochs=100000 rollout.max_new_tokens=4) ;;
    save) preload=$work/slow.so words=(run.steps=1) ;;
    eval) ready='starting from' words=(eval.prompts=few.jsonl eval.samples=40000) ;;
    esac
}

# Seconds since $begin.
since() { awk "BEGIN { print $(date +%s.%N) - $begin }" < /dev/null; }

# The process of a rank: a child of the launcher, or of one of its children. A rank's helper is a rank's child.
process_of() {
    local process parent
    for process in $(pgrep -f "^$STEMMA train"); do
        tr '\0' '\n' < "/proc/$process/environ" 2> /dev/null | grep -qxE "(OMPI_COMM_WORLD_RANK|PMI_RANK)=$1" || continue
        parent=$(awk '{ print $4 }' "/proc/$process/stat")
        [ "$(readlink "/proc/$parent/exe")" = "$(readlink "/proc/$process/exe")" ] || echo "$process"
    done | head -1
}

# start RANKS PHASE [WORDS..]: a run that is now in the phase; its launcher is $launcher.
start() {
    local ranks=$1 i
    run_in "$2"
    rm -rf run here out err
    LD_PRELOAD=$preload timeout 100 "$MPIRUN" -n "$ranks" "$STEMMA" train run.yaml "${words[@]}" "${@:3}" > out 2> err < /dev/null 7>&- &
    launcher=$!
    for ((i = 0; i < 200; i++)); do
        sleep 0.1
        case $ready in
        here) [ -e here ] && break ;;
        never.jsonl) readlink "/proc/$(process_of 0)"/fd/* | grep -q "/$ready$" && break ;;
        *) grep -q "$ready" out && break ;;
        esac
    done
    [ $i -lt 200 ] || die "phase $2 does not come: $(cat out err)"
    sleep 1
}

# ends MESSAGE SECONDS: what was started fails in this time, and one line says MESSAGE (a pattern).
ends() {
    begin=${begin:-$(date +%s.%N)}
    wait $launcher
    code=$?
    local s
    s=$(since)
    [ $code != 0 ] && [ $code != 124 ] || die "exit code $code: $(cat err)"
    awk "BEGIN { exit !($s < $2) }" < /dev/null || die "ended after $s s, expected $2"
    [ "$(grep -c '^stemma: ' err)" = 1 ] || die "expected one message: $(cat err)"
    grep -qE "^stemma: $1\$" err || die "expected stemma: $1, found: $(grep '^stemma: ' err)"
    for ((i = 0; i < 50; i++)); do
        pgrep -f "^$STEMMA train" > left || break
        sleep 0.1
    done
    [ $i -lt 50 ] || die "processes are left: $(cat left)"
    begin=
}

# What the rank says it was doing. Waiting is part of every phase that computes.
in_phase() {
    case $1 in
    load) echo '\(phase load\)' ;;
    rollout) echo '\(phase (rollout|wait[a-z ]*), step 1\)' ;;
    update) echo '\(phase (update|wait[a-z ]*|optimizer|other|gradient sums|parameter gather), step 1\)' ;;
    save) echo '\(phase checkpoint, step 1\)' ;;
    eval) echo '\(phase (eval|rollout|wait[a-z ]*)\)' ;;
    *) echo "\\(phase $1, step 1\\)" ;;
    esac
}

# try SIGNAL PHASE RANKS: to the last rank.
try() {
    local rank=$(($3 - 1)) what
    start "$3" "$2" fault.timeout=1.5
    begin=$(date +%s.%N)
    kill "-$1" "$(process_of $rank)"
    case $1 in
    KILL) what='died without a word: killed, or out of memory' ;;
    STOP) what='has stopped: it was not heard for [0-9]+ s' ;;
    SEGV) what='' ;;
    esac
    ends "rank $rank on $host${what:+ }${what:-: segmentation fault} $(in_phase "$2")" 8
}

phases="load rollout reward update save eval"
[ -z "$brief" ] || phases="rollout"
for phase in $phases; do try KILL $phase 2; done
say "killed in: $phases: one message, the job ends"
for phase in $phases; do try STOP $phase 2; done
say "stopped in: $phases: the neighbour says so"
try SEGV update 3
say "a crash says where"
[ -z "$brief" ] || exit 0

# Alone, hanging, out of memory

start 1 rollout
kill -KILL "$(process_of 0)"
ends "rank 0 on $host died without a word: killed, or out of memory $(in_phase rollout)" 8
start 2 load fault.io_timeout=2
ends "rank 0 on $host hangs: nothing has gone on for [23] s $(in_phase load)" 8
start 2 rollout rollout.group_size=1000
prlimit --pid "$(process_of 1)" --as=1000000
ends '(rank 1: |rank 1 on .*).*(memory|segmentation fault).*' 25
for at in start end; do
    rm -rf run
    STOPS_AT=$at LD_PRELOAD=$work/stops.so timeout 100 "$MPIRUN" -n 2 "$STEMMA" train run.yaml run.steps=0 > out 2> err < /dev/null &
    launcher=$!
    ends "rank 1 on $host has stopped: for 20 s \\(phase $at\\)" 40
done
say "stopped while MPI starts and ends: ended by its helper"
rm -rf run
LATE=1 LD_PRELOAD=$work/stops.so timeout 100 "$MPIRUN" -n 2 "$STEMMA" train run.yaml data.prompts=absent.jsonl > out 2> err < /dev/null &
launcher=$!
ends 'absent.jsonl: .*' 30
say "what is wrong is said before the launcher, which sees one rank fail, ends the one that speaks"
say "a single rank that is killed, one that hangs in a file, and one without memory"

# No false alarm: a rank that the pipeline leaves over, a reward that takes its time, more ranks than cores

LIMIT_S=60 launch 5 "$STEMMA" train run.yaml run.folder=calm run.steps=2 parallel.pipeline=2 fault.timeout=2 fault.io_timeout=1 \
    'reward=[{name: command, command: "sleep 4; exec sed s/.*/0.5/", timeout_s: 10}]'
[ "$codes" = '0 0 0 0 0' ] && [ -f calm/DONE ] || die "a false alarm: $codes $(cat err)"
say "no alarm for ranks that idle, wait or share cores"

# By default within 30 s

start 3 rollout
begin=$(date +%s.%N)
kill -STOP "$(process_of 0)"
ends "rank 0 on $host has stopped: it was not heard for 2[0-9] s $(in_phase rollout)" 30
say "with the time that is the default, too"
