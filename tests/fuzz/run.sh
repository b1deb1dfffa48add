#!/bin/bash
# tests/fuzz/run.sh TARGET SECONDS: fuzzes one parser; builds with clang into $BUILD (build/fuzz) where that is not done.
# What it learns stays in $BUILD/learned/TARGET; what it finds is written to $BUILD/found, and it exits non-zero.
set -eu
[ $# -eq 2 ] || { echo "usage: $0 TARGET SECONDS" >&2; exit 2; }
here=$(cd "$(dirname "$0")" && pwd)
target=$1 seconds=$2 build=${BUILD:-$here/../../build/fuzz}
[ -d "$here/corpus/$target" ] || { echo "$0: no target $target; there are: $(ls "$here/corpus" | xargs)" >&2; exit 2; }
[ -f "$build/build.ninja" ] || CC=clang cmake -S "$here/../.." -B "$build" -G Ninja -DSTEMMA_FUZZ=ON -DSTEMMA_CUDA=OFF \
    -DSTEMMA_ONEDNN=OFF > /dev/null
ninja -C "$build" "fuzz_$target" > /dev/null
mkdir -p "$build/learned/$target" "$build/found"
export OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
case $target in
checkpoint) leaks=0 ;; # MPI's own
*) leaks=1 ;;
esac
export ASAN_OPTIONS=detect_leaks=$leaks # libFuzzer does not look then, but the sanitizer at the end would
exec "$build/bin/fuzz_$target" -max_total_time="$seconds" -timeout=10 -rss_limit_mb=2048 -max_len=8192 \
    -detect_leaks=$leaks -artifact_prefix="$build/found/$target-" -print_final_stats=1 \
    "$build/learned/$target" "$here/corpus/$target"
