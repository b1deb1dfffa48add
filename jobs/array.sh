#!/bin/bash
# A sweep over options as a Slurm array: a run for each combination, in a folder of its own below FOLDER.
#
#   sbatch --array=0-5 jobs/array.sh INPUT.yaml FOLDER optim.lr=1e-6,3e-6,1e-5 rollout.group_size=8,16
#
# Values are separated by commas. `bash jobs/array.sh INPUT.yaml FOLDER OPTIONS` lists the combinations. All else is as in
# slurm.sh, which each task runs: resources and time below. A combination with an option that its objective does not read is refused.
#SBATCH --job-name=sweep
#SBATCH --output=sweep-%A-%a.log
#SBATCH --open-mode=append
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=2
#SBATCH --cpus-per-task=1
#SBATCH --time=24:00:00
#SBATCH --signal=B:USR1@300
#SBATCH --requeue

[ $# -ge 3 ] || { echo "expected INPUT.yaml FOLDER section.key=value,value .." >&2; exit 2; }
input=$1 folder=$2
shift 2
n=1
for option in "$@"; do
    IFS=, read -ra values <<< "${option#*=}"
    n=$((n * ${#values[@]}))
done

# combination K: the K-th of n, a line "option=value option=value .."; the last option changes fastest.
combination() {
    local k=$1 rest=$n option values chosen=()
    for option in "${@:2}"; do
        IFS=, read -ra values <<< "${option#*=}"
        rest=$((rest / ${#values[@]}))
        chosen+=("${option%%=*}=${values[k / rest]}")
        k=$((k % rest))
    done
    echo "${chosen[*]}"
}

if [ -z "${SLURM_ARRAY_TASK_ID:-}" ]; then
    for ((k = 0; k < n; k++)); do
        echo "$k: $(combination $k "$@")"
    done
    echo "sbatch --array=0-$((n - 1)) $0 $input $folder $*"
    exit 0
fi
[ "$SLURM_ARRAY_TASK_ID" -lt $n ] || { echo "task $SLURM_ARRAY_TASK_ID: there are $n combinations" >&2; exit 2; }
read -ra chosen <<< "$(combination "$SLURM_ARRAY_TASK_ID" "$@")"
name=$(IFS=-; echo "${chosen[*]}")
CHAIN=requeue # sbatch without --array would begin another run
export CHAIN
. "${STEMMA_JOBS:-${SLURM_SUBMIT_DIR:-.}/jobs}/slurm.sh" "$input" "$folder/${name//\//_}" "${chosen[@]}"
