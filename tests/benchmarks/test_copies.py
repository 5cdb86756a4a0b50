"""tools/benchmarks/copies.py: what theory predicts, and the table."""

import pytest

from tests.analysis.digits import run_tool
from tools.benchmarks.copies import predict


def test_copies_that_start_alike_are_one():
    for units in (1, 5):
        assert predict(units, 'alike') == pytest.approx((16, 1), rel=1e-4)


def test_one_unit_makes_opposite_copies_independent():
    # 2 of the 6 pairs have equal signs: |r| = 1; the others have 0
    assert predict(1, 'balanced') == pytest.approx((64 / (1 + 3 / 3), 1 / 3), rel=1e-3)
    # half of the pairs
    assert predict(1, 'signs') == pytest.approx((64 / (1 + 3 / 2), 1 / 2), rel=0.03)


def test_two_units_by_hand():
    # correlations 1, 1/3, -1/3 of the sums, with the probabilities 1/9, 4/9, 4/9; the
    # signs of Gaussians of correlation 1/3 have 0.2163
    rank, alike = predict(2, 'balanced')
    assert alike == pytest.approx(1 / 9 + 8 / 9 * 0.2163, rel=0.03)
    assert rank == pytest.approx(64 / (1 + 3 * (1 / 9 + 8 / 9 * 0.2163**2)), rel=0.03)


def test_table_has_a_line_per_unit_and_way(monkeypatch, capsys):
    assert run_tool('benchmarks/copies.py', '--units', 3, monkeypatch=monkeypatch) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith('tau=1, 32 channels: rank ')
    rows = [line.split() for line in lines[3:]]
    assert [row[:2] for row in rows] == [
        [way, str(units)] for way in ('alike', 'signs', 'balanced') for units in (1, 2)
    ]
    ranks = {row[0]: float(row[3]) for row in rows}
    assert ranks['alike'] < ranks['signs'] and ranks['alike'] < ranks['balanced']
