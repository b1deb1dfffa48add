#!/usr/bin/env bash
# All that a machine with a GPU has to show, first of all whether it computes rightly; each part has its time, and leaves
# what it found in files of its own.
#
#   BUILD=build/release [RESULTS=tests/bench/results] [PYTHON=..] bash tests/bench/gpu.sh [PART ..]
#
# BUILD holds bin/ as CMake made it, with the tests; it may have been built elsewhere (pack.sh). Parts, in the order in which
# they run without arguments:
#   correct   every operation, and whole models, against the CPU; with several GPUs what NCCL carries, against MPI
#   attend    each kernel of attention, TFLOP/s
#   update    an update of the shape of Qwen2.5-1.5B with random weights: prompts of 4,096 to 16,384 tokens, tree against
#             repeated, beside a product in the same run
#   torch     Prefix Grouper in PyTorch (PYTHON has it), in turns with the program
#   decode    tokens a second
#   memory    prompts of 16,384 tokens with 16 answers of 4,096; groups of 4 to 64
#   sanitize  compute-sanitizer on the tests of the operations
# Exits with 1 where something failed; the parts after it still run.
set -u
: "${BUILD:?expected the folder that CMake built in}"
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
export OMPI_MCA_rmaps_base_oversubscribe=1 OMPI_MCA_hwloc_base_binding_policy=none
here=$(cd "$(dirname "$0")" && pwd)
bin=$(cd "$BUILD" && pwd)/bin
results=${RESULTS:-$here/results}
export STEMMA_FIXTURES=$here/../fixtures # the tests know where they were built
mkdir -p "$results"
failed=0

# keep SECONDS NAME WORDS..: runs; what it prints goes to results/NAME, too.
keep() {
    local seconds=$1 name=$2
    shift 2
    printf '\n== %s: %s\n' "$name" "$*"
    timeout "$seconds" "$@" 2>&1 < /dev/null | tee "$results/$name"
    [ "${PIPESTATUS[0]}" = 0 ] && return
    printf 'FAILED:  %s\n' "$name" | tee -a "$results/$name"
    failed=1
    return 1
}

# The tests that every backend must pass, as tests/CMakeLists.txt lists them.
of_backends="backend_activations backend_ops backend_ahead backend_device backend_norm backend_attend backend_head
    backend_spread backend_vectors head bfloat16 backend_attend_bf16"

correct() {
    local name n_gpus
    export STEMMA_TEST_BACKEND=cuda
    for name in $of_backends; do
        keep 120 "gpu-unit-$name.txt" "$bin/unit_$name"
    done
    STEMMA_GPU_ATTENTION=mma keep 120 gpu-unit-backend_attend_bf16-mma.txt "$bin/unit_backend_attend_bf16"
    unset STEMMA_TEST_BACKEND
    STEMMA=$bin/stemma MPIRUN=mpirun keep 450 gpu-system.txt bash "$here/../system/cuda.sh"
    n_gpus=$(nvidia-smi -L 2> /dev/null | grep -c '^GPU')
    [ "$n_gpus" -ge 2 ] || return 0 # NCCL takes a GPU for each rank
    STEMMA_TEST_BACKEND=cuda STEMMA_NCCL=libnccl.so.2 keep 120 gpu-transport.txt \
        mpirun -n $((n_gpus < 4 ? n_gpus : 4)) "$bin/mpi_transport"
    STEMMA=$bin/stemma MPIRUN=mpirun keep 300 gpu-nccl.txt bash "$here/../system/nccl.sh"
}

# bench SECONDS NAME WORDS..: one rank in bfloat16 on the GPU, of the shape of Qwen2.5-1.5B.
bench() {
    local seconds=$1 name=$2
    shift 2
    keep "$seconds" "gpu-$name.txt" "$bin/stemma" bench --backend cuda --precision bfloat16 --out "$results/gpu-$name.json" \
        bench.hidden=1536 bench.layers=28 bench.heads=12 bench.kv_heads=2 bench.intermediate=8960 bench.vocab=151936 \
        bench.repeats=3 parallel.machine=none "$@"
}

attend() {
    keep 120 gpu-attend.txt "$bin/bench_attend" cuda
    STEMMA_GPU_ATTENTION=mma keep 120 gpu-attend-mma.txt "$bin/bench_attend" cuda # the above is by wgmma on an H100
}

update() {
    local prompt
    for prompt in 4096 8192 16384; do
        bench 200 "update-$prompt" bench.prompt=$prompt bench.answer=512 'bench.group_size=[4, 8, 16]' \
            'bench.forwards=[tree, repeated]' bench.limit_s=60
        bench 200 "update-$prompt-1024" bench.prompt=$prompt bench.answer=1024 bench.group_size=8 bench.forwards=tree
    done
}

torch() {
    local prompt round
    local -a python=(env "LD_LIBRARY_PATH=${LIBRARIES_BESIDE-${LD_LIBRARY_PATH:-}}" "${PYTHON:-python3}")
    if ! "${python[@]}" -c 'import torch' 2> /dev/null; then
        printf '\nnot compared: %s has no torch\n' "${PYTHON:-python3}"
        return
    fi
    for prompt in 4096 16384; do
        for round in 1 2; do
            for variant in plain tuned; do
                keep 200 "gpu-torch-$prompt-$variant-$round.txt" "${python[@]}" "$here/prefix_grouper.py" device=cuda \
                    variant=$variant precision=bfloat16 prompt=$prompt answer=512 group_size=8 hidden=1536 layers=28 \
                    heads=12 kv_heads=2 intermediate=8960 vocab=151936 repeats=3
            done
            bench 120 "torch-$prompt-stemma-$round" bench.prompt=$prompt bench.answer=512 bench.group_size=8 \
                bench.forwards=tree
        done
    done
}

decode() {
    local slots
    for slots in 16 64; do
        bench 150 "decode-$slots" bench.prompt=4096 bench.answer=256 bench.group_size=$slots rollout.slots=$slots \
            bench.forwards=decode
    done
}

memory() {
    bench 300 memory-largest bench.prompt=16384 bench.answer=4096 bench.group_size=16 bench.forwards=tree bench.repeats=1
    bench 300 memory-groups bench.prompt=4096 bench.answer=512 'bench.group_size=[4, 16, 64]' bench.forwards=tree \
        bench.repeats=1
}

sanitize() {
    local tool name
    export STEMMA_TEST_BACKEND=cuda
    for tool in memcheck racecheck initcheck; do
        for name in $of_backends; do
            keep 200 "gpu-$tool-$name.txt" compute-sanitizer --tool "$tool" --error-exitcode 9 "$bin/unit_$name"
        done
    done
    unset STEMMA_TEST_BACKEND
}

for part in ${*:-correct attend update torch decode memory sanitize}; do
    case $part in
        correct | attend | update | torch | decode | memory | sanitize) "$part" ;;
        *) echo "gpu.sh: $part: unknown; expected correct, attend, update, torch, decode, memory or sanitize" >&2 && exit 2 ;;
    esac
done
exit $failed
