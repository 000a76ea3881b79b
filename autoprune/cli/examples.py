"""The examples that `autoprune VERB --help` shows: two or three of that verb, and of all together at the top."""

from __future__ import annotations

DIGITS = """--model search_spaces.models:digits_cnn \\
    --weights results/digits_cnn.safetensors --data digits"""
MADE = "(`autoprune demo` makes the weights of digits_cnn)"
UNITS = """\
units: macs and flops both mean multiply-adds (one multiply-add counts 1);
params are numbers in all parameters; activations are output elements of all
layers per image; top-1 is a fraction of 1."""

EXAMPLES = {  # at most 80 columns wide
    "": f"""\
a first search: {MADE}
  autoprune doctor
  autoprune demo
  autoprune search {DIGITS} \\
    --budget "macs<=50%" --name first
  autoprune report results/first

autoprune <command> --help explains a command and its settings.""",
    "profile": f"""\
  autoprune profile {DIGITS}
  autoprune profile {DIGITS} \\
    --latency""",
    "search": f"""\
  autoprune search {DIGITS} \\
    --budget "macs<=50%"
  autoprune search --model torchvision.models:resnet18 --weights r18.pth \\
    --data imagefolder:photos --budget "macs<=40%" --budget "params<=5M"
  autoprune search {DIGITS} \\
    --front macs,params --name sizes""",
    "train": f"""\
  autoprune train {DIGITS} \\
    --method slimming --method-epochs 5 --budget "macs<=50%" --name slim
  autoprune train {DIGITS} \\
    --method nested --budget "macs<=50%" --budget-list 30%,15%""",
    "resume": """\
  autoprune resume results/small18               (after Ctrl-C, kill -9 ...)
  autoprune resume results/small18 --trials 200  (more candidates)
  autoprune resume results/small18 --time +30m   (half an hour more)""",
    "status": """\
  autoprune status results/small18 --watch    (from another terminal)""",
    "export": """\
  autoprune export results/small18 --onnx
  autoprune export results/small18 --budget "macs<=30%"  (its ranking cut there)
  autoprune export results/sizes --budget "macs<=35%"    (of a front: its best)""",
    "finetune": """\
  autoprune finetune results/small18 --epochs 30 --distill 0.5
  autoprune finetune results/small18 --trial 12 --to results/twelve""",
    "attach": """\
  autoprune attach results/small18 --weights mine.safetensors""",
    "report": """\
  autoprune report results/small18
  autoprune report results/small18 --png""",
    "compare": """\
  autoprune compare results/first results/second --to both.html""",
    "doctor": """\
  autoprune doctor --ledger postgresql://user@host/db --cluster ray://host:10001""",
    "completion": """\
  autoprune completion bash >> ~/.bash_completion
  autoprune completion zsh > ~/.zfunc/_autoprune        (fpath+=~/.zfunc first)
  autoprune completion fish > ~/.config/fish/completions/autoprune.fish""",
}


def examples_of(verb: str, units: bool = False) -> str:
    """What stands below the help of a verb ("": of the whole command).

    Args:
        verb: Its name.
        units: Whether the units stand there, too, where costs are named.
    """
    text = EXAMPLES.get(verb, "")
    if not verb or not text:
        return text
    made = f" {MADE}" if DIGITS in text else ""
    below = f"\n\n{UNITS}" if units and verb in ("profile", "search", "train", "export") else ""
    return f"{'examples' if text.count('autoprune ') > 1 else 'example'}:{made}\n{text}{below}"
