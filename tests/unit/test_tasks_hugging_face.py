"""Networks called as those of Hugging Face: inputs by name, labels among them, answers as attributes of an object."""

from collections import OrderedDict

import pytest
import torch
from torch import nn
from torch.nn import functional

import autoprune
from autoprune.tasks import Task, Text

QUICK = {"trials": 1, "finalists": 0, "epochs": 0.2, "warm_starts": "none", "strategy": "random", "device": "cpu",
         "batch_size": 16, "progress": False, "criterion": "taylor", "score_samples": 32, "name": "run"}  # fmt: skip
WORDS, LENGTH = 30, 12


class Output(OrderedDict):
    """Entries by name and as attributes, those that are None left out, as `transformers.ModelOutput` has them."""

    def __getattr__(self, name):
        try:
            return self[name]
        except KeyError as error:
            raise AttributeError(name) from error


class Classifier(nn.Module):
    """Called as those of `AutoModelForSequenceClassification` are."""

    def __init__(self, width=16):
        super().__init__()
        self.embeddings = nn.Embedding(WORDS, width)
        self.intermediate, self.output = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.classifier = nn.Linear(width, 2)

    def forward(self, input_ids=None, attention_mask=None, labels=None):
        x = self.embeddings(input_ids)
        x = x + self.output(functional.gelu(self.intermediate(x)))
        mask = attention_mask[..., None].to(x.dtype)
        logits = self.classifier((x * mask).sum(1) / mask.sum(1))
        loss = None if labels is None else functional.cross_entropy(logits, labels)
        return Output({"logits": logits} if loss is None else {"loss": loss, "logits": logits})


def bert():
    transformers = pytest.importorskip("transformers")
    config = transformers.BertConfig(
        vocab_size=WORDS, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32,
        num_labels=2, max_position_embeddings=LENGTH,
    )  # fmt: skip
    return transformers.BertForSequenceClassification(config)


def sentences(count, seed):
    draws = torch.Generator().manual_seed(seed)
    ids = torch.randint(1, WORDS, (count, LENGTH), generator=draws)
    lengths = torch.randint(4, LENGTH + 1, (count, 1), generator=draws)
    return {"input_ids": ids, "attention_mask": (torch.arange(LENGTH) < lengths).long()}, (ids[:, 0] > 15).long()


def batches(count, seed):
    """The labels inside of the batch, as a data collator leaves them."""
    inputs, labels = sentences(count, seed)
    whole = {**inputs, "labels": labels}
    return [{name: values[i : i + 16] for name, values in whole.items()} for i in range(0, count, 16)]


TASKS = {
    "text": lambda: Text(sentences(64, 0), sentences(32, 1), sentences(32, 2)),
    "own loss": lambda: Task.of(batches(64, 0), batches(32, 1), batches(32, 2)),
}


@pytest.mark.parametrize("make", [Classifier, pytest.param(bert, marks=pytest.mark.slow)])
@pytest.mark.parametrize("kind", TASKS)
def test_it_is_searched_and_loaded(make, kind, here):
    if kind == "text":
        pytest.importorskip("torchmetrics")
    torch.manual_seed(0)
    model = make().eval()
    found = autoprune.search(model, TASKS[kind](), budget="macs<=60%", **QUICK)
    assert found.costs["macs"]["pruned"] <= 0.6 * found.costs["macs"]["dense"]
    again, (inputs, _) = autoprune.load(found.run_dir / "best", model), sentences(4, 3)
    assert torch.equal(again(**inputs).logits, found.model(**inputs).logits)


def test_the_loss_is_the_networks_own_and_its_logits_count():
    task, model = TASKS["own loss"](), Classifier()
    batch = batches(16, 0)[0]
    outputs, loss = task.evaluate(model, batch)
    assert torch.equal(loss, functional.cross_entropy(outputs.logits, batch["labels"]))
    assert torch.equal(task.answers(outputs, batch)[0], outputs.logits)
    assert torch.equal(task.answers(outputs, batch)[1], batch["labels"])
