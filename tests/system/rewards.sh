#!/usr/bin/env bash
# Rewards within a run: a plug-in built by the example's makefile, one that looks at groups, one with a memory, a command
# that stays; the same numbers on 1 and 3 ranks.
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

# A command that stays: the share of vowels again. `how` says what happens with its second batch.
cat > server.sh << 'END'
echo started >> "$0.starts"
n=0
while IFS= read -r line; do
    n=$((n + 1))
    if [ "$n$(wc -l < "$0.starts")" = 21 ]; then
        case $1 in
        dies) kill -9 $$ ;;
        hangs) sleep 1234 & sleep 1234 ;;
        babbles) yes "this is no number" ;;
        esac
    fi
    printf '%s\n' "$line" | sed 's/},{/}\n{/g' | sed -n 's/.*"response":"\([a-z ]*\)".*"id":\([0-9]*\).*/\2 _\1/p' |
        awk '{ letters = gsub(/[a-z]/, "&"); vowels = gsub(/[aeiou]/, "&")
               printf "{\"id\": %d, \"reward\": %.17g}\n", $1, letters ? vowels / letters : 0 }'
done
END
served() { # FOLDER RANKS HOW
    rm -f server.sh.starts
    train "$1" "$2" "[{name: command, style: server, command: \"exec sh server.sh $3\", timeout_s: 3}]"
}
for ranks in 1 3; do
    served "served.$ranks" $ranks well
    cmp -s vowels.txt "served.$ranks.txt" || die "server: $(diff vowels.txt "served.$ranks.txt" | head -4)"
    [ "$(wc -l < server.sh.starts)" = 1 ] || die "server: started $(wc -l < server.sh.starts) times, expected once"
done
served killed 3 dies
cmp -s vowels.txt killed.txt || die "a server that dies once changes rewards: $(diff vowels.txt killed.txt | head -4)"
[ "$(wc -l < server.sh.starts)" = 2 ] || die "a server that dies: started $(wc -l < server.sh.starts) times, expected 2"
for how in hangs babbles; do
    for ranks in 1 3; do
        rm -f server.sh.starts
        input "$how.yaml" $how.$ranks 3
        succeeds $ranks "$STEMMA" train $how.yaml checkpoint.every=0 \
            "reward=[{name: command, style: server, command: \"exec sh server.sh $how\", timeout_s: 1}]"
        [ $how = babbles ] || [ "$(field $how.$ranks/metrics.jsonl 2 groups_failed)" = 5 ] ||
            die "a server that $how: $(cat $how.$ranks/metrics.jsonl)"
        [ "$(field $how.$ranks/metrics.jsonl 3 groups_failed)" = 0 ] || die "a server that $how: $(cat $how.$ranks/log.txt)"
        [ $how = babbles ] || grep -q 'step 2: 5 of 5 groups .*reward\[0\].command: timed out after 1 s$' out || die "$how: $(cat out)"
    done
done
pgrep -f 'server.sh [a-z]*$|sleep 1234$' > left.txt && die "a server is left running: $(cat left.txt)"
say "server: one process for a run, the same rewards on 1 and 3 ranks; death costs a start, silence a step, nonsense neither"

# A command that compares: the text with more vowels is better in nine of ten cases. What objectives make of it in a run is what
# grad makes of the rollouts that it leaves.
cat > judge.sh << 'END'
while IFS= read -r line; do
    printf '%s\n' "$line" | sed 's/},{/}\n{/g' |
        sed -n 's/.*"response":"\([a-z ]*\)".*"other":"\([a-z ]*\)".*"id":\([0-9]*\).*/\3:\1:\2/p' |
        awk -F: '{ one = gsub(/[aeiou]/, "&", $2); two = gsub(/[aeiou]/, "&", $3)
                   printf "{\"id\": %d, \"preference\": %s}\n", $1, (one > two ? 0.9 : one < two ? 0.1 : 0.5) }'
done
END
compared() { # FOLDER RANKS WORDS..
    input "$1.yaml" "$1" 2
    succeeds "$2" "$STEMMA" train "$1.yaml" rollout.save=all rollout.max_new_tokens=8 --precision=float64 "${@:3}" \
        'reward=[{name: preference, command: "exec sh judge.sh"}]'
    grep -ho '"preferences":\[\[[^a-z]*\]\]\|"reward":[0-9.]*' "$1"/rollouts/*.jsonl > "$1.txt"
    [ "$(grep -c preferences "$1.txt")" = 10 ] && grep -q '0\.9' "$1.txt" || die "$1: no preferences: $(head -3 "$1.txt")"
}
play="objective.name=self_play objective.beta=0.1"
compared played.1 1 $play checkpoint.every=1
compared played.3 3 $play checkpoint.every=0
cmp -s played.1.txt played.3.txt || die "preference: others on 3 ranks: $(diff played.1.txt played.3.txt | head -4)"
succeeds 0 "$STEMMA" grad "$(checkpoint played.1 1)" played.1/rollouts/step-00000002.jsonl --out grad.h5 --precision=float64 $play
# grad rounds recorded log-probs to single precision
loss=$(h5dump -m %.17g -d /loss grad.h5 | sed -n 's/.*(0): //p') found=$(field played.1/metrics.jsonl 2 loss)
holds "($found - $loss)^2 < 1e-14" "the loss of a run on preferences ($found) is that of grad on its rollouts ($loss)"
for other in replay.size=4 rollout.refine=true; do
    refused 2 "reward[0].name: found preference beside ${other%=*}, expected one of the two" 2 "$STEMMA" train played.1.yaml $other \
        run.folder=none 'reward=[{name: preference, command: "cat"}]'
done
say "preference: the same on 1 and 3 ranks; self_play on them has grad's loss"

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
