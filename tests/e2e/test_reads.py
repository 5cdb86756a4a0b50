"""Tools read a checkpoint once, because it can be large and can change."""

import os
import sys

import pytest
import torch

from tests.analysis.digits import run_tool, write_trained
from tests.reference import published_binary_vit

pytest.importorskip('mmpretrain')
pytest.importorskip('safetensors')

#: Names of the files that were opened, while it is a list. A hook cannot be removed.
opened = None


def note(event, arguments):
    if event == 'open' and opened is not None and isinstance(arguments[0], (str, os.PathLike)):
        opened.append(os.path.realpath(arguments[0]))


sys.addaudithook(note)


@pytest.fixture
def project(tmp_path):
    write_trained(tmp_path, tmp_path / 'net.pth')
    return tmp_path


TOOLS = {
    'pack_checkpoint.py': ('net.pth', 'net.safetensors'),
    'pack_checkpoint.py --config': ('net.pth', 'net.safetensors', '--config', 'config.py'),
    'export.py': ('config.py', 'net.pth', '--out', 'exported'),
    'export_onnx.py': ('config.py', 'net.pth', 'net.onnx'),
    'check_binary.py': ('config.py', 'net.pth'),
    'convert_checkpoint.py': ('published.pth', 'converted.pth'),
}
NEEDS = {'export.py': 'openvino', 'export_onnx.py': 'onnx'}


@pytest.mark.parametrize('tool', list(TOOLS))
def test_a_checkpoint_is_opened_once(tool, project, monkeypatch):
    if tool in NEEDS:
        pytest.importorskip(NEEDS[tool])
    monkeypatch.chdir(project)
    arguments = TOOLS[tool]
    if 'published.pth' in arguments:
        network = published_binary_vit.Network()
        torch.save(published_binary_vit.random_state(network), 'published.pth')
    monkeypatch.setattr(sys.modules[__name__], 'opened', [])
    assert run_tool(tool.split()[0], *arguments, monkeypatch=monkeypatch) == 0
    (checkpoint,) = (name for name in arguments if name in ('net.pth', 'published.pth'))
    assert opened.count(str((project / checkpoint).resolve())) == 1
