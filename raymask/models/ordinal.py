"""What heads of ordered tasks say, as class probabilities.

A head gives (B, K) outputs, of which its loss is made; a decoder turns them to (B, C) log-probabilities of the bands, which stand
for logits everywhere else: in the vote, in calibration, in export and in serving.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from raymask.config.components import OrdinalConfig
from raymask.core.tasks import Scale

TINY = 1e-7
"""Least probability of a band: below it float32's error function says nothing."""


class Decoder(nn.Module):
    """(B, K) outputs -> (B, C) log-probabilities of the bands. It has no weights of its own."""

    outputs: int
    """K."""


class Corn(Decoder):
    """Output k is the logit of being above band k for what is above band k - 1.

    Source: CORN, Shi, Cao & Raschka 2023 (arXiv:2111.08851).

    Example:
        >>> Corn(3)(torch.zeros(1, 2)).exp()
        tensor([[0.5000, 0.2500, 0.2500]])
    """

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.outputs = classes - 1

    def forward(self, outputs: Tensor) -> Tensor:
        """See `Decoder`."""
        above = F.logsigmoid(outputs).cumsum(dim=1)
        reached = F.pad(above[:, :-1], (1, 0))
        return torch.cat([reached + F.logsigmoid(-outputs), above[:, -1:]], dim=1)


class Regression(Decoder):
    """A mean and a log-variance of the number, in units of a quarter of its range; bands by the normal distribution.

    Source: Nix & Weigend 1994 (doi:10.1109/ICNN.1994.374138).
    """

    outputs = 2
    edges: Tensor

    def __init__(self, scale: Scale) -> None:
        super().__init__()
        self.middle, self.unit = middle_and_unit(scale)
        edges = torch.tensor(scale.edges, dtype=torch.float32)
        self.register_buffer("edges", (edges - self.middle) / self.unit, persistent=False)

    def forward(self, outputs: Tensor) -> Tensor:
        """See `Decoder`."""
        return normal_bands(outputs[:, :1], (0.5 * outputs[:, 1:].clamp(*LOG_VARIANCE)).exp(), self.edges)


LOG_VARIANCE = (-8.0, 8.0)


def middle_and_unit(scale: Scale) -> tuple[float, float]:
    """What a number is 0 and 1 at for a network."""
    return (scale.low + scale.high) / 2, max((scale.high - scale.low) / 4, 1e-6)


class Bins(Decoder):
    """Logits of bins of the number, whose expected value, or whose mass, is cut into bands.

    By `expected` the bands' probabilities are those of a normal distribution with the bins' mean and variance, so that for
    bands wider than the deviation the greatest is that of the band in which the expected number lies.

    Source: DLDL-v2, Gao et al. 2018 (arXiv:1807.07386v2).
    """

    centres: Tensor
    edges: Tensor
    in_band: Tensor

    def __init__(self, scale: Scale, width: float, decode: str) -> None:
        super().__init__()
        centres = torch.from_numpy(scale.bins(width))
        edges = torch.tensor(scale.edges, dtype=torch.float64)
        in_band = F.one_hot(torch.bucketize(centres, edges, right=True), len(edges) + 1).bool()
        self.outputs, self.decode, self.width = len(centres), decode, width
        self.register_buffer("centres", centres.float(), persistent=False)
        self.register_buffer("edges", edges.float(), persistent=False)
        self.register_buffer("in_band", in_band, persistent=False)

    def extra_repr(self) -> str:
        """What tells its graph from others'."""
        return f"{self.decode}, width={self.width}"

    def forward(self, outputs: Tensor) -> Tensor:
        """See `Decoder`."""
        if self.decode == "mass":
            of_band = outputs[:, :, None].masked_fill(~self.in_band, -math.inf)
            return of_band.logsumexp(dim=1).log_softmax(dim=1)
        probabilities = outputs.softmax(dim=1)
        mean = (probabilities * self.centres).sum(dim=1, keepdim=True)
        variance = (probabilities * (self.centres - mean) ** 2).sum(dim=1, keepdim=True)
        return normal_bands(mean, (variance + self.width**2 / 12).sqrt(), self.edges)


def normal_bands(mean: Tensor, deviation: Tensor, edges: Tensor) -> Tensor:
    """(B, C) log-probabilities of the bands between edges under normal distributions, (B, 1) each."""
    below = 0.5 * (1 + torch.erf((edges - mean) / (deviation * math.sqrt(2))))
    bands = torch.cat([below[:, :1], below[:, 1:] - below[:, :-1], 1 - below[:, -1:]], dim=1)
    return bands.clamp(min=TINY).log()


def build_decoder(config: OrdinalConfig, scale: Scale) -> Decoder | None:
    """The decoder of a task with edges; None where its head gives the logits of its bands."""
    if config.name == "corn":
        return Corn(len(scale.edges) + 1)
    if config.name == "regression":
        return Regression(scale)
    return Bins(scale, config.width, config.decode) if config.name == "bins" else None
