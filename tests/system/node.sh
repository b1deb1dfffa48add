#!/bin/bash
# A node that Slurm loses in the middle of a run, with everything on it: the job goes into the queue again, starts on the
# nodes that are left, and its end has the bits of a run that nobody disturbed.
. "$(dirname "$0")/common.sh"
cd "$work" || exit 1
. "$tests/support/toy.sh"
export SLURMD_TIMEOUT=5
. "$tests/support/slurm_jobs.sh" 6

sed -i 's/"max_position_embeddings": 96/"max_position_embeddings": 8192/' toy/config.json
input run.yaml whole 60 'checkpoint: { every: 5 }\n'
sed -i 's/max_new_tokens: 4/max_new_tokens: 60, ignore_eos: true/' run.yaml
succeeds 2 "$STEMMA" train run.yaml

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
is_down() { sinfo -h -n "$1" -o %t | grep -q '^down'; }

# Two jobs at once, since each waits for Slurm more than it computes: one loses its last node, the other its first, where the
# batch script runs.
job=()
for lost in last first; do
    job[${#job[@]}]=$(submit -o $lost.log --nodes=2 --ntasks-per-node=1 "$jobs/slurm.sh" run.yaml $lost)
done
until_true has_step last 10
until_true has_step first 10
node=("$(scontrol show hostnames "$(squeue -h -j "${job[0]}" -o %N)" | tail -n 1)" "$(squeue -h -j "${job[1]}" -o %B)")
for i in 0 1; do lose "${node[i]}"; done
for i in 0 1; do until_true is_down "${node[i]}"; done
for lost in last first; do
    until_true test -f $lost/DONE
    says $lost.log "going on from $lost/checkpoints/step-"
    [ "$(n_starts $lost)" = 2 ] || die "expected a run in two jobs: $(cat $lost.log)"
    same_state "$(checkpoint whole 60)" "$(checkpoint $lost 60)" "after the loss of a node"
done
until_true eval '[ -z "$(squeue -h -t running,pending)" ]'
say "a node without the batch script is lost: the job goes on elsewhere, to the bits of an undisturbed run"
say "the batch script's own node is lost: Slurm starts the job again, to the same bits"
