#!/usr/bin/env bash
# Measures what ranks cost each other: how much faster two are than one, the share of a training step that they wait for
# each other, and how busy the stages of a pipeline are.
#
#   STEMMA=build/release/bin/stemma bash tests/bench/exposed.sh [ranks|share|hosts|pipeline ..]
#
# Each rank has one thread, and a core to itself. Variants that are compared take turns, and the best of each counts:
# noise only ever adds time. `hosts` needs root: two virtual hosts with 1 Gbit/s between them. Exits with 1 when a goal
# is missed. Results: tests/bench/results/exposed-PART.txt, a line for each measurement; seconds.
set -u
: "${STEMMA:?expected the path of the program}"
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 OMPI_MCA_sharedfp=^lockedfile
export OMPI_MCA_rmaps_base_oversubscribe=1 OMPI_MCA_hwloc_base_binding_policy=none
export OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1
here=$(cd "$(dirname "$0")" && pwd)
results=${RESULTS:-$here/results}
cluster=$here/../support/vcluster.sh
work=$(mktemp -d "${TMPDIR:-/tmp}/stemma.exposed.XXXXXX")
export VC_DIR=$work/hosts
trap '[ ! -d "$VC_DIR" ] || bash "$cluster" down; rm -rf "$work"' EXIT
repeats=${REPEATS:-2}
missed=0

ratio() { awk -v a="$1" -v b="$2" 'BEGIN { if (a > 0 && b > 0) printf "%.6f\n", a / b }'; }

say() { printf '%s\n' "$*" | tee -a "$out"; }

# goal WORDS VALUE least|most LIMIT
goal() {
    local verdict=MISSED
    if [ -n "$2" ] && awk -v v="$2" -v l="$4" -v how="$3" 'BEGIN { exit !(how == "least" ? v >= l : v <= l) }'; then
        verdict=reached
    else
        missed=1
    fi
    say "$(printf '%-8s %s: %.3f, at %s %.3f wanted' "$verdict:" "$1" "${2:-0}" "$3" "$4")"
}

# update RANKS WORDS..: the best seconds of an update.
update() {
    local ranks=$1
    shift
    timeout 100 mpirun -n "$ranks" "$STEMMA" bench --out "$work/bench.json" bench.forwards=tree bench.repeats="$repeats" "$@" \
        > "$work/out" 2>&1 < /dev/null || { tail -n 5 "$work/out" >&2 && return 1; }
    awk -F, 'NR == 1 { for (i = 1; i <= NF; i++) if ($i == "best_s") c = i } NR == 2 { print $c }' "$work/bench.csv"
}

ranks() {
    local groups one two words
    for groups in 1 4; do
        words="bench.groups=$groups bench.prompt=1024 bench.answer=128"
        one=$(update 1 $words) && two=$(update 2 $words) || { missed=1 && continue; }
        say "$groups groups: 1 rank $one, 2 ranks $two"
        goal "two ranks against one, $groups groups" "$(ratio "$one" "$two")" least "$([ $groups = 1 ] && echo 1.8 || echo 1.9)"
    done
}

# A sequence is a segment, and a chunk of its own. m chunks of even stages are m / (m + 1) efficient. Stages have whole
# layers (model/stages.c): 5, and 3 with the head, which by FLOPs is 1.45 layers for the 384 rows of 511 that have loss,
# 1.09. So the first takes 5 / 9.09 of a chunk, and m chunks take a whole one and m - 1 times that.
pipeline() {
    local chunks one two words efficiency
    for chunks in 1 4 16; do
        words="bench.groups=$chunks bench.group_size=1 bench.prompt=128 bench.answer=384 memory.chunk_tokens=512"
        one=$(update 1 $words) && two=$(update 2 $words parallel.pipeline=2) || { missed=1 && continue; }
        efficiency=$(awk -v a="$one" -v b="$two" 'BEGIN { printf "%.6f\n", a / b / 2 }')
        say "$chunks chunks: 1 rank $one, 2 stages $two, efficiency $efficiency, with whole layers at most \
$(awk -v m="$chunks" 'BEGIN { printf "%.3f", m / (1 + (m - 1) * 5 / 9.09) / 2 }')"
        goal "efficiency to m / (m + 1), $chunks chunks" \
            "$(awk -v e="$efficiency" -v m="$chunks" 'BEGIN { printf "%.6f\n", e * (m + 1) / m }')" least 0.9
    done
}

# input PROMPTS TOKENS STEPS
input() {
    mkdir -p "$work/model"
    cat > "$work/model/config.json" << END
{"architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 8192, "hidden_size": 512,
 "intermediate_size": 1376, "num_hidden_layers": 8, "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 64,
 "hidden_act": "silu", "max_position_embeddings": 8192, "rms_norm_eps": 1e-5, "rope_theta": 10000.0,
 "tie_word_embeddings": false}
END
    awk -v n="$1" -v tokens="$2" -v steps="$3" 'BEGIN {
        srand(1)
        for (p = 0; p < n * steps; p++) {
            printf "{\"prompt_ids\": ["
            for (t = 0; t < tokens; t++) printf "%s%d", t ? ", " : "", int(8192 * rand())
            print "]}"
        }
    }' > "$work/prompts.jsonl"
    cat > "$work/input.yaml" << END
run:        { folder: $work/run, steps: $3 }
model:      { path: $work/model, init: random }
data:       { prompts: $work/prompts.jsonl, max_prompt_tokens: 4096 }
rollout:    { prompts_per_step: $1, group_size: 8, max_new_tokens: 128, ignore_eos: true, save: none }
reward:     [ { name: length, max_tokens: 16 } ]
checkpoint: { every: 0 }
eval:       { every: 0 }
END
}

# tell NAME MOST: the steps of the run but the first, which takes its memory; their median share is judged.
tell() {
    say "$1: steps (step, rollout, update; waiting for K,V, dK,dV, stages, gradients, parameters, ranks; share)"
    say "$(awk -F'[:,{}]' '{
        for (i = 1; i < NF; i++) { gsub(/[" ]/, "", $i); of[$i] = $(i + 1) }
        printf "    %.2f %.2f %.2f; %.3f %.3f %.3f %.3f %.3f %.3f; %.4f\n", of["step_s"], of["rollout_s"], of["update_s"],
            of["wait_kv_s"], of["wait_dkv_s"], of["wait_stages_s"], of["wait_gradients_s"], of["wait_parameters_s"],
            of["wait_ranks_s"], of["exposed_share"] }' "$work/run/metrics.jsonl")"
    goal "exposed share, $1" "$(tail -n +2 "$work/run/metrics.jsonl" | sed 's/.*"exposed_share": *\([0-9.eE+-]*\).*/\1/' |
        sort -g | awk '{ s[NR] = $1 } END { print (s[int((NR + 1) / 2)] + s[int(NR / 2) + 1]) / 2 }')" most "$2"
}

share() {
    local groups
    for groups in 1 4; do
        input $groups 1024 4
        rm -rf "$work/run"
        timeout 100 mpirun -n 2 "$STEMMA" train "$work/input.yaml" > "$work/out" 2>&1 < /dev/null ||
            { tail -n 5 "$work/out" && missed=1 && continue; }
        tell "2 ranks, prompts of 1024 in a step: $groups" 0.05
    done
}

hosts() {
    local groups
    bash "$cluster" up 2 && bash "$cluster" rate 1gbit || { say "not measured: no virtual hosts here" && return; }
    for groups in 1 2; do
        input $groups 4096 3
        rm -rf "$work/run"
        timeout 100 bash "$cluster" exec n1 mpirun -n 2 --host n1,n2 --mca plm_rsh_agent "bash $cluster agent" \
            --mca btl_tcp_if_include eth0 --mca oob_tcp_if_include eth0 \
            -x OMP_NUM_THREADS -x OPENBLAS_NUM_THREADS "$STEMMA" train "$work/input.yaml" \
            > "$work/out" 2>&1 < /dev/null || { tail -n 5 "$work/out" && missed=1 && continue; }
        tell "2 hosts with 1 Gbit/s, prompts of 4096 in a step: $groups" 0.15
    done
}

mkdir -p "$results"
for part in "${@:-all}"; do
    case " ranks share hosts pipeline all " in
    *" $part "*) ;;
    *)
        printf '%s: unknown; expected ranks, share, hosts, pipeline or all\n' "$part" >&2
        exit 2
        ;;
    esac
done
for part in "${@:-all}"; do
    [ "$part" = all ] && part="ranks share hosts pipeline"
    for each in $part; do
        out=$results/exposed-$each.txt
        "$STEMMA" --version | head -n 1 > "$out"
        sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -n 1 >> "$out"
        "$each"
    done
done
exit $missed
