#!/usr/bin/env python3
"""Writes the files of the calculator task: sums in words, which a calculator answers step by step.

    python3 inputs/calculator/make.py         writes the *.jsonl beside it, and configuration and tokenizer in init/
    python3 inputs/calculator/make.py FILE    writes demonstrations, by which sft.yaml makes the start model

A demonstration asks the calculator twice and says what it has answered:

    Anna has 37 apples, gets 48 and loses 12. How many has she now?
    Ask: 37 + 48 = 85
    Ask: 85 - 12 = 73
    Answer: 73

The numbers behind "=" are the calculator's. Three of ten demonstrations are like that; the others guess, stop
half way, or add where they should subtract, so that a model which imitates them can ask and read, and is seldom right.

Standard library only; the same program writes the same bytes."""
import os
import random
import sys

sys.dont_write_bytecode = True  # beside the modules, which belong to the repository
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lookup"))
from make import END, byte_letters, model_texts, write_json, write_lines  # noqa: E402

NAMES = "Anna Boris Clara David Elena Felix Greta Hugo".split()
THINGS = "apples books coins stamps".split()
STORIES = ["{name} has {a} {things}, gets {b} and loses {c}. How many {things} are left?\n",
           "{name} had {a} {things}. Then came {b} more, but {c} were sold. How many {things} are there now?\n",
           "There were {a} {things}. {name} brought {b} and took {c} away. How many {things} does that make?\n"]
NUMBERS = range(10, 148)  # all that occur: a token each


def problem(rng):
    """(text, a, b, c, a + b - c), all of two digits."""
    a, b = rng.randint(10, 49), rng.randint(10, 49)
    c = rng.randint(10, min(a + b - 10, 49))
    text = rng.choice(STORIES).format(name=rng.choice(NAMES), things=rng.choice(THINGS), a=a, b=b, c=c)
    return text, a, b, c, a + b - c


def ask(x, sign, y):
    return f"Ask: {x} {sign} {y} = {x + y if sign == '+' else x - y}\n"


def say(number):
    return f"Answer: {number}\n"


def demonstration(rng):
    text, a, b, c, result = problem(rng)
    way = rng.random()
    if way < 0.3:
        response = ask(a, "+", b) + ask(a + b, "-", c) + say(result)
    elif way < 0.6:
        response = say(rng.randint(10, 88))
    elif way < 0.8:
        response = ask(a, "+", b) + say(a + b)
    else:
        response = ask(a, "+", b) + ask(a + b, "+", c) + say(a + b + c)
    return {"prompt": text, "response": response}


def prompts(rng, n):
    for _ in range(n):
        text, *_, result = problem(rng)
        yield {"prompt": text, "answer": str(result)}


def vocabulary():
    """The end token, all bytes, and each word, sign and number of the texts: with a space before it, or as it begins a line."""
    words = {word.strip(".,?") for story in STORIES for word in story.split() if "{" not in word}
    words |= set(NAMES) | set(THINGS) | {"+", "-", "="} | {str(number) for number in NUMBERS}
    begin = {story.split()[0] for story in STORIES if "{" not in story.split()[0]} | set(NAMES) | {"Ask", "Answer"}
    tokens = [END, *byte_letters(), *("Ġ" + word for word in sorted(words)), *sorted(begin)]
    return {token: i for i, token in enumerate(tokens)}


def main():
    here = os.path.dirname(os.path.abspath(__file__))
    if len(sys.argv) > 1:
        rng = random.Random(20251127)
        return write_lines(sys.argv[1], (demonstration(rng) for _ in range(20000)))
    rng = random.Random(20251126)
    write_lines(os.path.join(here, "train.jsonl"), prompts(rng, 320))
    write_lines(os.path.join(here, "test.jsonl"), prompts(rng, 64))
    os.makedirs(os.path.join(here, "init"), exist_ok=True)
    for name, content in model_texts(vocabulary(), hidden=64, positions=128).items():
        write_json(os.path.join(here, "init", name), content)


if __name__ == "__main__":
    main()
