#!/usr/bin/env bash
# Measures what parallel.shard=gradient saves and costs, and what the reference's shards cost.
#
#   STEMMA=build/release/bin/stemma bash tests/bench/shard.sh [RANKS ..]
#
# A random model of 20 layers and 25 million parameters in float32 (95 MiB), supervised steps of 4 responses of 109
# tokens; each rank has one thread. Variants that are compared take turns, and the best step of each counts: noise only
# ever adds time. Memory is the most that a rank has in use (Pss). The reference: steps of 4 prompts with 4 rollouts of
# 16 tokens.
# Results: tests/bench/results/shard.txt.
set -u
: "${STEMMA:?expected the path of the program}"
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 OMPI_MCA_sharedfp=^lockedfile
export OMPI_MCA_rmaps_base_oversubscribe=1 OMPI_MCA_hwloc_base_binding_policy=none
export OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1
tests=$(cd "$(dirname "$0")/.." && pwd)
out=${RESULTS:-$tests/bench/results}/shard.txt
work=$(mktemp -d "${TMPDIR:-/tmp}/stemma.shard.XXXXXX")
trap 'rm -rf "$work"' EXIT
turns=${TURNS:-3}
steps=${STEPS:-6}

cd "$work" || exit 1
. "$tests/support/toy.sh"
sed -i 's/"hidden_size": 16, "intermediate_size": 32/"hidden_size": 320, "intermediate_size": 864/
        s/"num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2/"num_hidden_layers": 20, "num_attention_heads": 10, "num_key_value_heads": 10/
        s/"max_position_embeddings": 96/"max_position_embeddings": 1024/' toy/config.json
text=$(printf 'abcdefghijklmnopqrstuvwxyz %.0s' {1..4})
for letter in {a..p}; do
    echo "{\"prompt\": \"say $letter \", \"response\": \"$letter$text\", \"answer\": \"a\"}"
done > prompts.jsonl

say() { printf '%s\n' "$*" | tee -a "$out"; }

# train NAME RANKS WORDS..: adds the seconds of all steps but the first to NAME.step_s, those of gathering parameters to
# NAME.gather_s, and the MiB in use to NAME.mib.
train() {
    local name=$1 ranks=$2 step
    shift 2
    rm -rf run
    timeout 100 mpirun -n "$ranks" "$STEMMA" train run.yaml "$@" > log 2>&1 < /dev/null || { tail -n 5 log >&2 && exit 1; }
    for ((step = 2; step <= steps; step++)); do
        field run/metrics.jsonl $step step_s >> "$name.step_s"
        field run/metrics.jsonl $step wait_parameters_s >> "$name.gather_s"
    done
    sed -n 's/.* \([0-9]*\) MiB the most in use.*/\1/p' log >> "$name.mib"
}
least() { sort -g "$1" | head -n 1; }
seconds() { printf '%.3f' "$(least "$1")"; }
most() { sort -g "$1" | tail -n 1; }
ratio() { awk -v a="$1" -v b="$2" 'BEGIN { printf "%.2f", a / b }'; }

# compare RANKS TOKENS: optimizer's against gradient's shards, with chunks of so many tokens.
compare() {
    local turn shard
    rm -f ./*.step_s ./*.gather_s ./*.mib
    input run.yaml run $steps "objective: { name: sft }\nmemory: { chunk_tokens: $2 }\n"
    sed -i '/rollout:/s/5/4/; /reward:/d' run.yaml
    for ((turn = 0; turn < turns; turn++)); do
        for shard in optimizer gradient; do train $shard "$1" parallel.shard=$shard; done
    done
    say "$1 ranks, chunks of $2: optimizer $(most optimizer.mib) MiB, step $(seconds optimizer.step_s) s;" \
        "gradient $(most gradient.mib) MiB, step $(seconds gradient.step_s) s;" \
        "ratio $(ratio "$(most gradient.mib)" "$(most optimizer.mib)") of memory," \
        "$(ratio "$(least gradient.step_s)" "$(least optimizer.step_s)") of time"
}

# reference RANKS: the two exchanges of a step: what a step with one gathers more than a step without.
reference() {
    local turn kl exchanges
    rm -f ./*.step_s ./*.gather_s ./*.mib
    input run.yaml run $steps
    sed -i '/rollout:/s/5/4/; /rollout:/s/max_new_tokens: 4/max_new_tokens: 16/' run.yaml
    for ((turn = 0; turn < turns; turn++)); do
        train without "$1" objective.kl_coef=0
        train with "$1" objective.kl_coef=0.1
    done
    exchanges=$(awk -v a="$(least with.gather_s)" -v b="$(least without.gather_s)" 'BEGIN { printf "%.3f", a - b }')
    say "$1 ranks, reference: $(most with.mib) MiB, without $(most without.mib) MiB; step $(seconds with.step_s) s," \
        "without $(seconds without.step_s) s; its two exchanges $exchanges s," \
        "$(ratio "$exchanges" "$(least with.step_s)") of a step"
}

mkdir -p "$(dirname "$out")"
{
    "$STEMMA" --version
    sed -n 's/^model name\s*: //p' /proc/cpuinfo | head -n 1
    echo "# by: TURNS=$turns STEPS=$steps STEMMA=.. bash tests/bench/shard.sh $*"
} > "$out"
for ranks in ${*:-2 4}; do
    compare "$ranks" 1024
    compare "$ranks" 64
    reference "$ranks"
done
