"""Break formulas on purpose, one at a time, and check that a test fails.

    python tools/dev/mutate.py [--only WORD]

The script works on a copy of the repository. A mutant consists of a piece of code that
occurs once in the package, the code that replaces it, and the tests that must then fail.
Before, the tests run once on the unbroken code, where they must pass. Exit status 0: every
mutant fails its tests; 1: a mutant survived; 2: the code or the tests of a mutant no longer
exist, or its tests fail without it.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

from mmesbnn import cli

ROOT = Path(__file__).resolve().parents[2]


class Mutant(NamedTuple):
    """Broken formula and its tests."""

    name: str
    code: str
    instead: str
    tests: str


MUTANTS = (
    Mutant(
        'sign-gradient',
        'clamped * (2 - clamped.abs())',
        'clamped * (1.5 - clamped.abs())',
        'tests/binary/test_signs.py',
    ),
    Mutant(
        'weight-scale',
        'wide_dtype(weight.dtype))\n    mean = magnitudes.mean(',
        'wide_dtype(weight.dtype))\n    mean = 0.5 * magnitudes.mean(',
        'tests/binary/test_weights.py',
    ),
    Mutant(
        'padded-value',
        '(horizontal, horizontal, vertical, vertical), value=value)',
        '(horizontal, horizontal, vertical, vertical), value=-value)',
        'tests/binary/test_functional.py',
    ),
    Mutant(
        'sums-of-signs',
        'return (signs_and_scales(weight, looks=not traced) if exact else None) or (weight, None)',
        'return weight, None',
        'tests/binary/test_functional.py',
    ),
    Mutant(
        'order-of-copies',
        'return like_layout(x.repeat(repeats), x)',
        'return like_layout(x.repeat_interleave(copies, dim), x)',
        'tests/binary/test_expansion.py tests/binary/test_shrunk.py',
    ),
    Mutant(
        'number-of-copies',
        'return self.tau * self.factor',
        'return self.factor',
        'tests/binary/test_expansion.py tests/binary/test_shrunk.py',
    ),
    Mutant(
        'attention-scale',
        'math.sqrt(self.embed_dims // self.num_heads)',
        '(self.embed_dims // self.num_heads)',
        'tests/binary/test_attention.py',
    ),
    Mutant(
        'gate-mix',
        'self.mix * source + (1 - self.mix) * mean',
        '(1 - self.mix) * source + self.mix * mean',
        'tests/models/test_recoupled_conv.py',
    ),
    Mutant(
        'mean-of-a-prelu',
        'self.projection is not None or (self.elementwise and self.mix_residual)',
        'self.projection is not None',
        'tests/models/test_recoupled_conv.py',
    ),
    Mutant(
        'frozen-stages',
        '[self.stem, *self.stages[: self.frozen_stages]]',
        '[self.stem, *self.stages[: self.frozen_stages + 1]]',
        'tests/models/test_backbone_contract.py',
    ),
    Mutant(
        'norms-in-eval-mode',
        'still = self._norms() if self.norm_eval else []',
        'still: list[nn.Module] = []',
        'tests/models/test_backbone_contract.py',
    ),
    Mutant(
        'recomputation',
        'return recompute_segment(functools.partial(_in_turn, blocks), x, blocks)',
        'return recompute_segment(functools.partial(_in_turn, blocks), x.detach(), blocks)',
        'tests/models/test_backbone_contract.py',
    ),
    Mutant(
        'first-copies',
        'return like_layout(x[:, : self.stage_channels[stage]], x)',
        'return like_layout(x[:, -self.stage_channels[stage] :], x)',
        'tests/models/test_backbone_contract.py',
    ),
    Mutant(
        'output-indices',
        'return tuple(sorted({i % count for i in indices}))',
        'return tuple(sorted({abs(i) % count for i in indices}))',
        'tests/models/test_backbone_contract.py',
    ),
    Mutant(
        'block-strides',
        'stride = 2 if i > 1 and out != width else 1',
        'stride = 2 if out != width else 1',
        'tests/models/test_bnext.py',
    ),
    Mutant(
        'distillation',
        'hardness = entropy.detach().softmax(0)',
        'hardness = (-entropy.detach()).softmax(0)',
        'tests/models/test_losses.py',
    ),
    Mutant(
        'temperature',
        '/ (binary_from - 0.5))',
        '/ (binary_from + 0.5))',
        'tests/engine/test_temperature.py',
    ),
    Mutant('operations', 'self.bops / 64', 'self.bops / 32', 'tests/analysis/test_report.py'),
    Mutant(
        'bicubic',
        '2 - 4 * x + 2.5 * x**2 - 0.5 * x**3',
        '3 - 6 * x + 3.75 * x**2 - 0.75 * x**3',
        'tests/images/test_bicubic.py',
    ),
    Mutant(
        'psnr',
        '10 * math.log10(_PEAK**2',
        '20 * math.log10(_PEAK**2',
        'tests/evaluation/test_image_quality.py',
    ),
    Mutant(
        'packed-bits',
        "np.packbits(positive, bitorder='little')",
        "np.packbits(positive, bitorder='big')",
        'tests/deploy/packed/test_packing.py',
    ),
    Mutant(
        'openvino-bits',
        "np.packbits(weight.reshape(-1) > 0, bitorder='little')",
        "np.packbits(weight.reshape(-1) > 0, bitorder='big')",
        'tests/deploy/openvino/test_ops.py',
    ),
    Mutant('suppression', '<= iou_thr]', '>= iou_thr]', 'tests/deploy/runtime/test_decoding.py'),
    Mutant(
        'sign-step',
        'x.abs().mul_(-2).add_(2).relu_()',
        'x.abs().mul_(-2).add_(1.5).relu_()',
        'tests/binary/test_signs.py tests/binary/test_estimators.py',
    ),
    Mutant(
        'slope-step',
        'lower = x.clamp(max=0)',
        'lower = x.clamp(min=0)',
        'tests/binary/test_prelus.py',
    ),
    Mutant(
        'reach-of-branches',
        'if far <= kernel[axis] // 2 else 0.0',
        'if far < kernel[axis] // 2 else 0.0',
        'tests/models/test_branches.py',
    ),
    Mutant(
        'balanced-copies',
        'negative = order < copies // 2',
        'negative = order <= copies // 2',
        'tests/binary/test_expansion.py tests/binary/test_tiled_norm.py',
    ),
    Mutant(
        'effective-rank',
        'total.square() / matrix.square().sum()',
        'total / matrix.square().sum()',
        'tests/analysis/test_capacity.py',
    ),
    Mutant(
        'estimator-swish',
        '2 * beta * slope * (2 - u * (u / 2).tanh())',
        '2 * beta * slope * (2 - u * u.tanh())',
        'tests/binary/test_smooth_signs.py',
    ),
    Mutant(
        'estimator-ede',
        't.clamp(min=1) * (1 - (t * x).tanh().square())',
        't * (1 - (t * x).tanh().square())',
        'tests/binary/test_smooth_signs.py',
    ),
    Mutant(
        'estimator-reste',
        'steep = root * size.clamp',
        'steep = size.clamp',
        'tests/binary/test_smooth_signs.py',
    ),
    Mutant(
        'estimator-fda',
        '(2 * terms.to(x.dtype) * turns).sinc()',
        '(terms.to(x.dtype) * turns).sinc()',
        'tests/binary/test_smooth_signs.py',
    ),
    Mutant(
        'estimator-dorefa',
        '(x.clamp(0, 1) * steps).round_() / steps',
        '(x.clamp(0, 1) * steps).floor_() / steps',
        'tests/binary/test_levels.py',
    ),
    Mutant(
        'estimator-balanced',
        '.log2().round().exp2()',
        '.log2().exp2()',
        'tests/binary/test_standardized.py',
    ),
    Mutant(
        'estimator-recu',
        '-(2 - 2 * tau).log()',
        '-(2 - tau).log()',
        'tests/binary/test_standardized.py',
    ),
    Mutant(
        'estimator-magnitude',
        'per_output_mean_abs(weight.detach()) * window_gradient(',
        'window_gradient(',
        'tests/binary/test_scaled_weights.py',
    ),
    Mutant(
        'estimator-bop',
        '(momentum * weight > 0)',
        '(momentum * weight < 0)',
        'tests/engine/test_bop.py',
    ),
    Mutant(
        'bits-of-activations',
        'bops = products * weight_bits * (tally.input_bits',
        'bops = products * weight_bits * (1 + 0 * tally.input_bits',
        'tests/binary/test_levels.py',
    ),
)


def place_of(mutant, root):
    """Return the one file of the package that contains the mutant's code."""
    files = [
        path
        for path in sorted((root / 'mmesbnn').rglob('*.py'))
        if path.read_text(encoding='utf-8').count(mutant.code) == 1
    ]
    if len(files) != 1:
        raise ValueError(
            f'{mutant.name}: its code occurs in {len(files)} files, not in one: '
            'follow the code in tools/dev/mutate.py'
        )
    return files[0]


def copied(folder):
    """Copy the files that tests need, and return the copy's folder."""
    root = Path(folder) / 'repository'
    ignored = shutil.ignore_patterns(
        '.git', '.venv', '.mim', '__pycache__', '*.egg-info', 'build', 'work_dirs'
    )
    shutil.copytree(ROOT, root, ignore=ignored)
    return root


def passes(tests, root):
    """Run test files, separated by spaces, on the copy; return whether all tests pass."""
    environment = {**os.environ, 'PYTHONPATH': str(root)}
    environment['PYTHONDONTWRITEBYTECODE'] = '1'
    command = [sys.executable, '-m', 'pytest', '-q', '-x', '-p', 'no:cacheprovider']
    done = subprocess.run(
        [*command, *tests.split()], cwd=root, env=environment, capture_output=True
    )
    if done.returncode > 1:  # not failed tests, but no tests at all
        raise ValueError(f'{tests}: pytest ended with {done.returncode}')
    return done.returncode == 0


def check_unbroken(mutants, root):
    """Raise an error if code is not there, or tests fail before it is broken."""
    for mutant in mutants:
        place_of(mutant, root)
    for tests in dict.fromkeys(mutant.tests for mutant in mutants):
        if not passes(tests, root):
            raise ValueError(f'{tests}: a test fails also on the unbroken code')


def survives(mutant, root):
    """Run a mutant's tests on its broken code; return whether they all pass."""
    path = place_of(mutant, root)
    whole = path.read_text(encoding='utf-8')
    path.write_text(whole.replace(mutant.code, mutant.instead), encoding='utf-8')
    try:
        return passes(mutant.tests, root)
    finally:
        path.write_text(whole, encoding='utf-8')


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--only', default='', help='only mutants whose name contains this')
    args = parser.parse_args()
    mutants = [mutant for mutant in MUTANTS if args.only in mutant.name]
    if not mutants:
        raise ValueError(f'--only {args.only}: no mutant has such a name')
    lived = 0
    with tempfile.TemporaryDirectory() as folder:
        root = copied(folder)
        check_unbroken(mutants, root)
        for mutant in mutants:
            place = place_of(mutant, root).relative_to(root)
            alive = survives(mutant, root)
            lived += alive
            print(f'{"SURVIVED" if alive else "noticed ":<9} {mutant.name:<17} {place}')
    print(f'{len(mutants) - lived} of {len(mutants)} broken formulas failed a test')
    return 1 if lived else 0


if __name__ == '__main__':
    cli.run(main)
