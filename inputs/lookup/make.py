#!/usr/bin/env python3
"""Writes the files of the lookup task: tables of a market, questions about them, answers that a program can check.

    python3 make.py            train.jsonl, test.jsonl, sft.jsonl, and the tokenizer and configuration in model/
    python3 make.py --init DIR also a model of random weights in DIR, where supervised training starts

Standard library only; the same seed writes the same bytes."""
import argparse
import array
import json
import os
import random
import struct

GOODS = """apples pears plums lemons oranges cherries peaches melons grapes figs dates olives limes mangoes berries
carrots onions leeks peas beans beets radishes turnips potatoes tomatoes peppers cucumbers pumpkins mushrooms lentils
walnuts almonds chestnuts hazelnuts cakes buns rolls pies pretzels waffles candles brushes baskets buckets ropes
lamps kettles spoons bowls cups plates jars bottles scarves gloves socks hats boots buttons ribbons pencils
notebooks stamps marbles""".split()
PLACES = """Spain Italy France Greece Turkey Poland Norway Sweden Denmark Iceland Ireland Portugal Morocco Egypt Kenya
Ghana India Japan Vietnam Peru Chile Brazil Mexico Canada""".split()
STREETS = """Mill Church Bridge Station Garden Harbour Castle Forest River Market School Windmill""".split()
COLUMNS = ("cost", "left", "from")
END = "<|end|>"


def table(rng, n_rows):
    """Rows of (good, {column: value}); a good and each value of a column stand in one row only."""
    goods = rng.sample(GOODS, n_rows)
    cents = rng.sample(range(10, 100), n_rows)
    counts = rng.sample(range(10, 100), n_rows)
    places = rng.sample(PLACES, n_rows)
    return [(g, {"cost": f"{c} cents", "left": f"{k} left", "from": p})
            for g, c, k, p in zip(goods, cents, counts, places)]


def table_text(rng, rows):
    lines = [f"- {good}: {v['cost']}, {v['left']}, from {v['from']}" for good, v in rows]
    return f"The market on {rng.choice(STREETS)} Street\n" + "\n".join(lines) + "\n"


def question(good, column):
    return {"cost": f"Q: What do {good} cost?\nA:", "left": f"Q: How many {good} are left?\nA:",
            "from": f"Q: Where are {good} from?\nA:"}[column]


def careless(rng, rows, row, column, right):
    """The answer of a clerk who is right in a share `right` of cases, and else reads the wrong column or the line below."""
    draw = rng.random()
    if draw < right:
        return rows[row][1][column]
    if draw < right + (1.0 - right) / 2:
        return rows[row][1][rng.choice([c for c in COLUMNS if c != column])]
    return rows[(row + 1) % len(rows)][1][column]


def asked(rng, rows, n):
    return rng.sample([(r, c) for r in range(len(rows)) for c in COLUMNS], n)


def prompts(rng, n_tables, n_rows, n_questions):
    """Lines for GRPO. The questions on one table follow each other, so that they share it."""
    for _ in range(n_tables):
        rows = table(rng, n_rows)
        text = table_text(rng, rows)
        for row, column in asked(rng, rows, n_questions):
            good, values = rows[row]
            yield {"prompt": text + question(good, column), "answer": values[column]}


def demonstrations(rng, n_tables, n_rows, n_questions, right):
    """Lines for supervised training: a table and a first question, then answers and further questions."""
    for _ in range(n_tables):
        rows = table(rng, n_rows)
        text = table_text(rng, rows)
        talk = [(question(rows[r][0], c), " " + careless(rng, rows, r, c, right)) for r, c in asked(rng, rows, n_questions)]
        response = talk[0][1] + "".join("\n" + q + a for q, a in talk[1:])
        yield {"prompt": text + talk[0][0], "response": response}
