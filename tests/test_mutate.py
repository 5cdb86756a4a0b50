"""The formulas in tools/dev/mutate.py still exist in the package."""

import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SCRIPT = runpy.run_path(str(ROOT / 'tools' / 'dev' / 'mutate.py'))


@pytest.mark.parametrize('mutant', SCRIPT['MUTANTS'], ids=lambda mutant: mutant.name)
def test_a_mutant_has_its_place_and_its_tests(mutant):
    assert mutant.code != mutant.instead
    assert SCRIPT['place_of'](mutant, ROOT).is_file()
    assert any((ROOT / test).exists() for test in mutant.tests.split())
