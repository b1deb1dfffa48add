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

printf '{"text": "a"}\n{"txt": "b"}\n' > wrong.jsonl
refused 2 'wrong.jsonl:2: text: found nothing, expected a string' 0 "$STEMMA" tokenize model wrong.jsonl --out none.jsonl
[ ! -e none.jsonl ] || die "a wrong line leaves an output"
refused 1 'no/such/out.jsonl: cannot write: No such file or directory' 0 "$STEMMA" tokenize model texts.jsonl --out no/such/out.jsonl
printf '{"model": {"type": "Unigram"}}\n' > model/tokenizer.json
refused 2 'model/tokenizer.json: model: type: found "Unigram", supported are BPE and WordLevel' 0 \
    "$STEMMA" tokenize model texts.jsonl --out none.jsonl
say "$n texts, with and without special tokens"
