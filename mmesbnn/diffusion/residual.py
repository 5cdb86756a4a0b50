"""The BI-DiffSR UNet for predicting images, from what bicubic upsampling leaves out."""

from __future__ import annotations

import torch

# ModelMixin is looked up in this module when a whole pipeline is loaded
from diffusers.models.modeling_utils import ModelMixin  # noqa: F401
from diffusers.models.unets.unet_2d import UNet2DOutput
from torch import Tensor

from .bi_diffsr import BIDiffSRUNet


class BIDiffSRResidualUNet(BIDiffSRUNet):
    """``condition + 0.05 network([condition, noisy image], t)``: an image, not noise.

    For schedulers with ``prediction_type='sample'``. An untrained network already is
    near bicubic upsampling, and what is left to learn has about unit variance: 0.05 is
    near the standard deviation of what bicubic upsampling by 2 to 4 loses in
    photographs. For small networks and short trainings; not a part of BI-DiffSR.

    Arguments, errors and shapes are those of :class:`BIDiffSRUNet`, whose weights it
    takes.

    Source: predicting the residual is SRDiff's (Li et al., arXiv 2104.14951).
    """

    #: Standard deviation of the residual, in units of the data's range.
    scale = 0.05

    #: What schedulers must expect.
    prediction_type = 'sample'

    def forward(
        self, sample: Tensor, timestep: Tensor | float, return_dict: bool = True
    ) -> UNet2DOutput | tuple[Tensor]:
        """Predict the image; see :meth:`BIDiffSRUNet.forward`."""
        (residual,) = super().forward(sample, timestep, return_dict=False)
        condition = sample[:, : residual.shape[1]]
        image = torch.add(condition, residual, alpha=self.scale)
        return UNet2DOutput(sample=image) if return_dict else (image,)
