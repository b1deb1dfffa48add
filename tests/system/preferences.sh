#!/bin/bash
# The objectives on preferences train on rollouts: rewards rise with each; what no rollout has is refused before a run.
. "$(dirname "$0")/common.sh"
cd "$work" || exit 1
. "$tests/support/toy.sh"

# rises NAME RANKS OPTIONS: the reward of 40 steps.
rises() {
    input "$1.yaml" "$1" 40 "objective: { $3 }\n"
    succeeds "$2" "$STEMMA" train "$1.yaml"
    holds "$(field "$1/metrics.jsonl" 1 reward_mean) < 0.4 && $(field "$1/metrics.jsonl" 40 reward_mean) > 0.75" "$1: the reward rises"
}
rises dpo 0 'name: dpo'
rises inpo 0 'name: dpo, loss: ipo, reference: {ref: 0.3, old: 0.7}, score: win_rate, oracle: reward, pairing: all'
rises simpo 0 'name: dpo, reference: {}, length: mean, beta: 2, target_margin: 1, pairing: halves'
rises orpo 0 'name: orpo, sft_coef: 1'
rises kto 2 'name: kto'
rises self_play 0 'name: self_play, oracle: reward, label_scale: 4, beta: 0.01'
rises p3o 0 'name: p3o'
rises fdpg 0 'name: fdpg, target_beta: 0.1'
rises spo 0 'name: grpo, score: win_rate, oracle: reward'
for step in 1 5; do
    holds "$(field dpo/metrics.jsonl $step pairs) > 0 && $(field dpo/metrics.jsonl $step pairs) <= 5" "dpo: pairs"
done
holds "$(field dpo/metrics.jsonl 5 h_chosen) > $(field dpo/metrics.jsonl 1 h_chosen)" "dpo: h of winners rises"
say "dpo, inpo, simpo, orpo, kto, self_play, p3o, fdpg, spo: the reward rises"

# A reference that is the average of two models; a resumed run has the same one
succeeds 0 "$STEMMA" export "$(checkpoint dpo 40)" --to tuned
succeeds 0 "$STEMMA" train dpo.yaml run.folder=more run.seed=2 run.steps=3
succeeds 0 "$STEMMA" export "$(checkpoint more 3)" --to tuned2
input soup.yaml soup 8 'objective: { name: dpo }\nreference: { paths: [tuned, tuned2], weights: [3, 1] }\ncheckpoint: { every: 4 }\n'
succeeds 2 "$STEMMA" train soup.yaml
grep -q 'the reference is the average of 2 models' out || die "nothing about the average: $(cat out)"
cp -r soup soup.whole
rm soup/DONE "$(checkpoint soup 8)"
for ranks in 0 2; do
    refused 2 'reference.paths: found models whose average (XXH3 ..' $ranks "$STEMMA" train soup.yaml 'reference.paths=[tuned2, tuned]'
done
sed 's/3, 1/1, 1/' soup.yaml > even.yaml
refused 2 'soup/checkpoints/step-00000004.h5: this run has other options: reference.weights ..' 0 "$STEMMA" train even.yaml
succeeds 2 "$STEMMA" train soup.yaml
same_bits "$(checkpoint soup.whole 8)" "$(checkpoint soup 8)" "a soup, resumed"
sed 's/10000.0/20000.0/' tuned/config.json > config.json && mv config.json tuned2
refused 2 'reference.paths: tuned2: config.json: rope_theta: found 20000, expected 10000, the model..' 2 "$STEMMA" train soup.yaml run.folder=none
refused 2 'reference.weights: found 1, expected none, or one for each of 2 ..' 0 "$STEMMA" train soup.yaml 'reference.weights=[1]'
refused 2 'reference.paths: found 2, expected none, since objective orpo reads no ..' 0 "$STEMMA" train soup.yaml objective.name=orpo
say "a reference of two models: resumed bit for bit, another one refused by its hash"

# goes_on NAME WHAT: NAME.yaml with saves in the background, broken off before its last one, ends with the same bits.
goes_on() {
    succeeds 2 "$STEMMA" train "$1.yaml" "run.folder=$1.async" checkpoint.async=true checkpoint.every=3
    cp -r "$1.async" "$1.whole"
    rm "$1.async/DONE" "$(checkpoint "$1.async" 6)"
    succeeds 2 "$STEMMA" train "$1.yaml" "run.folder=$1.async" checkpoint.async=true checkpoint.every=3
    same_bits "$(checkpoint "$1.whole" 6)" "$(checkpoint "$1.async" 6)" "$2, resumed from a save in the background"
}

# Nash-MP's target copy: the same on 1 and 3 ranks; in two pieces of which the second begins between two renewals
input mp.yaml mp 6 'objective: { name: self_play, oracle: reward, beta: 0.1, prox_eta: 0.5, prox_every: 2 }\n'
compare mp 6
h5ls "$(checkpoint mp 6)/copies" | grep -q '^target ' || die "no copy in the checkpoint: $(h5ls -r "$(checkpoint mp 6)")"
succeeds 2 "$STEMMA" train mp.yaml --precision=float64 checkpoint.every=0 run.folder=mp.staged parallel.pipeline=2
same_parameters "$(checkpoint mp.staged 6)" "$(checkpoint mp 6)" 1e-9
goes_on mp Nash-MP
succeeds 0 "$STEMMA" train mp.yaml --precision=float64 checkpoint.every=0 run.folder=mp.other objective.prox_every=1
h5diff -d 1e-9 "$(checkpoint mp.other 6)" "$(checkpoint mp 6)" /parameters /parameters > diff.txt && die "prox_every changes nothing"
succeeds 0 "$STEMMA" train mp.yaml run.folder=mp.plain run.steps=1 objective.prox_eta=0
rm mp.plain/DONE
refused 2 'mp.plain/checkpoints/step-00000001.h5: found no /copies/target, expected one with these options' 2 \
    "$STEMMA" train mp.yaml run.folder=mp.plain objective.prox_eta=0.5
say "Nash-MP: the same on 1 and 3 ranks and on two stages, resumed between two renewals bit for bit"

# OFS-DPO's twin, whose rate is the higher one here, so that the two change places
input ofs.yaml ofs 6 'objective: { name: dpo, chase_coef: 0.5, chase_interval: 2, chase_lr_ratio: 2 }\n'
compare ofs 6
grep -q 'the twin is the policy from now on' out || die "no role changed: $(cat out)"
h5ls "$(checkpoint ofs 6)/copies" > copies.txt
for copy in twin twin_exp_avg twin_exp_avg_sq; do
    grep -q "^$copy " copies.txt || die "no $copy in the checkpoint: $(cat copies.txt)"
done
succeeds 2 "$STEMMA" train ofs.yaml --precision=float64 checkpoint.every=0 run.folder=ofs.staged parallel.pipeline=2
same_parameters "$(checkpoint ofs.staged 6)" "$(checkpoint ofs 6)" 1e-9
goes_on ofs OFS-DPO
# A twin that learns nothing is the reference, and leading it is the loss once more, by a factor that AdamW does not see.
still="--precision=float64 checkpoint.every=0 optim.clip=0 optim.eps=1e-30"
succeeds 0 "$STEMMA" train ofs.yaml $still run.folder=ofs.still objective.chase_lr_ratio=0 objective.chase_interval=100
succeeds 0 "$STEMMA" train ofs.yaml $still run.folder=ofs.none objective.chase_coef=0
same_parameters "$(checkpoint ofs.still 6)" "$(checkpoint ofs.none 6)" 1e-9
# One that learns is another to lead, so that the policy that never changes places with it goes another way.
succeeds 0 "$STEMMA" train ofs.yaml $still run.folder=ofs.moves objective.chase_interval=100
h5diff -d 1e-9 "$(checkpoint ofs.moves 6)" "$(checkpoint ofs.still 6)" /parameters /parameters > diff.txt && die "the policy does not see what its twin has learnt"
say "OFS-DPO: the same on 1 and 3 ranks and on two stages, roles change, resumed bit for bit"

# f-DPG's Z of each prompt, and its baseline: the same on 1 and 3 ranks, in two pieces, and where the second has more ranks
input kept.yaml kept 6 'objective: { name: fdpg, target_beta: 0.1, normaliser: running, baseline_window: 24 }\n'
compare kept 6
h5ls "$(checkpoint kept 6)/kept" | grep -q '^targets ' || die "no estimates in the checkpoint: $(h5ls -r "$(checkpoint kept 6)")"
for name in log_z baseline; do
    holds "($(field kept/metrics.jsonl 6 $name) - $(field kept.1/metrics.jsonl 6 $name)) == 0" "$name after a restart"
done
holds "$(field kept/metrics.jsonl 1 baseline) == 0 && $(field kept/metrics.jsonl 6 baseline) != 0" "the baseline is that of earlier steps"
input learns.yaml learns 40 'objective: { name: fdpg, target_beta: 0.1, normaliser: running, baseline_window: 64 }\n'
succeeds 2 "$STEMMA" train learns.yaml
later=$(for ((i = 31; i <= 40; i++)); do field learns/metrics.jsonl $i reward_mean; done | awk '{ s += $1 } END { print s / NR }')
holds "$(field learns/metrics.jsonl 1 reward_mean) < 0.4 && $later > 0.65" "f-DPG with what it keeps: the reward rises"
mkdir -p kept.moved/checkpoints
succeeds 0 "$STEMMA" train kept.yaml --precision=float64 run.folder=kept.moved run.steps=3
succeeds 2 "$STEMMA" train kept.yaml --precision=float64 run.folder=kept.moved
same_parameters "$(checkpoint kept.moved 6)" "$(checkpoint kept.1 6)" 1e-9
for other in objective.normaliser=group objective.baseline_window=0; do
    rm -rf kept.other
    succeeds 0 "$STEMMA" train kept.yaml --precision=float64 checkpoint.every=0 run.folder=kept.other $other
    h5diff -d 1e-9 "$(checkpoint kept.other 6)" "$(checkpoint kept 6)" /parameters /parameters > diff.txt && die "$other changes nothing"
done
refused 2 'objective.target_beta: found 0.1, expected ..' 0 "$STEMMA" train kept.yaml run.folder=none objective.name=dpo
say "f-DPG: its estimates are the same on 1 and 3 ranks, resumed bit for bit, and on another layout"

# Responses of the reference in the policy's groups
input others.yaml others 6 'objective: { name: dpo, pairing: origin, explore_coef: 1.0e-3 }\nreference: { samples: 2 }\n'
compare others 6
succeeds 0 "$STEMMA" train others.yaml run.folder=others.play objective.name=self_play objective.opponent=other \
    objective.oracle=reward objective.pairing=auto objective.explore_coef=0
refused 2 'objective.pairing, explore_coef or opponent: needs responses of another model ..' 0 "$STEMMA" train others.yaml run.folder=none reference.samples=0
refused 2 'reference.samples: found 4, expected less than rollout.group_size, 4' 2 "$STEMMA" train others.yaml run.folder=none reference.samples=4
refused 2 'reference.samples: found 2, expected 0, since objective orpo ..' 0 "$STEMMA" train others.yaml run.folder=none objective.name=orpo objective.pairing=auto \
    objective.explore_coef=0
refused 2 'reference.samples: found 2, expected 0 with replay.size' 0 "$STEMMA" train others.yaml run.folder=none replay.size=4
tokens() { grep -ho '"ids":\[[0-9,]*\]' "$1"/rollouts/*; }
# elsewhere NAME: the run on two stages, and on three ranks with a slot each, so that rollouts wait: the same tokens.
elsewhere() {
    local other
    succeeds 2 "$STEMMA" train "$1.yaml" --precision=float64 checkpoint.every=0 rollout.save=all run.folder="$1.staged" parallel.pipeline=2
    succeeds 3 "$STEMMA" train "$1.yaml" --precision=float64 checkpoint.every=0 rollout.save=all run.folder="$1.slots" rollout.slots=1
    for other in staged slots; do
        same_parameters "$(checkpoint "$1.$other" 6)" "$(checkpoint "$1" 6)" 1e-9
        diff <(tokens "$1") <(tokens "$1.$other") > diff.txt || die "$1.$other: other rollouts: $(head -3 diff.txt)"
    done
}
elsewhere others
# Nash-MD: opponents by the geometric mixture of policy and reference, which at its ends is either
input nash.yaml nash 6 'objective: { name: self_play, opponent: other, oracle: reward, label_scale: 4, beta: 0.1 }\nreference: { samples: 2, mixture: 0.5 }\n'
compare nash 6
elsewhere nash
[ "$(tokens nash | wc -l)" = 120 ] || die "expected 6 steps of 5 groups of 4 responses, found $(tokens nash | wc -l)"
for ends in '0 1e-300' '1 0.9999999999999999'; do
    for mixture in $ends; do
        rm -rf nash.$mixture
        succeeds 2 "$STEMMA" train nash.yaml --precision=float64 checkpoint.every=0 rollout.save=all run.folder=nash.$mixture reference.mixture=$mixture
    done
    diff <(tokens "nash.${ends% *}") <(tokens "nash.${ends#* }") > diff.txt || die "other rollouts with reference.mixture $ends: $(head -3 diff.txt)"
done
diff nash.0/rollouts/*1.jsonl nash.1/rollouts/*1.jsonl > diff.txt || die "the policy samples other responses than the start model, which it is: $(head -3 diff.txt)"
diff nash.0/rollouts/*6.jsonl nash.1/rollouts/*6.jsonl > diff.txt && die "after five steps it still is"
refused 2 'reference.mixture: found 0.5, expected 1 with reference.samples=0' 0 "$STEMMA" train nash.yaml run.folder=none reference.samples=0
refused 2 'command line: reference.mixture: found 1.5, expected a number from 0 to 1' 0 "$STEMMA" train nash.yaml run.folder=none reference.mixture=1.5
say "responses of the reference and of its mixture with the policy: the same on 1 and 3 ranks and on two stages, resumed bit for bit"

refused 2 'objective.oracle: needs recorded preferences, which rollouts have not; ..' 2 "$STEMMA" train dpo.yaml objective.name=self_play
refused 2 'objective.reference: needs log-probs of a twin ..' 0 "$STEMMA" train dpo.yaml 'objective.reference={twin: 1}'
refused 2 'objective.chase_role: found slow, expected fast ..' 0 "$STEMMA" train dpo.yaml objective.chase_coef=0.5 objective.chase_role=slow
refused 2 'objective.pairing, explore_coef or opponent: needs responses of another model ..' 0 "$STEMMA" train dpo.yaml objective.pairing=origin
refused 2 'objective.label: found hard, expected oracle or bt ..' 0 "$STEMMA" train dpo.yaml objective.pairing=every
refused 2 'command line: objective.reference: found reff, expected a map of numbers like {ref: 1.0}, of ref, old, twin or target; did you mean ref?' \
    0 "$STEMMA" train dpo.yaml 'objective.reference={reff: 1}'
say "what no rollout has and options that contradict each other: exit 2"
