#!/usr/bin/env bash
# TW-GRPO: weights of tokens from the model's distributions, in `grad` and in a run, the same on any ranks and forwards.
. "$(dirname "$0")/common.sh"
cd "$work" || exit 1
. "$tests/support/toy.sh"

edge=$fixtures/parity/edge_cases
weighed="--precision float64 objective.token_weight_alpha=1.7"
same() { h5diff -d 1e-13 "$1" "$2" "$3" "$3" > diff.txt || die "$1 and $2 differ: $(head -4 diff.txt)"; }
succeeds 0 "$STEMMA" grad "$edge" "$edge/groups.jsonl" --out alone.h5 --forward repeated $weighed
succeeds 0 "$STEMMA" grad "$edge" "$edge/groups.jsonl" --out plain.h5 --precision float64
h5diff -d 1e-6 alone.h5 plain.h5 /grad > diff.txt && die "token_weight_alpha changes nothing"
for case in "1 1 tree" "2 2 tree" "3 1 prompt" "3 3 tree"; do
    read -r ranks suffix forward <<< "$case"
    succeeds "$ranks" "$STEMMA" grad "$edge" "$edge/groups.jsonl" --out several.h5 $weighed parallel.suffix=$suffix \
        --forward $forward memory.chunk_tokens=24
    same several.h5 alone.h5 /grad
done
say "token weights: grad is the same on 1 to 3 ranks, by three forwards"

for ranks in 1 2 3; do
    input "on-$ranks.yaml" "on-$ranks" 3
    succeeds "$ranks" "$STEMMA" train "on-$ranks.yaml" $weighed update.epochs=2
done
for ranks in 2 3; do
    same_parameters "$(checkpoint on-1 3)" "$(checkpoint on-$ranks 3)" 1e-11
done
input off.yaml off 3
succeeds 1 "$STEMMA" train off.yaml --precision float64 update.epochs=2
h5diff -d 1e-6 "$(checkpoint on-1 3)" "$(checkpoint off 3)" /parameters > diff.txt 2>&1 && die "training is the same without"
say "token weights: the same parameters after 3 steps of 2 updates on 1, 2 and 3 ranks"

cat > cases.json << 'CASES'
{"inputs": {"a": {"groups": [{"logp": [[-1]], "mask": [[1]], "rewards": [1]}]}},
 "cases": [{"name": "one", "input": "a", "objective": "grpo", "options": {"token_weight_alpha": 1.5}}]}
CASES
refused 2 'cases.json: cases[0] (one): objective.token_weight_alpha: found 1.5, expected 0 (token_weights, if any): ..' 2 \
    "$STEMMA" grad --objective-only cases.json --out none.json
say "token weights: refused where there is no model"
