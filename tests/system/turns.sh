#!/usr/bin/env bash
# Rollouts of several turns with an environment: the same conversations on 1, 2 and 3 ranks, its text without loss, and
# an environment that dies, hangs or talks nonsense costs the groups that it was asked about.
. "$(dirname "$0")/common.sh"
cd "$work" || exit 1
. "$tests/support/toy.sh"

# An environment in a shell: a turn ends with an a or an e. An e is rewarded and ends it all; behind an a it goes on with "xyx".
# `how` says what happens with its second batch.
cat > environment.sh << 'EOF'
echo started >> "$0.starts"
n=0
while IFS= read -r line; do
    n=$((n + 1))
    printf '%s\n' "$line" >> "$0.asked"
    if [ "$n$(wc -l < "$0.starts")" = 21 ]; then
        case $1 in
        dies) kill -9 $$ ;;
        hangs) sleep 4321 & sleep 4321 ;;
        babbles) yes "this is no answer" ;;
        esac
    fi
    printf '%s\n' "$line" | sed 's/},{/}\n{/g' |
        sed -n 's/.*"answer":"\([^"]*\)".*"last":\([a-z]*\),"said":"\([a-z ]*\)".*"id":\([0-9]*\).*/\4 \2 \1 _\3/p' |
        awk -v how="$1" '{
            if (how == "errs" && /bear/) printf "{\"id\": %d, \"error\": \"no bears here\"}\n", $1
            else if (/e$/) printf "{\"id\": %d, \"done\": true, \"reward\": 1}\n", $1
            else if ($2 == "true") printf "{\"id\": %d, \"reward\": 0}\n", $1
            else printf "{\"id\": %d, \"append\": \"xyx\", \"reward\": 0.125}\n", $1 }'
done
EOF
for word in ant bear cat dogs elephant fox goose hen ibis jay koala lynx mole; do
    echo "{\"prompt\": \"once there was a $word and the $word said \", \"answer\": \"$word\"}"
done > prompts.jsonl
head -5 prompts.jsonl > few.jsonl
turns=('rollout.stop=[a, e]' rollout.ignore_eos=true rollout.max_new_tokens=20 rollout.max_turns=3 rollout.max_environment_tokens=12
    rollout.environment_timeout=2)
train() { # FOLDER RANKS HOW WORDS..
    rm -f environment.sh.starts environment.sh.asked
    input "$1.yaml" "$1" 3 'eval: { every: 3, prompts: few.jsonl, samples: 2 }\n'
    succeeds "$2" "$STEMMA" train "$1.yaml" rollout.save=all checkpoint.every=0 "${turns[@]}" \
        "rollout.environment=exec sh environment.sh $3" 'reward=[{name: environment}]' --precision=float64 "${@:4}"
    # of each response: text, ids, mask, reward, finish
    cat "$1"/rollouts/step-*.jsonl | grep -o '"text":"[^"]*"\|"ids":\[[0-9,]*\]\|"mask":\[[01,]*\]\|"reward":[-0-9.]*\|"finish":"[a-z]*"' > "$1.txt"
}
for ranks in 1 2 3; do
    train well.$ranks $ranks well
    cmp -s well.1.txt well.$ranks.txt || die "conversations differ on $ranks ranks: $(diff well.1.txt well.$ranks.txt | head -4)"
    [ "$(wc -l < environment.sh.starts)" = 1 ] || die "started $(wc -l < environment.sh.starts) times, expected once"
done
[ "$(grep -c text well.1.txt)" = 60 ] || die "expected 60 responses, found $(grep -c text well.1.txt)"
# a is token 1, and "xyx" are 24, 25, 24: the mask is 0 on the three that follow each 1, and there alone
awk -F'[][]' '/^"ids"/ { n = split($2, ids, ",") } /^"mask"/ { split($2, mask, ","); some++
        for (k = left = 0; k++ < n; left -= left > 0) {
            if (mask[k] != (left == 0) || (left == 2 && ids[k] != 25)) { print k ": " $0; exit 1 }
            if (ids[k] == 1 && left == 0) left = 4
        } } END { exit some < 10 }' well.1.txt > diff.txt || die "masks: $(cat diff.txt)"
awk -F'[":]+' '/^"text"/ { n = gsub(/axyx/, "&", $3); over = $3 ~ /e$/; text = $3 } /^"reward"/ { want = n * 0.125 + over
        if ($3 + 0 != want && $3 + 0 != want + 0.125) { print text, $3, want; exit 1 } }' well.1.txt > diff.txt || die "rewards: $(cat diff.txt)"
for word in '"use":"train","turn":1,"last":false' '"use":"train","turn":3,"last":true' '"use":"eval","turn":2'; do
    grep -q "$word" environment.sh.asked || die "the environment was never asked $word"
done
tr '{' '\n' < environment.sh.asked | sed -n 's/.*"conversation":\([0-9]*\).*"turn":\([0-9]*\),.*/\1 \2/p' | sort | uniq -d > twice.txt
[ ! -s twice.txt ] || die "asked twice about one turn: $(head -3 twice.txt)"
say "turns: the same on 1, 2 and 3 ranks, by one process; what the environment appends has no loss; rewards of turns add up"

train killed 2 dies
cmp -s well.1.txt killed.txt || die "an environment that dies once changes conversations: $(diff well.1.txt killed.txt | head -4)"
for how in hangs babbles; do
    for ranks in 1 3; do
        train $how.$ranks $ranks $how
        [ $how = babbles ] || grep -q 'rollout.environment: timed out after 2 s$' out || die "$how: $(cat out)"
    done
done
train errs 3 errs
[ "$(sed -n 's/.*"groups_failed": \([0-9]\).*/\1/p' errs/metrics.jsonl | sort -u | tr '\n' ' ')" = "0 1 " ] || die "errs: $(cat errs/metrics.jsonl)"
grep -q '1 of 5 groups are left out: prompts.jsonl:2: response 0: rollout.environment: no bears here$' out || die "errs: $(cat out)"
pgrep -f 'environment.sh [a-z]*$|sleep 4321$' > left.txt && die "an environment is left running: $(cat left.txt)"
say "an environment that dies is started again; one that hangs, errs or babbles costs no more than what it was asked"

# generate writes what score and grad read; tree and repeated agree
succeeds 2 "$STEMMA" export "$(checkpoint well.1 3)" --to model
for ranks in 1 3; do
    succeeds $ranks "$STEMMA" generate model few.jsonl --out g.$ranks.jsonl rollout.group_size=6 "${turns[@]}" \
        "rollout.environment=exec sh environment.sh well" --precision=float64
    grep -o '"ids":[^]]*\|"mask":[^]]*' g.$ranks.jsonl > g.$ranks.txt
done
cmp -s g.1.txt g.3.txt || die "generate: other conversations on 3 ranks"
grep -q mask g.1.txt || die "generate: no masks"
for forward in tree repeated; do
    succeeds 2 "$STEMMA" grad model g.1.jsonl --out $forward.h5 --forward $forward --precision=float64 objective.name=sft
done
h5diff -d 1e-12 tree.h5 repeated.h5 /grad /grad > diff.txt || die "grad: tree and repeated differ: $(head -3 diff.txt)"
say "generate with an environment; the gradients of tree and repeated agree"

input no.yaml no 1
for ranks in 1 2; do
    refused 2 'rollout.environment is missing; expected a command, since reward[0] is what it says' $ranks \
        "$STEMMA" train no.yaml 'reward=[{name: environment}]'
    refused 2 'rollout.max_new_tokens and max_environment_tokens: found 99, expected less than ..' $ranks "$STEMMA" train no.yaml 'rollout.environment=cat' rollout.max_environment_tokens=95
done
