#!/usr/bin/env python3
"""Writes the files of the forms task: short questions of seven kinds, whose answers have a form that a program can judge.

    python3 inputs/forms/make.py         writes the *.jsonl beside it, and configuration and tokenizer in init/
    python3 inputs/forms/make.py FILE    writes demonstrations, by which sft.yaml makes the start model

    screen   a click or another action on a screen of three elements (ui_action)
    critic   a verdict on such an action, with a better one (gui_critic)
    tools    calls of one or two tools, or of none (tool_call)
    prices   a price, which the prompt or a tool tells (otc; environment.py is the tool)
    tables   a query in SQL (sql, and run_sql.py)
    exam     one of four choices (dianjin)
    letters  an invitation (judge.py)

The first demonstrations are right. Of those that follow one in three is; the others have a slip, such as a neighbour's number,
a missing tag or one call too many, so that a model which imitates them knows the forms and is seldom right. Letters
leave things out throughout.

Standard library only; the same program writes the same bytes."""
import json
import os
import random
import re
import sys

sys.dont_write_bytecode = True  # beside the modules, which belong to the repository
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lookup"))
from make import END, byte_letters, model_texts, write_json, write_lines  # noqa: E402
from run_sql import CITIES, COLUMNS, ITEMS, NAMES, WORDS  # noqa: E402

TAGS = ["<%s%s>" % (slash, name) for name in ("think", "answer", "thought", "score", "suggestion", "tool_call", "response",
                                             "result") for slash in ("", "/")]
NUMBERS = range(10, 70)  # all that occur: a token each, behind a space and without
ELEMENTS = "menu search help save print home mail music".split()
EVENTS = "concert dinner lecture picnic".split()
DAYS = "Monday Tuesday Friday Sunday".split()


# Each kind: (the prompt's line, the right response, responses with a slip).


def screen(rng):
    names, xs, ys = rng.sample(ELEMENTS, 3), rng.sample(range(10, 70, 4), 3), rng.sample(range(10, 70, 4), 3)
    places = [f"{x} {y}" for x, y in zip(xs, ys)]
    scale = rng.choice((1, 2))  # of the screen to the picture that is described

    def act(thought, action, place=None):
        said = f"'action': '{action}'" + (", 'point': [%s]" % place.replace(" ", ", ") if place else "")
        return f"<think>{thought}</think> ", "<answer>{%s}</answer>" % said

    way = rng.random()
    if way < 0.7:
        answer = {"action": "click", "box": [scale * v for v in (xs[0] - 3, ys[0] - 3, xs[0] + 3, ys[0] + 3)],
                  "scale": [scale, scale]}
        right, *slips = [act(f"It is {names[0]} {place}.", "click", place) for place in places]
        slips.append(act(f"It is {names[0]} {places[0]}.", "scroll"))
        order = f"Open {names[0]}.\n"
    else:
        action, other, thought = rng.choice((("scroll", "back", "It goes on."), ("back", "scroll", "It is done.")))
        answer, right = {"action": action}, act(thought, action)
        slips = [act(thought, other), act(thought, "click", places[1])]
        order = "Read on.\n" if action == "scroll" else "Leave.\n"
    seen = rng.sample(list(zip(names, places)), 3)
    prompt = "Screen: " + ", ".join(f"{name} {place}" for name, place in seen) + ". " + order
    return {"prompt": prompt, "answer": answer}, "".join(right), [*map("".join, slips), right[1]]


def critic(rng):
    names = rng.sample(ELEMENTS, 3)
    goal, step = names[0], rng.choice((names[0], names[0], names[1], names[2]))

    def judge(verdict, suggestion):
        return (f"<thought>Goal {goal}, step {step}.</thought> ",
                f"<score>{verdict}</score> <suggestion>{suggestion}</suggestion>")

    better = "click " + goal
    verdict, other = ("Correct", "Incorrect") if step == goal else ("Incorrect", "Correct")
    right = judge(verdict, "none" if step == goal else better)
    slips = [judge(other, better if step == goal else "none"), judge(verdict, "click " + names[1]), ("", right[1])]
    seen = ", ".join(rng.sample(names, 3))
    line = {"prompt": f"Critic: {seen}. Goal: open {goal}. Step: click {step}.\n",
            "answer": verdict if step == goal else f"{verdict}\n{better}"}
    return line, "".join(right), ["".join(slip) for slip in slips]


def call(name, arguments):
    return json.dumps({"name": name, "arguments": arguments}) + "\n"


def tools(rng):
    def ask():
        tool, (city, other), unit = rng.choice(("weather", "time", "train")), rng.sample(CITIES, 2), rng.choice(("Celsius", "Kelvin"))
        return {"weather": (f"weather in {city} in {unit}", tool, {"city": city, "unit": unit}),
                "time": (f"time in {city}", tool, {"city": city}),
                "train": (f"train from {city} to {other}", tool, {"from": city, "to": other})}[tool]

    def block(thought, calls, gap="\n"):
        return f"<think>{thought}</think>{gap}<tool_call>\n{''.join(calls)}</tool_call>"

    if rng.random() < 0.15:
        right = "<think>No call.</think>\n<response>You are welcome.</response>"
        slips = [block("One call.", [call("time", {"city": rng.choice(CITIES)})]), "<response>You are welcome.</response>"]
        return {"prompt": "Tools: nothing more, thanks.\n", "answer": "<response>You are welcome.</response>"}, right, slips
    asks = [ask() for _ in range(rng.choice((1, 1, 2)))]
    thought = "One call." if len(asks) == 1 else "Two calls."
    calls = [call(name, arguments) for _, name, arguments in asks]
    _, name, arguments = asks[0]
    key = rng.choice(list(arguments))
    fewer = {k: v for k, v in arguments.items() if k != key} if len(arguments) > 1 else arguments
    slips = [block(thought, [call(name, {**arguments, key: rng.choice(CITIES)}), *calls[1:]]),
             block(thought, [call(name, fewer), *calls[1:]]),
             block(thought, [call(rng.choice(("weather", "time", "train")), arguments), *calls[1:]]),
             block(thought, [*calls, calls[0]] if len(calls) == 1 else calls[:1]),
             block(thought, calls, gap=" ")]
    line = {"prompt": f"Tools: {' and '.join(text for text, *_ in asks)}.\n",
            "answer": f"<tool_call>\n{''.join(calls)}</tool_call>"}
    return line, block(thought, calls), slips


def prices(rng):
    costs = dict(zip(ITEMS, rng.sample(NUMBERS, len(ITEMS))))
    known, wanted = rng.sample(ITEMS, 2), rng.choice(ITEMS)

    def ask(item):
        return f"<tool_call>\n{call('price', {'item': item})}</tool_call>\n<result> {costs[item]}</result>\n"

    def say(item):
        return f"<answer> {costs[item]}</answer>"

    if rng.random() < 0.5:
        known[0] = wanted
        known = rng.sample(known, 2) if known[0] != known[1] else [wanted, rng.choice([i for i in ITEMS if i != wanted])]
    other = rng.choice([item for item in known if item != wanted])
    asked = ask(wanted) + say(wanted)
    right, excess = (say(wanted), asked) if wanted in known else (asked, ask(wanted) + asked)
    slips = [excess, ask(other) + asked, say(other), ask(other) + say(other)]
    listed = ", ".join(f"{item} {costs[item]}" for item in known)
    line = {"prompt": f"Prices: {listed}. What is {wanted}?\n", "answer": str(costs[wanted]), "prices": costs}
    return line, right, slips


def tables(rng):
    table, other = rng.sample(list(COLUMNS), 2)
    shown, where = rng.choice(COLUMNS[table]), rng.choice(COLUMNS[table])
    if where == COLUMNS[table][1]:
        word, sign = rng.choice((("over", ">"), ("under", "<")))
        value = written = str(rng.randint(20, 60))
        wrong_sign = "<" if sign == ">" else ">"
    else:
        word, sign, value, wrong_sign = "is", "=", rng.choice(WORDS[where]), ">"
        written = f"'{value}'"
    count = rng.random() < 0.3
    asked = f"Count {table}" if count else f"Show {shown} of {table}"
    shown = "COUNT(*)" if count else shown

    def think(query, thought=f"<think>It is in {table}.</think> "):
        return f"{thought}<answer>\n```sql\n{query}\n```\n</answer>"

    right = f"SELECT {shown} FROM {table} WHERE {where} {sign} {written}"
    slips = [right.replace(f" {where} {sign}", f" {rng.choice(COLUMNS[table])} {sign}"), right.replace(table, other),
             right.replace(f" {sign} ", f" {wrong_sign} "), right.replace("WHERE ", "")]
    if not count:
        slips.append(right.replace(f"SELECT {shown}", f"SELECT {rng.choice(COLUMNS[table])}"))
    return ({"prompt": f"Tables: users, goods. {asked} where {where} {word} {value}.\n", "answer": right}, think(right),
            [*map(think, slips), think(right, "")])


def exam(rng):
    funds, wanted = rng.sample(CITIES, 4), rng.randrange(4)

    def say(letter):
        return f"<think> {funds[wanted]}={letter}.</think> ", f"<answer>{letter}</answer>"

    right = say("ABCD"[wanted])
    slips = ["".join(say(letter)) for letter in "ABCD" if letter != "ABCD"[wanted]]
    listed = ", ".join(f"{fund}={letter}" for letter, fund in zip("ABCD", funds))
    return ({"prompt": f"Exam: {listed}. Which fund is of {funds[wanted]}?\n", "answer": "ABCD"[wanted]}, "".join(right),
            [*slips, right[1], right[0] + "ABCD"[wanted]])


def letters(rng):
    reader, writer, event, day = *rng.sample(NAMES, 2), rng.choice(EVENTS), rng.choice(DAYS)

    def write(greets, names, says, closes):
        return (f"Dear {reader}," if greets else "Hello,") + (f" the {event}" if names else " it") + \
               (f" is on {day}." if says else " is soon.") + (f" Yours, {writer}." if closes else "")

    # Each of the four is left out more often than not.
    slip = write(*(rng.random() < 0.35 for _ in range(4)))
    line = {"prompt": f"Letter to {reader} from {writer}: {event}, {day}.\n", "reader": reader, "event": event, "day": day}
    return line, write(True, True, True, True), [slip]


KINDS = {kind.__name__: kind for kind in (screen, critic, tools, prices, tables, exam, letters)}


def demonstration(rng, share_right=1 / 3):
    kind = rng.choice(list(KINDS))
    line, right, slips = KINDS[kind](rng)
    is_right = rng.random() < (0 if kind == "letters" else share_right)
    return {"prompt": line["prompt"], "response": right if is_right else rng.choice(slips)}


def vocabulary():
    """The end token, all bytes, the tags and each piece of the texts, as the pattern of byte-level tokenizers cuts them."""
    rng, letters_of, pieces = random.Random(20251130), byte_letters(), set()
    pattern = re.compile(r"'(?:s|t|re|ve|m|ll|d)| ?[A-Za-z]+| ?[0-9]+| ?[^\sA-Za-z0-9]+|\s+(?!\S)|\s+")
    for said in (demonstration(rng) for _ in range(4000)):
        for text in re.split("|".join(TAGS), said["prompt"] + said["response"]):
            pieces.update(pattern.findall(text))
    pieces |= {space + str(number) for number in NUMBERS for space in ("", " ")}
    spelt = ["".join(letters_of[byte] for byte in piece.encode()) for piece in sorted(pieces)]
    tokens = [END, *letters_of, *TAGS, *(piece for piece in spelt if piece not in letters_of)]
    return {token: i for i, token in enumerate(tokens)}


def main():
    here = os.path.dirname(os.path.abspath(__file__))
    if len(sys.argv) > 1:
        rng = random.Random(20251129)
        shares = [1.0] * 240000 + [1 / 3] * 80000
        return write_lines(sys.argv[1], (demonstration(rng, share) for share in shares))
    for kind, make in KINDS.items():
        rng = random.Random("20251128 " + kind)
        write_lines(os.path.join(here, kind + ".jsonl"), (make(rng)[0] for _ in range(96)))
    os.makedirs(os.path.join(here, "init"), exist_ok=True)
    for name, content in model_texts(vocabulary(), hidden=64, positions=256, tags=TAGS).items():
        write_json(os.path.join(here, "init", name), content)


if __name__ == "__main__":
    main()
