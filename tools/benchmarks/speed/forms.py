"""Functions that run a network once, in every form of deployment."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mmesbnn import native
from mmesbnn.deploy import Runner
from mmesbnn.deploy.openvino.graph import compile_graph

from .measuring import Run


def torch_run(model: nn.Module, x: Tensor) -> Run:
    """Return a function that runs one forward pass."""

    def run() -> Tensor:
        with torch.inference_mode():
            return model(x)

    return run


def compiled_run(model: nn.Module, x: Tensor) -> Run:
    """Return a function that runs the compiled model, with a fixed number of threads."""
    torch._dynamo.reset()
    compiled = torch.compile(model)

    def run() -> Tensor:
        with torch.no_grad():
            return compiled(x)

    return run


def openvino_run(graph: Any, x: Tensor, threads: int) -> Run:
    """Return a function that runs one inference in OpenVINO."""
    import openvino as ov

    graph = graph.clone()
    graph.reshape(list(x.shape))
    request = compile_graph(graph, threads, PERFORMANCE_HINT='LATENCY').create_infer_request()
    request.set_input_tensor(ov.Tensor(np.ascontiguousarray(x.numpy())))
    return request.infer


def float_graph(model: nn.Module, shape: tuple[int, int, int]) -> Any:
    """Convert a model to OpenVINO as it is, in full precision.

    Args:
        model: The model.
        shape: Channels, height and width of an image.
    """
    import openvino as ov

    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        return ov.convert_model(model, example_input=torch.randn(1, *shape))


def onnx_file(model: nn.Module, shape: tuple[int, int, int], folder: Path) -> Path:
    """Write a model as ONNX with an open batch."""
    path = folder / 'model.onnx'
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        torch.onnx.export(
            model,
            (torch.randn(1, *shape),),
            str(path),
            dynamo=False,
            input_names=['x'],
            dynamic_axes={'x': {0: 'n'}},
        )
    return path


def onnx_run(path: Path, x: Tensor, threads: int) -> Run:
    """Return a function that runs one inference in ONNX Runtime."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(str(path), options, providers=['CPUExecutionProvider'])
    inputs = {'x': x.numpy()}
    return lambda: session.run(None, inputs)


@contextlib.contextmanager
def _using(name: str, usual: str) -> Iterator[None]:
    native.use_instruction_set(name)
    try:
        yield
    finally:
        native.use_instruction_set(usual)


def with_instruction_set(make: Callable[[], Run], name: str, usual: str) -> Run:
    """Return a function that runs native kernels with an instruction set.

    Args:
        make: Makes the function that runs them. The weights of a network are packed for the
            instruction set with which it is loaded.
        name: Name of the instruction set.
        usual: Name of the instruction set that the process uses afterwards.
    """
    with _using(name, usual):
        run = make()
    if name == usual:
        return run

    def switched() -> Any:
        with _using(name, usual):
            return run()

    return switched


def native_run(export: Path, x: Tensor, threads: int) -> Run:
    """Return a function that runs an export once in the native engine."""
    runner = Runner(export, engine='native', threads=threads)
    array = x.numpy()
    return lambda: runner.infer(array)
