"""README: accuracy against size, and one network before and after; ResNet-20 on CIFAR-10 (policies.md, quality.md)."""

from drawing import Drawing
from recorded import dense_top1, number, table

SIZE = (760, 300)
TITLE = "Left: test accuracy against multiply-adds kept. Right: widths of ResNet-20 before and after."
ARMS = [  # row of policies.md, what it is called here, its column, colour
    ("combined", "autoprune, as delivered", "as delivered", "one"),
    ("combined", "autoprune, weights as cut", "one epoch", "one"),
    ("ModelOpt 0.47 FastNAS, divisor 1", "ModelOpt FastNAS", "one epoch", "three"),
    ("Torch-Pruning 1.6.1, L2, global", "Torch-Pruning, L2", "one epoch", "two"),
]
BUDGETS = (50, 30, 15)
FULL = (  # of the dense network
    16, 16, 16, 16, 32, 32, 32, 32, 64, 64, 64, 64,
)  # fmt: skip


def points(row: str, column: str) -> list[tuple[float, float]]:
    """(share of the MACs, top-1), both in percent; the share that was reached."""
    found = []
    for budget in BUDGETS:
        line = next(r for r in table("policies.md", f"macs<={budget}%") if r[""] == row)
        found.append((number(line["MACs kept"]), number(line[column])))
    return found


def draw(d: Drawing) -> None:
    """Draw it."""
    left, right, top, bottom = 52, 400, 44, 250
    d.text(left - 32, 24, "ResNet-20 on CIFAR-10, one epoch of fine-tuning", bold=True)

    def at(share: float, top1: float) -> tuple[float, float]:
        return left + (share - 10) / 45 * (right - left), bottom - (top1 - 50) / 40 * (bottom - top)

    for top1 in (50, 60, 70, 80, 90):
        d.line([(left, at(10, top1)[1]), (right, at(10, top1)[1])], "faint", 1)
        d.text(left - 8, at(10, top1)[1] + 4, str(top1), "soft", 11, "end")
    for share in (15, 30, 50):
        d.text(at(share, 50)[0], bottom + 18, f"{share} %", "soft", 11, "middle")
    d.text((left + right) / 2, bottom + 38, "multiply-adds kept", "soft", 12, "middle")
    dense = dense_top1("policies.md")
    d.line([at(10, dense), at(55, dense)], "soft", 1, "5 4")
    d.text(left + 6, at(10, dense)[1] - 5, f"dense: {dense:.1f} % top-1", "soft", 11)
    for number_, (row, name, column, color) in enumerate(ARMS):
        line = [at(*p) for p in points(row, column)]
        dashed = column == "one epoch" and row == "combined"
        d.line(line, color, 2, "5 4" if dashed else "")
        for x, y in line:
            d.circle(x, y, 3.5, color, hollow=dashed)
        y = bottom - 74 + 18 * number_
        d.line([(right - 178, y - 4), (right - 156, y - 4)], color, 2, "5 4" if dashed else "")
        d.text(right - 150, y, name, size=12)
    _widths(d)


def _widths(d: Drawing) -> None:
    found = next(r for r in table("quality.md", "resnet20 at 15%") if r["allocation"] == "default search before kinds")
    kept, x0 = [int(n) for n in found["widths"].split()], 452
    d.text(x0, 24, "its channels, and those kept at 15 %", bold=True)
    for n, (size, width) in enumerate(zip(FULL, kept, strict=True)):
        y = 44 + n * 18.5
        d.rect(x0, y, size * 3.6, 13, "gone", r=2)
        d.rect(x0, y, width * 3.6, 13, "one", r=2)
        d.text(x0 + size * 3.6 + 8, y + 11, f"{width} of {size}", "soft", 11)
    d.text(x0, 288, "one bar: one group of channels", "soft", 12)
