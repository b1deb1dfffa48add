# tests/support/toy.sh: a toy model, prompts, and what tests of training read from a run. To be sourced after common.sh, in $work.

# A model of two layers over 28 tokens (the end, a to z, a space), and prompts of different lengths.
mkdir toy
cat > toy/config.json << 'END'
{"architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 28, "hidden_size": 16, "intermediate_size": 32,
 "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "hidden_act": "silu",
 "max_position_embeddings": 96, "rms_norm_eps": 1e-05, "rope_theta": 10000.0, "tie_word_embeddings": true,
 "bos_token_id": null, "eos_token_id": 0, "torch_dtype": "float32"}
END
{
    printf '{"version": "1.0", "added_tokens": [{"id": 0, "content": "<|end|>", "single_word": false, "lstrip": false, '
    printf '"rstrip": false, "normalized": false, "special": true}], "normalizer": null, "post_processor": null, '
    printf '"pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true}, '
    printf '"decoder": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true}, '
    printf '"model": {"type": "BPE", "merges": [], "vocab": {"<|end|>": 0'
    i=1
    for letter in {a..z} '\u0120'; do
        printf ', "%s": %d' "${letter/\\/\\}" $i
        i=$((i + 1))
    done
    printf '}}}'
} > toy/tokenizer.json
for word in ant bear cat dogs elephant fox goose hen ibis jay koala lynx mole; do
    echo "{\"prompt\": \"once there was a $word and the $word said \", \"answer\": \"a\", \"response\": \"${word%?}a\"}"
done > prompts.jsonl
head -5 prompts.jsonl > few.jsonl

cat > base.yaml << 'END'
model:      { path: toy, init: random }
data:       { prompts: prompts.jsonl }
rollout:    { prompts_per_step: 5, group_size: 4, max_new_tokens: 4 }
reward:     [ { name: contains, text: a } ]
optim:      { lr: 0.02, schedule: constant, warmup_steps: 0 }
END
# input FILE FOLDER STEPS [SECTIONS]: an input file; the sections are printf's text.
input() { { echo "run: { folder: $2, steps: $3 }"; cat base.yaml; printf '%b' "${4:-}"; } > "$1"; }

# field FILE STEP NAME: a number of metrics.jsonl; null is empty.
field() { sed -n "s/^{\"step\": $2,.*\"$3\": \([-0-9.e+]*\).*/\1/p" "$1"; }
# holds EXPRESSION: a comparison of numbers.
holds() { awk "BEGIN { exit !($1) }" < /dev/null || die "expected $1: $2"; }
checkpoint() { printf '%s/checkpoints/step-%08d.h5' "$1" "$2"; }
# Everything but the hashes, which also cover the times in the file's headers.
same_bits() { h5diff --exclude-path /hashes "$1" "$2" > diff.txt 2>&1 || die "$3: $(head -5 diff.txt)"; }
# The state alone, bit for bit; the options in the files may differ.
same_state() { # A B WHAT
    local object
    for object in /parameters /optimizer; do
        h5diff "$1" "$2" $object > diff.txt 2>&1 || die "$3: $object: $(head -3 diff.txt)"
    done
}
same_parameters() { # A B TOLERANCE
    h5diff -d "$3" "$1" "$2" /parameters /parameters > diff.txt 2>&1 || die "$1 and $2 differ: $(head -5 diff.txt)"
}

# sum FOLDER NAME: of a number over all steps.
sum() { sed -n "s/.*\"$2\": \([-0-9.e+]*\),.*/\1/p" "$1/metrics.jsonl" | awk '{ s += $1 } END { print s + 0 }'; }

# compare NAME STEPS WORDS..: the run NAME of NAME.yaml on one rank, on three ranks, and in two pieces.
compare() {
    local name=$1 steps=$2 ranks
    shift 2
    for ranks in 3 0; do
        rm -rf "$name"
        succeeds $ranks "$STEMMA" train "$name.yaml" --precision=float64 checkpoint.every=0 rollout.save=all "$@"
        [ $ranks = 0 ] || mv "$name" "$name.3"
    done
    same_parameters "$(checkpoint "$name.3" "$steps")" "$(checkpoint "$name" "$steps")" 1e-9
    mv "$name" "$name.1" && mkdir -p "$name/checkpoints"
    succeeds 0 "$STEMMA" train "$name.yaml" --precision=float64 checkpoint.every=0 rollout.save=all run.steps=$((steps / 2)) "$@"
    succeeds 0 "$STEMMA" train "$name.yaml" --precision=float64 checkpoint.every=0 rollout.save=all "$@"
    same_bits "$(checkpoint "$name.1" "$steps")" "$(checkpoint "$name" "$steps")" "$name: $steps steps are not two halves"
    [ ! -d "$name.1/rollouts" ] || diff -r "$name.1/rollouts" "$name/rollouts" > diff.txt || die "$name: other rollouts after a restart"
}

# until_true WORDS..: asks every 20 ms, for 60 s at most.
until_true() {
    local i
    for ((i = 0; i < 3000; i++)); do
        "$@" && return
        sleep 0.02
    done
    die "never came true: $*: $(tail -n 20 -- *.log started.txt 2> /dev/null)"
}
has_step() { grep -qs "^{\"step\": $2," "$1/metrics.jsonl"; }
# said FILE PATTERN, and says, which must be true.
said() { grep -qs -e "$2" "$1"; }
says() { said "$@" || die "$1: expected $2: $(tail -n 25 "$1")"; }
