"""Search for the layers that read the inputs of a network or make its outputs.

Code around the layers often changes the data: it scales pixels, joins images, resizes maps, or
turns scores into probabilities. So the search follows tensors through the operators of a run.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping
from typing import Any, NamedTuple

from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.weak import WeakTensorKeyDictionary

from .trees import tensors_in

#: Beginnings of the names of operators that resize, pad or join images; the result is an image.
_RESIZES = (
    'cat',
    'stack',
    'upsample',
    '_upsample',
    'constant_pad',
    'reflection_pad',
    'replication_pad',
    # whole, as inference mode shows them
    'pad',
    'concat',
    'hstack',
    'vstack',
)
#: Modules behind which a layer's result is a feature, not an output.
_NORMS = (nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm)


class _Origin(NamedTuple):
    """Where a tensor comes from. Bit ``i`` of a mask is the ``i``-th run of a layer.

    Attributes:
        makers: Runs that made the tensor, with no other layer between.
        above: All runs before the tensor, ``makers`` too.
    """

    makers: int
    above: int


class DataFlow(TorchDispatchMode):
    """Mode that follows the inputs of a network, and the results of its layers.

    A tensor is still an input if it was made from inputs only, without a layer, and has the
    size of one of them or comes from resizing, padding or joining. An encoding of timesteps
    is therefore none.

    A result of an operator was made by the layers that made its operands, except those whose
    results another of these layers reads: of a residual sum the branch counts. A norm and a
    result that is not of a floating dtype, such as an index, end the search.

    What an operator writes into a part of a tensor, as in ``out[:, :4] = boxes``, is in the
    whole tensor, too.

    Args:
        layers: Layers by keys. They and the norms of ``model`` have hooks while the mode is
            active.
        model: The network.
        inputs: Tensors among its arguments.
    """

    def __init__(
        self, layers: Mapping[Hashable, nn.Module], model: nn.Module, inputs: Iterable[Tensor]
    ) -> None:
        super().__init__()
        self.layers = layers
        self.norms = [x for x in model.modules() if isinstance(x, _NORMS)]
        self.readers: set[Hashable] = set()
        self._inputs = WeakTensorKeyDictionary()
        self._origins = WeakTensorKeyDictionary()
        self._runs: list[tuple[Hashable, int]] = []  # layer, and the mask of the runs before
        self._hooks: list[Any] = []
        for x in inputs:
            self._inputs[x] = True

    def __enter__(self) -> DataFlow:
        for key, layer in self.layers.items():
            self._watch(key, layer)
        for norm in self.norms:
            self._hooks.append(norm.register_forward_hook(self._forget))
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        for hook in self._hooks:
            hook.remove()

    def _watch(self, key: Hashable, layer: nn.Module) -> None:
        def enter(_: nn.Module, args: Any, kwargs: Any) -> None:
            if any(x in self._inputs for x in tensors_in((args, kwargs))):
                self.readers.add(key)

        def leave(_: nn.Module, args: Any, kwargs: Any, result: Any) -> None:
            above = self._joined(tensors_in((args, kwargs))).above
            run = 1 << len(self._runs)
            self._runs.append((key, above))
            for x in tensors_in(result):
                self._inputs.pop(x, None)
                self._origins[x] = _Origin(run, above | run)

        self._hooks += [
            layer.register_forward_pre_hook(enter, with_kwargs=True),
            layer.register_forward_hook(leave, with_kwargs=True),
        ]

    def _forget(self, _: nn.Module, args: Any, result: Any) -> None:
        for x in tensors_in(result):
            if x in self._origins:
                self._origins[x] = _Origin(0, self._origins[x].above)

    def _made_by(self, makers: int) -> list[tuple[Hashable, int]]:
        return [run for i, run in enumerate(self._runs) if makers >> i & 1]

    def _joined(self, tensors: list[Tensor]) -> _Origin:
        """Return the origin of what an operator computes from some tensors."""
        found = {self._origins[x] for x in tensors if x in self._origins}
        if len(found) == 1:
            return found.pop()
        makers = above = 0
        for origin in found:
            makers |= origin.makers
            above |= origin.above
        for _, before in self._made_by(makers):
            makers &= ~before
        return _Origin(makers, above)

    def ran(self) -> list[Hashable]:
        """Return the keys of the layers that ran, in the order of their first runs."""
        return list(dict.fromkeys(key for key, _ in self._runs))

    def makers(self, result: Any) -> set[Hashable]:
        """Return the keys of the layers that made the tensors of a result."""
        found = [self._origins[x].makers for x in tensors_in(result) if x in self._origins]
        return {key for makers in found for key, _ in self._made_by(makers)}

    def __torch_dispatch__(
        self, operator: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        """Run ``operator``, and note what its results are."""
        given = tensors_in((args, kwargs))
        origin = self._joined(given)
        images = [x.numel() for x in given if x in self._inputs]
        out = operator(*args, **(kwargs or {}))
        resized = getattr(operator, 'is_view', False)
        resized = resized or operator._schema.name.partition('::')[2].startswith(_RESIZES)
        for x in tensors_in(out):
            self._inputs.pop(x, None)
            self._origins.pop(x, None)
            if origin.above:
                if x.is_floating_point():
                    self._origins[x] = origin
            elif images and (resized or x.numel() in images):
                self._inputs[x] = True
            if operator._schema.is_mutable and x._base is not None:
                self._note_part(x, x._base)
        return out

    def _note_part(self, part: Tensor, whole: Tensor) -> None:
        """Note that ``part``, a view of ``whole``, was written."""
        if part in self._origins:
            self._inputs.pop(whole, None)
            self._origins[whole] = self._joined([whole, part])
        elif part in self._inputs and whole not in self._origins:
            self._inputs[whole] = True
