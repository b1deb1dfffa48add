#!/usr/bin/env bash
# The programs of tests/mpi with a second MPI, which buffers and orders messages in its own way: built with MPICH beside
# the Open MPI that the rest uses. Skipped where MPICH is not installed.
. "$(dirname "$0")/common.sh"

skip() {
    say "skipped: $*"
    exit 77
}

compiler=$(command -v mpicc.mpich) || skip "no MPICH (Debian: libmpich-dev)"
mpiexec=$(command -v mpiexec.mpich) || skip "no mpiexec.mpich (Debian: mpich)"
hdf5=$(command -v h5pcc.mpich) || skip "no HDF5 for MPICH (Debian: libhdf5-mpich-dev)"

programs="mpi_layouts mpi_overlap mpi_relay mpi_window mpi_rollout mpi_traffic"
# Where test.sh builds, a folder that stays: the second time nothing is built.
build=$PWD/mpich
if ! { cmake -S "$tests/.." -B "$build" -G Ninja -DCMAKE_BUILD_TYPE=Release -DMPI_C_COMPILER="$compiler" \
    -DMPIEXEC_EXECUTABLE="$mpiexec" -DHDF5_C_COMPILER_EXECUTABLE="$hdf5" &&
    cmake --build "$build" -j 2 --target $programs stemma; } > "$work/build.log" 2>&1; then
    die "building with MPICH: $(grep -E -A8 'error:|Error|FAILED' "$work/build.log" | head -n 30)"
fi
ldd "$build/bin/mpi_layouts" | grep -q libmpich || die "not MPICH: $(ldd "$build/bin/mpi_layouts")"
! ldd "$build/bin/mpi_layouts" | grep -q 'libmpi\.so' || die "Open MPI, too: $(ldd "$build/bin/mpi_layouts")"

# on RANKS PROGRAM [TEST..]: all of them pass.
on() {
    timeout 100 "$mpiexec" -n "$1" "$build/bin/$2" "${@:3}" > "$work/out" 2> "$work/err" < /dev/null ||
        die "${*:2} on $1 ranks: exit code $?: $(tail -n 20 "$work/out" "$work/err")"
    grep -q "^ok .*($1 rank" "$work/out" || die "${*:2} on $1 ranks: no test ran: $(cat "$work/out")"
}

# MPICH's waits never yield: with more ranks than cores every message costs a slice of time.
for program in $programs; do on 2 "$program"; done
say "$programs: two ranks"
on 3 mpi_layouts a_tied_model_gives_the_same
on 4 mpi_layouts float32_gives_the_same_to_its_own_tolerance
say "layouts of three and four ranks"
STEMMA_TEST_SYNCHRONOUS=1 on 2 mpi_layouts
STEMMA_TEST_SYNCHRONOUS=1 on 3 mpi_layouts a_tied_model_gives_the_same
say "the same without hidden buffers"
STEMMA=$build/bin/stemma MPIRUN=$mpiexec bash "$tests/system/faults.sh" brief || die "ranks that fail, under MPICH"
