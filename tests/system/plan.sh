#!/bin/bash
# `stemma plan`: needs of a model its config.json alone, adds up, grows to 1,024 nodes in seconds, and names bad input.
. "$(dirname "$0")/common.sh"
root=$(cd "$tests/.." && pwd)
cd "$root" || exit 1
machine=inputs/machines/two-cores.yaml
input=inputs/lookup/grpo.yaml

plan() { succeeds "$1" "$STEMMA" plan $input --machine $machine --out "$work/plan.json" "${@:2}"; }

# number KEY: the first number of that name in plan.json.
number() { sed -nE "s/^ *\"$1\": ([-0-9.e+]+),?$/\1/p" "$work/plan.json" | head -1; }

plan 0 --max-nodes 0
sum=$(awk '/"parts": [{]/ { inside = 1; next } inside && /[}]/ { exit } inside { s += $2 } END { print s }' "$work/plan.json")
awk -v s="$sum" -v t="$(number step_s)" 'BEGIN { exit !(s > 0 && s / t > 0.9999 && s / t < 1.0001) }' ||
    die "the parts are $sum s together, expected the step's $(number step_s)"
whole=$(number step_s)
say "the parts of a step add up to it"

mkdir "$work/model"
cp inputs/lookup/model/config.json "$work/model/"
plan 0 --max-nodes 0 --prompt-tokens 30 model.path="$work/model"
grep -q 'a step: 64 prompts of 30 tokens' "$work/out" || die "config.json alone: found $(sed -n 3p "$work/out")"
say "config.json alone is enough"

plan 2 --max-nodes 0
[ "$(number step_s)" = "$whole" ] || die "two ranks say $(number step_s) s, one says $whole"
LIMIT_S=30 plan 0 --max-nodes 1024
grep -qE '^1024 +[0-9]+ x [0-9]+ x [0-9]+ ' "$work/out" || die "no row for 1,024 nodes"
awk '$1 == 2 || $1 == 1 { if ($1 == 1 && !a) a = $7; if ($1 == 2 && !b && a) b = $7 } END { exit !(b > 0 && b < a) }' \
    "$work/out" || die "two nodes take no less time than one"
for options in '--ranks-per-node 5' 'parallel.pipeline=2 --nodes 2' objective.kl_coef=0.1 '--precision float64'; do
    plan 0 --max-nodes 0 $options
done
plan 0 --max-nodes 0 parallel.pipeline=2 --nodes 2
[ "$(number pipeline)" = 2 ] || die "parallel.pipeline=2: the best layout has $(number pipeline) stages"
say "layouts are searched to 1,024 nodes, or as they are given"

plan 0 --max-nodes 0 --ranks-per-node 2 --threads 1
whole=$(number step_s)
plan 0 --max-nodes 0 --ranks-per-node 8 --threads 1
awk -v a="$(number step_s)" -v b="$whole" 'BEGIN { exit !(a > 0.95 * b) }' ||
    die "eight ranks on two cores take $(number step_s) s, two take $whole s"
say "ranks beyond the cores of a node make it no faster"

sums() { plan 0 --max-nodes 0 --ranks-per-node 2 --threads 1 parallel.replica=1 parallel.shard=$1; number gradient_sums_s; }
awk -v a="$(sums gradient)" -v b="$(sums optimizer)" 'BEGIN { exit !(a > 2 * b && b > 0) }' ||
    die "sums chunk by chunk (parallel.shard=gradient) cost no more than one behind the pass"
for ((limit = 15; limit < 30; limit++)); do # the least that fits
    plan 0 --max-nodes 0 --ranks-per-node 1 memory.limit=${limit}MiB
    ! grep -q '^no layout fits' "$work/out" || continue
    grep -q '^  forward again ' "$work/out" || die "memory.limit=${limit}MiB: activations are kept, expected them computed again"
    break
done
[ "$limit" -lt 30 ] || die "the quickstart does not fit into 29 MiB"
say "sums by the chunk and activations that are computed again are counted"

refused 2 "command line: --machine is missing; .." 0 "$STEMMA" plan $input
refused 2 "command line: --nodes: found 0, expected a whole number from 1 to 100000" \
    0 "$STEMMA" plan $input --machine $machine --nodes 0
refused 2 "command line: --prompt-tokens: found 100000, expected at most 512 less rollout.max_new_tokens, 8: the model's positions" \
    2 "$STEMMA" plan $input --machine $machine --prompt-tokens 100000
sed 's/^cores:/corse:/' $machine > "$work/machine.yaml"
refused 2 "$work/machine.yaml:.." 0 "$STEMMA" plan $input --machine "$work/machine.yaml"
grep -q corse "$work/err" || die "corse is not named: $(cat "$work/err")"
refused 2 "/nowhere: cannot be read: No such file or directory; expected a Hugging Face folder or a checkpoint" \
    2 "$STEMMA" plan $input --machine $machine model.path=/nowhere
say "bad input is named"

LIMIT_S=60 succeeds 2 "$STEMMA" calibrate --out "$work/here.yaml"
succeeds 0 "$STEMMA" plan $input --machine "$work/here.yaml" --max-nodes 0
say "what calibrate writes, plan reads"
