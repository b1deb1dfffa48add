#!/usr/bin/env bash
# Holds what `stemma plan` says of a step against steps that `stemma train` takes on this machine.
#
#   STEMMA=build/release/bin/stemma bash tests/bench/plan.sh [CASE ..]
#
# A case is RANKS:PIPELINE:SUFFIX:REPLICA, or hostsN:PIPELINE:SUFFIX:REPLICA for N virtual hosts of one rank each with
# 1 Gbit/s between them (tests/support/vcluster.sh; needs root). /KIND behind it asks for more than answers in one turn: budgets
# (thinking that is cut), turns (an environment), refine, weights (of tokens), pairs (dpo), others (answers of the reference) or
# replay. STEPS=N: steps of a run, 6; LAYERS=N, HIDDEN=N: of the model, 8 of 512. The machine is calibrated before each case, with
# two ranks of one thread, and for hosts on as many hosts. The model has random weights and nothing ends a response, so that run and plan
# know the same lengths. A line of the table: median of 5 steps, what the plan says, and the ratio plan / run. Where a step
# computes without others (1:1:1:1), rollout and update are taken apart, too: the former by rollouts of one token, the latter
# by `stemma bench` on the same shapes. Results: tests/bench/results/plan.CASE.txt and .json, and the machine's description.
# Exits with 1 when a step is not within 25 %.
set -u
: "${STEMMA:?expected the path of the program}"
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 OMPI_MCA_sharedfp=^lockedfile
export OMPI_MCA_rmaps_base_oversubscribe=1 OMPI_MCA_hwloc_base_binding_policy=none
here=$(cd "$(dirname "$0")" && pwd)
results=${RESULTS:-$here/results}
cluster=$here/../support/vcluster.sh
work=$(mktemp -d "${TMPDIR:-/tmp}/stemma.plan.XXXXXX")
export VC_DIR=$work/hosts
trap '[ ! -d "$VC_DIR" ] || bash "$cluster" down; rm -rf "$work"' EXIT
cores=$(nproc)
n_hosts=0
missed=0

prompts=8 group=8 prompt_tokens=128 answer_tokens=32 steps=${STEPS:-6} layers=${LAYERS:-8} hidden=${HIDDEN:-512}
mkdir -p "$work/model"
intermediate=$((hidden * 11 / 4))
cat > "$work/model/config.json" << END
{"architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 4096, "hidden_size": $hidden,
 "intermediate_size": $intermediate, "num_hidden_layers": $layers, "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": $((hidden / 8)),
 "hidden_act": "silu", "max_position_embeddings": 1024, "rms_norm_eps": 1e-5, "rope_theta": 10000.0,
 "tie_word_embeddings": false}
END
# Letters, a space and the end of a line, so that sampled tokens have texts; they alone are sampled where there is a tokenizer.
mkdir -p "$work/letters"
cp "$work/model/config.json" "$work/letters"
{
    printf '{"version": "1.0", "added_tokens": [], "normalizer": null, "post_processor": null, "pre_tokenizer": {"type": "ByteLevel", '
    printf '"add_prefix_space": false, "trim_offsets": true, "use_regex": true}, "decoder": {"type": "ByteLevel", '
    printf '"add_prefix_space": true, "trim_offsets": true, "use_regex": true}, "model": {"type": "BPE", "merges": [], "vocab": {'
    i=0
    for letter in {a..z} '\u0120' '\u010a'; do
        printf '%s"%s": %d' "${comma:-}" "${letter/\\/\\}" $i
        comma=', ' i=$((i + 1))
    done
    printf '}}}'
} > "$work/letters/tokenizer.json"
# An environment that says eight letters to all that may go on.
cat > "$work/environment.sh" << 'END'
while IFS= read -r line; do
    printf '%s\n' "$line" | sed 's/},{/}\n{/g' | sed -n 's/.*"last":\([a-z]*\).*"id":\([0-9]*\).*/\2 \1/p' |
        awk '{ print $2 == "true" ? "{\"id\": " $1 ", \"reward\": 0}" : "{\"id\": " $1 ", \"append\": \"xyxyxyxy\", \"reward\": 0}" }'
done
END
awk -v n=64 -v tokens=$prompt_tokens 'BEGIN {
    srand(1)
    for (p = 0; p < n; p++) {
        printf "{\"prompt_ids\": ["
        for (t = 0; t < tokens; t++) printf "%s%d", t ? ", " : "", int(4096 * rand())
        print "]}"
    }
}' > "$work/prompts.jsonl"
cat > "$work/input.yaml" << END
run:        { folder: $work/run, steps: $steps }
model:      { path: $work/model, init: random }
data:       { prompts: $work/prompts.jsonl }
rollout:    { prompts_per_step: $prompts, group_size: $group, max_new_tokens: $answer_tokens, ignore_eos: true, save: none }
reward:     [ { name: length, max_tokens: 16 } ]
checkpoint: { every: 0 }
eval:       { every: 0 }
END

# on RANKS THREADS WORDS..: under mpirun, or on hosts.
on() {
    local ranks=$1 threads=$2
    shift 2
    export OMP_NUM_THREADS=$threads OPENBLAS_NUM_THREADS=$threads
    if [ "$n_hosts" = 0 ]; then
        timeout 120 mpirun -n "$ranks" "$@" < /dev/null
    else
        timeout 120 bash "$cluster" exec n1 mpirun -n "$n_hosts" --host "$(seq -f n%g -s, "$n_hosts")" \
            --mca plm_rsh_agent "bash $cluster agent" --mca btl_tcp_if_include eth0 --mca oob_tcp_if_include eth0 \
            -x OMP_NUM_THREADS -x OPENBLAS_NUM_THREADS "$@" < /dev/null
    fi
}

# hosts N: so many are up; 0: none.
hosts() {
    [ "$n_hosts" != "$1" ] || return 0
    [ "$n_hosts" = 0 ] || bash "$cluster" down
    n_hosts=$1
    [ "$1" = 0 ] || { bash "$cluster" up "$1" && bash "$cluster" rate 1gbit; } > "$work/log" 2>&1 || { bash "$cluster" down; n_hosts=0; return 1; }
}

# median FIELD: over the steps after the first.
median() {
    sed -nE 's/.*"'"$1"'": ?([-0-9.e+]+).*/\1/p' "$work/run/metrics.jsonl" | tail -n +2 | sort -g |
        awk '{ x[NR] = $1 } END { print NR % 2 ? x[(NR + 1) / 2] : (x[NR / 2] + x[NR / 2 + 1]) / 2 }'
}

# planned KEY..: the sum of these numbers of the best layout.
planned() {
    for key in "$@"; do sed -nE "s/^ *\"$key\": ([-0-9.e+]+),?$/\1/p" "$work/plan.json" | head -1; done |
        awk '{ s += $1 } END { print s + 0 }'
}

# row WORDS RUN PLAN
row() { awk -v w="$1" -v r="$2" -v p="$3" 'BEGIN { printf "  %-30s %9.4f %9.4f %6.2f\n", w, r, p, (r > 0 ? p / r : 0) }'; }

# parts: of one rank. What one token takes is prefill, and one round of 32.
parts() {
    local phase
    on 1 "$cores" "$STEMMA" bench --out "$work/bench.json" bench.forwards=tree bench.repeats=3 bench.groups=$prompts \
        bench.prompt=$prompt_tokens bench.answer=$answer_tokens bench.group_size=$group bench.layers=$layers bench.hidden=$hidden \
        bench.heads=8 bench.kv_heads=4 bench.intermediate=$intermediate bench.vocab=4096 > "$work/log" 2>&1 || { cat "$work/log"; return 1; }
    for phase in prefix_forward suffix_forward head backward; do
        sed -nE 's/^ *"'$phase'": ([-0-9.e+]+),?$/'$phase' \1/p' "$work/bench.json" | head -1
    done > "$work/phases"
    row '  bench: forward' "$(awk '/forward/ { s += $2 } END { print s }' "$work/phases")" "$(planned forward_s)"
    row '  bench: head' "$(awk '/head/ { print $2 }' "$work/phases")" "$(planned head_s)"
    row '  bench: backward' "$(awk '/backward/ { print $2 }' "$work/phases")" "$(planned backward_s)"
    rm -rf "$work/run"
    on 1 "$cores" "$STEMMA" train "$work/input.yaml" run.steps=4 rollout.max_new_tokens=1 > "$work/log" 2>&1 || return 1
    row '  prefill, and a round' "$(median rollout_s)" \
        "$(awk -v p="$(planned prefill_s)" -v d="$(planned decode_s)" -v n=$answer_tokens 'BEGIN { print p + d / n }')"
}

# kind NAME: words for run and plan, `words`; for the plan alone, `lengths`.
kind() {
    local letters="model.path=$work/letters"
    lengths="--answer-tokens $answer_tokens --spread 0"
    case $1 in
    '') words='' ;;
    budgets)
        words="$letters rollout.budgets=[16,32] rollout.summaries=2 rollout.closing=zzzz rollout.max_new_tokens=8
            objective.advantage_baseline=brpo objective.advantage_scale=none objective.aggregate=fixed-length"
        lengths='--answer-tokens 8 --spread 0'
        ;;
    turns) # how long they are is seen in the run
        words="$letters rollout.stop=[a,e] rollout.max_new_tokens=64 rollout.max_turns=3 rollout.max_environment_tokens=16"
        lengths='--turns 3 --reply-tokens 16 --spread 0.4'
        ;;
    refine) words="$letters rollout.refine=true" ;;
    weights) words=objective.token_weight_alpha=1.7 ;;
    pairs) words='objective.name=dpo objective.pairing=all' ;;
    others) words='objective.name=dpo objective.pairing=origin reference.samples=2' ;;
    replay) words="$letters replay.size=4" ;;
    *) return 1 ;;
    esac
}

# train RANKS THREADS LAYOUT: the run. What has blanks in it does not go through `words`.
train() {
    local more=()
    rm -rf "$work/run"
    case $kind in
    turns) more=("rollout.environment=exec sh $work/environment.sh" 'reward=[{name: environment}]') ;;
    refine) more=('rollout.refine_text=try once more') ;;
    esac
    on "$1" "$2" "$STEMMA" train "$work/input.yaml" $3 $words "${more[@]}" > "$work/log" 2>&1 || { tail -20 "$work/log"; return 1; }
    [ "$kind" != turns ] || lengths="$lengths --answer-tokens $(sed -nE 's/.*"tokens_sampled": ?([0-9]+).*/\1/p' "$work/run/metrics.jsonl" |
        awk -v n=$((prompts * group)) '{ s += $1 } END { print int(s / NR / n + 0.5) }')"
}

compare() {
    local name=$1
    printf '%s\n  %-30s %9s %9s %6s\n' "$name" seconds run plan ratio
    row step "$(median step_s)" "$(planned step_s)"
    row rollout "$(median rollout_s)" "$(planned rollout_s)"
    row update "$(median update_s)" "$(planned update_s)"
    row 'waits: K, V, dK, dV' "$(awk -v a="$(median wait_kv_s)" -v b="$(median wait_dkv_s)" 'BEGIN { print a + b }')" \
        "$(planned wait_for_k_v_s)"
    row 'waits: stages' "$(median wait_stages_s)" "$(planned wait_for_stages_s)"
    row 'waits: end of passes' "$(median wait_ranks_s)" "$(planned idle_s)"
    row 'gradient sums' "$(median wait_gradients_s)" "$(planned gradient_sums_s)"
    row 'parameter gather' "$(median wait_parameters_s)" "$(planned parameter_gather_s)"
    row 'optimizer (mean)' "$(awk -v n=$steps '/^optimizer / { print $3 / n }' "$work/run/log.txt")" "$(planned optimizer_s)"
}

# calibrate FILE: for each case anew, since a machine that others share may change its speed.
calibrate() {
    if [ "$n_hosts" = 0 ]; then
        on "$cores" 1 "$STEMMA" calibrate --out "$1"
    else
        on - 1 "$STEMMA" calibrate --out "$1"
    fi > "$work/log" 2>&1 && cp "$1" "$results/"
}

run_case() {
    kind=${1#*/}
    [ "$kind" != "$1" ] || kind=
    kind "$kind" || { printf '%s: no such kind\n' "$1"; return 1; }
    IFS=: read -r where pipeline suffix replica <<< "${1%%/*}"
    local ranks=$where threads layout machine=$work/plan.machine.yaml nodes=1 per_node
    case $where in
    hosts*)
        nodes=${where#hosts} ranks=$nodes per_node=1
        machine=$work/plan.machine.$where.yaml
        hosts "$nodes" || { printf '%s: skipped: no virtual hosts here\n' "$1"; return; }
        ;;
    *) hosts 0; per_node=$ranks ;;
    esac
    threads=$((cores / ranks > 0 ? cores / ranks : 1))
    calibrate "$machine" || { cat "$work/log"; return 1; }
    layout="parallel.pipeline=$pipeline parallel.suffix=$suffix parallel.replica=$replica"
    train "$ranks" "$threads" "$layout" || return 1
    "$STEMMA" plan "$work/input.yaml" --machine "$machine" --nodes "$nodes" --ranks-per-node "$per_node" \
        --threads "$threads" --prompt-tokens $prompt_tokens $lengths --max-nodes 0 --group-sizes '[]' --out "$work/plan.json" \
        $layout $words $([ "$kind" != turns ] || echo rollout.environment=cat) > "$work/log" 2>&1 || { cat "$work/log"; return 1; }
    { compare "$1"; [ "$1" != 1:1:1:1 ] || parts; } | tee "$work/table"
    local name=${1//:/-}
    cp "$work/plan.json" "$results/plan.${name/\//-}.json"
    cp "$work/table" "$results/plan.${name/\//-}.txt"
    awk '$1 == "step" { exit !($4 >= 0.75 && $4 <= 1.25) }' "$work/table" || { printf '  MISSED: the step is not within 25 %%\n'; missed=1; }
}

mkdir -p "$results"
[ $# -gt 0 ] || set -- 1:1:1:1 2:1:2:1 2:1:1:2 2:2:1:1 4:1:4:1 4:2:2:1 8:1:4:2 8:2:2:2 hosts2:1:2:1 hosts2:2:1:1 hosts4:1:2:2 hosts4:2:2:1
for one in "$@"; do
    run_case "$one" || missed=1
done
exit $missed
