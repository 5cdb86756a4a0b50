"""Networks that are trained, and the forms in which they are computed."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from published_style import published_style
from torch import Tensor, nn

from mmesbnn.binary import TemperatureWeight, use_native
from mmesbnn.binary.recompute import keeps_convolutions
from mmesbnn.engine.hooks.parameter_bounds import bounded_parameters, clamp_parameters
from mmesbnn.models.backbones import BinaryViT, BNext, ReActNet

NARROW = [16, 32, 64, 64, 128]
NARROW_18 = dict(channels=[16, 16, 32, 64], depths=[2, 2, 2])
NARROW_VIT = dict(dims=[32, 64], depths=[2, 2], heads=[1, 2], ffn_dims=[128, 256], sr_ratios=[2, 1])
#: For images of 224 pixels, and narrow ones for 32.
WIDE: dict[str, Callable[..., nn.Module]] = {
    'BNext-T': lambda **more: BNext('tiny', **more),
    'ES-BNext-T': lambda **more: BNext('tiny', tau=2, **more),
    'ReActNet-18': lambda **more: ReActNet('18', **more),
    'BinaryViT': lambda **more: BinaryViT('small', **more),
}
SMALL: dict[str, Callable[..., nn.Module]] = {
    'BNext-T': lambda **more: BNext(dict(channels=NARROW), stem_stride=1, **more),
    'ES-BNext-T': lambda **more: BNext(dict(channels=NARROW), tau=2, stem_stride=1, **more),
    'ReActNet-18': lambda **more: ReActNet(NARROW_18, stem_stride=1, **more),
    'BinaryViT': lambda **more: BinaryViT(NARROW_VIT, img_size=32, **more),
}
REAL = 'ResNet-18'
NETWORKS = (*WIDE, REAL)
PUBLISHED, OURS, RECOMPUTING, LAST = 'published', 'ours', 'with_cp', 'channels_last'
NATIVE = 'native'
STYLES = (
    *(PUBLISHED, OURS, NATIVE, RECOMPUTING, f'{RECOMPUTING}+{NATIVE}'),
    *(LAST, f'{RECOMPUTING}+{LAST}'),
)
COMPILED = '+compiled'
#: Each kind of block compiled on its own.
BLOCKS = '+blocks'
#: Compiled, and recorded as a CUDA graph: one launch instead of thousands.
RECORDED = '+recorded'
WAYS = (COMPILED, BLOCKS, RECORDED)
FORMS = (*STYLES, *(style + way for way in WAYS for style in STYLES))
DTYPES = {'float32': torch.float32, 'bfloat16': torch.bfloat16}
CLASSES = 1000


class Classifier(nn.Module):
    """A backbone, the mean over positions, and a linear layer."""

    def __init__(self, backbone: nn.Module, channels: int) -> None:
        super().__init__()
        self.backbone, self.head = backbone, nn.Linear(channels, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        """Compute the logits."""
        y = self.backbone(x)
        return self.head((y[-1] if isinstance(y, tuple) else y).mean((2, 3)))


def classifier(network: str, size: int) -> nn.Module:
    """Build a network with weights that are signs, as for most of its training."""
    torch.manual_seed(0)
    if network == REAL:
        from torchvision.models import resnet18

        return Classifier(nn.Sequential(*list(resnet18().children())[:-2]), 512)
    backbone = (SMALL if size < 64 else WIDE)[network]()
    for module in backbone.modules():
        if isinstance(module, TemperatureWeight):
            module.temperature.zero_()
    return Classifier(backbone, backbone.out_channels[-1])


class Training:
    """One contender: a network, its optimizer, and a batch.

    Args:
        network: One of ``NETWORKS``.
        form: One of ``FORMS``.
        dtype: Of autocast; float32 means none.
        size: Height and width of the images.
        batch: Number of images.
        device: Where it runs.
    """

    def __init__(
        self, network: str, form: str, dtype: torch.dtype, size: int, batch: int, device: str
    ) -> None:
        way = next((way for way in WAYS if form.endswith(way)), '')
        style, self.compiled, self.recorded = form.removesuffix(way), bool(way), way == RECORDED
        model = classifier(network, size).to(device)
        self.recomputes, self.native = RECOMPUTING in style, NATIVE in style
        if style == PUBLISHED:
            model = published_style(model)
        if self.recomputes:
            model.backbone.with_cp = True
        self.x = torch.randn(batch, 3, size, size, device=device)
        if LAST in style:
            model = model.to(memory_format=torch.channels_last)
            self.x = self.x.contiguous(memory_format=torch.channels_last)
        self.labels = torch.randint(CLASSES, (batch,), device=device)
        self.model, self.device, self.dtype = model, device, dtype
        # the published code takes torch's default
        self.optimizer = torch.optim.AdamW(
            model.parameters(), lr=1e-4, fused=True if style != PUBLISHED else None
        )
        self.bounded = bounded_parameters(model)
        self.call = model
        if way == BLOCKS:
            model.backbone.compile_blocks()
        elif way:
            mode = 'reduce-overhead' if way == RECORDED else None
            self.call = torch.compile(model, mode=mode)

    def forward(self) -> Tensor:
        """Compute the loss."""
        with self.settings():
            return F.cross_entropy(self.call(self.x), self.labels)

    def settings(self) -> torch.autocast:
        """Set kernels and autocast as this form has them."""
        use_native(self.native)
        return torch.autocast(self.device, torch.bfloat16, enabled=self.dtype != torch.float32)

    def stores_outputs(self) -> bool:
        """Return whether recomputation stores outputs of convolutions where no hook sees them."""
        with self.settings():
            return self.recomputes and not self.compiled and keeps_convolutions(self.x)

    def step(self) -> None:
        """Train for one step."""
        self.optimizer.zero_grad()
        self.forward().backward()
        self.optimizer.step()
        clamp_parameters(self.bounded)
        if self.device != 'cpu':
            torch.cuda.synchronize()
