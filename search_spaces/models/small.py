"""VGG and MobileNetV2 for 32 x 32 images, and a small residual network for the bundled digits."""

from __future__ import annotations

from torch import Tensor, nn

VGG16_WIDTHS = (64, 64, 0, 128, 128, 0, 256, 256, 256, 0, 512, 512, 512, 0, 512, 512, 512)  # 0: max-pooling


def vgg16(num_classes: int = 10, in_channels: int = 3, scale: float = 1.0) -> nn.Sequential:
    """VGG-16 with batch-norm and one linear layer (Simonyan & Zisserman 2015, https://arxiv.org/abs/1409.1556).

    Args:
        num_classes: Of the answer.
        in_channels: Of the images.
        scale: Of every layer's width.
    """
    layers: list[nn.Module] = []
    channels = in_channels
    for width in (round(scale * w) for w in VGG16_WIDTHS):
        if width == 0:
            layers.append(nn.MaxPool2d(2))
            continue
        layers += [nn.Conv2d(channels, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU(inplace=True)]
        channels = width
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, num_classes))


class InvertedResidual(nn.Module):
    """Expand 1x1, depthwise 3x3, project 1x1."""

    def __init__(self, in_channels: int, out_channels: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = in_channels * expansion
        self.residual = stride == 1 and in_channels == out_channels
        expand = [] if expansion == 1 else conv_bn(in_channels, hidden, 1)
        self.body = nn.Sequential(
            *expand,
            *conv_bn(hidden, hidden, 3, stride, groups=hidden),
            nn.Conv2d(hidden, out_channels, 1, bias=False),
            nn.BatchNorm2d(out_channels),
        )

    def forward(self, x: Tensor) -> Tensor:
        """[N, in, H, W] -> [N, out, H / stride, W / stride]."""
        out: Tensor = self.body(x)
        return x + out if self.residual else out


def conv_bn(in_channels: int, out_channels: int, kernel: int, stride: int = 1, groups: int = 1) -> list[nn.Module]:
    """Convolution, batch-norm, ReLU."""
    conv = nn.Conv2d(in_channels, out_channels, kernel, stride, kernel // 2, groups=groups, bias=False)
    return [conv, nn.BatchNorm2d(out_channels), nn.ReLU(inplace=True)]


def mobilenet_v2(num_classes: int = 10, in_channels: int = 3, scale: float = 1.0) -> nn.Sequential:
    """MobileNetV2 with strides for 32 x 32 (Sandler et al. 2018, https://arxiv.org/abs/1801.04381, table 2).

    Args:
        num_classes: Of the answer.
        in_channels: Of the images.
        scale: Of every layer's width.
    """
    channels, last = round(32 * scale), round(1280 * scale)
    layers: list[nn.Module] = conv_bn(in_channels, channels, 3)
    rows = ((1, 16, 1, 1), (6, 24, 2, 1), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
    for expansion, width, blocks, stride in rows:
        for block in range(blocks):
            out = round(width * scale)
            layers.append(InvertedResidual(channels, out, stride if block == 0 else 1, expansion))
            channels = out
    layers += conv_bn(channels, last, 1)
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(last, num_classes))


class DigitsCNN(nn.Module):
    """A residual network of 6 convolutions for 8 x 8 digits: small enough to train in seconds on one core."""

    def __init__(self, num_classes: int = 10, in_channels: int = 1, width: int = 24) -> None:
        super().__init__()
        self.stem = nn.Sequential(*conv_bn(in_channels, width, 3))
        self.block1 = nn.Sequential(*conv_bn(width, 2 * width, 3), *conv_bn(2 * width, width, 3))
        self.down = nn.Sequential(*conv_bn(width, 2 * width, 3, stride=2))
        self.block2 = nn.Sequential(*conv_bn(2 * width, 2 * width, 3), *conv_bn(2 * width, 2 * width, 3))
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.linear = nn.Linear(2 * width, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """[N, in_channels, 8, 8] -> [N, num_classes]."""
        x = self.stem(x)
        x = self.down(x + self.block1(x))
        x = x + self.block2(x)
        out: Tensor = self.linear(self.pool(x).flatten(1))
        return out


def digits_cnn(num_classes: int = 10, in_channels: int = 1) -> DigitsCNN:
    """The network of the demo."""
    return DigitsCNN(num_classes, in_channels)
