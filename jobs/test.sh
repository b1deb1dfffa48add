#!/usr/bin/env bash
# Installs what is missing, builds, and runs every test; the unit tests a second time under sanitizers.
#
#   bash jobs/test.sh [words of ctest, such as -R engine]
cd "$(dirname "$0")/.."
. jobs/common.sh
begin=$(seconds)

need "${build_packages[@]}" "${tool_packages[@]}" "${test_packages[@]}"
mpi_environment
if command -v clang-format > /dev/null && clang-format --version | grep -q 'version 14'; then
    find src cuda mpi tests -name '*.[ch]' -o -name '*.inc' -o -name '*.cu' -o -name '*.cuh' -o -name '*.cpp' | xargs clang-format --dry-run --Werror ||
        die "the files above are not formatted: clang-format -i FILE"
fi

# timed NAME WORDS..: runs them and prints what they took.
timed() {
    local name=$1 start
    start=$(seconds)
    shift
    "$@"
    say "$name: $(($(seconds) - start)) s"
}

failed=""
# part NAME FOLDER WORDS..: one ctest run and its summary. Tests that are skipped are named; of those that fail, what
# they printed last is shown, too, for whoever cannot read the log on the machine that ran them.
part() {
    local name=$1 folder=$2 log=$2-$1.log code=0
    shift 2
    ctest --test-dir "$folder" --output-on-failure -j2 "$@" > "$log" 2>&1 || code=$?
    grep -E 'tests passed|No tests were found' "$log" | sed "s/^/$name: /" || true
    sed -n '/did not run:/,/^$/p' "$log"
    if [ $code != 0 ]; then
        sed -n '/tests FAILED/,$p' "$log" >&2
        awk '/^ *[0-9]+\/[0-9]+ Test .*\*\*\*/ { shown = !/Skipped/ } /^ +Start +[0-9]+: / { shown = 0 } shown' "$log" | tail -n 60 >&2
        failed="$failed $log"
    fi
}

timed build build build/test -DCMAKE_BUILD_TYPE=Release -DSTEMMA_WERROR=ON
timed unit part unit build/test -L 'unit|parity' "$@"
timed ranks part ranks build/test -L mpi "$@"
timed system part system build/test -L system "$@"
timed "sanitizers, build" build build/sanitize -DCMAKE_BUILD_TYPE=RelWithDebInfo -DSTEMMA_SANITIZE=ON -DSTEMMA_WERROR=OFF -DSTEMMA_CUDA=OFF
timed sanitizers part sanitizers build/sanitize -L 'unit|parity' "$@"

say "all of it: $(($(seconds) - begin)) s"
[ -z "$failed" ] || die "tests failed; what they printed is in$failed"
say "every test passed"
