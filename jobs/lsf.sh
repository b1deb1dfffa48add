#!/bin/bash
# A run of stemma under LSF: one job after the other until the run is done.
#
#   input=INPUT.yaml folder=FOLDER bsub < jobs/lsf.sh           from the repository's root, or with STEMMA_JOBS set
#
# Copy it, and edit what follows. Options of bsub on the command line win over those here.
#BSUB -J stemma
#BSUB -o stemma-%J.log
#BSUB -n 2
#BSUB -R "span[ptile=2]"
#BSUB -R "affinity[core(1)]"
#BSUB -W 24:00
#BSUB -wa USR2 -wt 5
# On GPUs, a rank for each:
##BSUB -n 4
##BSUB -R "span[ptile=4] affinity[core(16)]"
##BSUB -gpu "num=4:mode=shared"

cd "${LS_SUBCWD:-.}" || exit 2
input=${input:-inputs/lookup/grpo.yaml}
folder=${folder:-runs/lsf}
options=() # section.key=value ..
CHAIN=${CHAIN:-submit} # or no
script=${script:-jobs/lsf.sh} # what is submitted again
limit_minutes=${limit_minutes:-1440} # that of -W
# module load openmpi hdf5

. "${STEMMA_JOBS:-jobs}/batch.sh" || exit 2

export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
launch=(mpirun -n "$LSB_DJOB_NUMPROC" -x OMP_NUM_THREADS)

job=$LSB_JOBID
job_start=$(date +%s)
job_end=$((job_start + 60 * limit_minutes))

if [ "$CHAIN" = submit ]; then
    again() { input=$input folder=$folder script=$script bsub -w "ended($LSB_JOBID)" < "$script"; }
fi

batch_job
