"""What the user is told of every setting: its group, what stands for its value, what it does. Flags are made of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple


class Option(NamedTuple):
    """How one setting is presented to the user."""

    group: str
    metavar: str
    help: str


OPTIONS: Mapping[str, Option] = {
    name: Option(group, metavar, help)
    for group, table in {
        "problem": {
            "model": ("REF", "what builds the dense network: package.module:factory"),
            "model_args": ("KEY=VALUE", "a keyword argument of the factory (repeatable), e.g. num_classes=10"),
            "weights": ("FILE", "its trained weights: .safetensors or a torch state dict (never unpickled)"),
            "data": ("SPEC", "digits | cifar10:DIR | cifar100:DIR | imagefolder:DIR | package.module:function"),
            "data_args": (
                "KEY=VALUE",
                "how the data are loaded (repeatable): image_size=224, max_images=50000, augmentation=none, "
                "mean=.5,.5,.5 and std=.5,.5,.5 (what the network was trained with; 0 and 1 leave pixels in 0..1), "
                "val_images=5000 and seed=0 (of the split)",
            ),
            "input": (
                "NxCxHxW",
                "example input to trace the network with, e.g. 1x3x224x224 (default: one image of the data)",
            ),
            "budget": (
                "BUDGET",
                "what must hold (repeatable; all hold at once): macs, params or activations <= a percentage of the "
                "dense network (macs<=50%), a fraction of it (0.5x) or a number (params<=1.5M). flops is accepted and "
                "means MACs (one multiply-add counts 1). A measured latency: latency<=60%@onnxruntime,batch=1,"
                "threads=1 or latency<=3.5ms@torch (backends: onnxruntime, torch, compile, tensorrt, command)",
            ),
            "front": (
                "COST",
                "search the whole trade-off of the loss against these costs (comma separated or repeatable), e.g. "
                "macs,latency@onnxruntime: one run, many budgets. Unless they are given, the strategy is then nsga2 "
                "and no budget must hold; export any point with autoprune export RUN --budget ...",
            ),
            "latency_command": (
                "COMMAND",
                'what latency@command calls for an ONNX file, printing milliseconds: "ssh pi ./bench {onnx}"',
            ),
            "criterion": (
                "NAME",
                "which channels matter: group_fisher, taylor, obd, orthoreg, l1, l2, lamp, bn_scale, geometric_median, "
                "leverage, exemplar, apoz, mean_activation, hrank, thinet, nisp, random, package.module:Name, or a "
                "file of scores (as autoprune adapt writes it: FILE.scores.safetensors)",
            ),
            "score_images": ("IMAGES", "training images whose gradients score the channels"),
            "score_per": (
                "COST",
                "what a channel's score is divided by in the knapsack, a closed form that most searches begin with: "
                "what it frees of macs, params, activations (the memory of Group Fisher) or a latency@... that a "
                "budget names; or none, the scores as they are (default: of what the budgets limit)",
            ),
            "divisor": (
                "CHANNELS",
                "widths are multiples of it; auto: of what the device of the latency budget computes fast, group by "
                "group (1 without such a budget)",
            ),
            "min_keep": ("FRACTION", "fraction of each group's channels that always stays"),
            "freeze": ("GROUP", "a group that must not be pruned (repeatable; names: autoprune profile)"),
            "seed": ("N", "seed of everything random; the same seed gives the same run"),
        },
        "search": {
            "strategy": (
                "NAME",
                "what to try next: evolution, layer_compensation, lcp, legr, combined, annealing, gp, tpe, cmaes, "
                "nsga2, amc, amc_guaranteed, reinforce, netadapt, sensitivity, sensitivity_knapsack, random; uniform, "
                "global_ranking, knapsack, exemplars (closed forms); or package.module:Name",
            ),
            "encoding": (
                "NAME",
                "what a strategy's coordinates mean (default: its own choice): ratios, compensation, shift, affine, "
                "exemplars",
            ),
            "warm_starts": (
                "NAME",
                "what is tried first: closed (the closed forms uniform, global_ranking, knapsack), sensitivity (a scan "
                "of every group alone, and its answers), or none",
            ),
            "trials": ("N", "candidates that the search evaluates"),
            "time": (
                "DURATION",
                "no new candidate after so long, over all resumes: 90s, 45m, 2h, 1h30m (finalists still run)",
            ),
            "target": (
                "METRIC",
                "no new candidate once one is so good: top1>=90% or loss<=0.4, on the validation images",
            ),
            "max_failures": ("N", "stop when so many candidates in a row have failed"),
            "max_failure_rate": ("FRACTION", "stop when more than this fraction of 20 or more candidates has failed"),
            "fidelity": (
                "NAME",
                "how: raw, proxy (batch-norm re-estimated), reconstructed (layers fitted to the dense network's "
                "outputs by least squares, too), short:STEPS (trained for so many SGD steps); proxy:IMAGES and "
                "reconstructed:IMAGES say how many images are used",
            ),
            "finalists": ("N", "best candidates that are compared again after a short fine-tune (0: trust the proxy)"),
            "short_steps": ("STEPS", "SGD steps of that short fine-tune"),
            "rungs": (
                "N",
                "successive halving: N - 1 rungs below, of twice as many at a quarter of the steps each (with "
                "--cluster: one training, in which half are stopped at half of the steps)",
            ),
            "metric": (
                "NAME",
                "what is minimised on the validation images: loss (cross-entropy), top1 (as 1 - top1), or "
                "package.module:function of (logits, labels), lower is better",
            ),
            "val_images": ("IMAGES", "at most so many of the held-out training images score a candidate"),
            "bn_images": ("IMAGES", "training images that re-estimate batch-norm"),
            "batch_size": ("IMAGES", "images per batch, in the search and in the fine-tune"),
            "abandon": ("", "stop a candidate early when its first batches already say it is hopeless"),
        },
        "recovery": {
            "reconstruct": ("", "start from layers fitted to the dense network's outputs by least squares"),
            "epochs": ("EPOCHS", "epochs of the final fine-tune (0: none)"),
            "lr": ("LR", "its peak learning rate; decays linearly to 0"),
            "distill": ("WEIGHT", "weight of distillation from the dense network, 0 to 1"),
        },
        "run": {
            "name": ("NAME", "the run is kept in results/NAME (default: model and time)"),
            "ledger": (
                "URL",
                "database of the ledger, e.g. postgresql://user@host/db, the password in PGPASSWORD or ~/.pgpass "
                "(default: a kill-proof file in the run's directory)",
            ),
            "join": ("", "add this machine's workers to a search that another controller runs on the same database"),
            "workers": ("N", "worker processes; 0 evaluates in this process"),
            "devices": (
                "DEVICE",
                "what the workers share, in turn: cuda:0,cuda:1 (repeatable; default: every GPU, or the CPU)",
            ),
            "per_device": ("N", "at most so many workers on one device, each with its share of the memory (0: any)"),
            "cluster": (
                "RAY",
                "let Ray run the workers: auto (a running cluster, or this machine), local, or ray://host:port "
                "(pip install 'autoprune[ray]'; '': not, e.g. in a resume)",
            ),
            "timeout": (
                "SECONDS",
                "seconds that one candidate may take in a worker process before the worker is replaced (0: automatic)",
            ),
            "device": ("DEVICE", "auto, cpu, cuda, cuda:1 ..."),
            "onnx": ("", "also write best/model.onnx, checked against torch (pip install 'autoprune[onnx]')"),
            "pt2": ("", "also write best/model.pt2 (torch.export)"),
        },
    }.items()
    for name, (metavar, help) in table.items()
}
