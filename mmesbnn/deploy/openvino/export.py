"""Export of a trained network as a folder that runs without torch.

:mod:`mmesbnn.deploy.runtime.manifest` describes the folder.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

import openvino as ov
import torch
from torch import Tensor

from ... import native
from ...checks import checked, instance
from ...errors import sentence
from ...whole_files import check_folder, whole_folder
from ..first_run import check_run
from ..output_agreement import OutputAgreement
from ..runtime.core import shared_core
from ..runtime.kernels import lost_operator
from ..runtime.manifest import FILES, ExportError, fitting, write_manifest
from ..runtime.manifest_schema import (
    CLASS_NAMES,
    HEAD_FILES,
    NATIVE_FILE,
    REPORT,
    Input,
    Manifest,
    Output,
)
from ..runtime.openvino_graph import set_batch
from ..runtime.program_file import write_program
from ..tasks.detector_graphs import takes_one_image
from ..tasks.export_task import ExportTask
from ..tasks.finite_weights import check_weights
from ..tasks.image_sizes import check_image_size
from .graph import Conversion, compile_graph, to_openvino
from .parts import with_parts
from .verify import verify, verify_native

Port = TypeVar('Port', bound=Output)


@dataclass(frozen=True)
class ExportReport:
    """Layers and sizes of an export, and its agreement with the model.

    Attributes:
        conversion: The graph and its layers.
        agreements: One comparison for every output.
        images: Number and name of the images that were compared.
        weights: Bytes of ``model.bin``.
        bits: Bytes of the binary weights in it.
        remarks: Sentences about its use.
        native: A sentence about the form for the native library; None if it was not requested.
        native_agreements: Comparisons of that form.
    """

    conversion: Conversion
    agreements: list[OutputAgreement]
    images: str
    weights: int
    bits: int
    remarks: Sequence[str] = ()
    native: str | None = None
    native_agreements: Sequence[OutputAgreement] = ()

    def text(self) -> str:
        """Return the report as text."""
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
        if self.native is not None:
            lines.append(self.native)
            lines += [f'  {agreement}' for agreement in self.native_agreements]
        lines += self.remarks
        return '\n'.join(lines)

    def content(self) -> dict[str, Any]:
        """Return the report as plain values."""
        return {
            'layers': [asdict(layer) for layer in self.conversion.layers],
            'agreements': [asdict(agreement) for agreement in self.agreements],
            'native': self.native,
            'native_agreements': [asdict(agreement) for agreement in self.native_agreements],
            'images': self.images,
            'bytes': {'model.bin': self.weights, 'binary weights': self.bits},
            'remarks': list(self.remarks),
        }


@contextlib.contextmanager
def _written_whole(out: Path) -> Iterator[Path]:
    """Open a folder to write to; at the end it replaces ``out``.

    Raises:
        ExportError: If writing fails, or :func:`check_output` refuses ``out``.
    """
    check_output(out)
    try:
        with whole_folder(out, replace=True) as folder:
            yield folder
    except OSError as error:
        raise _unwritable(out, error) from error


def _unwritable(out: Path, error: OSError) -> ExportError:
    return ExportError(f'out={out} (--out) cannot be written ({error.strerror})')


def check_output(out: str | os.PathLike[str], *sources: str | os.PathLike[str] | None) -> None:
    """Raise an :class:`ExportError` if ``out`` cannot become an export.

    Args:
        out: Folder to write.
        *sources: Files that are read; None is skipped.
    """
    path = Path(out)
    if path.exists() and not path.is_dir():
        raise ExportError(f'out={path} (--out) is a file, and must be a folder')
    try:
        check_folder(path, *sources, replace=True)
    except OSError as error:
        raise _unwritable(path, error) from error
    if path.is_dir() and any(file.name not in FILES for file in path.iterdir()):
        raise ExportError(f'out={path} (--out) holds other files than an export; name a new folder')


def _bits(conversion: Conversion) -> int:
    """Count the bytes of the binary weights."""
    return sum(
        node.get_byte_size()
        for node in conversion.graph.get_ops()
        if node.get_type_name() == 'Constant' and node.get_element_type() == ov.Type.u1
    )


def _described(ports: Sequence[Any], kind: type[Port]) -> tuple[Port, ...]:
    """Describe inputs or outputs for the manifest; open sizes are -1."""
    return tuple(
        kind(
            name=port.get_any_name(),
            shape=tuple(
                -1 if size.is_dynamic else size.get_length() for size in port.get_partial_shape()
            ),
        )
        for port in ports
    )


def _manifest(
    task: ExportTask,
    inputs: tuple[Input, ...],
    outputs: tuple[Output, ...],
    source: Mapping[str, str | None] | None,
    **entries: Any,
) -> Manifest:
    """Describe the export.

    Raises:
        ExportError: If inputs or outputs differ from the task's.
    """
    with fitting('the manifest'):
        return Manifest(
            task=task.RUNNER.NAME,
            inputs=inputs,
            outputs=outputs,
            preprocessing=task.preprocessing,
            classes=task.classes,
            decoding=task.decoding,
            versions={'openvino': ov.__version__, 'torch': str(torch.__version__)},
            source=source or {'config': None, 'checkpoint': None},
            **entries,
        )


def _check_shapes(task: ExportTask, example: Sequence[Tensor], outputs: Sequence[Tensor]) -> None:
    """Refuse a network whose outputs are not the task's, before it is converted."""
    _manifest(
        task,
        tuple(Input(name=n, shape=tuple(x.shape)) for n, x in zip(task.input_names, example)),
        tuple(Output(name=n, shape=tuple(y.shape)) for n, y in zip(task.output_names, outputs)),
        None,
    )


def _manifest_of(
    task: ExportTask, conversion: Conversion, source: Mapping[str, str | None] | None
) -> Manifest:
    """Describe the export with the shapes of its graph."""
    graph, head = conversion.graph, conversion.head
    return _manifest(
        task,
        _described(graph.inputs, Input),
        _described(graph.outputs, Output),
        source,
        maps=None if head is None else _described(head.inputs, Output),
        no_native=None if isinstance(conversion.native, tuple) else _no_native(conversion),
    )


def _no_native(conversion: Conversion) -> str:
    """Return the reason why there is no form for the native library, as a manifest holds it."""
    reason = conversion.native or 'only the form for OpenVINO was requested'
    return ''.join(c if c.isprintable() else '?' for c in str(reason))[:1000]


def _remarks(task: ExportTask, conversion: Conversion, dynamic_batch: bool) -> list[str]:
    """Return the rules for running the export."""
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
        layers = '; '.join(f'{x.layer}: {x.reason}' for x in conversion.not_binary)
        raise ExportError(f'strict=True (--strict): not all layers became binary: {layers}')


def _compiled(path: Path, dynamic: bool) -> ov.CompiledModel:
    """Read the written graph and compile it for one image."""
    graph = shared_core().read_model(path)
    if dynamic:
        _check_batches(graph)
        set_batch(graph, 1)
    try:
        compiled = compile_graph(graph)
    except RuntimeError as error:
        if 'BinaryConvolution' in str(error):
            raise ExportError(lost_operator(ov.__version__)) from error
        raise ExportError(f'OpenVINO cannot compile the network ({sentence(error)})') from error
    _check_binary(graph, compiled)
    return compiled


def _check_binary(graph: ov.Model, compiled: ov.CompiledModel) -> None:
    """Refuse a version of OpenVINO that replaces binary operators with others."""
    if any(node.get_type_name() == 'BinaryConvolution' for node in graph.get_ops()):
        kinds = {
            node.get_rt_info()['layerType'].astype(str)
            for node in compiled.get_runtime_model().get_ops()
        }
        if 'BinaryConvolution' not in kinds:
            raise ExportError(lost_operator(ov.__version__))


def _check_batches(graph: ov.Model) -> None:
    """Refuse a graph in which a batch of one image has become a constant."""
    with contextlib.suppress(RuntimeError):
        set_batch(graph, 2)
        if all(port.get_partial_shape()[0] == 2 for port in graph.outputs):
            return
    raise ExportError(
        'dynamic_batch=True (--dynamic-batch): this network takes one image at a time; '
        'export it without'
    )


def _write_native(
    conversion: Conversion, folder: Path, task: ExportTask, examples: Sequence[tuple[Tensor, ...]]
) -> tuple[str | None, list[OutputAgreement]]:
    """Write the form for the native library, if there is one, and the head beside it.

    Returns:
        A sentence for the report, and the comparison with torch.
    """
    if not isinstance(conversion.native, tuple):
        why = conversion.native
        return (f'no {NATIVE_FILE}: {why}' if why else None), []
    program, data = conversion.native
    write_program(folder / NATIVE_FILE, program, data)
    says, head = f'{_megabytes(folder, NATIVE_FILE)}, for mmesbnn.native', None
    if conversion.head is not None:
        ov.save_model(conversion.head, folder / HEAD_FILES[0], compress_to_fp16=False)
        head = _compiled(folder / HEAD_FILES[0], dynamic=False)
        heads = _megabytes(folder, HEAD_FILES[1])
        says = f'{says} (the backbone); {heads}, for OpenVINO (neck and heads)'
    if not native.available():
        return f'{says}, not compared: the native library is not compiled here', []
    names = task.output_names
    return f'{says}:', verify_native(program, data, head, task.graph, examples, names)


def _megabytes(folder: Path, name: str) -> str:
    return f'{name} {(folder / name).stat().st_size / 1e6:.2f} MB'


@checked(task=instance(ExportTask, 'a task of make_task'))
def export(
    task: ExportTask,
    out: str | os.PathLike[str],
    *,
    dynamic_batch: bool = False,
    half: bool = False,
    strict: bool = False,
    with_native: bool = True,
    source: Mapping[str, str | None] | None = None,
) -> ExportReport:
    """Export a network, after a comparison with torch.

    Args:
        task: The network, see :func:`mmesbnn.deploy.make_task`.
        out: Folder to write; an earlier export there is replaced.
        dynamic_batch: Whether a batch can have any number of images. Default False: 1.
        half: Whether to round full-precision weights to half precision; computations
            stay in float32. Default False.
        strict: Whether a binary layer that stays in full precision is an error.
            Default False.
        with_native: Whether to write the form for :mod:`mmesbnn.native` as well, if it can run
            the network, or a detector's backbone; the report says so. Default True.
        source: Names of config and checkpoint, for the manifest. Default None.

    Raises:
        ExportError: If the network cannot be exported, has weights that are NaN,
            infinite or of another dtype than float32, is too small for every image, gives
            other outputs than those of the task, differs from torch, or cannot be written.
            The folder then does not change.
    """
    out = Path(out)
    check_output(out)
    if dynamic_batch and takes_one_image(task.graph):
        raise ExportError(
            'dynamic_batch=True (--dynamic-batch): a two-stage detector is exported for one '
            'image at a time'
        )
    with fitting('the manifest'):
        CLASS_NAMES.check(task.classes, 'classes')
    check_weights(task.graph)
    check_image_size(task.preprocessing, (task.images.shape[2], task.images.shape[3]))
    examples = [task.example(i) for i in range(len(task.images))]
    outputs = check_run(task.graph, examples[0], task.output_names)
    if not dynamic_batch:  # an open batch can also be the reason, and has its own error
        _check_shapes(task, examples[0], outputs)
    conversion = to_openvino(
        task.graph,
        examples[0],
        input_names=task.input_names,
        output_names=task.output_names,
        dynamic_batch=dynamic_batch,
        half=half,
        with_native=with_native and task.parts is None,
    )
    if with_native and task.parts is not None:
        conversion = with_parts(
            conversion, task.parts, examples[0], output_names=task.output_names, half=half
        )
    if strict:
        _check_strict(conversion)
    with _written_whole(out) as folder:
        ov.save_model(conversion.graph, folder / 'model.xml', compress_to_fp16=False)
        agreements = verify(
            _compiled(folder / 'model.xml', dynamic_batch), task.graph, examples, task.output_names
        )
        remark, native_agreements = _write_native(conversion, folder, task, examples)
        report = ExportReport(
            conversion=conversion,
            agreements=agreements,
            native=remark,
            native_agreements=native_agreements,
            images=f'{len(examples)} {task.source}',
            weights=(folder / 'model.bin').stat().st_size,
            bits=_bits(conversion),
            remarks=_remarks(task, conversion, dynamic_batch),
        )
        (folder / REPORT).write_text(json.dumps(report.content(), indent=1), encoding='utf-8')
        write_manifest(folder, _manifest_of(task, conversion, source))
    return report
