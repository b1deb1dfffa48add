#!/usr/bin/env bash
# From nothing to a trained model: installs what is missing, builds, trains the lookup task by GRPO on 2 ranks, and
# measures what sharing prompts saves. About a minute on 2 cores; run it again and it goes on where it stopped.
#
#   bash jobs/quickstart.sh [section.key=value ...]      for example run.steps=300
cd "$(dirname "$0")/.."
. jobs/common.sh
begin=$(seconds)

need "${build_packages[@]}" "${tool_packages[@]}"
mpi_environment
build build/release -DCMAKE_BUILD_TYPE=Release -DSTEMMA_TESTS=OFF
stemma=build/release/bin/stemma
run=runs/quickstart
say "ready after $(($(seconds) - begin)) s: $stemma"

say "
Training: each prompt is a report of a day, about 165 tokens, and a question; the answer is a word of the report.
  mpirun -n 2 $stemma train inputs/lookup/grpo.yaml run.folder=$run $*"
mpirun -n 2 "$stemma" train inputs/lookup/grpo.yaml run.folder=$run "$@"

# Reads F.h5 as lines "parameter number".
numbers() {
    h5dump -y -w 1 -m %.17g -g /grad "$1" |
        awk '$1 == "DATASET" { name = $2 } name && $1 ~ /^[-0-9ni]/ { sub(/,$/, "", $1); print name, $1 }'
}

# difference A.h5 B.h5: the largest ||a - b|| / max(||b||, 1e-3 ||all of b||) of a parameter's gradient.
difference() {
    paste -d ' ' <(numbers "$1") <(numbers "$2") | awk '
        $1 != $3 || $2 $4 ~ /n/ { broken = 1 }
        { differs[$1] += ($2 - $4) ^ 2; size[$1] += $4 ^ 2; all += $4 ^ 2 }
        END {
            if (broken || NR == 0) { print "nan"; exit }
            for (name in size) {
                scale = sqrt(size[name]) > 1e-3 * sqrt(all) ? sqrt(size[name]) : 1e-3 * sqrt(all)
                d = sqrt(differs[name]) / scale
                if (d > worst) worst = d
            }
            printf "%.1e\n", worst
        }'
}

say "
Measuring the update: the gradient of one step, 64 prompts (16 reports, 4 questions each), 64 rollouts each, on 2 ranks.
  repeated  every sequence by itself
  prompt    each prompt once, for its 64 rollouts
  tree      each shared token once: reports, questions, equal answers"
rm -rf $run/update
mpirun -n 2 "$stemma" train inputs/lookup/grpo.yaml run.folder=$run/update run.steps=1 rollout.save=all eval.every=0 \
    checkpoint.every=0 > $run/update.log
groups=$run/update/rollouts/step-00000001.jsonl
say "
  --forward    tokens computed    seconds    times faster    differs from repeated by"
for forward in repeated prompt tree; do
    mpirun -n 2 "$stemma" grad inputs/lookup/model $groups --out $run/grad-$forward.h5 \
        --forward $forward > $run/grad-$forward.log
    tokens=$(awk '/tokens computed/ { print $1 }' $run/grad-$forward.log)
    time=$(sed -n 's/.*; \([0-9.]*\) s,.*/\1/p' $run/grad-$forward.log)
    [ $forward = repeated ] && slowest=$time && differs=- || differs=$(difference $run/grad-$forward.h5 $run/grad-repeated.h5)
    awk -v forward=$forward -v tokens="$tokens" -v time="$time" -v slowest="$slowest" -v differs="$differs" 'BEGIN {
        printf "  %-9s  %17s  %9s  %14.1f  %26s\n", forward, tokens, time, slowest / (time > 0.01 ? time : 0.01), differs
        exit differs != "-" && !(differs + 0 < 1e-5 && differs !~ /n/) }' ||
        die "--forward $forward and repeated differ by $differs; expected less than 1e-5"
done
say "
The differences are the rounding of float32; with --precision float64 they are below 1e-12. Answers are one token and an
end here; the README has figures for long ones."

reward_of() { grep -o '"reward_mean": [0-9][0-9.]*' $run/metrics.jsonl | "$1" -n 1 | awk '{ printf "%.3f", $2 }'; }
newest=$(ls $run/checkpoints/step-*.h5 | tail -n 1)
say "
Mean reward: $(reward_of head) at the first step, $(reward_of tail) at the last. All of it took $(($(seconds) - begin)) s.
  $run/metrics.jsonl   a line a step          $run/reward.png    the curve
  $run/rollouts/       sampled responses      $run/checkpoints/  parallel HDF5, read by h5dump and h5py
  $run/input.yaml      every option as run

What to try next:
  $stemma inspect $newest
  $stemma export $newest --to runs/model
      writes a folder that transformers loads
  $stemma eval inputs/lookup/grpo.yaml model.path=$newest
  $stemma generate $newest inputs/lookup/test.jsonl --out runs/answers.jsonl 'rollout.stop=[\"\\n\"]'
      samples 8 answers to each prompt with their log-probs; stemma score and stemma grad read them
  mpirun -n 2 $stemma train inputs/lookup/grpo.yaml run.folder=runs/own rollout.group_size=128
  $stemma train --help
      lists every option; the README shows a run with a model of your own"
