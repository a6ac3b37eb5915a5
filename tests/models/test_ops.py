"""Quicker operators give what the ordinary ones give."""

from __future__ import annotations

import pytest
import timm
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from raymask.models.ops import DepthwiseConv2d, fold_batch_norms, fuse_depthwise_gradients
from raymask.models.precision import bf16_is_native


def gradients(conv: nn.Conv2d, inputs: Tensor, grad: Tensor, dtype: torch.dtype) -> tuple[Tensor, ...]:
    """Output, and gradients of the input and the weight."""
    inputs = inputs.detach().clone(memory_format=torch.preserve_format).requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype == torch.bfloat16):
        output = conv(inputs)
    of_inputs, of_weight = torch.autograd.grad(output, [inputs, conv.weight], grad.to(output.dtype))
    return output.detach(), of_inputs, of_weight


class TestDepthwise:
    @settings(deadline=None, max_examples=60)
    @given(
        size=st.tuples(st.integers(5, 20), st.integers(5, 20)),
        kernel=st.sampled_from([3, 5, 7]),
        stride=st.sampled_from([(1, 1), (2, 2), (1, 2), (3, 1)]),
        padding=st.integers(0, 3),
        dilation=st.sampled_from([1, 2]),
        channels=st.sampled_from([2, 16, 40]),
        images=st.integers(1, 5),
    )
    def test_outputs_and_gradients_are_those_of_an_ordinary_convolution_in_float32(
        self, size: tuple[int, int], kernel: int, stride: tuple[int, int], padding: int, dilation: int, channels: int, images: int
    ) -> None:
        if min(size) + 2 * padding < dilation * (kernel - 1) + 1:
            return
        torch.manual_seed(0)
        conv = nn.Conv2d(channels, channels, kernel, stride, padding, dilation, groups=channels, bias=False)
        inputs = torch.randn(images, channels, *size).bfloat16().float()
        with torch.no_grad():
            conv.weight.copy_(conv.weight.bfloat16())
            grad = torch.randn_like(conv(inputs)).bfloat16().float()
        expected = gradients(conv, inputs, grad, torch.float32)
        fuse_depthwise_gradients(nn.Sequential(conv))
        assert isinstance(conv, DepthwiseConv2d)
        for given_, wanted in zip(gradients(conv, inputs, grad, torch.bfloat16), expected, strict=True):
            assert given_.shape == wanted.shape
            assert (given_.float() - wanted).abs().max() <= 0.02 * wanted.abs().max() + 1e-6

    def test_slices_that_do_not_divide_the_batch_leave_no_image_out(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("raymask.models.ops.CACHED_VALUES", 3 * 8 * 10 * 10)
        torch.manual_seed(0)
        conv = nn.Conv2d(8, 8, 3, 2, 1, groups=8, bias=False)
        inputs = torch.randn(7, 8, 10, 10)
        grad = torch.randn_like(conv(inputs))
        expected = gradients(conv, inputs, grad, torch.float32)[1]
        fuse_depthwise_gradients(nn.Sequential(conv))
        assert (gradients(conv, inputs, grad, torch.bfloat16)[1] - expected).abs().max() < 0.02 * expected.abs().max()

    def test_without_autocast_it_is_the_ordinary_convolution_to_the_bit(self) -> None:
        torch.manual_seed(0)
        conv = nn.Conv2d(8, 8, 5, 2, 2, groups=8, bias=False)
        inputs, grad = torch.randn(2, 8, 9, 9), torch.randn(2, 8, 5, 5)
        expected = gradients(conv, inputs, grad, torch.float32)
        fuse_depthwise_gradients(nn.Sequential(conv))
        for given_, wanted in zip(gradients(conv, inputs, grad, torch.float32), expected, strict=True):
            assert torch.equal(given_, wanted)

    def test_only_plain_depthwise_convolutions_change_and_weights_keep_their_names(self) -> None:
        model = timm.create_model("mobilenetv3_small_050", num_classes=3)
        before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        fuse_depthwise_gradients(model)
        changed = [module for module in model.modules() if isinstance(module, DepthwiseConv2d)]
        assert len(changed) == 11
        assert all(module.groups == module.in_channels for module in changed)
        assert model.state_dict().keys() == before.keys()
        assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())

    def test_a_step_in_bf16_is_near_to_the_step_without_the_change(self) -> None:
        torch.manual_seed(0)
        model = timm.create_model("mobilenetv3_small_050", num_classes=3).train()
        inputs = torch.randn(8, 3, 64, 64)
        found = []
        for _ in range(2):
            model.zero_grad()
            with torch.autocast("cpu", dtype=torch.bfloat16):
                loss = model(inputs).float().square().mean()
            loss.backward()
            found.append(torch.cat([parameter.grad.flatten() for parameter in model.parameters()]))
            fuse_depthwise_gradients(model)
        assert torch.nn.functional.cosine_similarity(*found, dim=0) > 0.99


class TestFolding:
    @pytest.mark.parametrize("name", ["mobilenetv3_small_050", "resnet18", "test_resnet", "efficientnet_b0", "densenet121"])
    def test_folded_networks_say_the_same(self, name: str) -> None:
        torch.manual_seed(0)
        model = timm.create_model(name, num_classes=0).eval()
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.normal_(0, 0.1)
                module.running_var.uniform_(0.5, 2)
        inputs = torch.randn(2, 3, 64, 64)
        before = {key: value.clone() for key, value in model.state_dict().items()}
        folded = fold_batch_norms(model, inputs)
        norms = [sum(isinstance(module, nn.BatchNorm2d) for module in one.modules()) for one in (model, folded)]
        assert norms[1] < norms[0]
        with torch.inference_mode():
            expected = model(inputs)
            assert (folded(inputs) - expected).abs().max() < 1e-4 * expected.abs().max()
        assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items()), "the original stays"

    def test_a_norm_that_does_not_follow_the_convolution_before_it_stays(self) -> None:
        class Crossed(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.conv, self.norm = nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3)
                self.norm.running_mean.fill_(2.0)

            def forward(self, inputs: Tensor) -> Tensor:
                return self.conv(self.norm(inputs))

        model = Crossed().eval()
        assert fold_batch_norms(model, torch.randn(1, 3, 8, 8)) is model

    def test_networks_without_batch_norms_stay(self) -> None:
        model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()).eval()
        inputs = torch.randn(1, 3, 8, 8)
        assert torch.equal(fold_batch_norms(model, inputs)(inputs), model(inputs))


def test_what_is_native_is_asked_of_the_device() -> None:
    assert bf16_is_native(torch.device("cpu")) == torch.cpu._is_avx512_bf16_supported()
    assert not bf16_is_native(torch.device("meta"))
