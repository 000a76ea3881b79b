"""The network that the criteria's golden numbers are worked out on."""

import torch
from torch import nn


class Residual(nn.Module):
    """y = c(h + b(h)), h = a(x): one group of two units, made by a and b, read by b and c."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = (nn.Linear(2, 2, bias=False) for _ in range(3))
        with torch.no_grad():
            self.a.weight.copy_(torch.eye(2))
            self.b.weight.copy_(torch.diag(torch.tensor([2.0, 0.5])))
            self.c.weight.copy_(torch.eye(2))

    def forward(self, x):
        h = self.a(x)
        return self.c(h + self.b(h))
