"""Run graphs that were written to a folder, each with its inputs; needs no torch.

``python run_graphs.py FOLDER`` reads ``N.xml`` and ``N.npz`` (the input ``x``
and the output ``y``) and prints, as JSON, what was wrong with each (an empty text if
nothing was) and which of OpenVINO's kernels convolved.
"""

import json
import sys
from pathlib import Path

import numpy as np
import openvino as ov

SETTINGS = {'INFERENCE_PRECISION_HINT': 'f32', 'INFERENCE_NUM_THREADS': 1}


def run(core, path):
    """Return the errors of the graph at ``path`` and the kernel of its convolution."""
    data = np.load(path.with_suffix('.npz'))
    try:
        compiled = core.compile_model(core.read_model(path), 'CPU', SETTINGS)
        request = compiled.create_infer_request()
        request.infer([data['x']])
    except RuntimeError as error:
        return ' '.join(str(error).split())[-200:], None
    ours, theirs = np.array(request.output_tensors[0].data), data['y']
    wrong = ~np.isclose(ours, theirs, rtol=1e-5, atol=1e-5)
    kernels = [
        node.get_rt_info()['primitiveType'].astype(str)
        for node in compiled.get_runtime_model().get_ops()
        if node.get_rt_info()['layerType'].astype(str) == 'BinaryConvolution'
    ]
    text = f'{wrong.sum()} of {wrong.size} values are wrong' if wrong.any() else ''
    return text, kernels[0] if kernels else 'none'


if __name__ == '__main__':
    core = ov.Core()
    count = len(list(Path(sys.argv[1]).glob('*.xml')))
    paths = [Path(sys.argv[1]) / f'{i}.xml' for i in range(count)]
    print(json.dumps([run(core, path) for path in paths]))
