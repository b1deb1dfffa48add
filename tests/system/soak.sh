#!/bin/bash
# The long form of the system tests: `STEMMA=.. soak.sh [PART..]`, by default all, an hour or two. ctest does not run it.
#   kills      KILLS (200) times kill -9, of one rank or all, at random instants, a third of them during a save
#   faults     for FAULT_S seconds (600): killed, stopped and crashed ranks
#   flat       1,000 steps: memory at step 100 and at step 1,000; the example of budgets: at step 60 and at step 190
#   valgrind   a short run and the parsers under memcheck, in a build of its own (VALGRIND_BUILD: a folder to keep it in)
#   injection  each call of a save and each allocation fails (injection.sh all)
#   damage     a checkpoint cut at each 4 KiB, and a wrong bit in each dataset (damage.sh all)
#   fuzz       each fuzzer for FUZZ_S seconds (600)
# RANKS (2), SEED (of the faults: the time) and STEPS (100) may be given.
. "$(dirname "$0")/common.sh"
cd "$work" || exit 1
. "$tests/support/toy.sh"
ranks=${RANKS:-2} steps=${STEPS:-100} every=3
RANDOM=${SEED:-$(date +%s)}

# Kills and faults: broken/ is disturbed until it is done, again and again; what it leaves is what whole/ has

prepare_runs() {
    [ ! -d whole ] || return 0
    sed 's/group_size: 4/group_size: 64/' base.yaml > small.yaml
    {
        echo "run: { folder: broken, steps: $steps }"
        cat small.yaml
        echo "checkpoint: { every: $every, keep: 3 }"
        echo 'eval: { every: 10, prompts: few.jsonl }'
        echo 'parallel: { machine: none }'
    } > broken.yaml
    LIMIT_S=300 succeeds "$ranks" "$STEMMA" train broken.yaml fault.timeout=3
    mv broken whole
}

# Processes of the ranks, not of their helpers, which outlive them for a moment.
processes() {
    local process parent
    for process in $(pgrep -f "^$STEMMA train broken.yaml"); do
        parent=$(awk '{ print $4 }' "/proc/$process/stat" 2> /dev/null) || continue
        [ "$parent" = 1 ] || [ "$(readlink "/proc/$parent/exe")" = "$(readlink "/proc/$process/exe")" ] || echo "$process"
    done
}

# strike KIND: the ranks of $victims. A launcher that is killed leaves ranks that end by themselves.
strike() {
    local one=${victims[RANDOM % ${#victims[@]}]}
    case $1 in
    killed) kill -KILL "$one" ;;
    all-killed) kill -KILL "${victims[@]}" ;;
    stopped) kill -STOP "$one" ;;
    crashed) kill -SEGV "$one" ;;
    esac 2> /dev/null
}

newest() { ls broken/checkpoints 2> /dev/null | sed -n 's/^step-0*\([0-9]*\)\.h5$/\1/p' | sort -n | tail -1; }
last_step() { sed -n 's/^{"step": \([0-9]*\),.*/\1/p' broken/metrics.jsonl 2> /dev/null | tail -1; }
is_saving() { compgen -G 'broken/checkpoints/.*.partial' > /dev/null; }
is_running() { kill -0 "$launcher" 2> /dev/null; }

# Waits for the instant to strike, and leaves the ranks in $victims: for a third of the times in a save, of those to come
# one at random; for a third at any instant of a run's steps; else at any instant of a start.
await() { # INDEX
    local n
    victims=()
    if [ $(($1 % 3)) != 2 ]; then
        until grep -qs '^starting from\|^going on from' out || ! is_running; do sleep 0.02; done
        mapfile -t victims < <(processes)
    fi
    case $(($1 % 3)) in
    0)
        for ((n = RANDOM % 5; n >= 0; n--)); do
            until is_saving || ! is_running; do :; done
            while [ $n != 0 ] && is_saving; do :; done
        done
        ;;
    1) sleep "$((RANDOM % 2)).$((RANDOM % 10))$((RANDOM % 10))" ;;
    2)
        sleep "$((RANDOM % 2)).$((RANDOM % 10))$((RANDOM % 10))"
        mapfile -t victims < <(processes)
        ;;
    esac
}

# Where the run goes on, against what the one before had: the newest whole checkpoint, at most an interval before the last
# step; or the one before, where two tries came to no step (train/tries.h).
check_restart() {
    local from
    from=$(sed -n 's/^going on from .*after step \([0-9]*\) of.*/\1/p' out)
    ! grep '^broken/checkpoints/.*: ' out | grep -qv 'came to no step\|taken once more' ||
        die "a kill has left a checkpoint that is refused: $(cat out)"
    [ -n "$from" ] || return 0 # killed before it said so, or there was none
    n_restarts=$((n_restarts + 1))
    if grep -q 'came to no step' out; then
        n_earlier=$((n_earlier + 1))
        [ $((had_step - from)) -le $((2 * every)) ] || die "goes on from step $from, after step $had_step: $(cat out)"
    else
        [ "$from" = "${had:-0}" ] || die "goes on from step $from, and the newest is that of step ${had:-0}: $(cat out)"
        [ $((had_step - from)) -le $every ] || die "goes on from step $from, after step $had_step: more than an interval is lost"
    fi
}

# disturb MOST SECONDS KINDS..: until so many faults or so much time; then the run is finished undisturbed.
disturb() {
    local most=$1 end=$((SECONDS + $2)) runs=0 n_faults=0 n_saves=0 n_restarts=0 n_earlier=0 n_launchers=0 attempt=0 started had had_step code victims begin=$SECONDS
    local -A counts=()
    shift 2
    prepare_runs
    until [ $n_faults -ge "$most" ] || [ "$SECONDS" -ge $end ]; do
        rm -rf broken
        while [ ! -f broken/DONE ]; do
            had=$(newest) had_step=$(last_step) kind=
            started=$SECONDS
            timeout -k 5 120 "$MPIRUN" -n "$ranks" "$STEMMA" train broken.yaml fault.timeout=3 > out 2> err < /dev/null &
            launcher=$!
            if [ $n_faults -lt "$most" ] && [ "$SECONDS" -lt $end ]; then
                await $((attempt++))
                [ ${#victims[@]} = 0 ] || strike "${kind:=${*:RANDOM % $# + 1:1}}"
            fi
            wait $launcher
            code=$?
            if [ $((SECONDS - started)) -ge 120 ]; then # no rank may be left, and Open MPI's own launcher wait for itself
                grep -q '^mpirun noticed that process rank' err || die "a run hangs after a rank was $kind: $(tail -n 3 out err)"
                n_launchers=$((n_launchers + 1))
            fi
            [ $code = 0 ] || [ -n "$kind" ] || die "a run that nobody disturbed fails: $(cat err)"
            [ $code != 0 ] || [ -f broken/DONE ] || die "exit 0 without DONE: $(cat out)"
            [ "$(newest)" -ge "${had:-0}" ] 2> /dev/null || [ -z "$had" ] || grep -q 'came to no step' out ||
                die "checkpoints go back from $had to $(newest): $(cat out)"
            check_restart
            [ $code != 0 ] || continue
            counts[$kind]=$((${counts[$kind]:-0} + 1))
            n_faults=$((n_faults + 1))
            ! is_saving || n_saves=$((n_saves + 1))
        done
        same_bits "$(checkpoint whole "$steps")" "$(checkpoint broken "$steps")" "a run of $n_faults faults differs from an unbroken one"
        [ "$(sed -n 's/^{"step": \([0-9]*\),.*/\1/p' broken/metrics.jsonl | sort -n | uniq | wc -l)" = $((steps + 1)) ] ||
            die "metrics.jsonl lacks steps, or has one twice: $(cut -c1-20 broken/metrics.jsonl)"
        runs=$((runs + 1))
    done
    say "$n_faults faults in $runs runs of $steps steps on $ranks ranks, $((SECONDS - begin)) s:$(for kind in "${!counts[@]}"; do printf ' %s %d' "$kind" "${counts[$kind]}"; done); $n_saves in a save"
    [ $n_launchers = 0 ] || say "$n_launchers times mpirun did not end although no rank was left (a lock in PMIx_server_finalize)"
    say "$n_restarts restarts, each from the newest checkpoint but $n_earlier from the one before; the ends have the bits of an unbroken run"
}

# Memory

# Of all ranks: "KIB PSS_KIB", the memory of their own (Pss without mapped files), and Pss, in which pages of libraries count less
# the more programs of others have them mapped.
memory_kib() {
    local process
    for process in $(pgrep -f "^$STEMMA train flat.yaml"); do cat "/proc/$process/smaps_rollup" 2> /dev/null; done |
        awk '$1 == "Pss:" { pss += $2 } $1 == "Pss_Anon:" || $1 == "Pss_Shmem:" { own += $2 } END { print own + 0, pss + 0 }'
}
flat() {
    input flat.yaml flat 1100 'checkpoint: { every: 20, keep: 3 }\neval: { every: 50, prompts: few.jsonl }\nparallel: { machine: none }\n'
    sed -i 's/max_new_tokens: 4/max_new_tokens: 12, save: all/' flat.yaml
    stays_flat 100 1000
    rm -rf flat
    sed "s|inputs/|$tests/../inputs/|g; s|runs/budgets|flat|" "$tests/../inputs/lookup/budgets.yaml" > flat.yaml
    stays_flat 60 190 # it saves after step 50, 100 and 150
}

# stays_flat FIRST LAST: the memory of the run of flat.yaml after these two steps.
stays_flat() {
    local step first last
    timeout 1800 "$MPIRUN" -n "$ranks" "$STEMMA" train flat.yaml > out 2> err < /dev/null &
    launcher=$!
    for step in "$@"; do
        until grep -qs "^{\"step\": $step," flat/metrics.jsonl; do
            is_running || die "the run ends before step $step: $(tail -n 3 out err)"
            sleep 0.01
        done
        first=${first:-$(memory_kib)} last=$(memory_kib)
    done
    wait $launcher || die "a run that shall stay flat: $(cat err)"
    holds "${first% *} > 1000 && ${last% *} <= 1.02 * ${first% *} && ${last% *} >= 0.98 * ${first% *}" \
        "the same memory after step $1 and step $2"
    say "$ranks ranks after step $1: ${first% *} KiB of their own (Pss ${first#* }), after step $2: ${last% *} KiB (Pss ${last#* })"
}

# Memcheck knows no AVX-512, hence the build of its own

memcheck() {
    valgrind -q --error-exitcode=99 --leak-check=full --show-leak-kinds=definite --errors-for-leak-kinds=definite \
        --num-callers=40 --suppressions="$tests/system/valgrind.supp" --log-file=memcheck.%p "$@" > out 2>&1 < /dev/null
}
under_valgrind() {
    local build=${VALGRIND_BUILD:-$work/build} parsers=(groups groups_file model_config model_load options options_text prompts
        safetensors template text_lines tokenizer words) name
    command -v valgrind > /dev/null || die "no valgrind (Debian: valgrind)"
    [ -f "$build/build.ninja" ] || cmake -S "$tests/.." -B "$build" -G Ninja -DCMAKE_BUILD_TYPE=RelWithDebInfo -DSTEMMA_NATIVE=OFF \
        -DSTEMMA_ONEDNN=OFF -DSTEMMA_CUDA=OFF > out 2>&1 || die "cmake: $(tail -n 5 out)"
    ninja -C "$build" bin/stemma "${parsers[@]/#/unit_}" > out 2>&1 || die "the build for valgrind: $(tail -n 20 out)"
    for name in "${parsers[@]}"; do
        memcheck "$build/bin/unit_$name" || die "unit_$name under valgrind: $(tail -n 5 out; head -n 60 memcheck.*)"
        rm -f memcheck.*
    done
    say "valgrind: no error, no leak in the tests of ${#parsers[@]} parsers"
    input checked.yaml checked 4 'checkpoint: { every: 2, keep: 9 }\neval: { every: 2, prompts: few.jsonl }\nparallel: { machine: none }\n'
    memcheck "$build/bin/stemma" train checked.yaml checkpoint.async=true || die "a run under valgrind: $(tail -n 5 out; head -n 80 memcheck.*)"
    rm checked/DONE "$(checkpoint checked 4)"
    memcheck "$build/bin/stemma" train checked.yaml || die "a run that goes on under valgrind: $(tail -n 5 out; head -n 80 memcheck.*)"
    say "valgrind: no error, no leak of stemma's own in a run with an evaluation and saves, and in one that goes on"
}

fuzz() {
    local target
    for target in "$tests"/fuzz/corpus/*/; do
        target=$(basename "$target")
        bash "$tests/fuzz/run.sh" "$target" "${FUZZ_S:-600}" > out 2>&1 || die "fuzzing $target: $(tail -n 30 out)"
        say "fuzzed $target for ${FUZZ_S:-600} s: $(grep -o 'stat::number_of_executed_units: .*' out)"
    done
}

[ $# -gt 0 ] || set -- kills faults flat valgrind injection damage fuzz
say "soak: $*; SEED=${SEED:-the time}"
for part in "$@"; do
    case $part in
    kills) disturb "${KILLS:-200}" 86400 killed all-killed ;;
    faults) disturb 1000000 "${FAULT_S:-600}" killed killed all-killed stopped crashed ;;
    flat) flat ;;
    valgrind) under_valgrind ;;
    injection | damage) bash "$tests/system/$part.sh" all || die "$part.sh" ;;
    fuzz) fuzz ;;
    *) die "no part $part" ;;
    esac
done
