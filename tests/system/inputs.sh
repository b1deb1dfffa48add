#!/usr/bin/env bash
# What ships in inputs/ runs as it is: the start model learns the lookup task, and its own recipe begins to learn.
. "$(dirname "$0")/common.sh"
cd "$tests/.." || die "no repository at $tests/.."

# number NAME FIRST|LAST: a number of metrics.jsonl at the first or last step that has it.
number() { grep -o "\"$1\": [0-9][0-9.e-]*" "$work/run/metrics.jsonl" | "$2" -n 1 | cut -d' ' -f2; }

# holds CONDITION: of awk, such as "0.3 < 0.4".
holds() { awk "BEGIN { exit !($1) }"; }

LIMIT_S=120 succeeds 2 "$STEMMA" train inputs/lookup/grpo.yaml run.folder="$work/run" run.steps=50 optim.lr=1e-4 optim.schedule=constant
first=$(number reward_mean head) last=$(number reward_mean tail)
holds "$first < 0.4 && $last > 0.6" || die "the lookup task: the mean reward went from $first to $last in 50 steps"
holds "$(number sharing_factor head) > 50" || die "the lookup task shares too little: $(number sharing_factor head)"
[ "$(wc -c < "$work/run/checkpoints/best.h5")" -gt 4000000 ] || die "no best checkpoint"
say "inputs/lookup/grpo.yaml: the mean reward goes from $first to $last in 50 steps"

rm -rf "$work/run"
LIMIT_S=120 succeeds 2 "$STEMMA" train inputs/lookup/sft.yaml run.folder="$work/run" run.steps=40
first=$(number loss head) last=$(number loss tail)
holds "$last < 0.6 * $first" || die "inputs/lookup/sft.yaml: the loss went from $first to $last in 40 steps"
say "inputs/lookup/sft.yaml: the loss goes from $first to $last in 40 steps"

if command -v python3 > /dev/null; then
    python3 inputs/lookup/make.py "$work/careless.jsonl" || die "inputs/lookup/make.py failed"
    LIMIT_S=120 succeeds 1 "$STEMMA" train inputs/lookup/careless.yaml run.folder="$work/careless" run.steps=2 \
        data.prompts="$work/careless.jsonl" model.path="$work/run/checkpoints/step-00000040.h5"
    say "inputs/lookup/careless.yaml runs from there"
fi

size=$(du -sb inputs | cut -f1)
[ "$size" -le 4194304 ] || die "inputs/ has grown to $size bytes, expected at most 4 MiB"
