#!/bin/bash
# What the program says to wrong input: one message on rank 0 that names file and line or key, what was found and what
# was expected; exit code 2 on every rank; no hang.
. "$(dirname "$0")/common.sh"
cd "$work" || exit 1

# The commands that the program knows, from its own help; one that has a source file must be among them.
"$STEMMA" --help > help.txt || die "stemma --help fails"
knows() {
    grep -q "^  $1 " help.txt && return
    [ ! -e "$tests/../src/cli/$1.c" ] || die "stemma --help does not list $1"
    return 1
}

n=0
# wrong MESSAGE WORDS..: refused before anything starts.
wrong() {
    refused 2 "$1" "${ranks:-0}" "$STEMMA" "${@:2}"
    [ ! -s out ] || die "${*:2}: stdout holds $(cat out)"
    n=$((n + 1))
}

# A file of input with a line after what every file needs.
input() {
    printf 'run: {folder: f}\nmodel: {path: m}\ndata: {prompts: p}\nreward: [{name: exact}]\n%b' "$1" > in.yaml
}

# Help and version

succeeds 0 "$STEMMA"
cmp -s out help.txt || die "stemma without a command does not print its help"
succeeds 0 "$STEMMA" -h
succeeds 0 "$STEMMA" --version
[ "$(cat out)" = "stemma $("$STEMMA" --version | cut -d' ' -f2)" ] && [ "$(wc -w < out)" = 2 ] || die "--version prints $(cat out)"
for command in $(sed -n 's/^  \([a-z]*\)  .*/\1/p' help.txt); do
    succeeds 0 "$STEMMA" "$command" --help
    grep -q "^usage: stemma $command" out || die "stemma $command --help shows no usage"
    ! grep -q ' $' out || die "stemma $command --help: spaces at the end of a line"
    grep -q '^flags: ' out || die "stemma $command --help lists no flags"
    [ "$(awk 'length > 100' out)" = "" ] || die "stemma $command --help: wider than 100: $(awk 'length > 100' out)"
    mv out once.txt
    succeeds 0 "$STEMMA" help "$command"
    cmp -s out once.txt || die "stemma help $command and stemma $command --help differ"
    succeeds 3 "$STEMMA" "$command" --help
    cmp -s out once.txt || die "stemma $command --help on 3 ranks is not printed once"
    rm -f once.txt
done
succeeds 0 "$STEMMA" options
for key in run.steps reward objective.kl_coef --precision --maxh eval.every; do
    grep -q -e "^  $key " out || die "stemma options does not list $key"
done
succeeds 0 "$STEMMA" options --markdown
head -1 out | grep -q '^| option | default |' || die "stemma options --markdown is no table"
say "help, version and the table of options: printed once at 1 and 3 ranks, within 100 columns"

# Commands and plain options

for ranks in 0 1 3; do
    wrong 'optoins: unknown command, did you mean options?; `stemma --help` lists them' optoins
    wrong 'qqqqqqqq: unknown command; `stemma --help` lists them' qqqqqqqq
    wrong 'command line: --markdwn: unknown option; did you mean --markdown?' options --markdwn
done
ranks=0
wrong 'command line: --out: not an option of `stemma options`' options --out x
wrong 'command line: run.steps: not an option of `stemma options`' options run.steps=3
wrong 'command line: --markdown: found maybe, expected true or false' options --markdown=maybe
wrong 'command line: found `more`, expected only options ..' options more
say "$n refusals of commands and options"

# Values

values() { # the command and what follows it, to which a wrong value is added
    wrong 'command line: --precision: found double, expected float32, float64 or bfloat16' "$@" --precision double
    wrong 'command line: --precision: found float46, expected float32, float64 or bfloat16; did you mean float32?' "$@" --precision=float46
    wrong 'command line: --backend: the value is missing; expected --backend VALUE' "$@" --backend
    wrong 'command line: memory.limit: found much, expected auto or a size like 12GiB' "$@" memory.limit=much
    wrong 'command line: memory.limit: found 0, expected auto or a size like 12GiB' "$@" memory.limit=0
    wrong 'command line: parallel.suffix: found 0, expected auto or a whole number of at least 1' "$@" parallel.suffix=0
    wrong 'command line: parallel.sufix: unknown key; did you mean parallel.suffix?' "$@" parallel.sufix=2
    wrong 'command line: tree.across_groups: found 7, expected true or false' "$@" tree.across_groups=7
    wrong 'command line: tree.min_shared_tokens: found 1.5, expected a whole number of at least 1' "$@" tree.min_shared_tokens=1.5
    wrong 'command line: tree.min_shared_tokens: found nothing, expected a whole number of at least 1' "$@" tree.min_shared_tokens=
    wrong 'command line: tree.min_shared_tokens: found a list, expected a whole number of at least 1' "$@" 'tree.min_shared_tokens=[1]'
    wrong 'command line: memory.recompute: found alway, expected auto, always or never; did you mean always?' "$@" memory.recompute=alway
}

if knows score; then
    values score M G.jsonl --out o.h5
    wrong 'command line: --out is missing; expected a file to write' score M G.jsonl
    wrong 'command line: --temperature: found -1, expected a number of at least 0' score M G.jsonl --out o.h5 --temperature -1
    wrong 'command line: --forward: found twig, expected tree, prompt or repeated' score M G.jsonl --out o.h5 --forward twig
    wrong 'command line: objective.clip_low: not an option of `stemma score`' score M G.jsonl --out o.h5 objective.clip_low=0.1
    wrong 'command line: found 1 argument, expected stemma score ..' score M --out o.h5
    wrong 'command line: found `b`, expected only score ..' score M G.jsonl b --out o.h5
    wrong 'command line: found 0 arguments, expected stemma score ..' score --out o.h5
fi
if knows grad; then
    wrong 'objective.name: found gropo, expected grpo, disco, ..' grad M G.jsonl --out o.h5 objective.name=gropo
    wrong 'command line: objective.clip_low: found -0.5, expected a number of at least 0' grad M G.jsonl --out o.h5 objective.clip_low=-0.5
    wrong 'command line: objective.kl_estimator: found k4, expected k1, k2 or k3; did you mean k1?' grad M G.jsonl --out o.h5 objective.kl_estimator=k4
    wrong 'objective.max_tokens: found 0, expected at least 1 with objective.aggregate=fixed-length' grad M G.jsonl --out o.h5 objective.aggregate=fixed-length
fi
if knows generate; then
    wrong 'command line: rollout.group_size: found 0, expected a whole number of at least 1' generate M P.jsonl --out o.jsonl rollout.group_size=0
    wrong 'command line: rollout.top_p: found 1.1, expected a number from 0 to 1' generate M P.jsonl --out o.jsonl rollout.top_p=1.1
    wrong 'command line: rollout.temprature: unknown key; did you mean rollout.temperature?' generate M P.jsonl --out o.jsonl rollout.temprature=1
    wrong 'rollout.min_new_tokens: found 9, expected at most rollout.max_new_tokens, 8' generate M P.jsonl --out o.jsonl rollout.min_new_tokens=9 rollout.max_new_tokens=8
    wrong 'command line: rollout.stop: found a map, expected a list of texts' generate M P.jsonl --out o.jsonl 'rollout.stop={a: b}'
fi
if knows tokenize; then
    wrong 'command line: --out is missing; expected a file to write' tokenize M T.jsonl
    wrong 'command line: --special: found 2, expected true or false' tokenize M T.jsonl --out o.jsonl --special=2
    wrong 'command line: --precision: not an option of `stemma tokenize`' tokenize M T.jsonl --out o.jsonl --precision float64
    wrong 'command line: found 1 argument, expected stemma tokenize ..' tokenize M --out o.jsonl
fi
if knows inspect; then
    wrong 'command line: found 0 arguments, expected stemma inspect F.h5' inspect
    wrong 'command line: found `b.h5`, expected only inspect F.h5' inspect a.h5 b.h5
    wrong 'command line: --to: not an option of `stemma inspect`' inspect a.h5 --to d
fi
if knows export; then
    wrong 'command line: --to is missing; expected a folder to write' export c.h5
    wrong 'command line: --dtype: found float16, expected float32 or bfloat16; did you mean bfloat16?' export c.h5 --to d --dtype float16
fi
say "$n refusals, those of values with them"

# Input files

files() { # the command that reads one
    wrong 'no.yaml: cannot be read: No such file or directory' "$1" no.yaml
    wrong '.: cannot be read: Is a directory' "$1" .
    wrong "command line: found 0 arguments, expected stemma $1 .." "$1"
    input 'optim: {lr: fast}\n'
    wrong 'in.yaml:5: optim.lr: found fast, expected a number of at least 0' "$1" in.yaml
    input '\n\noptim:\n  # a comment\n  lr: -1\n'
    wrong 'in.yaml:9: optim.lr: found -1, expected a number of at least 0' "$1" in.yaml
    input 'optim: {lrr: 1}\n'
    wrong 'in.yaml:5: optim.lrr: unknown key; did you mean optim.lr?' "$1" in.yaml
    input 'optm: {lr: 1}\n'
    wrong 'in.yaml:5: optm: unknown section; did you mean optim?' "$1" in.yaml
    input 'optim: {lr: 1, lr: 2}\n'
    wrong 'in.yaml:5: optim.lr: given twice' "$1" in.yaml
    input 'run: {seed: 1}\n'
    wrong 'in.yaml:5: run: given twice, first in line 1' "$1" in.yaml
    input 'optim: {betas: [0.9, 1.0]}\n'
    wrong 'in.yaml:5: optim.betas: found 1.0, expected two numbers from 0 to below 1' "$1" in.yaml
    input 'optim: [lr, 1]\n'
    wrong 'in.yaml:5: optim: found a list, expected keys with values' "$1" in.yaml
    input 'optim: {lr: 1\neval: {every: 1}\n'
    wrong 'in.yaml:6: found what is not YAML: ..' "$1" in.yaml
    input 'optim:\n\tlr: 1\n'
    wrong 'in.yaml:6: found what is not YAML: ..' "$1" in.yaml
    input 'optim: {lr: \0377}\n'
    wrong 'in.yaml: byte ..' "$1" in.yaml
    input '---\nrun: {seed: 1}\n'
    wrong 'in.yaml:6: found a second YAML document, expected one' "$1" in.yaml
    input 'check: true\n'
    wrong 'in.yaml:5: check: only for the command line, as --check' "$1" in.yaml
    input 'objective: {name: gropo}\n'
    wrong 'objective.name: found gropo, expected grpo, disco, ..' "$1" in.yaml
    input ''
    wrong 'reward[0].name: found "exakt", expected exact, numeric, ..' "$1" in.yaml 'reward=[{name: exakt}]'
    wrong 'reward[0].pattern: found "(a", expected a PCRE2 pattern: missing closing parenthesis at character 3' "$1" in.yaml 'reward=[{name: format, pattern: (a}]'
    wrong 'reward: found an empty list, expected at least one reward like [{name: exact}]' "$1" in.yaml 'reward=[]'
    wrong 'command line: reward[0].wieght: unknown key; did you mean weight?' "$1" in.yaml 'reward=[{name: exact, wieght: 2}]'
    wrong 'command line: run.steps: found ten, expected a whole number of at least 0' "$1" in.yaml run.steps=ten
    printf 'model: {path: m}\n' > in.yaml
    wrong 'in.yaml: run.folder is missing; expected a value: ..' "$1" in.yaml
    printf -- '- a\n' > in.yaml
    wrong 'in.yaml:1: found a list, expected sections like run: { folder: runs/first }' "$1" in.yaml
    : > in.yaml
    wrong 'in.yaml: run.folder is missing; expected a value: ..' "$1" in.yaml
}

for command in train eval; do
    knows $command || continue
    [ $command = eval ] || files $command # the same reader; once is enough
    for ranks in 1 3; do
        wrong 'no.yaml: cannot be read: No such file or directory' $command no.yaml
        input 'optim:\n  lr: fast\n'
        wrong 'in.yaml:6: optim.lr: found fast, expected a number of at least 0' $command in.yaml
        input 'optim: {lr: 1\n'
        wrong 'in.yaml:6: found what is not YAML: ..' $command in.yaml
        wrong 'command line: --chek: unknown option; did you mean --check?' $command in.yaml --chek
    done
    ranks=0
    [ ! -e f ] || die "stemma $command made the run folder for wrong input"
done
say "$n refusals in all, input files and 3 ranks with them"
