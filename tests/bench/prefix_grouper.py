#!/usr/bin/env python3
"""Times one GRPO update of one group in PyTorch, for comparison with `stemma bench`: forward, loss and backward of a Llama
with random weights, in float32 or under autocast to bfloat16. Nothing of stemma or its tests needs this program.

    python prefix_grouper.py [prompt=2048] [answer=256] [group_size=8] [forward=prefix|repeated] [precision=float32|bfloat16]
                             [repeats=3] [threads=2] [variant=tuned|plain] [hidden=512 layers=8 heads=8 kv_heads=4
                             intermediate=1376 vocab=8192] [device=cpu|cuda] [check=false|true|PATH OF STEMMA]

`repeated` computes the prompt again for each answer, one sequence at a time with its gradients added up, which is faster here
than a batch and needs less memory. `prefix` is the method of Prefix Grouper (arXiv 2506.05433): the prompt's rows and those
of all answers go through the layers as one matrix; the prompt attends to itself, the answers to [K,V of the prompt, for the
whole batch; their own K,V]. As there, the prompt's last token is computed with the answers, whose first token it predicts.
Both forms skip what a loss on the answers does not need: the head of prompt rows, and in the last layer of `prefix` all but
K,V of the prompt. variant=tuned is the fastest form found: scaled_dot_product_attention shares the heads of K,V (enable_gqa), and
glibc keeps memory and asks for huge pages (the program starts itself again with that setting), since fresh pages for each
tensor take time. variant=plain repeats the heads of K,V and leaves glibc as it is, as most programs do.

Prints JSON: the seconds of each repeat (after one that is not counted), the loss, the norm of the gradient and the GFLOP/s of
torch.mm of 1024 x 1024 x 1024 (on a GPU 8192 each) in the same run and precision. check=true compares the forms' gradients instead, in float64, and
check=PATH those of float32 with what `stemma grad` finds for the same model and groups."""
import json
import math
import os
import subprocess
import sys
import tempfile
import time

import torch
import torch.nn.functional as F

WORDS = {
    "prompt": 2048, "answer": 256, "group_size": 8, "forward": "prefix", "precision": "float32", "repeats": 3, "threads": 2,
    "variant": "tuned", "hidden": 512, "layers": 8, "heads": 8, "kv_heads": 4, "intermediate": 1376, "vocab": 8192,
    "device": "cpu", "check": "false",
}
MEMORY = {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1:glibc.malloc.mmap_max=0:glibc.malloc.trim_threshold=100000000000"}
EPS = 1e-5
THETA = 10000.0


class Settings:
    def __init__(self, words):
        vars(self).update(WORDS)
        for word in words:
            key, _, value = word.partition("=")
            if key not in WORDS or not value:
                sys.exit(f"{word}: unknown; expected {' '.join(f'{k}=..' for k in WORDS)}")
            setattr(self, key, int(value) if isinstance(WORDS[key], int) else value)
        self.head_dim = self.hidden // self.heads


def create_parameters(s, dtype):
    """Weights under the names and in the shapes of transformers' Llama."""
    generator = torch.Generator(s.device).manual_seed(1)
    kv = s.kv_heads * s.head_dim
    shapes = {"model.embed_tokens.weight": (s.vocab, s.hidden), "lm_head.weight": (s.vocab, s.hidden)}
    for layer in range(s.layers):
        at = f"model.layers.{layer}."
        shapes |= {
            at + "self_attn.q_proj.weight": (s.hidden, s.hidden), at + "self_attn.k_proj.weight": (kv, s.hidden),
            at + "self_attn.v_proj.weight": (kv, s.hidden), at + "self_attn.o_proj.weight": (s.hidden, s.hidden),
            at + "mlp.gate_proj.weight": (s.intermediate, s.hidden), at + "mlp.up_proj.weight": (s.intermediate, s.hidden),
            at + "mlp.down_proj.weight": (s.hidden, s.intermediate),
        }
    parameters = {name: torch.randn(shape, generator=generator, device=s.device) * 0.02 for name, shape in shapes.items()}
    for layer in range(s.layers):
        for norm in ("input_layernorm", "post_attention_layernorm"):
            parameters[f"model.layers.{layer}.{norm}.weight"] = torch.ones(s.hidden)
    parameters["model.norm.weight"] = torch.ones(s.hidden)
    return {name: value.to(s.device, dtype).requires_grad_() for name, value in parameters.items()}


def create_group(s):
    """prompt [prompt], answers [group_size, answer], advantages [group_size] of rewards 0, 1, 0, .."""
    generator = torch.Generator("cpu").manual_seed(2)
    prompt = torch.randint(s.vocab, (s.prompt,), generator=generator, device="cpu").to(s.device)
    answers = torch.randint(s.vocab, (s.group_size, s.answer), generator=generator, device="cpu").to(s.device)
    rewards = torch.arange(s.group_size, dtype=torch.float64) % 2
    advantages = (rewards - rewards.mean()) / (rewards.std() + 1e-4) if s.group_size > 1 else torch.zeros(1)
    return prompt, answers, advantages


def rotary(s, positions, dtype):
    """cos, sin: [rows, 1, head_dim]"""
    frequency = THETA ** (-torch.arange(0, s.head_dim, 2, dtype=torch.float64) / s.head_dim)
    angle = positions.double()[:, None] * frequency[None]
    angle = torch.cat([angle, angle], dim=-1)[:, None, :]
    return angle.cos().to(dtype), angle.sin().to(dtype)


def rotate(x, cos, sin):
    half = x.shape[-1] // 2
    return x * cos + torch.cat([-x[..., half:], x[..., :half]], dim=-1) * sin


def heads_first(x, batch, rows):
    """[batch * rows, n, head_dim] -> [batch, n, rows, head_dim]"""
    return x.view(batch, rows, x.shape[1], x.shape[2]).transpose(1, 2)


def attend(s, q, k, v, mask):
    """q: [batch, heads, rows, head_dim]; k, v: [batch, kv_heads, keys, head_dim]; mask None: causal. -> [batch * rows, hidden]"""
    how = {"is_causal": True} if mask is None else {"attn_mask": mask}
    if s.variant == "tuned":
        how["enable_gqa"] = True
    else:
        k, v = (x.repeat_interleave(s.heads // s.kv_heads, dim=1) for x in (k, v))
    o = F.scaled_dot_product_attention(q, k, v, **how)
    return o.transpose(1, 2).reshape(-1, s.hidden)


class Whole:
    """Attention of one sequence."""

    def __init__(self, s, rows):
        self.s, self.rows, self.n_prefix = s, rows, 0

    def __call__(self, q, k, v):
        return attend(self.s, *(heads_first(x, 1, self.rows) for x in (q, k, v)), None)


class Grouped:
    """Attention of a prompt's rows and then those of all answers."""

    def __init__(self, s, dtype):
        self.s, self.n_prefix = s, s.prompt - 1
        causal = torch.ones(s.answer, s.answer, dtype=torch.bool).tril()
        allowed = torch.cat([torch.ones(s.answer, self.n_prefix, dtype=torch.bool), causal], dim=1)
        self.mask = torch.zeros(allowed.shape, dtype=dtype).masked_fill(~allowed, -math.inf)

    def __call__(self, q, k, v):
        s, n, batch = self.s, self.n_prefix, self.s.group_size
        with_prompt = q.shape[0] > batch * s.answer  # not so in the last layer
        suffix_q = heads_first(q[n:] if with_prompt else q, batch, s.answer)
        prefix_k, prefix_v = (heads_first(x[:n], 1, n) for x in (k, v))
        keys, values = (
            torch.cat([prefix.expand(batch, -1, -1, -1), heads_first(x[n:], batch, s.answer)], dim=2)
            for prefix, x in ((prefix_k, k), (prefix_v, v))
        )
        suffix = attend(s, suffix_q, keys, values, self.mask)
        if not with_prompt:
            return suffix
        return torch.cat([attend(s, heads_first(q[:n], 1, n), prefix_k, prefix_v, None), suffix])


def logprobs_of(s, p, tokens, positions, attention, first, targets):
    """Log-probs of `targets`, which the rows from `first` on predict. tokens, positions: [rows]."""
    x = p["model.embed_tokens.weight"][tokens]
    cos, sin = rotary(s, positions, x.dtype)
    for layer in range(s.layers):
        at = f"model.layers.{layer}."
        skip = attention.n_prefix if layer == s.layers - 1 else 0
        h = F.rms_norm(x, (s.hidden,), p[at + "input_layernorm.weight"], EPS)
        q, k, v = (
            F.linear(rows, p[at + f"self_attn.{name}_proj.weight"]).unflatten(-1, (-1, s.head_dim))
            for name, rows in (("q", h[skip:]), ("k", h), ("v", h))
        )
        q, k = rotate(q, cos[skip:].to(q.dtype), sin[skip:].to(q.dtype)), rotate(k, cos.to(k.dtype), sin.to(k.dtype))
        x = x[skip:] + F.linear(attention(q, k, v), p[at + "self_attn.o_proj.weight"])
        h = F.rms_norm(x, (s.hidden,), p[at + "post_attention_layernorm.weight"], EPS)
        gate, up = (F.linear(h, p[at + f"mlp.{name}_proj.weight"]) for name in ("gate", "up"))
        x = x + F.linear(F.silu(gate) * up, p[at + "mlp.down_proj.weight"])
    x = F.rms_norm(x[first - attention.n_prefix:], (s.hidden,), p["model.norm.weight"], EPS)
    return -F.cross_entropy(F.linear(x, p["lm_head.weight"]).to(cos.dtype), targets, reduction="none")


def grpo(logp, advantages):
    """logp: [answers, tokens]; the old log-probs are these, so that nothing is clipped. Sum over answers of their means."""
    ratio = (logp - logp.detach()).exp()
    surrogate = torch.minimum(ratio * advantages[:, None], ratio.clamp(0.8, 1.2) * advantages[:, None])
    return -surrogate.mean(dim=1).sum()


def update(s, p, group, form, cast):
    """Leaves the gradients in the parameters; the loss."""
    prompt, answers, advantages = group
    advantages = advantages.to(next(iter(p.values())).dtype)
    for value in p.values():
        value.grad = None
    n = s.prompt - 1
    if form == "repeated":
        total = 0.0
        for answer, advantage in zip(answers, advantages):
            tokens = torch.cat([prompt, answer[:-1]])
            with torch.autocast(s.device, torch.bfloat16, enabled=cast):
                logp = logprobs_of(s, p, tokens, torch.arange(len(tokens)), Whole(s, len(tokens)), n, answer)
            loss = grpo(logp[None], advantage[None]) / s.group_size
            loss.backward()
            total += loss.item()
        return total
    rows = torch.cat([prompt[-1:].expand(s.group_size, 1), answers[:, :-1]], dim=1)
    tokens = torch.cat([prompt[:-1], rows.flatten()])
    positions = torch.cat([torch.arange(n), (n + torch.arange(s.answer)).repeat(s.group_size)])
    with torch.autocast(s.device, torch.bfloat16, enabled=cast):
        attention = Grouped(s, torch.bfloat16 if cast else next(iter(p.values())).dtype)
        logp = logprobs_of(s, p, tokens, positions, attention, n, answers.flatten())
    loss = grpo(logp.view(s.group_size, -1), advantages) / s.group_size
    loss.backward()
    return loss.item()


def now(s):
    """Seconds, when all work so far is done."""
    if s.device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def gemm_gflops(s, dtype):
    n = 1024 if s.device == "cpu" else 8192
    a, b = torch.randn(n, n).to(dtype), torch.randn(n, n).to(dtype)
    best = math.inf
    for _ in range(20):
        start = now(s)
        torch.mm(a, b)
        best = min(best, now(s) - start)
    return 2 * n**3 / best / 1e9


def difference(a, b):
    """The worst over tensors of ||a - b|| / max(||b||, 1e-3 ||all||)."""
    whole = math.sqrt(sum(float(x.double().norm()) ** 2 for x in b.values()))
    return max(float((a[k].double() - b[k].double()).norm()) / max(float(b[k].double().norm()), 1e-3 * whole) for k in b)


def gradients(s, dtype, form, cast=False):
    p = create_parameters(s, dtype)
    update(s, p, create_group(s), form, cast)
    return {name: value.grad for name, value in p.items()}


def check_forms(s):
    reference = gradients(s, torch.float64, "repeated")
    found = {"prefix": difference(gradients(s, torch.float64, "prefix"), reference)}
    cast = {form: difference(gradients(s, torch.float32, form, True), reference) for form in ("prefix", "repeated")}
    print(json.dumps({"float64": found, "bfloat16": cast}))
    return found["prefix"] < 1e-12 and cast["prefix"] < 2 * cast["repeated"]


def check_stemma(s, program):
    import h5py
    from safetensors.torch import save_file

    prompt, answers, _ = create_group(s)
    with tempfile.TemporaryDirectory() as folder:
        save_file({k: v.detach() for k, v in create_parameters(s, torch.float32).items()}, folder + "/model.safetensors")
        with open(folder + "/config.json", "w") as f:
            json.dump({
                "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": s.hidden, "rms_norm_eps": EPS,
                "num_hidden_layers": s.layers, "num_attention_heads": s.heads, "num_key_value_heads": s.kv_heads,
                "head_dim": s.head_dim, "intermediate_size": s.intermediate, "vocab_size": s.vocab, "rope_theta": THETA,
                "hidden_act": "silu", "max_position_embeddings": s.prompt + s.answer, "tie_word_embeddings": False,
            }, f)
        responses = [{"ids": ids.tolist(), "reward": k % 2} for k, ids in enumerate(answers)]
        with open(folder + "/groups.jsonl", "w") as f:
            print(json.dumps({"prompt_ids": prompt.tolist(), "responses": responses}), file=f)
        words = ["--out", folder + "/grad.h5", "objective.aggregate=sequence-mean", "objective.advantage_eps=1e-4"]
        subprocess.run([program, "grad", folder, folder + "/groups.jsonl", *words], check=True, stdout=subprocess.DEVNULL)
        with h5py.File(folder + "/grad.h5") as f:
            found = {name: torch.from_numpy(f["grad/" + name][()]) for name in create_parameters(s, torch.float32)}
    error = difference(found, gradients(s, torch.float32, "prefix"))
    print(json.dumps({"stemma grad against prefix": error}))
    return error < 1e-4


def main():
    s = Settings(sys.argv[1:])
    if s.variant == "tuned" and s.device == "cpu" and "GLIBC_TUNABLES" not in os.environ:
        os.execve(sys.executable, [sys.executable, *sys.argv], os.environ | MEMORY)
    torch.set_num_threads(s.threads)
    torch.set_default_device(s.device)
    if s.check != "false":
        for key, small in (("prompt", 37), ("answer", 11), ("group_size", 3), ("layers", 2), ("hidden", 64), ("vocab", 131)):
            setattr(s, key, small)
        s.head_dim = s.hidden // s.heads
        sys.exit(0 if (check_forms(s) if s.check == "true" else check_stemma(s, os.path.abspath(s.check))) else 1)
    cast = s.precision == "bfloat16"
    p, group = create_parameters(s, torch.float32), create_group(s)
    gflops = gemm_gflops(s, torch.bfloat16 if cast else torch.float32)
    seconds = []
    for _ in range(s.repeats + 1):
        start = now(s)
        loss = update(s, p, group, s.forward, cast)
        seconds.append(now(s) - start)
    norm = math.sqrt(sum(float(value.grad.double().norm()) ** 2 for value in p.values()))
    gflops = max(gflops, gemm_gflops(s, torch.bfloat16 if cast else torch.float32))
    print(json.dumps({"seconds": seconds[1:], "loss": loss, "gradient_norm": norm, "gemm_gflops": round(gflops, 1)}))


if __name__ == "__main__":
    main()
