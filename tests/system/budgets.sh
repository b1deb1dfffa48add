#!/usr/bin/env bash
# BRPO in a run: thinking that is cut at budgets, with summaries below the cuts; the same on any ranks, and the example.
. "$(dirname "$0")/common.sh"
cd "$work" || exit 1
. "$tests/support/toy.sh"

brpo="--precision float64 rollout.budgets=[2,5] rollout.summaries=2 rollout.closing=z rollout.max_new_tokens=3
    objective.advantage_baseline=brpo objective.advantage_scale=none objective.aggregate=fixed-length"
train() { # FOLDER RANKS OPTIONS..
    input "$1.yaml" "$1" 3
    succeeds "$2" "$STEMMA" train "$1.yaml" $brpo rollout.save=all eval.prompts=few.jsonl eval.every=3 "${@:3}"
}

for ranks in 1 2 3; do train "on-$ranks" $ranks; done
for ranks in 2 3; do
    same_parameters "$(checkpoint on-1 3)" "$(checkpoint on-$ranks 3)" 1e-11
    for name in reward_mean eval_reward tokens_sampled; do
        [ "$(field on-1/metrics.jsonl 3 $name)" = "$(field on-$ranks/metrics.jsonl 3 $name)" ] || die "$name differs on $ranks ranks"
    done
done
say "budgets: the same parameters, rewards and evaluation after 3 steps on 1, 2 and 3 ranks"

# 4 responses of thinking and 2 x 2 summaries each; the toy's letters stand in texts as they were sampled.
cat on-1/rollouts/step-*.jsonl | awk '{
    n = split($0, parts, /"text": ?"/) - 1
    if (n != 4 * 5) { print "found " n " responses"; exit 1 }
    for (i = 0; i < n; i++) {
        text = parts[i + 2]; sub(/".*/, "", text)
        reward = parts[i + 2]; sub(/.*"reward": ?/, "", reward); sub(/[,}].*/, "", reward); reward += 0
        if (i % 5 == 0) { thinking = text; sum = 0; mean = reward; continue }
        before = i % 5 <= 2 ? 2 : 5
        prefix = length(thinking) > before || thinking !~ /z$/ ? substr(thinking, 1, before) "z" : thinking
        if (substr(text, 1, length(prefix)) != prefix) { print thinking " then " text; exit 1 }
        if (reward != (substr(text, length(prefix) + 1) ~ /a/)) { print text " has " reward; exit 1 }
        sum += reward
        if (i % 5 == 4 && (d = mean - sum / 4) * d > 1e-12) { print "mean " mean " of " sum; exit 1 }
        right += reward
    } } END { exit right == 0 }' > diff.txt || die "rollouts: $(cat diff.txt)"
say "budgets: each summary stands below its cut and is judged alone; thinking has their mean"

input still.yaml still 1
succeeds 1 "$STEMMA" train still.yaml $brpo optim.lr=0 rollout.save=all 'reward=[{name: length, max_tokens: 1}]'
succeeds 0 "$STEMMA" grad "$(checkpoint still 1)" still/rollouts/step-*.jsonl --out grad.h5 --precision float64 \
    objective.advantage_baseline=brpo objective.advantage_scale=none objective.aggregate=fixed-length objective.max_tokens=3
loss=$(h5dump -m %.17g -d /loss grad.h5 | sed -n 's/.*(0): //p')
found=$(field still/metrics.jsonl 1 loss)
holds "($found - $loss)^2 < 1e-14 && $loss^2 > 1e-6" "a run's loss is that of grad on its rollouts, $loss"
say "budgets: the loss of a run, $found, is that of grad on the rollouts that it wrote"

# Dynamic sampling: five letters are rare enough for groups without any a. Rewards of 1 in six summaries are equal, though
# six sixths are not 1 in floating point.
cursor() { h5dump -a /trainer/cursor "$1" | sed -n 's/.*(0): //p'; }
input dynamic.yaml dynamic 4
compare dynamic 4 $brpo rollout.dynamic=true rollout.max_new_tokens=1
holds "$(sum dynamic rollouts_extra) > 0 && $(sum dynamic rollouts_extra) == $(sum dynamic.3 rollouts_extra)" "extra rollouts are counted"
holds "$(cursor "$(checkpoint dynamic 4)") == 20 + $(sum dynamic rollouts_extra) / (4 * 5)" "the cursor stands behind what was used"
holds "$(sum dynamic groups_equal) < 20 - $(sum dynamic groups_equal)" "most groups are not equal"
input never.yaml never 1
succeeds 2 "$STEMMA" train never.yaml $brpo rollout.summaries=3 rollout.dynamic=true rollout.dynamic_rounds=2 \
    'reward=[{name: regex, pattern: "^"}]'
holds "$(field never/metrics.jsonl 1 rollouts_extra) == 2 * 5 * 4 * 7 && $(field never/metrics.jsonl 1 groups_equal) == 5" \
    "2 rounds of 5 groups of 4 x (1 + 6) that are equal"
say "budgets: groups whose summaries are all worth the same give their places up, thinking and all"

succeeds 2 "$STEMMA" eval on-1.yaml $brpo model.path="$(checkpoint on-1 3)" eval.prompts=few.jsonl model.init=file
grep -q '^mean reward' out || die "eval: found $(cat out)"
succeeds 2 "$STEMMA" train on-1.yaml $brpo run.folder=none --check
say "budgets: eval and --check"

refused 2 'rollout.budgets: found 0, expected at least one with objective.advantage_baseline=brpo' 2 \
    "$STEMMA" train on-1.yaml objective.advantage_baseline=brpo
refused 2 'rollout.budgets: found 1, expected none without objective.advantage_baseline=brpo' 2 \
    "$STEMMA" train on-1.yaml rollout.budgets=[3]
refused 2 'rollout.budgets: found 3 after 3, expected rising numbers' 2 \
    "$STEMMA" train on-1.yaml $brpo rollout.budgets=[3,3]
refused 2 'objective.budget_probs: found 1 numbers, expected one for each of rollout.budgets, 2' 2 \
    "$STEMMA" train on-1.yaml $brpo objective.budget_probs=[1]
refused 2 'rollout.budgets: found 2, expected none with replay.size' 2 "$STEMMA" train on-1.yaml $brpo replay.size=2
refused 2 'rollout.closing: found nothing, expected a text, since rollout.budgets cuts' 2 \
    "$STEMMA" train on-1.yaml $brpo rollout.closing=
say "budgets: what contradicts itself is refused"

succeeds 2 "$STEMMA" train "$tests/../inputs/lookup/budgets.yaml" run.folder=lookup run.steps=2 eval.every=0 \
    model.path="$tests/../inputs/lookup/model" data.prompts="$tests/../inputs/lookup/train.jsonl" rollout.prompts_per_step=4
say "budgets: the example runs"
