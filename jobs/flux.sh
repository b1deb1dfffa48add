#!/bin/bash
# A run of stemma under Flux: one job after the other until the run is done.
#
#   flux batch jobs/flux.sh [INPUT.yaml FOLDER [section.key=value ..]]  from the repository's root, or with STEMMA_JOBS set
#
# Copy it, and edit what follows. Options of flux batch on the command line win over those here.
#flux: --job-name=stemma
#flux: --output=stemma-{{id}}.log
#flux: --nodes=1
#flux: --nslots=2
#flux: --cores-per-slot=1
#flux: --time-limit=24h
#flux: --signal=USR1@5m
# On GPUs, a rank for each: also
##flux: --gpus-per-slot=1

input=${1:-inputs/lookup/grpo.yaml}
folder=${2:-runs/flux}
options=("${@:3}")
n_ranks=${n_ranks:-2} # those of --nslots
cores=${cores:-1}     # those of --cores-per-slot
CHAIN=${CHAIN:-submit} # or no
script=${script:-jobs/flux.sh} # what is submitted again
# module load openmpi hdf5

. "${STEMMA_JOBS:-jobs}/batch.sh" || exit 2

export OMP_NUM_THREADS=$cores
launch=(flux run -n "$n_ranks" --cores-per-task="$cores") # on GPUs also --gpus-per-task=1

# In a batch job this is an instance of its own; the queue, and the job's own name there, are its parent's.
job=$(flux getattr jobid)
job_start=$(date +%s)
left=$(flux job timeleft 2> /dev/null)
job_end=${left:+$(awk -v now="$job_start" -v left="$left" 'BEGIN { if (left + 0 > 0) printf "%d", now + left }')}

if [ "$CHAIN" = submit ]; then
    again() { flux --parent batch --dependency="afterany:$job" "$script" "$input" "$folder" ${options[@]+"${options[@]}"}; }
fi

batch_job
