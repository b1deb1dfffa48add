#!/bin/bash
# `stemma train`: a run that is stopped, killed, or moved to another number of ranks goes on as if nothing had been.
. "$(dirname "$0")/common.sh"
cd "$work" || exit 1
. "$tests/support/toy.sh"

# 10 steps are 5 and 5: bit for bit on the same layout

input ten.yaml ten 10 'checkpoint: { every: 5, keep: 9 }\neval: { every: 5, prompts: few.jsonl, samples: 3 }\nupdate: { minibatch_groups: 2 }\n'
for ranks in 0 2; do
    rm -rf ten whole
    succeeds $ranks "$STEMMA" train ten.yaml
    [ -f ten/DONE ] && [ -f ten/input.yaml ] && [ -f ten/log.txt ] || die "ten: $(ls ten)"
    [ "$(wc -l < ten/metrics.jsonl)" = 11 ] || die "expected 10 steps and the evaluation of the start: $(cut -c1-20 ten/metrics.jsonl)"
    mv ten whole
    mkdir -p ten/checkpoints
    cp "$(checkpoint whole 5)" ten/checkpoints/
    succeeds $ranks "$STEMMA" train ten.yaml
    grep -q 'going on from ten/checkpoints/step-00000005.h5, after step 5 of 10' out || die "nothing about going on: $(cat out)"
    same_bits "$(checkpoint whole 10)" "$(checkpoint ten 10)" "10 steps are not 5 and 5 at $ranks ranks"
done
say "10 steps = 5 + 5, bit for bit, alone and on 2 ranks, two updates and more a step, with evaluations"

# A finished run says so

succeeds 0 "$STEMMA" train ten.yaml
grep -q 'done already: step 10 of 10' out || die "a run that is done says: $(cat out)"
rm ten/DONE
succeeds 2 "$STEMMA" train ten.yaml
[ -f ten/DONE ] || die "DONE is not written again"
say "a finished run says so and exits 0"

# Another layout, in float64: the same numbers to rounding

# AdamW divides by the root of the second moment, so rounding of 1e-16 in tiny gradients grows: 1e-9 in 10 steps.
rm -rf ten && succeeds 0 "$STEMMA" train ten.yaml --precision=float64 && mv ten alone
for ranks in 2 3; do
    rm -rf ten && succeeds $ranks "$STEMMA" train ten.yaml --precision=float64
    same_parameters "$(checkpoint alone 10)" "$(checkpoint ten 10)" 1e-9
    rm -rf ten && mkdir -p ten/checkpoints && cp "$(checkpoint alone 5)" ten/checkpoints/
    succeeds $ranks "$STEMMA" train ten.yaml --precision=float64
    same_parameters "$(checkpoint alone 10)" "$(checkpoint ten 10)" 1e-9
done
say "2 and 3 ranks take the steps of one, and go on with its checkpoint"

# Whoever reads the output may go

timeout 60 "$STEMMA" train ten.yaml run.folder=unread | sleep 0
[ "${PIPESTATUS[0]}" = 0 ] && [ -f unread/DONE ] || die "a closed pipe ends the run: $(tail -3 unread/log.txt)"
say "a run goes on when nobody reads its output any more"

# Edited input

sed 's/lr: 0.02/lr: 0.03/; s/steps: 10/steps: 11/' ten.yaml > edited.yaml
for ranks in 0 2; do
    refused 2 'ten/checkpoints/step-00000010.h5: this run has other options: ..' $ranks "$STEMMA" train edited.yaml --precision=float64
    grep -q 'optim.lr (saved .*0.02, now .*0.03)' err || die "optim.lr is not named: $(cat err)"
done
grep -q 'precision' err && die "what the command line gave is refused: $(cat err)"
succeeds 0 "$STEMMA" train edited.yaml --precision=float64 optim.lr=0.03
grep -q 'after step 10 of 11' out && [ -f "$(checkpoint ten 11)" ] || die "optim.lr on the command line: $(cat out)"
for ranks in 0 2; do
    refused 2 'model.path: ten/checkpoints/step-00000005.h5 has other weights (XXH3 ..' $ranks "$STEMMA" train edited.yaml \
        --precision=float64 optim.lr=0.03 model.init=file model.path="$(checkpoint ten 5)" run.steps=12
done
say "an edited input is refused by name, and accepted from the command line"

# --resume

succeeds 0 "$STEMMA" train edited.yaml --precision=float64 --resume="$(checkpoint ten 5)" optim.lr=0.02
grep -q 'moved to ten/checkpoints.old' out && grep -q 'after step 5 of 11' out || die "--resume=PATH: $(cat out)"
[ "$(ls ten/checkpoints.old | grep -c step)" = 2 ] || die "set aside: $(ls ten/checkpoints.old)"
[ "$(cut -d, -f1 ten/metrics.jsonl | sort | uniq -d)" = "" ] || die "a step stands twice in metrics.jsonl"
printf 'x' | dd of="$(checkpoint ten 11)" bs=1 seek=3000 conv=notrunc status=none
succeeds 2 "$STEMMA" train edited.yaml --precision=float64 optim.lr=0.02 run.steps=12
grep -q 'step-00000011.h5: ' out && grep -q 'after step 10 of 12' out || die "a damaged checkpoint: $(cat out)"
succeeds 0 "$STEMMA" train edited.yaml --precision=float64 --resume=never run.steps=2
grep -q 'starting from toy' out && [ "$(ls ten/checkpoints | grep -c step)" = 1 ] || die "--resume=never: $(cat out)"
refused 2 '--resume: ..' 0 "$STEMMA" train edited.yaml --precision=float64 --resume=toy/config.json run.steps=3
say "--resume takes a path or never; a damaged checkpoint is passed over, and the log says so"

# Killed at any instant

input long.yaml long 40 'checkpoint: { every: 1, keep: 2 }\n'
succeeds 0 "$STEMMA" train long.yaml
mv long whole.long
"$STEMMA" train long.yaml > killed.txt 2>&1 &
pid=$!
for ((i = 0; i < 500; i++)); do
    [ "$(ls long/checkpoints 2> /dev/null | grep -c '^step')" -ge 2 ] && break
    sleep 0.01
done
kill -9 $pid
wait $pid 2> /dev/null
[ ! -f long/DONE ] || die "the run ended before it could be killed"
succeeds 0 "$STEMMA" train long.yaml
grep -q 'going on from long/checkpoints/step-' out || die "after kill -9: $(cat out)"
same_bits "$(checkpoint whole.long 40)" "$(checkpoint long 40)" "a killed run does not end like one that was not"
[ "$(ls long/checkpoints | grep -c step)" = 2 ] || die "checkpoint.keep=2: $(ls long/checkpoints)"
cmp <(cut -d, -f1-7 whole.long/metrics.jsonl) <(cut -d, -f1-7 long/metrics.jsonl) || die "metrics.jsonl differs"
say "kill -9, then the same command: the same last checkpoint, each step once in metrics.jsonl"

# STOP, SAVE, signals, --maxh (signals.sh has the rest)

input endless.yaml endless 1000000 'checkpoint: { every: 0 }\nrollout: { save: none }\n'
sed -i '/^rollout: { save/d; s/max_new_tokens: 4/max_new_tokens: 4, save: none/' endless.yaml
# ends_by RANKS ACT: starts the run, acts once it has taken steps, waits for exit code 0 and a checkpoint without DONE.
ends_by() {
    rm -rf endless
    if [ "$1" = 0 ]; then
        timeout 60 env --default-signal=INT "$STEMMA" train endless.yaml > ended.txt 2>&1 & # bash ignores it for jobs
    else
        timeout 60 "$MPIRUN" -n "$1" "$STEMMA" train endless.yaml > ended.txt 2>&1 &
    fi
    local job=$! i
    for ((i = 0; i < 1000; i++)); do
        grep -qs '^{"step": 3,' endless/metrics.jsonl && break
        sleep 0.02
    done
    eval "$2"
    wait $job || die "$2: exit code $?: $(tail -5 ended.txt)"
    [ ! -f endless/DONE ] || die "$2: DONE is there"
    ls endless/checkpoints | grep -q '^step-' || die "$2: no checkpoint"
    grep -q '^stopped after step' endless/log.txt || die "$2: $(tail -5 endless/log.txt)"
}
for ranks in 0 2; do
    ends_by $ranks 'touch endless/STOP'
    [ ! -f endless/STOP ] || die "STOP stays"
done
ends_by 0 'kill -TERM $(pgrep -P $job -x stemma)'
ends_by 0 'kill -INT $(pgrep -P $job -x stemma)'
ends_by 2 'touch endless/SAVE; while [ -f endless/SAVE ]; do sleep 0.05; done; ls endless/checkpoints | grep -q "^step-" || die "SAVE saves nothing"; touch endless/STOP'
grep -q '^SAVE: checkpoint after step' endless/log.txt || die "SAVE is not in the log"
rm -rf endless
start=$(date +%s%N)
succeeds 2 "$STEMMA" train endless.yaml --maxh=0.001
took_ms=$((($(date +%s%N) - start) / 1000000))
[ $took_ms -lt 8000 ] && grep -q 'the time of --maxh is up' out && [ ! -f endless/DONE ] || die "--maxh: $took_ms ms: $(tail -5 out)"
say "STOP, SAVE, SIGTERM, SIGINT and --maxh end or save cleanly; DONE is for the last step alone"
