"""The benchmark of several networks in one: what its table says of the pieces that are there."""

import json


def test_the_table_compares_levels_with_networks_alone(script, tmp_path):
    bench = script("nested")
    assert "Not measured yet." in bench.table(tmp_path)
    folder = tmp_path / "resnet20" / "50-15"
    folder.mkdir(parents=True)
    for seed, (both, alone) in enumerate([(80.0, 81.0), (82.0, 82.0)]):
        levels = {"macs<=15%": {"top1": both / 100}}
        (folder / f"together--10--s{seed}.json").write_text(json.dumps({"levels": levels}))
        levels = {"macs<=15%": {"top1": alone / 100}}
        (folder / f"macs-15pct--10--s{seed}.json").write_text(json.dumps({"levels": levels}))
    row = "| resnet20 | 10 | macs<=15% | 81.00 ± 1.41 | 81.50 ± 0.71 | -0.50 | 2 |"
    assert row in bench.table(tmp_path)


def test_other_levels_have_a_table_of_their_own_and_seeds_are_compared_with_themselves(script, tmp_path):
    bench = script("nested")
    pieces = {"50-15": {"together": (60.0, 80.0), "macs-15pct": (70.0,)}, "50-30-15": {"together": (20.0,)}}
    for levels, ways in pieces.items():
        (tmp_path / "resnet20" / levels).mkdir(parents=True)
        for name, scores in ways.items():
            for seed, top1 in enumerate(scores):
                file = tmp_path / "resnet20" / levels / f"{name}--0.5--s{seed}.json"
                file.write_text(json.dumps({"levels": {"macs<=15%": {"top1": top1 / 100}}}))
    one, other = bench.table(tmp_path).split("## resnet20, levels of ")[1:]
    assert one.startswith("50, 15 % of the MACs\n")
    assert "| resnet20 | 0.5 | macs<=15% | 60.00 | 70.00 | -10.00 | 1 |" in one
    assert "| resnet20 | 0.5 | macs<=15% | 20.00 |  |  | 0 |" in other


def test_a_level_and_its_network_alone_have_pieces_of_their_own(script, tmp_path):
    bench = script("nested")
    pair = bench.Pair(tmp_path, "resnet20", "50%")
    pair.budgets = ("50%", "15%")
    names = {pair.file(name, 10, seed).name for name in ("together", "macs<=15%", "macs<=50%") for seed in (0, 1)}
    assert len(names) == 6
