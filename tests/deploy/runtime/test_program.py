"""Programs of unknown origin are checked in Python and again in the library."""

import copy
import json
import random

import numpy as np
import pytest

from mmesbnn import native
from mmesbnn.deploy.runtime.program import Program
from mmesbnn.deploy.runtime.program_file import MAGIC, ProgramError, read_program, write_program
from mmesbnn.deploy.runtime.program_maps import Data
from mmesbnn.deploy.runtime.schema import Unfit

needs_library = pytest.mark.skipif(
    not native.available(), reason='the native kernels are not compiled'
)

NONE = [0, 0, 0, 0]


def content():
    """Return every step once: a 1x1 convolution, signs, a binary convolution, means."""
    window = dict(kernel=[1, 1], stride=[1, 1], padding=[0, 0], dilation=[1, 1])
    shape = dict(height=4, width=4)
    sweep = [
        ['fma', [1, 0, 0, 0], [3, 3, 0, 8], [2, 0, 0, 0], [2, 16, 0, 0], NONE],
        ['mul', [5, 5, 0, 8], [1, 0, 0, 0], [3, 6, 0, 8], NONE, NONE],
        ['copy', [4, 4, 0, 8], [1, 0, 0, 0], NONE, NONE, NONE],
    ]
    bits = ['bits', [3, 2, 0, 8], [3, 1, 0, 8], [2, 16, 0, 0], NONE, NONE]
    twice = ['copy', [3, 6, 0, 8], [3, 4, 0, 4], NONE, NONE, NONE]
    whole = dict(
        format=1,
        memory=4096,
        nbytes=1024,
        maps=[
            dict(kind='float', channels=3, offset=0, **shape),
            dict(kind='float', channels=8, offset=256, **shape),
            dict(kind='bits', channels=8, offset=1024, **shape),
            dict(kind='int16', channels=8, offset=1280, **shape),
            dict(kind='float', channels=8, offset=2048, height=1, width=1),
            dict(kind='float', channels=8, offset=2112, height=2, width=2),
            dict(kind='float', channels=8, offset=2560, height=1, width=1),
        ],
        steps=[
            dict(op='input', to=0),
            dict(op='real_conv', source=0, to=1, at=0, kernels=8, groups=1, weights=64, **window),
            dict(op='sweep', **shape, segments=[dict(channels=8, code=[bits])]),
            dict(
                op='binary_conv', source=2, to=3, at=0, kernels=8, pad_value=0, weights=64, **window
            ),
            dict(op='sweep', height=1, width=1, segments=[dict(channels=8, code=[twice])]),
            dict(op='sweep', **shape, segments=[dict(channels=8, code=sweep)]),
            dict(
                op='pool', source=5, to=6, kernel=[2, 2], stride=[2, 2], padding=[0, 0],
                maximum=True, count_padding=False,
            ),
            dict(op='output', source=4),
            dict(op='output', source=1),
        ],
    )  # fmt: skip
    return copy.deepcopy(whole)  # with separate lists, because tests change them


def data():
    values = np.random.default_rng(0).standard_normal(256).astype(np.float32)
    return values.view(np.uint8)


def engine(program):
    return native.Engine(np.array(program.code()), data())


@needs_library
def test_a_program_written_by_hand():
    runs = engine(Program.from_dict(content()))
    assert (runs.input_shape, runs.output_shapes) == ((3, 4, 4), [(8, 1, 1), (8, 4, 4)])
    assert runs.steps == 9
    x = np.random.default_rng(1).standard_normal((2, 3, 4, 4)).astype(np.float32)
    floats, words = data().view(np.float32), data().view(np.uint64)
    kernels = floats[64 : 64 + 48].reshape(3, 16)[:, :8]
    real = np.einsum('nchw,ck->nkhw', x.astype(np.float64), kernels)
    signs = real > floats[16:24, None, None]
    bits = (words[64:72, None] >> np.arange(8, dtype=np.uint64)) & np.uint64(1)
    sums = np.einsum('nchw,kc->nkhw', np.where(signs, 1, -1), np.where(bits, 1, -1))
    # the kernels also compare the bits after the last channel, which are not 0 in these weights
    rest = words[64:72] >> np.uint64(8)
    sums = sums - 2 * np.array([bin(int(r)).count('1') for r in rest])[:, None, None]
    expected = sums.mean((2, 3)) * floats[:8] + floats[16:24]
    for threads in (1, 2):
        means, maps = runs.run(x, threads=threads)
        np.testing.assert_allclose(means[:, :, 0, 0], expected, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(maps, real, rtol=1e-5, atol=1e-5)
    seconds = np.zeros(9)
    runs.run(x, seconds=seconds)
    assert (seconds > 0).all()


@needs_library
def test_what_does_not_fit_the_network_is_named():
    runs = engine(Program.from_dict(content()))
    with pytest.raises(native.NativeError, match=r'images has the shape \(1, 3, 4, 5\)'):
        runs.run(np.zeros((1, 3, 4, 5), np.float32))
    frozen = np.zeros(9)
    frozen.flags.writeable = False
    for seconds, message in [
        (np.zeros(2), r'seconds has the shape \(2,\); it must be \(9,\)'),
        ([0.0] * 9, 'seconds has the shape|seconds is of list'),
        (np.zeros(9, np.float32), 'seconds is of float32; it must be a float64 array'),
        (np.broadcast_to(0.0, 9), 'seconds must be contiguous'),
        (frozen, 'seconds is overwritten, but it is read-only'),
    ]:
        with pytest.raises(native.NativeError, match=message):
            runs.run(np.zeros((1, 3, 4, 4), np.float32), seconds=seconds)
    with pytest.raises(native.NativeError, match='threads=0'):
        runs.run(np.zeros((1, 3, 4, 4), np.float32), threads=0)


@pytest.mark.parametrize(
    ('path', 'value', 'message'),
    [
        (('memory',), 4000, r'memory=4000 must be a multiple of 64'),
        (('maps', 0, 'offset'), 8, r'maps\[0\].offset=8'),
        (('maps', 5, 'channels'), 10**6, r'maps\[5\].offset=2112'),
        (('steps', 1, 'source'), 2, r'steps\[1\].source=2 must be the number of a map of float'),
        (('steps', 1, 'source'), 99, r'steps\[1\].source=99'),
        (('steps', 1, 'weights'), 255, r'steps\[1\].weights=255'),
        (('steps', 1, 'groups'), 2, r'steps\[1\].groups=2 must be a divisor of 3, 8'),
        (('steps', 1, 'kernels'), 9, r'steps\[1\].at=0'),
        (('steps', 2, 'segments', 0, 'channels'), 9, r'segments\[0\].code\[0\].to='),
        (('steps', 2, 'segments', 0, 'code', 0, 1), [1, 0, 0, 0], 'where bits can write'),
        (('steps', 5, 'segments', 0, 'code', 0, 2), [3, 3, 1, 8], 'what can be read for 8'),
        (('steps', 5, 'segments', 0, 'code', 0, 2), [1, 16, 0, 0], 'what can be read'),
        (('steps', 5, 'segments', 0, 'code', 0, 3), [2, 250, 0, 0], 'what can be read'),
        (('steps', 5, 'segments', 0, 'code', 0, 5), [1, 0, 0, 0], 'what can be read'),
        (('steps', 5, 'segments', 0, 'code', 0, 0), 'system', r'code\[0\]=.*one of copy, add'),
        (('steps', 3, 'weights'), 121, r'steps\[3\].weights=121'),
        (('steps', 3, 'kernel'), [64, 64], r'steps\[3\].to=3 must be a map that holds 32768'),
        (('steps', 6, 'to'), 0, r'steps\[6\].to=0 must be a map of 8 channels'),
        (('steps', 7, 'op'), 'input', 'one of|left out|dict with'),
        (('steps', 0, 'to'), True, 'integer'),
        (('nbytes',), 400, r'steps\[1\].weights=64 must be so that 48 floats follow'),
        (('format',), 2, 'format=2'),
    ],
)  # fmt: skip
def test_wrong_numbers_are_named(path, value, message):
    changed = content()
    place = changed
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    with pytest.raises(Unfit, match=message):
        Program.from_dict(changed)


def test_a_program_has_one_input_and_an_output():
    steps = content()['steps']
    for wrong, message in (
        (steps[:-2], "steps='0 of Output' must be one or more"),
        (steps[1:], "steps='0 of Input' must be one"),
        ([steps[0], *steps], "steps='2 of Input' must be one"),
    ):
        with pytest.raises(Unfit, match=message):
            Program.from_dict({**content(), 'steps': wrong})


def with_pools(count):
    """Return a program with pools of 2**28 operations each."""
    changed = content()
    pool = {**changed['steps'][6], 'kernel': [4096, 4096]}
    return {**changed, 'steps': [*changed['steps'][:6], *[pool] * count, *changed['steps'][7:]]}


def with_sweeps(count, instruction):
    """Return a program with sweeps over a pixel of 2**20 channels, of 64 instructions each."""
    wide = dict(kind='float', height=1, width=1, channels=2**20, offset=4096)
    sweep = dict(
        op='sweep', height=1, width=1, segments=[dict(channels=2**20, code=[instruction] * 64)]
    )
    changed = {**content(), 'memory': 2**23}
    return {
        **changed,
        'maps': [*changed['maps'], wide],
        'steps': [*changed['steps'], *[sweep] * count],
    }


#: Of 2**20 pieces.
REPEATED = ['copy', [1, 0, 0, 0], [3, 7, 0, 1], NONE, NONE, NONE]
SIGMOID = ['sigmoid', [1, 0, 0, 0], [1, 0, 0, 0], NONE, NONE, NONE]


def with_outputs(count):
    changed = content()
    return {**changed, 'steps': [*changed['steps'], *[dict(op='output', source=1)] * count]}


@needs_library
@pytest.mark.parametrize(
    ('fits', 'too_large', 'message'),
    [
        # 544 bytes of outputs, and 64 floats for each of 8 means
        (
            {**content(), 'memory': 2**31 - 2624},
            {**content(), 'memory': 2**31 - 2560},
            r"steps='2,147,483,680 bytes of maps, outputs and sums' must be 2,147,483,648 or fewer",
        ),
        (
            {**with_outputs(1), 'memory': 2**31 - 3136},
            {**with_outputs(2), 'memory': 2**31 - 3136},
            'bytes of maps, outputs and sums',
        ),
        (with_pools(1023), with_pools(1024), r"operations' must be 274,877,906,944 or fewer"),
        (with_sweeps(63, REPEATED), with_sweeps(64, REPEATED), 'operations'),
        (with_sweeps(511, SIGMOID), with_sweeps(512, SIGMOID), 'operations'),
    ],
    ids=['memory', 'outputs', 'work', 'pieces', 'sigmoids'],
)
def test_memory_and_work_are_limited(fits, too_large, message, monkeypatch):
    engine(Program.from_dict(fits))
    with pytest.raises(Unfit, match=message):
        Program.from_dict(too_large)
    monkeypatch.setattr('mmesbnn.deploy.runtime.program.MOST_MEMORY', 2**40)
    monkeypatch.setattr('mmesbnn.deploy.runtime.program.MOST_WORK', 2**50)
    with pytest.raises(native.NativeError, match='the program is wrong at its number'):
        engine(Program.from_dict(too_large))


def test_work_is_counted_in_whole_vectors():
    program = Program.from_dict(content())
    data = Data(maps=program.maps, nbytes=program.nbytes)
    work = [step.work(data) for step in program.steps]
    # a convolution of 3 channels, bits, one word of 8 kernels, one pixel of two pieces,
    # 3 instructions, a pool
    assert work == [0, 16 * 3 * 16, 16 * 16, 16 * 8, 16 + 64, 16 * 3 * 16, 16 * 4, 0, 0]


def places(value, path=()):
    """Yield the paths of all integers."""
    entries = value.items() if isinstance(value, dict) else enumerate(value)
    for key, entry in entries:
        if isinstance(entry, (dict, list)):
            yield from places(entry, (*path, key))
        elif isinstance(entry, int):
            yield (*path, key)


@needs_library
def test_the_library_takes_what_python_takes():
    """The library then reads and writes only its own memory."""
    chance = random.Random(0)
    paths, accepted = list(places(content())), 0
    for path in paths:
        for value in (0, 1, 2, 3, 5, 7, 9, 16, 63, chance.randrange(2000), 2**31, 2**40):
            changed = content()
            place = changed
            for key in path[:-1]:
                place = place[key]
            if isinstance(place[path[-1]], bool):
                continue
            place[path[-1]] = value
            try:
                program = Program.from_dict(changed)
            except Unfit:
                continue
            if program.nbytes != 1024:
                continue
            accepted += 1
            runs = engine(program)
            runs.run(np.ones((1, *runs.input_shape), np.float32))
    assert accepted > len(paths)


@needs_library
def test_the_library_checks_by_itself():
    code = np.array(Program.from_dict(content()).code())
    chance, refused = random.Random(1), 0
    for place in range(len(code)):
        for value in (-1, 0, 1, 5, 17, 255, chance.randrange(5000), 2**33, 2**62, -(2**62)):
            changed = code.copy()
            changed[place] = value
            try:
                runs = native.Engine(changed, data())
            except native.NativeError:
                refused += 1
                continue
            runs.run(np.ones((1, *runs.input_shape), np.float32), threads=2)
        with pytest.raises(native.NativeError, match=f'wrong at its number {place}'):
            native.Engine(code[:place], data())
    assert refused > 5 * len(code)


@needs_library
def test_data_are_bytes_in_a_row():
    program = Program.from_dict(content())
    code, whole = np.array(program.code()), data()
    images = np.ones((1, *engine(program).input_shape), np.float32)
    backwards = native.Engine(code, whole[::-1].copy()[::-1])
    for one, two in zip(backwards.run(images), engine(program).run(images), strict=True):
        np.testing.assert_array_equal(one, two)
    for wrong, message in [
        (whole.view(np.float32), 'data is of float32; it must be a uint8 array'),
        (whole.reshape(2, -1), r'data has the shape \(2, \d+\); it must have 1 axes'),
        (bytes(whole), 'data is of bytes'),
    ]:
        with pytest.raises(native.NativeError, match=message):
            native.Engine(code, wrong)


@pytest.fixture
def written(tmp_path):
    path = tmp_path / 'model.native'
    write_program(path, Program.from_dict(content()), data())
    return path


def test_a_file_holds_the_program(written):
    program, values = read_program(written)
    assert program == Program.from_dict(content())
    np.testing.assert_array_equal(values, data())
    assert values.ctypes.data % 64 == 0


def edit(path, change):
    raw = path.read_bytes()
    size = int.from_bytes(raw[8:16], 'little')
    header = change(json.loads(raw[16 : 16 + size]))
    text = json.dumps(header).encode()
    path.write_bytes(raw[:8] + len(text).to_bytes(8, 'little') + text + raw[16 + size :])


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (lambda raw: b'PK' + raw[2:], 'does not begin as a program does'),
        (lambda raw: MAGIC + (2**40).to_bytes(8, 'little') + raw[16:], 'does not begin'),
        (lambda raw: raw[:-1], 'nbytes=1024 must be 1023, which follow'),
        (lambda raw: raw + b'0', 'nbytes=1024 must be 1025'),
        (lambda raw: raw[:-1] + bytes([raw[-1] ^ 1]), 'not that of its sha256'),
        (lambda raw: raw[:20] + b'\xff' + raw[21:], 'cannot be read'),
        (lambda raw: raw[:10], 'cannot be read'),
        (lambda raw: b'', 'does not begin'),
    ],
)
def test_other_files_are_refused(written, change, message):
    written.write_bytes(change(written.read_bytes()))
    with pytest.raises(ProgramError, match=message):
        read_program(written)


def test_a_changed_header_is_refused(written):
    edit(written, lambda header: {**header, 'more': 1})
    with pytest.raises(ProgramError, match='more=1 must be left out'):
        read_program(written)
    edit(written, lambda header: [])
    with pytest.raises(ProgramError, match='must be a dict'):
        read_program(written)


def test_what_is_no_file_is_named(tmp_path):
    with pytest.raises(ProgramError, match='a folder, not a file'):
        read_program(tmp_path)
    with pytest.raises(ProgramError, match='No such file'):
        read_program(tmp_path / 'none')
