#!/usr/bin/env bash
# Builds stemma and puts it below PREFIX, without root and without network: what it needs comes from modules, Spack
# (jobs/spack.yaml) or the system. Load or activate these first; their places go into the program, so that it finds them.
#
#   bash jobs/install.sh PREFIX [CMAKE OPTION ..]        for example ~/.local -DSTEMMA_NATIVE=OFF
cd "$(dirname "$0")/.."
. jobs/common.sh
prefix=${1:?expected a folder to install into: bash jobs/install.sh PREFIX [CMAKE OPTION ..]}
shift
case $prefix in /*) ;; *) prefix=$OLDPWD/$prefix ;; esac
mkdir -p "$prefix" && [ -w "$prefix" ] || die "$prefix: cannot be written to"
for tool in cmake ninja pkg-config mpicc; do
    command -v $tool > /dev/null || die "no $tool in PATH: load the modules that bring it, or activate jobs/spack.yaml"
done

build build/install -DCMAKE_BUILD_TYPE=Release -DSTEMMA_TESTS=OFF -DCMAKE_INSTALL_RPATH_USE_LINK_PATH=ON \
    -DCMAKE_INSTALL_PREFIX="$prefix" "$@"
cmake --install build/install > build/install.log || die "build/install.log: $(tail -n 3 build/install.log)"
"$prefix/bin/stemma" --version > /dev/null || die "$prefix/bin/stemma does not run"
say "$prefix/bin/stemma is there. In a batch script:
  export PATH=$prefix/bin:\$PATH STEMMA_JOBS=$prefix/share/stemma/jobs
Scripts to copy: $prefix/share/stemma/jobs"
