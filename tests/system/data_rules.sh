#!/bin/bash
# Data rules of training on the toy: which rollouts a step learns from. Each the same on 1 and 3 ranks, and 4 steps are 2
# and 2, bit for bit, with all that checkpoints keep for it.
. "$(dirname "$0")/common.sh"
cd "$work" || exit 1
. "$tests/support/toy.sh"

cursor() { h5dump -a /trainer/cursor "$1" | sed -n 's/.*(0): //p'; }
sum() { sed -n "s/.*\"$2\": \([-0-9.e+]*\),.*/\1/p" "$1/metrics.jsonl" | awk '{ s += $1 } END { print s + 0 }'; }

# compare NAME STEPS WORDS..: the run NAME of NAME.yaml on one rank, on three ranks, and in two pieces.
compare() {
    local name=$1 steps=$2 ranks
    shift 2
    for ranks in 3 0; do
        rm -rf "$name"
        succeeds $ranks "$STEMMA" train "$name.yaml" --precision=float64 checkpoint.every=0 rollout.save=all "$@"
        [ $ranks = 0 ] || mv "$name" "$name.3"
    done
    same_parameters "$(checkpoint "$name.3" "$steps")" "$(checkpoint "$name" "$steps")" 1e-9
    mv "$name" "$name.1" && mkdir -p "$name/checkpoints"
    succeeds 0 "$STEMMA" train "$name.yaml" --precision=float64 checkpoint.every=0 rollout.save=all run.steps=$((steps / 2)) "$@"
    succeeds 0 "$STEMMA" train "$name.yaml" --precision=float64 checkpoint.every=0 rollout.save=all "$@"
    same_bits "$(checkpoint "$name.1" "$steps")" "$(checkpoint "$name" "$steps")" "$name: $steps steps are not two halves"
    [ ! -d "$name.1/rollouts" ] || diff -r "$name.1/rollouts" "$name/rollouts" > diff.txt || die "$name: other rollouts after a restart"
}

# Dynamic sampling

input plain.yaml plain 4
input dynamic.yaml dynamic 4
succeeds 0 "$STEMMA" train plain.yaml --precision=float64 checkpoint.every=0
compare dynamic 4 rollout.dynamic=true
holds "$(sum plain groups_equal) > 2 && $(sum dynamic groups_equal) < $(sum plain groups_equal)" "fewer groups are equal"
holds "$(sum dynamic rollouts_extra) > 0 && $(sum dynamic rollouts_extra) == $(sum dynamic.3 rollouts_extra)" "extra rollouts are counted"
[ "$(cursor "$(checkpoint dynamic 4)")" = $((20 + $(sum dynamic rollouts_extra) / 4)) ] || die "the cursor has not advanced by what was used"
grep -q '^step 1: [0-9]* extra rollouts in [1-4] rounds, [0-5] of 5 groups have equal rewards still$' dynamic/log.txt || die "log: $(cat dynamic/log.txt)"
[ -z "$(field plain/metrics.jsonl 1 rollouts_extra)" ] || die "extra rollouts where nobody asked"
input never.yaml never 2
succeeds 2 "$STEMMA" train never.yaml rollout.dynamic=true rollout.dynamic_rounds=3 'reward=[{name: regex, pattern: "^"}]'
[ "$(field never/metrics.jsonl 1 rollouts_extra)" = 60 ] && [ "$(cursor "$(checkpoint never 2)")" = 40 ] ||
    die "3 rounds of 5 groups of 4: $(cat never/metrics.jsonl)"
say "dynamic sampling: fewer equal groups, extra rollouts counted and bounded, the cursor goes on behind them"

# Hardly any advantage

input loop.yaml loop 4
loop='objective.advantage_baseline=leave-one-out objective.advantage_scale=none objective.aggregate=sequence-mean update.epochs=2'
succeeds 0 "$STEMMA" train loop.yaml --precision=float64 checkpoint.every=0 $loop
mv loop whole
compare loop 4 $loop objective.min_advantage=1.0e-9
same_parameters "$(checkpoint loop 4)" "$(checkpoint whole 4)" 1e-9 # what is dropped has no gradient
holds "$(sum loop responses_dropped) > 0 && $(sum loop responses_dropped) == 4 * $(sum whole groups_equal)" "a group's responses have no advantage where its rewards are equal"
holds "$(sum loop tokens_computed) < $(sum whole tokens_computed)" "what is dropped is not computed"
say "min_advantage: responses that teach nothing are not computed, and nothing else changes"

# What rewards remember

input hapo.yaml hapo 6
sed -i 's/^reward:.*/reward: [ { name: hapo, right: contains, style: linear } ]/' hapo.yaml
compare hapo 6 rollout.max_new_tokens=8 data.prompts=few.jsonl
h5dump -H "$(checkpoint hapo 6)" | grep -q 'DATASET "rewards"' || die "no memory in the checkpoint"
say "hapo: its memory goes on after a restart"

# Successes of earlier steps

input replay.yaml replay 8
sed -i 's/^reward:.*/reward: [ { name: contains, text: ax } ]/' replay.yaml
compare replay 8 data.prompts=few.jsonl replay.size=2 rollout.max_new_tokens=12
holds "$(sum replay groups_replayed) > 2 && $(sum replay groups_replayed) == $(sum replay.3 groups_replayed)" "groups are helped"
holds "$(field replay/metrics.jsonl 8 replay_stored) > 1 && $(field replay/metrics.jsonl 8 replay_stored) <= 10" "two successes of each of five prompts"
h5dump -H "$(checkpoint replay 8)" | grep -q 'DATASET "replay"' || die "no queues in the checkpoint"
last=$(ls replay/rollouts/*.jsonl | tail -1)
succeeds 0 "$STEMMA" score "$(checkpoint replay 8)" "$last" --out scores.h5
say "replay: successes stand in for the first answers of groups without any, also after a restart"

# Demonstrations without their thought; the token that decides

sed 's/"response": "/"response": "x think y /' prompts.jsonl > thoughts.jsonl
input thoughts.yaml thoughts 6 'objective: { name: sft }\n'
compare thoughts 6 data.prompts=thoughts.jsonl data.thought_dropout=0.5 data.thought_begin=x data.thought_end=y
holds "$(sum thoughts thoughts_dropped) > 5 && $(sum thoughts thoughts_dropped) < 25 && $(sum thoughts thoughts_dropped) == $(sum thoughts.3 thoughts_dropped)" "some of 30 thoughts are dropped"
say "thought_dropout: some demonstrations have an empty thought, the same ones on 3 ranks and after a restart"

input after.yaml after 2
compare after 2 objective.mask_after=a
holds "$(sum after decisions_masked) > 2 && $(sum after decisions_masked) == $(sum after.3 decisions_masked)" "the tokens behind an a"
succeeds 0 "$STEMMA" train after.yaml --precision=float64 checkpoint.every=0 run.folder=all
! h5diff "$(checkpoint after 2)" "$(checkpoint all 2)" /parameters > /dev/null || die "mask_after changes nothing"
say "mask_after: the tokens behind a text have no loss"

# A second answer after a critique

cat > critic.sh << 'OK'
# A reward in either form, and words that the model reads next.
sed -n 's/.*"response":"\([a-z ]*\)".*/\1/p' | while IFS= read -r text; do
    case $text in
    *a*) echo 1 ;;
    *e*) echo '{"reward": 0.5, "critique": "no e but an a"}' ;;
    *) echo '{"reward": 0, "critique": "an a is missing"}' ;;
    esac
done
OK
input refine.yaml refine 4
sed -i 's/^reward:.*/reward: [ { name: command, command: "sh critic.sh" } ]/
    s/^rollout:.*/rollout: { prompts_per_step: 5, group_size: 4, max_new_tokens: 4, refine: true, refine_text: "{critique} so try again" }/' refine.yaml
compare refine 4 objective.advantage_scale=none objective.surrogate=none objective.aggregate=fixed-length
for step in 1 2 3 4; do
    [ "$(field refine/metrics.jsonl $step refinements)" = 15 ] && [ "$(field refine/metrics.jsonl $step groups_refined)" = 5 ] ||
        die "3 answers of 5 groups, answered again: $(cat refine/metrics.jsonl)"
    [ "$(field refine/metrics.jsonl $step tokens_sampled)" -gt 60 ] || die "second answers are not counted"
done
holds "$(sum refine refined_right) > 2 && $(sum refine refined_right) == $(sum refine.3 refined_right)" "some refinements are right"
[ "$(head -1 refine/rollouts/step-00000001.jsonl | grep -o '"text"' | wc -l)" = 4 ] || die "a group is not of 3 answers and a refinement"
input words.yaml words 2
succeeds 2 "$STEMMA" train words.yaml rollout.refine=true 'reward=[{name: exact}]' rollout.refine_text='{critique} {answer}' \
    rollout.refine_blame='it is {answer}'
input crowded.yaml crowded 1
succeeds 2 "$STEMMA" train crowded.yaml rollout.refine=true rollout.max_new_tokens=40 rollout.ignore_eos=true
[ "$(field crowded/metrics.jsonl 1 refinements)" = 0 ] || die "no position is left for a second answer: $(cat crowded/metrics.jsonl)"
for other in rollout.dynamic=true replay.size=2 rollout.group_size=1; do
    launch 0 "$STEMMA" train words.yaml rollout.refine=true $other
    [ $code = 2 ] && grep -q 'rollout' err || die "refine with $other: $(cat err)"
done
refused 2 'rollout.refine: found true, expected false with objective.name=dpo, which knows no off-policy responses' 2 \
    "$STEMMA" train words.yaml run.folder=none rollout.refine=true objective.name=dpo
say "refine: each answer is criticised by the reward command and answered again; one joins its group"
