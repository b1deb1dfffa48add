#!/usr/bin/env bash
# score, grad and generate as users run them: the same answers on any number of ranks and by every forward, files that
# feed each other, refusals that name file and line.
. "$(dirname "$0")/common.sh"
command -v h5diff > /dev/null || die "h5diff is missing (Debian: hdf5-tools)"

model=$fixtures/parity/qwen3
groups=$fixtures/parity/edge_cases/groups.jsonl
edge=$fixtures/parity/edge_cases
grpo="objective.kl_coef=0.04 objective.aggregate=sequence-mean objective.clip_high=0.2"

# same FILE OTHER PART: the HDF5 groups agree to 1e-13, of numbers that are of order 0.01 to 10.
same() { h5diff -d 1e-13 "$1" "$2" "$3" "$3" > "$work/diff" || die "$1 and $2 differ: $(head -4 "$work/diff")"; }

succeeds 0 "$STEMMA" score "$edge" "$groups" --out "$work/score.h5" --precision float64
succeeds 0 "$STEMMA" grad "$edge" "$groups" --out "$work/grad.h5" --precision float64 $grpo
same "$work/score.h5" "$edge/score.h5" /groups
same "$work/grad.h5" "$edge/grad_grpo.h5" /grad
for case in "2 2 tree" "3 1 prompt" "3 3 tree" "4 2 repeated" "5 3 tree" "5 5 prompt"; do
    read -r ranks suffix forward <<< "$case"
    layout="parallel.suffix=$suffix --forward $forward --precision float64 memory.chunk_tokens=24"
    succeeds "$ranks" "$STEMMA" score "$edge" "$groups" --out "$work/score-n.h5" $layout
    same "$work/score-n.h5" "$work/score.h5" /groups
    succeeds "$ranks" "$STEMMA" grad "$edge" "$groups" --out "$work/grad-n.h5" $layout $grpo
    same "$work/grad-n.h5" "$work/grad.h5" /grad
done
say "score and grad: the recorded values on 1 to 5 ranks, in teams of 1 to 5, by three forwards"

succeeds 0 "$STEMMA" score "$edge" "$groups" --out "$work/hot.h5" --precision float64 --temperature 0.7
h5diff -d 1e-13 "$work/hot.h5" "$edge/score.h5" /groups /temperature_0.7/groups > "$work/diff" ||
    die "temperature 0.7: $(head -4 "$work/diff")"
say "score --temperature: the recorded values at 0.7"

printf '%s\n' '{"prompt_ids": [3, 1, 4, 1, 5, 9, 2, 6], "answer": "kept"}' '{"prompt_ids": [7]}' \
    '{"prompt_ids": [3, 1, 4, 1, 5, 9, 2, 6, 5, 3]}' > "$work/prompts.jsonl"
sample="rollout.group_size=5 rollout.max_new_tokens=12 rollout.top_p=0.9 run.seed=3 --precision float64"
ids() { grep -o '"ids":\[[^]]*\]' "$1"; }
succeeds 0 "$STEMMA" generate "$model" "$work/prompts.jsonl" --out "$work/alone.jsonl" $sample
[ "$(ids "$work/alone.jsonl" | wc -l)" = 15 ] || die "generate: expected 15 responses, found $(cat "$work/alone.jsonl")"
grep -q '"answer":"kept"' "$work/alone.jsonl" || die "generate: the prompt's own fields are lost"
for ranks in 2 3 5; do
    succeeds "$ranks" "$STEMMA" generate "$model" "$work/prompts.jsonl" --out "$work/several.jsonl" $sample \
        parallel.suffix=2 rollout.slots=2
    [ "$(ids "$work/several.jsonl")" = "$(ids "$work/alone.jsonl")" ] || die "generate: other tokens on $ranks ranks"
done
succeeds 0 "$STEMMA" generate "$model" "$work/prompts.jsonl" --out "$work/other.jsonl" $sample run.seed=4
[ "$(ids "$work/other.jsonl")" != "$(ids "$work/alone.jsonl")" ] || die "generate: another seed gives the same tokens"
succeeds 0 "$STEMMA" score "$model" "$work/alone.jsonl" --out "$work/own.h5" --precision float64
succeeds 0 "$STEMMA" grad "$model" "$work/alone.jsonl" --out "$work/own-grad.h5" objective.name=sft
say "generate: the same tokens on 1, 2, 3 and 5 ranks; score and grad read what it wrote"

succeeds 2 "$STEMMA" score "$model" "$work/alone.jsonl" --out "$work/none.h5" --check
[ ! -e "$work/none.h5" ] || die "--check wrote a result"
grep -q "memory of a rank" "$work/out" || die "--check: no memory in $(cat "$work/out")"

printf '{"prompt_ids": [1, 2], "responses": [{"ids": [3, 4], "mask": [1]}]}\n' > "$work/mask.jsonl"
printf '\n{"prompt_ids": [1, 999], "responses": [{"ids": [3]}]}\n' > "$work/id.jsonl"
printf '{"prompt_ids": [1], "responses": [{"ids": [3]}]}\n' > "$work/reward.jsonl"
: > "$work/empty.jsonl"
for ranks in 0 3; do
    refused 2 "$work/mask.jsonl:1: responses[0].mask: found 1 numbers.." $ranks \
        "$STEMMA" score "$model" "$work/mask.jsonl" --out "$work/x.h5"
    refused 2 "$work/id.jsonl:2: .." $ranks "$STEMMA" score "$model" "$work/id.jsonl" --out "$work/x.h5"
    refused 2 "$work/reward.jsonl:1: responses[0].reward.." $ranks \
        "$STEMMA" grad "$model" "$work/reward.jsonl" --out "$work/x.h5"
    refused 2 "$work/empty.jsonl: .." $ranks "$STEMMA" score "$model" "$work/empty.jsonl" --out "$work/x.h5"
    refused 2 "--out $work/no/x.h5: the folder $work/no cannot be written to: No such file or directory" $ranks \
        "$STEMMA" score "$model" "$work/alone.jsonl" --out "$work/no/x.h5"
    refused 2 "parallel.suffix.." $ranks "$STEMMA" score "$model" "$work/alone.jsonl" --out "$work/x.h5" \
        parallel.suffix=7 parallel.replica=2
done
[ ! -e "$work/x.h5" ] || die "a refused command wrote a result"
say "refusals: groups, outputs and layouts, alone and on 3 ranks"
