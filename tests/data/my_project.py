"""What the pages call `my_project`: a user's own network and loaders, small: handwritten digits, trained in seconds."""

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset


def make_net() -> nn.Module:
    def block(into, out):
        return [nn.Conv2d(into, out, 3, padding=1), nn.BatchNorm2d(out), nn.ReLU()]

    return nn.Sequential(
        *block(1, 16),
        *block(16, 32),
        nn.MaxPool2d(2),
        *block(32, 64),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(64, 10),
    )


images, labels = load_digits(return_X_y=True)
images = torch.tensor(images / 16, dtype=torch.float32).reshape(-1, 1, 8, 8)
train, val, test = (
    TensorDataset(images[part], torch.tensor(labels[part]))
    for part in (slice(0, 1200), slice(1200, 1500), slice(1500, None))
)
train_loader = DataLoader(train, 64, shuffle=True)
val_loader, test_loader = DataLoader(val, 64), DataLoader(test, 64)


def train_net(net: nn.Module, epochs: int = 4) -> nn.Module:
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9)
    for _ in range(epochs):
        for inputs, targets in train_loader:
            optimizer.zero_grad()
            nn.functional.cross_entropy(net(inputs), targets).backward()
            optimizer.step()
    return net.eval()


torch.manual_seed(0)
net = train_net(make_net())  # a second or two
