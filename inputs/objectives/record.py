#!/usr/bin/env python3
"""Writes groups.jsonl beside it: answers of the lookup model to the first prompts of ../lookup/train.jsonl, judged.

    python3 inputs/objectives/record.py build/release/bin/stemma

One engine samples in bfloat16 and says sampler_logprobs, another, in float32, what they should have been, old_logprobs.
Every second answer is marked as another model's. An answer is one step, its advantage the reward less the mean of its
prompt's, which stands for a critic. Needs a processor with bfloat16, and h5dump."""
import json
import os
import re
import subprocess
import sys
import tempfile

N_PROMPTS, GROUP_SIZE = 48, 8
HERE = os.path.dirname(os.path.abspath(__file__))
LOOKUP = os.path.join(HERE, "..", "lookup")


def rounded(numbers):
    return [float("%.5g" % x) for x in numbers]


def logprobs(path, group, response):
    """What `stemma score` wrote of one response."""
    shown = subprocess.run(["h5dump", "-y", "-w", "0", "-m", "%.9g", "-d", f"/groups/{group}/{response}/logprobs", path],
                           check=True, capture_output=True, text=True).stdout
    return [float(x) for x in re.search(r"DATA \{(.*?)\}", shown, re.S).group(1).replace(",", " ").split()]


def main():
    stemma, model = sys.argv[1], os.path.join(LOOKUP, "model")
    with open(os.path.join(LOOKUP, "train.jsonl"), encoding="utf-8") as file:
        prompts = [json.loads(line) for line in file][:N_PROMPTS]
    with tempfile.TemporaryDirectory() as folder:
        asked, sampled, scores = (os.path.join(folder, name) for name in ("prompts.jsonl", "sampled.jsonl", "scores.h5"))
        with open(asked, "w", encoding="utf-8") as file:
            file.writelines(json.dumps(prompt) + "\n" for prompt in prompts)
        subprocess.run([stemma, "generate", model, asked, "--out", sampled, "--precision", "bfloat16", 'rollout.stop=["\\n"]',
                        f"rollout.group_size={GROUP_SIZE}", "rollout.max_new_tokens=8"], check=True)
        subprocess.run([stemma, "score", model, sampled, "--out", scores], check=True)
        with open(sampled, encoding="utf-8") as file:
            groups = [json.loads(line) for line in file]
        with open(os.path.join(HERE, "groups.jsonl"), "w", encoding="utf-8", newline="\n") as file:
            for g, (prompt, group) in enumerate(zip(prompts, groups)):
                rewards = [float(said["text"].strip() == prompt["answer"]) for said in group["responses"]]
                mean = sum(rewards) / len(rewards)
                responses = [{"text": said["text"], "reward": rewards[i], "step": [0] * len(said["ids"]),
                              "step_advantages": [round(rewards[i] - mean, 4)],
                              "old_logprobs": rounded(logprobs(scores, g, i)),
                              "sampler_logprobs": rounded(said["old_logprobs"]), "origin": ("policy", "other")[i % 2]}
                             for i, said in enumerate(group["responses"])]
                line = {"prompt": prompt["prompt"], "temperature": 1.0, "responses": responses}
                file.write(json.dumps(line, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main()
