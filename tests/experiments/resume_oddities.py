"""Odd set-ups for the checkpoint-resume tests, one function each: `sound_*` resume as they should, `broken_*` do not."""

from __future__ import annotations

import argparse
import copy
import ctypes
import dataclasses
import functools
import itertools
import os
import random
import time

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, IterableDataset, TensorDataset


def data(n=96, width=6):
    g = torch.Generator().manual_seed(3)
    y = torch.randint(0, 3, (n,), generator=g)
    return TensorDataset(torch.randn(n, width, generator=g) + y[:, None], y)


def net(dropout=0.2):
    return nn.Sequential(nn.Linear(6, 12), nn.BatchNorm1d(12), nn.ReLU(), nn.Dropout(dropout), nn.Linear(12, 3))


def loader(**options):
    return DataLoader(data(), batch_size=12, shuffle=True, **options)


class Kit:
    """Model, Adam and a step, and the setup dict made of them with any changes."""

    def __init__(self, model=None, lr=0.01, loader_=None):
        torch.manual_seed(0)
        self.model = model if model is not None else net()
        self.optimizer = torch.optim.Adam((p for p in self.model.parameters() if p.requires_grad), lr=lr)
        self.loader = loader_ if loader_ is not None else loader()

    def loss(self, batch):
        x, y = batch
        return F.cross_entropy(self.model(x), y)

    def step(self, batch):
        self.optimizer.zero_grad()
        loss = self.loss(batch)
        loss.backward()
        self.optimizer.step()
        return loss

    def save(self, path, **more):
        torch.save({"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict(), **more}, path)

    def load(self, path):
        parts = torch.load(path, weights_only=False)
        self.model.load_state_dict(parts["model"])
        self.optimizer.load_state_dict(parts["optimizer"])
        return parts

    def setup(self, **changes):
        own = {"model": self.model, "train_loader": self.loader, "optimizer": self.optimizer}
        own |= {"save": self.save, "load": self.load, "loss_fn": nn.CrossEntropyLoss(), **changes}
        return {key: value for key, value in own.items() if value is not None}


class Shadow:
    """A moving average of the weights, in the way of torch_ema."""

    def __init__(self, model, decay=0.9):
        self.decay = decay
        self.shadow = {name: p.detach().clone() for name, p in model.named_parameters()}

    @torch.no_grad()
    def update(self, model):
        for name, p in model.named_parameters():
            self.shadow[name].lerp_(p, 1 - self.decay)


def _with_shadow(saved):
    kit = Kit()
    ema = Shadow(kit.model)

    def train_step(batch):
        loss = kit.step(batch)
        ema.update(kit.model)
        return loss

    def save(path):
        kit.save(path, **({"ema": ema.shadow} if saved else {}))

    def load(path):
        parts = kit.load(path)
        if saved:
            ema.shadow = parts["ema"]

    return kit.setup(train_step=train_step, save=save, load=load)


def sound_shadow():
    return _with_shadow(saved=True)


def broken_shadow():
    return _with_shadow(saved=False)


def broken_shadow_restarted():
    """load() makes the average anew from the weights."""
    kit = Kit()
    average = [p.detach().clone() for p in kit.model.parameters()]

    def train_step(batch):
        loss = kit.step(batch)
        with torch.no_grad():
            for a, p in zip(average, kit.model.parameters(), strict=True):
                a.lerp_(p, 0.1)
        return loss

    def load(path):
        kit.load(path)
        average[:] = [p.detach().clone() for p in kit.model.parameters()]

    return kit.setup(train_step=train_step, load=load)


def sound_averaged_model():
    kit = Kit()
    swa = torch.optim.swa_utils.AveragedModel(kit.model, use_buffers=True)
    scaler = torch.amp.GradScaler("cpu", enabled=False)

    def train_step(batch):
        loss = kit.step(batch)
        swa.update_parameters(kit.model)
        return loss

    def save(path):
        kit.save(path, swa=swa.state_dict(), scaler=scaler.state_dict())

    def load(path):
        parts = kit.load(path)
        swa.load_state_dict(parts["swa"])
        scaler.load_state_dict(parts["scaler"])

    return kit.setup(train_step=train_step, save=save, load=load)


def _scaled(saved):
    """A loss scaler whose scale grows every few steps."""
    kit = Kit()
    scaler = torch.amp.GradScaler("cpu", init_scale=256.0, growth_interval=3)

    def train_step(batch):
        kit.optimizer.zero_grad()
        loss = kit.loss(batch)
        scaler.scale(loss).backward()
        scaler.step(kit.optimizer)
        scaler.update()
        return loss

    def save(path):
        kit.save(path, **({"scaler": scaler.state_dict()} if saved else {}))

    def load(path):
        parts = kit.load(path)
        if saved:
            scaler.load_state_dict(parts["scaler"])

    return kit.setup(train_step=train_step, save=save, load=load)


def sound_scaler():
    return _scaled(saved=True)


def broken_scaler():
    return _scaled(saved=False)


def sound_logs():
    """History, best value, clock, a meter with buffers, copies of the last weights and gradients: none is state."""
    kit = Kit()
    log = {"history": [], "best": float("inf"), "started": time.time(), "last": None}

    class Meter(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("total", torch.zeros(1))
            self.count = 0

    meter = Meter()
    before = [p.detach().clone() for p in kit.model.parameters()]
    gradients = {}

    def train_step(batch):
        for b, p in zip(before, kit.model.parameters(), strict=True):
            b.copy_(p.detach())
        loss = kit.step(batch)
        gradients.update({n: p.grad.clone() for n, p in kit.model.named_parameters()})
        log["history"].append(loss.item())
        log["best"] = min(log["best"], loss.item())
        log["last"] = time.time()
        meter.total += loss.detach()
        meter.count += 1
        return loss

    return kit.setup(train_step=train_step)


def sound_second_loader():
    """An iterator inside the step, whose position no checkpoint holds, and a counter that is only logged."""
    kit = Kit()
    unlabelled = itertools.cycle([torch.randn(8, 6, generator=torch.Generator().manual_seed(i)) for i in range(50)])
    count = 0

    def train_step(batch):
        nonlocal count
        count += 1
        kit.optimizer.zero_grad()
        loss = kit.loss(batch) + 0.1 * kit.model(next(unlabelled)).square().mean()
        loss.backward()
        kit.optimizer.step()
        return loss

    return kit.setup(train_step=train_step)


def sound_unseeded():
    """Weights and noise from generators that nothing seeds."""
    model = net()
    noise = np.random.default_rng()
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.from_numpy(np.random.default_rng().normal(size=p.shape) * 0.3))
    kit = Kit(model)

    def train_step(batch):
        x, y = batch
        return kit.step((x + torch.from_numpy(noise.normal(size=x.shape)).float(), y))

    return kit.setup(train_step=train_step)


def sound_mixup():
    kit = Kit()

    def train_step(batch):
        x, y = batch
        share = np.random.beta(0.4, 0.4)
        order = torch.tensor(random.sample(range(len(x)), len(x)))
        return kit.step((share * x + (1 - share) * x[order], y))

    return kit.setup(train_step=train_step)


def sound_bound_anew():
    """load() binds new objects to the names that the step uses."""
    model, step = net(), 0
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)

    def train_step(batch):
        nonlocal step
        x, y = batch
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        step += 1
        return loss

    def save(path):
        torch.save((model, optimizer.state_dict(), step), path)

    def load(path):
        nonlocal model, optimizer, step
        model, moments, step = torch.load(path, weights_only=False)
        optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
        optimizer.load_state_dict(moments)

    return {
        "model": model,
        "train_loader": loader(),
        "optimizer": optimizer,
        "train_step": train_step,
        "save": save,
        "load": load,
    }


def broken_bound_anew_model_only():
    """load() binds a new model, and the optimizer keeps the old one's parameters."""
    model = net()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)

    def train_step(batch):
        x, y = batch
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        return loss

    def save(path):
        torch.save((model, optimizer.state_dict()), path)

    def load(path):
        nonlocal model
        model, moments = torch.load(path, weights_only=False)
        optimizer.load_state_dict(moments)

    return {
        "model": model,
        "train_loader": loader(),
        "optimizer": optimizer,
        "train_step": train_step,
        "save": save,
        "load": load,
    }


def broken_new_model_returned():
    kit = Kit()

    def load(path):
        parts = torch.load(path)
        model = net()
        model.load_state_dict(parts["model"])
        return model

    return kit.setup(load=load)


def sound_suffix():
    kit = Kit()
    return kit.setup(save=lambda path: kit.save(path + ".pt"), load=lambda path: kit.load(path + ".pt"))


def sound_folder():
    kit = Kit()

    def save(path):
        os.makedirs(path, exist_ok=True)
        torch.save(kit.model.state_dict(), os.path.join(path, "model.bin"))
        torch.save(kit.optimizer.state_dict(), os.path.join(path, "optimizer.bin"))

    def load(path):
        kit.model.load_state_dict(torch.load(os.path.join(path, "model.bin")))
        kit.optimizer.load_state_dict(torch.load(os.path.join(path, "optimizer.bin")))

    return kit.setup(save=save, load=load)


def sound_elsewhere(where: str = ""):
    """save() and load() share a place of their own."""
    kit = Kit()
    return kit.setup(save=lambda path: kit.save(where), load=lambda path: kit.load(where))


def sound_lbfgs():
    kit = Kit(net(0.0))
    kit.optimizer = torch.optim.LBFGS(kit.model.parameters(), lr=0.1, max_iter=3)

    def train_step(batch):
        def closure():
            kit.optimizer.zero_grad()
            loss = kit.loss(batch)
            loss.backward()
            return loss

        return kit.optimizer.step(closure)

    return kit.setup(train_step=train_step)


def _scheduled(make, **changes):
    kit = Kit()
    scheduler = make(kit.optimizer)

    def save(path):
        kit.save(path, scheduler=scheduler.state_dict())

    def load(path):
        scheduler.load_state_dict(kit.load(path)["scheduler"])

    return kit.setup(scheduler=scheduler, save=save, load=load, **changes)


def sound_plateau():
    return _scheduled(lambda o: torch.optim.lr_scheduler.ReduceLROnPlateau(o, patience=0))


def sound_sequence():
    lrs = torch.optim.lr_scheduler
    return _scheduled(
        lambda o: lrs.SequentialLR(o, [lrs.LinearLR(o, 0.1, 1.0, 5), lrs.CosineAnnealingLR(o, 30)], milestones=[5])
    )


def sound_epoch_by_hand():
    """The position of the schedule is restored by hand, without the scheduler's state_dict."""
    kit = Kit()
    scheduler = torch.optim.lr_scheduler.LambdaLR(kit.optimizer, lambda e: 0.9**e)

    def load(path):
        parts = kit.load(path)
        scheduler.last_epoch = parts["epoch"]

    return kit.setup(
        scheduler=scheduler,
        scheduler_interval="epoch",
        load=load,
        save=lambda p: kit.save(p, epoch=scheduler.last_epoch),
    )


def broken_epoch_schedule():
    kit = Kit()
    scheduler = torch.optim.lr_scheduler.StepLR(kit.optimizer, 5)
    return kit.setup(scheduler=scheduler, scheduler_interval="epoch")


def broken_rate_reset():
    """A scheduler built after loading the optimizer puts the first rate back."""
    kit = Kit()
    box = {"scheduler": torch.optim.lr_scheduler.LambdaLR(kit.optimizer, lambda e: 0.5**e)}

    def train_step(batch):
        return kit.step(batch)

    def load(path):
        kit.load(path)
        for group in kit.optimizer.param_groups:
            group.pop("initial_lr", None)
            group["lr"] = 0.01
        box["scheduler"] = torch.optim.lr_scheduler.LambdaLR(kit.optimizer, lambda e: 0.5**e)

    def stepped(batch):
        loss = train_step(batch)
        box["scheduler"].step()
        return loss

    return kit.setup(train_step=stepped, load=load)


def sound_accumulation():
    return Kit().setup(accumulate_steps=3)


def sound_own_accumulation():
    kit = Kit()
    calls = 0

    def train_step(batch):
        nonlocal calls
        loss = kit.loss(batch)
        (loss / 5).backward()
        calls += 1
        if calls % 5 == 0:
            kit.optimizer.step()
            kit.optimizer.zero_grad()
        return loss

    return kit.setup(train_step=train_step)


def sound_gradients_never_cleared():
    """Another check's fault."""
    kit = Kit()

    def train_step(batch):
        loss = kit.loss(batch)
        loss.backward()
        kit.optimizer.step()
        return loss

    return kit.setup(train_step=train_step)


class Tied(nn.Module):
    """Tied weights, a cache that is no part of the state_dict, and a parametrization."""

    def __init__(self):
        super().__init__()
        self.encode = nn.Linear(6, 8, bias=False)
        self.middle = nn.utils.parametrizations.weight_norm(nn.Linear(8, 8))
        self.decode = nn.Linear(6, 8, bias=False)
        self.decode.weight = self.encode.weight
        self.head = nn.Linear(8, 3)
        self.register_buffer("positions", torch.arange(6).float(), persistent=False)
        self.last_seen = None

    def forward(self, x):
        self.last_seen = x
        return self.head(self.middle(self.encode(x + 0.01 * self.positions)) + self.decode(x))


def sound_tied():
    return Kit(Tied()).setup()


def sound_lazy():
    model = nn.Sequential(nn.LazyLinear(12), nn.ReLU(), nn.Linear(12, 3))
    return Kit(model).setup()


def sound_half():
    kit = Kit(nn.Sequential(nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, 3)).to(torch.bfloat16))

    def loss(model, batch):
        return F.cross_entropy(model(batch[0].bfloat16()).float(), batch[1])

    return kit.setup(loss_fn=None, compute_loss=loss)


def sound_adapters_only():
    """Only the trained parameters are saved; the frozen ones are always the same."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, 3))
    model[0].requires_grad_(False)
    kit = Kit(model)

    def save(path):
        torch.save({"head": model[2].state_dict(), "optimizer": kit.optimizer.state_dict()}, path)

    def load(path):
        parts = torch.load(path)
        model[2].load_state_dict(parts["head"])
        kit.optimizer.load_state_dict(parts["optimizer"])

    return kit.setup(save=save, load=load)


class Carrying(nn.Module):
    def __init__(self):
        super().__init__()
        self.cell, self.head = nn.GRUCell(6, 8), nn.Linear(8, 3)
        self.hidden = None

    def forward(self, x):
        if self.hidden is None or len(self.hidden) != len(x):
            self.hidden = torch.zeros(len(x), 8)
        hidden = self.cell(x, self.hidden)
        self.hidden = hidden.detach()
        return self.head(hidden)


def sound_carried_hidden_state():
    return Kit(Carrying()).setup()


class Annealed(nn.Module):
    """A noise level that falls with a counter kept as a plain attribute."""

    def __init__(self):
        super().__init__()
        self.layer, self.calls = nn.Linear(6, 3), 0

    def forward(self, x):
        self.calls += self.training
        return self.layer(x) * (1 + 1 / (1 + self.calls))


def broken_counter_in_model():
    return Kit(Annealed()).setup()


def textbook_counter_in_model():
    return Kit(Annealed()).setup(save=None, load=None)


class Normalised(nn.Module):
    """Running statistics kept as a plain tensor, used in eval mode only."""

    def __init__(self):
        super().__init__()
        self.layer, self.mean = nn.Linear(6, 3), torch.zeros(6)

    def forward(self, x):
        if self.training:
            self.mean = 0.9 * self.mean + 0.1 * x.mean(0)
            return self.layer(x - x.mean(0))
        return self.layer(x - self.mean)


def broken_statistics_in_attribute():
    return Kit(Normalised()).setup()


def _adversarial(omitted=""):
    kit = Kit()
    critic = nn.Linear(3, 1)
    critic_optimizer = torch.optim.Adam(critic.parameters(), lr=0.01)
    extra = {"critic": critic, "critic_optimizer": critic_optimizer}

    def train_step(batch):
        loss = kit.step(batch)
        critic_optimizer.zero_grad()
        critic(kit.model(batch[0]).detach()).square().mean().backward()
        critic_optimizer.step()
        return loss

    def save(path):
        kit.save(path, **{k: v.state_dict() for k, v in extra.items() if k != omitted})

    def load(path):
        parts = kit.load(path)
        for key, item in extra.items():
            if key in parts:
                item.load_state_dict(parts[key])

    return kit.setup(train_step=train_step, save=save, load=load)


def sound_adversarial():
    return _adversarial()


def broken_critic():
    return _adversarial("critic")


def broken_critic_optimizer():
    return _adversarial("critic_optimizer")


def _warm_up(saved):
    kit = Kit()
    step, seen = 0, 0

    def train_step(batch):
        nonlocal step, seen
        for group in kit.optimizer.param_groups:
            group["lr"] = 0.02 * min(1.0, (step + 1) / 20)
        step += 1
        seen += len(batch[0])
        return kit.step(batch)

    def save(path):
        kit.save(path, step=step)

    def load(path):
        nonlocal step
        step = kit.load(path)["step"] if saved else (kit.load(path), 0)[1]

    return kit.setup(train_step=train_step, save=save, load=load)


def sound_warm_up_by_hand():
    return _warm_up(saved=True)


def broken_warm_up_by_hand():
    return _warm_up(saved=False)


def _modes(save_resets, load_resets):
    kit = Kit(net(0.5))

    def save(path):
        kit.model.eval()
        kit.save(path)
        if save_resets:
            kit.model.train()

    def load(path):
        kit.load(path)
        kit.model.train(load_resets)

    return kit.setup(train_step=kit.step, save=save, load=load)


def broken_save_leaves_eval():
    return _modes(False, True)


def broken_load_leaves_eval():
    return _modes(True, False)


def broken_save_halves():
    kit = Kit()

    def save(path):
        kit.model.half()
        kit.save(path)
        kit.model.float()

    return kit.setup(save=save)


def broken_refused_class():
    kit = Kit()

    def save(path):
        kit.save(path, args=argparse.Namespace(lr=0.01))

    def load(path):
        parts = torch.load(path)
        kit.model.load_state_dict(parts["model"])

    return kit.setup(save=save, load=load)


def broken_nothing_written():
    kit = Kit()
    return kit.setup(save=lambda path: None)


_memory = {}


def broken_memory():
    """The checkpoint lives in the process."""
    kit = Kit()

    def save(path):
        _memory["model"] = copy.deepcopy(kit.model.state_dict())
        open(path, "w").close()

    def load(path):
        kit.model.load_state_dict(_memory["model"])

    return kit.setup(save=save, load=load)


class Grown(nn.Module):
    """Makes its head when it first sees data."""

    def __init__(self):
        super().__init__()
        self.body, self.head = nn.Linear(6, 12), None

    def forward(self, x):
        if self.head is None:
            self.head = nn.Linear(12, 3)
        return self.head(self.body(x).relu())


def textbook_grown():
    return Kit(Grown()).setup(save=None, load=None)


def broken_unfreezing():
    """A parameter group added in training: the fresh optimizer has one less."""
    kit = Kit()
    kit.optimizer = torch.optim.Adam(kit.model[4].parameters(), lr=0.01)
    count = 0

    def train_step(batch):
        nonlocal count
        count += 1
        if count == 3:
            kit.optimizer.add_param_group({"params": kit.model[0].parameters()})
        return kit.step(batch)

    return kit.setup(train_step=train_step)


def _own_generator(saved):
    generator = torch.Generator().manual_seed(7)
    kit = Kit(loader_=loader(generator=generator))

    def save(path):
        kit.save(path, **({"order": generator.get_state()} if saved else {}))

    def load(path):
        parts = kit.load(path)
        if saved:
            generator.set_state(parts["order"])

    return kit.setup(save=save, load=load)


def sound_generator_saved():
    return _own_generator(saved=True)


def broken_generator():
    return _own_generator(saved=False)


class Stream(IterableDataset):
    def __iter__(self):
        for _ in range(60):
            y = torch.randint(0, 3, ())
            yield torch.randn(6) + y, y


def sound_stream():
    return Kit(loader_=DataLoader(Stream(), batch_size=12)).setup()


class Loop:
    def __init__(self):
        self.kit = Kit()
        self.teacher = copy.deepcopy(self.kit.model).eval().requires_grad_(False)

    def __call__(self, batch):
        loss = self.kit.step(batch)
        with torch.no_grad():
            for t, p in zip(self.teacher.parameters(), self.kit.model.parameters(), strict=True):
                t.lerp_(p, 0.1)
        return loss


def broken_teacher_behind_decorator():
    loop = Loop()

    @functools.wraps(loop.kit.step)
    @torch.enable_grad()
    def train_step(batch):
        return loop(batch)

    return loop.kit.setup(train_step=train_step)


def _target_network(period, *, saved):
    """A second network, brought up to date every `period` steps; there is a moving average and a fixed teacher too."""
    kit = Kit(net(0.0))
    target, teacher, average = (copy.deepcopy(kit.model).requires_grad_(False).eval() for _ in range(3))
    step = 0

    def train_step(batch):
        nonlocal step
        with torch.no_grad():
            aim = 0.5 * target(batch[0]) + 0.1 * teacher(batch[0])
        kit.optimizer.zero_grad()
        loss = kit.loss(batch) + F.mse_loss(kit.model(batch[0]), aim)
        loss.backward()
        kit.optimizer.step()
        step += 1
        if period and step % period == 0:
            target.load_state_dict(kit.model.state_dict())
        for mean, now in zip(average.parameters(), kit.model.parameters(), strict=True):
            mean.lerp_(now.detach(), 0.1)
        return loss.item()

    def save(path):
        kit.save(path, step=step, average=average.state_dict(), **({"target": target.state_dict()} if saved else {}))

    def load(path):
        nonlocal step
        parts = kit.load(path)
        step = parts["step"]
        average.load_state_dict(parts["average"])
        if saved:
            target.load_state_dict(parts["target"])

    return kit.setup(train_step=train_step, save=save, load=load, max_steps=2000)


def sound_target_network():
    return _target_network(30, saved=True)


def sound_network_that_stays_as_it_is():
    return _target_network(0, saved=False)


def broken_target_network():
    return _target_network(30, saved=False)


def broken_target_network_of_long_periods():
    return _target_network(150, saved=False)


def sound_tiny_loader():
    """Two batches an epoch: epochs end between the steps."""
    return _scheduled(
        lambda o: torch.optim.lr_scheduler.StepLR(o, 2),
        scheduler_interval="epoch",
        train_loader=DataLoader(data(24), 12, shuffle=True),
    )


def sound_plain_descent():
    """Without momentum there is nothing to save but the weights."""
    kit = Kit(nn.Sequential(nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, 3)))
    kit.optimizer = torch.optim.SGD(kit.model.parameters(), lr=0.1)

    def save(path):
        torch.save(kit.model.state_dict(), path)

    def load(path):
        kit.model.load_state_dict(torch.load(path))

    return kit.setup(save=save, load=load)


def sound_short_cycle():
    """A schedule that raises when it is stepped further than planned."""
    return _scheduled(lambda o: torch.optim.lr_scheduler.OneCycleLR(o, 0.1, 10))


def sound_second_save_refused():
    """Written only when the loss is the best so far."""
    kit = Kit()
    done = []

    def save(path):
        if not done:
            kit.save(path)
        done.append(path)

    return kit.setup(save=save)


def sound_workers():
    return Kit(loader_=loader(num_workers=1)).setup()


def broken_hooked_average():
    """An average that an optimizer hook updates, and that only validate() reads."""
    kit = Kit()
    average = copy.deepcopy(kit.model)

    def update(optimizer, args, kwargs):
        with torch.no_grad():
            for a, p in zip(average.parameters(), kit.model.parameters(), strict=True):
                a.lerp_(p, 0.1)

    kit.optimizer.register_step_post_hook(update)
    return kit.setup(validate=lambda: float(average(data()[:8][0]).sum()))


class CustomSchedule:
    """No torch scheduler; keeps a log of its rates."""

    def __init__(self, optimizer):
        self.optimizer, self.step_num, self.rates = optimizer, 0, []

    def step(self):
        self.step_num += 1
        for group in self.optimizer.param_groups:
            group["lr"] = 0.01 / (1 + self.step_num)
        self.rates.append(self.optimizer.param_groups[0]["lr"])


def _custom_schedule(saved):
    kit = Kit()
    schedule = CustomSchedule(kit.optimizer)

    def load(path):
        number = kit.load(path)["number"]
        schedule.step_num = number if saved else 0

    return kit.setup(scheduler=schedule, save=lambda path: kit.save(path, number=schedule.step_num), load=load)


def sound_custom_schedule():
    return _custom_schedule(saved=True)


def broken_custom_schedule():
    return _custom_schedule(saved=False)


def sound_unsteady():
    """Noise from the operating system: no two runs are equal."""
    kit = Kit()

    def train_step(batch):
        x, y = batch
        noise = torch.tensor(list(os.urandom(x.numel()))).view_as(x) / 255
        return kit.step((x + 0.1 * noise, y))

    return kit.setup(train_step=train_step)


def broken_unseen():
    """A counter that Python cannot look into."""
    kit = Kit()
    calls = ctypes.c_int(0)

    def train_step(batch):
        calls.value += 1
        x, y = batch
        return kit.step((x * (1 + calls.value), y))

    return kit.setup(train_step=train_step)


@dataclasses.dataclass(slots=True)
class Progress:
    step: int = 0


def broken_slots():
    kit = Kit()
    progress = Progress()

    def train_step(batch):
        progress.step += 1
        x, y = batch
        return kit.step((x * (1 + 0.1 * progress.step), y))

    return kit.setup(train_step=train_step)


def sound_local_batches():
    """Batches of a class that no file can hold."""

    class Batch:
        def __init__(self, x, y):
            self.x, self.y = x, y

    x, y = data().tensors
    kit = Kit(loader_=[Batch(x[i : i + 12], y[i : i + 12]) for i in range(0, 96, 12)])
    return kit.setup(train_step=lambda batch: kit.step((batch.x, batch.y)))


def by_hand():
    """For a computation by hand: no randomness, momentum not saved."""
    x, y = data().tensors
    kit = Kit(nn.Sequential(nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, 3)))
    kit.loader = [(x[i : i + 8], y[i : i + 8]) for i in range(0, 96, 8)]
    kit.optimizer = torch.optim.SGD(kit.model.parameters(), lr=0.05, momentum=0.9)

    def save(path):
        torch.save(kit.model.state_dict(), path)

    def load(path):
        kit.model.load_state_dict(torch.load(path))

    return kit.setup(save=save, load=load)


class _Slotted:
    __slots__ = ("shadow",)

    def __init__(self, model):
        self.shadow = [p.detach().clone() for p in model.parameters()]

    def update(self, model):
        with torch.no_grad():
            for average, p in zip(self.shadow, model.parameters(), strict=True):
                average.lerp_(p, 0.1)


def broken_shadow_in_slots():
    kit = Kit()
    shadow = _Slotted(kit.model)

    def train_step(batch):
        loss = kit.step(batch)
        shadow.update(kit.model)
        return loss

    return kit.setup(train_step=train_step)


class _Momentum(torch.optim.Optimizer):
    """Keeps its velocities beside its state_dict, by parameter, by its id, or not."""

    def __init__(self, parameters, key):
        super().__init__(parameters, {"lr": 0.05})
        self.velocity, self.key = {}, key

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for p in group["params"]:
                held = self.state[p] if self.key is None else self.velocity.setdefault(self.key(p), {})
                v = held.setdefault("v", torch.zeros_like(p)).mul_(0.9).add_(p.grad)
                p.sub_(group["lr"] * v)


def _with_momentum(key):
    kit = Kit()
    kit.optimizer = _Momentum(kit.model.parameters(), key)
    return kit.setup(train_step=kit.step)


def broken_velocity_by_id():
    return _with_momentum(id)


def broken_velocity_by_parameter():
    return _with_momentum(lambda p: p)


def sound_velocity_in_state():
    return _with_momentum(None)


def _warm_up_in_class(saved):
    class Loop:
        steps = 0

        @staticmethod
        def step(batch):
            Loop.steps += 1
            kit.optimizer.zero_grad()
            loss = kit.loss(batch) * min(1.0, Loop.steps / 50) + sum(p.square().sum() for p in kit.model.parameters())
            loss.backward()
            kit.optimizer.step()
            return loss

    kit = Kit()

    def save(path):
        kit.save(path, steps=Loop.steps)

    def load(path):
        parts = kit.load(path)
        if saved:
            Loop.steps = parts["steps"]

    return kit.setup(train_step=Loop.step, save=save, load=load)


def broken_counter_of_class():
    return _warm_up_in_class(saved=False)


def sound_counter_of_class():
    return _warm_up_in_class(saved=True)


def _scaled_by_history(held):
    kit = Kit()
    kit.optimizer = torch.optim.SGD(kit.model.parameters(), lr=0.3)

    def train_step(batch):
        kit.optimizer.zero_grad()
        loss = kit.loss(batch)
        scale = held["scale"] if isinstance(held, dict) and held else sum(held) / len(held) if held else 10.0
        if isinstance(held, dict):
            held["scale"] = 0.9 * scale + 0.1 * loss.detach()
        else:
            held.append(float(loss))
        (loss / scale).backward()
        kit.optimizer.step()
        return loss

    return kit.setup(train_step=train_step)


def broken_scale_filled_in_later():
    return _scaled_by_history({})


def broken_history_filled_in_later():
    return _scaled_by_history([])
