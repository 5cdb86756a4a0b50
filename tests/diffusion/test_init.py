"""Parts that need diffusers are imported on first use, or an error names the package."""

import sys

import pytest
from mmengine.registry import MODELS

import mmesbnn.diffusion as diffusion

BUILDERS = ['BIDiffSRUNet', 'BinarizedUNet2DModel']


@pytest.mark.parametrize('name', diffusion._LAZY)
def test_names_are_found(name):
    pytest.importorskip('diffusers')
    assert getattr(diffusion, name).__name__ == name
    assert name in diffusion.__all__


@pytest.mark.parametrize('name', [*diffusion._LAZY, *BUILDERS])
def test_without_diffusers_one_sentence_says_what_to_install(name, monkeypatch):
    monkeypatch.setitem(sys.modules, 'diffusers', None)
    sentence = rf"{name} needs diffusers, .*: pip install 'mmesbnn\[sr\]'"
    with pytest.raises(ImportError, match=sentence):
        if name in BUILDERS:
            MODELS.build(dict(type=name))
        else:
            getattr(diffusion, name)


def test_other_names_are_no_attributes():
    with pytest.raises(AttributeError, match=r"'mmesbnn\.diffusion' has no attribute"):
        diffusion.nothing  # noqa: B018
