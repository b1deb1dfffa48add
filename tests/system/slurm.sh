#!/bin/bash
# jobs/slurm.sh, array.sh and chain.sh under a real Slurm on this machine: srun and mpirun, the signal before the time
# limit, requeue, the end of a chain, a wrong launcher.
. "$(dirname "$0")/common.sh"
cd "$work" || exit 1
. "$tests/support/toy.sh"
. "$tests/support/slurm_jobs.sh" 2

# All at once, since each waits for Slurm more than it computes

input unbroken.yaml chain 40 'checkpoint: { every: 0 }\n'
sed -i 's/"max_position_embeddings": 96/"max_position_embeddings": 8192/' toy/config.json
sed -i 's/max_new_tokens: 4/max_new_tokens: 60, ignore_eos: true/; s/text: a/text: ab/' unbroken.yaml
succeeds 2 "$STEMMA" train unbroken.yaml
mv chain unbroken
input limit.yaml limit 1000000 'checkpoint: { every: 0 }\n'
sed -i 's/max_new_tokens: 4/max_new_tokens: 4, save: none/' limit.yaml

chain=$(LAUNCH=mpirun submit -o chain.log "$jobs/slurm.sh" unbroken.yaml chain)
limit=$(submit -o limit.log -t 1 --signal=B:USR1@55 "$jobs/slurm.sh" limit.yaml limit)
until_true has_step chain 2
scancel -b -s USR1 "$chain"
until_true said chain.log 'another job follows'

# srun without pmix, and a launcher of another MPI

cat > wrong.sh << END
#!/bin/bash
srun --mpi=none -n 3 "$STEMMA" train limit.yaml run.folder=wrong
echo "srun: exit code \$?"
command -v mpiexec.hydra > /dev/null && { mpiexec.hydra -launcher fork -n 2 "$STEMMA" train limit.yaml run.folder=wrong; echo "mpiexec: exit code \$?"; }
echo end
END
submit -o wrong.log -n 3 --overcommit wrong.sh > /dev/null
until_true said wrong.log '^end'
says wrong.log 'stemma: srun started 3 processes that know nothing of each other'
says wrong.log '^srun: exit code 2'
if said wrong.log '^mpiexec'; then
    says wrong.log 'stemma: mpiexec (PMI) started 2 processes (PMI_SIZE), but MPI finds one alone in each'
    says wrong.log '^mpiexec: exit code 2'
fi
[ "$(grep -c '^stemma:' wrong.log)" -le 2 ] && [ ! -d wrong ] || die "expected one message each: $(cat wrong.log)"
say "processes that are no MPI world are refused, with one message"

# The chain, by mpirun

until_true test -f chain/DONE
until_true said chain.log 'done: step 40'
[ "$(n_starts chain)" = 2 ] || die "expected a run in two jobs: $(cat chain.log)"
says chain.log 'going on from chain/checkpoints/step-'
says chain.log "job $chain on"
same_bits "$(checkpoint unbroken 40)" "$(checkpoint chain 40)" "a chain of jobs does not end like one run"
say "mpirun: a signal, the job is requeued and goes on to the end, to the bits of a run in one piece"

# The limit, by srun

until_true said limit.log 'USR1: asking stemma to end'
until_true said limit.log 'another job follows'
says limit.log 'srun --mpi=pmix --cpus-per-task=1 --kill-on-bad-exit=1'
says limit.log '--maxh=0.01667 --job-start='
until_true eval '[ "$(n_starts limit)" = 2 ]'
until_true said limit/log.txt 'going on from'
touch limit/STOP
until_true said limit.log 'STOP was placed in limit: no other job follows'
until_true eval '[ -z "$(squeue -h -j "$limit")" ]'
say "srun: Slurm signals before the limit, the same job goes on, and the user's STOP ends the chain"

# Sweeps, and chains that are submitted at once

array=$(submit --array=0-1 -o array-%a.log "$jobs/array.sh" limit.yaml sweep optim.lr=0.01,0.02 run.steps=1)
first=$(bash "$jobs/chain.sh" 2 "$jobs/slurm.sh" limit.yaml short run.steps=1 | tee chained.log | head -n 1 | sed 's/.*: //')
[ -n "$array" ] && [ -n "$first" ] || die "nothing was submitted: $(cat chained.log)"
for lr in 0.01 0.02; do
    until_true test -f "sweep/optim.lr=$lr-run.steps=1/DONE"
    says "sweep/optim.lr=$lr-run.steps=1/input.yaml" "lr: $lr"
done
until_true test -f short/DONE
until_true eval '[ -z "$(squeue -h -t running,pending)" ]'
[ "$(n_starts short)" = 2 ] && said short/log.txt 'done already' || die "the second of a chain: $(cat short/log.txt)"
say "an array sweeps options; a chain that was submitted at once ends early"
