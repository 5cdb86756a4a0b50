"""One sentence reports packages that are missing or do not fit."""

import sys
import types

import pytest

from mmesbnn import optional


def test_transformers_5_beside_mmpretrain(monkeypatch):
    package, models = types.ModuleType('mmpretrain'), 'mmpretrain.models'

    def load(name):
        if name == models:
            raise TypeError('NoneType takes no arguments')
        return package

    monkeypatch.setattr(optional, 'import_module', load)
    monkeypatch.setattr(optional, 'version', lambda name: '5.0.1')
    monkeypatch.setattr(optional, 'find_spec', lambda name: None)
    assert optional.require('mmpretrain', 'cls', 'x') is package
    monkeypatch.setattr(optional, 'find_spec', lambda name: sys)
    with pytest.raises(ImportError, match=r"x needs .* transformers 5\.0\.1 .*'transf"):
        optional.require('mmpretrain', 'cls', 'x')
