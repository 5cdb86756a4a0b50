"""A binary classifier in all forms, and its rivals."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from published_style import published_style

from mmesbnn.analysis import build_model, input_shape
from mmesbnn.analysis.lifelike import lifelike
from mmesbnn.deploy import make_task

from .exports import runs_natively, write_export
from .forms import (
    compiled_run,
    float_graph,
    native_run,
    onnx_file,
    onnx_run,
    openvino_run,
    torch_run,
    with_instruction_set,
)
from .measuring import Run
from .names import BITS, COMPILED, EAGER, FLOAT, FLOAT_RIVALS, INT8_RIVALS, NATIVE, ONNX, PUBLISHED
from .rivals import int8_graph, rival


class Classifier:
    """Classifier with random weights, converted once to all forms.

    Args:
        cfg: Config of the classifier.
        contenders: Names of the forms and rivals to prepare.
        folder: Empty folder for files.
        forms: Native contenders with their instruction sets.
        compile_batches: If true, torch.compile also compiles for batches larger than 1.

    Attributes:
        shape: Channels, height and width of an image.
        export: Folder of the export.
        graphs: Graphs of OpenVINO by contender.
        layers: Binary layers of the export.
    """

    def __init__(
        self,
        cfg: Config,
        contenders: Collection[str],
        folder: Path,
        forms: dict[str, str],
        compile_batches: bool = False,
    ) -> None:
        self.forms, self.compile_batches = forms, compile_batches
        self.shape = input_shape(cfg)
        torch.manual_seed(0)
        self.model = lifelike(build_model(cfg), torch.randn(2, *self.shape))
        self.published = published_style(self.model)
        self.export = folder / 'export'
        conversion = write_export(make_task(cfg, self.model), self.export, dynamic_batch=True)
        self.layers = conversion.layers
        self.graphs = {BITS: conversion.graph, **self._other_graphs(contenders)}
        if ONNX in contenders:
            self.onnx = onnx_file(self.published, self.shape, folder)

    def _other_graphs(self, contenders: Collection[str]) -> dict[str, Any]:
        graphs = {}
        for name in contenders:
            if name == FLOAT:
                graphs[name] = float_graph(self.published, self.shape)
            elif name in FLOAT_RIVALS:
                graphs[name] = float_graph(rival(FLOAT_RIVALS[name], self.shape), self.shape)
            elif name in INT8_RIVALS:
                graphs[name] = int8_graph(INT8_RIVALS[name], self.shape)
        return graphs

    def make(self, name: str, threads: int, batch: int) -> Run | None:
        """Return a function that runs a contender once; None if it cannot run."""
        x = torch.randn(batch, *self.shape)
        if name in self.graphs:
            return openvino_run(self.graphs[name], x, threads)
        if name == ONNX:
            return onnx_run(self.onnx, x, threads)
        if name in self.forms:
            return self._native(name, x, threads)
        if name == COMPILED and batch > 1 and not self.compile_batches:
            return None
        models = {PUBLISHED: self.published, EAGER: self.model, COMPILED: self.model}
        return (compiled_run if name == COMPILED else torch_run)(models[name], x)

    def _native(self, name: str, x: torch.Tensor, threads: int) -> Run | None:
        if not runs_natively(self.export):
            return None
        return with_instruction_set(
            lambda: native_run(self.export, x, threads), self.forms[name], usual=self.forms[NATIVE]
        )
