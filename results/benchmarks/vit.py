"""Heads, MLPs and the stream of a vision transformer pruned together, against its MLPs alone; writes vit.md here.

    python results/benchmarks/vit.py --data FOLDER [--epochs 5] [--seeds 0 1 2]
    python results/benchmarks/vit.py --smoke

FOLDER holds cifar10_jpeg.tar.xz. A small transformer (6 layers, 192 wide, 6 heads, patches of 4 x 4) is trained on it,
then pruned to 50 and 30 % of its multiply-adds by three rules and trained again for one epoch, with three seeds:

- `heads + MLP + stream`: the widths by `allocation.knapsack` over all groups,
- `MLP only`: the same, all else whole (where the budget is out of reach so, the least that can be reached is said; the
  same widths are trained once),
- `uniform`: the same share of every group.

The units that stay are the best by `group_fisher` each time. Pieces are kept in the cache: what was begun goes on, in
the middle of the training, too. The weights are not committed. `--smoke` runs all of it on made-up images.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "2")

import numpy as np
import protocol
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

from autoprune import criteria
from autoprune.allocation import knapsack, uniform
from autoprune.config import RunConfig
from autoprune.data import ImageData
from autoprune.evaluation import measure
from autoprune.problem import Problem
from autoprune.training import Checkpoints, TrainingSettings, finetune
from objectives import parse
from objectives.costs import Macs
from search_spaces import SearchSpace, Widths, prune, trace, verify

BUDGETS = ("50%", "30%")
RULES = ("heads + MLP + stream", "MLP only", "uniform")
SCORE_SAMPLES = 2048
EPOCHS = 5.0  # of the dense network
LEARNING_RATE, PRUNED_LEARNING_RATE = 1e-3, 5e-4
ADAMW: dict[str, Any] = {
    "optimizer": "adamw",
    "weight_decay": 0.05,
    "lr_schedule": "cosine",
    "batch_size": protocol.BATCH,
}
EXAMPLE = torch.zeros(1, 3, 32, 32)


class Attention(nn.Module):
    """Multi-head self-attention, [N, L, dim] -> [N, L, dim]; heads go without their share of the stream."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.num_heads, self.head_dim = heads, dim // heads
        self.qkv, self.proj = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        n, length, _ = x.shape
        q, k, v = self.qkv(x).reshape(n, length, 3, self.num_heads, self.head_dim).permute(2, 0, 3, 1, 4)
        return self.proj(functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class Layer(nn.Module):
    """Pre-norm attention and MLP on the residual stream."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.norm1, self.attention, self.norm2 = nn.LayerNorm(dim), Attention(dim, heads), nn.LayerNorm(dim)
        self.mlp = nn.Sequential(nn.Linear(dim, 4 * dim), nn.GELU(), nn.Linear(4 * dim, dim))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class SmallViT(nn.Module):
    """A vision transformer for 32 x 32 images (Dosovitskiy et al. 2021, https://arxiv.org/abs/2010.11929)."""

    def __init__(self, dim: int = 192, layers: int = 6, heads: int = 6, patch: int = 4, classes: int = 10) -> None:
        super().__init__()
        self.embed = nn.Conv2d(3, dim, patch, patch)
        self.token = nn.Parameter(0.02 * torch.randn(1, 1, dim))
        self.places = nn.Parameter(0.02 * torch.randn(1, (32 // patch) ** 2 + 1, dim))
        self.layers = nn.Sequential(*(Layer(dim, heads) for _ in range(layers)))
        self.norm, self.head = nn.LayerNorm(dim), nn.Linear(dim, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1) + self.places
        return self.head(self.norm(self.layers(x))[:, 0])


class OutOfReachError(Exception):
    """A rule cannot reach a budget."""


class Study:
    """All that is measured, piece by piece.

    Args:
        data: Images.
        name: Folder of the pieces in the cache.
        model: Arguments of `SmallViT`.
        epochs: Of the dense network.
        steps: Of AdamW after pruning.
    """

    def __init__(self, data: ImageData, name: str, model: dict[str, int], epochs: float, steps: int) -> None:
        self.data, self.name, self.model, self.epochs, self.steps = data, name, model, epochs, steps
        self.folder = protocol.CACHE / name

    def top1(self, model: nn.Module) -> dict[str, float]:
        """In percent, on the held out and the test images."""
        return {split: 100 * measure(model, self.data, split)["top1"] for split in ("val", "test")}

    def dense(self) -> nn.Module:
        """The trained network, from the cache or from where its training had come to."""
        torch.manual_seed(0)
        model, path = SmallViT(**self.model), self.folder / "dense.safetensors"
        if not path.is_file():
            self.folder.mkdir(parents=True, exist_ok=True)
            how = TrainingSettings(lr=LEARNING_RATE, epochs=self.epochs, **ADAMW)
            state = Checkpoints(self.folder / "training.pt")
            with sdpa_kernel(SDPBackend.MATH):  # on a CPU the backward pass of the fused kernel takes half of the time
                finetune(model, self.data.without_test(), how, checkpoints=state)
            save_file({k: v.cpu().contiguous() for k, v in model.state_dict().items()}, path)
        model.load_state_dict(load_file(path))
        return model.cpu().eval()

    def scores(self, model: nn.Module, space: SearchSpace) -> criteria.scoring.Scores:
        """Per group [C], higher = keep."""

        def compute() -> dict[str, Any]:
            batches = self.data.train.sample(min(SCORE_SAMPLES, len(self.data.train)), 0).batches(protocol.BATCH)
            normal = ((self.data.normalise(b.images), b.labels) for b in batches)
            found = criteria.score_all(RunConfig().criterion, model, space, normal)
            return {"scores": [s.tolist() for s in found]}

        return tuple(np.array(s) for s in protocol.piece(f"{self.name}/scores", compute)["scores"])

    def widths(self, rule: str, budget: str, space: SearchSpace, scores: criteria.scoring.Scores) -> Widths:
        """What a rule keeps.

        Raises:
            OutOfReachError: If it cannot reach the budget.
        """
        frozen = [g.name for g in space.groups if ".mlp." not in g.name] if rule == "MLP only" else []
        limited = space.with_limits(freeze=frozen, min_keep=RunConfig().min_keep)
        least = 100 * Macs(space)(limited.floor) / Macs(space)(space.full)
        if least > float(budget.rstrip("%")):
            raise OutOfReachError(f"out of reach: {least:.1f} % at least")
        problem = Problem(limited, (parse(f"macs<={budget}"),), scores)
        return uniform(problem) if rule == "uniform" else knapsack(problem)

    def chosen(self, rule: str, budget: str) -> Widths | str:
        """What a rule keeps, or why it cannot."""
        dense = self.dense()
        space = trace(dense, EXAMPLE)
        try:
            return self.widths(rule, budget, space, self.scores(dense, space))
        except OutOfReachError as error:
            return str(error)

    def run(self, rule: str, budget: str, widths: Widths, seed: int) -> dict[str, Any]:
        """One pruned network: its top-1 before and after the training."""

        def compute() -> dict[str, Any]:
            dense = self.dense()
            space = trace(dense, EXAMPLE)
            model = prune(dense, space, space.kept(widths, self.scores(dense, space)))
            share = Macs(space)(widths) / Macs(space)(space.full)
            before = self.top1(model)["test"]
            how = TrainingSettings(lr=PRUNED_LEARNING_RATE, seed=seed, **ADAMW)
            with sdpa_kernel(SDPBackend.MATH):
                finetune(model, self.data.without_test(), how, steps=self.steps)
            groups = {g.name: g.counted(w) for g, w in zip(space.groups, widths, strict=True)}
            return {**self.top1(model), "before": before, "macs": float(share), "widths": groups}

        return protocol.piece(f"{self.name}/{rule.replace(' ', '')}-{budget}-s{seed}", compute)


def table(study: Study, seeds: list[int], dense: dict[str, float]) -> str:
    """The record, in Markdown."""
    lines = [
        "# A small vision transformer, pruned whole\n",
        f"6 layers, 192 wide, patches of 4 x 4, {study.epochs:g} epochs of AdamW on CIFAR-10-JPEG: {dense['test']:.2f} "
        f"% top-1 on test. Pruned once, units by `{RunConfig().criterion}`, then {study.steps} steps of AdamW; mean "
        f"and standard deviation over {len(seeds)} seeds of that training.",
        f"{protocol.processor()}, torch {torch.__version__}.\n",
        "| MACs at most | rule | kept | before training | after: held out | test | widths |",
        "|---|---|---|---|---|---|---|",
    ]
    for budget in BUDGETS:
        known: dict[Widths, str] = {}
        for rule in RULES:
            widths = study.chosen(rule, budget)
            if isinstance(widths, str) or widths in known:
                why = widths if isinstance(widths, str) else f"the widths of `{known[widths]}`"
                lines.append(f"| {budget} | {rule} | | | | | {why} |")
                continue
            known[widths] = rule
            found = [study.run(rule, budget, widths, seed) for seed in seeds]
            shown = ", ".join(f"{name} {width}" for name, width in found[0]["widths"].items())
            tops = (protocol.spread([f[split] for f in found]) for split in ("val", "test"))
            cells = (budget, rule, f"{100 * found[0]['macs']:.1f} %", f"{found[0]['before']:.2f}", *tops, shown)
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, ""])


def made_up() -> ImageData:
    """A few random images, to see that all runs."""
    from autoprune.data import load

    generator = np.random.default_rng(0)
    folder = protocol.CACHE / "vit_smoke_images"
    for split in ("train", "test"):
        for label in range(10):
            path = folder / split / str(label)
            path.mkdir(parents=True, exist_ok=True)
            for n in range(16 if split == "train" else 4):
                from PIL import Image

                Image.fromarray(generator.integers(0, 255, (32, 32, 3), np.uint8)).save(path / f"{n}.png")
    return load(f"imagefolder:{folder}", val_images=32, seed=0, mean=protocol.MEAN, std=protocol.STD)


def main() -> None:
    """Measure what is missing, then write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("BENCHMARK_DATA", ".")))
    parser.add_argument("--epochs", type=float, default=EPOCHS)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--smoke", action="store_true", help="a tiny network on made-up images; writes nothing")
    given = parser.parse_args()
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    if given.smoke:
        study = Study(made_up(), "vit_smoke", {"dim": 24, "layers": 2, "heads": 3}, 1, 2)
    else:
        study = Study(protocol.images(given.data), "vit", {}, given.epochs, protocol.EPOCH)
    dense = study.dense()
    verify(dense, trace(dense, EXAMPLE), torch.randn(2, 3, 32, 32))
    written = table(study, given.seeds, protocol.piece(f"{study.name}/dense", lambda: study.top1(dense)))
    if not given.smoke:
        Path(__file__).with_suffix(".md").write_text(written)
    print(written)


if __name__ == "__main__":
    main()
