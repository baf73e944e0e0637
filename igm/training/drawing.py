"""The learner of networks that draw: the same error and data, with conditions that mostly say all of a scene."""

from typing import Self

from igm.data.varied import Forgetting
from igm.facts import Facts
from igm.models import ModelError
from igm.models.drawing import DrawingUNet
from igm.resources import CONFIGS
from igm.training.compositional import CompositionalLearner
from igm.training.settings import ModelSettings, TrainSettings


class DrawingLearner(CompositionalLearner):
    """Trains a `DrawingUNet` on whole scenes. Its checkpoints make pictures, and no method infers with them."""

    name, task = "drawing", "positions"
    suffix = "draw"
    defaults = {"unet_config": str(CONFIGS / "clevr-scene-draw" / "network")}
    forgetting = Forgetting(whole=0.1, block=0.05)

    @classmethod
    def build(cls, model: ModelSettings, training: TrainSettings, facts: Facts) -> Self:
        """As that of the compositional learner; the network must be one that draws."""
        learner = super().build(model, training, facts)
        if not isinstance(learner.network, DrawingUNet):
            raise ModelError(
                f"--unet_config {model.unet_config} is of no DrawingUNet; leave it out for the small one's"
            )
        return learner

    def inference_model(self) -> None:
        """None: no method can ask it."""
        return None
