"""Backbones that are cut after their first stages: a trunk, which equal models share, and a tail."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import torch
from torch import Tensor, nn

from raymask.config.recipe import Recipe
from raymask.models.classifier import Classifier, weights_digest
from raymask.models.precision import autocast_dtype
from raymask.models.stages import following_module, frozen_modules

TOLERANCE = 1e-3
"""Of the greatest number that a backbone gives; the same kernels may be chosen anew on a GPU, and round otherwise."""
EMBED_POSITIONS = "_pos_embed"
"""The method of timm's transformers that adds tokens and positions to the embedded patches."""


class _ReachedError(Exception):
    """The trunk's end is reached; carries what the tail takes."""

    def __init__(self, features: Tensor) -> None:
        super().__init__()
        self.features = features


class CutBackbone:
    """A timm backbone in two: `tail(trunk(images))` is what the backbone says of images.

    Both parts run the backbone's own code on its own modules: the trunk until its first module that is not frozen is called, the
    tail with modules in place of all before that which pass on what they are given. The backbone itself stays as it is.

    Args:
        backbone: timm's model.
        stages: number of its first stages, which are never trained.

    Raises:
        InputError: the backbone has no such stages.
    """

    def __init__(self, backbone: nn.Module, stages: int) -> None:
        self.backbone = backbone
        self.names = [name for name, _ in frozen_modules(backbone, stages)]
        self._trunk = _with_modules(backbone, {following_module(backbone, stages): _End()})
        self._tail = _with_modules(backbone, {name: nn.Identity() for name in self.names})
        if hasattr(backbone, EMBED_POSITIONS):
            vars(self._tail)[EMBED_POSITIONS] = _as_it_is

    def trunk(self, images: Tensor) -> Tensor:
        """What the first trained module takes of (B, 3, H, W) normalised images, without gradients."""
        try:
            with torch.no_grad():
                self._trunk(images)
        except _ReachedError as end:
            return end.features
        raise AssertionError("the backbone ends before its tail begins")

    def traced_trunk(self, images: Tensor) -> nn.Module:
        """The trunk as a graph of its own that ends by itself, where `trunk` ends by an exception that exporters do not follow.

        Args:
            images: at least two, as an example.
        """
        batch = torch.export.Dim("batch")
        return torch.export.export(_Trunk(self), (images,), dynamic_shapes=({0: batch},), strict=True).module(check_guards=False)

    def tail(self, features: Tensor) -> Tensor:
        """What the backbone gives, from what `trunk` gave."""
        self._tail.training = self.backbone.training
        return self._tail(features)  # type: ignore[no-any-return]

    def agrees(self, images: Tensor) -> bool:
        """Whether the two parts say of some images what the whole backbone says in evaluation mode, up to rounding."""
        training = [module for module in self.backbone.modules() if module.training]
        self.backbone.eval()
        try:
            with torch.no_grad():
                whole, parts = self.backbone(images), self.tail(self.trunk(images))
                return whole.shape == parts.shape and bool((whole - parts).abs().max() <= TOLERANCE * whole.abs().max())
        except (RuntimeError, TypeError, ValueError, AssertionError):  # the tail does anew what lies between the two
            return False
        finally:
            for module in training:
                module.training = True

    def digest(self) -> str:
        """Tells trunks apart by the values of their weights and statistics."""
        own = dict(self.backbone.named_parameters(recurse=False))
        of_modules = {name: self.backbone.get_submodule(name).state_dict(prefix=f"{name}.") for name in self.names}
        return weights_digest({**own, **{key: tensor for state in of_modules.values() for key, tensor in state.items()}})

    def share(self, other: CutBackbone) -> None:
        """Takes the trunk of another backbone, which must be equal, in place of its own, so that memory holds it once."""
        for name in self.names:
            self.backbone.set_submodule(name, other.backbone.get_submodule(name))
        self._trunk = other._trunk


def _as_it_is(tokens: Tensor) -> Tensor:
    return tokens


class _Trunk(nn.Module):
    """A trunk as a module."""

    def __init__(self, cut: CutBackbone) -> None:
        super().__init__()
        self.cut, self.backbone = cut, cut.backbone

    def forward(self, images: Tensor) -> Tensor:
        return self.cut.trunk(images)


class _End(nn.Module):
    """Stands where the trunk ends."""

    def forward(self, features: Tensor, *_: object, **__: object) -> Tensor:
        raise _ReachedError(features)


def _with_modules(network: nn.Module, places: Mapping[str, nn.Module]) -> nn.Module:
    """A network with others in place of some of its modules, by name, that has all else in common with the first."""
    result = _of_its_own(network)
    for name, module in places.items():
        *above, key = name.split(".")
        parent, place = network, result
        for step in above:
            parent = parent.get_submodule(step)
            if place.get_submodule(step) is parent:
                setattr(place, step, _of_its_own(parent))
            place = place.get_submodule(step)
        setattr(place, key, module)
    return result


def _of_its_own(module: nn.Module) -> nn.Module:
    """A module with the same children, of which others may take the place."""
    result = copy.copy(module)
    vars(result)["_modules"] = vars(module)["_modules"].copy()
    return result


@dataclass(frozen=True)
class SharedCut:
    """A model's backbone in two parts, and what its trunk is known by among others."""

    backbone: CutBackbone
    trunk: str

    def key(self, model: Classifier) -> tuple[object, ...]:
        """What decides the features of images, beside them: the trunk, what they are normalised by, and autocast's precision."""
        return (self.trunk, autocast_dtype(model.mean.device), *model.statistics)


def shared_cuts(models: Iterable[tuple[Recipe, Classifier]]) -> dict[int, SharedCut]:
    """Cuts the backbones whose first stages stay frozen, and lets equal trunks be one, so that memory holds it once.

    Backbones that do more between two modules than pass on what the first made are left whole.

    Args:
        models: with their recipes.

    Returns:
        By the id of a model, how it is cut. It depends on the model alone, never on the others.
    """
    cuts: dict[int, SharedCut] = {}
    first: dict[str, CutBackbone] = {}
    for recipe, model in models:
        if not recipe.freeze.stages or recipe.freeze.unfreeze_at is not None:
            continue
        cut = CutBackbone(model.backbone, recipe.freeze.stages)
        example = torch.rand(2, 3, *recipe.height_width, generator=torch.Generator().manual_seed(0)) * 255
        if not cut.agrees(model.normalise(example.to(model.mean.device))):
            continue
        trunk = f"{recipe.backbone} {recipe.freeze.stages} {cut.digest()}"
        if trunk in first:
            cut.share(first[trunk])
        else:
            first[trunk] = cut
        cuts[id(model)] = SharedCut(cut, trunk)
    return cuts


class SharedPass:
    """A batch on its way into several models: normalised, and passed through a trunk, once for all that want the same.

    Args:
        pixels: (B, 3, H, W) from 0 to 255.
        trunks: by what trunks are known by, others to compute with in their place.
    """

    def __init__(self, pixels: Tensor, trunks: Mapping[str, nn.Module] = MappingProxyType({})) -> None:
        self.pixels, self.trunks = pixels, trunks
        self._made: dict[tuple[object, ...], Tensor] = {}

    def into(self, model: Classifier, cut: SharedCut | None) -> Tensor:
        """Normalised images for a whole backbone, or for the tail of one that is cut what its trunk makes of them."""
        normalised = self._once(model.statistics, lambda: model.normalise(self.pixels))
        if cut is None:
            return normalised
        trunk = self.trunks.get(cut.trunk, cut.backbone.trunk)
        return self._once(cut.key(model), lambda: trunk(normalised))

    def features(self, model: Classifier, cut: SharedCut | None) -> Tensor:
        """(B, F) features that the backbone gives, what may be shared of it once."""
        given = self.into(model, cut)
        return cut.backbone.tail(given) if cut else model.backbone(given)

    def _once(self, key: tuple[object, ...], make: Callable[[], Tensor]) -> Tensor:
        if key not in self._made:
            self._made[key] = make()
        return self._made[key]
