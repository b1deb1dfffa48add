#!/bin/bash
# `STEMMA=.. soak.sh [SECONDS]`: random faults for that long (600). Runs are killed, stopped and crashed at random
# instants, one rank or all, and started again until they are done; what they leave must be that of an unbroken run, to
# the bit. ctest does not run it. RANKS (2), SEED (of the faults: the time) and STEPS (40) may be given.
. "$(dirname "$0")/common.sh"
cd "$work" || exit 1
. "$tests/support/toy.sh"
seconds=${1:-600} ranks=${RANKS:-2} steps=${STEPS:-40} every=3
RANDOM=${SEED:-$(date +%s)}
say "faults by SEED=${SEED:-$(date +%s)}, $ranks ranks, $steps steps"

sed -i 's/group_size: 4/group_size: 64/' base.yaml
input broken.yaml broken "$steps" "checkpoint: { every: $every, keep: 3 }\neval: { every: 10, prompts: few.jsonl }\nparallel: { machine: none }\n"
succeeds "$ranks" "$STEMMA" train broken.yaml fault.timeout=3
mv broken whole

# Processes of the ranks, not of their helpers.
processes() {
    local process parent
    for process in $(pgrep -f "^$STEMMA train broken.yaml"); do
        parent=$(awk '{ print $4 }' "/proc/$process/stat" 2> /dev/null) || continue
        [ "$(readlink "/proc/$parent/exe")" = "$(readlink "/proc/$process/exe")" ] || echo "$process"
    done
}

# One fault: its kind is in $kind. A launcher that is killed leaves ranks that end by themselves.
strike() {
    local victims one
    mapfile -t victims < <(processes)
    [ ${#victims[@]} -gt 0 ] || return
    one=${victims[RANDOM % ${#victims[@]}]}
    case $((RANDOM % 5)) in
    0 | 1) kind=killed && kill -KILL "$one" ;;
    2) kind=all-killed && kill -KILL "${victims[@]}" ;;
    3) kind=stopped && kill -STOP "$one" ;;
    4) kind=crashed && kill -SEGV "$one" ;;
    esac 2> /dev/null
}

newest() { ls broken/checkpoints 2> /dev/null | sed -n 's/^step-0*\([0-9]*\)\.h5$/\1/p' | sort -n | tail -1; }

runs=0 n_faults=0
declare -A counts
until [ "$SECONDS" -ge "$seconds" ]; do
    rm -rf broken
    while [ ! -f broken/DONE ]; do
        before=$(newest) kind=none
        timeout 120 "$MPIRUN" -n "$ranks" "$STEMMA" train broken.yaml fault.timeout=3 > out 2> err < /dev/null &
        launcher=$!
        sleep "$((1 + RANDOM % 4)).$((RANDOM % 10))"
        strike
        wait $launcher
        code=$?
        [ $code != 124 ] || die "a run hangs after a rank was $kind: $(tail -3 out err)"
        [ $code = 0 ] || [ "$kind" != none ] || die "a run that nobody disturbed fails: $(cat err)"
        [ $code != 0 ] || [ -f broken/DONE ] || die "exit 0 without DONE: $(cat out)"
        [ "$(newest)" -ge "${before:-0}" ] 2> /dev/null || [ -z "$before" ] || die "checkpoints go back from $before to $(newest)"
        counts[$kind]=$((${counts[$kind]:-0} + 1))
        [ $code = 0 ] || n_faults=$((n_faults + 1))
    done
    same_bits "$(checkpoint whole "$steps")" "$(checkpoint broken "$steps")" "a run of $n_faults faults differs from an unbroken one"
    [ "$(sed -n 's/^{"step": \([0-9]*\),.*/\1/p' broken/metrics.jsonl | sort -n | uniq | wc -l)" = $((steps + 1)) ] ||
        die "metrics.jsonl lacks steps, or has one twice: $(cut -c1-20 broken/metrics.jsonl)"
    runs=$((runs + 1))
done
say "$runs runs with $n_faults faults ended with the bits of an unbroken one, in $SECONDS s:$(for kind in "${!counts[@]}"; do printf ' %s %d' "$kind" "${counts[$kind]}"; done)"
