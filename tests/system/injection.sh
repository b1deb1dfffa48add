#!/bin/bash
# The N-th write, fsync, rename or reservation of a save fails, or the N-th allocation of a run: the run goes on with one
# warning (or, without memory, ends with one message), the older checkpoint stays whole, the next save succeeds, and what
# goes on from there has the bits of a run that nothing disturbed. `injection.sh all`: each N, for the soak; else some.
# `injection.sh all FIRST [LAST]`: of that only the allocations FIRST to LAST on two ranks, to go on where one was ended.
. "$(dirname "$0")/common.sh"
cd "$work" || exit 1
. "$tests/support/toy.sh"
extent=${1:-some} first=${2:-} last=${3:-}

lacks() {
    [ "${STEMMA_REQUIRE:-0}" != 1 ] || die "$*"
    say "skipped: $*"
    exit 77
}
command -v strace > /dev/null || lacks "no strace (Debian: strace)"
strace -f -o trace true 2> err || lacks "processes may not be traced here: $(cat err)"

input run.yaml run 6 'checkpoint: { every: 2, keep: 9 }\nparallel: { machine: none }\n'
declare -A whole=([0]=whole.0 [2]=whole.2)
for ranks in 0 2; do
    succeeds $ranks "$STEMMA" train run.yaml
    mv run ${whole[$ranks]}
done

# traced RANK WORDS..: runs them; the calls of the rank are counted and failed as $inject says, on the paths of $paths.
cat > traced.sh << 'END'
[ "${OMPI_COMM_WORLD_RANK:-0}" = "$1" ] || exec "${@:2}"
exec strace -f --seccomp-bpf -o trace $paths $inject "${@:2}"
END
export paths inject

# What a save of step 4 touches, as strace compares it: as it is named, and as the system names an open file.
for path in run/checkpoints/.step-00000004.h5.partial run/checkpoints/step-00000004.h5; do
    paths="${paths:-} -P $path -P $work/$path"
done
file_paths=$paths
folder_paths="-P run/checkpoints -P $work/run/checkpoints"

# fails RANKS RANK CALL N ERROR [WORDS..]: a run whose save of step 4 meets that. False where there is no N-th call.
fails() {
    local ranks=$1 rank=$2 call=$3 n=$4 error=$5 what="$3 $4 of rank $2 ($1 ranks) fails with $5"
    inject="--trace=$call --inject=$call:error=$error:when=$n"
    [ "$call" != ftruncate ] || inject="--trace=fallocate,ftruncate --inject=fallocate:error=EOPNOTSUPP --inject=$call:error=$error:when=$n"
    rm -rf run trace
    succeeds "$ranks" bash traced.sh "$rank" "$STEMMA" train run.yaml "${@:6}"
    grep -q "^[0-9 ]*$call(.*(INJECTED)" trace || return 1
    [ "$(grep -c '^warning: ' out)" = 1 ] && grep -q '^warning: the checkpoint is not saved: ' out || die "$what: $(cat out)"
    [ -z "$(find run -name '*.partial')" ] || die "$what: left over: $(ls -A run/checkpoints)"
    # Where the folder alone was not synced, the file has its name already.
    [ "$paths" = "$folder_paths" ] || [ ! -e "$(checkpoint run 4)" ] || die "$what: there is a checkpoint of step 4"
    # Beside the steps it is only known later.
    [ -f "$(checkpoint run 5)" ] || [ $# -gt 5 ] || die "$what: the save was not tried again after the next step: $(ls -A run/checkpoints)"
    same_state "$(checkpoint "${whole[$ranks]}" 6)" "$(checkpoint run 6)" "$what"
    # As if it had been killed then: the older one serves.
    rm -f run/DONE "$(checkpoint run 6)" "$(checkpoint run 5)" "$(checkpoint run 4)"
    succeeds "$ranks" "$STEMMA" train run.yaml
    grep -q 'going on from run/checkpoints/step-00000002.h5' out && ! grep -q refused out || die "$what: $(cat out)"
    same_state "$(checkpoint "${whole[$ranks]}" 6)" "$(checkpoint run 6)" "$what, and the run goes on from step 2"
    n_failed=$((n_failed + 1))
}

errors=(EIO ENOSPC EDQUOT)
n_failed=0
failing_calls() {
    if [ "$extent" = all ]; then
        for who in '0 0' '2 0' '2 1'; do
            for call in pwrite64 fsync rename fallocate ftruncate; do
                for ((n = 1; ; n++)); do
                    # shellcheck disable=SC2086
                    fails $who $call $n "${errors[n % 3]}" || break
                done
            done
        done
    else
        fails 0 0 pwrite64 1 ENOSPC
        fails 0 0 pwrite64 40 EIO checkpoint.async=true
        fails 0 0 fsync 2 EIO
        fails 0 0 rename 1 EIO
        fails 0 0 fallocate 2 EDQUOT
        fails 0 0 ftruncate 1 ENOSPC
        fails 2 1 pwrite64 7 EDQUOT
    fi
    paths=$folder_paths
    fails 0 0 fsync 2 EIO # the second save's
    say "$n_failed failures of a call in a save: one warning, the older checkpoint whole, the next save good, the bits the same"
}
[ -n "$first" ] || failing_calls

# The N-th allocation of stemma itself, and all that follow where FROM is set: what MPI or HDF5 make of theirs is their own

cat > scarce.c << 'END'
#define _GNU_SOURCE
#include <elf.h>
#include <errno.h>
#include <link.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <unistd.h>

void *__libc_malloc(size_t), *__libc_calloc(size_t, size_t), *__libc_realloc(void *, size_t);

static uintptr_t first, last; /* the program's own code */
static long fails_at, goes_on;
static pid_t self;
static atomic_long count;

__attribute__((constructor)) static void begin(void)
{
    if (strcmp(program_invocation_short_name, "stemma") != 0)
        return;
    const ElfW(Phdr) *header = (const ElfW(Phdr) *)getauxval(AT_PHDR);
    const uintptr_t base = (uintptr_t)header - header[0].p_vaddr; /* the first is PT_PHDR */
    for (unsigned long i = 0; i < getauxval(AT_PHNUM); i++)
        if (header[i].p_type == PT_LOAD && (header[i].p_flags & PF_X)) {
            first = base + header[i].p_vaddr;
            last = first + header[i].p_memsz;
        }
    fails_at = getenv("FAILS_AT") ? atol(getenv("FAILS_AT")) : 0;
    goes_on = getenv("FROM") && *getenv("FROM");
    self = getpid();
}

static int fails(void *caller)
{
    if ((uintptr_t)caller < first || (uintptr_t)caller >= last || getpid() != self)
        return 0;
    const long n = ++count;
    if (n == fails_at && write(2, "injected\n", 9) != 9)
        abort();
    if (fails_at == 0 || n < fails_at || (n > fails_at && !goes_on))
        return 0;
    errno = ENOMEM;
    return 1;
}

__attribute__((destructor)) static void end(void)
{
    if (first && getpid() == self && fails_at == 0)
        fprintf(stderr, "%ld allocations\n", atomic_load(&count));
}

#define CALLER __builtin_return_address(0)
void *malloc(size_t n) { return fails(CALLER) ? NULL : __libc_malloc(n); }
void *calloc(size_t n, size_t bytes) { return fails(CALLER) ? NULL : __libc_calloc(n, bytes); }
void *realloc(void *p, size_t n) { return fails(CALLER) ? NULL : __libc_realloc(p, n); }
END
${CC:-cc} -shared -fPIC -o scarce.so scarce.c || die "scarce.c is not compiled"

cat > scarce.sh << 'END'
[ "${OMPI_COMM_WORLD_RANK:-0}" != "$1" ] || export LD_PRELOAD=$PWD/scarce.so
exec "${@:2}"
END
# scarce RANKS RANK: a run that goes on from step 2, as its rank is told by FAILS_AT and FROM.
scarce() {
    local launcher=
    [ "$1" = 0 ] || launcher="$MPIRUN -n $1"
    rm -rf run && cp -r start run
    timeout 60 $launcher bash scarce.sh "$2" "$STEMMA" train run.yaml > out 2> err < /dev/null
    code=$?
}
# starved RANKS RANK N [FROM]: without the N-th allocation (and all later ones) it ends as it should. False: there is none.
starved() {
    local what="without allocation $3${4:+ and those that follow} on rank $2 ($1 ranks)"
    FAILS_AT=$3 FROM=${4:-} scarce "$1" "$2"
    grep -q '^injected$' err || return 1
    case $code in
    0) # only a save failed, or what may be left out
        ! grep -q '^stemma: ' err && [ -f run/DONE ] || die "$what: exit code 0: $(cat out err)"
        same_state "$(checkpoint "${whole[$1]}" 6)" "$(checkpoint run 6)" "$what" ;;
    1) [ "$(grep -c '^stemma: ' err)" = 1 ] && grep -q '^stemma: .*out of memory' err || die "$what: $(cat err)" ;;
    *) die "$what: exit code $code: $(cat err)" ;;
    esac
    "$STEMMA" inspect "$(checkpoint run 2)" > inspected 2>&1 || die "$what: $(cat inspected)"
    n_starved=$((n_starved + 1))
}

n_starved=0
[ -n "$first" ] && starving=('2 1') || starving=('0 0' '2 1')
for who in "${starving[@]}"; do
    ranks=${who% *} rank=${who#* }
    cp -r "${whole[$ranks]}" start && rm start/DONE "$(checkpoint start 4)" "$(checkpoint start 6)"
    FAILS_AT=0 scarce "$ranks" "$rank"
    n_allocations=$(sed -n 's/^\([0-9]*\) allocations$/\1/p' err)
    [ $code = 0 ] && [ "$n_allocations" -gt 100 ] || die "allocations are not counted: exit code $code: $(cat err)"
    stride=$((n_allocations / (ranks ? 3 : 8)))
    [ "$extent" != all ] || stride=1
    for ((n = ${first:-stride / 2 + 1}; n <= ${last:-n_allocations}; n += stride)); do
        starved "$ranks" "$rank" $n || die "there is no allocation $n of $n_allocations"
        [ $((n / stride % 4)) != 1 ] || starved "$ranks" "$rank" $n from
    done
    rm -r start
done
say "$n_starved of stemma's allocations failed, or all from one on: one message and exit 1, or no more than a save lost"
