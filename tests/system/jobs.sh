#!/bin/bash
# The batch scripts' logic, with PBS, LSF and Flux played by a few lines each, which note what is submitted. A real Slurm
# is in slurm.sh.
. "$(dirname "$0")/common.sh"
cd "$work" || exit 1
. "$tests/support/toy.sh"
export STEMMA STEMMA_JOBS=$tests/../jobs
jobs=$STEMMA_JOBS
echo 'parallel: { machine: none }' >> base.yaml

for script in "$jobs"/*.sh; do
    bash -n "$script" || die "$script: not a script"
done

submitted() { wc -l < submitted 2> /dev/null || echo 0; }

# Batch systems that note what they are given

mkdir bin
cat > bin/qsub << 'END'
#!/bin/bash
echo "qsub $*" >> submitted
echo 12.server
END
cat > bin/qstat << 'END'
#!/bin/bash
printf 'Job Id: 11.server\n    Resource_List.walltime = %s\n    resources_used.walltime = 00:00:01\n' "$walltime"
END
cat > bin/bsub << 'END'
#!/bin/bash
echo "bsub $* input=$input folder=$folder < $(head -n 2 | tail -n 1)" >> submitted
echo 'Job <12> is submitted to queue <normal>.'
END
cat > bin/flux << 'END'
#!/bin/bash
case "$1 $2" in
"getattr jobid") echo f11 ;;
"job timeleft") echo 60 ;;
"run -n") # the ranks of Open MPI, as flux run would start those of its own
    [ -f hang ] || exec mpirun -n "$3" "${@:5}"
    mpirun -n "$3" "${@:5}"
    exec sleep 100
    ;;
*) echo "flux $*" >> submitted && echo f12 ;;
esac
END
chmod +x bin/*
printf '%s\n' "$(hostname)" "$(hostname)" > nodes
# job SYSTEM INPUT FOLDER [WALLTIME]: a job of it; its exit code is in $code.
job() {
    : > submitted
    case $1 in
    pbs) env PATH="$PWD/bin:$PATH" PBS_JOBID=11.server PBS_NODEFILE=nodes PBS_O_WORKDIR="$PWD" walltime="${4:-00:01:00}" \
        input="$2" folder="$3" script="$jobs/pbs.sh" timeout 60 bash "$jobs/pbs.sh" > "$1.log" 2>&1 ;;
    lsf) env PATH="$PWD/bin:$PATH" LSB_JOBID=11 LSB_DJOB_NUMPROC=2 LS_SUBCWD="$PWD" limit_minutes=1 \
        input="$2" folder="$3" script="$jobs/lsf.sh" timeout 60 bash "$jobs/lsf.sh" > "$1.log" 2>&1 ;;
    flux) env PATH="$PWD/bin:$PATH" script="$jobs/flux.sh" timeout 60 bash "$jobs/flux.sh" "$2" "$3" run.seed=1 > "$1.log" 2>&1 ;;
    esac
    code=$?
}
# ends_with CODE N_SUBMITTED WORDS: what the latest job did.
ends_with() { # LOG CODE N WORDS
    [ $code = "$2" ] && [ "$(submitted)" = "$3" ] || die "$1: exit code $code, submitted: $(cat submitted): $(tail -n 15 "$1")"
    says "$1" "$4"
}

input few.yaml few 2
for system in pbs lsf flux; do
    rm -rf few
    job $system few.yaml few
    ends_with $system.log 0 0 'done: step 2'
    job $system few.yaml few # one of a chain that was submitted at once
    ends_with $system.log 0 0 'done already: step 2 of 2'
    job $system none.yaml few.none
    ends_with $system.log 2 0 'wrong input'
done
grep -q -e '--maxh=0.01[67]' lsf.log && grep -q -e '--job-start=1' lsf.log || die "no time limit: $(cat lsf.log)"
say "under PBS, LSF and Flux a run is done, a done one ends at once, wrong input is not tried again"

# The limit: the job ends before it, and another follows; two without a step are the last

input long.yaml long 1000000 'checkpoint: { every: 0 }\n'
sed -i 's/max_new_tokens: 4/max_new_tokens: 4, save: none/' long.yaml
job pbs long.yaml long 00:00:04
ends_with pbs.log 0 1 'the time of --maxh is up'
says submitted "^qsub -W depend=afterany:11.server -v input=long.yaml,folder=long,script=$jobs/pbs.sh $jobs/pbs.sh"
says pbs.log 'another job follows'
sed -i 's/"max_position_embeddings": 96/"max_position_embeddings": 8192/' toy/config.json
sed 's/max_new_tokens: 4/max_new_tokens: 8000, ignore_eos: true/; s/per_step: 5/per_step: 50/' long.yaml > vain.yaml
sed -i 's/folder: long/folder: vain/' vain.yaml
job pbs vain.yaml vain 00:00:02
ends_with pbs.log 0 1 'exit code 0, steps 0 to 0'
job pbs vain.yaml vain 00:00:02
ends_with pbs.log 1 0 'two jobs in a row have made no step: no other follows'
for n in 1 0; do # nothing has made the run folder
    STEMMA=/nowhere/stemma job pbs few.yaml unmade
    [ "$(submitted)" = $n ] || die "a launch that fails: $(cat submitted pbs.log)"
done
says pbs.log 'two jobs in a row have made no step: no other follows'
say "a job ends before its limit and another follows; after two that made no step, none"

# What ends a chain, and what does not

# acts_on SYSTEM ACT: runs long.yaml, acts on the script ($script_pid) once it has made three steps.
acts_on() {
    rm -rf long
    job "$1" long.yaml long &
    local pid=$!
    until_true has_step long 3
    script_pid=$(pgrep -f "^bash $jobs/$1.sh" | head -n 1)
    eval "$2"
    wait $pid
}
acts_on lsf 'kill -USR2 $script_pid'
says lsf.log 'USR2: asking stemma to end' && says lsf.log 'another job follows'
says submitted '^bsub -w ended(11) input=long.yaml folder=long < # A run of stemma under LSF'
[ ! -f long/STOP ] || die "STOP stays"
acts_on flux 'kill -TERM $script_pid'
says flux.log 'TERM: asking stemma to end' && says flux.log 'the job was cancelled: no other follows'
[ "$(submitted)" = 0 ] && ls long/checkpoints | grep -q step || die "a cancelled job: $(cat submitted flux.log)"
acts_on flux 'touch long/STOP'
says flux.log 'STOP was placed in long: no other job follows'
rm -rf few && touch hang
BATCH_STILL_S=15 job flux few.yaml few
says flux.log 'nothing is left of stemma, and flux does not end: killed' && says flux.log 'exit code 137, steps 0 to 2'
rm hang
say "a launcher that does not end after its ranks is ended"
rm -rf few && mkdir few && echo "job 10" > few/STOP # of a job that was killed before stemma could read it
job pbs few.yaml few
ends_with pbs.log 0 0 'done: step 2'
say "a warning of the batch system leads to another job; a cancelled job and STOP end the chain"

bash "$jobs/chain.sh" 3 "$jobs/slurm.sh" > chain.log 2>&1 && die "chain.sh takes anything"
PATH="$PWD/bin:$PATH" bash "$jobs/chain.sh" 2 "$jobs/pbs.sh" in.yaml runs/a > chain.log || die "chain.sh: $(cat chain.log)"
says chain.log '^job 2 of 2: 12.server'
says submitted '^qsub -W depend=afterany:12.server -v CHAIN=no,input=in.yaml,folder=runs/a '
say "chain.sh submits jobs that follow each other"
