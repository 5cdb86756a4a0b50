"""Settings that trainings share, and the forms of a network."""

from __future__ import annotations

from dataclasses import dataclass

from mmesbnn import options

FAMILIES = ('ReActNet', 'BiReal', 'BNext', 'BinaryViT')
TASKS = ('regions', 'denoising')
INITS = ('alike', 'signs', 'balanced')
FLAGS = ('mean', 'real', 'full', 'even')


@dataclass(frozen=True)
class Setting:
    """The part that all trainings of a comparison share.

    Attributes:
        task: ``'regions'`` or ``'denoising'``.
        family: One of ``FAMILIES``.
        width: Channels before expansion.
        depth: Residual units, or blocks of a Transformer.
        size: Height and width of the crops.
        shrink: Factor by which photographs are reduced.
        iters: Training steps.
        batch: Crops per step.
        lr: Largest learning rate.
    """

    task: str = 'regions'
    family: str = 'ReActNet'
    width: int = 64
    depth: int = 8
    size: int = 16
    shrink: int = 2
    iters: int = 600
    batch: int = 64
    lr: float = 1e-2

    def in_words(self) -> str:
        """Return it as tables show it."""
        return (
            f'{self.family}, {self.task}, width {self.width}, depth {self.depth}, '
            f'{self.iters} steps of {self.batch} crops, learning rate {self.lr:g}'
        )


@dataclass(frozen=True)
class Form:
    """One form of a network; all cost the same but for ``real`` and ``full``.

    Attributes:
        tau: ES factor.
        groups: ES groups.
        init: How copies start: ``'alike'``, ``'signs'`` or ``'balanced'``.
        mean: Whether the head reads the mean of the copies, not the first one.
        real: Whether weights stay real, which costs more.
        full: Whether BNext's gates have the full width, which costs more.
        even: Whether they have the full width behind ``tau`` times fewer hidden features,
            which costs the same.
    """

    tau: int = 1
    groups: int = 1
    init: str = 'alike'
    mean: bool = False
    real: bool = False
    full: bool = False
    even: bool = False

    @property
    def costs_more(self) -> bool:
        """True if the form costs more than the others."""
        return self.real or self.full

    def __str__(self) -> str:
        text = f'{self.tau}x{self.groups}'
        text += '' if self.init == 'alike' else f'+{self.init}'
        return text + ''.join(f'+{x}' for x in FLAGS if getattr(self, x))


BASELINE = Form()


def form_of(text: str) -> Form:
    """Read ``2x1+signs+mean``.

    Raises:
        ValueError: If it is no form.
    """
    size, *words = text.split('+')
    unknown = set(words) - {*INITS, *FLAGS}
    if unknown or text.count('x') != 1:
        raise ValueError(
            f'form {text!r} must be TAUxGROUPS, and maybe +signs or +balanced, then '
            + ', '.join(f'+{x}' for x in FLAGS)
        )
    tau, groups = (options.count(x) for x in size.split('x'))
    init = next((x for x in words if x in INITS), 'alike')
    flags = {x: x in words for x in FLAGS}
    return Form(tau, groups, init, **flags)
