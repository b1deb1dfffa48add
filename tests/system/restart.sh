#!/bin/bash
# Which checkpoint a run goes on from, what is refused and why, what becomes of its files, and disks that are full.
. "$(dirname "$0")/common.sh"
cd "$work" || exit 1
. "$tests/support/toy.sh"

input run.yaml run 12 'checkpoint: { every: 2, keep: 9 }\neval: { every: 4, prompts: few.jsonl }\n'
sed -i 's/max_new_tokens: 4/max_new_tokens: 4, save: all/' run.yaml
succeeds 0 "$STEMMA" train run.yaml
mv run whole

# interrupted STEP: run/ as a job leaves it that was killed right after STEP, with checkpoints up to then.
interrupted() {
    rm -rf run && cp -r whole run && rm run/DONE
    for ((i = $1 + 1; i <= 12; i++)); do rm -f "$(checkpoint run $i)"; done
    rm -f run/checkpoints/best.h5
}
damage() { printf 'stemma' | dd of="$1" bs=1 seek=3000 conv=notrunc status=none; }
# numbers FILE: metrics.jsonl without what depends on the clock or the memory.
numbers() { sed -E 's/"[a-z_]*(_s|_per_s|_bytes|_share_s|seconds)": [^,}]*[,}]//g' "$1" | cut -d, -f1-12; }
# same_files: run/ holds what whole/ does.
same_files() {
    same_state "$(checkpoint whole 12)" "$(checkpoint run 12)" "$1"
    cmp <(numbers whole/metrics.jsonl) <(numbers run/metrics.jsonl) || die "$1: metrics.jsonl differs"
    diff -r whole/rollouts run/rollouts > diff.txt || die "$1: rollouts differ: $(head -3 diff.txt)"
    [ "$(grep -o '^step *[0-9]*/' run/log.txt)" = "$(grep -o '^step *[0-9]*/' whole/log.txt)" ] ||
        die "$1: log.txt holds the steps $(grep -o '^step *[0-9]*/' run/log.txt | tr -d '\n')"
}

# The files are those of a run that was never interrupted

interrupted 4
echo '{"torn' > run/rollouts/step-00000006.jsonl.part
echo '{"step": 99}' > run/rollouts/step-00000099.jsonl
succeeds 0 "$STEMMA" train run.yaml
grep -q 'after step 4 of 12' out || die "after an interruption: $(cat out)"
same_files "killed after step 4"
grep -q '^step  *5/12' run/log.old.txt && grep -q '^step  *12/12' run/log.old.txt && ! grep -q '^step  *4/12' run/log.old.txt ||
    die "log.old.txt holds: $(cat run/log.old.txt)"
rm run/DONE run/checkpoints/*
succeeds 0 "$STEMMA" train run.yaml
same_files "started anew where there is no checkpoint"
[ "$(ls run/rollouts.old | wc -l)" = "$(ls whole/rollouts | wc -l)" ] || die "rollouts.old: $(ls run/rollouts.old)"
say "a resumed run leaves the metrics, rollouts and step lines of one that was never interrupted"

# Damaged checkpoints are refused with the reason; where all are, nothing begins anew unasked

interrupted 6
damage "$(checkpoint run 6)"
truncate -s 5000 "$(checkpoint run 4)"
succeeds 2 "$STEMMA" train run.yaml
grep -q '^run/checkpoints/step-00000006.h5: damaged: ' out && grep -q '^run/checkpoints/step-00000004.h5: truncated: has 5000 bytes' out &&
    grep -q 'after step 2 of 12' out || die "two damaged checkpoints: $(cat out)"
interrupted 4
damage "$(checkpoint run 4)"
truncate -s 100 "$(checkpoint run 2)"
for ranks in 0 2; do
    refused 2 'run/checkpoints: no checkpoint is whole (run/checkpoints/step-00000004.h5: damaged: ..' $ranks "$STEMMA" train run.yaml
    grep -q '^run/checkpoints/step-00000002.h5: has 100 bytes' out || die "the other one is not named: $(cat out)"
    [ "$(ls run/checkpoints)" = $'step-00000002.h5\nstep-00000004.h5' ] || die "refused, but changed: $(ls -A run/checkpoints)"
done
succeeds 0 "$STEMMA" train run.yaml --resume=never
same_files "started anew by --resume=never"
say "damaged checkpoints are refused by name; a run of which none is whole begins anew only when told to"

# Another format, tokenizer, configuration

interrupted 4
printf 'stemma checkpoint 7' | dd of="$(checkpoint run 4)" conv=notrunc status=none
succeeds 0 "$STEMMA" train run.yaml run.steps=2
grep -q 'step-00000004.h5: damaged: its first bytes differ from their hash; has format 7, and stemma .* reads formats 1 to 2' out ||
    die "another format: $(cat out)"
interrupted 4
cp -r toy other
sed -i 's/"a": 1, "b": 2,/"a": 2, "b": 1,/' other/tokenizer.json
for ranks in 0 2; do
    refused 2 'model.path: other has another tokenizer.json (XXH3 ..' $ranks "$STEMMA" train run.yaml model.path=other
    grep -Eq 'json \(XXH3 [0-9a-f]{16}\) than the model \([0-9a-f]{16}\) that the run in run/checkpoints/step-00000004.h5' err ||
        die "the hashes are not named: $(cat err)"
done
cp toy/tokenizer.json other
sed -i 's/10000.0/20000.0/' other/config.json
refused 2 'model.path: other has another config.json (XXH3 ..' 2 "$STEMMA" train run.yaml model.path=other
say "another format, tokenizer or configuration is refused with both numbers"

# Two tries that come to no step, then the checkpoint before

sed 's/contains, text: a/command, command: "[ ! -e die ] || kill -9 $(cat pid); sed s,.*,0.5,"/' base.yaml > base.command
{ echo 'run: { folder: tried, steps: 6 }'; cat base.command; echo 'checkpoint: { every: 2, keep: 9 }'; } > tried.yaml
# dies: the next job ends in its first step, by SIGKILL.
dies() {
    touch die
    timeout 60 "$STEMMA" train tried.yaml > out 2>&1 &
    pgrep -P $! > /dev/null || sleep 0.05
    pgrep -P $! > pid
    wait $! 2> /dev/null && die "the job did not die: $(cat out)"
    rm die
}
goes_on_from() { grep -q "going on from tried/checkpoints/$1" out || die "expected to go on from $1: $(cat out)"; }
succeeds 0 "$STEMMA" train tried.yaml
cp -r tried tried.whole
rm tried/DONE "$(checkpoint tried 6)"
dies
goes_on_from step-00000004.h5
grep -q '^step-00000004.h5 1$' tried/tries || die "one try: $(cat tried/tries)"
succeeds 0 "$STEMMA" train tried.yaml run.steps=5
[ ! -e tried/tries ] || die "a step was made, and tries holds $(cat tried/tries)"
rm -rf tried && cp -r tried.whole tried && rm tried/DONE "$(checkpoint tried 6)"
dies
dies
goes_on_from step-00000004.h5
dies
goes_on_from step-00000002.h5
grep -q '^tried/checkpoints/step-00000004.h5: runs that went on from it came to no step' out || die "nothing about the tries: $(cat out)"
dies
goes_on_from step-00000002.h5
dies
goes_on_from step-00000002.h5
grep -q 'step-00000002.h5: taken once more' out || die "nothing about the last one: $(cat out)"
[ -f tried/checkpoints.old/step-00000004.h5 ] || die "the later one is gone: $(ls tried tried/checkpoints.old)"
succeeds 0 "$STEMMA" train tried.yaml
goes_on_from step-00000002.h5
[ ! -e tried/tries ] || die "the run is done, and tries holds $(cat tried/tries)"
same_bits "$(checkpoint tried.whole 6)" "$(checkpoint tried 6)" "a run of many tries"
say "after two tries that came to no step the checkpoint before is taken, until there is none before"

# Saves beside the steps

rm -rf run
for ranks in 0 2; do
    rm -rf run
    succeeds $ranks "$STEMMA" train run.yaml checkpoint.async=true checkpoint.every=1
    best=$(sed -n 's/.*best evaluation: .* after step \([0-9]*\):.*/\1/p' out)
    [ "$(ls -A run/checkpoints | wc -l)" = 10 ] || die "checkpoint.keep=9 and the best: $(ls -A run/checkpoints)"
    for i in 4 8 12; do succeeds 0 "$STEMMA" inspect "$(checkpoint run $i)"; done
    [ $ranks != 0 ] || same_files "saved beside the steps"
    cmp run/checkpoints/best.h5 "$(checkpoint run "$best")" || die "best.h5 is not of step $best"
done
for round in 1 2 3 4; do
    rm -f out
    "$STEMMA" train run.yaml run.steps=100000 checkpoint.async=true checkpoint.every=1 > out 2>&1 &
    for ((i = 0; i < 500; i++)); do
        [ "$(grep -c '^step ' out 2> /dev/null)" -lt 5 ] || break
        sleep 0.02
    done
    sleep 0.$((RANDOM % 300 + 100))
    before=$(ls run/checkpoints | grep '^step' | tail -n 1)
    kill -9 $!
    wait $! 2> /dev/null
    succeeds 0 "$STEMMA" train run.yaml run.steps=100000 --check
    found=$(sed -n 's/^going on from .*\(step-[0-9]*.h5\), .*/\1/p' out)
    ! grep -q refused out && [ -n "$found" ] && [ ! "$found" \< "$before" ] || die "killed: $before was whole, and: $(cat out)"
done
"$STEMMA" train run.yaml run.steps=100000 checkpoint.async=true checkpoint.every=1 > out 2>&1 &
sleep 1
kill -TERM $!
wait $! || die "SIGTERM: $(tail -3 out)"
last=$(sed -n 's/^stopped after step \([0-9]*\) .*/\1/p' out)
succeeds 0 "$STEMMA" inspect "$(checkpoint run "$last")"
[ -z "$(find run -name '*.partial')" ] || die "left after an orderly end: $(ls -A run/checkpoints)"
say "saves beside the steps are those of saves between them, whole after kill -9, and done before an orderly end"

# A disk that is full: a limit on the size of files needs no rights; where we may mount, a tmpfs besides

input full.yaml full 36 'checkpoint: { every: 3, keep: 2 }\n'
succeeds 0 "$STEMMA" train full.yaml
mv full whole.full
bytes=$(stat -c %s "$(checkpoint whole.full 36)")
for async in false true; do for limit in $((bytes / 2)) $((bytes - 1)); do # beyond what the data take: less, and more
    rm -f out
    "$STEMMA" train full.yaml run.steps=24 checkpoint.async=$async > out 2> err &
    for ((i = 0; i < 500; i++)); do
        ! grep -qs '^step  *6/' out || break
        sleep 0.01
    done
    prlimit --pid $! --fsize=$limit # MPI itself needs more when it starts
    wait $! && die "the last checkpoint was not saved, and the run ends well: $(cat out)"
    [ "$(wc -l < err)" = 1 ] && grep -Eq '^stemma: .*no room: [0-9]+ bytes needed, [0-9]+ free: File too large' err ||
        die "no last checkpoint: $(cat err)"
    [ "$(grep -c '^warning: the checkpoint is not saved: .* bytes needed' out)" -ge 3 ] || die "failed saves: $(cat out)"
    [ "$(wc -l < full/metrics.jsonl)" = 24 ] || die "steps were lost: $(wc -l full/metrics.jsonl)"
    succeeds 0 "$STEMMA" inspect "$(find full/checkpoints -name '*.h5' | sort | tail -n 1)"
    [ "$(ls -A full/checkpoints | grep -vc '^step-0000')" = 0 ] || die "left over: $(ls -A full/checkpoints)"
    rm -rf full
done; done
mkdir full
if mount -t tmpfs -o size=1m tmpfs full 2> mount.err; then
    trap 'umount -l "$work/full"; rm -rf "$work"' EXIT
    succeeds 0 "$STEMMA" train full.yaml run.steps=3
    head -c 2m /dev/zero > full/filler 2> dd.err
    truncate -s -50000 full/filler # for the log; the filler goes when a save has failed
    rm -f out
    "$STEMMA" train full.yaml checkpoint.async=true > out 2> err &
    for ((i = 0; i < 2000; i++)); do
        ! grep -qs 'not saved' out || break
        sleep 0.005
    done
    [ -f "$(checkpoint full 3)" ] || die "the older checkpoint is gone: $(ls -A full/checkpoints)"
    rm full/filler
    wait $! || die "a disk that was full for a while: $(cat err)"
    grep -Eq '^warning: the checkpoint is not saved: .*: [0-9]+ bytes needed, [0-9]+ free: No space left on device' out ||
        die "nothing about the full disk: $(cat out)"
    same_state "$(checkpoint whole.full 36)" "$(checkpoint full 36)" "a disk that was full for a while"
    umount full
    trap '[ -n "${KEEP:-}" ] || rm -rf "$work"' EXIT
    say "a full disk costs no step and no older checkpoint, and the next saves find room"
else
    say "no right to mount a small tmpfs: a full disk was tried by a limit on file sizes alone"
fi
