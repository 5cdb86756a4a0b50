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
    assert all((ROOT / test).is_file() for test in mutant.tests.split())


@pytest.fixture
def repository(tmp_path):
    (tmp_path / 'mmesbnn').mkdir()
    (tmp_path / 'mmesbnn' / 'code.py').write_text('def one():\n    return 1\n')
    (tmp_path / 'good.py').write_text(
        'from mmesbnn.code import one\n\n\ndef test_one():\n    assert one() == 1\n'
    )
    (tmp_path / 'bad.py').write_text('def test_other():\n    assert False\n')
    return tmp_path


def test_a_mutant_is_noticed_by_the_tests_of_its_code_only(repository):
    mutant = SCRIPT['Mutant']('one', 'return 1', 'return 2', 'good.py')
    SCRIPT['check_unbroken']([mutant], repository)
    assert not SCRIPT['survives'](mutant, repository)
    assert SCRIPT['passes']('good.py', repository)
    for tests, told in {
        'good.py bad.py': 'a test fails also on the unbroken code',
        'good.py gone.py': 'pytest ended with 4',
    }.items():
        with pytest.raises(ValueError, match=told):
            SCRIPT['check_unbroken']([mutant._replace(tests=tests)], repository)
