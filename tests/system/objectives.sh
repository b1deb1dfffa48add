#!/usr/bin/env bash
# Each method of inputs/objectives runs as it is, for two small steps, and has a page that the table of them lists; a few
# learn while we watch.
. "$(dirname "$0")/common.sh"
cd "$tests/.." || die "no repository at $tests/.."
methods=inputs/objectives

# small RANKS FILE WORDS..: two steps of it.
small() {
    rm -rf "$work/run"
    succeeds "$1" "$STEMMA" train "$2" run.folder="$work/run" run.steps=2 rollout.prompts_per_step=4 rollout.group_size=4 \
        rollout.save=none eval.every=0 "${@:3}"
}

n=0
for file in "$methods"/*.yaml; do
    name=$(basename "$file" .yaml)
    [ "$name" != base ] || continue
    if grep -q python3 "$file" && ! command -v python3 > /dev/null; then
        say "left out: $file, which asks a program in python3"
        continue
    fi
    fewer=$(grep -q '^reference:.*samples' "$file" && echo reference.samples=2) # of the small groups
    small 0 "$file" $fewer
    [ "$(grep -c '"grad_norm": [0-9]' "$work/run/metrics.jsonl")" = 2 ] && ! grep -q '"updates_skipped": [1-9]' "$work/run/metrics.jsonl" ||
        die "$file: $(cat "$work/run/metrics.jsonl")"
    grep -q "folder: runs/objectives/$name[ ,]" "$file" || die "$file: expected the run folder runs/objectives/$name"
    page=$methods/$name.md
    [ -f "$page" ] || die "$file has no page, $page"
    grep -qF "($name.yaml)" "$page" || die "$page does not name its input file"
    grep -q '^- \*\*Basis\*\*: ' "$page" || die "$page does not say what it rests on"
    sed -n '/^```yaml/,/^```$/{/^```/!p}' "$page" > "$work/options"
    diff "$work/options" <(grep -v '^#\|^include:\|^run:' "$file") > "$work/diff" || die "$page shows other options than $file: $(cat "$work/diff")"
    n=$((n + 1))
done
[ $n -gt 30 ] || die "$methods: found $n input files"
say "$n methods run for two steps, and each has a page"

for page in "$methods"/*.md; do
    name=$(basename "$page" .md)
    [ "$name" = README ] || grep -qF "]($name.md)" "$methods/README.md" || die "$page is not in the table of $methods/README.md"
    [ "$name" = README ] || [ -f "$methods/$name.yaml" ] || die "$page has no input file"
done
# What a page or the table links to is there.
grep -oH '](\([a-z0-9+-]*\.\(md\|yaml\)\))' "$methods"/*.md | sed 's/^[^:]*:](//; s/)$//' | sort -u > "$work/links"
while read -r link; do
    [ -f "$methods/$link" ] || die "a page links to $link, which is not there"
done < "$work/links"
grep -qF "](inputs/objectives/README.md)" README.md || die "README.md does not link to the table"
say "every page is in the table, and the table in README.md"

# mean FIRST|LAST: of the rewards of the first or last five steps.
mean() { grep -o '"reward_mean": [-0-9.e]*' "$work/run/metrics.jsonl" | "$1" -n 5 | awk '{ sum += $2 } END { print sum / NR }'; }
for name in gspo dpo kto; do
    rm -rf "$work/run"
    succeeds 2 "$STEMMA" train $methods/$name.yaml run.folder="$work/run" run.steps=20 rollout.save=none optim.lr=2e-4
    first=$(mean head) last=$(mean tail)
    awk "BEGIN { exit !($last > $first + 0.2) }" || die "$name: the mean reward goes from $first to $last in 20 steps"
    say "$name: the mean reward goes from $first to $last in 20 steps"
done
