"""Model card of a network: its measured size, operations and signs, in Markdown and YAML.

The YAML at the beginning has the form that Hugging Face's hub reads: ``library_name``,
``pipeline_tag``, ``tags`` and, if metrics are given, ``model-index``.
"""

from __future__ import annotations

import copy
import numbers
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml
from torch import Tensor, nn

from ..analysis import Finding, OpsReport, check_binary, count_ops, most_regions
from ..analysis.regions import forward_arguments
from ..binary.layers import binary_layers
from ..binary.modes import inference
from ..binary.trees import tensors_in
from ..checks import Rule, filled_text, mapping, number, positive_int, sequence
from ..deploy import PackReport
from ..errors import MmesbnnError, sentence
from ..project import reads_rgb
from ..project.config import EXTRAS
from ..seeded import drawn
from ..version import __version__
from .errors import PretrainedError
from .files import LIBRARY

#: Names of tasks on the hub, in words, and the networks that have them.
_TASKS = {
    'image-classification': ('Image Classification', 'A classifier'),
    'object-detection': ('Object Detection', 'A detector'),
    'image-feature-extraction': ('Image Feature Extraction', 'A backbone'),
}
#: Seed of the image on which networks are measured.
SEED = 0
#: Number of findings of check_binary that a card shows.
_SHOWN = 3


def _hub_word(says: str, pattern: str) -> Rule:
    return Rule(says, lambda x: isinstance(x, str) and re.fullmatch(pattern, x) is not None)


DATASET = _hub_word("a name on the hub, such as 'cifar10'", r'(?:[\w-]+/)?[\w.-]+')
LICENSE = _hub_word("a license of the hub, such as 'apache-2.0'", r'[a-z0-9][a-z0-9.+-]*')
METRICS = Rule(
    "a dict of names and numbers, such as {'accuracy/top1': 0.75}",
    lambda x: (
        mapping().accepts(x)
        # a name that UTF-8 cannot write raises a ValueError here
        and all(filled_text.accepts(k) and k.encode() and number().accepts(v) for k, v in x.items())
    ),
)
INPUT_SHAPE = sequence(positive_int, length=3)


@dataclass(frozen=True)
class Measured:
    """Measurements of a network on one image of normal noise.

    Attributes:
        image: The image, ``(1, C, H, W)``.
        arguments: Other arguments of ``forward``, such as those of a two-stage detector.
        outputs: Tensors that the network returns.
        ops: Count of the operations.
        findings: Findings of :func:`~mmesbnn.analysis.check_binary`.
    """

    image: Tensor
    arguments: dict[str, Any]
    outputs: list[Tensor]
    ops: OpsReport
    findings: list[Finding]


@dataclass(frozen=True, kw_only=True)
class Facts:
    """Facts about a network that its card shows.

    Attributes:
        name: Name on the hub, or of the folder.
        architecture: Name of the network's class.
        config: Config in ``config.json``, empty if there is none.
        report: Sizes of the parts of ``model.safetensors``.
        measured: Measurements of the network.
        is_equal: Whether the saved network was loaded again and gave equal outputs.
        metrics: Numbers by name, given by the author.
        dataset: Name of the data set of the metrics on the hub.
        license: Name of the license on the hub.
    """

    name: str
    architecture: str
    config: Mapping[str, Any]
    report: PackReport
    measured: Measured
    is_equal: bool
    metrics: Mapping[str, float]
    dataset: str | None
    license: str | None

    @property
    def task(self) -> str:
        """Name of the task on the hub: a single ``(1, classes)`` is that of a classifier."""
        # every detector of mmdet has a part of this name; a mere backbone has none
        if self.config.get('default_scope') == 'mmdet' and 'backbone' in self.config['model']:
            return 'object-detection'
        outputs = self.measured.outputs
        is_classifier = len(outputs) == 1 and outputs[0].dim() == 2
        return 'image-classification' if is_classifier else 'image-feature-extraction'


def run(model: nn.Module, image: Tensor, arguments: Mapping[str, Any]) -> list[Tensor]:
    """Return the tensors that ``model`` computes for ``image`` in eval mode."""
    with inference(model):
        return tensors_in(model(image, **arguments))


def _count(model: nn.Module, image: Tensor, arguments: dict[str, Any]) -> OpsReport:
    """Count the operations, those of a two-stage detector for its largest number of regions."""
    if arguments:
        model = copy.deepcopy(model)  # most_regions changes it
        most_regions(model, image.shape[1:])
    return count_ops(model, image, **arguments)


def _check(model: nn.Module, image: Tensor, arguments: dict[str, Any]) -> list[Finding]:
    if not arguments:
        return check_binary(model, image)
    # detectors that read more than images are tested with batches of a loader
    return check_binary(model, dict(inputs=list(image), **copy.deepcopy(arguments)))


def measure(model: nn.Module, shape: Sequence[int]) -> Measured:
    """Run a network on an image of normal noise, count its operations, and check its signs.

    Args:
        model: Network with binary layers.
        shape: Channels, height and width of the image.

    Raises:
        PretrainedError: If the network cannot process the image.
    """
    weight = next(iter(binary_layers(model).values())).weight
    image = drawn((1, *shape), SEED).to(weight)
    try:
        arguments = forward_arguments(model, shape)
        return Measured(
            image=image,
            arguments=arguments,
            outputs=run(model, image, arguments),
            ops=_count(model, image, arguments),
            findings=_check(model, image, arguments),
        )
    except MmesbnnError:
        raise
    except Exception as error:  # a network of a user can raise anything
        raise PretrainedError(
            f'{type(model).__name__} cannot process an image of input_shape='
            f'{tuple(shape)}: {sentence(error)}'
        ) from error


def plain_metrics(metrics: Mapping[str, float]) -> dict[str, float]:
    """Return metrics in Python's own types; YAML cannot write numpy's, which evaluators return."""
    return {
        str(name): int(value) if isinstance(value, numbers.Integral) else float(value)
        for name, value in metrics.items()
    }


def _metadata(facts: Facts) -> dict[str, Any]:
    """Return the YAML part of a card."""
    data: dict[str, Any] = {'library_name': LIBRARY, 'pipeline_tag': facts.task}
    if facts.license:
        data['license'] = facts.license
    data['tags'] = ['binary-neural-network', LIBRARY]
    if not facts.metrics or not facts.dataset:
        return data
    kinds = [name.partition('/')[0] for name in facts.metrics]
    data['datasets'] = [facts.dataset]
    data['metrics'] = list(dict.fromkeys(kinds))
    result = {
        'task': {'type': facts.task, 'name': _TASKS[facts.task][0]},
        'dataset': {'type': facts.dataset, 'name': facts.dataset},
        'metrics': [
            {'type': kind, 'value': value, 'name': name}
            for kind, (name, value) in zip(kinds, facts.metrics.items())
        ],
    }
    data['model-index'] = [{'name': facts.name, 'results': [result]}]
    return data


def _shapes(tensors: Sequence[Tensor]) -> str:
    shapes = ['(' + ', '.join(['N', *map(str, x.shape[1:])]) + ')' for x in tensors]
    return ', '.join(shapes)


def _usage(facts: Facts) -> str:
    """Return the lines that load and run the network."""
    framework = EXTRAS.get(facts.config.get('default_scope', ''))
    extras = [framework, 'hub'] if framework else ['hub']
    own = '' if facts.config else ', model=model'
    comment = f'  # model: your own {facts.architecture}' if own else ''
    measured = facts.measured
    call = f'model(images)  # {_shapes([measured.image])} -> {_shapes(measured.outputs)}'
    if measured.arguments:  # the number of regions depends on the images
        call = 'model(images, samples)  # samples: a DetDataSample of mmdet for each image'
    return f"""\
```shell
pip install 'mmesbnn[{','.join(extras)}]'
```

```python
import mmesbnn

model = mmesbnn.from_pretrained({facts.name!r}{own}){comment}
outputs = {call}
```
"""


def _preparation(config: Mapping[str, Any], channels: int) -> str:
    """Return a sentence about the images that the network expects, or '' if it is not known.

    Args:
        config: Config of the network.
        channels: Channels of the images.
    """
    model = config.get('model') or {}
    steps = config.get('data_preprocessor') or model.get('data_preprocessor') or {}
    if not steps.get('mean') or not steps.get('std'):
        return ''
    mean, std = list(steps['mean']), list(steps['std'])
    kinds = {1: 'grey', 3: 'RGB' if reads_rgb(config, steps) else 'BGR'}
    # a recipe's numbers do not hold for a network with other channels
    if channels not in kinds or len(mean) not in (1, channels):
        return ''
    return (
        f'`images` are {kinds[channels]} from 0 to 255, normalized as `(image - mean) / std` with '
        f'mean {mean} and std {std}.\n'
    )


def _verdict(facts: Facts) -> str:
    findings = facts.measured.findings
    count = facts.measured.ops.total['binary_layers']
    if not findings:
        return f'binary: all {count} binary layers multiply signs with signs'
    more = f' and {len(findings) - _SHOWN} more' if len(findings) > _SHOWN else ''
    return 'not binary: ' + '; '.join(map(str, findings[:_SHOWN])) + more


def _cell(value: str) -> str:
    """Return a text as a cell of a table: in one line, without the end of a cell."""
    return ' '.join(value.split()).replace('|', r'\|')


def _table(facts: Facts) -> str:
    report, ops = facts.report, facts.measured.ops
    shape = ' x '.join(map(str, facts.measured.image.shape[1:]))
    rows = [
        ('size of `model.safetensors`', f'{report.size} bytes'),
        (
            'size of the full-precision state dict',
            f'{report.full_size} bytes, {report.full_size / report.size:.1f} times as many',
        ),
        ('parameters', f'{ops.total["fp_params"]} real, {ops.total["binary_params"]} binary'),
        (f'operations (`count_ops`, {shape})', ops.formula()),
        (f'signs (`check_binary`, noise of {shape})', _verdict(facts)),
    ]
    if report.rounding:
        rows.append(('rounding', f'half precision, by {report.rounding:.2g} of a value at most'))
    if facts.is_equal:
        rows.append(('loaded again', 'equal outputs, bit for bit'))
    cells = [f'| {name} | {_cell(value)} |' for name, value in rows]
    return '\n'.join(['| measured | |', '|---|---|', *cells]) + '\n'


def _given(facts: Facts) -> str:
    if not facts.metrics:
        return ''
    rows = [f'| {_cell(name)} | {value} |' for name, value in facts.metrics.items()]
    return '\n'.join(
        [
            f'Given by the author, on {facts.dataset}; {LIBRARY} did not measure it:',
            '',
            '| metric | value |',
            '|---|---|',
            *rows,
            '',
        ]
    )


def text(facts: Facts) -> str:
    """Return the card of a network."""
    head = yaml.safe_dump(_metadata(facts), sort_keys=False, allow_unicode=True)
    parts = [
        f'---\n{head}---\n',
        f'# {facts.name}\n',
        f'{_TASKS[facts.task][1]} ({facts.architecture}) with one bit per binary weight, '
        f'written by {LIBRARY} {__version__}.\n',
        _usage(facts),
        _preparation(facts.config, facts.measured.image.shape[1]),
        _table(facts),
        _given(facts),
    ]
    return '\n'.join(filter(None, parts))
