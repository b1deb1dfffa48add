#!/usr/bin/env python3
"""A judge of letters whose prompt is rewritten as they get better (the reward `command`, style server), as MPO does.

    judge.py RUBRIC.json    keeps the prompt in that file, in all its versions, where its folder exists

The prompt is a rubric: points to look for. A letter's reward is the share of them that it has. After every tenth batch
(a step's letters) the meta-judge sees twenty of its letters. If they have four fifths of what is asked for, the rubric no
longer tells them apart: what most of them lack is added. Both would be models; here the points are patterns, so that the
example runs anywhere. Standard library only."""
import json
import os
import random
import re
import sys

POINTS = {  # what a rubric may ask for: a pattern, with the prompt's words
    "names the event": r"\b{event}\b",
    "says the day": r"\b{day}\b",
    "greets the reader by name": r"^Dear {reader},",
    "is signed": r" Yours, \w+\.$",
}
EVERY, SEEN, ENOUGH = 10, 20, 0.8


def has(letter, point):
    return re.search(POINTS[point].format(**letter), letter["response"].strip()) is not None


def mark(letter, rubric):
    return sum(has(letter, point) for point in rubric) / len(rubric)


def rewrite(rubric, letters):
    """The next version of the rubric, by letters that the last one judged."""
    missing = {point: sum(not has(letter, point) for letter in letters) for point in POINTS if point not in rubric}
    if not missing or sum(mark(letter, rubric) for letter in letters) < ENOUGH * len(letters):
        return rubric
    return rubric + [max(missing, key=missing.get)]


def main():
    path, n, versions = sys.argv[1], 0, [["names the event"]]
    if os.path.exists(path):
        with open(path, encoding="utf-8") as file:
            n, versions = json.load(file)
    for line in sys.stdin:
        letters = json.loads(line)["responses"]
        for letter in letters:
            print(json.dumps({"id": letter["id"], "reward": mark(letter, versions[-1])}))
        sys.stdout.flush()
        n += 1
        if n % EVERY == 0:
            versions.append(rewrite(versions[-1], random.Random(n).sample(letters, min(SEEN, len(letters)))))
        if os.path.isdir(os.path.dirname(path)):
            with open(path, "w", encoding="utf-8") as file:
                json.dump([n, versions], file, indent=1)


main()
