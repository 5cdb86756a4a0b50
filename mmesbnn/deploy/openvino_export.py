"""Exporting a trained network as a folder that runs without torch.

See :mod:`mmesbnn.deploy.manifest` for what the folder holds.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import openvino as ov
import torch
from torch import nn

from ..checks import checked, instance
from ..errors import sentence
from ..whole_files import whole_folder
from .finite_weights import check_weights
from .manifest import ExportError, write_manifest
from .openvino_core import shared_core
from .openvino_graph import Conversion, compile_graph, halve, to_openvino
from .openvino_tasks import Task
from .openvino_verify import verify
from .output_agreement import OutputAgreement
from .runner import set_batch

REPORT = 'report.json'
_FILES = ('model.xml', 'model.bin', 'manifest.json', REPORT)


@dataclass(frozen=True)
class ExportReport:
    """What an export is made of, and how well it agrees with the model.

    Attributes:
        conversion: The graph and its layers.
        agreements: One comparison for every output.
        images: What was compared on.
        weights: Bytes of ``model.bin``.
        bits: Bytes of the binary weights in it.
        remarks: Sentences about using it.
    """

    conversion: Conversion
    agreements: list[OutputAgreement]
    images: str
    weights: int
    bits: int
    remarks: Sequence[str] = ()

    def text(self) -> str:
        """The report for people."""
        layers = self.conversion.layers
        binary = [layer for layer in layers if layer.binary]
        macs, all_macs = sum(x.macs for x in binary), sum(x.macs for x in layers)
        lines = [
            f'{len(binary)} of {len(layers)} binary layers run on bits '
            f'({100 * macs / max(all_macs, 1):.1f} % of their multiplications)'
        ]
        for layer in layers:
            if layer.reason is not None:
                kind = 'remark' if layer.binary else 'in full precision'
                lines.append(f'  {layer.layer} ({kind}): {layer.reason}')
        lines.append(
            f'model.bin {self.weights / 1e6:.2f} MB, of it {self.bits / 1e6:.2f} MB binary weights'
        )
        lines.append(f'compared with torch on {self.images}:')
        lines += [f'  {agreement}' for agreement in self.agreements]
        lines += self.remarks
        return '\n'.join(lines)

    def content(self) -> dict[str, Any]:
        """The report for programs."""
        return {
            'layers': [asdict(layer) for layer in self.conversion.layers],
            'agreements': [asdict(agreement) for agreement in self.agreements],
            'images': self.images,
            'bytes': {'model.bin': self.weights, 'binary weights': self.bits},
            'remarks': list(self.remarks),
        }


@contextlib.contextmanager
def _written_whole(out: Path) -> Iterator[Path]:
    """A folder to write to, which takes the place of ``out`` at the end.

    Raises:
        ExportError: If it cannot, or :func:`check_output` refuses ``out``.
    """
    check_output(out)
    try:
        with whole_folder(out, replace=True) as folder:
            yield folder
    except OSError as error:
        raise ExportError(f'--out {out}: cannot be written ({error.strerror})') from error


def check_output(out: str | os.PathLike) -> None:
    """Raise an :class:`ExportError` if ``out`` cannot become an export."""
    path = Path(out)
    if path.exists() and not path.is_dir():
        raise ExportError(f'--out {path}: is a file, and must be a folder')
    parent = next(p for p in (path, *path.resolve().parents) if p.exists())
    if not os.access(parent, os.W_OK):
        raise ExportError(f'--out {path}: {parent} cannot be written')
    if path.is_dir() and any(file.name not in _FILES for file in path.iterdir()):
        raise ExportError(f'--out {path}: holds other files than an export; name a new folder')


def _bits(conversion: Conversion) -> int:
    return sum(
        node.get_byte_size()
        for node in conversion.graph.get_ops()
        if node.get_type_name() == 'Constant' and node.get_element_type() == ov.Type.u1
    )


def _ports(ports: Sequence[Any], dtype: bool) -> list[dict[str, Any]]:
    described = []
    for port in ports:
        shape = port.get_partial_shape()
        sizes = [-1 if dim.is_dynamic else dim.get_length() for dim in shape]
        entry = {'name': port.get_any_name(), 'shape': sizes}
        if dtype:
            entry['dtype'] = 'float32'
        described.append(entry)
    return described


def _levels(graph: nn.Module, manifest: dict[str, Any]) -> None:
    levels = getattr(graph, 'levels', None)
    if levels and 'levels' in manifest['decoding']:
        manifest['decoding'] = {**manifest['decoding'], 'levels': levels}


def _remarks(task: Task, conversion: Conversion, dynamic_batch: bool) -> list[str]:
    """What whoever runs the export must know."""
    remarks = list(task.remarks)
    if any(layer.binary for layer in conversion.layers):
        if dynamic_batch:
            remarks.append(
                'the batch is open: outside mmesbnn.deploy.Runner, reshape the graph '
                "to a batch before it is compiled, since OpenVINO's binary convolution "
                'must know it'
            )
        remarks.append(
            'compile it with INFERENCE_PRECISION_HINT=f32, as mmesbnn.deploy.Runner '
            'does: on some processors OpenVINO computes in bfloat16, which changes '
            'outputs'
        )
    return remarks


def _check_strict(conversion: Conversion) -> None:
    if conversion.not_binary:
        told = '; '.join(f'{x.layer}: {x.reason}' for x in conversion.not_binary)
        raise ExportError(f'--strict: not all layers became binary: {told}')


def _compiled(path: Path, dynamic: bool) -> ov.CompiledModel:
    """The written graph, read again, for one image."""
    graph = shared_core().read_model(path)
    if dynamic:
        _check_batches(graph)
        set_batch(graph, 1)
    try:
        compiled = compile_graph(graph)
    except RuntimeError as error:
        if 'BinaryConvolution' in str(error):
            raise _lost_operator() from error
        raise ExportError(f'OpenVINO cannot compile the network ({sentence(error)})') from error
    _check_binary(graph, compiled)
    return compiled


def _lost_operator() -> ExportError:
    return ExportError(
        f'OpenVINO {ov.__version__} does not run the operator BinaryConvolution, so '
        'that binary layers would not run on bits: use a version that has it, such as '
        '2026.4'
    )


def _check_binary(graph: ov.Model, compiled: ov.CompiledModel) -> None:
    """Refuse a version of OpenVINO that makes other operators of binary ones."""
    if any(node.get_type_name() == 'BinaryConvolution' for node in graph.get_ops()):
        kinds = {
            node.get_rt_info()['layerType'].astype(str)
            for node in compiled.get_runtime_model().get_ops()
        }
        if 'BinaryConvolution' not in kinds:
            raise _lost_operator()


def _check_batches(graph: ov.Model) -> None:
    """Refuse a graph in which a batch of one image has become a constant."""
    with contextlib.suppress(RuntimeError):
        set_batch(graph, 2)
        if all(port.get_partial_shape()[0] == 2 for port in graph.outputs):
            return
    raise ExportError('--dynamic-batch: this network takes one image at a time; export it without')


@checked(task=instance(Task, 'a task of make_task'))
def export(
    task: Task,
    out: str | os.PathLike,
    *,
    dynamic_batch: bool = False,
    half: bool = False,
    strict: bool = False,
    source: dict[str, Any] | None = None,
) -> ExportReport:
    """Write a network as an export, after checking it against torch.

    Args:
        task: The network, see :func:`mmesbnn.deploy.openvino_tasks.make_task`.
        out: Folder to write; a former export there is replaced.
        dynamic_batch: Whether the number of images is left open. Default False: 1.
        half: Whether to round full-precision weights to half precision; computations
            stay in float32. Default False.
        strict: Whether a binary layer that stays in full precision is an error.
            Default False.
        source: Names of config and checkpoint, for the manifest. Default None.

    Raises:
        ExportError: If the network cannot be exported, has weights that are NaN or
            infinite, does not agree with torch, or cannot be written; the folder is as
            it was then.
    """
    out = Path(out)
    check_output(out)
    if dynamic_batch and getattr(task.graph, 'one_image', False):
        raise ExportError(
            '--dynamic-batch: a two-stage detector is exported for one image at a time'
        )
    check_weights(task.graph)
    examples = [task.example(i) for i in range(len(task.images))]
    conversion = to_openvino(
        task.graph,
        examples[0],
        input_names=task.input_names,
        output_names=task.output_names,
        dynamic_batch=dynamic_batch,
    )
    if strict:
        _check_strict(conversion)
    manifest = dict(task.manifest)
    _levels(task.graph, manifest)
    if half:
        halve(conversion.graph)
    with _written_whole(out) as folder:
        ov.save_model(conversion.graph, folder / 'model.xml', compress_to_fp16=False)
        agreements = verify(
            _compiled(folder / 'model.xml', dynamic_batch), task.graph, examples, task.output_names
        )
        report = ExportReport(
            conversion,
            agreements,
            f'{len(examples)} {task.source}',
            (folder / 'model.bin').stat().st_size,
            _bits(conversion),
            _remarks(task, conversion, dynamic_batch),
        )
        content = {
            **manifest,
            'versions': {'openvino': ov.__version__, 'torch': torch.__version__},
            'source': source or {'config': None, 'checkpoint': None},
            'inputs': _ports(conversion.graph.inputs, True),
            'outputs': _ports(conversion.graph.outputs, False),
        }
        (folder / REPORT).write_text(json.dumps(report.content(), indent=1), encoding='utf-8')
        write_manifest(folder, content)
    return report
