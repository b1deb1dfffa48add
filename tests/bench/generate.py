#!/usr/bin/env python3
"""Times transformers' generate, with its cache, on the shape that `stemma bench bench.forwards=decode` measures: random
Llama weights, random prompts, answers of one length. Needs torch and transformers; stemma does not.

    generate.py [prompt=512] [answer=256] [groups=8] [group_size=8] [hidden=512] [layers=8] [heads=8] [kv_heads=4]
                [intermediate=1376] [vocab=8192] [threads=2] [repeats=1] [attention=sdpa]

Prints one JSON object; `seconds` holds each repeat, prefill included, `prefill_s` a forward over the prompts alone."""

import json
import sys
import time

import torch
import transformers

settings = dict(prompt=512, answer=256, groups=8, group_size=8, hidden=512, layers=8, heads=8, kv_heads=4,
                intermediate=1376, vocab=8192, threads=2, repeats=1, attention="sdpa")
for word in sys.argv[1:]:
    key, _, value = word.partition("=")
    if key not in settings:
        sys.exit(f"generate.py: found {key!r}; expected one of {', '.join(settings)}")
    settings[key] = type(settings[key])(value)
s = type("Settings", (), settings)

torch.set_num_threads(s.threads)
torch.manual_seed(1)
config = transformers.LlamaConfig(
    hidden_size=s.hidden, num_hidden_layers=s.layers, num_attention_heads=s.heads, num_key_value_heads=s.kv_heads,
    intermediate_size=s.intermediate, vocab_size=s.vocab, max_position_embeddings=s.prompt + s.answer,
    tie_word_embeddings=False, bos_token_id=None, eos_token_id=None, pad_token_id=0, attn_implementation=s.attention)
model = transformers.LlamaForCausalLM(config).to(torch.float32).eval()
prompts = torch.randint(1, s.vocab, (s.groups, s.prompt))


def sample(n_tokens):
    with torch.inference_mode():
        return model.generate(prompts, attention_mask=torch.ones_like(prompts), do_sample=True, temperature=1.0, top_k=0,
                              top_p=1.0, num_return_sequences=s.group_size, max_new_tokens=n_tokens,
                              min_new_tokens=n_tokens, use_cache=True)


def seconds_of(work):
    start = time.perf_counter()
    result = work()
    return time.perf_counter() - start, result


sample(2)
with torch.inference_mode():
    prefill_s, _ = seconds_of(lambda: model(prompts.repeat_interleave(s.group_size, 0), logits_to_keep=1))
seconds = []
for _ in range(s.repeats):
    spent, out = seconds_of(lambda: sample(s.answer))
    assert out.shape == (s.groups * s.group_size, s.prompt + s.answer)
    seconds.append(spent)
print(json.dumps(settings | dict(seconds=seconds, prefill_s=prefill_s, torch=torch.__version__,
                                 transformers=transformers.__version__)))
