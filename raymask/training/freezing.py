"""What of a model keeps its weights, and until when."""

from __future__ import annotations

from torch import nn

from raymask.config.components import FreezeConfig
from raymask.models.classifier import Classifier
from raymask.models.stages import frozen_modules, frozen_parameters


class Freezing:
    """Holds the backbone, or its first stages, as they are: without gradients, and in evaluation mode.

    So neither steps nor weight decay change their weights, batch norms keep their statistics, and nothing is dropped. What is
    never trained gets no gradients from the beginning on, so that an optimizer that is built afterwards knows nothing of it; what
    is trained later is in the optimizer's groups, which pass over weights without a gradient.

    Args:
        config: what is frozen.
        model: its backbone may be put in place of an equal one later.

    Raises:
        InputError: the backbone has no such stages.
    """

    def __init__(self, config: FreezeConfig, model: Classifier) -> None:
        self.config, self.model = config, model
        parameters = list[nn.Parameter]()
        if config.part == "backbone":
            parameters = [*model.backbone.parameters()]
        elif config.stages:
            parameters = frozen_parameters(model.backbone, config.stages)
        self.parameters = [parameter for parameter in parameters if parameter.requires_grad]
        if config.unfreeze_at is None:
            self._need_gradients(False)

    def hold(self, epoch: int) -> None:
        """Freezes what is frozen in an epoch of a model that is in training mode, or lets it go."""
        frozen = self.config.unfreeze_at is None or epoch < self.config.unfreeze_at
        self._need_gradients(not frozen)
        if frozen:
            for module in self._modules():
                module.eval()

    def _modules(self) -> list[nn.Module]:
        if self.config.part == "backbone":
            return [self.model.backbone]
        return [module for _, module in frozen_modules(self.model.backbone, self.config.stages)] if self.config.stages else []

    def _need_gradients(self, needed: bool) -> None:
        for parameter in self.parameters:
            parameter.requires_grad_(needed)
