#!/bin/bash
# A checkpoint that ends early, at each 4 KiB, or has a wrong bit in any of its datasets: refused by name, and the run
# goes on from the one before. `damage.sh all`: all of them, for the soak; else some.
. "$(dirname "$0")/common.sh"
cd "$work" || exit 1
. "$tests/support/toy.sh"
every=7
[ "${1:-some}" != all ] || every=1

input run.yaml run 4 'checkpoint: { every: 2, keep: 9 }\nparallel: { machine: none }\n'
succeeds 0 "$STEMMA" train run.yaml
older=$(checkpoint run 2) newest=$(checkpoint run 4)
cp "$newest" whole.h5
bytes=$(stat -c %s whole.h5)

# refuses WORDS: the newest one, naming it and saying WORDS (a pattern).
refuses() {
    succeeds 0 "$STEMMA" train run.yaml run.steps=9 --check
    grep -q "^$newest: $1" out && grep -q "^going on from $older, " out || die "expected $newest: $1: $(cat out)"
}

# flip PLACE BIT
flip() {
    local byte
    byte=$(od -An -tu1 -j "$1" -N 1 "$newest")
    printf "\\x$(printf %x $((byte ^ (1 << $2))))" | dd of="$newest" bs=1 seek="$1" conv=notrunc status=none
}

n_lengths=0
for ((n = 0; n < bytes; n += 4096 * every)); do
    head -c $n whole.h5 > "$newest"
    refuses "\\(truncated: has $n bytes, expected $bytes\\|has $n bytes, expected a checkpoint\\)"
    n_lengths=$((n_lengths + 1))
done
head -c $((bytes - 1)) whole.h5 > "$newest"
refuses "truncated: has $((bytes - 1)) bytes, expected $bytes"
say "a checkpoint of $bytes bytes that ends after 0, $((4096 * every)), .. of them ($n_lengths lengths), or one early, is refused"

# Where each dataset lies: "OFFSET BYTES".
h5dump -p -H whole.h5 | awk '$1 == "SIZE" { size = $2 } $1 == "OFFSET" { print $2, size }' > places
[ "$(wc -l < places)" -gt 40 ] || die "h5dump tells of $(wc -l < places) datasets"
cp whole.h5 "$newest"
n_places=0
while read -r offset size; do
    place=$((offset + (RANDOM * 32768 + RANDOM) % size)) bit=$((RANDOM % 8))
    flip $place $bit
    refuses 'damaged: '
    flip $place $bit
    n_places=$((n_places + 1))
done < <(awk "NR % $every == 2 % $every" places) # with config.json, which is hashed with the rest
cmp "$newest" whole.h5 || die "the bits were not put back"
succeeds 0 "$STEMMA" train run.yaml run.steps=9 --check
grep -q "^going on from $newest, " out || die "the whole one is not taken: $(cat out)"
say "one wrong bit in any of $n_places of its $(wc -l < places) datasets is found"
