#!/usr/bin/env bash
# parallel.transport=nccl as mpi, to the bit: gradients and short training runs on 2 to 4 ranks, by stages and shards; and
# where NCCL cannot be had, one message, or by auto MPI and why. Where STEMMA_EMULATED names a folder, its devices compute
# and emulated/nccl carries; else the GPUs do, of which there must be two, and the library that is found.
. "$(dirname "$0")/common.sh"
command -v h5diff > /dev/null || die "h5diff is missing (Debian: hdf5-tools)"
cd "$work" || exit 1
. "$tests/support/toy.sh"
LIMIT_S=150
if [ -n "${STEMMA_EMULATED:-}" ]; then
    n_gpus=4
    export STEMMA_MODULES=$STEMMA_EMULATED STEMMA_NCCL=$STEMMA_EMULATED/nccl/libnccl.so.2 STEMMA_EMULATED_DEVICES=4
else
    n_gpus=$(nvidia-smi -L 2> /dev/null | grep -c '^GPU')
    [ "$n_gpus" -ge 2 ] || { say "skipped: found $n_gpus GPUs, expected two or more"; exit 77; }
fi
carrier() { sed -n 's/^  gradients and new weights go by //p' "${1:-out}"; }

edge=$fixtures/parity/edge_cases
grad() { # grad FILE RANKS TRANSPORT OPTIONS
    succeeds "$2" "$STEMMA" grad "$edge" "$edge/groups.jsonl" --out "$1" --backend cuda parallel.transport="$3" \
        objective.kl_coef=0.04 memory.chunk_tokens=24 "${@:4}"
}
for layout in "2 float32 1" "3 float64 1" "3 bfloat16 1" "4 float64 2"; do
    read -r ranks precision stages <<< "$layout"
    [ "$ranks" -le "$n_gpus" ] || continue
    for transport in mpi nccl; do
        grad $transport.h5 "$ranks" $transport --precision "$precision" parallel.pipeline="$stages"
    done
    h5diff mpi.h5 nccl.h5 /grad /grad > diff.txt || die "grad, $layout: $(head -4 diff.txt)"
done
say "grad: the bits of MPI on 2 to 4 ranks"

input mpi.yaml mpi 2 "objective: { kl_coef: 0.02 }\n"
train() { # train RANKS FOLDER STEPS TRANSPORT OPTIONS
    succeeds "$1" "$STEMMA" train mpi.yaml run.folder="$2" run.steps="$3" parallel.transport="$4" --backend cuda \
        parallel.machine=none "${@:5}"
}
n=0
for layout in "2 parallel.replica=2" "3 parallel.replica=3" "3 parallel.shard=gradient parallel.replica=3" \
    "4 parallel.pipeline=2 parallel.shard=gradient" "4 parallel.replica=2 checkpoint.async=true"; do
    read -r ranks options <<< "$layout"
    [ "$ranks" -le "$n_gpus" ] || continue
    n=$((n + 1))
    train "$ranks" "mpi$n" 2 mpi $options
    train "$ranks" "nccl$n" 1 nccl $options
    [[ "$(carrier "nccl$n/log.txt")" = NCCL* ]] || die "train, $layout: $(cat "nccl$n/log.txt")"
    train "$ranks" "nccl$n" 2 auto $options
    same_state "$(checkpoint "mpi$n" 2)" "$(checkpoint "nccl$n" 2)" "train, $layout"
done
say "train: the bits of MPI on 2 to 4 ranks, with shards of the optimizer and of the gradient, and gone on with"

[ -n "${STEMMA_EMULATED:-}" ] || exit 0 # what follows lacks something on purpose

# What auto takes, and says; STEMMA_GPU_MPI=1 is a CUDA-aware MPI, within a node.
check() { # check RANKS WORDS..: a run that stops before it computes
    succeeds "$1" "$STEMMA" grad "$edge" "$edge/groups.jsonl" --out check.h5 --check "${@:2}"
}
for aware in 0 1; do
    STEMMA_GPU_MPI=$aware check 2 --backend cuda
    [ "$(carrier)" = "NCCL 2.28.9" ] || die "auto, CUDA-aware MPI $aware: $(cat out)"
    STEMMA_GPU_MPI=$aware check 2 --backend cuda parallel.transport=mpi
    [[ "$(carrier)" = MPI,* ]] || die "mpi, CUDA-aware $aware: $(cat out)"
done
check 1 --backend cuda
[ -z "$(carrier)" ] || die "a GPU alone: $(cat out)"
check 2 --backend cpu
[ -z "$(carrier)" ] || die "no GPU: $(cat out)"
say "auto: NCCL where each rank has a GPU; nothing is said where nothing travels among GPUs"

# Each want: an error of all ranks where nccl was asked for, and MPI by auto, with the reason.
want() { # want CODE MESSAGE RANKS: with the environment that lacks it
    refused "$1" "parallel.transport: $2" "$3" "$STEMMA" grad "$edge" "$edge/groups.jsonl" --out none.h5 --backend cuda \
        parallel.transport=nccl
    check "$3" --backend cuda
    [[ "$(carrier)" = "MPI, through the host (${2%..}"* ]] || die "auto without it: $(carrier)"
}
STEMMA_NCCL=$work/none.so want 2 "NCCL: the library cannot be opened: $work/none.so: .." 2
STEMMA_NCCL=$STEMMA_EMULATED/libstemma_cuda.so want 2 "NCCL: the library has no ncclGetVersion; expected version 2.7 or later" 3
STEMMA_EMULATED_DEVICES=2 want 2 "rank 2: NCCL: it takes one rank a GPU, and rank 0 is on this one, too: 0000:00:00.0, .." 3
STEMMA_EMULATED_NCCL=init want 1 "NCCL: ncclCommInitRank: unhandled system error: no interface found (.." 4
refused 2 "parallel.transport: NCCL: it carries messages between GPUs, and the backend is cpu" 2 "$STEMMA" grad "$edge" \
    "$edge/groups.jsonl" --out none.h5 --backend cpu parallel.transport=nccl
score="$STEMMA grad $edge $edge/groups.jsonl --out none.h5 --backend cuda parallel.transport=nccl"
timeout 60 "$MPIRUN" -n 2 $score : -n 1 env STEMMA_NCCL=none.so $score > out 2> err < /dev/null && die "a rank without it went along"
grep -c '^stemma:' err | grep -qx 1 && grep -q '^stemma: parallel.transport: rank 2: NCCL: the library cannot be opened' err ||
    die "a rank without it: $(cat err)"
say "without a library, a GPU for each rank, or NCCL's consent: one message, or MPI and why"

# The network goes: messages that never arrive do not keep a rank.
STEMMA_EMULATED_NCCL=lost launch 2 "$STEMMA" train mpi.yaml run.folder=lost parallel.replica=2 parallel.transport=nccl \
    --backend cuda parallel.machine=none
[ "$code" != 0 ] && [ "$code" != 124 ] || die "a run without a network: exit code $code"
grep -q 'NCCL: messages on their way: remote process exited or there was a network error' err || die "lost: $(cat err)"
say "messages that are lost: the run ends, and says so"
