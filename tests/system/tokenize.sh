#!/bin/bash
# `stemma tokenize` on files: recorded ids come out, with and without special tokens; wrong files are refused by name.
. "$(dirname "$0")/common.sh"
cd "$work" || exit 1

mkdir model
cp "$fixtures/tokenizers/small/legacy.json" model/tokenizer.json
grep '"tokenizers/small/legacy.json"' "$fixtures/tokenizers/small/vectors.jsonl" > vectors.jsonl
n=$(wc -l < vectors.jsonl)
[ "$n" -ge 100 ] || die "vectors.jsonl holds $n lines, expected at least 100"

# The lists of ids under a key, one a line, without spaces.
ids() { sed -E "s/.*\"$1\": ?\[([^]]*)\].*/\1/; s/ //g" "$2"; }

sed -E 's/^.*("text":".*"),"ids":.*$/{\1}/' vectors.jsonl > texts.jsonl
for special in '' --special; do
    succeeds 0 "$STEMMA" tokenize model texts.jsonl --out ids.jsonl $special
    ids "ids${special:+_special}" vectors.jsonl > expected
    ids ids ids.jsonl > found
    cmp -s expected found || die "tokenize $special: line $(cmp expected found | sed 's/.*line //') differs"
done
[ "$(wc -l < ids.jsonl)" = "$n" ] || die "ids.jsonl holds $(wc -l < ids.jsonl) lines, expected $n"
succeeds 0 "$STEMMA" tokenize model/tokenizer.json texts.jsonl --out file.jsonl --special # the file itself
cmp -s ids.jsonl file.jsonl || die "a tokenizer.json and its folder give different ids"

# A file of several batches: any number of threads writes what the lines alone give, in order; it holds lines of all
# spellings: other keys, escapes, blank lines, the mark of a byte order, no end of the last line.
export OMP_DYNAMIC=false
{
    printf '\xEF\xBB\xBF'
    cat texts.jsonl
    printf '{"n": {"text": 1}, "text": "other keys"}\n\n \t\r\n\t{ "text" :"\\u00e9\\ud83d\\ude00\\n\\u0001\\/\\"" } \r\n{"text": ""}\n'
} > odd.jsonl
for _ in 1 2 3 4 5 6 7 8; do sed '1s/^\xEF\xBB\xBF//' odd.jsonl; done > eight.jsonl
for _ in $(seq 60); do cat eight.jsonl; done > many.jsonl
printf '{"text": "the last"}' >> many.jsonl
succeeds 0 "$STEMMA" tokenize model odd.jsonl --out once.jsonl
[ "$(wc -l < once.jsonl)" = $((n + 3)) ] || die "odd.jsonl gives $(wc -l < once.jsonl) lines, expected $((n + 3))"
for _ in $(seq 480); do cat once.jsonl; done > expected
for threads in 1 2 7; do
    OMP_NUM_THREADS=$threads succeeds 0 "$STEMMA" tokenize model many.jsonl --out many.$threads
    [ "$(wc -l < many.$threads)" = $((480 * (n + 3) + 1)) ] || die "$threads threads: $(wc -l < many.$threads) lines"
    head -n -1 many.$threads | cmp -s expected - || die "$threads threads do not write what the lines alone give"
done
succeeds 0 "$STEMMA" tokenize model <(cat many.jsonl) --out piped.jsonl # what cannot be read twice
cmp -s many.1 piped.jsonl || die "a pipe gives other lines than a file"

# The first of several bad lines is named, whichever thread meets one first, and what was there before stays.
awk 'NR % 40000 == 30001 { print "{\"text\": 7}" } NR == 30100 { print "{" } { print }' many.jsonl > bad.jsonl
cp ids.jsonl kept.jsonl
OMP_NUM_THREADS=7 refused 2 'bad.jsonl:30001: text: found 7, expected a string' 0 \
    "$STEMMA" tokenize model bad.jsonl --out kept.jsonl
cmp -s ids.jsonl kept.jsonl || die "a wrong line changes an output that was there"
[ ! -e kept.jsonl.part ] || die "a wrong line leaves a part of an output"

printf '{"text": "a"}\n{"txt": "b"}\n' > wrong.jsonl
refused 2 'wrong.jsonl:2: text: found nothing, expected a string' 0 "$STEMMA" tokenize model wrong.jsonl --out none.jsonl
[ ! -e none.jsonl ] || die "a wrong line leaves an output"
refused 1 'no/such/out.jsonl: cannot write: No such file or directory' 0 "$STEMMA" tokenize model texts.jsonl --out no/such/out.jsonl
printf '{"model": {"type": "Unigram"}}\n' > model/tokenizer.json
refused 2 'model/tokenizer.json: model: type: found "Unigram", supported are BPE and WordLevel' 0 \
    "$STEMMA" tokenize model texts.jsonl --out none.jsonl
say "$n texts, with and without special tokens"
