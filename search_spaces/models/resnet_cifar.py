"""CIFAR ResNets with option-A shortcuts (He et al. 2016, section 4.2, https://arxiv.org/abs/1512.03385)."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

from search_spaces.shrinkable import PaddedShortcut


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a parameter-free shortcut."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        same = in_channels == out_channels and stride == 1
        self.shortcut = nn.Identity() if same else PaddedShortcut(in_channels, out_channels, stride)

    def forward(self, x: Tensor) -> Tensor:
        """[N, in, H, W] -> [N, out, H / stride, W / stride]."""
        out = functional.relu(self.bn1(self.conv1(x)))
        return functional.relu(self.bn2(self.conv2(out)) + self.shortcut(x))


class ResNetCifar(nn.Module):
    """ResNet of 6n + 2 layers for small images.

    Args:
        depth: 20, 32, 44, 56 or 110 (6n + 2).
        num_classes: Outputs.
        in_channels: Image channels.
        width: Channels of the first stage; the others have twice and four times as many.
    """

    layer1: nn.Sequential
    layer2: nn.Sequential
    layer3: nn.Sequential

    def __init__(self, depth: int, num_classes: int = 10, in_channels: int = 3, width: int = 16) -> None:
        super().__init__()
        if (depth - 2) % 6:
            raise ValueError(f"depth {depth}: a CIFAR ResNet has 6n + 2 layers, e.g. 20, 32, 44, 56, 110")
        blocks = (depth - 2) // 6
        self.conv1 = nn.Conv2d(in_channels, width, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        channels = width
        for stage, (out, stride) in enumerate(((width, 1), (2 * width, 2), (4 * width, 2)), start=1):
            layers = [BasicBlock(channels if b == 0 else out, out, stride if b == 0 else 1) for b in range(blocks)]
            self.add_module(f"layer{stage}", nn.Sequential(*layers))
            channels = out
        self.linear = nn.Linear(channels, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(module.weight)

    def forward(self, x: Tensor) -> Tensor:
        """[N, in_channels, H, W] -> [N, num_classes]."""
        out = functional.relu(self.bn1(self.conv1(x)))
        for stage in (self.layer1, self.layer2, self.layer3):
            out = stage(out)
        logits: Tensor = self.linear(out.mean((2, 3)))
        return logits


def resnet20(num_classes: int = 10, in_channels: int = 3) -> ResNetCifar:
    """0.27 M parameters, 40.6 M multiply-adds at 32 x 32."""
    return ResNetCifar(20, num_classes, in_channels)


def resnet56(num_classes: int = 10, in_channels: int = 3) -> ResNetCifar:
    """0.85 M parameters, 125.5 M multiply-adds at 32 x 32."""
    return ResNetCifar(56, num_classes, in_channels)
