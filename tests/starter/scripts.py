"""Training scripts of many shapes: each way to write the loop within each way to arrange a script around it."""

from __future__ import annotations

import textwrap
from collections.abc import Callable

HEAD = """
import argparse
import os, sys
import torch
import torch.nn.functional as F
from torch import nn, optim
from torch.utils.data import DataLoader, TensorDataset

EPOCHS = 3
BATCH_SIZE, WIDTH = 16, 8


class Base(nn.Module):
    pass


class Net(Base):
    '''A net
    whose text has lines
  of its own.'''

    def __init__(self, width=WIDTH):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(4, width), nn.ReLU(), nn.Linear(width, 2))

    def forward(self, x):
        return self.layers(x)


def make_data(count=64):
    x = torch.randn(count, 4)
    return TensorDataset(x, (x.sum(1) > 0).long())
"""

BUILD = """
torch.manual_seed(1)
device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
if device.type == "cuda":
    torch.backends.cudnn.benchmark = True
train_set, val_set = make_data(), make_data(32)
train_loader = DataLoader(train_set, batch_size=BATCH_SIZE, shuffle=True)
val_loader = DataLoader(val_set, batch_size=BATCH_SIZE)
model = Net().to(device)
model.layers[0].bias.data.zero_()
optimizer = optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
scheduler = optim.lr_scheduler.StepLR(optimizer, step_size=2)
criterion = nn.CrossEntropyLoss()
print("begins")
"""

PLAIN = """
for epoch in range(EPOCHS):
    for x, y in train_loader:
        x, y = x.to(device), y.to(device)
        optimizer.zero_grad()
        out = model(x)
        loss = criterion(out, y)
        loss.backward()
        optimizer.step()
    scheduler.step()
    print(epoch, loss.item())
"""

LOOPS: dict[str, tuple[str, set[str]]] = {
    "plain": (PLAIN, {"loss_fn", "max_epochs", "scheduler_interval"}),
    "counted": (
        PLAIN.replace("for x, y in train_loader", "for i, (x, y) in enumerate(train_loader)").replace(
            "out = model(x)", "out = model(x); running = i"
        ),
        {"loss_fn", "max_epochs"},
    ),
    "functional": (
        PLAIN.replace("out = model(x)\n        loss = criterion(out, y)", "loss = F.cross_entropy(model(x), y)"),
        {"loss_fn"},
    ),
    "clipped": (
        PLAIN.replace(
            "optimizer.step()", "nn.utils.clip_grad_norm_(model.parameters(), max_norm=1.0)\n        optimizer.step()"
        ),
        {"loss_fn", "clip_grad_norm"},
    ),
    "two terms": (
        PLAIN.replace("criterion(out, y)", "criterion(out, y) + 0.01 * model.layers[0].weight.square().mean()"),
        {"compute_loss"},
    ),
    "target as float": (
        PLAIN.replace("criterion(out, y)", "F.binary_cross_entropy_with_logits(out[:, 0], y.float())"),
        {"compute_loss"},
    ),
    "one name for the batch": (
        PLAIN.replace("for x, y in train_loader", "for batch in train_loader").replace(
            "x, y = x.to(device), y.to(device)", "x = batch[0].to(device)\n        y = batch[1].to(device)"
        ),
        {"compute_loss"},
    ),
    "accumulated": (
        PLAIN.replace("for x, y in train_loader", "for i, (x, y) in enumerate(train_loader)").replace(
            "loss.backward()\n        optimizer.step()",
            "(loss / 4).backward()\n        if (i + 1) % 4 == 0:\n            optimizer.step()",
        ),
        {"loss_fn", "accumulate_steps"},
    ),
    "autocast": (
        PLAIN.replace(
            "out = model(x)\n        loss = criterion(out, y)",
            "with torch.autocast('cpu', dtype=torch.bfloat16):\n            out = model(x)\n            loss = criterion(out, y)",
        ),
        {"loss_fn", "precision"},
    ),
    "schedule per batch": (
        PLAIN.replace("    scheduler.step()\n", "").replace(
            "optimizer.step()", "optimizer.step()\n        scheduler.step()"
        ),
        {"loss_fn", "scheduler_interval"},
    ),
}


def _in(code: str, spaces: int = 4) -> str:
    return textwrap.indent(code, " " * spaces)


def _in_main(loop: str) -> str:
    return f"{HEAD}\ndef main():{_in(BUILD + loop)}\nif __name__ == '__main__':\n    main()\n"


def _in_guard(loop: str) -> str:
    return f"{HEAD}\nif __name__ == '__main__':{_in(BUILD + loop)}"


def _bare(loop: str) -> str:
    return HEAD + BUILD + loop


def _notebook(loop: str) -> str:
    magic = "get_ipython().run_line_magic('matplotlib', 'inline')\n"
    return f"#!/usr/bin/env python\n# coding: utf-8\n# In[1]:\n{magic}{HEAD}\n# In[2]:\n{BUILD}\n# In[3]:\n{loop}"


def _arguments(loop: str) -> str:
    parser = """
parser = argparse.ArgumentParser()
parser.add_argument("--epochs", type=int, default=EPOCHS)
parser.add_argument("--lr", type=float, default=0.1)
"""
    main = BUILD.replace("lr=0.1", "lr=args.lr") + loop.replace("range(EPOCHS)", "range(args.epochs)")
    return (
        f"{HEAD}\ndef parse():{_in(parser)}    return parser.parse_args()\n\n"
        f"def main(args):{_in(main)}\nif __name__ == '__main__':\n    main(parse())\n"
    )


def _train_function(loop: str) -> str:
    once = loop.partition("    for ")[2].partition("\n    scheduler.step()\n")[0]
    once = textwrap.dedent("    for " + once.partition("    print(epoch")[0])
    each = "        scheduler.step()\n" if "\n    scheduler.step()" in loop else ""
    takes = "model, train_loader, optimizer, criterion, scheduler, device"
    return (
        f"{HEAD}\ndef train(epoch, {takes}):\n    model.train()\n{_in(once)}\n\n"
        "def evaluate(model, loader, criterion):\n    model.eval()\n    total = 0.0\n    with torch.no_grad():\n"
        "        for x, y in loader:\n            total += criterion(model(x), y).item()\n    model.train()\n    return total\n\n"
        f"def run(width: int = WIDTH):{_in(BUILD)}    for epoch in range(EPOCHS):\n        train(epoch, {takes})\n"
        f"        print(evaluate(model, val_loader, criterion))\n{each}\n"
        "if __name__ == '__main__':\n    run(width=4)\n"
    )


def _library(loop: str) -> str:
    return f"{HEAD}\ndef fit(seed=0):{_in(BUILD + loop)}\n    return model\n"


SHAPES: dict[str, Callable[[str], str]] = {
    "main": _in_main,
    "guard": _in_guard,
    "bare": _bare,
    "notebook": _notebook,
    "arguments": _arguments,
    "train function": _train_function,
    "library": _library,
}

ODD: dict[str, str] = {
    "empty": "",
    "only a comment": "# nothing here\n",
    "only a class": """\
import torch.nn as nn
class Net(nn.Module):
    def forward(self, x):
        return x
""",
    "no torch": """\
import math
print(math.pi)
""",
    "asynchronous": """\
import asyncio
async def main():
    model = await load()
    opt = make_optimizer(model)
    for x in data:
        model(x).backward()
asyncio.run(main())
""",
    "returns in between": """\
def main():
    model = Net()
    if not model:
        return
    optimizer = Adam(model)
    for x in train_loader:
        loss = model(x)
        loss.backward()
main()
""",
    "star imports": """\
from torch import *
from models import *
model = build()
opt = SGD(model.parameters(), lr=lr)
for x, y in loader:
    loss = f(model(x), y)
    loss.backward()
""",
    "one line": "import torch; model = torch.nn.Linear(1, 1); opt = torch.optim.SGD(model.parameters(), lr=1)\n",
    "windows line ends": "import torch\r\nmodel = torch.nn.Linear(1, 1)\r\ntrain_loader = [\r\n  torch.ones(1, 1),\r\n]\r\n",
    "form feed": "import torch\n\x0c\nmodel = torch.nn.Linear(1, 1)\n",
    "byte order mark": "\ufeffimport torch\nmodel = torch.nn.Linear(1, 1)\n",
    "match and walrus": """\
import sys
match sys.argv:
    case [_, *rest]:
        model = Net(rest)
    case _:
        model = None
if (n := len(sys.argv)) > 1:
    optimizer = Adam(model.parameters(), n)
""",
    "hugging face": """\
from transformers import AutoModel, Trainer, TrainingArguments
model = AutoModel.from_pretrained('x')
trainer = Trainer(model=model, args=TrainingArguments('out'), train_dataset=data)
trainer.train()
""",
    "lightning": """\
import lightning as L
class Lit(L.LightningModule):
    def training_step(self, batch, i):
        return self(batch)
if __name__ == '__main__':
    model = Lit()
    trainer = L.Trainer()
    trainer.fit(model, DataLoader(data))
""",
    "global and nonlocal": """\
def main():
    global model
    model = Net()
    def inner():
        nonlocal_ = 1
    optimizer = SGD(model.parameters())
    loss = model(1)
    loss.backward()
main()
""",
    "calls itself": """\
def main():
    optimizer = SGD()
    loss.backward()
    main()
main()
""",
    "text over lines": """\
if __name__ == '__main__':
    help = '''one
  two
'''
    model = Net(help, f'''{
1}
 x''')
    loss.backward()
""",
    "names like keywords": """\
_ = type = match = 1
model = lambda: (yield)
model = print(*[x for x in range(3)], sep='')
""",
    "deep": "model = " + "(" * 60 + "1" + ")" * 60 + "\n",
    "quotes in the name": "model = 'a\\'\"\"\"b'\noptimizer = Adam('''x''')\n",
}

BROKEN: dict[str, tuple[bytes, str]] = {
    "half a line": (b"def main(:\n    pass\n", "not valid Python"),
    "old print": (b"print 'hello'\n", "not valid Python"),
    "magic": (b"import torch\n%matplotlib inline\n", "begins with % or !"),
    "shell": (b"!pip install torch\n", "begins with % or !"),
    "null": (b"a = 1\0\n", ""),
    "binary": (b"\x80\x04\x95\xff\xfe\x00", ""),
    "mixed tabs": (b"if 1:\n\tif 2:\n        pass\n", "not valid Python"),
}
