"""Distillation: the pruned network also learns the dense network's answers."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional

from objectives import check_labels


def distillation_loss(
    student: Tensor, teacher: Tensor, labels: Tensor, weight: float, temperature: float = 4.0
) -> Tensor:
    """`(1 - weight) * cross-entropy + weight * T^2 * KL(teacher / T || student / T)`.

    Hinton et al. 2015, https://arxiv.org/abs/1503.02531, section 2: T^2 keeps the two gradients in proportion.

    Args:
        student: [N, K] logits.
        teacher: [N, K] logits of the dense network on the same images.
        labels: [N] class numbers.
        weight: Of the teacher, 0 to 1.
        temperature: T.

    Returns:
        The mean over the images.

    Raises:
        ValueError: If the labels are no class numbers.
    """
    check_labels(labels, student)
    hard = functional.cross_entropy(student.float(), labels)
    soft = functional.kl_div(
        functional.log_softmax(student.float() / temperature, dim=1),
        functional.log_softmax(teacher.float() / temperature, dim=1),
        reduction="batchmean",
        log_target=True,
    )
    return (1 - weight) * hard + weight * temperature**2 * soft
