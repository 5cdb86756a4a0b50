"""Networks of the product, narrow enough to be trained in minutes."""

from __future__ import annotations

from mmengine.registry import MODELS
from torch import Tensor, nn

import mmesbnn  # noqa: F401  (registers)

from .forms import Form, Setting

#: Stride of all stems.
STRIDE = 4
#: BNext's reduction of channels in its gates.
SE_RATIO = 8


def backbone_config(setting: Setting, form: Form) -> dict:
    """Return the config of a backbone with one stage of equal widths."""
    width, depth = setting.width, setting.depth
    if setting.family != 'BNext' and (form.full or form.even):
        raise ValueError(f'form {form} is of BNext, not of {setting.family}')
    cfg: dict = dict(tau=form.tau, groups=form.groups, copy_init=form.init)
    cfg['out_copies'] = 'all' if form.mean else 'first'
    if setting.family == 'BinaryViT':
        arch = dict(
            dims=[width],
            depths=[depth],
            heads=[max(width // 32, 1)],
            ffn_dims=[4 * width],
            sr_ratios=[1],
            patch_size=STRIDE,
        )
        return dict(cfg, type='BinaryViT', arch=arch, img_size=setting.size)
    if setting.family == 'BNext':
        # a block has two units
        arch = dict(channels=[width, width], depths=[depth // 2])
        if form.full or form.even:
            cfg['es_mode'] = 'full'
        if form.even:
            cfg['se_ratio'] = SE_RATIO * form.tau
        return dict(cfg, type='BNext', arch=arch)
    if form.real:
        cfg['weight_binarizer'] = 'real'
    arch = dict(channels=[width, width], depths=[depth])
    return dict(cfg, type='ReActNet', arch=arch, generalized=setting.family == 'ReActNet')


class Network(nn.Module):
    """A backbone and a linear head.

    ``regions``: the mean over pixels, and a logit per class. ``denoising``: a 1x1
    convolution from every pixel of the last map to its square of the image.

    Args:
        setting: Family, sizes and task.
        form: ES parameters.
        classes: Number of regions.
    """

    def __init__(self, setting: Setting, form: Form, classes: int) -> None:
        super().__init__()
        self.backbone = MODELS.build(backbone_config(setting, form))
        self.task = setting.task
        factor = self.backbone.expansion.factor
        self.copies = factor if form.mean else 1
        width = self.backbone.out_channels[-1] // self.copies
        outputs = classes if self.task == 'regions' else 3 * STRIDE**2
        self.head = nn.Conv2d(width, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Compute logits or cleaned images of the crops ``x``."""
        x = self.backbone(x)[-1]
        if self.copies > 1:
            x = x.unflatten(1, (self.copies, -1)).mean(1)
        if self.task == 'regions':
            return self.head(x.mean((2, 3), keepdim=True)).flatten(1)
        return nn.functional.pixel_shuffle(self.head(x), STRIDE)
