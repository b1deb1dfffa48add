#!/bin/bash
# A run of stemma under Slurm: one job after the other until the run is done.
#
#   sbatch jobs/slurm.sh [INPUT.yaml FOLDER [section.key=value ..]]     from the repository's root, or with STEMMA_JOBS set
#
# Copy it, and edit what follows. Options of sbatch on the command line win over those here.
#SBATCH --job-name=stemma
#SBATCH --output=stemma-%j.log
#SBATCH --open-mode=append
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=2
#SBATCH --cpus-per-task=1
#SBATCH --time=24:00:00
#SBATCH --signal=B:USR1@300
#SBATCH --requeue
# On GPUs, a rank for each, with the cores near it:
##SBATCH --ntasks-per-node=4
##SBATCH --cpus-per-task=16
##SBATCH --gpus-per-task=1
##SBATCH --gpu-bind=closest

input=${1:-inputs/lookup/grpo.yaml}
folder=${2:-runs/slurm}
options=("${@:3}")
LAUNCH=${LAUNCH:-srun} # or mpirun, where srun offers no pmix (srun --mpi=list)
CHAIN=${CHAIN:-requeue} # or submit, a new job each time; or no
# module load openmpi hdf5

. "${STEMMA_JOBS:-${SLURM_SUBMIT_DIR:-.}/jobs}/batch.sh" || exit 2

cpus=${SLURM_CPUS_PER_TASK:-1}
export OMP_NUM_THREADS=$cpus SRUN_CPUS_PER_TASK=$cpus
case $LAUNCH in
srun) launch=(srun --mpi=pmix --cpus-per-task="$cpus" --kill-on-bad-exit=1) ;;
mpirun) launch=(mpirun -n "$SLURM_NTASKS" --map-by "slot:PE=$cpus" -x OMP_NUM_THREADS) ;;
*) batch_say "LAUNCH=$LAUNCH: expected srun or mpirun" && exit 2 ;;
esac

# Newer Slurms say in the environment when the job began and must end; squeue says it in all.
seconds_of() { date -d "$(squeue -h -j "$SLURM_JOB_ID" -o "$1" | head -n 1)" +%s 2> /dev/null; }
job=$SLURM_JOB_ID
job_start=${SLURM_JOB_START_TIME:-$(seconds_of %S)}
job_start=${job_start:-$(date +%s)}
job_end=${SLURM_JOB_END_TIME:-$(seconds_of %e)}

submit() { sbatch --dependency="afterany:$SLURM_JOB_ID" "$0" "$input" "$folder" ${options[@]+"${options[@]}"}; }
case $CHAIN in
requeue) again() { scontrol requeue "$SLURM_JOB_ID" || { [ -z "${SLURM_ARRAY_TASK_ID:-}" ] && submit; }; } ;;
submit) again() { submit; } ;;
esac

batch_job
