# jobs/common.sh: what quickstart.sh and test.sh share: packages, the build, the environment of MPI. To be sourced from
# the repository's root.
set -eu
export LC_ALL=C.UTF-8

# Debian 12's names. The README says what each is for.
build_packages="gcc libc6-dev cmake ninja-build pkg-config openmpi-bin libopenmpi-dev libhdf5-openmpi-dev libopenblas-dev
    libjansson-dev libyaml-dev libpcre2-dev libutf8proc-dev libxxhash-dev"
test_packages="libcmocka-dev hdf5-tools procps"
plot_packages="gnuplot-nox"

say() { printf '%s\n' "$*"; }

die() {
    printf '%s: %s\n' "$0" "$*" >&2
    exit 1
}

is_installed() { [ "$(dpkg-query -W -f '${db:Status-Abbrev}' "$1" 2> /dev/null)" = "ii " ]; }

# need PACKAGE..: installs those that are not there. Without the right to install, or without network, names them.
# Where nothing is missing, nothing is asked of the network.
need() {
    local package missing="" root=""
    if ! command -v dpkg-query > /dev/null; then
        say "This is no Debian: expecting what $* stand for to be there."
        return
    fi
    for package in "$@"; do
        is_installed "$package" || missing="$missing $package"
    done
    [ -n "$missing" ] || return 0
    [ "$(id -u)" = 0 ] || root="sudo -n"
    say "Installing$missing"
    export DEBIAN_FRONTEND=noninteractive
    if ! { $root apt-get update -qq && $root apt-get install -y -qq --no-install-recommends $missing; } \
        > "${TMPDIR:-/tmp}/stemma-apt.log" 2>&1 < /dev/null; then
        tail -3 "${TMPDIR:-/tmp}/stemma-apt.log" >&2
        die "these packages are missing and could not be installed:$missing
Install them (apt-get install$missing), then run this again."
    fi
}

# Open MPI as root (in a container), with more ranks than cores, and without binding ranks to cores they would share.
mpi_environment() {
    export OMPI_MCA_rmaps_base_oversubscribe=1 OMPI_MCA_hwloc_base_binding_policy=none OMPI_MCA_sharedfp=^lockedfile
    if [ "$(id -u)" = 0 ]; then
        export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
    fi
}

# build FOLDER [CMAKE OPTION..]: configures and builds; the log is FOLDER.log.
build() {
    local folder=$1
    shift
    mkdir -p "$(dirname "$folder")"
    if ! { cmake -S . -B "$folder" -G Ninja "$@" && cmake --build "$folder"; } > "$folder.log" 2>&1; then
        grep -E -A8 'error:|Error|FAILED' "$folder.log" | head -40 >&2
        die "the build failed: $folder.log"
    fi
}

seconds() { date +%s; }
