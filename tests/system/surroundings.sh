#!/bin/bash
# Where a job finds itself: inputs that nobody may write, little shared memory, another job in its run folder.
. "$(dirname "$0")/common.sh"
cd "$work" || exit 1
. "$tests/support/toy.sh"

# Two jobs in one run folder, also where one is put on another host

input run.yaml run 1000000 'checkpoint: { every: 0 }\n'
sed -i 's/max_new_tokens: 4/max_new_tokens: 4, save: none/' run.yaml
SLURM_JOB_ID=4711 timeout 60 "$MPIRUN" -n 2 "$STEMMA" train run.yaml > first.txt 2>&1 &
first=$!
for ((i = 0; i < 1000; i++)); do
    grep -qs '^{"step": 2,' run/metrics.jsonl && break
    sleep 0.02
done
refused 2 "run.folder: run is in use by another running job (host $(hostname), job 4711, process .." 2 "$STEMMA" train run.yaml
refused 2 "run.folder: run is in use by another running job (host $(hostname), job 4711, process .." 0 "$STEMMA" train run.yaml
cp run/metrics.jsonl before.jsonl
kill -9 $(pgrep -P "$(pgrep -P $first)" -x stemma)
wait $first
succeeds 2 "$STEMMA" train run.yaml run.steps=5 --resume=never
[ ! -s run/lock ] || die "a run that is done leaves its name in the lock: $(cat run/lock)"
say "a second job is refused with host and job of the first; a killed one leaves the folder free"

# What follows needs mounts of its own

unshare -m true 2> /dev/null || {
    say "skipped: no mounts of its own: inputs that nobody may write, and little shared memory"
    [ "${STEMMA_REQUIRE:-0}" != 1 ] || die "STEMMA_REQUIRE=1, and unshare -m is not allowed"
    exit 77
}
mkdir inputs runs
mv toy prompts.jsonl few.jsonl inputs/
sed 's|path: toy|path: inputs/toy|; s|prompts: prompts|prompts: inputs/prompts|' base.yaml > inputs/base.yaml
{ echo 'run: { folder: runs/run, steps: 2 }'; cat inputs/base.yaml; } > inputs/run.yaml
cat > read_only.sh << 'END'
mount --bind inputs inputs && mount -o remount,bind,ro inputs && ! touch inputs/x 2> /dev/null || exit 9
exec "$@"
END
succeeds 0 unshare -m bash read_only.sh "$MPIRUN" -n 2 "$STEMMA" train inputs/run.yaml
[ -f runs/run/DONE ] || die "inputs that nobody may write: $(cat err)"
say "inputs may be read-only"

# All ranks share one group's prompt, whose K and V they would share in memory.
cat > little.sh << 'END'
mount -t tmpfs -o size=$1 shm /dev/shm && shift && exec "$@"
END
{ echo 'run: { folder: runs/little, steps: 2 }'; cat inputs/base.yaml; echo 'parallel: { suffix: 3, prefix: send }'; } > little.yaml
for size in 16k 6m; do
    rm -rf runs/little
    launch 0 unshare -m bash little.sh $size "$MPIRUN" -n 3 "$STEMMA" train little.yaml
    [ $code = 0 ] && [ -f runs/little/DONE ] || die "/dev/shm of $size: exit code $code: $(tail -n 5 err out)"
    if [ $size = 16k ]; then
        grep -q 'no shared memory (/dev/shm)' runs/little/log.txt || die "nothing is said about /dev/shm: $(cat runs/little/log.txt)"
    fi
done
say "/dev/shm may be as small as 16 KiB"
