#!/bin/bash
# Signals, STOP, SAVE and --maxh while a run samples, updates, evaluates and saves: it ends in order or goes on, and what
# it leaves goes on like a run that nobody has disturbed.
. "$(dirname "$0")/common.sh"
cd "$work" || exit 1
. "$tests/support/toy.sh"

# Long rollouts, so that there is time to act inside one; rewards that differ, so that there is something to learn.
sed -i 's/"max_position_embeddings": 96/"max_position_embeddings": 8192/' toy/config.json
sed -i 's/max_new_tokens: 4/max_new_tokens: 1600, ignore_eos: true/; s/text: a/text: ab/' base.yaml

echo 'parallel: { machine: none }' >> base.yaml # two runs would measure other rates, and sum in another order

# start RANKS INPUT [WORDS..]: in the background; $job waits for it.
start() {
    local ranks=$1
    shift
    if [ "$ranks" = 0 ]; then
        timeout 60 env --default-signal=INT "$STEMMA" train "$@" > started.txt 2>&1 & # bash ignores it for jobs
    else
        timeout 60 "$MPIRUN" -n "$ranks" "$STEMMA" train "$@" > started.txt 2>&1 &
    fi
    job=$!
}
unbroken() { # RANKS: what nobody disturbed, in whole
    succeeds "$1" "$STEMMA" train run.yaml
    mv run whole
}
processes() { # of the run: the ranks
    pgrep -P "$job" -x stemma || pgrep -P "$(pgrep -P "$job")" -x stemma
}
has_checkpoint() { [ -f "$(checkpoint "$1" "$2")" ]; }
newest() { ls "$1/checkpoints" | sed -n 's/step-0*\([0-9][0-9]*\).h5/\1/p' | tail -1; } # step
is_saving() { ls -A "$1/checkpoints" 2> /dev/null | grep -q partial; }
ends_with() { # CODE
    local code=0
    wait "$job" || code=$?
    [ $code = "$1" ] || die "exit code $code, expected $1: $(tail -5 started.txt)"
}
# left_after FOLDER STEP: it has stopped there, with a checkpoint and without DONE.
left_after() {
    grep -q "^stopped after step $2 of" "$1/log.txt" || die "$1: expected an end after step $2: $(tail -5 "$1/log.txt")"
    [ ! -f "$1/DONE" ] && [ "$(ls "$1/checkpoints" | grep step | tail -1)" = "$(basename "$(checkpoint "$1" "$2")")" ] ||
        die "$1: DONE, or other checkpoints: $(ls "$1" "$1/checkpoints")"
}
# Numbers of a run but for clocks and memory, one line a step.
numbers_of() { sed -E 's/"[a-z_]*(_s|_share|_bytes)": [-0-9.e+a-z]*,? ?//g' "$1/metrics.jsonl"; }
# same_run A B STEP: the same bits, numbers, and rollouts.
same_run() {
    same_bits "$(checkpoint "$1" "$3")" "$(checkpoint "$2" "$3")" "$2 has not ended like $1"
    cmp <(numbers_of "$1") <(numbers_of "$2") || die "$2: other numbers than $1"
    diff -r "$1/rollouts" "$2/rollouts" > diff.txt || die "$2: other rollouts than $1: $(head -5 diff.txt)"
    [ -f "$2/DONE" ] || die "$2: no DONE"
}

# In a rollout: the step begins again, whoever saw the signal

input run.yaml run 4 'checkpoint: { every: 5, keep: 9 }\n'
unbroken 2
start 2 run.yaml
until_true has_step run 1
kill -TERM "$(processes | tail -1)"
ends_with 0
left_after run 1
start 2 run.yaml
until_true has_step run 2
touch run/STOP # it is looked for once a second
ends_with 0
left_after run "$(newest run)"
[ ! -f run/STOP ] || die "STOP stays"
succeeds 2 "$STEMMA" train run.yaml
same_run whole run 4
say "SIGTERM at one rank and STOP leave a rollout; what follows is the run that was not disturbed, bit for bit"

rm -rf run
start 2 run.yaml
until_true test -f run/input.yaml
sleep 0.1
kill -INT "$(processes | head -1)"
ends_with 0
left_after run 0
succeeds 2 "$STEMMA" train run.yaml
same_run whole run 4
say "the first rollout is left as well"

# SAVE and SIGUSR1 inside a rollout: the state after the last step, and the run goes on

rm -rf run
start 2 run.yaml
until_true has_step run 1
kill -USR1 "$(processes | tail -1)"
until_true has_checkpoint run 1
! has_step run 2 || die "the checkpoint after step 1 came after step 2"
until_true has_step run 2
touch run/SAVE # it is looked for once a second, in which a fast machine could end the run
kill -STOP $(processes)
sleep 1.1
kill -CONT $(processes)
until_true test ! -f run/SAVE
ends_with 0
same_run whole run 4
[ "$(grep -c '^SAVE: checkpoint after step' run/log.txt)" = 2 ] || die "SAVE in the log: $(cat run/log.txt)"
say "SIGUSR1 and SAVE save before the update of the step, and change nothing"

# In an evaluation: it is made up for, in its place

eval_of() { sed -n "s/^{\"step\": $2,.*\"eval_reward\": \([^,]*\),.*/\1/p" "$1/metrics.jsonl"; }
rm -rf run whole
sed 's/prompts_per_step: 5, group_size: 4/prompts_per_step: 1, group_size: 2/' base.yaml > few.yaml
{
    echo 'run: { folder: run, steps: 2 }'
    cat few.yaml
    echo 'checkpoint: { every: 2 }'
    echo 'eval: { every: 2, prompts: few.jsonl, samples: 8 }'
} > run.yaml
unbroken 2
for ((act = 0; act < 2; act++)); do
    start 2 run.yaml
    if [ $act = 0 ]; then # of the start model
        until_true test -f run/input.yaml
    else
        until_true has_step run 1 # the evaluation, much longer than a step, begins when another one is done
        sleep "$(awk "BEGIN { print 1.5 * $(field run/metrics.jsonl 1 step_s) }" < /dev/null)"
    fi
    sleep 0.1
    kill -TERM "$(processes | tail -1)"
    ends_with 0
    left_after run $((2 * act))
done
[ "$(eval_of run 2)" = null ] || die "the evaluation after step 2 was not left: $(eval_of run 2)"
succeeds 2 "$STEMMA" train run.yaml
[ "$(eval_of run 2)" != null ] || die "the evaluation after step 2 is missing"
same_run whole run 2
say "an evaluation that was left, of the start or of a step, is made up for in its place"

# In an update: the step is finished. A second signal some seconds later: no save, exit code 1

rm -rf run
input run.yaml run 9 'objective: { name: sft }\nupdate: { epochs: 1000 }\ncheckpoint: { every: 9 }\n'
start 2 run.yaml
until_true test -f run/input.yaml
sleep 0.1
kill -TERM "$(processes | tail -1)"
ends_with 0
left_after run "$(newest run)"
say "an update is finished"

rm -rf run
start 2 run.yaml update.epochs=10000000
until_true test -f run/input.yaml
sleep 0.3
ranks=$(processes)
kill -TERM $ranks
sleep 1
kill -TERM $ranks # too soon to be a second one
sleep 2.2
[ "$(processes)" = "$ranks" ] || die "a signal that was repeated at once ends the run: $(cat started.txt)"
kill -TERM $ranks
ends_with 1
grep -q '^stemma: asked a second time to end: ended without saving' started.txt || die "nothing is said: $(cat started.txt)"
[ "$(ls -A run/checkpoints)" = "" ] || die "something was saved: $(ls -A run/checkpoints)"
say "a second signal after 3 s ends at once, without a checkpoint"

# In a save: it is finished, and not made twice

rm -rf run
sed -i 's/"vocab_size": 28/"vocab_size": 60000/' toy/config.json # 23 MB
input run.yaml run 9 'objective: { name: sft }\ncheckpoint: { every: 1 }\n'
start 2 run.yaml
until_true is_saving run
kill -TERM "$(processes | tail -1)"
ends_with 0
step=$(newest run)
left_after run "$step"
[ "$step" -le 2 ] && ! is_saving run || die "after a signal in a save: $(ls -A run/checkpoints)"
sed -i 's/"vocab_size": 60000/"vocab_size": 28/' toy/config.json
say "a save is finished"

# --maxh inside a rollout that would outlast it

rm -rf run
input run.yaml run 3
start 2 run.yaml --maxh=0.0015 rollout.max_new_tokens=8000 rollout.prompts_per_step=50 # 5.4 s
begin=$(date +%s%N)
ends_with 0
took_ms=$((($(date +%s%N) - begin) / 1000000))
left_after run 0
grep -q 'the time of --maxh is up' started.txt && [ $took_ms -lt 9000 ] || die "--maxh: $took_ms ms: $(cat started.txt)"
say "--maxh leaves a rollout that would outlast it ($took_ms ms of 5400)"

# While a command takes long, an environment or a reward: acted upon after the answer, before what it was asked for is used

cat > slow.sh << 'EOF'
n=0
while IFS= read -r line; do
    n=$((n + 1))
    [ ! -f hold.$n ] || touch asked.$n
    while [ -f hold.$n ]; do sleep 0.02; done
    printf '%s\n' "$line" | sed 's/},{/}\n{/g' | sed -n 's/.*"response":"\([^"]*\)".*"id":\([0-9]*\).*/\2 _\1/p' |
        awk '{ printf "{\"id\": %d, \"done\": true, \"reward\": %d}\n", $1, gsub(/[a-m]/, "", $2) }'
done
EOF
cat > judged.sh << 'EOF'
n=0
while IFS= read -r line; do
    n=$((n + 1))
    touch judged.$n
    printf '%s\n' "$line" | sed 's/},{/}\n{/g' | sed -n 's/.*"id":\([0-9]*\).*/{"id": \1, "reward": 0}/p'
done
EOF
input run.yaml run 3 'checkpoint: { every: 9, keep: 9 }\n'
asks_environment=('rollout.environment=exec sh slow.sh' rollout.max_turns=1
    'reward=[{name: environment}, {name: command, style: server, command: "exec sh judged.sh"}]')
asks_reward=('reward=[{name: command, style: server, command: "exec sh slow.sh"}]')
for asks in asks_environment asks_reward; do
    words="$asks[@]"
    words=("${!words}" rollout.max_new_tokens=4)
    rm -rf run whole asked.*
    succeeds 2 "$STEMMA" train run.yaml "${words[@]}"
    mv run whole
    rm -f judged.*[0-9]
    touch hold.2 hold.3
    start 2 run.yaml "${words[@]}"
    until_true test -f asked.2
    kill -USR1 "$(processes | tail -1)"
    rm hold.2
    until_true test -f asked.3
    has_checkpoint run 1 && has_step run 2 || die "$asks: SIGUSR1 in step 2: $(ls run/checkpoints): $(cat run/log.txt)"
    kill -TERM "$(processes | tail -1)"
    rm hold.3
    ends_with 0
    left_after run 2
    [ ! -f judged.3 ] || die "$asks: a reward was asked although the environment's answer was left"
    succeeds 2 "$STEMMA" train run.yaml "${words[@]}"
    same_run whole run 3
done
words=("${asks_reward[@]}" rollout.max_new_tokens=4 eval.every=3 eval.prompts=few.jsonl)
rm -rf run whole asked.*
succeeds 2 "$STEMMA" train run.yaml "${words[@]}"
mv run whole
touch hold.1 # the evaluation of the start
start 2 run.yaml "${words[@]}"
until_true test -f asked.1
kill -TERM "$(processes | tail -1)"
rm hold.1
ends_with 0
left_after run 0
[ ! -s run/metrics.jsonl ] && [ ! -f asked.2 ] || die "an evaluation whose reward was left counts: $(cat run/metrics.jsonl)"
succeeds 2 "$STEMMA" train run.yaml "${words[@]}"
same_run whole run 3
say "a signal is acted upon when the environment or the reward that is waited for has answered, also in an evaluation"
