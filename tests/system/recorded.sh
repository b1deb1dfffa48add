#!/usr/bin/env bash
# Training on recorded groups (data.groups): the update of `grad` on the same file, the same on any ranks, resumed to the
# same bits; preferences are learnt from it.
. "$(dirname "$0")/common.sh"
cd "$work" || exit 1
. "$tests/support/toy.sh"

input sampled.yaml sampled 3
succeeds 1 "$STEMMA" train sampled.yaml rollout.save=all rollout.top_k=8 'reward=[{name: regex, pattern: "[a-m]$"}]' checkpoint.every=0
cat sampled/rollouts/step-*.jsonl > groups.jsonl
[ "$(wc -l < groups.jsonl)" = 15 ] || die "expected 15 groups, found $(wc -l < groups.jsonl)"
recorded="data.prompts= data.groups=groups.jsonl --precision float64"
train() { # FOLDER RANKS STEPS OPTIONS..
    input "$1.yaml" "$1" "$3"
    succeeds "$2" "$STEMMA" train "$1.yaml" $recorded "${@:4}"
}

train still 2 1 optim.lr=0 objective.name=orpo rollout.prompts_per_step=15
succeeds 0 "$STEMMA" grad "$(checkpoint still 1)" groups.jsonl --out grad.h5 --precision float64 objective.name=orpo
loss=$(h5dump -m %.17g -d /loss grad.h5 | sed -n 's/.*(0): //p')
found=$(field still/metrics.jsonl 1 loss)
holds "($found / $loss - 1)^2 < 1e-24" "a run's loss is that of grad, $loss"
say "recorded groups: the loss of a run is that of grad on the file"

for ranks in 1 2 3; do train "on-$ranks" $ranks 4 objective.name=dpo checkpoint.every=2; done
for ranks in 2 3; do
    same_parameters "$(checkpoint on-1 4)" "$(checkpoint on-$ranks 4)" 1e-11
done
train cut 1 2 objective.name=dpo checkpoint.every=2
succeeds 1 "$STEMMA" train cut.yaml $recorded objective.name=dpo checkpoint.every=2 run.steps=4
same_state "$(checkpoint on-1 4)" "$(checkpoint cut 4)" "a run that went on"
say "recorded groups: the same on 1, 2 and 3 ranks, and the same bits when resumed"

train learnt 1 30 objective.name=dpo objective.pairing=all
first=$(field learnt/metrics.jsonl 2 pairs_right) last=$(field learnt/metrics.jsonl 30 pairs_right)
holds "$last > 0.95 && $first < 0.9" "the policy learns the order of pairs, $first to $last"
say "recorded groups: dpo orders $first of the pairs as rewards do in step 2, $last in step 30"

printf '{"prompt_ids": [1, 2], "responses": [{"ids": [4, 5, 6], "old_logprobs": [-3, -3.5, -3], "step": [0, 0, 1], "step_advantages": [0.5, -1]}]}\n' > steps.jsonl
train steps 2 1 optim.lr=0 data.groups=steps.jsonl objective.name=direct_advantage rollout.prompts_per_step=1
succeeds 0 "$STEMMA" grad "$(checkpoint steps 1)" steps.jsonl --out steps.h5 --precision float64 objective.name=direct_advantage
loss=$(h5dump -m %.17g -d /loss steps.h5 | sed -n 's/.*(0): //p')
found=$(field steps/metrics.jsonl 1 loss)
holds "($found / $loss - 1)^2 < 1e-12" "direct_advantage: a run's loss, $found, is that of grad, $loss"
say "recorded groups: steps with a critic's advantages"

# an a is token 1; what stands behind the first one has no loss
train masked 2 1 optim.lr=0 objective.mask_after=a rollout.prompts_per_step=15
expected=$(grep -o '"ids": *\[[0-9, ]*\]' groups.jsonl | sed 's/.*\[//; s/\]//' |
    awk -F', *' '{ for (i = 1; i < NF; i++) if ($i == 1) { n++; break } } END { print n + 0 }')
holds "$expected > 0 && $(field masked/metrics.jsonl 1 decisions_masked) == $expected" "$expected decisions are masked"
refused 2 'data.filter_samples: found a number above 0, expected 0 with data.groups' 2 \
    "$STEMMA" train on-1.yaml $recorded run.folder=none data.filter_samples=2
say "recorded groups: mask_after takes the loss from $expected decisions"

refused 2 'data.prompts: found a value, expected none with data.groups: nothing is sampled' 2 \
    "$STEMMA" train on-1.yaml data.groups=groups.jsonl run.folder=none
refused 2 'groups.jsonl: group 0, response 0: found no preferences, which objective self_play needs with these options' 2 \
    "$STEMMA" train on-1.yaml $recorded run.folder=none objective.name=self_play
sed 's/"reward": *[-0-9.]*,//' groups.jsonl > bare.jsonl
refused 2 'bare.jsonl:1: responses[0].reward: found nothing, expected a number' 2 \
    "$STEMMA" train on-1.yaml $recorded data.groups=bare.jsonl run.folder=none
refused 2 'objective.reward_weights: found 2 numbers, expected one for each reward, 1' 2 \
    "$STEMMA" train sampled.yaml run.folder=none 'objective.reward_weights=[1,2]'
say "recorded groups: what is missing is refused before a run"

two='reward=[{name: contains, text: a}, {name: length, max_tokens: 2}]'
for weights in 1,0 0,1; do
    input weighed.yaml "weighed-${weights/,/-}" 1
    succeeds 1 "$STEMMA" train weighed.yaml --precision float64 "$two" "objective.reward_weights=[$weights]"
done
input one.yaml one 1
succeeds 1 "$STEMMA" train one.yaml --precision float64 'reward=[{name: contains, text: a}, {name: length, max_tokens: 2, weight: 0}]'
same_parameters "$(checkpoint one 1)" "$(checkpoint weighed-1-0 1)" 1e-13
h5diff -d 1e-6 "$(checkpoint one 1)" "$(checkpoint weighed-0-1 1)" /parameters > diff.txt 2>&1 && die "reward_weights change nothing"
say "reward_weights: weigh the rewards of rollouts, too"
