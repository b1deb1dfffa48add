#!/usr/bin/env bash
# Every command on layouts of a pipeline, with ranks left over, as on one rank: score and grad to 1e-12, the tokens that
# generate samples, the rewards that eval finds, the weights after train.
. "$(dirname "$0")/common.sh"
command -v h5diff > /dev/null || die "h5diff is missing (Debian: hdf5-tools)"

# runs RANKS LEFT WORDS..: every rank exits with 0; stderr holds the warning of ranks LEFT over, or nothing.
runs() {
    local ranks=$1 left=$2 expected= code
    shift 2
    launch "$ranks" "$@"
    [ "$left" = 0 ] ||
        expected="stemma: warning: $left of $ranks ranks $([ "$left" = 1 ] && echo is || echo are) idle: .*"
    for code in $codes; do
        [ "$code" = 0 ] || die "$*: exit codes $codes at $ranks ranks: $(cat "$work/err")"
    done
    [[ "$(cat "$work/err")" =~ ^$expected$ ]] || die "$*: stderr holds: $(cat "$work/err"), expected: $expected"
}

# Per element.
same() { h5diff -d 1e-12 "$1" "$2" "$3" "$3" > "$work/diff" || die "$4: $3 differs: $(head -n 4 "$work/diff")"; }

# ranks, left over, pipeline suffix replica
layouts="5 1 2 2 1
5 2 3 1 1
6 0 3 2 1
8 0 2 2 2
7 1 2 3 1
4 0 2 1 2"

model=$fixtures/parity/llama3_rope # three layers, tied
groups=$model/groups.jsonl
lookup=$tests/../inputs/lookup
head -n 5 "$lookup/test.jsonl" > "$work/prompts.jsonl"
sample="--precision float64 rollout.group_size=5 rollout.max_new_tokens=12 run.seed=3"
tokens() { grep -o '"ids":[^]]*\]' "$1"; }

options="--precision float64 memory.chunk_tokens=24"
runs 0 0 "$STEMMA" score "$model" "$groups" --out "$work/score.h5" $options
runs 0 0 "$STEMMA" grad "$model" "$groups" --out "$work/grad.h5" $options
runs 0 0 "$STEMMA" generate "$lookup/model" "$work/prompts.jsonl" --out "$work/alone.jsonl" $sample
[ "$(tokens "$work/alone.jsonl" | wc -l)" = 25 ] || die "expected 25 responses, found $(tokens "$work/alone.jsonl")"
while read -r ranks left pipeline suffix replica; do
    layout="parallel.pipeline=$pipeline parallel.suffix=$suffix parallel.replica=$replica"
    runs "$ranks" "$left" "$STEMMA" score "$model" "$groups" --out "$work/n.h5" $options $layout
    same "$work/n.h5" "$work/score.h5" /groups "score, $layout"
    runs "$ranks" "$left" "$STEMMA" grad "$model" "$groups" --out "$work/n.h5" $options $layout
    same "$work/n.h5" "$work/grad.h5" /grad "grad, $layout"
    same "$work/n.h5" "$work/grad.h5" /loss "grad, $layout"
    [ "$pipeline" -le 2 ] || continue # the lookup model has two layers
    runs "$ranks" "$left" "$STEMMA" generate "$lookup/model" "$work/prompts.jsonl" --out "$work/n.jsonl" $sample $layout
    [ "$(tokens "$work/n.jsonl")" = "$(tokens "$work/alone.jsonl")" ] || die "generate, $layout: other tokens"
done <<< "$layouts"
say "score, grad and generate: the same on pipeline x suffix x replica of 4 to 8 ranks, some of them idle"

cat > "$work/learn.yaml" << END
run: { folder: unset, seed: 1, steps: 3 }
model: { path: $lookup/model }
data: { prompts: $work/prompts.jsonl }
rollout: { prompts_per_step: 3, group_size: 16, max_new_tokens: 8, stop: ["\n"] }
reward: [ { name: exact, weight: 1.0 } ]
objective: { name: grpo }
optim: { lr: 1.0e-3 }
checkpoint: { every: 3, keep: 9 }
eval: { prompts: $work/prompts.jsonl, samples: 8, temperature: 1.0 }
END
last=checkpoints/step-00000003.h5
# What was sampled, and what it was worth.
rollouts() { cat "$1"/rollouts/step-*.jsonl | grep -oE '"(ids|reward)":(\[[^]]*\]|[^,}]*)'; }

runs 0 0 "$STEMMA" eval "$work/learn.yaml" --precision float64
cp "$work/out" "$work/eval.txt"
grep -q '^mean reward 0\.[0-9]*[1-9]' "$work/eval.txt" || die "eval: expected some rewards: $(cat "$work/eval.txt")"
runs 0 0 "$STEMMA" train "$work/learn.yaml" --precision float64 run.folder="$work/alone"
[ "$(rollouts "$work/alone" | grep -c ids)" = 144 ] || die "expected 3 x 3 x 16 rollouts, found: $(ls -l "$work/alone"/*)"
rollouts "$work/alone" | grep -q 'reward.*1' || die "no rollout has a reward: nothing is learned"
while read -r ranks left pipeline suffix replica; do
    [ "$pipeline" -le 2 ] || continue
    layout="parallel.pipeline=$pipeline parallel.suffix=$suffix parallel.replica=$replica"
    runs "$ranks" "$left" "$STEMMA" eval "$work/learn.yaml" --precision float64 $layout
    cmp -s "$work/out" "$work/eval.txt" || die "eval, $layout: found $(cat "$work/out"), expected $(cat "$work/eval.txt")"
    rm -rf "$work/run"
    runs "$ranks" "$left" "$STEMMA" train "$work/learn.yaml" --precision float64 run.folder="$work/run" $layout
    [ "$(rollouts "$work/run")" = "$(rollouts "$work/alone")" ] || die "train, $layout: other rollouts"
    # Adam divides by the root of a second moment that may be as small as its square: so not 1e-12.
    h5diff -d 1e-9 "$work/run/$last" "$work/alone/$last" /parameters /parameters > "$work/diff" ||
        die "train, $layout: other weights: $(head -n 4 "$work/diff")"
done <<< "$layouts"
say "eval and train: the same rollouts, rewards and weights"
