"""Wrong paths given to every tool: one line that names the path, and nothing written."""

import os
from pathlib import Path

import pytest

from tests.campaigns.bench import assert_one_line

for name in ('mmdet', 'mmpretrain', 'openvino', 'onnxruntime', 'diffusers', 'skimage'):
    pytest.importorskip(name)
pytestmark = pytest.mark.slow

#: For each tool a call that is right. ``KIND:PATH`` is a path that is attacked, where KIND
#: says what the tool wants there: a ``file`` or ``folder`` to read, ``either`` of them, a
#: file to write ``to``, a folder to write ``into``.
CALLS = {
    'check_binary.py': ['file:config.py', 'file:hard.pth'],
    'compare_deployed.py': [
        'file:config.py',
        'file:hard.pth',
        'file:made/pack.safetensors',
        'folder:made/export',
    ],
    'convert_checkpoint.py': ['file:published.pth', 'to:x.pth'],
    'count_ops.py': ['file:config.py', '--json', 'to:x.json'],
    'demo.py': ['--work-dir', 'into:x'],
    'demo_det.py': ['--work-dir', 'into:x'],
    'demo_sr.py': ['--work-dir', 'into:x'],
    'export_onnx.py': ['file:config.py', 'file:hard.pth', 'to:x.onnx'],
    'export.py': ['file:made/pack.safetensors', '--out', 'into:x'],
    'infer.py': [
        'folder:made/export',
        'either:image.png',
        '--out',
        'into:x',
        '--json',
        'to:x.json',
    ],
    'make_digits.py': ['into:x'],
    'make_mini_voc.py': ['into:x', '--counts', '1', '1', '1', '--size', '48', '48'],
    'pack_checkpoint.py': ['file:hard.pth', 'to:x.safetensors', '--config', 'file:config.py'],
    'test_sr.py': [
        'file:sr.py',
        'file:sr.pth',
        '--export',
        'into:x',
        '--out',
        'into:y',
        '--work-dir',
        'into:z',
    ],
    'train_sr.py': ['file:sr.py', '--work-dir', 'into:x'],
    'upscale.py': [
        'file:image.png',
        '--model',
        'either:made/pipeline',
        '--steps',
        '1',
        '--out',
        'into:x',
    ],
    'benchmarks/latency.py': ['--quick', '--config', 'file:config.py', '--out', 'into:x'],
    'benchmarks/es_vs_baseline.py': ['--preset', 'tiny', '--out', 'into:x/name'],
}


def missing(path):
    """Nothing is there."""


def file(path):
    path.write_bytes(b'')


def folder(path):
    path.mkdir()


def dangling(path):
    path.symlink_to(path.with_name('nothing'))


def loop(path):
    path.symlink_to(path)


def pipe(path):
    os.mkfifo(path)


def locked(path):
    path.write_bytes(b'x')
    path.chmod(0)


def locked_folder(path):
    path.mkdir(mode=0)


#: What is at the place, by what the tool wants there.
WRONG = {
    'file': [missing, file, folder, dangling, loop, pipe, locked],
    'folder': [missing, file, folder, dangling, loop, pipe, locked_folder],
    'either': [missing, dangling, loop, pipe, locked],
    'to': [folder, loop, pipe, locked],
    'into': [file, loop, pipe, locked_folder],
}
#: Places where nothing can be.
NOWHERE = ['under a file', 'a long name']


def wrong_path(rng, kind, right, place):
    """A path of the kind that ``right`` is, and what is wrong with it."""
    suffix = Path(right).suffix
    ways = [*WRONG[kind], *NOWHERE, *['in no folder'] * (kind == 'to')]
    if not os.geteuid():  # root may read and write all
        ways = [way for way in ways if way not in (locked, locked_folder)]
    way = rng.choice(ways)
    if way == 'under a file':
        (place / 'plain').write_bytes(b'')
        return place / 'plain' / f'there{suffix}', way
    if way == 'a long name':
        return place / f'{"n" * 300}{suffix}', way
    if way == 'in no folder':
        return place / 'nowhere' / f'there{suffix}', way
    way(place / f'there{suffix}')
    return place / f'there{suffix}', way.__name__


def call(rng, bench, tool, place):
    """The words of the call, the wrong path in it, and what is wrong."""
    words = CALLS[tool]
    attacked = rng.choice([i for i, word in enumerate(words) if ':' in word])
    kind, right = words[attacked].split(':')
    wrong, what = wrong_path(rng, kind, right, place)
    # a name in the folder that is attacked
    given = wrong.joinpath(*Path(right).parts[1:]) if kind == 'into' else wrong
    read = ('file', 'folder', 'either')
    args = []
    for i, word in enumerate(words):
        kind, _, path = word.rpartition(':')
        above = bench.folder if kind in read else place
        args.append(str(given) if i == attacked else str(above / path) if kind else word)
    return args, wrong, f'{tool} {words[attacked]}: {what}'


def test_wrong_paths_are_named(campaign, bench, tmp_path):
    for i, rng in enumerate(campaign.draws(least=15)):
        place = tmp_path / f'{i}'
        place.mkdir()
        tool = rng.choice(list(CALLS))
        args, wrong, what = call(rng, bench, tool, place)
        before = sorted(place.rglob('*'))
        status, _, err = bench.server.run(tool, args, bench.folder)
        with campaign.attempt(what):
            assert_one_line(Path(tool).name, status, err, {2})
            assert wrong.name[:20] in err.decode(), err.decode()[-700:]
            assert sorted(place.rglob('*')) == before, 'something is left'
