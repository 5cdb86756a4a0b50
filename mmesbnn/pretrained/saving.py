"""Saving of a trained network as a folder."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from torch import nn

from ..binary.arguments import MODULE
from ..checks import Rule, checked, filled_text, mapping, optional, shown
from ..checks import path as path_rule
from ..deploy import PackReport, pack
from ..deploy.packed import stored_config
from ..deploy.packed.file import read_packed
from ..deploy.packed.stored_components import SCOPES
from ..deploy.packed.unpacking import unpack
from ..errors import MmesbnnError, sentence, shorten
from ..project import input_shape as shape_of
from ..project.data import DEFAULT_SIZE
from ..whole_files import whole_folder
from . import card
from .card import Measured
from .files import CARD, CONFIG, WEIGHTS, architecture, check_target, description, read_folder

#: Rule of a network's config.
NETWORK = Rule(
    "a config with a model, or a dict with the model's type",
    lambda x: isinstance(x, (Config, Mapping)) and ('model' in x or 'type' in x),
)


def _with_model(config: Any, model: nn.Module) -> Any:
    """Return a config with ``model``, from one of these or from the model's own.

    The dict of a network of OpenMMLab names it and its parts without a scope, such as
    ``'FasterRCNN'``. The scope is that of the network's class.
    """
    if config is None or 'model' in config:
        return config
    packages = (kind.__module__.partition('.')[0] for kind in type(model).__mro__)
    scope = next((package for package in packages if package in SCOPES), None)
    return {'default_scope': scope, 'model': config} if scope else {'model': config}


def _shape(config: Mapping[str, Any]) -> tuple[int, int, int]:
    """Return channels, height and width of the images of a network."""
    return shape_of(Config(config)) if 'model' in config else (3, *DEFAULT_SIZE)


def _is_equal(folder: Path, name: str, measured: Measured, half: bool) -> bool:
    """Load a folder that was written; warn if it does not give the network that was saved."""
    try:
        loaded = unpack(*read_folder(folder), folder).to(measured.image.device)
    except (MmesbnnError, ImportError) as error:
        reason = sentence(error).replace(str(folder), name)
        warnings.warn(f'{name}: from_pretrained will not load it: {reason}', stacklevel=4)
        return False
    outputs = card.run(loaded, measured.image, measured.arguments)
    equal = [x.shape for x in outputs] == [x.shape for x in measured.outputs]
    equal = equal and all(map(torch.equal, outputs, measured.outputs))
    if not equal and not half:
        warnings.warn(
            f'{name}: the loaded network gives other outputs: does its config describe it?',
            stacklevel=4,
        )
    return equal


@checked(
    model=MODULE,
    folder=path_rule,
    config=optional(NETWORK),
    dataset_meta=optional(mapping()),
    input_shape=optional(card.INPUT_SHAPE),
    metrics=optional(card.METRICS),
    dataset=optional(card.DATASET),
    license=optional(card.LICENSE),
    name=optional(filled_text),
)
def save_pretrained(
    model: nn.Module,
    folder: str | os.PathLike[str],
    *,
    config: Any = None,
    dataset_meta: Mapping[str, Any] | None = None,
    half: bool = False,
    input_shape: Sequence[int] | None = None,
    metrics: Mapping[str, float] | None = None,
    dataset: str | None = None,
    license: str | None = None,
    name: str | None = None,
) -> PackReport:
    """Write a trained network as a folder that :func:`from_pretrained` reads.

    The folder holds ``model.safetensors`` (one bit per binary weight, see
    :func:`mmesbnn.deploy.pack`), ``config.json``, and a model card ``README.md`` with the
    measured size, the operations of :func:`~mmesbnn.analysis.count_ops` and the verdict of
    :func:`~mmesbnn.analysis.check_binary`. The network is loaded again, and a warning says if
    its outputs differ. The folder appears as a whole or not at all. A folder of a network
    that is there is replaced.

    Args:
        model: Classifier, backbone or any other network with layers of this package, with
            binary weights.
        folder: Folder to write.
        config: Config of the network, so that :func:`from_pretrained` can build it: an
            mmengine config with ``model``, or the dict of the network itself, such as
            ``dict(type='BNext', arch='tiny')``. Default None: the config that the network
            holds (from :func:`create_model`, :func:`from_pretrained` or mmpretrain's
            ``get_model``). Without any config a warning says that loading will need the
            network.
        dataset_meta: Meta data of the data set, such as ``{'classes': [...]}``. Default
            None: those that the network or the config has.
        half: Whether to round everything except the bits to half precision, see
            :func:`mmesbnn.deploy.pack`. Default False.
        input_shape: Channels, height and width of the image on which the card's numbers are
            measured. Default None: those of the config, or ``(3, 224, 224)``.
        metrics: Numbers for the card that you measured, by name, such as
            ``{'accuracy/top1': 0.752}``; the hub takes the part before ``/`` as the kind of
            the metric. Needs ``dataset``. Default None.
        dataset: Name of the data set of ``metrics`` on the hub, such as ``'cifar10'``.
            Default None.
        license: License on the card, such as ``'apache-2.0'``. Default None: the card has
            none.
        name: Name on the card. Default None: that of the folder.

    Returns:
        Report of the sizes of the parts of ``model.safetensors``.

    Raises:
        PackError: If a layer is not binary (yet) or not finite; the message names it.
        PretrainedError: If the folder holds files that do not belong to a network, or if the
            network cannot process an image of ``input_shape``.
        OSError: If it cannot be written.
    """
    if (metrics is None) != (dataset is None):
        given = shown('metrics', metrics) if dataset is None else shown('dataset', dataset)
        raise ValueError(f'{given} needs {"dataset" if dataset is None else "metrics"}=')
    folder = Path(folder)
    check_target(folder)
    with whole_folder(folder, replace=True) as partial:
        report = pack(
            model,
            partial / WEIGHTS,
            config=_with_model(config, model),
            dataset_meta=dataset_meta,
            half=half,
        )
        metadata = read_packed(partial / WEIGHTS)[1]
        (partial / CONFIG).write_text(description(metadata, model), encoding='utf-8')
        kept = stored_config.from_json(metadata.get('config', '{}'))
        measured = card.measure(model, input_shape or _shape(kept))
        facts = card.Facts(
            name=shorten(name or folder.resolve().name),  # in one line
            architecture=architecture(metadata, model),
            config=kept,
            report=report,
            measured=measured,
            is_equal=bool(kept) and _is_equal(partial, str(folder), measured, half),
            metrics=card.plain_metrics(metrics or {}),
            dataset=dataset,
            license=license,
        )
        (partial / CARD).write_text(card.text(facts), encoding='utf-8')
    if not kept:
        warnings.warn(
            f'{folder}: holds no config of the {type(model).__name__}, so from_pretrained will '
            'need model=; give config= to save_pretrained',
            stacklevel=3,
        )
    return report
