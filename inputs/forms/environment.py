#!/usr/bin/env python3
"""The tool of the prices: answers the turns of rollouts as rollout.environment asks (src/train/environment.h).

A turn that ends in a call, {"name": "price", "arguments": {"item": "tea"}} in <tool_call>, gets the price of that item, which the
prompt's line holds; any other turn is the last. Standard library only."""
import json
import re
import sys

CALL = re.compile(r"<tool_call>\n(.*)\n</tool_call>$")


def price(turn):
    """What the call at the turn's end asks for; "none" if it is no call of this tool, None if there is no call."""
    block = CALL.search(turn["said"])
    if not block:
        return None
    try:
        call = json.loads(block[1])
        return turn["prices"][call["arguments"]["item"]] if call["name"] == "price" else "none"
    except (ValueError, TypeError, KeyError):
        return "none"


for line in sys.stdin:
    for turn in json.loads(line)["turns"]:
        found = price(turn)
        print(json.dumps({"id": turn["id"], **({"done": True} if found is None else {"append": f"\n<result> {found}</result>\n"})}))
    sys.stdout.flush()
