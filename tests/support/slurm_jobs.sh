# tests/support/slurm_jobs.sh NODES: what tests of jobs under a real Slurm share. To be sourced after toy.sh, in $work: starts a
# Slurm of NODES nodes, which ends with the test.

# Without what it needs, the test is skipped; under STEMMA_REQUIRE=1 that is a failure.
lacks() {
    [ "${STEMMA_REQUIRE:-0}" != 1 ] || die "$*"
    say "skipped: $*"
    exit 77
}
[ "$(id -u)" = 0 ] || lacks "only root may start a Slurm"
for command in slurmctld slurmd munged srun sbatch; do
    command -v $command > /dev/null || lacks "no $command (Debian: slurmctld slurmd slurm-client munge)"
done
exec 8> "${TMPDIR:-/tmp}/stemma-slurm.lock" && flock -w 300 8 || lacks "another test's Slurm uses the ports"
trap 'bash "$tests/support/slurm.sh" stop "$work/slurm"; [ -n "${KEEP:-}" ] || rm -rf "$work"' EXIT
bash "$tests/support/slurm.sh" start "$work/slurm" "$1" 8>&- || lacks "Slurm does not start here"
export SLURM_CONF=$work/slurm/slurm.conf STEMMA STEMMA_JOBS=$tests/../jobs
jobs=$STEMMA_JOBS
echo 'parallel: { machine: none }' >> base.yaml

n_starts() { grep -c "^stemma .* folder $1\$" "$1/log.txt"; }
submit() { sbatch --parsable "$@" || die "sbatch $*"; }
