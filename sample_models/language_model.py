"""A small GPT: pre-norm transformer with tied embeddings, AdamW, warm-up and cosine decay.

The model returns its own loss, as Hugging Face models do, so the set-up needs no loss_fn.
"""

import math

import torch
from small_data import alice
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

EXPECTED = {
    "healthy": {},
    "sees_the_future": {"batch-independence": ["SC1803"]},
    "rate_of_sgd": {"learning-rate": ["SC1201"]},
    "warmup_longer_than_run": {"lr-schedule": ["SC0508"]},
    "labels_shifted_twice": {"loss-contract": ["SC1613"]},
    "resumes_without_optimizer": {"checkpoint-resume": ["SC0403"]},
    "softmax_over_heads": {"activation-saturation": ["SC1102"]},
}

LENGTH = 32
STEPS = 300


class Text(Dataset):
    """Windows of the text; the labels are the input ids themselves, which the model shifts."""

    def __init__(self, ids, stride=LENGTH):
        self.windows = ids.unfold(0, LENGTH, stride)

    def __len__(self):
        return len(self.windows)

    def __getitem__(self, index):
        return {"input_ids": self.windows[index], "labels": self.windows[index]}


def causal_attention(q, k, v):
    return F.scaled_dot_product_attention(q, k, v, is_causal=True)


def attention_over_heads(q, k, v):
    scores = q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])
    return scores.softmax(dim=1).tril() @ v  # axis 1 of (batch, heads, queries, keys): the heads share out each key


class Block(nn.Module):
    def __init__(self, width, heads, attention):
        super().__init__()
        self.heads = heads
        self.attention = attention
        self.norm1 = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.out = nn.Linear(width, width)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        self.dropout = nn.Dropout(0.1)

    def forward(self, x):
        batch, time, width = x.shape
        q, k, v = self.qkv(self.norm1(x)).view(batch, time, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        mixed = self.attention(q, k, v)
        x = x + self.dropout(self.out(mixed.transpose(1, 2).reshape(batch, time, width)))
        return x + self.dropout(self.mlp(self.norm2(x)))


class GPT(nn.Module):
    def __init__(self, characters, width=64, depth=2, heads=4, attention=causal_attention):
        super().__init__()
        self.tokens = nn.Embedding(characters, width)
        self.positions = nn.Embedding(LENGTH, width)
        self.blocks = nn.Sequential(*(Block(width, heads, attention) for _ in range(depth)))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, characters, bias=False)
        for module in self.modules():
            if isinstance(module, (nn.Linear, nn.Embedding)):
                nn.init.normal_(module.weight, std=0.05)
        self.head.weight = self.tokens.weight

    def forward(self, input_ids, labels):
        x = self.tokens(input_ids) + self.positions.weight[: input_ids.shape[1]]
        logits = self.head(self.norm(self.blocks(x)))
        loss = F.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
        return {"loss": loss, "logits": logits}


def run(peak=5e-3, warmup=20, attention=causal_attention):
    ids, alphabet = alice()
    end = len(ids) * 9 // 10  # the last tenth of the text is for validation
    model = GPT(len(alphabet), attention=attention)
    matrices = [p for p in model.parameters() if p.dim() >= 2]
    others = [p for p in model.parameters() if p.dim() < 2]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=peak, betas=(0.9, 0.95))

    def factor(step):
        if step < warmup:
            return (step + 1) / warmup
        return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - warmup) / (STEPS - warmup))))

    return {
        "model": model,
        "train_loader": DataLoader(Text(ids[:end], stride=8), batch_size=32, shuffle=True, drop_last=True),
        "val_loader": DataLoader(Text(ids[end:]), batch_size=64),
        "optimizer": optimizer,
        "scheduler": torch.optim.lr_scheduler.LambdaLR(optimizer, factor),
        "scheduler_interval": "step",
        "clip_grad_norm": 1.0,
        "max_steps": STEPS,
    }


def healthy():
    return run()


def sees_the_future():
    return run(
        attention=F.scaled_dot_product_attention
    )  # the loss falls to almost nothing: what comes next can be looked up


def rate_of_sgd():
    return run(peak=3.0)  # AdamW moves each weight by about the learning rate at every step


def warmup_longer_than_run():
    return run(warmup=2000)  # copied from a long run: this one ends at 15% of the peak rate


def labels_shifted_twice():
    ids, _ = alice()
    windows = ids.unfold(0, LENGTH + 1, 8)
    data = [{"input_ids": w[:-1], "labels": w[1:]} for w in windows]  # and the model shifts the labels once more
    return {**run(), "train_loader": DataLoader(data, batch_size=32, shuffle=True, drop_last=True), "val_loader": None}


def resumes_without_optimizer():
    parts = healthy()
    model, scheduler = parts["model"], parts["scheduler"]

    def save(path):
        torch.save({"model": model.state_dict(), "scheduler": scheduler.state_dict()}, path)

    def load(path):
        checkpoint = torch.load(path)
        model.load_state_dict(checkpoint["model"])
        scheduler.load_state_dict(checkpoint["scheduler"])  # AdamW starts again from empty moments

    return {**parts, "save": save, "load": load}


def softmax_over_heads():
    return run(attention=attention_over_heads)
