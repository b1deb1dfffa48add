#!/usr/bin/env bash
# From nothing to a trained model: installs what is missing, builds, trains the lookup task by GRPO on 2 ranks, and
# measures what sharing prompts saves. A minute or two on 2 cores; run it again and it goes on where it stopped.
#
#   bash jobs/quickstart.sh [section.key=value ...]      for example run.steps=300
cd "$(dirname "$0")/.."
. jobs/common.sh
begin=$(seconds)

need $build_packages $plot_packages
mpi_environment
build build/release -DCMAKE_BUILD_TYPE=Release -DSTEMMA_TESTS=OFF
stemma=build/release/bin/stemma
run=runs/quickstart
say "built in $(($(seconds) - begin)) s: $stemma"

say "
Training: each prompt is a report of a day, about 165 tokens, and a question; the answer is a word of the report.
  mpirun -n 2 $stemma train inputs/lookup/grpo.yaml run.folder=$run $*"
mpirun -n 2 "$stemma" train inputs/lookup/grpo.yaml run.folder=$run "$@"

say "
Measuring the update: 64 prompts, 32 responses each, one gradient, once with shared tokens computed once (tree) and
once with every sequence by itself (repeated)."
head -n 64 inputs/lookup/train.jsonl > $run/prompts.jsonl
mpirun -n 2 "$stemma" generate inputs/lookup/model $run/prompts.jsonl --out $run/groups.jsonl \
    rollout.group_size=32 rollout.max_new_tokens=8 'rollout.stop=["\n"]' > $run/generate.log
for forward in tree repeated; do
    mpirun -n 2 "$stemma" grad inputs/lookup/model $run/groups.jsonl --out $run/grad-$forward.h5 --forward $forward \
        objective.name=sft > $run/grad-$forward.log
    say "  --forward $forward: $(paste -sd ';' $run/grad-$forward.log)"
done
awk '{ for (i = 2; i <= NF; i++) if ($i == "s," && $(i - 1) + 0 > 0) t[FILENAME] = $(i - 1) }
     END { tree = t[ARGV[1]]; repeated = t[ARGV[2]]
           if (tree > 0) printf "  the same gradient, %.1f times faster\n", repeated / tree }' \
    $run/grad-tree.log $run/grad-repeated.log

reward_of() { grep -o '"reward_mean": [0-9][0-9.]*' $run/metrics.jsonl | "$1" -n 1 | cut -d' ' -f2; }
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
  mpirun -n 2 $stemma train inputs/lookup/grpo.yaml run.folder=runs/own rollout.group_size=64
  $stemma train --help
      lists every option; the README shows a run with a model of your own"
