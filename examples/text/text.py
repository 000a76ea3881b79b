"""A transformer that classifies sequences of tokens, pruned to half of its multiply-adds; inputs are a dictionary.

python examples/text/text.py [FOLDER]
"""

from __future__ import annotations

import sys
import tempfile

import torch
from torch import Tensor, nn

import autoprune
from autoprune.tasks import Text

WORDS, LENGTH = 40, 16


class Classifier(nn.Module):
    """Embeddings, two layers of self-attention, a mean over the tokens; called as networks of Hugging Face are."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(WORDS, width), nn.Parameter(0.02 * torch.randn(LENGTH, width))
        layer = nn.TransformerEncoderLayer(width, 4, 4 * width, dropout=0.0, batch_first=True)
        self.encoder, self.head = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False), nn.Linear(width, 3)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> dict[str, Tensor]:
        """{"logits": [N, 3]}."""
        x = self.words(input_ids) + self.places[: input_ids.shape[1]]
        x = self.encoder(x, src_key_padding_mask=attention_mask == 0)
        mask = attention_mask[..., None].to(x.dtype)
        return {"logits": self.head((x * mask).sum(1) / mask.sum(1))}


def sentences(count: int, seed: int) -> tuple[dict[str, Tensor], Tensor]:
    """Random words of any length; the class says whether low words come first, last, or nowhere."""
    draws = torch.Generator().manual_seed(seed)
    ids = torch.randint(10, WORDS, (count, LENGTH), generator=draws)
    lengths = torch.randint(8, LENGTH + 1, (count,), generator=draws)
    kinds = torch.randint(3, (count,), generator=draws)
    low = torch.randint(1, 10, (count,), generator=draws)
    for row, length, kind, word in zip(ids, lengths.tolist(), kinds.tolist(), low.tolist(), strict=True):
        if kind:
            row[1 if kind == 1 else length - 2] = word
    return {"input_ids": ids, "attention_mask": (torch.arange(LENGTH) < lengths[:, None]).long()}, kinds


def make(seed: int = 0, steps: int = 400, width: int = 32) -> tuple[nn.Module, Text]:
    """The trained network and its task."""
    torch.manual_seed(seed)
    task = Text(sentences(4096, 1), sentences(256, 2), sentences(512, 3), num_classes=3, name="sentences")
    net = Classifier(width)
    optimizer = torch.optim.AdamW(net.parameters(), lr=2e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for batch in task.training(64, seed).between(0, steps):
        optimizer.zero_grad()
        task.evaluate(net, batch)[1].mean().backward()
        optimizer.step()
        schedule.step()
    return net.eval(), task


def main(out: str = "", trials: int = 8, steps: int = 400) -> autoprune.SearchResult:
    """Train, search for half of the multiply-adds, print what came out."""
    net, task = make(steps=steps)
    quick = {"trials": trials, "finalists": 2, "epochs": 2, "batch_size": 64}
    result = autoprune.search(net, task, "macs<=50%", name=f"{out or tempfile.mkdtemp()}/run", **quick)
    print(result)
    return result


if __name__ == "__main__":
    main(*sys.argv[1:2])
