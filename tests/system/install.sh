#!/bin/bash
# Building and installing: into a prefix; an HDF5 of another MPI is refused; the recipes name what there is and what is needed.
. "$(dirname "$0")/common.sh"
cd "$work" || exit 1
repository=$tests/..
built=$(dirname "$(dirname "$STEMMA")")

# Into a prefix

prefix=$work/prefix
cmake --install "$built" --prefix "$prefix" > install.txt 2>&1 || die "cmake --install: $(cat install.txt)"
"$prefix/bin/stemma" --version | grep -q '^stemma [0-9]' || die "the installed program does not run"
for script in batch slurm pbs lsf flux chain array; do
    [ -f "$prefix/share/stemma/jobs/$script.sh" ] || die "$script.sh is not installed: $(find "$prefix")"
done
[ ! -e "$prefix/share/stemma/jobs/test.sh" ] || die "what builds and tests is installed"
cp "$repository/inputs/plugin/vowels.c" . && cc -I"$prefix/include" -O2 -fPIC -shared -o vowels.so vowels.c > cc.txt 2>&1 ||
    die "a reward of one's own is not built with the installed header: $(cat cc.txt)"
say "program, header of rewards and batch scripts are installed into a prefix"

# Two MPIs

configure() { cmake -S "$repository" -B configured -G Ninja -DSTEMMA_TESTS=OFF "$@" > configure.txt 2>&1; }
words() { tr -s ' \n' ' ' < configure.txt; }
if command -v mpicc.mpich > /dev/null && command -v h5pcc.openmpi > /dev/null; then
    configure -DMPI_C_COMPILER=mpicc.mpich -DHDF5_C_COMPILER_EXECUTABLE="$(command -v h5pcc.openmpi)" &&
        die "an HDF5 of another MPI is taken: $(tail -n 3 configure.txt)"
    words | grep -q 'was built with another MPI: found libmpi.so.[0-9]*, expected one of libmpich.so' ||
        die "an HDF5 of another MPI: $(cat configure.txt)"
    # One that was built by CMake names a target of its own, and no file.
    mkdir -p cmake/hdf5 && cat > cmake/hdf5/hdf5-config.cmake << END
add_library(hdf5-shared SHARED IMPORTED)
set_target_properties(hdf5-shared PROPERTIES IMPORTED_LOCATION $(sed -n 's/^.*(\(.*\)) was built with another MPI.*/\1/p' <(words)))
set(HDF5_FOUND TRUE)
set(HDF5_VERSION_STRING 1.14.6)
set(HDF5_INCLUDE_DIR /usr/include)
set(HDF5_ENABLE_PARALLEL ON)
set(HDF5_C_SHARED_LIBRARY hdf5-shared)
END
    rm -r configured
    configure -DMPI_C_COMPILER=mpicc.mpich -DHDF5_ROOT="$work/cmake" -DHDF5_DIR="$work/cmake/hdf5" &&
        die "an HDF5 of another MPI is taken by its target: $(grep HDF5 configure.txt)"
    words | grep -q 'was built with another MPI: found libmpi.so.[0-9]*, expected one of libmpich.so' ||
        die "an HDF5 of another MPI, by its target: $(cat configure.txt)"
    say "an HDF5 that was built with another MPI is refused by name, one that CMake built, too"
fi

# Recipes

bash -n <(sed -n '/^%post/,/^%environment/{/^%/!p}' "$repository/jobs/stemma.def") || die "stemma.def: %post is no script"
root=$(cd "$repository" && pwd)
copied=$(sed -n '/^%files/,/^%post/s/^    \([^ ]*\) .*/\1/p' "$repository/jobs/stemma.def")
for path in $copied; do
    [ -e "$repository/$path" ] || die "stemma.def copies $path, which is not there"
done
# What the build of the program has read, and the installation reads.
{
    ninja -C "$built" -t deps | grep -v '^ninja'
    cat "$built/cmake_install.cmake"
} | tr ' ")' '\n' | grep "^$root/" | sed "s|^$root/||" | grep -v '^tests/\|^build/' | sort -u > needed
[ -s needed ] || die "no file that the build has read is found in $built"
while read -r path; do
    for folder in $copied; do
        case $path in "$folder" | "$folder"/*) continue 2 ;; esac
    done
    die "stemma.def does not copy $path, which the build reads"
done < needed
say "the image's recipe copies what there is, and what the build reads"

# Spack's: each library that the build asks for, and each spec one string (a word that ends in a colon is a map in YAML).
recipe=$repository/jobs/spack.yaml
sed -n '/^  specs:/,/^  [a-z]*:$/s/^    - //p' "$recipe" | sed '/^  specs:/d' > specs
! grep -E '^[^"].*:( |$)' specs || die "spack.yaml: expected quotes around a spec with a colon before a space or the end"
declare -A package=([MPI]=openmpi [HDF5]=hdf5 [BLAS]=openblas [PkgConfig]=pkgconf [jansson]=jansson [libpcre2-8]=pcre2
    [libutf8proc]=utf8proc [yaml-0.1]=libyaml [libxxhash]=xxhash [dnnl]=onednn [OpenMP]=the-compiler)
n=0
while read -r name; do
    [ -n "${package[$name]:-}" ] || die "CMakeLists.txt asks for $name: which package of Spack is that?"
    [ "${package[$name]}" = the-compiler ] || grep -qE "^\"?${package[$name]}([@ +~\"]|\$)" specs ||
        die "spack.yaml lacks ${package[$name]}, and the build asks for $name"
    n=$((n + 1))
done < <(sed -nE 's/^ *find_package\(([A-Za-z0-9]+) REQUIRED.*/\1/p; s/^ *pkg_check_modules\(.* ([^ ]+)\)$/\1/p; s/^ *find_library\([A-Z_]+ ([a-z]+)\)$/\1/p' "$repository/CMakeLists.txt")
[ $n -gt 9 ] || die "of what the build asks for, $n things were found in CMakeLists.txt"
say "Spack's recipe has the $n things that the build asks for"
