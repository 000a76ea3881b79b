"""Text and other sequences of tokens: a class for each."""

from __future__ import annotations

from autoprune.tasks.labelled import Labelled


class Text(Labelled):
    """Token ids [N, T], or {"input_ids": [N, T], "attention_mask": [N, T]} as tokenizers give them, and class numbers.

    A network is called with the ids, or with the dictionary's entries by name, as those of Hugging Face are; what they
    answer as `.logits` counts.

    Example:
        words = tokenizer(texts, padding=True, return_tensors="pt")
        task = autoprune.tasks.Text((dict(words), labels), num_classes=2)
    """

    kind = "text"
    sample = "text"
