"""Recurrent language models, character by character, trained with plain SGD and gradient clipping."""

import torch
from small_data import alice
from torch import nn
from torch.utils.data import DataLoader, TensorDataset, random_split

EXPECTED = {
    "healthy": {},
    "healthy_relu": {},
    "relu_without_clipping": {"exploding-gradients": ["SC0801"]},
    "clipped_to_nothing": {"gradient-norms": ["SC0203"]},
    "batch_read_as_time": {"batch-independence": ["SC1801"]},
    "overlapping_windows": {"clean-split": ["SC0303"]},
}

LENGTH = 32
IDS, ALPHABET = alice()


class CharacterModel(nn.Module):
    def __init__(self, recurrent):
        super().__init__()
        self.embedding = nn.Embedding(len(ALPHABET), 32)
        self.recurrent = recurrent
        self.dropout = nn.Dropout(0.1)
        self.head = nn.Linear(96, len(ALPHABET))

    def forward(self, ids):
        states, _ = self.recurrent(self.embedding(ids))
        return self.head(self.dropout(states)).transpose(1, 2)  # CrossEntropyLoss wants classes second


def lstm(batch_first=True):
    layer = nn.LSTM(32, 96, batch_first=batch_first)
    with torch.no_grad():
        layer.bias_ih_l0[96:192] = 1.0  # the forget gate starts open (Jozefowicz et al., 2015)
    return layer


def relu_rnn():
    layer = nn.RNN(32, 96, nonlinearity="relu", batch_first=True)
    with torch.no_grad():
        layer.weight_hh_l0.copy_(0.9 * torch.eye(96))  # it starts as a fading sum over time (after Le et al., 2015)
    return layer


def windows(ids, stride=LENGTH):
    """Pieces of the text, each with the same piece one character further on as its target."""
    pieces = ids.unfold(0, LENGTH + 1, stride)
    return TensorDataset(pieces[:, :-1], pieces[:, 1:])


def run(recurrent, lr, clip=1.0, data=None):
    end = len(IDS) * 9 // 10  # the last tenth of the text is for validation
    train, val = data or (windows(IDS[:end]), windows(IDS[end:]))
    model = CharacterModel(recurrent)
    return {
        "model": model,
        "train_loader": DataLoader(train, batch_size=32, shuffle=True, drop_last=True),
        "val_loader": DataLoader(val, batch_size=64),
        "loss_fn": nn.CrossEntropyLoss(),
        "optimizer": torch.optim.SGD(model.parameters(), lr=lr),
        "clip_grad_norm": clip,
        "max_steps": 400,
    }


def healthy():
    return run(lstm(), lr=4.0)


def healthy_relu():
    return run(relu_rnn(), lr=1.0)


def relu_without_clipping():
    return run(relu_rnn(), lr=1.0, clip=None)  # nothing holds the gradient that grows through 32 time steps


def clipped_to_nothing():
    return run(lstm(), lr=4.0, clip=1e-4)  # the threshold of 1.0 with a weight decay's value: steps of almost zero


def batch_read_as_time():
    return run(lstm(batch_first=False), lr=4.0)  # the default: it goes from sample to sample, not from letter to letter


def overlapping_windows():
    dataset = windows(IDS, stride=4)  # neighbours share 28 of 32 characters, and a random split parts neighbours
    data = random_split(dataset, [0.9, 0.1], generator=torch.Generator().manual_seed(0))
    return run(lstm(), lr=4.0, data=data)
