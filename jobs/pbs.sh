#!/bin/bash
# A run of stemma under PBS Pro or OpenPBS: one job after the other until the run is done.
#
#   qsub -v input=INPUT.yaml,folder=FOLDER jobs/pbs.sh          from the repository's root, or with STEMMA_JOBS set
#
# Copy it, and edit what follows. Options of qsub on the command line win over those here.
#PBS -N stemma
#PBS -j oe
#PBS -l select=1:ncpus=2:mpiprocs=2:ompthreads=1
#PBS -l walltime=24:00:00
# On GPUs, a rank for each:
##PBS -l select=1:ncpus=64:mpiprocs=4:ompthreads=16:ngpus=4

cd "${PBS_O_WORKDIR:-.}" || exit 2
input=${input:-inputs/lookup/grpo.yaml}
folder=${folder:-runs/pbs}
options=() # section.key=value ..
CHAIN=${CHAIN:-submit} # or no
script=${script:-jobs/pbs.sh} # what is submitted again: PBS runs a copy under another name
# module load openmpi hdf5

. "${STEMMA_JOBS:-jobs}/batch.sh" || exit 2

export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
n_ranks=$(wc -l < "$PBS_NODEFILE") # a line a rank
launch=(mpirun -n "$n_ranks" --hostfile "$PBS_NODEFILE" --map-by "slot:PE=$OMP_NUM_THREADS" -x OMP_NUM_THREADS)

# PBS signals shortly before it kills, so stemma keeps the time alone.
job=$PBS_JOBID
job_start=$(date +%s)
limit=$(qstat -f "$PBS_JOBID" | sed -n 's/.*Resource_List.walltime = //p')
used=$(qstat -f "$PBS_JOBID" | sed -n 's/.*resources_used.walltime = //p')
job_end=$(awk -F: -v now="$job_start" -v used="$used" '
    function seconds(text, part) { split(text, part, ":"); return part[1] * 3600 + part[2] * 60 + part[3] }
    NF == 3 { print now + seconds($0) - seconds(used) }' <<< "$limit")

if [ "$CHAIN" = submit ]; then
    again() { qsub -W "depend=afterany:$PBS_JOBID" -v "input=$input,folder=$folder,script=$script" "$script"; }
fi

batch_job
