"""Registries of signs and weight binarizers, for configs and for other packages.

A package adds its own sign to :data:`SIGNS`. A config then names it wherever it names a sign
of this package::

    from mmesbnn.binary import InputForm
    from mmesbnn.registry import SIGNS

    @SIGNS.register_module()
    class MySign(nn.Module):
        form = InputForm()  # the outputs are -1 and 1
        ...

    conv_cfg = dict(type='ESConv2d', tau=2, sign=dict(type='MySign'))

The registries are children of mmengine's ``MODELS``. Classes that another package registered
in ``MODELS`` are found, too, if they have an attribute ``form``. A prefix names the scope of
their registry, such as ``'mypackage.MySign'``. Names are never imported.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from mmengine.registry import MODELS, Registry

from .binary.entries import SIGNS as OWN_SIGNS
from .binary.entries import WEIGHT_BINARIZERS as OWN_WEIGHT_BINARIZERS
from .binary.entries import Entries
from .binary.forms import InputForm, WeightForm


def _registry(entries: Entries, scope: str, form: type) -> Registry:
    """Return a registry of ``entries`` that they search from now on."""

    def build(cfg: Any, *args: Any, registry: Registry, **kwargs: Any) -> Any:
        return entries.build(cfg, *args, **kwargs)

    registry = Registry(entries.argument, build_func=build, parent=MODELS, scope=scope)
    for name, kind in entries.own.items():
        registry.register_module(name=name, module=kind)
    entries.others = (lambda name: _found(registry, name, form), lambda: _names(registry, form))
    return registry


def _has_form(kind: Any, form: type) -> bool:
    return isinstance(kind, type) and isinstance(getattr(kind, 'form', None), form)


def _found(registry: Registry, name: str, form: type) -> Any:
    """Return the class that a name means, None if there is none."""
    scope, key = registry.split_scope_key(name)
    if scope is None and key in registry.module_dict:
        return registry.module_dict[key]
    own = registry._search_child(scope) if scope else None
    if own is not None and key in own.module_dict:
        return own.module_dict[key]
    place = MODELS._search_child(scope) if scope else MODELS
    kind = place.module_dict.get(key) if place is not None else None
    return kind if _has_form(kind, form) else None


def _names(registry: Registry, form: type) -> Iterable[str]:
    """Yield the names of the registry, and those of ``MODELS`` that have a form."""
    yield from registry.module_dict
    for name, kind in MODELS.module_dict.items():
        if _has_form(kind, form):
            yield name


#: Signs of activations; a name of a layer's ``sign``.
SIGNS = _registry(OWN_SIGNS, 'mmesbnn_signs', InputForm)
#: Binarizers of weights; a name of a layer's ``weight_binarizer``.
WEIGHT_BINARIZERS = _registry(OWN_WEIGHT_BINARIZERS, 'mmesbnn_weight_binarizers', WeightForm)
