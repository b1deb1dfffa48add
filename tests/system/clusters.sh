#!/usr/bin/env bash
# SEED-GRPO in a run: clusters of equal answers are found where rewards are, on any number of ranks, and the update is
# the one of `grad` on the same rollouts with their clusters written down.
. "$(dirname "$0")/common.sh"
cd "$work" || exit 1
. "$tests/support/toy.sh"

seed="--precision float64 objective.seed_alpha=0.8 objective.advantage_scale=none objective.advantage_baseline=none"
train() { # FOLDER RANKS STEPS OPTIONS..
    input "$1.yaml" "$1" "$3"
    succeeds "$2" "$STEMMA" train "$1.yaml" $seed rollout.save=all rollout.top_k=4 rollout.group_size=6 rollout.max_new_tokens=2 \
        'reward=[{name: regex, pattern: "[a-m]"}]' "${@:4}"
}

# Responses of the last words of a line: a cluster of each is the first response with its text.
with_clusters() {
    awk '{
        gsub(/,"cluster":[0-9]+/, "") # what the program wrote is not believed here
        n = split($0, parts, /"text": ?"/)
        line = parts[1]
        for (i = 2; i <= n; i++) {
            text = parts[i]; sub(/".*/, "", text); gsub(/^ +| +$/, "", text)
            for (first = 2; first < i && (text == "" || texts[first] != text); first++);
            texts[i] = text; some += first < i
            line = line "\"cluster\": " first ", \"text\": \"" parts[i]
        }
        print line } END { exit some == 0 }' "$1"
}

train still 1 1 optim.lr=0 rollout.answer=exact
with_clusters still/rollouts/*.jsonl > groups.jsonl || die "no two of 20 responses are the same: $(cat groups.jsonl)"
succeeds 0 "$STEMMA" grad "$(checkpoint still 1)" groups.jsonl --out grad.h5 $seed
succeeds 0 "$STEMMA" grad "$(checkpoint still 1)" groups.jsonl --out plain.h5 $seed objective.seed_alpha=0
loss=$(h5dump -m %.17g -d /loss grad.h5 | sed -n 's/.*(0): //p')
plain=$(h5dump -m %.17g -d /loss plain.h5 | sed -n 's/.*(0): //p')
found=$(field still/metrics.jsonl 1 loss)
holds "($found - $loss)^2 < 1e-14" "a run's loss is that of grad with clusters"
holds "($plain - $loss)^2 > 1e-8" "and not that without"
say "clusters: the loss of a run is $found, of grad on its rollouts with clusters $loss, without $plain"

for ranks in 1 2 3; do
    train "on-$ranks" $ranks 3 rollout.answer_extract='[a-m]'
done
for ranks in 2 3; do
    same_parameters "$(checkpoint on-1 3)" "$(checkpoint on-$ranks 3)" 1e-11
done
train off 1 3 objective.seed_alpha=0
h5diff -d 1e-6 "$(checkpoint on-1 3)" "$(checkpoint off 3)" /parameters > diff.txt 2>&1 && die "seed_alpha changes nothing"
say "clusters: the same parameters after 3 steps on 1, 2 and 3 ranks"

rm toy/tokenizer.json
printf '{"prompt_ids": [1, 2, 3]}\n{"prompt_ids": [4, 5]}\n' > ids.jsonl
refused 2 'objective.seed_alpha: compares texts, which responses have not: the model has no tokenizer.json' 2 \
    "$STEMMA" train off.yaml $seed data.prompts=ids.jsonl rollout.prompts_per_step=2 run.folder=none \
    'reward=[{name: length, max_tokens: 4}]'
refused 2 'rollout.answer_extract: found "(", expected a PCRE2 pattern: missing closing parenthesis at character 2' 2 \
    "$STEMMA" train off.yaml rollout.answer_extract='('
say "clusters: refused where responses have no text, and where the pattern is none"
