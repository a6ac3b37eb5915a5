"""The same networks by quicker operators: depthwise convolutions in bfloat16 on CPUs, batch norms folded into convolutions."""

from __future__ import annotations

import copy
from typing import Any

import torch
from timm.layers import BatchNormAct2d
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812
from torch.nn.utils.fusion import fuse_conv_bn_eval

FOLDING_TOLERANCE = 1e-3
CACHED_VALUES = 2**21


def fuse_depthwise_gradients(model: nn.Module) -> None:
    """Gives a model's depthwise convolutions the backward pass of `DepthwiseConv2d`; names, weights and outputs stay."""
    for module in model.modules():
        depthwise = type(module) is nn.Conv2d and 1 < module.groups == module.in_channels == module.out_channels
        if depthwise and module.bias is None and module.padding_mode == "zeros" and not isinstance(module.padding, str):
            module.__class__ = DepthwiseConv2d


class DepthwiseConv2d(nn.Conv2d):
    """A depthwise convolution whose gradients are as quick in bfloat16 on a CPU as its output.

    oneDNN computes two of them by reference code there (measured on AVX-512 BF16, 51 images): the input's when the stride is
    above 1 (135 ms for 96 channels of 64×64, 10 ms here) and the weight's of 5×5 kernels (14 ms for 288 channels of 8×8, 1 ms
    here). The first is computed in float32, in slices that stay in the cache; the second from four 3×3 corners of the kernel.
    """

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002
        """(B, C, H, W) -> (B, C, H', W'), in autocast's precision."""
        weight = self.weight
        if torch.is_autocast_enabled("cpu"):
            dtype = torch.get_autocast_dtype("cpu")
            input, weight = input.to(dtype), weight.to(dtype)  # noqa: A001
        if input.device.type != "cpu" or input.dtype != torch.bfloat16:
            return super().forward(input)
        geometry = self.stride, self.padding, self.dilation
        return _Depthwise.apply(input, weight, geometry)  # type: ignore[no-any-return]


Pair = tuple[int, int]
Geometry = tuple[Pair, Pair, Pair]
"""Stride, padding and dilation."""


class _Depthwise(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, inputs: Tensor, weight: Tensor, geometry: Geometry) -> Tensor:
        ctx.save_for_backward(inputs, weight)
        ctx.geometry = geometry
        return F.conv2d(inputs, weight, None, *geometry, len(weight))

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        inputs, weight = ctx.saved_tensors
        grad = grad.contiguous(memory_format=torch.channels_last)
        of_inputs = _input_gradient(grad, inputs, weight, ctx.geometry) if ctx.needs_input_grad[0] else None
        of_weight = _weight_gradient(grad, inputs, weight, ctx.geometry) if ctx.needs_input_grad[1] else None
        return of_inputs, of_weight, None


def _input_gradient(grad: Tensor, inputs: Tensor, weight: Tensor, geometry: Geometry) -> Tensor:
    if max(geometry[0]) == 1:
        return _gradients(grad, inputs, weight, geometry, (True, False))[0]
    whole, weight = torch.empty_like(inputs), weight.float()
    images = max(1, CACHED_VALUES // inputs[0].numel())
    for start in range(0, len(inputs), images):
        part = slice(start, start + images)
        whole[part] = _gradients(grad[part].float(), inputs[part].float(), weight, geometry, (True, False))[0]
    return whole


def _weight_gradient(grad: Tensor, inputs: Tensor, weight: Tensor, geometry: Geometry) -> Tensor:
    (down, across), (above, beside), dilation = geometry
    if tuple(weight.shape[2:]) != (5, 5) or max(dilation) > 1:
        return _gradients(grad, inputs, weight, geometry, (False, True))[1]
    padded = F.pad(inputs, (beside, beside, above, above))
    height, width = (grad.shape[2] - 1) * down + 3, (grad.shape[3] - 1) * across + 3
    whole, small = torch.empty_like(weight), weight[:, :, :3, :3]
    unpadded = (down, across), (0, 0), dilation
    for top in (0, 2):
        for left in (0, 2):
            window = padded[:, :, top : top + height, left : left + width].contiguous(memory_format=torch.channels_last)
            whole[:, :, top : top + 3, left : left + 3] = _gradients(grad, window, small, unpadded, (False, True))[1]
    return whole


def _gradients(
    grad: Tensor, inputs: Tensor, weight: Tensor, geometry: Geometry, wanted: tuple[bool, bool]
) -> tuple[Tensor, Tensor]:
    stride, padding, dilation = map(list, geometry)
    found = torch.ops.aten.convolution_backward(
        grad, inputs, weight, None, stride, padding, dilation, False, [0, 0], len(weight), [*wanted, False]
    )
    return found[0], found[1]


def fold_batch_norms(network: nn.Module, example: Tensor) -> nn.Module:
    """A copy of a network in evaluation mode whose batch norms are part of the convolutions before them.

    Which convolution stands before which norm is read from the modules' order, and proved on an example; a network of another
    kind is returned as it is.

    Args:
        network: any network, in evaluation mode.
        example: an input of it, on its device.
    """
    folded = copy.deepcopy(network)
    _fold(folded)
    with torch.inference_mode():
        expected, given = network(example), folded(example)
    close = (given - expected).abs().max() <= FOLDING_TOLERANCE * expected.abs().max()
    return folded if close else network


def _fold(module: nn.Module) -> None:
    before: tuple[str, nn.Module] | None = None
    for name, child in list(module.named_children()):
        if before and type(before[1]) in (nn.Conv2d, DepthwiseConv2d) and isinstance(child, nn.BatchNorm2d):
            setattr(module, before[0], fuse_conv_bn_eval(before[1], child))  # type: ignore[type-var]
            setattr(module, name, child.act if isinstance(child, BatchNormAct2d) else nn.Identity())
        else:
            _fold(child)
        before = (name, child)
