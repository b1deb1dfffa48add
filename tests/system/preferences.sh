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

refused 2 'objective.oracle: needs recorded preferences, which rollouts have not; ..' 2 "$STEMMA" train dpo.yaml objective.name=self_play
refused 2 'objective.chase_coef or reference: needs log-probs of a twin ..' 0 "$STEMMA" train dpo.yaml objective.chase_coef=0.5
refused 2 'objective.pairing, explore_coef or opponent: needs recorded ..' 0 "$STEMMA" train dpo.yaml objective.pairing=origin
refused 2 'objective.label: found hard, expected oracle or bt ..' 0 "$STEMMA" train dpo.yaml objective.pairing=every
refused 2 'command line: objective.reference: found reff, expected a map of numbers like {ref: 1.0}, of ref, old, twin or target; did you mean ref?' \
    0 "$STEMMA" train dpo.yaml 'objective.reference={reff: 1}'
say "what no rollout has and options that contradict each other: exit 2"
