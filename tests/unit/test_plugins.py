"""Code from outside: whatever it raises or returns is one sentence that names it."""

import re
import sys

import numpy as np
import pytest
import torch

from autoprune import criteria, strategies
from autoprune.data import load
from autoprune.problem import Problem
from autoprune.reference import ModelReference
from autoprune.tasks import Pairs, resolve_metric
from objectives import Feasibility, find, parse
from objectives.plugins import PluginError, running
from search_spaces import trace
from search_spaces.models import digits_cnn


@pytest.fixture
def module(tmp_path, monkeypatch):
    """Writes a module that can be imported, and returns its name."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)

    def write(text, name="theirs"):
        sys.modules.pop(name, None)
        (tmp_path / f"{name}.py").write_text(text)
        import importlib

        importlib.invalidate_caches()
        return name

    yield write
    sys.modules.pop("theirs", None)


BROKEN = {
    "syntax": ("def f(:\n", r"failed while 'theirs' was imported with SyntaxError: invalid syntax \(theirs.py, line 1"),
    "import": ("import nowhere2\n", r"with ModuleNotFoundError: No module named 'nowhere2' \(theirs.py:1\)"),
    "exit": ("import sys\nsys.exit()\n", r"with sys.exit\(None\), which is for scripts"),
    "name": ("x = 1\n", r"expected package.module:Name that can be imported, but module 'theirs' has no attribute 'f'"),
    "own kind": ("class E(BaseException):\n    pass\nraise E('a\\nb')\n", r"with E: a b \(theirs.py:3\)"),
}


@pytest.mark.parametrize(("text", "message"), BROKEN.values(), ids=BROKEN)
def test_a_module_that_cannot_be_imported_is_named(text, message, module):
    with pytest.raises(ValueError, match=rf"thing '{module(text)}:f'.* {message}"):
        find("thing", "theirs:f", {})


@pytest.mark.parametrize(
    ("path", "dotted"), [("mynet.py", "mynet"), ("./nets/mynet.py", "nets.mynet"), ("nets/mynet", "nets.mynet")]
)
def test_the_path_of_a_file_is_told_as_the_module_it_is(path, dotted):
    with pytest.raises(ValueError, match=rf"^thing '{re.escape(path)}:f': .* path of a file; .* {dotted}:f$"):
        find("thing", f"{path}:f", {})


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("search_spaces.models:digits_cn", "digits_cnn"),
        ("search_spaces.modls:digits_cnn", "search_spaces.models"),
        ("search_space.models:digits_cnn", "search_spaces"),
        ("thiers:network", "theirs"),
        ("theirs:netwrok", "network"),
        ("theirs:_hiden", ""),
        ("search_spaces.models:nothing_like_it", ""),
        ("nothing_like_it:network", ""),
        ("theirs.part:network", ""),  # is no package
    ],
)
def test_a_name_that_is_misspelt_is_asked_about(name, meant, module):
    module("network = _hidden = 1\n")
    with pytest.raises(ValueError, match=rf"^model '{name}': .* be imported, but .*") as caught:
        find("model", name, {})
    assert str(caught.value).partition("(did you mean ")[2] == (meant and f"{meant}?)")


def test_ctrl_c_in_code_from_outside_stays_what_it_is():
    with pytest.raises(KeyboardInterrupt), running("metric 'x'"):
        raise KeyboardInterrupt
    own = type("Own", (BaseException,), {})
    with (
        pytest.raises(PluginError, match=r"^metric 'x' failed on 3 images with Own \("),
        running("metric 'x'", "on 3 images"),
    ):
        raise own


FACTORIES = {
    "raises": ("def f(): 1 / 0", r"the factory failed with ZeroDivisionError: .*\(theirs.py:1\)"),
    "exits": ("def f(): raise SystemExit", r"the factory failed with sys.exit\(None\)"),
    "needs arguments": ("def f(a): pass", r"needs the argument a, which is not given"),
    "returns nothing": ("def f(): pass", r"expected a factory that returns an nn.Module, got NoneType"),
    "returns a class": ("from torch import nn\ndef f(): return nn.ReLU", r"returns an nn.Module, got type"),
    "is a number": ("f = 3", r"expected a factory, a function or a class, found 3"),
}


@pytest.mark.parametrize(("text", "message"), FACTORIES.values(), ids=FACTORIES)
def test_a_model_factory_is_named(text, message, module):
    with pytest.raises(ValueError, match=rf"model '{module(text)}:f':? .*{message}"):
        ModelReference("theirs:f").build()


HEAD = "import torch\nimport numpy as np\nX = torch.zeros(40, 1, 8, 8)\nY = torch.arange(40) % 4\n"
DATA = {
    "raises": ("def f(): raise KeyError('z')", r"failed with KeyError: 'z' \(theirs.py:5\)"),
    "exits": ("def f(): raise SystemExit(0)", r"failed with sys.exit\(0\)"),
    "returns nonsense": ("def f(): return 'digits'", r"must return \(train, test\)"),
    "huge label": (
        "def f():\n    Y[0] = 10**12\n    return (X, Y), None",
        r"train has the label 1000000000000; labels are class numbers",
    ),
    "negative label": ("def f():\n    Y[0] = -1\n    return (X, Y), None", r"has label -1, but with 4 classes"),
    "label without a class": (
        "def f(): return {'train': (X, Y), 'classes': ['a', 'b']}",
        r"has label 3, but with 2 classes labels run from 0 to 1",
    ),
    "classes without an order": ("def f(): return {'train': (X, Y), 'classes': {'a', 'b'}}", r"classes must be a list"),
    "classes without an end": (
        "import itertools\ndef f(): return {'train': (X, Y), 'classes': itertools.count()}",
        r"classes has more than 100,000 names",
    ),
    "NaN": ("def f():\n    X[3] = np.nan\n    return (X, Y), None", r"find out where the NaN come from"),
    "complex": ("def f(): return (X + 1j, Y), None", r"must be real numbers, got torch.complex64"),
    "empty": ("def f(): return (X[:0], Y[:0]), None", r"no train images found"),
    "empty data set": ("def f(): return [], []", r"no images found"),
    "item that raises": (
        "class D(list):\n    samples = [('cat/%d.png' % i, 0) for i in range(4)]\n"
        "    def __getitem__(self, i):\n        if i == 2: raise OSError('torn')\n"
        "        return list.__getitem__(self, i)\n"
        "def f(): return D([(x, 0) for x in X[:4]]), None",
        r"train: item 2 \('cat/2.png'\) failed with OSError: torn \(theirs.py:8\)",
    ),
    "item of a subset that raises": (
        "from torch.utils.data import Subset\n"
        "class D(list):\n    samples = [('cat/%d.png' % i, 0) for i in range(4)]\n"
        "    def __getitem__(self, i): raise SystemExit('torn')\n"
        "def f(): return Subset(D([(x, 0) for x in X[:4]]), [3]), None",
        r"train: item 0 \('cat/3.png'\) failed with sys.exit\('torn'\)",
    ),
    "label that is a fraction": (
        "def f(): return [(x, 0.5) for x in X], None",
        r"item 0 must be \(image, class number",
    ),
    "label that is infinite": ("def f(): return [(x, np.inf) for x in X], None", r"item 0 must be \(image, class numb"),
    "image of another size": (
        "def f(): return [(x if i != 7 else x[:, 1:], i % 2) for i, x in enumerate(X)], None",
        r"train: item 7 is \[1, 7, 8\] but the first is \[1, 8, 8\] \(C, H, W\); resize them",
    ),
    "image of other channels": (
        "def f(): return [(x if i != 7 else x.expand(3, 8, 8), i % 2) for i, x in enumerate(X)], None",
        r"train: item 7 is \[3, 8, 8\] but the first is \[1, 8, 8\] .*give all of them the same channels",
    ),
    "more than fits": (
        "class D:\n    def __len__(self): return 10**15\n    def __getitem__(self, i): return X[0], 0\n"
        "def f(): return D(), None",
        r"train: 1000000000000000 images need 64000000.0 GB of memory, and half of what this machine gives",
    ),
    "length that raises": (
        "class D:\n    def __len__(self): raise TypeError('no length')\n    def __getitem__(self, i): return X[0], 0\n"
        "def f(): return D(), None",
        r"train failed when asked for its length with TypeError: no length",
    ),
}


@pytest.mark.parametrize(("text", "message"), DATA.values(), ids=DATA)
def test_a_data_function_is_named(text, message, module):
    with pytest.raises(ValueError, match=rf"data '{module(HEAD + text)}:f':? .*{message}"):
        load("theirs:f")


METRICS = {
    "raises": ("def f(logits, labels): return labels[10**6]", r"failed on the outputs of 4 samples with IndexError"),
    "exits": ("def f(logits, labels): raise SystemExit", r"failed on the outputs of 4 samples with sys.exit\(None\)"),
    "is another function": ("from os import system as f", r"failed on the outputs of 4 samples with TypeError"),
    "returns nothing": ("def f(logits, labels): pass", r"expected one number or one per sample, got None"),
    "returns a text": ("def f(logits, labels): return 'good'", r"expected one number or one per sample, got 'good'"),
    "returns another shape": ("def f(logits, labels): return logits", r".*got shape \(4, 3\)"),
    "is a number": ("f = 3", r"expected a function of \(outputs, targets\), got int"),
}


def measured(name):
    meter = Pairs().meter({name: resolve_metric(name)})
    meter.update(torch.zeros(4, 3), (torch.zeros(4, 1), torch.zeros(4, dtype=torch.int64)))
    return meter.compute()


@pytest.mark.parametrize(("text", "message"), METRICS.values(), ids=METRICS)
def test_a_metric_is_named(text, message, module):
    with pytest.raises(ValueError, match=rf"metric '{module(text)}:f':? {message}"):
        measured("theirs:f")


@pytest.fixture(scope="module")
def space():
    return trace(digits_cnn(), torch.zeros(1, 1, 8, 8))


COSTS = {
    "raises": ("def f(space): return lambda widths: 1 / 0", r"failed on the widths of 2 candidates with ZeroDivision"),
    "cannot be made": ("def f(space): raise SystemExit", r"failed while it was made .of the space.*with sys.exit"),
    "is no function": ("def f(space): return 3", r"expected a callable on widths \[B, G\], got int"),
    "another shape": (
        "def f(space): return lambda widths: widths",
        r"expected one finite number above 0 for each of 2",
    ),
    "nothing": ("def f(space): return lambda widths: None", r"expected one finite number above 0 .* got None"),
    "negative": ("def f(space): return lambda widths: -widths.sum(1)", r"expected one finite number above 0"),
    "free": (
        "def f(space): return lambda widths: 0 * widths.sum(1)",
        r".*above 0 for each of 2 candidates, got \[0. 0.\]",
    ),
    "not a number": ("def f(space): return lambda widths: widths.sum(1) * float('nan')", r"expected one finite number"),
}


@pytest.mark.parametrize(("text", "message"), COSTS.values(), ids=COSTS)
def test_a_cost_is_named(text, message, module, space):
    with pytest.raises(ValueError, match=rf"cost '{module(text)}:f':? {message}"):
        Feasibility(space, [parse("theirs:f<=50%")])


def test_a_cost_that_turns_negative_on_the_way_is_named(module, space):
    module("def f(space): return lambda widths: abs(widths - 12).sum(1) - 1")
    priced = Feasibility(space, [parse("theirs:f<=100%")])
    with pytest.raises(ValueError, match=r"cost 'theirs:f': expected one finite number above 0"):
        priced.price([12] * len(space.groups))


CRITERION = (
    "from autoprune.criteria import Criterion\nimport torch\nclass f(Criterion):\n    name = 'f'\n    degree = 0\n"
)
CRITERIA = {
    "raises": ("    def score(self, group): 1 / 0", r"failed on group '.*' with ZeroDivisionError: .*\(theirs.py:6\)"),
    "returns nothing": (
        "    def score(self, group): pass",
        r"group '.*': expected a tensor of \d+ scores, got NoneType",
    ),
    "returns one": (
        "    def score(self, group): return torch.zeros(1)",
        r"group '.*': expected \d+ finite scores, got",
    ),
    "cannot be made": (
        "    def __init__(self): pass\n    def score(self, group): pass",
        r"failed while it was made with",
    ),
    "is incomplete": ("    pass", r"failed while it was made with TypeError: Can't instantiate abstract class"),
}


@pytest.mark.parametrize(("text", "message"), CRITERIA.values(), ids=CRITERIA)
def test_a_criterion_is_named(text, message, module, space):
    with pytest.raises(ValueError, match=rf"criterion '{module(CRITERION + text)}:f'[:,]? {message}"):
        criteria.score_all("theirs:f", digits_cnn(), space)


STRATEGY = "from autoprune.strategies import Strategy\nclass f(Strategy):\n    name = 'f'\n"
STRATEGIES = {
    "raises": ("    def ask(self, number): 1 / 0", r"failed when asked for trial 0 with ZeroDivisionError"),
    "returns nothing": ("    def ask(self, number): pass", r"must answer trial 0 with \d finite widths, got None"),
    "returns one": ("    def ask(self, number): return (3,)", r"must answer trial 0 with \d finite widths, got \(3,\)"),
    "proposes widths": ("    def ask(self, n): ...\n    def propose(self, n): return 3", r"must propose a Proposal or"),
    "cannot be made": (
        "    def __init__(self): pass\n    def ask(self, number): pass",
        r"failed while it was made with",
    ),
    "does not call super": (
        "    def __init__(self, problem, **more): pass\n    def ask(self, number): pass",
        r"failed while it was made \(does its __init__ call super.*AttributeError",
    ),
}


@pytest.mark.parametrize(("text", "message"), STRATEGIES.values(), ids=STRATEGIES)
def test_a_strategy_is_named(text, message, module, space):
    problem = Problem(space, (parse("macs<=50%"),), tuple(np.ones(g.size) for g in space.groups))
    with pytest.raises(ValueError, match=rf"strategy '{module(STRATEGY + text)}:f':? {message}"):
        strategies.make("theirs:f", problem).propose(0)


def test_a_strategy_that_cannot_learn_is_named(module, space):
    from autoprune.problem import Trial, TrialState

    module(STRATEGY + "    def ask(self, number): return self.problem.space.floor\n    def tell(self, trial): 1 / 0")
    problem = Problem(space, (parse("macs<=50%"),), tuple(np.ones(g.size) for g in space.groups))
    strategy = strategies.make("theirs:f", problem)
    assert tuple(strategy.propose(0).widths) == space.floor
    with pytest.raises(ValueError, match=r"strategy 'theirs:f' failed when told of trial 0 with ZeroDivisionError"):
        strategy.tell(Trial(0, space.floor, TrialState.COMPLETE, {"loss": 1.0}))


BACKEND = "from objectives.latency import Backend\nclass f(Backend):\n    name = 'f'\n"
BACKENDS = {
    "cannot load": (
        "    def load(self, model, example): 1 / 0",
        r"failed to load the candidate .* with ZeroDivisionError",
    ),
    "fails": (
        "    def load(self, model, example): return lambda: exit(3)",
        r"failed to run a network with sys.exit\(3\)",
    ),
    "says a text": ("    def load(self, model, example): return lambda: 'x'", r"a run must give its .*, got 'x'"),
    "says less than nothing": (
        "    def load(self, model, example): return lambda: -1.0",
        r"a run must give .* got -1.0",
    ),
    "cannot check": (
        "    def check(self): raise KeyError('phone')\n    def load(self, model, example): pass",
        r"failed while it was made with KeyError: 'phone'",
    ),
    "is incomplete": ("    pass", r"failed while it was made with TypeError: Can't instantiate abstract class"),
}


@pytest.mark.parametrize(("text", "message"), BACKENDS.values(), ids=BACKENDS)
def test_a_latency_backend_is_named(text, message, module, space, tmp_path, monkeypatch):
    from objectives.latency import predictors

    monkeypatch.setenv("AUTOPRUNE_CACHE", str(tmp_path))
    module(BACKEND + text)
    with pytest.raises(ValueError, match=rf"latency backend 'theirs:f':? {message}"):
        predictors([parse("latency<=50%@theirs:f")], digits_cnn(), space, torch.zeros(1, 1, 8, 8))


def test_a_latency_command_with_a_lone_quotation_mark_is_named(space):
    from objectives.latency import backends

    with pytest.raises(
        ValueError, match=r"--latency-command '.*': not the words of a command \(No closing quotation\)"
    ):
        backends([parse("latency<=50%@command")], "ssh 'pi {onnx}")


def test_a_strategy_that_fails_in_the_middle_leaves_a_run_that_resumes(module, here):
    import autoprune
    from autoprune.errors import SearchStopped

    ask = (
        "    def ask(self, number):\n"
        "        if number and not os.path.exists('mended'): raise RuntimeError('not yet')\n"
        "        return [max(1, w - number) for w in self.problem.space.full]\n"
    )
    settings = {"trials": 2, "finalists": 0, "epochs": 0, "criterion": "l1", "device": "cpu", "warm_starts": "none"}
    settings |= {"strategy": f"{module('import os' + chr(10) + STRATEGY + ask)}:f", "name": "run", "progress": False}
    model = digits_cnn()
    with pytest.raises(
        SearchStopped, match=r"strategy 'theirs:f' failed when asked for trial 1 .*; mend it, then resume"
    ):
        autoprune.search(model, "digits", **settings)
    (here / "mended").touch()
    autoprune.resume("results/run", model=model, progress=False)
    assert len(autoprune.status("results/run").trials) == 2


@pytest.mark.parametrize(
    ("callbacks", "message"), [([3], "Ray Tune calls them"), (3, "expected a list of ray.tune.Call")]
)
def test_callbacks_without_ray_are_refused(callbacks, message, here):
    import autoprune

    with pytest.raises(ValueError, match=f"callbacks: {message}"):
        autoprune.search(digits_cnn(), "digits", callbacks=callbacks, progress=False)
    assert list(here.iterdir()) == []
