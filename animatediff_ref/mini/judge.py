"""The mini world's judge is a CLIP of its own shape."""

import torch
from transformers import VisionTextDualEncoderModel


class MiniCLIP(VisionTextDualEncoderModel):
    """A CLIP that looks with a ResNet, as some of the first did."""

    def get_image_features(self, pixel_values: torch.Tensor, **kwargs):
        """As ``CLIPModel``'s: the features are the result's ``pooler_output``, (n, d)."""
        seen = self.vision_model(pixel_values, return_dict=True)
        seen.pooler_output = self.visual_projection(seen.pooler_output.flatten(1))
        return seen
