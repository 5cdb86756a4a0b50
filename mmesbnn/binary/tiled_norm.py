"""Batch norm of a tiled map, computed from the small map."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.nn.functional as dist_f
import torch.nn.functional as F
from torch import Tensor, nn

from .arguments import MODULE, checked_layer
from .expansion import copy_signs, tile, tiled_affine
from .inputs import check_maps
from .precision import KeepsFloat32
from .recompute import is_recomputing, is_synced
from .tracing import whole_layer


def _batch_norm(x: Tensor, function: Callable[[Tensor], Tensor]) -> Tensor:
    """Compute ``function``, a batch norm, of ``(N L, C)`` or ``(N, C, L)`` for one row or column.

    The strides of such a map can be those of channels last by chance. Where those of its gradient
    are not, or the reverse, the backward pass of torch's batch norm mixes up the channels. Of
    two or three dimensions it is right. Tokens, whose channels lie last in memory, keep their
    layout: the operators behind the norm take ten times as long for operands of two layouts.
    """
    tracing = torch.jit.is_tracing()  # type: ignore[attr-defined]
    if tracing or 1 not in x.shape[2:]:
        return function(x)
    axis = 2 if x.shape[2] == 1 else 3
    rows = x.squeeze(axis)
    if rows.mT.is_contiguous():
        y = function(rows.mT.flatten(0, 1))
        return y.unflatten(0, (rows.shape[0], rows.shape[2])).mT.unsqueeze(axis)
    # contiguous, because a compiled step with recomputation expects the strides of such a result
    return function(rows.contiguous()).unsqueeze(axis)


class TiledBatchNorm2d(KeepsFloat32, nn.BatchNorm2d):
    """Batch norm of a tiled map, computed from the small map that was tiled.

    ``y = batch_norm(tile(x, copies))``. All copies of a channel have the statistics of
    the small channel, so these are computed once. Each copy has its own affine. The
    state dict is that of ``nn.BatchNorm2d(num_features)``: as in the published files, it
    holds running statistics of every copy. Training updates all copies of the running
    statistics by the same values. Affine and statistics stay float32 when the model
    becomes float16 or bfloat16, because the variance of a binary convolution's output can
    exceed float16's largest number. The output has the input's dtype.

    Args:
        num_features: Channels *after* tiling.
        copies: Number of copies of the map. Default 1: as ``nn.BatchNorm2d``.
        eps: Number added to the variance. Default 1e-5.
        momentum: Weight of the new statistics in the running ones. With None the running
            statistics are the mean of all batches, which
            ``torch.optim.swa_utils.update_bn`` needs. Default 0.1.
        sync: Whether to share statistics among the processes of the default
            ``torch.distributed`` group in training. Works with gloo on CPUs and with
            nccl. Default False.
        copy_init: Initial gains of the copies: all 1 (``'alike'``), +-1 at random
            (``'signs'``), or -1 for ``copies // 2`` of the copies of every channel and 1
            for the others (``'balanced'``), see
            :func:`~mmesbnn.binary.expansion.copy_signs`. It sets initial values only: no
            key, no operation and no loaded value depends on it. Default ``'alike'``.

    Raises:
        ValueError: If ``copies`` does not divide ``num_features``, or if the input has
            another number of channels.

    Shape:
        ``(N, num_features / copies, H, W)`` to ``(N, num_features, H, W)``.
    """

    #: For torch's constructor, which resets the parameters before these are known.
    copies: int = 1
    copy_init: str = 'alike'
    momentum: float | None
    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor

    @checked_layer()
    def __init__(
        self,
        num_features: int,
        copies: int = 1,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        sync: bool = False,
        copy_init: str = 'alike',
    ) -> None:
        if num_features % copies:
            raise ValueError(f'copies={copies} does not divide num_features={num_features}')
        super().__init__(num_features, eps, momentum)
        self.copies = copies
        self.sync = sync
        self.copy_init = copy_init
        self._loaded = False
        self._draw_signs()

    def reset_parameters(self) -> None:
        """Start anew: statistics, shifts 0, and gains as ``copy_init`` says."""
        super().reset_parameters()
        self._draw_signs()

    @torch.no_grad()
    def _draw_signs(self) -> None:
        if self.copies > 1 and self.copy_init != 'alike':
            channels = self.num_features // self.copies
            self.weight.mul_(copy_signs(channels, self.copies, self.copy_init).to(self.weight))

    def init_weights(self) -> None:
        """Give gains their signs again, if an initialiser made them all equal.

        A config such as ``dict(type='Constant', layer='BatchNorm2d', val=1)`` makes them
        equal. Their magnitude does not change. Loaded gains and gains that differ do not
        change at all.
        """
        if not self._loaded and (self.weight == self.weight[0]).all():
            self._draw_signs()

    def _load_from_state_dict(self, state: dict[str, Any], prefix: str, *args: Any) -> None:
        self._loaded = self._loaded or f'{prefix}weight' in state
        super()._load_from_state_dict(state, prefix, *args)

    @whole_layer
    def forward(self, input: Tensor) -> Tensor:
        """Normalise the small map ``input`` and tile it."""
        check_maps(self, input, self.num_features // self.copies)
        synced = is_synced(self)
        if self.copies == 1 and not synced:
            return self._plain(input)
        if not self.training and self.running_mean is not None:
            scale = self.weight * torch.rsqrt(self.running_var + self.eps)
            return tiled_affine(input, scale, self.bias - self.running_mean * scale)
        shares = synced and self.training
        normalised = self._normalise_synced(input) if shares else self._normalise(input)
        return tiled_affine(normalised, self.weight, self.bias)

    def uses_own_statistics(self) -> bool:
        """Return whether the norm uses the statistics of its input, in this process only."""
        return self.training and not is_synced(self)

    def track_own(self, mean: Tensor, variance: Tensor, count: int) -> None:
        """Take the statistics of a training step into the running ones.

        Args:
            mean: Mean of each small channel.
            variance: Mean squared distance from it.
            count: Number of values of a channel.
        """
        self._track(mean, variance * (count / (count - 1)))

    def _plain(self, x: Tensor) -> Tensor:
        # without tracking torch's norm gets no running statistics, and so has to in the second pass
        if not (self.training and self.track_running_stats and is_recomputing()):
            return _batch_norm(x, super().forward)
        # With momentum 0 the running statistics stay as they are. Copies of them would too, but
        # torch 2.14 allows only operators here that the first pass has called.
        mean, var = self.running_mean, self.running_var
        affine = self.weight, self.bias
        return _batch_norm(x, lambda x: F.batch_norm(x, mean, var, *affine, True, 0.0, self.eps))

    def _check_input_dim(self, input: Tensor) -> None:
        """Let torch's class take ``(N, C, L)``; ``forward`` has checked its input."""

    def _normalise(self, x: Tensor) -> Tensor:
        if not self._has_to_track():
            return _batch_norm(
                x, lambda x: F.batch_norm(x, None, None, training=True, eps=self.eps)
            )
        # batch_norm with momentum 1 writes the batch's own statistics to its buffers, and leaves
        # them as they are for an empty batch
        old = self.running_mean, self.running_var
        mean, var = (one.view(self.copies, -1)[0].clone() for one in old)
        y = _batch_norm(x, lambda x: F.batch_norm(x, mean, var, None, None, True, 1.0, self.eps))
        self._track(mean, var)
        return y

    def _normalise_synced(self, x: Tensor) -> Tensor:
        dims, ones = (0, 2, 3), (1, -1, 1, 1)
        wide = x.to(self.weight.dtype)
        count = wide.new_tensor([x.numel() / x.shape[1]])
        dist.all_reduce(count)
        mean = dist_f.all_reduce(wide.sum(dims)) / count
        centred = wide - mean.view(ones)
        square_sum = dist_f.all_reduce(centred.square().sum(dims))
        scale = torch.rsqrt(square_sum / count + self.eps)
        # a single value has no unbiased variance: leave 0 rather than NaN
        self._track(mean.detach(), square_sum.detach() / (count - 1).clamp(min=1))
        return (centred * scale.view(ones)).to(x.dtype)

    def _has_to_track(self) -> bool:
        """Return whether torch's norm would update running statistics now."""
        return self.training and self.track_running_stats and self.running_mean is not None

    @torch.no_grad()
    def _track(self, mean: Tensor, var: Tensor) -> None:
        if is_recomputing() or not self._has_to_track():
            return
        self.num_batches_tracked.add_(1)
        share: float | Tensor | None = self.momentum
        if share is None:
            share = 1 / self.num_batches_tracked.to(self.running_mean.dtype)
        self.running_mean.view(self.copies, -1).lerp_(mean, share)
        self.running_var.view(self.copies, -1).lerp_(var, share)

    def extra_repr(self) -> str:
        return f'{super().extra_repr()}, copies={self.copies}, sync={self.sync}'


def normalize_tiled(x: Tensor, norm: nn.Module, copies: int) -> Tensor:
    """Compute ``norm(tile(x, copies))``.

    A ``TiledBatchNorm2d`` tiles its input itself. Any other norm reads the tiled map. This
    is needed after a tool has turned a ``TiledBatchNorm2d`` into torch's
    ``SyncBatchNorm``, which has the same parameters and statistics at full width.

    Args:
        x: Small map ``(N, C, H, W)``.
        norm: Norm over ``copies * C`` channels.
        copies: Number of copies.
    """
    if isinstance(norm, TiledBatchNorm2d):
        return norm(x)
    return norm(tile(x, copies))


@checked_layer(module=MODULE)
def redraw_signs(module: nn.Module) -> None:
    """Call :meth:`TiledBatchNorm2d.init_weights` of all norms in ``module``.

    mmengine calls it for the children of a ``BaseModule``, not further down.
    """
    for norm in module.modules():
        if isinstance(norm, TiledBatchNorm2d):
            norm.init_weights()
