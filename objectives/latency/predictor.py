"""`Latency`: what a candidate takes on a device, predicted from what sampled candidates took there."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import nnls

from objectives.costs import Cost
from objectives.latency.features import terms
from objectives.latency.held_out import Quality
from objectives.latency.sites import Channels, Site
from objectives.presence import Presence
from objectives.products import Floats

FOLDS = 5
_RIDGE = 0.3  # of a term of one signature;
_SHARED = 0.1  # times that of a term that all layers of a kind share: what is alike is learnt together


class Latency(Cost):
    """Milliseconds of one run of a candidate on one device: a sum over layers, fitted to whole networks.

    Whole networks are measured and not single layers, because layers alone show neither fused operators nor changes of
    the memory layout nor the caches as they are in the network (figures: results/benchmarks/latency_predictor.md). It
    is not monotone in the widths where the device is not.

    Args:
        name: The metric, "latency@onnxruntime,batch=1,threads=1".
        sites: The layers.
        num_groups: Of the space.
        coefficients: [L, F] milliseconds per unit of each term of each layer.
        quality: On held-out candidates.
        dense: Measured median of the dense network, in milliseconds.
        about: Where it was measured.
        presence: Which layers a candidate has, where branches may vanish; None: it has all.
    """

    unit = "ms"

    def __init__(
        self,
        name: str,
        sites: tuple[Site, ...],
        num_groups: int,
        coefficients: Floats,
        quality: Quality,
        dense: float,
        about: Mapping[str, str],
        presence: Presence | None = None,
    ) -> None:
        self.name = name  # type: ignore[misc]  # one per device, unlike the other costs
        self.sites, self.num_groups, self.coefficients = sites, num_groups, coefficients
        self.quality, self.dense, self.about = quality, dense, dict(about)
        self.presence = presence or Presence([], num_groups, len(sites))
        self._channels = Channels(sites, num_groups)

    def _terms(self, widths: NDArray[Any]) -> Floats:
        """[B, L, F] of the candidates [B, G]."""
        return present_terms(self.sites, self._channels, self.presence, widths)

    def batch(self, widths: NDArray[Any]) -> Floats:
        """Milliseconds [B] of the candidates `widths` [B, G]."""
        values = np.empty(len(widths))
        for start in range(0, len(widths), 256):
            part = self._terms(widths[start : start + 256])
            values[start : start + 256] = np.einsum("blf,lf->b", part, self.coefficients)
        return values

    def parts(self, widths: Sequence[int]) -> dict[str, float]:
        """Milliseconds of one candidate, layer by layer."""
        found = self._terms(np.asarray(widths)[None])[0]
        parts: dict[str, float] = {}
        for site, ms in zip(self.sites, (found * self.coefficients).sum(axis=1), strict=True):
            parts[site.name] = parts.get(site.name, 0.0) + float(ms)
        return parts

    @property
    def fingerprint(self) -> str:
        """A short hash: two with the same one price the same."""
        said = self.to_json()
        del said["quality"]["points"]  # they are shown, and price nothing
        return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()[:16]

    def to_json(self) -> dict[str, Any]:
        """A plain dictionary; `from_json` gives the same predictor back, bit for bit."""
        return {
            "name": self.name,
            "num_groups": self.num_groups,
            "dense": self.dense,
            "quality": asdict(self.quality),
            "about": self.about,
            "sites": [s.to_json() for s in self.sites],
            "coefficients": self.coefficients.tolist(),
            **({"presence": self.presence.rows} if self.presence.rows else {}),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Latency:
        """The inverse of `to_json`."""
        return cls(
            data["name"],
            tuple(Site.from_json(s) for s in data["sites"]),
            data["num_groups"],
            np.array(data["coefficients"], dtype=np.float64),
            Quality.from_json(data["quality"]),
            data["dense"],
            data["about"],
            Presence(data.get("presence", []), data["num_groups"], len(data["sites"])),
        )


def present_terms(sites: tuple[Site, ...], channels: Channels, presence: Presence, widths: NDArray[Any]) -> Floats:
    """Terms [B, L, F] of candidates [B, G]; 0 for a layer that is not there."""
    widths, present = presence(widths)
    found = terms(sites, *channels(widths))
    return found if present is None else found * present[:, :, None]


def fit(
    name: str,
    sites: tuple[Site, ...],
    widths: NDArray[Any],
    ms: Floats,
    dense: float,
    about: Mapping[str, str],
    presence: Presence | None = None,
) -> Latency:
    """Fit a predictor to measured candidates, by non-negative least squares on relative errors.

    Args:
        name: The metric.
        sites: The layers.
        widths: [N, G] measured candidates.
        ms: [N] what they took.
        dense: What the dense network took.
        about: Where.
        presence: Which layers a candidate has; None: all.
    """
    num_groups = widths.shape[1]
    presence = presence or Presence([], num_groups, len(sites))
    features = present_terms(sites, Channels(sites, num_groups), presence, widths)  # [N, L, F]
    columns = _Columns(sites)
    design = columns(features)
    held_out = np.empty(len(ms))
    folds = np.random.default_rng(0).permutation(len(ms)) % FOLDS
    for fold in range(FOLDS):
        seen = folds != fold
        held_out[~seen] = design[~seen] @ columns.solve(design[seen], ms[seen])
    coefficients = columns.spread(columns.solve(design, ms))
    return Latency(name, sites, num_groups, coefficients, Quality.of(held_out, ms), dense, about, presence)


class _Columns:
    """What is fitted: each term once per signature and once for all layers of a kind.

    What a layer takes whatever its widths cannot be told from the same of another one: all layers share it evenly.
    """

    def __init__(self, sites: tuple[Site, ...]) -> None:
        names = [[("one", s.signature) for s in sites], [("all", s.kind) for s in sites], [("any", "")] * len(sites)]
        self._keys = list(dict.fromkeys(key for row in names for key in row))
        self._of = np.array([[self._keys.index(key) for key in row] for row in names])  # [3, L]

    def __call__(self, features: Floats) -> Floats:
        """[N, L, F] -> [N, columns]."""
        found = np.zeros((features.shape[0], len(self._keys), features.shape[2]))
        evenly = np.array([kind == "any" for kind, _ in self._keys])
        for row in self._of:
            for site, key in enumerate(row):
                found[:, key] += features[:, site]
        found[:, ~evenly, 0] = found[:, evenly, 1:] = 0.0  # the first term is the constant
        return found.reshape(len(features), -1)

    def solve(self, design: Floats, ms: Floats) -> Floats:
        """Coefficients of the columns."""
        relative = design / ms[:, None]
        scale = np.sqrt((relative**2).mean(axis=0)) + 1e-300
        per_key = design.shape[1] // len(self._keys)
        ridge = np.repeat([_RIDGE * (1.0 if kind == "one" else _SHARED) for kind, _ in self._keys], per_key)
        seen = np.flatnonzero(relative.any(axis=0))  # a term that no sample shows costs nothing
        rows = np.vstack([relative[:, seen] / scale[seen], np.diag(ridge[seen] * np.sqrt(len(ms)))])
        wanted = np.concatenate([np.ones(len(ms)), np.zeros(len(seen))])
        found = np.zeros(design.shape[1])
        found[seen] = nnls(rows, wanted, maxiter=50 * len(seen) + 100)[0] / scale[seen]
        return found

    def spread(self, coefficients: Floats) -> Floats:
        """[columns] -> [L, F]: what each layer has of its own and of its kind."""
        table = coefficients.reshape(len(self._keys), -1)
        return np.asarray(table[self._of].sum(axis=0))
