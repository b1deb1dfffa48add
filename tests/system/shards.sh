#!/usr/bin/env bash
# parallel.shard as users run it, with a reference model, which is divided, too: the same training by one rank and by
# several, whatever they divide, and a run that goes on with other ranks, stages and shards at each start.
. "$(dirname "$0")/common.sh"
command -v h5diff > /dev/null || die "h5diff is missing (Debian: hdf5-tools)"
cd "$work" || exit 1
. "$tests/support/toy.sh"

sections='objective: { kl_coef: 0.3 }\ncheckpoint: { every: 1, keep: 9 }\nmemory: { chunk_tokens: 30 }\nprecision: float64\n'
input run.yaml unset 6 "$sections"

# same_run STEP FOLDER: its checkpoint of that step has what one rank's has: float64, another order of sums, and AdamW,
# which divides by the root of a second moment: where that is tiny, the gradient's rounding is not.
same_run() {
    local kind
    for kind in parameters optimizer; do
        h5diff -d 1e-9 "$(checkpoint alone "$1")" "$(checkpoint "$2" "$1")" "/$kind" "/$kind" > diff.txt ||
            die "$2, step $1: other $kind than by one rank: $(head -4 diff.txt)"
    done
}

succeeds 0 "$STEMMA" train run.yaml run.folder=alone
kl=$(field alone/metrics.jsonl 6 kl_reference)
holds "$kl > 1e-3" "the policy stays at the reference: kl_reference $kl"
succeeds 0 "$STEMMA" train run.yaml run.folder=free objective.kl_coef=0
h5diff -d 1e-6 "$(checkpoint alone 2)" "$(checkpoint free 2)" /parameters /parameters > diff.txt && die "the reference changes nothing"
for ranks in 1 2 3; do
    for shard in optimizer gradient; do
        folder=$shard-$ranks
        succeeds $ranks "$STEMMA" train run.yaml run.folder="$folder" run.steps=3 parallel.shard=$shard
        for step in 1 2 3; do same_run $step "$folder"; done
        difference="$(field "$folder/metrics.jsonl" 3 kl_reference) - $(field alone/metrics.jsonl 3 kl_reference)"
        holds "($difference)^2 < 1e-20" "$folder, step 3: kl_reference"
    done
done
say "with a reference: the same parameters by 1, 2 and 3 ranks, of optimizer's and of gradient's shards"

step=0
for case in "0 1 optimizer" "2 1 gradient" "2 1 optimizer" "3 1 gradient" "4 2 gradient" "2 2 optimizer"; do
    read -r ranks stages shard <<< "$case"
    step=$((step + 1))
    succeeds "$ranks" "$STEMMA" train run.yaml run.folder=changed run.steps=$step parallel.pipeline="$stages" parallel.shard="$shard"
    [ $step = 1 ] || grep -q "going on from changed/checkpoints/step-0000000$((step - 1)).h5" out || die "step $step: $(cat out)"
    same_run $step changed
done
say "one run goes on with other shards, ranks and stages at each start, and comes to the same"

groups=$fixtures/parity/llama/groups.jsonl
for ranks in 0 2; do
    refused 2 'command line: parallel.shard: not an option of `stemma grad`' $ranks \
        "$STEMMA" grad "$fixtures/parity/llama" "$groups" --out grad.h5 parallel.shard=gradient
done
succeeds 0 "$STEMMA" grad --help
grep -q parallel.shard out && die "grad --help offers parallel.shard"
say "grad, which writes the whole gradient, refuses parallel.shard"
