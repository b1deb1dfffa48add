#!/bin/bash
# Data rules of training on the toy: which rollouts a step learns from. Each the same on 1 and 3 ranks, and a run in two
# pieces has the bits of one in one, with all that checkpoints keep for it.
. "$(dirname "$0")/common.sh"
cd "$work" || exit 1
. "$tests/support/toy.sh"

cursor() { h5dump -a /trainer/cursor "$1" | sed -n 's/.*(0): //p'; }

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
offset=$(h5dump -p -H -d /kept/replay "$(checkpoint replay 8)" | sed -n 's/.*OFFSET \([0-9]*\).*/\1/p')
mkdir -p bad/checkpoints && cp "$(checkpoint replay 8)" bad/checkpoints
byte=$(od -An -tu1 -j $((offset + 600)) -N 1 "$(checkpoint bad 8)")
printf "\\$(printf %o $((byte ^ 16)))" | dd of="$(checkpoint bad 8)" bs=1 seek=$((offset + 600)) conv=notrunc 2> /dev/null
refused 2 'bad/checkpoints: no checkpoint is whole (..' 2 "$STEMMA" train replay.yaml run.folder=bad
say "replay: successes stand in for the first answers of groups without any, also after a restart; a wrong bit is refused"

# Prompts that the start model can do

# prompts FOLDER: the words that its rollouts are about.
prompts() { cat "$1"/rollouts/*.jsonl | sed 's/.*there was a \([a-z]*\) .*/\1/' | sort -u; }
input filter.yaml filter 6
sed -i 's/^reward:.*/reward: [ { name: regex, pattern: "a" } ]/' filter.yaml
compare filter 6 data.filter_samples=2
left=$(sed -n 's/^filter: \([0-9]*\) of 13 prompts stay, .*/\1/p' filter/log.txt | tail -1)
holds "${left:-0} > 1 && ${left:-0} < 13" "some prompts stay"
[ "$(prompts filter | wc -l)" = "$left" ] || die "$left prompts stay, and rollouts are about: $(prompts filter)"
[ "$(grep -h '^filter' filter/log.txt filter.1/log.txt | sort -u | wc -l)" = 1 ] || die "the filter differs after a restart"
refused 2 'data.filter_samples: prompts.jsonl: none of 13 prompts has a response with a reward above 0.1 in 2' 2 \
    "$STEMMA" train filter.yaml run.folder=none data.filter_samples=2 'reward=[{name: regex, pattern: "^$"}]' rollout.min_new_tokens=1
say "filter_samples: only prompts with a success are trained on, also after a restart"
