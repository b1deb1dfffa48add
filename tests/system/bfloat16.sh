#!/bin/bash
# --precision bfloat16: runs repeat bit for bit and exchange checkpoints with float32; a machine without it says so.
. "$(dirname "$0")/common.sh"
cd "$work" || exit 1
. "$tests/support/toy.sh"
model=$fixtures/parity/qwen3
groups=$model/groups.jsonl

launch 0 "$STEMMA" score "$model" "$groups" --out one.h5 --precision=bfloat16
if [ "$code" != 0 ]; then
    case $(cat err) in
    "stemma: precision: this build has no bfloat16: it was built without oneDNN 2 (Debian: libdnnl-dev); "* | \
        "stemma: precision: bfloat16 needs "*"; found "*)
        say "skipped, but for the message: $(cat err)"
        exit 77
        ;;
    esac
    die "score: exit $code: $(cat err)"
fi

# oneDNN plays the lesser processor.
for ranks in 0 2; do
    ONEDNN_MAX_CPU_ISA=AVX512_CORE refused 2 'precision: bfloat16 needs AVX512-BF16 or AMX in oneDNN, too; found it limited to ..' \
        $ranks "$STEMMA" score "$model" "$groups" --out two.h5 --precision=bfloat16
done
[ ! -e two.h5 ] || die "a refused run left two.h5"
say "a processor without is refused, at 1 and 2 ranks"

# Log-probs: between the bits of float32 and its neighbourhood. Entropies of a few units, logits rounded at 2^-9.
succeeds 0 "$STEMMA" score "$model" "$groups" --out two.h5 --precision=float32
h5diff -d 0.3 one.h5 two.h5 /groups /groups > diff.txt 2>&1 || die "bfloat16 against float32: $(head -5 diff.txt)"
h5diff -d 1e-4 one.h5 two.h5 /groups /groups > diff.txt 2>&1 && die "bfloat16 rounds nothing"
succeeds 0 "$STEMMA" score "$model" "$groups" --out two.h5 --precision=bfloat16
h5diff one.h5 two.h5 > diff.txt 2>&1 || die "a second run has other bits: $(head -5 diff.txt)"
succeeds 0 "$STEMMA" grad "$model" "$groups" --out grad.h5 --precision=bfloat16
echo '{"prompt_ids": [1, 2, 3]}' > ids.jsonl
succeeds 0 "$STEMMA" generate "$model" ids.jsonl --out text.jsonl --precision=bfloat16 rollout.group_size=3 rollout.max_new_tokens=5
say "score, grad and generate; equal bits in a second run"

input ten.yaml ten 6 'checkpoint: { every: 3, keep: 9 }\nprecision: bfloat16\nobjective: { kl_coef: 0.1 }\n'
for ranks in 0 2; do
    rm -rf ten whole
    succeeds $ranks "$STEMMA" train ten.yaml
    mv ten whole
    mkdir -p ten/checkpoints
    cp "$(checkpoint whole 3)" ten/checkpoints/
    succeeds $ranks "$STEMMA" train ten.yaml
    same_bits "$(checkpoint whole 6)" "$(checkpoint ten 6)" "6 steps are not 3 and 3 at $ranks ranks"
done
say "6 steps = 3 + 3, bit for bit, alone and on 2 ranks, with a reference model"

# On to float32 and back: told apart by name, allowed on the command line.
rm -rf ten && mkdir -p ten/checkpoints && cp "$(checkpoint whole 3)" ten/checkpoints/
sed 's/bfloat16/float32/' ten.yaml > single.yaml
refused 2 'ten/checkpoints/step-00000003.h5: this run has other options: precision (saved bfloat16, now float32); ..' \
    0 "$STEMMA" train single.yaml
succeeds 0 "$STEMMA" train single.yaml --precision=float32
grep -q 'going on from ten/checkpoints/step-00000003.h5, after step 3 of 6' out || die "float32 does not go on: $(cat out)"
# Few steps with Adam's unit-sized ones: near, and not the same.
same_parameters "$(checkpoint whole 6)" "$(checkpoint ten 6)" 0.2
h5diff "$(checkpoint whole 6)" "$(checkpoint ten 6)" /parameters /parameters > diff.txt 2>&1 && die "float32 went on in bfloat16"
succeeds 0 "$STEMMA" train single.yaml --precision=bfloat16 run.steps=7
grep -q 'after step 6 of 7' out || die "bfloat16 does not go on from float32: $(cat out)"
succeeds 0 "$STEMMA" eval ten.yaml model.init=file model.path="$(checkpoint ten 7)"
say "a checkpoint goes on in float32 and back"
