#!/bin/bash
# `stemma train` learns: losses fall, rewards rise; `stemma eval` sees it; what is wrong is said before anything starts.
. "$(dirname "$0")/common.sh"
cd "$work" || exit 1
. "$tests/support/toy.sh"

# Learning

input sft.yaml sft 60 'objective: { name: sft }\n'
for ranks in 0 3; do
    rm -rf sft
    succeeds $ranks "$STEMMA" train sft.yaml
    holds "$(field sft/metrics.jsonl 60 loss) < 0.5 * $(field sft/metrics.jsonl 1 loss)" "sft: the loss falls"
done
input grpo.yaml grpo 60 'eval: { every: 20, prompts: few.jsonl, samples: 4, stop_at_reward: 2 }\n'
for ranks in 0 2; do
    rm -rf grpo
    succeeds $ranks "$STEMMA" train grpo.yaml
    holds "$(field grpo/metrics.jsonl 1 reward_mean) < 0.5 && $(field grpo/metrics.jsonl 60 reward_mean) > 0.9" "grpo: the reward rises"
    holds "$(field grpo/metrics.jsonl 60 eval_pass_at_1) > 0.9 && $(field grpo/metrics.jsonl 60 eval_k) == 4" "grpo: pass@1 rises"
done
[ -f grpo/checkpoints/best.h5 ] || die "no best checkpoint: $(ls grpo/checkpoints)"
[ "$(wc -l < grpo/rollouts/step-00000060.jsonl)" = 4 ] || die "rollouts/: $(ls grpo/rollouts)"
"$STEMMA" score toy grpo/rollouts/step-00000060.jsonl --out x.h5 > out 2>&1
grep -q 'model.safetensors' out || die "score of a folder without weights: $(cat out)"
succeeds 0 "$STEMMA" score grpo/checkpoints/best.h5 grpo/rollouts/step-00000060.jsonl --out x.h5
say "sft: the loss falls; grpo: the reward rises; rollouts are groups that score reads"

input early.yaml early 60 'eval: { every: 5, prompts: few.jsonl, samples: 4, stop_at_reward: 0.5 }\n'
succeeds 0 "$STEMMA" train early.yaml
[ -f early/DONE ] && grep -q 'eval.stop_at_reward), ' out && [ "$(tail -1 early/metrics.jsonl | cut -d, -f1)" != '{"step": 60' ] ||
    die "eval.stop_at_reward: $(tail -5 out)"
say "an evaluation that is good enough ends the run, with DONE"

input kl.yaml kl 4 'objective: { name: grpo, kl_coef: 0.1, aggregate: fixed-length, mask_truncated: true }\nupdate: { epochs: 2, minibatch_groups: 2 }\n'
sed -i 's/max_new_tokens: 4/max_new_tokens: 24/' kl.yaml
succeeds 3 "$STEMMA" train kl.yaml --precision=float64
holds "$(field kl/metrics.jsonl 1 kl_reference) > 0 && $(field kl/metrics.jsonl 4 kl_reference) > $(field kl/metrics.jsonl 1 kl_reference)" "KL to the start model grows"
holds "$(field kl/metrics.jsonl 1 kl_old) > 0" "the second update is off-policy"
mv kl kl.3
succeeds 0 "$STEMMA" train kl.yaml --precision=float64
same_parameters "$(checkpoint kl.3 4)" "$(checkpoint kl 4)" 1e-9
mv kl kl.1 && mkdir -p kl/checkpoints
succeeds 0 "$STEMMA" train kl.yaml --precision=float64 run.steps=2
succeeds 0 "$STEMMA" train kl.yaml --precision=float64
same_bits "$(checkpoint kl.1 4)" "$(checkpoint kl 4)" "with a reference 4 steps are not 2 and 2"
say "a KL term, two epochs of three updates: alone and on 3 ranks; the reference is the start model, also after a restart"

# eval

sed 's/eval: {/eval: { temperature: 0.5,/' grpo.yaml > eval.yaml
for ranks in 2 0; do
    succeeds $ranks "$STEMMA" eval eval.yaml model.path=grpo/checkpoints/best.h5 model.init=file --precision=float64
    grep -q '^mean reward 0.9\|^mean reward 1' out && grep -q '^pass@4 1.0' out || die "eval: $(cat out)"
    [ $ranks = 0 ] || mv out two.txt
done
cmp two.txt out || die "eval differs on 2 ranks: $(cat two.txt out)"
say "eval of a checkpoint, the same alone and on 2 ranks"

# Wrong input and rewards that fail

for ranks in 0 2; do
    rm -rf no
    input wrong.yaml no 2
    refused 2 'nothing.jsonl: ..' $ranks "$STEMMA" train wrong.yaml data.prompts=nothing.jsonl
    refused 2 'nothing.jsonl: ..' $ranks "$STEMMA" train wrong.yaml eval.prompts=nothing.jsonl
    echo '{"prompt": "a cat"}' > bare.jsonl
    refused 2 'bare.jsonl:1: answer: ..' $ranks "$STEMMA" train wrong.yaml data.prompts=bare.jsonl 'reward=[{name: exact}]'
    refused 2 'bare.jsonl:1: response: ..' $ranks "$STEMMA" train wrong.yaml data.prompts=bare.jsonl objective.name=sft
    refused 2 'prompts.jsonl:1: answer: found "a", expected a number in it, ..' $ranks "$STEMMA" train wrong.yaml 'reward=[{name: numeric}]'
    refused 2 'data.template: found chatm, ..' $ranks "$STEMMA" train wrong.yaml data.template=chatm
    refused 2 'run.folder: few.jsonl: found a file, ..' $ranks "$STEMMA" train wrong.yaml run.folder=few.jsonl
    refused 2 'reward: found an empty list, ..' $ranks "$STEMMA" train wrong.yaml objective.name=sft 'reward=[]' eval.prompts=few.jsonl
    [ ! -e no ] || die "wrong input made a run folder"
    succeeds $ranks "$STEMMA" train wrong.yaml --check eval.prompts=few.jsonl
    [ ! -e no ] || die "--check made a run folder"
    grep -q '13 prompts of prompts.jsonl' out && grep -q '^model: llama, 2 layers' out || die "--check: $(cat out)"
    refused 1 'step 2: skipped 2 in a row (fault.max_skips), the last for this: no group could be judged: prompts.jsonl:..' \
        $ranks "$STEMMA" train wrong.yaml 'reward=[{name: command, command: "exit 3"}]' fault.max_skips=2
    grep -q ':1*[0-9]: response 0: reward\[0\].command: ended with exit code 3$' err || die "a reward that fails: $(cat err)"
    grep -q '^failed: step 2: .*exit code 3$' no/log.txt || die "log.txt does not tell why: $(cat no/log.txt)"
    [ "$(grep -c '^warning: step [12]: all updates skipped: ' no/log.txt)" = 2 ] || die "skipped: $(cat no/log.txt)"
    [ -f "$(checkpoint no 1)" ] || die "what was there before all rewards failed is not saved"
done
input blown.yaml blown 9 'objective: { name: sft }\n'
sed -i 's/lr: 0.02/lr: 1.0e+30/' blown.yaml
for ranks in 0 2; do
    rm -rf blown
    refused 1 'step 4: skipped 3 in a row (fault.max_skips), the last for this: ..' $ranks "$STEMMA" train blown.yaml \
        checkpoint.every=1
    [ "$(grep -c '^warning: step [234]: update skipped' blown/log.txt)" = 3 ] || die "skipped: $(cat blown/log.txt)"
    ! grep '^warning: step [234]: update skipped' blown/log.txt |
        grep -v -e 'the gradient of model[a-z0-9_.]* is not finite (loss [-0-9.a-z+]*)$' -e 'log-probs are not finite numbers$' ||
        die "why an update was skipped: $(cat blown/log.txt)"
    [ "$(ls blown/checkpoints)" = step-00000001.h5 ] || die "a step that was skipped is saved: $(ls blown/checkpoints)"
    [ "$(field blown/metrics.jsonl 3 updates_skipped)" = 1 ] || die "not counted: $(tail -1 blown/metrics.jsonl)"
done

# A command that fails for some prompts, dies, hangs or prints nonsense

cat > judge.sh << 'END'
# One prompt in its group gets nonsense; `how` says what happens in the second of the runs of this command.
n=$(cat "$0.n" 2> /dev/null || echo 0)
echo $((n + 1)) > "$0.n"
if [ "$n" = 1 ]; then
    case $1 in
    dies) kill -9 $$ ;;
    hangs) sleep 100 & sleep 100 ;;
    babbles) yes "this is no number" ;;
    esac
fi
sed 's/.*bear.*/nothing/; s/^{.*/0.5/'
END
for ranks in 0 2; do
    for how in dies hangs babbles; do
        rm -rf some judge.sh.n
        input some.yaml some 6 'fault: { max_skips: 2 }\neval: { every: 3, prompts: few.jsonl }\n'
        succeeds $ranks "$STEMMA" train some.yaml "reward=[{name: command, command: \"exec sh judge.sh $how\", timeout_s: 2}]"
        # the second run of the command is the first step's: an evaluation comes before it
        [ "$(field some/metrics.jsonl 1 groups_failed)" = 5 ] && [ "$(field some/metrics.jsonl 1 updates_skipped)" = 1 ] ||
            die "a command that $how: $(cat some/metrics.jsonl)"
        [ "$(sed -n 's/.*"groups_failed": \([0-9]*\).*/\1/p' some/metrics.jsonl | tail -5 | sort -un | tr '\n' ' ')" = "0 1 " ] ||
            die "nonsense for one prompt: $(cat some/metrics.jsonl)"
        grep -q 'step [2-6]: 1 of 5 groups are left out: prompts.jsonl:2: response 0: .*found "nothing", expected a finite number$' out ||
            die "which prompt: $(cat out)"
        grep -q 'evaluation after step 6: 1 of 5 prompts could not be judged: few.jsonl:2: ' out || die "evaluation: $(cat out)"
        [ -f some/DONE ] || die "the run has not ended"
    done
done
pgrep -f 'sleep 100$' > left.txt && die "a command that hangs is left running: $(cat left.txt)"
say "rewards that die, hang, babble or print nonsense cost their prompts alone"
say "updates that are no numbers are skipped; three in a row end the run with exit 1"
say "wrong input: exit 2 before anything starts; a reward that fails: exit 1, the steps before are kept"
