#!/usr/bin/env bash
# stemma bench as users run it: rows for every shape and forward, alone and on 2 and 3 ranks; what is left out, what is
# refused. Nothing here depends on how fast the machine is.
. "$(dirname "$0")/common.sh"
model=$fixtures/parity/qwen3
groups=$fixtures/parity/edge_cases/groups.jsonl
tiny="bench.hidden=32 bench.layers=2 bench.heads=4 bench.kv_heads=2 bench.intermediate=48 bench.vocab=64 bench.repeats=2"

# column NAME FILE.csv: the cells under that name.
column() { awk -F, -v name="$1" 'NR == 1 { for (i = 1; i <= NF; i++) if ($i == name) c = i; next } { print $c }' "$2"; }

# holds WHAT FOUND EXPECTED
holds() { [ "$(echo $2)" = "$3" ] || die "$1: found $(echo $2), expected $3"; }

succeeds 0 "$STEMMA" bench --out "$work/a.json" $tiny bench.prompt='[40, 20]' bench.answer=5 bench.group_size='[2, 3]'
holds prompts "$(column prompt "$work/a.csv")" "40 40 40 40 40 40 40 40 20 20 20 20 20 20 20 20"
holds groups "$(column group_size "$work/a.csv")" "2 2 2 2 3 3 3 3 2 2 2 2 3 3 3 3"
holds what "$(column what "$work/a.csv" | head -4)" "tree prompt repeated decode"
holds tokens "$(column tokens "$work/a.csv" | head -8)" "49 49 88 49 54 54 132 54"
[ "$(grep -c '"what"' "$work/a.json")" = 16 ] || die "a.json holds $(grep -c '"what"' "$work/a.json") rows, expected 16"
for word in processor cores ranks threads date version seconds gemm_share peak_bytes prefix_forward predicted_s; do
    grep -q "\"$word\":" "$work/a.json" || die "a.json has no $word"
done
awk -F, 'NR > 1 && ($8 <= 0 || $9 > $8 || $10 <= 0 || $11 <= 0 || $13 <= 0) { exit 1 }' "$work/a.csv" ||
    die "times, rates and memory: $(cat "$work/a.csv")"
[ "$(grep -c 'repeated / tree' "$work/out")" = 4 ] || die "no comparison of tree and repeated: $(cat "$work/out")"
if command -v gnuplot > /dev/null; then
    [ "$(head -c 4 "$work/a.png" | tail -c 3)" = PNG ] || die "a.png is no picture"
fi
say "a list of prompts and of group sizes: a row for each, with the tokens that it must compute"

for ranks in 1 2 3; do
    succeeds "$ranks" "$STEMMA" bench --out "$work/n.json" $tiny bench.prompt=40 bench.ratio=8 bench.group_size='[2, 3]'
    holds "tokens at $ranks ranks" "$(column tokens "$work/n.csv")" "49 49 88 49 54 54 132 54"
    holds "FLOPs at $ranks ranks" "$(column flops "$work/n.csv")" "$(echo $(column flops "$work/a.csv" | head -8))"
    grep -q "\"ranks\": $ranks," "$work/n.json" || die "n.json does not tell of $ranks ranks"
done
succeeds 2 "$STEMMA" bench --out "$work/g.json" --model "$model" --groups "$groups" bench.repeats=1 --precision float64 \
    bench.forwards='[repeated, tree]'
holds "rows of a file" "$(column what "$work/g.csv")" "tree repeated"
holds "groups of a file" "$(column groups "$work/g.csv")" "$(echo $(wc -l < "$groups") $(wc -l < "$groups"))"
succeeds 0 "$STEMMA" bench --out "$work/m.json" --model "$model" bench.prompt=30 bench.answer=4 bench.forwards=tree
grep -q '"architecture": "qwen3"' "$work/m.json" || die "--model: $(head -30 "$work/m.json")"
say "the same counts on 1, 2 and 3 ranks; a model's folder and a file of groups"

succeeds 0 "$STEMMA" bench --out "$work/l.json" $tiny bench.limit_s=1e-9
[ "$(grep -c 'left out: .* more than bench.limit_s' "$work/out")" = 4 ] || die "bench.limit_s: $(cat "$work/out")"
[ "$(grep -c '"left_out"' "$work/l.json")" = 4 ] || die "bench.limit_s: $(cat "$work/l.json")"
succeeds 2 "$STEMMA" bench --out "$work/c.json" --check $tiny bench.sweep=true
grep -q '^84 shapes, 336 measurements of 2 repeats' "$work/out" || die "bench.sweep --check: $(cat "$work/out")"
[ ! -e "$work/c.json" ] || die "--check wrote a result"
say "what is over the limit is left out and says so; --check counts a sweep"

for ranks in 0 2; do
    refused 2 "command line: --out is missing.." $ranks "$STEMMA" bench
    refused 2 "command line: bench.prompt: found 2.5, expected a whole number.." $ranks \
        "$STEMMA" bench --out "$work/x.json" bench.prompt=2.5
    refused 2 "command line: bench.forwards: found tre.." $ranks "$STEMMA" bench --out "$work/x.json" bench.forwards=tre
    refused 2 "bench.hidden: found 30, expected an even multiple of bench.heads, 8" $ranks \
        "$STEMMA" bench --out "$work/x.json" bench.hidden=30
    refused 2 "bench.kv_heads: found 3, expected a divisor of bench.heads, 8" $ranks \
        "$STEMMA" bench --out "$work/x.json" bench.kv_heads=3
    refused 2 "bench.answer: found a value beside bench.ratio.." $ranks \
        "$STEMMA" bench --out "$work/x.json" bench.answer=4 bench.ratio=2
    refused 2 "command line: --model is missing.." $ranks "$STEMMA" bench --out "$work/x.json" --groups "$groups"
    refused 2 "bench.prompt: found a value beside --groups.." $ranks \
        "$STEMMA" bench --out "$work/x.json" --model "$model" --groups "$groups" bench.prompt=4
    refused 2 "bench.prompt: found 99999 with answers of 256.." $ranks \
        "$STEMMA" bench --out "$work/x.json" --model "$model" bench.prompt=99999
    refused 2 "--out $work/no/x.json: .." $ranks "$STEMMA" bench --out "$work/no/x.json" $tiny
done
[ ! -e "$work/x.json" ] || die "a refused command wrote a result"
say "refusals, alone and on 2 ranks"
