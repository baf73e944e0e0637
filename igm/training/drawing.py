"""The learner of networks that draw: the same error and data, with conditions that mostly say all of a scene."""

from igm.data.varied import Forgetting
from igm.models.drawing import DrawingUNet
from igm.resources import CONFIGS
from igm.training.compositional import CompositionalLearner


class DrawingLearner(CompositionalLearner):
    """Trains a `DrawingUNet` on whole scenes. Its checkpoints make pictures, and no method infers with them."""

    name, task = "drawing", "positions"
    suffix = "draw"
    defaults = {"unet_config": str(CONFIGS / "clevr-scene-draw" / "network")}
    forgetting = Forgetting(whole=0.1, block=0.05)
    idle_options = frozenset({"contrast"})  # one prediction for all concepts
    network_class = DrawingUNet

    def inference_model(self) -> None:
        """None: no method can ask it."""
        return None
