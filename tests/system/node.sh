#!/bin/bash
# A node that Slurm loses in the middle of a run, with everything on it: the job goes into the queue again, starts on the
# nodes that are left, and its end has the bits of a run that nobody disturbed.
. "$(dirname "$0")/common.sh"
cd "$work" || exit 1
. "$tests/support/toy.sh"
export SLURMD_TIMEOUT=5
. "$tests/support/slurm_jobs.sh" 3

sed -i 's/"max_position_embeddings": 96/"max_position_embeddings": 8192/' toy/config.json
input run.yaml broken 60 'checkpoint: { every: 5 }\n'
sed -i 's/max_new_tokens: 4/max_new_tokens: 60, ignore_eos: true/' run.yaml
succeeds 2 "$STEMMA" train run.yaml
mv broken whole

# lose NODE: its daemon, what watches its jobs, and its jobs, as a loss of power would: nobody is told.
lose() {
    local process parent
    kill -KILL "$(cat "slurm/slurmd-$1.pid")"
    for process in $(grep -alz "^SLURMD_NODENAME=$1\$" /proc/[0-9]*/environ 2> /dev/null | cut -d/ -f3); do
        parent=$(awk '{ print $4 }' "/proc/$process/stat" 2> /dev/null) || continue
        case $(cat "/proc/$parent/comm" 2> /dev/null) in slurmstepd*) kill -KILL "$parent" ;; esac
        kill -KILL "$process"
    done 2> /dev/null
}
node_of() { squeue -h -j "$1" -o %B; }
is_down() { sinfo -h -n "$1" -o %t | grep -q '^down'; }

# goes_on NODE LAUNCH: the node is lost after ten steps.
goes_on() {
    local job lost=$1 launch=$2
    rm -rf broken broken.log
    job=$(LAUNCH=$launch submit -o broken.log --nodes=2 --ntasks-per-node=1 "$jobs/slurm.sh" run.yaml broken)
    until_true has_step broken 10
    [ "$lost" = first ] && lost=$(node_of "$job") || lost=$(scontrol show hostnames "$(squeue -h -j "$job" -o %N)" | tail -n 1)
    lose "$lost"
    until_true is_down "$lost"
    until_true test -f broken/DONE
    says broken.log 'going on from broken/checkpoints/step-'
    [ "$(n_starts broken)" = 2 ] || die "expected a run in two jobs: $(cat broken.log)"
    until_true eval '[ -z "$(squeue -h -j "$job")" ]'
    same_bits "$(checkpoint whole 60)" "$(checkpoint broken 60)" "after the loss of node $lost"
    slurmd -f "$SLURM_CONF" -N "$lost" 8>&- > /dev/null 2>&1
    until_true eval '[ "$(sinfo -h -t idle -o %D)" = 3 ]'
}

goes_on last srun
say "srun: a node without the batch script is lost: the job goes on elsewhere, to the bits of an undisturbed run"
goes_on first srun
say "srun: the batch script's own node is lost: Slurm starts it again, to the same bits"
