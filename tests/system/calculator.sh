#!/usr/bin/env bash
# inputs/calculator runs as it is: a model learns to ask a tool, in rollouts of several turns; the same on 1, 2 and 3 ranks; the
# gradients of tree and repeated agree, and tree costs a fraction of the FLOPs.
. "$(dirname "$0")/common.sh"
if ! command -v python3 > /dev/null; then
    say "skipped: no python3, in which inputs/calculator/environment.py is written"
    exit 77
fi
cd "$tests/.." || die "no repository at $tests/.."

# numbers FOLDER NAME: of metrics.jsonl, step by step.
numbers() { grep -o "\"$2\": [0-9][0-9.e-]*" "$work/$1/metrics.jsonl" | cut -d' ' -f2; }
holds() { awk "BEGIN { exit !($1) }" || die "expected $1: $2"; }

LIMIT_S=120 succeeds 2 "$STEMMA" train inputs/calculator/grpo.yaml run.folder="$work/run" run.steps=50
first=$(numbers run reward_mean | head -3 | awk '{ s += $1 / 3 } END { print s }')
last=$(numbers run reward_mean | tail -5 | awk '{ s += $1 / 5 } END { print s }')
holds "$first < 0.5 && $last > 0.85" "the mean reward"
holds "$(numbers run kl_old | sort -g | tail -1) < 1e-6" "log-probs of the update are those of sampling, turn by turn"
holds "$(numbers run turns_mean | head -1) < 2.5 && $(numbers run turns_mean | tail -1) > 2.7" "turns: two questions and an answer"
[ "$(numbers run groups_failed | sort -u)" = 0 ] || die "groups failed: $(cat "$work/run/log.txt")"
say "inputs/calculator/grpo.yaml: the mean reward goes from $first to $last in 50 steps"

# Greedy would be the same text for all; these are samples.
for ranks in 1 2 3; do
    succeeds $ranks "$STEMMA" train inputs/calculator/grpo.yaml run.folder="$work/$ranks" run.steps=2 rollout.save=all eval.every=0 \
        --precision=float64
    cat "$work/$ranks"/rollouts/step-*.jsonl | grep -o '"ids":\[[0-9,]*\]\|"mask":\[[01,]*\]\|"reward":[-0-9.]*' > "$work/$ranks.txt"
    cmp -s "$work/1.txt" "$work/$ranks.txt" || die "other conversations on $ranks ranks: $(diff "$work/1.txt" "$work/$ranks.txt" | head -4)"
done
[ "$(grep -c ids "$work/1.txt")" = 512 ] && grep -q 'mask.*0' "$work/1.txt" || die "expected 512 responses, some with masks: $(head -3 "$work/1.txt")"
say "the same conversations on 1, 2 and 3 ranks"

rollouts=$work/1/rollouts/step-00000002.jsonl
options="tree.min_shared_tokens=4 objective.clip_low=0.2 objective.clip_high=0.28 objective.aggregate=token-mean"
for forward in tree repeated; do
    for ranks in 1 3; do
        succeeds $ranks "$STEMMA" grad inputs/calculator/model "$rollouts" --out "$work/$forward.$ranks.h5" --forward $forward \
            --precision=float64 $options
        h5diff -d 1e-12 "$work/tree.1.h5" "$work/$forward.$ranks.h5" /grad /grad > "$work/diff.txt" ||
            die "gradients of tree and $forward differ on $ranks ranks: $(head -3 "$work/diff.txt")"
    done
done
succeeds 1 "$STEMMA" bench --model inputs/calculator/model --groups "$rollouts" --out "$work/bench.json" \
    'bench.forwards=[tree,prompt,repeated]' bench.repeats=1 tree.min_shared_tokens=4
flops() { awk -F, -v what="$1" 'NR == 1 { for (i = 1; i <= NF; i++) if ($i == "flops") at = i } $5 == what { print $at }' "$work/bench.csv"; }
holds "$(flops repeated) > 4 * $(flops tree) && $(flops prompt) > 1.5 * $(flops tree)" "FLOPs: turns that conversations share are computed once"
say "tree and repeated agree; FLOPs: $(awk "BEGIN { printf \"%.1f\", $(flops repeated) / $(flops tree) }") times as many repeated," \
    "$(awk "BEGIN { printf \"%.1f\", $(flops prompt) / $(flops tree) }") times with the prompt alone shared"

python3 inputs/calculator/make.py "$work/sft.jsonl" || die "make.py failed"
succeeds 2 "$STEMMA" train inputs/calculator/sft.yaml run.folder="$work/sft" run.steps=60 data.prompts="$work/sft.jsonl" optim.warmup_steps=5
holds "$(numbers sft loss | tail -1) < 0.6 * $(numbers sft loss | head -1)" "sft: the loss falls"
say "inputs/calculator/sft.yaml: the loss falls"
