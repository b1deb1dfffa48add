#!/usr/bin/env bash
# parallel.pipeline as users run it: the same gradients and scores by stages as alone, a run that goes on with other
# stages, ranks that are left over, the number of stages that memory asks for, and refusals.
. "$(dirname "$0")/common.sh"
command -v h5diff > /dev/null || die "h5diff is missing (Debian: hdf5-tools)"

idle="stemma: warning: 1 of 3 ranks is idle: parallel.pipeline is 2, and its stages are alike"

# works RANKS IDLE WORDS..: every rank exits with 0; stderr holds the warning of an idle rank (IDLE 1) or nothing.
works() {
    local expected=
    launch "$1" "${@:3}"
    [ "$2" = 0 ] || expected=$idle
    case "$codes" in *[!0\ ]*) die "${*:3}: exit codes $codes at $1 ranks: $(cat "$work/err")" ;; esac
    [ "$(cat "$work/err")" = "$expected" ] || die "${*:3}: stderr holds: $(cat "$work/err"), expected: $expected"
}

same() { h5diff -d "$4" "$1" "$2" "$3" "$3" > "$work/diff" || die "$1 and $2 differ: $(head -4 "$work/diff")"; }

for model in llama3_rope qwen3; do # the first is tied
    groups=$fixtures/parity/$model/groups.jsonl
    options="--precision float64 memory.chunk_tokens=24"
    works 0 0 "$STEMMA" score "$fixtures/parity/$model" "$groups" --out "$work/score.h5" $options
    works 0 0 "$STEMMA" grad "$fixtures/parity/$model" "$groups" --out "$work/grad.h5" $options
    for case in "2 2 0" "3 3 0" "3 2 1" "4 2 0"; do
        read -r ranks stages left <<< "$case"
        layout="$options parallel.pipeline=$stages"
        works "$ranks" "$left" "$STEMMA" score "$fixtures/parity/$model" "$groups" --out "$work/score-n.h5" $layout
        same "$work/score-n.h5" "$work/score.h5" /groups 1e-13
        works "$ranks" "$left" "$STEMMA" grad "$fixtures/parity/$model" "$groups" --out "$work/grad-n.h5" $layout
        same "$work/grad-n.h5" "$work/grad.h5" /grad 1e-13
    done
done
say "score and grad: the same by 2 and 3 stages, of one rank and of two, with a rank left over, tied and not"

model=$tests/../inputs/lookup/model # tied
head -7 "$tests/../inputs/lookup/sft.jsonl" > "$work/learn.jsonl"
cat > "$work/learn.yaml" << END
run: { folder: unset, seed: 1, steps: 4 }
model: { path: $model }
data: { prompts: $work/learn.jsonl }
rollout: { prompts_per_step: 3 }
objective: { name: sft }
checkpoint: { every: 1, keep: 9 }
END
last=checkpoints/step-00000004.h5
train="$STEMMA train $work/learn.yaml --precision float64"
works 0 0 $train run.folder="$work/alone"
for case in "2 0" "3 1" "4 0"; do
    read -r ranks left <<< "$case"
    works "$ranks" "$left" $train run.folder="$work/run-$ranks" parallel.pipeline=2
    same "$work/run-$ranks/$last" "$work/alone/$last" /parameters 1e-9
    same "$work/run-$ranks/$last" "$work/alone/$last" /optimizer 1e-9
done
works 2 0 $train run.folder="$work/changed" parallel.pipeline=2 run.steps=2
works 3 0 $train run.folder="$work/changed" parallel.pipeline=1 run.steps=3
works 3 1 $train run.folder="$work/changed" parallel.pipeline=2 run.steps=4
same "$work/changed/$last" "$work/alone/$last" /parameters 1e-9
same "$work/changed/$last" "$work/alone/$last" /optimizer 1e-9
say "train: the same weights and optimizer state by stages, also where they change between two starts"

tiny="bench.hidden=128 bench.layers=8 bench.heads=4 bench.kv_heads=2 bench.intermediate=256 bench.vocab=64
    bench.prompt=64 bench.answer=8 bench.group_size=2"
works 3 1 "$STEMMA" bench --out "$work/b.json" $tiny --check memory.limit=20MiB
grep -q "2 stages of 1 team of 1 rank; 1 more rank is idle" "$work/out" || die "--check: $(cat "$work/out")"
grep -q "stage 0: embedding, layers 0-3" "$work/out" || die "--check: $(cat "$work/out")"
grep -q "stage 1: layers 4-7, head" "$work/out" || die "--check: $(cat "$work/out")"
works 3 0 "$STEMMA" bench --out "$work/b.json" $tiny --check memory.limit=64MiB
grep -q "1 team of 3 ranks" "$work/out" || die "--check: $(cat "$work/out")"
say "parallel.pipeline=auto: as few stages as have room"

groups=$fixtures/parity/llama/groups.jsonl
for ranks in 0 2; do
    refused 2 "parallel.pipeline: found 3, expected at most $((ranks > 0 ? ranks : 1)), the number of ranks" $ranks \
        "$STEMMA" score "$fixtures/parity/llama" "$groups" --out "$work/x.h5" parallel.pipeline=3
done
refused 2 "parallel.pipeline: found 4, expected at most 3, the layers of the model" 5 \
    "$STEMMA" score "$fixtures/parity/llama" "$groups" --out "$work/x.h5" parallel.pipeline=4
say "refused: more stages than ranks, more stages than layers"
