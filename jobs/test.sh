#!/usr/bin/env bash
# Installs what is missing, builds, and runs every test.
#
#   bash jobs/test.sh [words of ctest, such as -R engine]
cd "$(dirname "$0")/.."
. jobs/common.sh
begin=$(seconds)

need $build_packages $test_packages $plot_packages
mpi_environment
if command -v clang-format > /dev/null && clang-format --version | grep -q 'version 14'; then
    git ls-files '*.c' '*.h' '*.inc' | xargs clang-format --dry-run --Werror ||
        die "the files above are not formatted: clang-format -i FILE"
fi
build build/test -DCMAKE_BUILD_TYPE=Release -DSTEMMA_WERROR=ON
say "built in $(($(seconds) - begin)) s"

failed=""
# part NAME FOLDER WORDS..: one ctest run, its summary, its time.
part() {
    local name=$1 folder=$2 start code=0
    shift 2
    start=$(seconds)
    ctest --test-dir "$folder" --output-on-failure -j2 "$@" > "$folder-$name.log" 2>&1 || code=$?
    grep -E 'tests passed|No tests were found' "$folder-$name.log" | sed "s/^/$name: /" || true
    say "$name: $(($(seconds) - start)) s"
    if [ $code != 0 ]; then
        sed -n '/tests FAILED/,$p' "$folder-$name.log" >&2
        failed="$failed $folder-$name.log"
    fi
}

part unit build/test -L 'unit|parity' "$@"
part ranks build/test -L mpi "$@"
part system build/test -L system "$@"
build build/sanitize -DCMAKE_BUILD_TYPE=RelWithDebInfo -DSTEMMA_SANITIZE=ON -DSTEMMA_WERROR=OFF
part sanitizers build/sanitize -L 'unit|parity' "$@"

say "all of it: $(($(seconds) - begin)) s"
[ -z "$failed" ] || die "tests failed; see$failed"
say "every test passed"
