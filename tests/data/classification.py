"""Figures of classification that must not move: scores, losses of every fidelity, trainings, a search.

python tests/data/classification.py FILE     # records them; float32 on one thread, so that machines agree
"""

from __future__ import annotations

import copy
import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

RECORD = Path(__file__).parent / "classification.json"


def figures(folder):
    """By name, a number or a list of them."""
    torch.manual_seed(0)
    import autoprune
    from autoprune import data as data_sets
    from autoprune.criteria import score_many
    from autoprune.evaluation import EvaluationSettings, Evaluator, measure
    from autoprune.reference import save_weights
    from autoprune.runs import RunDirectory
    from autoprune.training import Pruning, Sandwich, TrainingSettings, finetune
    from search_spaces import prune, trace
    from search_spaces.models import digits_cnn

    found = {}
    data = data_sets.load("digits", val_images=400)
    model = digits_cnn()
    plain = TrainingSettings(batch_size=64, device="cpu", amp="off")
    log = finetune(model, data.without_test(), replace(plain, lr=0.05), steps=60)
    found["training"] = log.losses[::10]
    space = trace(model, data.example)
    batches = [(data.normalise(b.images), b.labels) for b in data.train.sample(192, 0).batches(64)]
    names = ("group_fisher", "taylor", "apoz", "hrank", "thinet", "nisp", "obd")
    scores = score_many(names, model, space, batches)
    for name in names:
        found[f"criterion {name}"] = [float(s.mean()) for s in scores[name]] + scores[name][0].tolist()
    fisher = scores["group_fisher"]
    settings = EvaluationSettings(bn_samples=300, fit_samples=100, val_samples=300, short_steps=8, batch_size=96,
                                  device="cpu", amp="off")  # fmt: skip
    evaluate = Evaluator(model, data, space, fisher, settings)
    dense = evaluate.evaluate_dense()
    found["dense"] = [dense["loss"], dense["top1"]]
    half = space.clip(0.5 * g.size for g in space.groups)
    mixed = space.clip((0.3 + 0.4 * (i % 2)) * g.size for i, g in enumerate(space.groups))
    for fidelity in ("raw", "proxy", "reconstructed", "short"):
        for label, widths in (("half", half), ("mixed", mixed)):
            said = evaluate(widths, fidelity)
            found[f"{fidelity} {label}"] = [said["loss"], said["top1"], said["images"], *said["batch_losses"]]
    low = space.clip(1 for _ in space.groups)
    said = evaluate(low, "proxy", dense["batch_losses"])
    found["abandoned"] = [said["loss"], said["top1"], said["images"], float(said["abandoned"])]
    top1 = Evaluator(model, data, space, fisher, EvaluationSettings(metric="top1", device="cpu", amp="off"))
    found["metric top1"] = [top1(half, "proxy")["loss"]]
    net = prune(model, space, space.kept(half, fisher))
    how = replace(plain, seed=3)
    half = replace(how, distill=0.5)
    found["distilled"] = finetune(net, data.without_test(), half, steps=6, teacher=model, micro_batches=2).losses
    found["tested"] = [*measure(net, data, "test", device="cpu", amp="off").values()]
    method = Sandwich(Pruning(space, fisher))
    found["adapted"] = finetune(copy.deepcopy(model), data.without_test(), how, steps=3, method=method).losses
    weights = Path(folder) / "w.safetensors"
    save_weights(model, weights)
    result = autoprune.search(
        "search_spaces.models:digits_cnn", "digits", "macs<=50%", weights=str(weights), trials=12, finalists=2,
        short_steps=5, epochs=0.5, distill=0.3, name=f"{folder}/run", device="cpu", seed=0,
        progress=False,
    )  # fmt: skip
    trials = RunDirectory.open(result.run_dir).record().trials
    found["search widths"] = [list(t.widths) for t in trials]
    found["search losses"] = [t.loss for t in trials]
    found["search top1"] = [t.metrics["top1"] for t in trials]
    for name, said in result.metrics.items():
        if name.endswith(("val", "test")):
            found[f"search {name}"] = [said["loss"], said["top1"]]
    return {name: np.asarray(values, dtype=float).tolist() for name, values in found.items()}


def main(path):
    """Record them."""
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        found = figures(folder)
    text = ",\n".join(f'"{name}": {json.dumps(values)}' for name, values in found.items())
    Path(path).write_text("{\n" + text + "\n}\n", encoding="utf-8")


if __name__ == "__main__":
    torch.set_num_threads(1)
    from autoprune import compute

    compute._fast_bfloat16 = lambda device: False
    main(*sys.argv[1:])
