#!/usr/bin/env bash
# inputs/forms is what make.py says, and its model learns the forms; its tool, its database and its judge answer as the pages say.
. "$(dirname "$0")/common.sh"
if ! command -v python3 > /dev/null; then
    say "skipped: no python3, in which the programs of inputs/forms are written"
    exit 77
fi
cd "$tests/.." || die "no repository at $tests/.."
forms=inputs/forms

# answers WORDS..: what a program says to $work/asked; compared with stdin.
answers() {
    cat > "$work/expected"
    "$@" < "$work/asked" > "$work/said" || die "$*: exit code $?"
    diff "$work/said" "$work/expected" > "$work/diff" || die "$*: $(cat "$work/diff")"
}

mkdir -p "$work/inputs/lookup"
cp inputs/lookup/make.py "$work/inputs/lookup"
cp -r $forms "$work/inputs"
rm -rf "$work/$forms"/*.jsonl "$work/$forms"/init/*
python3 "$work/$forms/make.py" && python3 "$work/inputs/lookup/make.py" || die "make.py failed"
diff -r $forms "$work/$forms" > "$work/diff" || die "$forms is not what make.py writes: $(head -5 "$work/diff")"
for file in train test sft; do
    cmp "$work/inputs/lookup/$file.jsonl" inputs/lookup/$file.jsonl || die "inputs/lookup is not what make.py writes"
done
diff -r "$work/inputs/lookup/init" inputs/lookup/init > "$work/diff" || die "inputs/lookup/init: $(head -5 "$work/diff")"
cmp $forms/init/tokenizer.json $forms/model/tokenizer.json || die "$forms/model has another tokenizer than its recipe"
say "make.py writes the files of inputs/forms and inputs/lookup again, to the byte"

python3 $forms/make.py "$work/sft.jsonl" || die "make.py failed"
LIMIT_S=120 succeeds 2 "$STEMMA" train $forms/sft.yaml run.folder="$work/run" run.steps=60 data.prompts="$work/sft.jsonl" optim.warmup_steps=5
losses() { grep -o '"loss": [0-9.e-]*' "$work/run/metrics.jsonl" | "$1" -n 1 | cut -d' ' -f2; }
awk "BEGIN { exit !($(losses tail) < 0.6 * $(losses head)) }" || die "$forms/sft.yaml: the loss went from $(losses head) to $(losses tail)"
rm "$work/sft.jsonl"
say "$forms/sft.yaml: the loss goes from $(losses head) to $(losses tail) in 60 steps"

# Known, unknown to the tool, no JSON, another tool; a turn without a call is the last.
call() { printf '<tool_call>\\n%s\\n</tool_call>' "$1"; }
item() { printf '{\\"name\\": \\"%s\\", \\"arguments\\": {\\"item\\": \\"%s\\"}}' "$1" "$2"; }
turn() { printf '{"id": %d, "said": "%s", "prices": {"tea": 12}}' "$1" "$2"; }
printf '{"turns": [%s, %s, %s, %s, %s]}\n' "$(turn 1 "$(call "$(item price tea)")")" "$(turn 2 "$(call "$(item price rice)")")" \
    "$(turn 3 "$(call tea)")" "$(turn 4 "$(call "$(item time tea)")")" "$(turn 5 '<answer> 12</answer>')" > "$work/asked"
answers python3 $forms/environment.py << 'END'
{"id": 1, "append": "\n<result> 12</result>\n"}
{"id": 2, "append": "\n<result> none</result>\n"}
{"id": 3, "append": "\n<result> none</result>\n"}
{"id": 4, "append": "\n<result> none</result>\n"}
{"id": 5, "done": true}
END

# The same, the same rows otherwise asked for, other rows, a word missing, a write, no query, one without an end.
query() { printf ', {"id": %d, "answer": "SELECT name FROM users WHERE age > 30", "response": "%s"}' "$1" "$2"; }
sql() { printf '<answer>\\n```sql\\n%s\\n```\\n</answer>' "$1"; }
{
    query 1 "$(sql 'SELECT name FROM users WHERE age > 30')"
    query 2 "$(sql 'SELECT name FROM users WHERE NOT age <= 30 ORDER BY city')"
    query 3 "$(sql 'SELECT name FROM users WHERE age > 31 OR age < 5 LIMIT 3')"
    query 4 "$(sql 'SELECT name FROM users age > 30')"
    query 5 "$(sql 'DELETE FROM users')"
    query 6 'SELECT name FROM users WHERE age > 30'
    query 7 "$(sql 'SELECT count(*) FROM users a, users b, users c, users d, users e')"
} | sed 's/^, /{"responses": [/; s/$/]}/' > "$work/asked"
rewards() { printf '%s\n' "$@" | awk '{ printf "{\"id\": %d, \"reward\": %s}\n", NR, $1 }'; }
answers python3 $forms/run_sql.py result < <(rewards 1.0 1.0 0.0 0.0 0.0 0.0 0.0)
answers python3 $forms/run_sql.py syntax < <(rewards 1.0 1.0 1.0 0.0 0.0 0.0 0.0)

# Twenty steps of letters that have all but a greeting: the rubric is met, so it grows, by what is lacking; the file goes on from there.
letter() { printf '{"id": %d, "reader": "Anna", "event": "concert", "day": "Friday", "response": "%s"}' "$1" "$2"; }
batch() { printf '{"responses": [%s, %s]}\n' "$(letter "$1" 'Hello, the concert is on Friday. Yours, Hugo.')" "$(letter "$(($1 + 1))" 'Dear Anna, it is soon.')"; }
for n in $(seq 10); do printf '{"responses": [%s]}\n' "$(letter "$n" 'Hello, the concert is on Friday. Yours, Hugo.')"; done > "$work/asked"
answers python3 $forms/judge.py "$work/rubric.json" < <(seq 10 | sed 's/.*/{"id": &, "reward": 1.0}/')
batch 11 > "$work/asked"
answers python3 $forms/judge.py "$work/rubric.json" < <(seq 11 12 | sed 's/.*/{"id": &, "reward": 0.5}/')
for n in $(seq 21 2 37); do batch "$n"; done > "$work/asked"
answers python3 $forms/judge.py "$work/rubric.json" < <(seq 21 38 | sed 's/.*/{"id": &, "reward": 0.5}/')
grep -c 'greets the reader' "$work/rubric.json" | grep -qx 2 && ! grep -q 'says the day' "$work/rubric.json" ||
    die "the rubric's versions: $(cat "$work/rubric.json")"
say "the tool, the database and the judge answer as they should"

number() { grep -o "\"$1\": [-0-9.e]*" "$work/run/metrics.jsonl" | "$2" -n 5 | awk '{ sum += $2 } END { print sum / NR }'; }
for method in otc dianjin-r1; do
    rm -rf "$work/run"
    LIMIT_S=120 succeeds 2 "$STEMMA" train inputs/objectives/$method.yaml run.folder="$work/run" run.steps=30 rollout.save=none
    first=$(number reward_mean head) last=$(number reward_mean tail)
    awk "BEGIN { exit !($last > $first + 0.3) }" || die "$method: the mean reward goes from $first to $last in 30 steps"
    say "$method: the mean reward goes from $first to $last in 30 steps"
done
