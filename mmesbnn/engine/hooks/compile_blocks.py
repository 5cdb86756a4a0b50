"""Hook that compiles the blocks of backbones for training."""

from __future__ import annotations

from collections.abc import Sequence

from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner

from ...checks import checked, either, filled_text, none, sequence
from ...models.backbones.base import ESBackbone


@HOOKS.register_module()
class CompileBlocksHook(Hook):
    """Hook that compiles blocks with ``torch.compile``, each kind of block once.

    mmengine's ``compile=True`` makes one graph of the whole training step. It fuses more, but
    compiling it takes the longer the deeper the network is. The blocks of a stage are mostly
    alike and share a graph here. Blocks run compiled in validation, too. Results differ from
    those without the hook by rounding.

    Args:
        blocks: Names of other classes whose modules are compiled, such as ``['BasicBlock']``
            of mmpretrain's ResNet. Default ``()``: the blocks of mmesbnn's backbones only.
        backend: As that of ``torch.compile``. Default ``'inductor'``.
        mode: As that of ``torch.compile``. Default None.

    Raises:
        ValueError: At construction, if an argument has a wrong type; before training, if the
            model has no backbone of mmesbnn and no module of such a class.
        RuntimeError: Before training, if torch has no such backend or mode.
    """

    @checked(blocks=sequence(filled_text), backend=filled_text, mode=either(filled_text, none))
    def __init__(
        self, blocks: Sequence[str] = (), backend: str = 'inductor', mode: str | None = None
    ) -> None:
        self.blocks = tuple(blocks)
        self.backend, self.mode = backend, mode

    def before_train(self, runner: Runner) -> None:
        """Compile the blocks; code is made when they run first."""
        modules = list(runner.model.modules())
        backbones = [m for m in modules if isinstance(m, ESBackbone)]
        for backbone in backbones:
            backbone.compile_blocks(self.backend, self.mode)
        for name in self.blocks:
            named = [m for m in modules if type(m).__name__ == name]
            if not named:
                raise ValueError(f'CompileBlocksHook: blocks={name!r}: the model has no {name}')
            for module in named:
                module.compile(backend=self.backend, mode=self.mode, dynamic=False)
        if not backbones and not self.blocks:
            raise ValueError(
                'CompileBlocksHook: the model has no backbone of mmesbnn: name the classes of '
                'its blocks, blocks=[...], or remove the hook'
            )
