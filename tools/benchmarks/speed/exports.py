"""Exports of networks with random weights."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import openvino as ov

from mmesbnn import native
from mmesbnn.deploy import Manifest, write_manifest
from mmesbnn.deploy.openvino.graph import Conversion, to_openvino
from mmesbnn.deploy.openvino.parts import with_parts
from mmesbnn.deploy.runtime.manifest_schema import HEAD_FILES, MODEL_FILES, NATIVE_FILE
from mmesbnn.deploy.runtime.program_file import write_program
from mmesbnn.deploy.tasks.export_task import ExportTask


def write_export(task: ExportTask, folder: Path, dynamic_batch: bool) -> Conversion:
    """Write an export as ``tools/export.py`` does, but without the comparison with torch.

    In a deep network with random weights, one rounded sign changes many signs of later layers.
    So the outputs of torch differ as much from torch in double precision.

    Args:
        task: The network.
        folder: Folder to make.
        dynamic_batch: Whether a batch can have any number of images.
    """
    folder.mkdir()
    example = task.example(0)
    conversion = to_openvino(
        task.graph,
        example,
        input_names=task.input_names,
        output_names=task.output_names,
        dynamic_batch=dynamic_batch,
        with_native=task.parts is None,
    )
    if task.parts is not None:
        conversion = with_parts(
            conversion, task.parts, example, output_names=task.output_names, half=False
        )
    ov.save_model(conversion.graph, folder / MODEL_FILES[0], compress_to_fp16=False)
    if isinstance(conversion.native, tuple):
        write_program(folder / NATIVE_FILE, *conversion.native)
    if conversion.head is not None:
        ov.save_model(conversion.head, folder / HEAD_FILES[0], compress_to_fp16=False)
    write_manifest(folder, _manifest(task, conversion))
    return conversion


def _manifest(task: ExportTask, conversion: Conversion) -> Manifest:
    content = dict(
        task=task.RUNNER.NAME,
        inputs=_ports(conversion.graph.inputs),
        outputs=_ports(conversion.graph.outputs),
        preprocessing=task.preprocessing.to_dict(),
        classes=task.classes,
        decoding=task.decoding.to_dict(),
        maps=None if conversion.head is None else _ports(conversion.head.inputs),
    )
    return Manifest.from_dict(content)


def _ports(ports: Iterable[Any]) -> list[dict[str, Any]]:
    """Describe inputs or outputs of a graph; open sizes are -1."""
    return [
        dict(
            name=port.get_any_name(),
            shape=[
                -1 if size.is_dynamic else size.get_length() for size in port.get_partial_shape()
            ],
        )
        for port in ports
    ]


def runs_natively(folder: Path) -> bool:
    """Return whether the native engine can run an export here."""
    return (folder / NATIVE_FILE).exists() and native.available()
