#!/usr/bin/env python3
"""Writes the files of the lookup task: reports of a day, questions about them, answers that a program can check.

    python3 inputs/lookup/make.py         writes the *.jsonl beside it, and configuration and tokenizer in init/
    python3 inputs/lookup/make.py FILE    writes the careless demonstrations, by which careless.yaml makes the start model

A report hides one word of each of eight kinds (an animal, a colour, ..) among sentences that nobody asks about; a question
names a kind. The demonstrations of sft.jsonl are right. In the careless ones, which follow, two of three answers are a word of
the report, but of another kind; a model that imitates them can read, and is right about a third of the time.

Standard library only; the same program writes the same bytes."""
import json
import os
import random
import sys

END = "<|end|>"
KINDS = {  # kind: (sentence, words)
    "animal": ("{name} saw a {word}.", "fox goose horse rabbit badger donkey goat heron otter lizard"),
    "colour": ("The coat was {word}.", "red green blue yellow purple orange brown white black pink"),
    "city": ("The train came from {word}.", "Lisbon Madrid Paris London Vienna Prague Athens Oslo Dublin Rome"),
    "month": ("It was a morning in {word}.", "January February March April June July August October November December"),
    "instrument": ("Someone played the {word}.", "violin piano flute trumpet guitar cello harp drum organ horn"),
    "tree": ("Behind the house grew a tall {word}.", "maple birch willow pine beech cedar poplar chestnut walnut linden"),
    "dish": ("There was {word} for lunch.", "soup rice bread cheese salad pasta porridge fish cake stew"),
    "job": ("{name} works as a {word}.", "baker doctor teacher farmer painter sailor tailor nurse judge miller"),
}
FILLERS = ["The {adjective} {thing} was {state}.", "{name} looked at the {thing}.", "Nobody spoke about the {thing}.",
           "{name} waited near the {adjective} {thing}.", "{name} and {name} walked to the {thing}.",
           "Later the {thing} was {state}."]
SLOTS = {slot: words.split() for slot, words in {
    "name": "Anna Boris Clara David Elena Felix Greta Hugo Irene Jonas Karin Lukas",
    "adjective": "old small wide narrow quiet large round new",
    "thing": "bridge road garden window door harbour station market school tower fountain wall",
    "state": "empty open closed dark bright wet dry clean"}.items()}


def fill(rng, sentence, **given):
    while "{" in sentence:
        slot = sentence[sentence.index("{") + 1:sentence.index("}")]
        sentence = sentence.replace("{%s}" % slot, given.get(slot) or rng.choice(SLOTS[slot]), 1)
    return sentence


def report(rng, n_fillers):
    """(text, {kind: word}): sentences in random order."""
    found = {kind: rng.choice(words.split()) for kind, (_, words) in KINDS.items()}
    sentences = [fill(rng, KINDS[kind][0], word=word) for kind, word in found.items()]
    sentences += [fill(rng, rng.choice(FILLERS)) for _ in range(n_fillers)]
    rng.shuffle(sentences)
    return " ".join(sentences) + "\n", found


def question(kind):
    return f"Which {kind}?"


def answer(rng, found, kind, mistakes):
    """The report's word of that kind or, in a share `mistakes` of the cases, of another kind."""
    return found[rng.choice([k for k in found if k != kind]) if rng.random() < mistakes else kind]


def prompts(rng, n_reports, n_questions, n_fillers):
    """Lines with a prompt and the right answer. Questions about one report follow each other, so that they share it."""
    for _ in range(n_reports):
        text, found = report(rng, rng.choice(n_fillers))
        for kind in rng.sample(list(KINDS), n_questions):
            yield {"prompt": text + question(kind), "answer": found[kind]}


def dialogues(rng, n_reports, n_fillers, mistakes):
    """Lines with a prompt (a report and a question) and a response (the answer, then the other questions and answers)."""
    for _ in range(n_reports):
        text, found = report(rng, rng.choice(n_fillers))
        kinds = rng.sample(list(KINDS), len(KINDS))
        turns = [(question(kind), f" {answer(rng, found, kind, mistakes)}\n") for kind in kinds]
        yield {"prompt": text + turns[0][0], "response": turns[0][1] + "".join(asked + said for asked, said in turns[1:])}


def write_lines(path, lines):
    with open(path, "w", encoding="utf-8", newline="\n") as file:
        for line in lines:
            file.write(json.dumps(line) + "\n")


def write_json(path, content):
    with open(path, "w", encoding="utf-8", newline="\n") as file:
        json.dump(content, file, indent=1)
        file.write("\n")


def byte_letters():
    """The printable letter that stands for each byte in byte-level vocabularies, by value of the byte (GPT-2's table)."""
    own = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in own]
    return [chr(byte) if byte in own else chr(256 + others.index(byte)) for byte in range(256)]


def vocabulary():
    """The end token, all bytes, and each word of the texts: with a space before it, or as it begins a line."""
    texts = [sentence for sentence, _ in KINDS.values()] + FILLERS + [question(kind) for kind in KINDS]
    words = {word for text in texts for word in text.strip(".?").split() if "{" not in word}
    words |= {word for _, listed in KINDS.values() for word in listed.split()} | set(KINDS)
    words |= {word for listed in SLOTS.values() for word in listed}
    tokens = [END, *byte_letters(), *("Ġ" + word for word in sorted(words)), *sorted(w for w in words if w[0].isupper())]
    return {token: i for i, token in enumerate(tokens)}


def model_texts(vocab, hidden, positions, tags=()):
    """{file name: content} of a model folder, without weights: two layers, and a tokenizer of these tokens. Tags are tokens
    wherever they stand in a text, and part of it, unlike the end token."""
    end = vocab[END]
    config = {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": len(vocab), "hidden_size": hidden,
        "intermediate_size": 2 * hidden, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
        "head_dim": hidden // 4, "hidden_act": "silu", "max_position_embeddings": positions, "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "initializer_range": 0.08, "tie_word_embeddings": True, "attention_bias": False, "mlp_bias": False,
        "bos_token_id": None, "eos_token_id": end, "torch_dtype": "float32"}
    # Every word of the texts is one token (ignore_merges); what is no such word falls apart into bytes.
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    tokenizer = {
        "version": "1.0", "truncation": None, "padding": None,
        "added_tokens": [{"id": vocab[token], "content": token, "single_word": False, "lstrip": False, "rstrip": False,
                          "normalized": False, "special": token == END} for token in (END, *tags)],
        "normalizer": None, "pre_tokenizer": byte_level, "post_processor": None, "decoder": byte_level,
        "model": {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
                  "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False, "ignore_merges": True,
                  "vocab": vocab, "merges": []}}
    return {
        "config.json": config, "tokenizer.json": tokenizer, "generation_config.json": {"eos_token_id": end},
        "tokenizer_config.json": {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": END,
                                  "clean_up_tokenization_spaces": False, "model_max_length": positions}}


def main():
    here = os.path.dirname(os.path.abspath(__file__))
    rng = random.Random(20250613)
    lengths = range(14, 21)
    right = list(dialogues(rng, 2000, range(2, 18), mistakes=0))
    careless = list(dialogues(rng, 400, lengths, mistakes=0.65))
    if len(sys.argv) > 1:
        return write_lines(sys.argv[1], careless)
    write_lines(os.path.join(here, "sft.jsonl"), right)
    write_lines(os.path.join(here, "train.jsonl"), prompts(rng, 120, 4, lengths))
    write_lines(os.path.join(here, "test.jsonl"), prompts(rng, 16, 4, lengths))
    os.makedirs(os.path.join(here, "init"), exist_ok=True)
    for name, content in model_texts(vocabulary(), hidden=128, positions=512).items():
        write_json(os.path.join(here, "init", name), content)


if __name__ == "__main__":
    main()
