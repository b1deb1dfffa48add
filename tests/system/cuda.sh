#!/usr/bin/env bash
# --backend cuda as --backend cpu: recorded gradients on several layouts, near them in bfloat16, the tokens that generate
# samples, training, and checkpoints that either backend goes on from; by messages through the host, and by those of an
# MPI that knows the device. Where STEMMA_EMULATED names a folder, its module runs the kernels on the host; else a GPU does.
. "$(dirname "$0")/common.sh"
command -v h5diff > /dev/null || die "h5diff is missing (Debian: hdf5-tools)"
cd "$work" || exit 1
. "$tests/support/toy.sh"
export STEMMA_MODULES=${STEMMA_EMULATED:-}
LIMIT_S=150

edge=$fixtures/parity/edge_cases
grpo="--precision float64 objective.kl_coef=0.04 objective.aggregate=sequence-mean objective.clip_high=0.2"
launch 0 "$STEMMA" score "$edge" "$edge/groups.jsonl" --out score.h5 --precision float64 --backend cuda
if [ "$code" = 2 ] && [ -z "${STEMMA_EMULATED:-}" ]; then
    say "skipped: $(cat err)"
    exit 77
fi
[ "$code" = 0 ] || die "score: exit code $code: $(cat err)"
h5diff -d 1e-13 score.h5 "$edge/score.h5" /groups /groups > diff.txt || die "score: $(head -4 diff.txt)"
# Where the kernels run on the host, so does their memory, but out of reach of all else, unless STEMMA_GPU_MPI is 1.
for layout in "0 1 tree 0" "2 1 tree 0" "3 1 prompt 0" "2 2 repeated 0" "4 2 tree 0" "3 1 tree 1" "4 2 prompt 1"; do
    read -r ranks stages forward direct <<< "$layout"
    [ "$direct" = 0 ] || [ -n "${STEMMA_EMULATED:-}" ] || continue
    STEMMA_GPU_MPI=$direct succeeds "$ranks" "$STEMMA" grad "$edge" "$edge/groups.jsonl" --out grad.h5 --backend cuda $grpo \
        parallel.pipeline="$stages" --forward "$forward" memory.chunk_tokens=24
    h5diff -d 1e-13 grad.h5 "$edge/grad_grpo.h5" /grad /grad > diff.txt || die "grad, $layout: $(head -4 diff.txt)"
done
say "score and grad: the recorded values on 1 to 4 ranks, 1 and 2 stages, by three forwards and both ways of messages"

# Activations, K and V in bfloat16, between ranks, too. Elements of the gradient reach 0.18, of which one rounding is
# 7e-4: twice as much for another forward or layout, and six times from what float32 gives.
succeeds 0 "$STEMMA" grad "$edge" "$edge/groups.jsonl" --out single.h5 --backend cpu ${grpo/64/32}
for layout in "0 1 tree" "2 1 repeated" "3 1 tree" "4 2 tree"; do
    read -r ranks stages forward <<< "$layout"
    succeeds "$ranks" "$STEMMA" grad "$edge" "$edge/groups.jsonl" --out half.h5 --backend cuda \
        ${grpo/float64/bfloat16} parallel.pipeline="$stages" --forward "$forward" memory.chunk_tokens=24
    [ -e first.h5 ] || cp half.h5 first.h5
    h5diff -d 1.4e-3 half.h5 first.h5 /grad /grad > diff.txt || die "bfloat16, $layout: $(head -4 diff.txt)"
    h5diff -d 4.2e-3 half.h5 single.h5 /grad /grad > diff.txt || die "bfloat16, $layout, against float32: $(head -4 diff.txt)"
    h5diff -d 7e-4 half.h5 single.h5 /grad /grad > diff.txt && die "bfloat16, $layout, rounds nothing"
done
for order in 1 2; do # of an emulated device's threads and blocks
    STEMMA_EMULATED_ORDER=$order succeeds 0 "$STEMMA" grad "$edge" "$edge/groups.jsonl" --out half.h5 --backend cuda \
        ${grpo/float64/bfloat16} memory.chunk_tokens=24
    h5diff half.h5 first.h5 /grad /grad > diff.txt || die "bfloat16, order $order: $(head -4 diff.txt)"
done
say "grad in bfloat16: near float32's, and nearer one another, on 1 to 4 ranks by two forwards"

ids() { grep -o '"ids":\[[^]]*\]' "$1"; }
printf '%s\n' '{"prompt_ids": [3, 1, 4, 1, 5, 9, 2, 6]}' '{"prompt_ids": [7]}' > ids.jsonl
for sampling in "rollout.top_p=0.9" "rollout.top_k=7 rollout.min_p=0.02" "rollout.temperature=0"; do
    for backend in cpu cuda; do
        succeeds 0 "$STEMMA" generate "$fixtures/parity/qwen3" ids.jsonl --out $backend.jsonl --backend $backend \
            --precision float64 rollout.group_size=3 rollout.max_new_tokens=12 run.seed=3 $sampling
    done
    [ "$(ids cpu.jsonl)" = "$(ids cuda.jsonl)" ] || die "generate, $sampling: other tokens than the CPU's"
done
say "generate: the CPU's tokens, with filters and greedy"

# The host runs ahead of the device: rounds of the same rows are replayed, and none is awaited but the prompts'. Rows that
# end, begin and must not end yet, in few slots and many; and keys beyond those that a recording is made for.
cp -r "$fixtures/parity/qwen3" stops
cp -r stops long
sed -i 's/"max_position_embeddings": 256/"max_position_embeddings": 512/' long/config.json
sed -i 's/"eos_token_id": null/"eos_token_id": [1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29]/' stops/config.json
printf '%s\n' '{"prompt_ids": [3, 1, 4, 1, 8]}' >> ids.jsonl
sampled() { # sampled FILE MODEL OPTIONS: counts.txt becomes what the host of an emulated device did
    rm -f counts.txt
    STEMMA_EMULATED_COUNTS=counts.txt succeeds 0 "$STEMMA" generate "$2" ids.jsonl --out "$1" run.seed=3 "${@:3}"
}
count() { sed -E "s/.*\\b$1 ([0-9]+).*/\\1/" counts.txt; }
compare_ahead() { # compare_ahead AHEAD MODEL OPTIONS
    local waits=0
    sampled awaited.jsonl "${@:2}" --backend cuda rollout.rounds_ahead=0
    [ -z "${STEMMA_EMULATED:-}" ] || waits=$(count idle_waits)
    sampled ahead.jsonl "${@:2}" --backend cuda rollout.rounds_ahead="$1"
    [ "$(ids awaited.jsonl)" = "$(ids ahead.jsonl)" ] || die "generate, $*: other tokens where the host runs ahead"
    [ -n "${STEMMA_EMULATED:-}" ] || return 0
    cmp -s awaited.jsonl ahead.jsonl || die "generate, $*: other numbers where the host runs ahead"
    [ "$(count replays)" -gt 20 ] || die "generate, $*: found $(count replays) replays"
    [ "$(count idle_waits)" -lt 20 ] && [ "$waits" -gt 40 ] || die "generate, $*: $(count idle_waits) waits, of $waits"
}
for sampling in "1 rollout.slots=64" "2 rollout.slots=1" "3 rollout.slots=5 rollout.min_new_tokens=6" \
    "1 rollout.slots=5 rollout.temperature=0"; do
    options="--precision float64 rollout.group_size=7 rollout.max_new_tokens=40 ${sampling#* }"
    compare_ahead "${sampling%% *}" stops $options
    sampled cpu.jsonl stops $options --backend cpu
    [ "$(ids cpu.jsonl)" = "$(ids ahead.jsonl)" ] || die "generate, $sampling: other tokens than the CPU's"
done
compare_ahead 1 long --precision bfloat16 rollout.group_size=1 rollout.max_new_tokens=270
say "generate: the same where the host runs ahead, which then waits for no token"

# On stages rounds are replayed between messages, which leave nothing of a round to memory that the GPU cannot get at by
# itself: twice as many tokens copy no byte more from or to there.
staged() { # staged FILE AHEAD DIRECT TOKENS
    rm -f counts.txt
    STEMMA_GPU_MPI=$3 STEMMA_EMULATED_COUNTS=counts.txt succeeds 2 "$STEMMA" generate stops ids.jsonl --out "$1" run.seed=3 \
        --precision float64 --backend cuda parallel.pipeline=2 rollout.group_size=7 rollout.rounds_ahead="$2" rollout.max_new_tokens="$4"
}
total() { count "$1" | awk '{ s += $1 } END { print s }'; }
sampled cpu.jsonl stops --precision float64 --backend cpu rollout.group_size=7 rollout.max_new_tokens=40
for direct in 0 1; do
    [ "$direct" = 0 ] || [ -n "${STEMMA_EMULATED:-}" ] || continue
    staged awaited.jsonl 0 $direct 40
    [ -z "${STEMMA_EMULATED:-}" ] || launches=$(total launches)
    staged staged.jsonl 1 $direct 40
    [ "$(ids cpu.jsonl)" = "$(ids awaited.jsonl)" ] || die "generate on stages: other tokens than the CPU's"
    [ "$(ids cpu.jsonl)" = "$(ids staged.jsonl)" ] || die "generate on stages: other tokens where rounds are recorded"
    [ -n "${STEMMA_EMULATED:-}" ] || continue
    cmp -s awaited.jsonl staged.jsonl || die "generate on stages: other numbers where rounds are recorded"
    [ "$(count replays | sort -n | head -1)" -gt 20 ] || die "generate on stages: $(count replays) replays"
    [ $((2 * $(total launches))) -lt "$launches" ] || die "generate on stages: $(total launches) launches, of $launches"
    pageable=$(total pageable)
    staged staged.jsonl 1 $direct 20
    [ "$(total pageable)" = "$pageable" ] || die "generate on stages: $(total pageable) bytes by pageable memory, then $pageable"
done
say "generate on stages: the CPU's tokens, by rounds that are replayed and messages from the GPU's memory"

# Without measured rates: the host is no GPU. Two steps on each backend, then one that changes it half way.
input cpu.yaml cpu 2 "objective: { kl_coef: 0.02 }\n"
train() { succeeds "$1" "$STEMMA" train cpu.yaml run.folder="$2" run.steps="$3" --backend "$4" --precision float64 \
    parallel.machine=none "${@:5}"; }
train 0 cpu 2 cpu
train 2 cuda 2 cuda
train 0 mixed 1 cuda
train 0 mixed 2 cpu
same_parameters "$(checkpoint cpu 2)" "$(checkpoint cuda 2)" 1e-9
same_parameters "$(checkpoint cpu 2)" "$(checkpoint mixed 2)" 1e-9
say "train: the CPU's weights, on 2 ranks too, and where one backend goes on from the other's checkpoint"

# The embedding is the head, too, on stages that differ; replicas sum all of a gradient, or their shards of it.
n=0
for layout in "3 0 parallel.replica=3" "3 1 parallel.replica=1" "2 0 parallel.pipeline=2" "3 0 parallel.shard=gradient" \
    "4 1 parallel.pipeline=2 parallel.shard=gradient" "2 1 parallel.replica=2 checkpoint.async=true"; do
    read -r ranks direct options <<< "$layout"
    [ -n "${STEMMA_EMULATED:-}" ] || direct=0
    n=$((n + 1))
    for steps in 1 2; do
        STEMMA_GPU_MPI=$direct train "$ranks" "cuda$n" "$steps" cuda $options
    done
    same_parameters "$(checkpoint cpu 2)" "$(checkpoint "cuda$n" 2)" 1e-9
done
say "train: the CPU's weights on 2 to 4 ranks, replicas, teams, stages and shards, gone on with from checkpoints"

# Nash-MD: policy and reference decode together, and both their rounds are replayed.
input nash.yaml nash 2 'objective: { name: self_play, opponent: other, oracle: reward, label_scale: 4, beta: 0.1 }\nreference: { samples: 2, mixture: 0.5 }\n'
nash() { # nash RANKS FOLDER BACKEND OPTIONS
    rm -f counts.txt
    STEMMA_EMULATED_COUNTS=counts.txt succeeds "$1" "$STEMMA" train nash.yaml run.folder="$2" --backend "$3" --precision float64 \
        parallel.machine=none checkpoint.every=0 rollout.max_new_tokens=16 "${@:4}"
}
nash 0 nash.cpu cpu
nash 0 nash.awaited cuda rollout.rounds_ahead=0
[ -z "${STEMMA_EMULATED:-}" ] || launches=$(total launches) waits=$(total idle_waits)
nash 0 nash.ahead cuda
[ -z "${STEMMA_EMULATED:-}" ] || {
    [ "$(total replays)" -gt 20 ] && [ "$(total launches)" -lt "$launches" ] && [ "$(total idle_waits)" -lt $((waits - 40)) ] ||
        die "nash: $(cat counts.txt), of $launches launches and $waits waits"
}
nash 2 nash.stages cuda parallel.pipeline=2
nash 3 nash.team cuda rollout.slots=2
for run in awaited ahead stages team; do
    same_parameters "$(checkpoint nash.cpu 2)" "$(checkpoint nash.$run 2)" 1e-9
done
say "train by mixtures of two models: the CPU's weights, awaited and ahead, on two stages and in a team"

# A checkpoint holds the same in bfloat16: float32 on the CPU goes on from it.
succeeds 2 "$STEMMA" train cpu.yaml run.folder=half run.steps=1 --backend cuda --precision bfloat16 parallel.machine=none
succeeds 0 "$STEMMA" train cpu.yaml run.folder=half run.steps=2 --backend cpu --precision float32 parallel.machine=none
grep -q 'going on from .*, after step 1 of 2' out || die "float32 does not go on from bfloat16: $(cat out)"
say "train: in bfloat16 on 2 ranks, and on in float32"

# Without --backend a GPU is taken where there is one, and said; on all ranks or none.
score="$STEMMA score $edge $edge/groups.jsonl --out auto.h5 --check"
succeeds 2 $score
grep -q '^    1 GPU: .* GiB$' out && grep -q 'warning: 2 ranks share 1 GPU' out || [ -z "$STEMMA_MODULES" ] ||
    die "auto: found $(cat out), expected the emulated GPU that two ranks share"
if [ -n "$STEMMA_MODULES" ]; then
    "$MPIRUN" -n 1 $score : -n 1 env -u STEMMA_MODULES $score > out 2> err && die "auto: a rank without a GPU went along"
    grep -q '^stemma: backend: rank 0 has a GPU, and rank 1 none' err || die "auto: $(cat err)"
fi
say "auto: the GPU, on all ranks or none"

# Without memory: how much was asked for, for what, and what takes less; the emulated GPU has as much as it is told.
if [ -n "$STEMMA_MODULES" ]; then
    score="$STEMMA score $edge $edge/groups.jsonl --out auto.h5 --backend cuda memory.limit=1GiB"
    STEMMA_EMULATED_MIB=32 refused 1 "cuda: out of memory: asked for 64.0 MiB (cuBLAS's workspace); 32.0 of 32.0 MiB are free" 0 $score
    STEMMA_EMULATED_MIB=66 refused 1 "memory for K, V and activations (a smaller memory.limit or .." 0 $score
    say "out of memory: whose it was, and what takes less"
fi
