#!/bin/bash
# Thoughts of demonstrations that are left out, the token that decides whether to think, and second thoughts after a
# critique: each the same on 1 and 3 ranks and after a restart.
. "$(dirname "$0")/common.sh"
cd "$work" || exit 1
. "$tests/support/toy.sh"

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
sed 's/"prompt": "\([^"]*\)"/"messages": [{"role": "user", "content": "\1"}]/' prompts.jsonl > messages.jsonl
input talk.yaml talk 1
succeeds 2 "$STEMMA" train talk.yaml data.prompts=messages.jsonl data.template=plain rollout.refine=true
[ "$(field talk/metrics.jsonl 1 refinements)" = 15 ] || die "a conversation goes on: $(cat talk/metrics.jsonl)"
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
