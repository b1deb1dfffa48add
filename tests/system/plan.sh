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

# A row of the table of sizes looks at six layouts: sampling counts where they are chosen, else the best is not among them.
describe_model "$work/model"
plan 0 --max-nodes 0 --machine inputs/machines/cpu-cluster.yaml --nodes 16 --ranks-per-node 8 --prompt-tokens 100 \
    --answer-tokens 64 --group-sizes [4] model.path="$work/model" rollout.max_new_tokens=64 \
    rollout.prompts_per_step=256 rollout.group_size=4
awk -v best="$(number step_s)" '$1 == 4 && $3 == "x" { found = $7 } END { exit !(found > 0 && found < 1.03 * best) }' \
    "$work/out" || die "sizes: expected $(number step_s) s, the best of 16 layouts: $(grep '^4 ' "$work/out")"
say "the layouts that are replayed are those where sampling is quick, too"

rows_of() {
    plan 0 --max-nodes 0 --machine "inputs/machines/$1.yaml" --nodes 1 --prompt-tokens 500 --answer-tokens 500 \
        model.path="$work/model" rollout.max_new_tokens=500 parallel.pipeline="$2" ${3:-}
    number chunk_rows
}
found="$(rows_of cpu-cluster 1) $(rows_of h100 1) $(rows_of h100 2) $(rows_of h100 1 memory.limit=2GiB)"
[[ $found = "1024 8192 4096 "[1-4]* ]] || die "rows of a chunk: found $found, expected 1024 8192 4096 and fewer than 8192"
say "chunks are larger on GPUs, by stages and as memory allows"

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

# time_of OPTIONS..: of prefill, decode and the passes without gradient before the update.
time_of() { plan 0 --max-nodes 0 --ranks-per-node 1 "$@"; echo "$(number prefill_s) $(number decode_s) $(number forward_ahead_s) $(number turns)"; }
plain=$(time_of)
# counts WHAT CONDITION OPTIONS..: of p, d, a, n against those of the plain step, p0, d0, a0.
counts() {
    read -r p d a n <<< "$(time_of "${@:3}")"
    read -r p0 d0 a0 n0 <<< "$plain"
    awk "BEGIN { p = $p; d = $d; a = $a; n = $n; p0 = $p0; d0 = $d0; a0 = $a0; exit !($2) }" ||
        die "$1: prefill, decode, forward ahead, turns are $p $d $a $n; they are $plain without"
}
counts "thinking that is cut" 'n == 2 && p > 2 * p0 && d > 2 * d0 && a == 0' \
    objective.advantage_baseline=brpo 'rollout.budgets=[8,24]' rollout.summaries=2
counts "an environment" 'n == 3 && p > 2 * p0' rollout.environment=cat 'reward=[{name: environment}]' rollout.max_turns=5
counts "more turns" 'n == 5 && p > 4 * p0' rollout.environment=cat 'reward=[{name: environment}]' rollout.max_turns=5 --turns 5
counts "refinements" 'n == 2 && p > 2 * p0 && d > 1.5 * d0' rollout.refine=true
counts "answers of the reference" 'n == 2 && p > 1.9 * p0 && p < 2.1 * p0' objective.name=dpo objective.pairing=origin reference.samples=2
alone=$(number decode_s)
counts "answers of two models" "n == 2 && p > 2.9 * p0 && p < 3.1 * p0 && d > 1.02 * $alone && d < 2 * $alone" objective.name=dpo objective.pairing=origin \
    reference.samples=2 reference.mixture=0.5
counts "a loss of pairs" 'n == 1 && p == p0 && d == d0 && a > 0' objective.name=dpo
pass=$(number forward_ahead_s)
counts "weights of tokens" "n == 1 && p == p0 && a > $pass" objective.token_weight_alpha=1.5
counts "successes of earlier steps" 'n == 1 && p == p0 && d == d0 && a == 0' replay.size=4
say "turns, cuts, refinements, and passes that an update needs first take their time"

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
