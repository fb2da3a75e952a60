"""nanoGPT's laptop setting, written out: the yardstick of the speedrun (chapter 6).

Prints a JSON object.

    python benchmarks/nanogpt.py [--seed 1] [--steps 2000]

4 layers, 4 heads, 128 channels, a context of 64, 12 blocks a step, no dropout; AdamW at
1e-3 after 100 steps of warm-up, falling to 1e-4 along a cosine, betas 0.9 and 0.99,
weight decay 0.1 on matrices, clipping at 1.0; float32, not compiled. The clock starts
with the first line after the imports and stops after the last step, as for charlm; what
is judged is the whole validation split.
"""

import argparse, json, math, time

import torch
import torch.nn.functional as F
from torch import nn

from charlm.data import CharTokenizer, load_corpus, train_val_split

C, N_HEAD, N_LAYER, T, BATCH = 128, 4, 4, 64, 12
WARMUP, LR, LOWEST = 100, 1e-3, 1e-4


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.qkv = nn.Linear(C, 3 * C, bias=False)
        self.proj = nn.Linear(C, C, bias=False)

    def forward(self, x):
        q, k, v = (
            part.view(*x.shape[:2], N_HEAD, C // N_HEAD).transpose(1, 2)
            for part in self.qkv(x).chunk(3, dim=2)
        )
        out = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.proj(out.transpose(1, 2).reshape(x.shape))


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.ln1 = nn.LayerNorm(C, bias=False)
        self.attn = Attention()
        self.ln2 = nn.LayerNorm(C, bias=False)
        self.up = nn.Linear(C, 4 * C, bias=False)
        self.proj = nn.Linear(4 * C, C, bias=False)

    def forward(self, x):
        x = x + self.attn(self.ln1(x))
        return x + self.proj(F.gelu(self.up(self.ln2(x))))


class Model(nn.Module):
    def __init__(self, vocab_size):
        super().__init__()
        self.tokens, self.places = nn.Embedding(vocab_size, C), nn.Embedding(T, C)
        self.blocks = nn.Sequential(*[Block() for _ in range(N_LAYER)])
        self.ln = nn.LayerNorm(C, bias=False)
        for name, p in self.named_parameters():
            if p.dim() == 2:
                last = name.endswith("proj.weight")
                std = 0.02 / math.sqrt(2 * N_LAYER) if last else 0.02
                nn.init.normal_(p, std=std)

    def forward(self, idx, targets):
        x = self.blocks(self.tokens(idx) + self.places.weight[: idx.shape[1]])
        # the last layer is the first one's table
        logits = self.ln(x) @ self.tokens.weight.T
        return logits, F.cross_entropy(logits.flatten(0, 1), targets.flatten())


def get_batch(ids):
    "Blocks cut out one by one and stacked"
    offsets = torch.randint(len(ids) - T, (BATCH,))
    x = torch.stack([ids[i : i + T] for i in offsets])
    y = torch.stack([ids[i + 1 : i + T + 1] for i in offsets])
    return x, y


def rate(step, steps):
    if step < WARMUP:
        return LR * (step + 1) / (WARMUP + 1)
    done = (step - WARMUP) / (steps - WARMUP)
    return LOWEST + (LR - LOWEST) * (0.5 + 0.5 * math.cos(math.pi * done))


def train(seed, steps):
    text = load_corpus("tinyshakespeare").text
    tok = CharTokenizer.from_text(text)
    train_ids, val_ids = train_val_split(tok.encode(text))
    train_ids = train_ids.long()
    torch.manual_seed(seed)
    model = Model(tok.vocab_size)
    matrices = [p for p in model.parameters() if p.dim() == 2]
    others = [p for p in model.parameters() if p.dim() < 2]
    optimizer = torch.optim.AdamW(
        [
            {"params": matrices, "weight_decay": 0.1},
            {"params": others, "weight_decay": 0.0},
        ],
        betas=(0.9, 0.99),
    )
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = rate(step, steps)
        loss = model(*get_batch(train_ids))[1]
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    return model, val_ids


if __name__ == "__main__":
    began = time.perf_counter()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--seed",
        type=int,
        default=1,
        help="decides the first weights and the batches (default: 1)",
    )
    parser.add_argument(
        "--steps", type=int, default=2000, help="updates of the weights (default: 2000)"
    )
    a = parser.parse_args()
    model, val_ids = train(a.seed, a.steps)
    seconds = time.perf_counter() - began
    from charlm.race import process_seconds
    from charlm.train import evaluate

    loss = evaluate(model, val_ids, block_size=T).nats
    print(
        json.dumps(
            {
                "seed": a.seed,
                "loss": loss,
                "seconds": {"training": seconds, "process": process_seconds()},
                "steps": a.steps,
                "parameters": sum(p.numel() for p in model.parameters()),
            }
        )
    )
