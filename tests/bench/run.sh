#!/usr/bin/env bash
# Measures the shapes that the project's figures are about, keeps what it finds in tests/bench/results/NAME.json with the
# machine's description, and holds ratios within this one run against what they should be.
#
#   STEMMA=build/release/bin/stemma bash tests/bench/run.sh [NAME ..]      all, or some of: update long ranks corners memory decode
#
# Takes about half an hour on 2 cores, which should have nothing else to do; REPEATS (5) makes it shorter. Exits with 1
# when a ratio is not reached. `sweep`, by name alone, is the whole grid of prompts, ratios and group sizes: hours.
set -u
: "${STEMMA:?expected the path of the program}"
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
export OMPI_MCA_rmaps_base_oversubscribe=1 OMPI_MCA_hwloc_base_binding_policy=none
results=$(cd "$(dirname "$0")" && pwd)/results
mkdir -p "$results"
repeats=${REPEATS:-5}
missed=0

# bench RANKS THREADS NAME WORDS..: measures into results/NAME.json; a failure ends everything.
bench() {
    local ranks=$1 threads=$2 name=$3
    shift 3
    printf '\n== %s: %s ranks x %s threads, %s\n' "$name" "$ranks" "$threads" "$*"
    OMP_NUM_THREADS=$threads OPENBLAS_NUM_THREADS=$threads mpirun -n "$ranks" "$STEMMA" bench \
        --out "$results/$name.json" bench.repeats="$repeats" "$@" < /dev/null || exit 1
}

# cell NAME COLUMN ROW: a number of results/NAME.csv; the first row is 1.
cell() {
    awk -F, -v name="$2" -v row="$3" 'NR == 1 { for (i = 1; i <= NF; i++) if ($i == name) c = i; next }
        NR == row + 1 { print $c }' "$results/$1.csv"
}

# guard WORDS VALUE LEAST: says whether a ratio is reached.
guard() {
    if awk -v v="$2" -v l="$3" 'BEGIN { exit !(v >= l) }'; then
        printf 'reached: %s: %.3f, at least %s wanted\n' "$1" "$2" "$3"
    else
        printf 'MISSED:  %s: %.3f, at least %s wanted\n' "$1" "$2" "$3"
        missed=1
    fi
}

ratio() { awk -v a="$1" -v b="$2" 'BEGIN { printf "%.6f\n", a / b }'; }

# The best repeats are compared: noise only ever adds time.
update() {
    bench 1 2 update
    guard "update, share of a GEMM" "$(ratio "$(cell update flop_per_s 1)" "$(cell update gemm_flop_per_s 1)")" 0.75
    guard "tree against repeated, share of the FLOP ratio" \
        "$(ratio "$(ratio "$(cell update best_s 3)" "$(cell update best_s 1)")" \
            "$(ratio "$(cell update flops 3)" "$(cell update flops 1)")")" 0.9
}

long() {
    bench 1 2 long bench.prompt=4096 bench.answer=128 bench.group_size=16 'bench.forwards=[tree, prompt]'
    guard "long prompt, share of a GEMM" "$(ratio "$(cell long flop_per_s 1)" "$(cell long gemm_flop_per_s 1)")" 0.75
}

ranks() {
    local groups least
    for groups in 4 1; do
        bench 1 1 "ranks-1-groups-$groups" bench.groups=$groups bench.prompt=1024 bench.answer=128 bench.forwards=tree
        bench 2 1 "ranks-2-groups-$groups" bench.groups=$groups bench.prompt=1024 bench.answer=128 bench.forwards=tree
        least=1.8
        [ $groups = 4 ] || least=1.35
        guard "two ranks against one, groups: $groups" \
            "$(ratio "$(cell "ranks-1-groups-$groups" best_s 1)" "$(cell "ranks-2-groups-$groups" best_s 1)")" $least
    done
}

# Shapes that sharing has little to give to must not pay for it.
corners() {
    local name words
    while read -r name words; do
        bench 1 2 "corner-$name" $words bench.forwards=[tree,repeated]
        guard "tree against repeated, $name" \
            "$(ratio "$(cell "corner-$name" best_s 2)" "$(cell "corner-$name" best_s 1)")" 0.98
    done << 'END'
single bench.group_size=1 bench.prompt=1024 bench.answer=256
one-token bench.prompt=1 bench.answer=256
long-answers bench.prompt=64 bench.answer=512
many-small bench.groups=32 bench.prompt=16 bench.answer=8 bench.group_size=4
END
}

# With chunks that the smallest group fills: up to there a larger group fills its chunk, and none grows after it.
memory() {
    bench 1 2 memory bench.group_size=[4,16,64] bench.prompt=1024 bench.answer=64 bench.forwards=tree memory.chunk_tokens=256
    guard "memory with 4 answers against 64" "$(ratio "$(cell memory peak_bytes 1)" "$(cell memory peak_bytes 3)")" 0.97
    bench 1 2 recompute bench.prompt=16384 bench.answer=64 bench.group_size=4 bench.forwards=tree memory.recompute=always \
        memory.chunk_tokens=1024
}

decode() {
    bench 1 2 decode-512 bench.groups=8 bench.prompt=512 bench.forwards=decode
    bench 1 2 decode-32 bench.groups=8 bench.prompt=32 bench.forwards=decode
}

sweep() { bench 1 2 sweep bench.sweep=true; }

for name in "${@:-}"; do
    case ${name:-all} in
    all) update && long && ranks && corners && memory && decode ;;
    update | long | ranks | corners | memory | decode | sweep) "$name" ;;
    *)
        printf '%s: unknown; expected update, long, ranks, corners, memory, decode or sweep\n' "$name" >&2
        exit 2
        ;;
    esac
done
exit $missed
