# jobs/batch.sh: what the batch scripts share: one job of a run that may need many. To be sourced.
#
# A script sets, and calls batch_job:
#   input, folder, options   what to run: INPUT.yaml, the run folder, (section.key=value ..)
#   launch                   words that start the ranks: (srun ..), (mpirun ..)
#   job                      the batch system's name of this job
#   job_start, job_end       seconds since 1970; job_end empty: the job has no time limit
#   again                    a function that puts the job into the queue once more; unset: others follow (chain.sh)
#
# A job ends before its limit: stemma keeps the time (--maxh leaves room for the longest step and a save), and where the
# batch system signals first, STOP is placed in the run folder. Then the job goes into the queue again, until
# DONE is there. Two jobs in a row that have made no step end it: something is wrong that a third will not mend.

read -ra stemma <<< "${STEMMA:-$(command -v stemma || echo build/release/bin/stemma)}" # words: it may be in a container

batch_say() { printf '%s %s\n' "$(date '+%F %T')" "$*"; }

# The step of the newest checkpoint; 0: none.
batch_step() {
    local step
    step=$(ls "$folder/checkpoints" 2> /dev/null | sed -n 's/^step-0*\([0-9][0-9]*\)\.h5$/\1/p' | sort -n | tail -n 1)
    echo "${step:-0}"
}

# The time limit as stemma takes it: hours from the job's start.
batch_limit() {
    [ -z "$job_end" ] || awk -v start="$job_start" -v end="$job_end" \
        'BEGIN { printf "--maxh=%.5f --job-start=%d", (end - start) / 3600, start }'
}

# The limit is near, or somebody ends the job. mpirun kills its ranks two seconds after a signal, so they get none.
batch_warned=0
batch_warn() {
    batch_warned=1 batch_signalled=1
    batch_say "$1: asking stemma to end"
    [ ! -d "$folder" ] || echo "job $job" > "$folder/STOP"
}
batch_cancelled=0
batch_cancel() {
    [ $batch_warned = 1 ] || batch_cancelled=1 # after a warning it is the limit itself
    batch_warn "$1"
}

# Ends a launcher that waits for itself after its ranks have died, as mpirun has been seen to: stemma touches the lock of
# its run folder every 10 s; one that was touched by this job, and then not for BATCH_STILL_S, has no owner any more.
BATCH_STILL_S=${BATCH_STILL_S:-600}
batch_watch() { # PID SECONDS
    local before now still=0 owned=0
    trap 'kill $! 2> /dev/null; exit' TERM
    before=$(stat -c %y "$folder/lock" 2> /dev/null)
    while sleep "$2" & wait $!; do
        now=$(stat -c %y "$folder/lock" 2> /dev/null)
        if [ "$now" = "$before" ]; then still=$((still + owned)); else still=0 owned=1; fi
        before=$now
        [ $still -ge 10 ] || continue
        batch_say "nothing is left of stemma, and ${launch[0]} does not end: killed"
        kill -KILL "$1"
        return
    done
}

# Runs stemma; its exit code is in $code.
batch_run() {
    local pid watch
    case $(cat "$folder/STOP" 2> /dev/null) in job*) rm -f "$folder/STOP" ;; esac # of a job that ended before it was read
    batch_say "job $job on $(hostname): ${launch[*]} ${stemma[*]} train $input run.folder=$folder $(batch_limit) ${options[*]-}"
    # shellcheck disable=SC2046
    "${launch[@]}" "${stemma[@]}" train "$input" "run.folder=$folder" $(batch_limit) ${options[@]+"${options[@]}"} &
    pid=$!
    batch_watch $pid $(((BATCH_STILL_S + 9) / 10)) &
    watch=$!
    trap 'batch_warn USR1' USR1
    trap 'batch_warn USR2' USR2
    trap 'batch_cancel TERM' TERM
    trap 'batch_cancel INT' INT
    while true; do
        batch_signalled=0 code=0
        wait $pid || code=$?
        [ $batch_signalled = 1 ] || break # a trap ends a wait as well
    done
    trap '' USR1 USR2 TERM INT
    kill $watch 2> /dev/null
}

# How many jobs in a row, this one too, have made no step; kept in the run folder.
batch_count_vain() { # STEP BEFORE
    local n=0
    if [ "$(batch_step)" -le "$1" ]; then
        n=$(($(cat "$folder/chain" 2> /dev/null || echo 0) + 1))
    fi
    mkdir -p "$folder" && echo $n > "$folder/chain" # where the launch fails, stemma has not made it
    echo $n
}

batch_job() {
    local before vain
    before=$(batch_step)
    batch_run
    if [ -f "$folder/DONE" ] && [ $code = 0 ]; then
        rm -f "$folder/chain"
        batch_say "done: $(cat "$folder/DONE")"
        exit 0
    fi
    [ $code != 2 ] || { batch_say "wrong input: the message is above"; exit 2; }
    vain=$(batch_count_vain "$before")
    batch_say "exit code $code, steps $before to $(batch_step)"
    [ $batch_cancelled = 0 ] || { batch_say "the job was cancelled: no other follows"; exit $code; }
    if [ $batch_warned = 0 ] && tail -n 5 "$folder/log.txt" 2> /dev/null | grep -q '^stopped .*STOP was found'; then
        batch_say "STOP was placed in $folder: no other job follows"
        exit $code
    fi
    [ "$vain" -lt 2 ] || { batch_say "two jobs in a row have made no step: no other follows"; exit 1; }
    [ "$(type -t again)" = function ] || exit $code
    batch_say "another job follows"
    again
}
