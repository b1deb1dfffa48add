#!/usr/bin/env python3
"""The calculator: answers the turns of rollouts as rollout.environment asks (src/train/environment.h).

A turn that ends in a question, "Ask: 37 + 48 =", gets the result; one that ends in a newline is the answer, which is worth 1
where it is "Answer: N" with the prompt's answer, else 0. Standard library only."""
import json
import re
import sys

QUESTION = re.compile(r"Ask: (\d+) ([+-]) (\d+) =$")


def reply(turn):
    asked = QUESTION.fullmatch(turn["said"])
    if asked and not turn["last"]:
        x, y = int(asked[1]), int(asked[3])
        return {"append": f" {x + y if asked[2] == '+' else x - y}\n"}
    return {"done": True, "reward": float(turn["said"] == f"Answer: {turn['answer']}\n")}


for line in sys.stdin:
    for turn in json.loads(line)["turns"]:
        print(json.dumps({"id": turn["id"], **reply(turn)}))
    sys.stdout.flush()
