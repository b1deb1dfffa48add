#!/usr/bin/env bash
# Measures the shapes that the project's figures are about, keeps what it finds in tests/bench/results/NAME.json with the
# machine's description, and holds ratios within this one run against what they should be.
#
#   STEMMA=build/release/bin/stemma [PYTHON=..] [REPEATS=3] bash tests/bench/run.sh [PART ..]
#
# Without a part: all but `sweep`, which takes about 25 minutes on 2 cores that have nothing else to do. A part can be
# measured again by name; the others' results stay. The comparisons with PyTorch and transformers need PYTHON, a Python
# that has them. Exits with 1 when a ratio is not reached or a measurement fails; the parts after it still run.
set -u
: "${STEMMA:?expected the path of the program}"
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
export OMPI_MCA_rmaps_base_oversubscribe=1 OMPI_MCA_hwloc_base_binding_policy=none
here=$(cd "$(dirname "$0")" && pwd)
results=$here/results
parts="update long bfloat16 torch ranks corners memory decode generate io growth"
repeats=${REPEATS:-3}
missed=0

# bench RANKS THREADS NAME WORDS..: measures into results/NAME.json. WORDS may repeat a word: the last one counts.
bench() {
    local ranks=$1 threads=$2 name=$3
    shift 3
    printf '\n== %s: %s x %s threads, %s\n' "$name" "$ranks" "$threads" "$*"
    rm -f "$results/$name.json" "$results/$name.csv"
    OMP_NUM_THREADS=$threads OPENBLAS_NUM_THREADS=$threads mpirun -n "$ranks" "$STEMMA" bench \
        --out "$results/$name.json" "$@" < /dev/null && return
    printf 'FAILED:  %s\n' "$name"
    missed=1
    return 1
}

# cell NAME COLUMN ROW: a number of results/NAME.csv; the first row is 1. Nothing where there is none.
cell() {
    [ ! -e "$results/$1.csv" ] || awk -F, -v name="$2" -v row="$3" '
        NR == 1 { for (i = 1; i <= NF; i++) if ($i == name) c = i; next }
        NR == row + 1 && c { print $c }' "$results/$1.csv"
}

ratio() { awk -v a="$1" -v b="$2" 'BEGIN { if (a > 0 && b > 0) printf "%.6f\n", a / b }'; }

# guard WORDS VALUE LEAST [AIM]: says whether a ratio is reached. No value: it could not be measured.
guard() {
    local verdict=MISSED
    if [ -n "$2" ] && awk -v v="$2" -v l="$3" 'BEGIN { exit !(v >= l) }'; then verdict=reached; else missed=1; fi
    printf '%-8s %s: %.3f, at least %s wanted%s\n' "$verdict:" "$1" "${2:-0}" "$3" "${4:+, $4 the aim}"
}

tell() { printf 'so:      %s: %.3f\n' "$1" "${2:-0}"; }

# share NAME ROW: of the GEMM rate. The best repeats are compared, as everywhere here: noise only ever adds time.
share() { ratio "$(cell "$1" flop_per_s "$2")" "$(cell "$1" gemm_flop_per_s "$2")"; }

# of_flops NAME ROW: how much of its FLOPs' ratio to the first row a row's time shows.
of_flops() { ratio "$(cell "$1" to_first "$2")" "$(ratio "$(cell "$1" flops "$2")" "$(cell "$1" flops 1)")"; }

update() {
    bench 1 2 update bench.repeats="$repeats" 'bench.forwards=[tree, prompt, repeated]' || return
    guard "update, share of a GEMM" "$(share update 1)" 0.75 0.8
    guard "tree against repeated, share of the FLOP ratio" "$(of_flops update 3)" 0.9
}

long() {
    bench 1 2 long bench.repeats="$repeats" bench.prompt=4096 bench.answer=128 bench.group_size=16 bench.forwards=tree ||
        return
    guard "long prompt, share of a GEMM" "$(share long 1)" 0.75 0.8
}

bfloat16() {
    bench 1 2 bfloat16-beside bench.repeats="$repeats" bench.forwards=tree || return
    bench 1 2 bfloat16 --precision bfloat16 bench.repeats="$repeats" bench.forwards=tree || return
    guard "bfloat16 against float32" "$(ratio "$(cell bfloat16-beside best_s 1)" "$(cell bfloat16 best_s 1)")" 2
    tell "bfloat16, share of a GEMM in bfloat16" "$(share bfloat16 1)"
}

# has_python MODULE: whether PYTHON has it; says so where not.
has_python() {
    [ -n "${PYTHON:-}" ] && "$PYTHON" -c "import $1" 2> /dev/null && return
    printf '\nnot compared: %s (PYTHON=%s has no %s)\n' "$2" "${PYTHON:-}" "$1"
    return 1
}

# best FILE KIND: the least of "seconds" in the lines of that kind.
best() {
    "$PYTHON" -c 'import json, sys
lines = [line.split(" ", 1) for line in open(sys.argv[1])]
print(min(s for kind, text in lines if kind == sys.argv[2] for s in json.loads(text)["seconds"]))' "$results/$1" "$2"
}

# against_torch NAME LEAST AIM "WORDS for stemma" "WORDS for both": rounds of all in turn, so that each has the same moments.
against_torch() {
    local name=torch-$1 least=$2 aim=$3 ours=$4 round variant
    shift 4
    : > "$results/$name.txt"
    for ((round = 1; round <= repeats; round++)); do
        for variant in plain tuned; do
            printf '%s %s\n' "$variant" \
                "$("$PYTHON" "$here/prefix_grouper.py" variant=$variant repeats=1 threads=2 ${ours:+precision=bfloat16} "$@")" |
                tee -a "$results/$name.txt"
        done
        bench 1 2 "$name" ${ours:+--precision bfloat16} bench.repeats=2 bench.forwards=tree "${@/#/bench.}" || return
        printf 'stemma {"seconds": [%s]}\n' "$(cell "$name" best_s 1)" >> "$results/$name.txt"
    done
    guard "$name: PyTorch's time to stemma's" "$(ratio "$(best "$name.txt" plain)" "$(best "$name.txt" stemma)")" "$least" "$aim"
    tell "$name: the same, PyTorch tuned" "$(ratio "$(best "$name.txt" tuned)" "$(best "$name.txt" stemma)")"
}

torch() {
    has_python torch "PrefixGrouper in PyTorch" || return
    against_torch update 1.4 1.5 "" prompt=2048 answer=256 group_size=8
    against_torch long 2 2.5 "" prompt=4096 answer=128 group_size=16
    against_torch bfloat16 1.5 2 bfloat16 prompt=2048 answer=256 group_size=8
}

ranks() {
    local groups n
    for groups in 4 1; do
        for n in 1 2; do
            bench $n 1 "ranks-$n-groups-$groups" bench.repeats="$repeats" bench.groups=$groups bench.prompt=1024 \
                bench.answer=128 bench.forwards=tree
        done
    done
    guard "two ranks against one, 4 groups" "$(ratio "$(cell ranks-1-groups-4 best_s 1)" "$(cell ranks-2-groups-4 best_s 1)")" 1.8
    guard "two ranks against one, 1 group" "$(ratio "$(cell ranks-1-groups-1 best_s 1)" "$(cell ranks-2-groups-1 best_s 1)")" 1.35
}

# Shapes that sharing has little to give to must not pay for it. They are short, so that more turns cost little.
corners() {
    local name words
    while read -r name words; do
        bench 1 2 "corner-$name" bench.repeats=$((2 * repeats + 1)) $words bench.forwards=[tree,repeated] || continue
        guard "tree against repeated, $name" "$(cell "corner-$name" to_first 2)" 0.98
        guard "    share of the FLOP ratio" "$(of_flops "corner-$name" 2)" 0.9
    done << 'END'
single bench.group_size=1 bench.prompt=1024 bench.answer=256
one-token bench.prompt=1 bench.answer=256
long-answers bench.prompt=64 bench.answer=512 bench.group_size=4
many-small bench.groups=32 bench.prompt=16 bench.answer=8 bench.group_size=4
END
}

memory() {
    bench 1 2 memory bench.repeats=1 bench.group_size=[4,16,64] bench.forwards=tree &&
        guard "memory with 4 answers against 64" "$(ratio "$(cell memory peak_bytes 1)" "$(cell memory peak_bytes 3)")" 0.97
    bench 1 2 recompute bench.repeats=1 bench.prompt=16384 bench.answer=64 bench.group_size=4 bench.forwards=tree \
        memory.recompute=always || return
    printf 'a prompt of 16384 tokens: %.1f MiB held; by the memory model (weights, gradient, K, V, dK, dV, one piece) %.1f MiB\n' \
        "$(cell recompute peak_bytes 1 | awk '{ print $1 / 1048576 }')" \
        "$(cell recompute recompute_bytes 1 | awk '{ print $1 / 1048576 }')"
    guard "memory by the model to memory held" \
        "$(ratio "$(cell recompute recompute_bytes 1)" "$(cell recompute peak_bytes 1)")" 0.952
}

decode() {
    local groups
    for groups in 1 2 4 8; do
        bench 1 2 "decode-small-$groups" bench.repeats="$repeats" bench.groups=$groups bench.group_size=1 bench.prompt=512 \
            bench.answer=64 bench.forwards=decode || continue
        guard "decoding $groups rows, share of the memory's bandwidth" "$(cell "decode-small-$groups" read_share 1)" 0.7
    done
    bench 1 2 decode-large bench.repeats="$repeats" bench.groups=32 bench.prompt=32 bench.answer=64 bench.forwards=decode \
        rollout.slots=256 && tell "decoding 256 rows, share of a GEMM" "$(share decode-large 1)"
}

generate() {
    local prompt least
    has_python transformers "generate of transformers" || return
    while read -r prompt least; do
        bench 1 2 "generate-$prompt" bench.repeats=2 bench.groups=8 bench.prompt="$prompt" bench.forwards=decode || continue
        printf 'transformers %s\n' "$("$PYTHON" "$here/generate.py" prompt="$prompt" threads=2 repeats=1 < /dev/null)" |
            tee "$results/generate-$prompt.txt"
        guard "generate's time to stemma's, prompts of $prompt" \
            "$(ratio "$(best "generate-$prompt.txt" transformers)" "$(cell "generate-$prompt" best_s 1)")" "$least"
    done << 'END'
512 3
32 2
END
}

# Checkpoints and models against plain writes and reads of as many bytes, in turns on the disk that holds TMPDIR.
io() {
    local ranks folder found name least
    folder=$(mktemp -d) || return
    : > "$results/io.txt"
    for ranks in 1 2; do
        printf '\n== io: %s x %s threads\n' $ranks $((2 / ranks))
        printf '%s ranks of %s threads\n' $ranks $((2 / ranks)) >> "$results/io.txt"
        OMP_NUM_THREADS=$((2 / ranks)) mpirun -n $ranks "$(dirname "$STEMMA")/bench_io" "$folder/io" "${IO_MB:-256}" \
            "$repeats" < /dev/null | tee -a "$results/io.txt"
        while read -r least name; do
            found=$(tail -n 11 "$results/io.txt" | awk -v name="$name" 'index($0, name) == 1 { print $NF }')
            guard "$name, $ranks x $((2 / ranks)) threads, share of plain" "$found" "$least"
        done << 'END'
0.8 save a checkpoint
0.8 load a checkpoint, cold
0.7 load float32 model, cold
0.7 load bfloat16 model, cold
END
    done
    rm -rf "$folder"
}

# How cost grows, with the model's prediction over it: results/growth.png, over ranks too where `ranks` has run.
growth() {
    bench 1 2 growth-size bench.repeats=2 bench.limit_s=40 bench.answer=128 'bench.group_size=[1, 2, 4, 8, 16, 32]' \
        'bench.forwards=[tree, repeated]'
    bench 1 2 growth-prompt bench.repeats=2 bench.limit_s=40 bench.answer=128 \
        'bench.prompt=[256, 512, 1024, 2048, 4096, 8192]' 'bench.forwards=[tree, repeated]'
    if command -v gnuplot > /dev/null; then
        gnuplot -e "folder = '$results'" "$here/growth.gnuplot" || missed=1
    else
        printf 'no plot: there is no gnuplot\n'
    fi
}

# The grid of prompts, ratios and group sizes; what is expected to take longer than LIMIT_S is left out.
sweep() { bench 1 2 sweep bench.sweep=true bench.repeats=1 bench.limit_s="${LIMIT_S:-15}" 'bench.forwards=[tree, repeated]'; }

mkdir -p "$results"
for part in "${@:-all}"; do
    case " $parts sweep all " in
    *" $part "*) ;;
    *)
        printf '%s: unknown; expected %s, sweep or all\n' "$part" "${parts// /, }" >&2
        exit 2
        ;;
    esac
done
for part in "${@:-all}"; do
    [ "$part" = all ] && part=$parts
    for each in $part; do "$each"; done
done
exit $missed
