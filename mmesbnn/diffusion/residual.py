"""BI-DiffSR's UNet with a residual: it predicts images instead of noise."""

from __future__ import annotations

import torch

# diffusers looks ModelMixin up in this module when it loads a whole pipeline
from diffusers.models.modeling_utils import ModelMixin  # noqa: F401
from diffusers.models.unets.unet_2d import UNet2DOutput
from torch import Tensor

from .bi_diffsr import BIDiffSRUNet


class BIDiffSRResidualUNet(BIDiffSRUNet):
    """UNet that predicts the image ``condition + 0.05 network([condition, noisy], t)``.

    It needs a scheduler with ``prediction_type='sample'``. An untrained network is already
    close to bicubic upsampling. 0.05 is about the standard deviation of the details that
    bicubic upsampling by 2 to 4 loses in photographs, so the target of the network has
    about unit variance. The class is for small networks and short trainings. It is not
    part of BI-DiffSR.

    Arguments, errors, shapes and the state dict are those of :class:`BIDiffSRUNet`.

    Source: SRDiff (Li et al., arXiv 2104.14951) predicts the residual.
    """

    #: Standard deviation of the residual, in units of the data's range.
    scale = 0.05

    #: Kind of prediction that schedulers must expect.
    prediction_type = 'sample'

    def forward(
        self, sample: Tensor, timestep: Tensor | float, return_dict: bool = True
    ) -> UNet2DOutput | tuple[Tensor]:
        """Predict the image; see :meth:`BIDiffSRUNet.forward`."""
        (residual,) = super().forward(sample, timestep, return_dict=False)
        condition = sample[:, : residual.shape[1]]
        image = torch.add(condition, residual, alpha=self.scale)
        return UNet2DOutput(sample=image) if return_dict else (image,)
