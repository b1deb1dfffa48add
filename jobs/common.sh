# jobs/common.sh: what quickstart.sh and test.sh share: packages, the build, the environment of MPI. To be sourced from
# the repository's root.
set -eu
export LC_ALL=C.UTF-8

# Debian 12's names.
build_packages=(
    gcc libc6-dev         # the compiler, OpenMP
    cmake ninja-build     # the build
    pkg-config            # finds the libraries below for CMake
    openmpi-bin           # mpirun
    libopenmpi-dev        # MPI: ranks and their messages
    libhdf5-openmpi-dev   # parallel HDF5: checkpoints, results of score and grad
    libopenblas-dev       # CBLAS: matrix products
    libdnnl-dev           # oneDNN: bfloat16 products; stemma builds without it, and refuses that precision
    libjansson-dev        # JSON: configurations, tokenizers, data
    libyaml-dev           # input files
    libpcre2-dev          # patterns of tokenizers, rewards by regular expression
    libutf8proc-dev       # Unicode normalisation of tokenizers
    libxxhash-dev         # hashes of checkpoints and start models
)
tool_packages=(
    hdf5-tools            # h5dump, h5diff: compare what runs wrote
    gnuplot-nox           # plots; stemma runs without it, and makes none
)
test_packages=(
    libcmocka-dev         # the frame of the unit tests
    g++                   # the kernels of cuda/, run on the host
    make                  # builds inputs/plugin as its users do
    python3               # the programs of inputs/calculator and inputs/forms
    procps                # pgrep: finds the ranks that a test kills
    iproute2              # ip, tc: virtual hosts
    strace                # what a run reads when it starts, and calls that fail
    libmpich-dev          # a second MPI, beside Open MPI: other orders of messages, other buffers
    libhdf5-mpich-dev     # and its HDF5
    slurmctld slurmd      # a Slurm of its own, for the batch scripts
    slurm-client munge    # sbatch, srun; what Slurm's parts know each other by
)

say() { printf '%s\n' "$*"; }

die() {
    printf '%s: %s\n' "$0" "$*" >&2
    exit 1
}

is_installed() { [ "$(dpkg-query -W -f '${db:Status-Status}' "$1" 2> /dev/null)" = installed ]; }

# need PACKAGE..: installs those that are not there. Without the right to install, or without network, names them.
# Where nothing is missing, nothing is asked of the network.
need() {
    local package missing=() root=()
    if ! command -v dpkg-query > /dev/null; then
        say "This is no Debian: expecting what these packages hold to be there: $*"
        return
    fi
    for package in "$@"; do
        is_installed "$package" || missing+=("$package")
    done
    [ ${#missing[@]} != 0 ] || return 0
    if [ "$(id -u)" != 0 ]; then
        root=(sudo -n)
        sudo -n true > /dev/null 2>&1 || die "these packages are missing, and only root may install them: ${missing[*]}
Run as root: apt-get install --no-install-recommends ${missing[*]}
then start this again."
    fi
    say "Installing ${missing[*]}"
    mkdir -p build
    export DEBIAN_FRONTEND=noninteractive
    if ! { "${root[@]}" apt-get update -qq && "${root[@]}" apt-get install -y -qq --no-install-recommends \
        -o DPkg::Lock::Timeout=120 "${missing[@]}"; } > build/packages.log 2>&1 < /dev/null; then
        tail -n 3 build/packages.log >&2
        die "these packages are missing, and apt-get could not install them (build/packages.log): ${missing[*]}"
    fi
}

# Open MPI as root (in a container), with more ranks than cores, without binding ranks to cores that they would share,
# and without reading another rank's memory directly, which containers forbid.
mpi_environment() {
    export OMPI_MCA_rmaps_base_oversubscribe=1 OMPI_MCA_hwloc_base_binding_policy=none OMPI_MCA_sharedfp=^lockedfile
    export OMPI_MCA_btl_vader_single_copy_mechanism=none
    if [ "$(id -u)" = 0 ]; then
        export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
    fi
}

# build FOLDER [CMAKE OPTION..]: configures and builds; the log is FOLDER.log. Where configuring fails it is tried once
# more without what an earlier start remembers, as after a copy of the repository or of another machine's folder.
build() {
    local folder=$1
    shift
    local configure=(cmake -S . -B "$folder" -G Ninja "$@")
    mkdir -p "$(dirname "$folder")"
    if ! { { "${configure[@]}" || "${configure[@]}" --fresh; } && cmake --build "$folder"; } > "$folder.log" 2>&1; then
        grep -E -A8 'error:|Error|FAILED' "$folder.log" | head -n 40 >&2 || true
        die "the build failed: $folder.log"
    fi
}

seconds() { date +%s; }
