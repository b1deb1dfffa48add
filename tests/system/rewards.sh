#!/usr/bin/env bash
# Rewards within a run: a plug-in built by the example's makefile, one that looks at groups, one with a memory; the same
# numbers on 1 and 3 ranks.
. "$(dirname "$0")/common.sh"
cd "$work" || exit 1
. "$tests/support/toy.sh"

cp -r "$tests/../inputs/plugin" plugin
make -s -C plugin > make.txt 2>&1 || die "inputs/plugin: make failed: $(cat make.txt)"

# responses FOLDER: "group text reward" of each response in its rollouts; the toy's texts are letters and spaces.
responses() {
    cat "$1"/rollouts/*.jsonl | awk '{
        n = split($0, parts, /"text": ?"/)
        for (i = 2; i <= n; i++) {
            text = parts[i]; sub(/".*/, "", text); gsub(/ /, "_", text)
            reward = parts[i]; sub(/.*"reward": ?/, "", reward); sub(/[,}].*/, "", reward)
            print NR, "_" text, reward
        }
    }'
}
train() { # FOLDER RANKS REWARDS
    input "$1.yaml" "$1" 2
    succeeds "$2" "$STEMMA" train "$1.yaml" "reward=$3" rollout.save=all rollout.max_new_tokens=8 checkpoint.every=0
    responses "$1" > "$1.txt"
    [ "$(wc -l < "$1.txt")" = 40 ] || die "$1: expected 40 responses, found $(wc -l < "$1.txt")"
}

train vowels 1 '[{name: plugin, library: plugin/vowels.so}]'
awk '{ letters = gsub(/[a-z]/, "&", $2); want = letters ? gsub(/[aeiou]/, "&", $2) / letters : 0
       if ((d = $3 - want) > 1e-6 || d < -1e-6) { print; exit 1 } sum += $3 } END { exit sum == 0 }' vowels.txt > diff.txt ||
    die "plugin: not the share of vowels: $(cat diff.txt)"
say "plugin: built by its makefile, the share of vowels of 40 responses"

train groups 1 '[{name: length_group, right: contains}]'
awk '{ n[$1]++; at = $1 " " n[$1]; len[at] = length($2) - 1; right[at] = $2 ~ /a/; reward[at] = $3
       if (n[$1] == 1 || len[at] < low[$1]) low[$1] = len[at]
       if (len[at] > high[$1]) high[$1] = len[at] }
     END { for (g in n) for (i = 1; i <= n[g]; i++) {
         at = g " " i; want = high[g] > low[g] ? 0.5 - (len[at] - low[g]) / (high[g] - low[g]) : 0
         if (!right[at] && want > 0) want = 0
         if ((d = reward[at] - want) > 1e-6 || d < -1e-6) { print at, len[at], right[at], reward[at], want; exit 1 }
         some += want != 0 } exit some == 0 }' groups.txt > diff.txt || die "length_group: $(cat diff.txt)"
say "length_group: measured within each group of 4"

several='[{name: plugin, library: plugin/vowels.so}, {name: hapo, right: contains, weight: 0.5}, {name: otc, right: contains, text: e}, {name: bleu, weight: 2}, {name: repetition, ngram: 1}]'
train alone 1 "$several"
train three 3 "$several"
cmp -s alone.txt three.txt || die "several rewards: other numbers on 3 ranks: $(diff alone.txt three.txt | head -4)"
say "plugin, hapo, otc, bleu and repetition together: the same rewards on 1 and 3 ranks"

rm toy/tokenizer.json
printf '{"prompt_ids": [1, 2, 3]}\n{"prompt_ids": [4, 5]}\n' > ids.jsonl
plain="data.prompts=ids.jsonl rollout.prompts_per_step=2 rollout.max_new_tokens=8 rollout.save=all checkpoint.every=0"
input ids.yaml ids 1
succeeds 1 "$STEMMA" train ids.yaml $plain 'reward=[{name: overlong, max_tokens: 8, buffer_tokens: 4}]'
lowest=$(grep -oh '"reward": *[-0-9.]*' ids/rollouts/*.jsonl | sed 's/.*: *//' | sort -g | head -1)
[ "$lowest" = -1.0 ] || die "overlong: found $lowest for 8 tokens, expected -1"
refused 2 'reward[0].name: found repetition, expected length or overlong: the model has no tokenizer.json, ..' 2 \
    "$STEMMA" train ids.yaml $plain run.folder=none 'reward=[{name: repetition}]'
say "overlong: judges token ids without text, which other rewards refuse"
