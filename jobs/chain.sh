#!/bin/bash
# A chain of jobs, submitted all at once: each begins when the one before has ended, however it ended. For sites where a
# job may not submit another. When the run is done, those that are left find that out and end at once.
#
#   bash jobs/chain.sh N jobs/slurm.sh|pbs.sh|lsf.sh|flux.sh INPUT.yaml FOLDER [section.key=value ..]
#
# PBS and LSF take options in the script alone.
set -eu
[ $# -ge 4 ] && [ "$1" -ge 1 ] 2> /dev/null || { sed -n '2,/^set/{/^set/!s/^# \{0,1\}//p}' "$0"; exit 2; }
n=$1 script=$2 input=$3 folder=$4
shift 4
export CHAIN=no

# submit AFTER [WORDS..]: prints the id of the new job, which begins after job AFTER ("": at once).
case $(basename "$script") in
*slurm*) submit() { sbatch --parsable ${1:+--dependency=afterany:$1} "$script" "$input" "$folder" "${@:2}" | cut -d ';' -f 1; } ;;
*pbs*) submit() { qsub ${1:+-W depend=afterany:$1} -v "CHAIN=no,input=$input,folder=$folder" "$script"; } ;;
*lsf*) submit() { input=$input folder=$folder bsub ${1:+-w "ended($1)"} < "$script" | sed -n 's/^Job <\([0-9]*\)>.*/\1/p'; } ;;
*flux*) submit() { flux batch ${1:+--dependency=afterany:$1} "$script" "$input" "$folder" "${@:2}"; } ;;
*) echo "$script: expected a script with slurm, pbs, lsf or flux in its name" >&2 && exit 2 ;;
esac

before=
for ((i = 1; i <= n; i++)); do
    before=$(submit "$before" "$@")
    [ -n "$before" ] || { echo "job $i of $n was not accepted" >&2; exit 1; }
    echo "job $i of $n: $before"
done
