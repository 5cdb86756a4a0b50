"""BinaryConfig is known to diffusers, whichever package is imported first."""

import subprocess
import sys
import types

import pytest

pytest.importorskip('diffusers')

import diffusers.quantizers.base
from diffusers.quantizers import auto

import mmesbnn.diffusion
from mmesbnn.diffusion import registration

AFTER = """
import sys, mmesbnn
assert 'diffusers' not in sys.modules
from diffusers.quantizers import auto
assert auto.AUTO_QUANTIZER_MAPPING['mmesbnn'].__name__ == 'BinaryQuantizer'
assert auto.AUTO_QUANTIZATION_CONFIG_MAPPING['mmesbnn'] is mmesbnn.BinaryConfig
"""
BEFORE = """
from diffusers.quantizers import auto
assert 'mmesbnn' not in auto.AUTO_QUANTIZER_MAPPING
import mmesbnn
assert auto.AUTO_QUANTIZER_MAPPING['mmesbnn'].__name__ == 'BinaryQuantizer'
assert auto.AUTO_QUANTIZATION_CONFIG_MAPPING['mmesbnn'] is mmesbnn.BinaryConfig
"""


@pytest.mark.parametrize('code', [AFTER, BEFORE], ids=['after', 'before'])
def test_the_order_of_imports_does_not_matter(code):
    result = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


def test_registering_again_changes_nothing():
    before = list(sys.meta_path)
    registration.register()
    registration.register()
    assert sys.meta_path == before
    assert auto.AUTO_QUANTIZER_MAPPING['mmesbnn'].__name__ == 'BinaryQuantizer'


class OldQuantizer:
    """Quantizer of a diffusers that cannot store its own tensors."""


def test_an_old_diffusers_gives_a_sentence(monkeypatch):
    monkeypatch.setattr(diffusers.quantizers.base, 'DiffusersQuantizer', OldQuantizer)
    version = diffusers.__version__
    sentence = rf'BinaryConfig needs diffusers>=0\.39\.0, and {version} is installed: pip install'
    with pytest.raises(ImportError, match=sentence):
        mmesbnn.diffusion.BinaryConfig  # noqa: B018
    module = types.SimpleNamespace(AUTO_QUANTIZER_MAPPING={}, AUTO_QUANTIZATION_CONFIG_MAPPING={})
    registration._register(module)
    assert not module.AUTO_QUANTIZER_MAPPING
