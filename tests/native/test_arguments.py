"""Arguments that the functions of the kernels refuse, by their names."""

import numpy as np
import pytest

from mmesbnn import native
from tests.native.signs import needs_kernels

pytestmark = needs_kernels

F, U64 = np.float32, np.uint64
MAP, HALF, ROW = (2, 4, 6, 6), (2, 4, 3, 3), (4,)


def _array(*shape, kind=F):
    return np.random.default_rng(0).standard_normal(shape).astype(kind)


def _packed():
    return native.pack_signs(_array(*MAP))


def _weights():
    return native.pack_weights(np.ones((4, 4, 3, 3), F))


def _head_operands():
    return dict(x=_array(2, 3, 4), shift=_array(4))


#: Function, arguments of arrays, other arguments; packed ones are made when they are needed.
CALLS = [
    (native.pack_signs, dict(x=_array(*MAP), thresholds=_array(4)), {}),
    (native.pack_weights, dict(weight=np.ones((4, 2, 3, 3), F), thresholds=_array(4)), {}),
    (native.scale_sums, dict(sums=np.ones(MAP, np.int16), scales=_array(4)), {}),
    (
        native.input_gradient,
        dict(grad=_array(*MAP)),
        dict(weights=_weights, size=(6, 6), padding=(1, 1)),
    ),
    (
        native.weight_gradient,
        dict(grad=_array(*MAP)),
        dict(x=_packed, kernel_size=(3, 3), padding=(1, 1)),
    ),
    (
        native.latent_gradient,
        dict(grad=_array(4, 2, 3, 3), weight=_array(4, 2, 3, 3), limits=_array(4)),
        dict(clip=1.0),
    ),
    (
        native.sign_gradient,
        dict(grad=_array(*MAP), x=_array(*MAP), shift=_array(4), more=_array(*MAP)),
        dict(surrogate='window'),
    ),
    (native.prelu_gradients, dict(grad=_array(*MAP), x=_array(*MAP), slope=_array(4)), {}),
    (native.elastic_values, dict(x=_array(*MAP)), dict(clip=1.0)),
    (native.elastic_gradients, dict(grad=_array(*MAP), x=_array(*MAP)), dict(clip=1.0)),
    (native.head_signs, _head_operands(), dict(heads=2)),
    (
        native.head_signs_gradient,
        dict(grad=_array(2, 2, 3, 2), **_head_operands()),
        dict(heads=2, surrogate='triangle'),
    ),
    (
        native.add_cross,
        dict(base=_array(*MAP), x=_array(*MAP), taps=_array(5, 6), shift=_array(6)),
        {},
    ),
    (native.cross_gradients, dict(grad=_array(*MAP), x=_array(*MAP), taps=_array(5, 6)), {}),
    (native.average_pool, dict(x=_array(*MAP)), {}),
    (native.average_pool_gradient, dict(grad=_array(*HALF)), {}),
    (native.average_activated, dict(x=_array(*MAP), slope=_array(4)), {}),
    (
        native.average_activated_gradients,
        dict(grad=_array(*HALF), x=_array(*MAP), slope=_array(4)),
        {},
    ),
    (native.average_neighbours, dict(x=_array(*MAP)), {}),
    (native.average_neighbours_gradient, dict(grad=_array(2, 3, 4)), dict(window=2)),
    (native.max_pool, dict(x=_array(*MAP)), dict(kernel=2, stride=2, padding=0)),
    (
        native.NormOperands,
        dict(
            x=_array(*MAP),
            gain=_array(4),
            bias=_array(4),
            residual=_array(*MAP),
            slope=_array(4),
            shift=_array(4),
        ),
        {},
    ),
    (
        native.NormOperands,
        dict(
            x=np.ones(MAP, np.int16),
            gain=_array(8),
            bias=_array(8),
            gate=_array(2, 8),
            scales=_array(4),
            unwritten=_array(3, 8),
        ),
        {},
    ),
]
CASES = [
    pytest.param(function, arrays, others, name, id=f'{function.__name__}-{name}')
    for function, arrays, others in CALLS
    for name in arrays
]


def _call(function, arrays, others, **changed):
    """Call a function with copies of the arrays, but those of ``changed``."""
    packed = {name: value() if callable(value) else value for name, value in others.items()}
    fresh = {name: array.copy() for name, array in arrays.items()}
    return function(**{**fresh, **packed, **changed})


@pytest.mark.parametrize(('function', 'arrays', 'others', 'name'), CASES)
def test_other_arguments_are_refused_by_name(function, arrays, others, name):
    _call(function, arrays, others)  # these fit
    good = arrays[name]
    for bad in (good.tolist(), 3, 'x', good.astype(np.float64)):
        with pytest.raises(native.NativeError, match=rf'\b({"|".join(arrays)})\b'):
            _call(function, arrays, others, **{name: bad})


def _results(function, arrays, others, **changed):
    found = _call(function, arrays, others, **changed)
    if isinstance(found, native.Packed | native.PackedWeights):
        return [found.words]
    if isinstance(found, native.NormOperands):
        return []  # it refuses what is not contiguous
    return [one for one in (found if isinstance(found, tuple) else (found,)) if one is not None]


@pytest.mark.parametrize(('function', 'arrays', 'others', 'name'), CASES)
def test_other_layouts_are_copied_or_refused(function, arrays, others, name):
    expected = _results(function, arrays, others)
    spread = np.repeat(arrays[name], 2, axis=-1)[..., ::2]
    try:
        found = _results(function, arrays, others, **{name: spread})
    except native.NativeError as error:
        assert name in str(error)
    else:
        for one, other in zip(found, expected, strict=True):
            np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(('function', 'arrays', 'others', 'name'), CASES)
def test_read_only_arrays_are_not_written(function, arrays, others, name):
    frozen = np.frombuffer(arrays[name].tobytes(), arrays[name].dtype).reshape(arrays[name].shape)
    before = frozen.copy()
    try:
        _call(function, arrays, others, **{name: frozen})
    except native.NativeError as error:
        assert f'{name} is overwritten, but it is read-only' in str(error)
    np.testing.assert_array_equal(frozen, before)


@pytest.mark.parametrize('clip', [float('nan'), float('inf'), -1.0, '1'])
def test_clips_that_are_no_width_are_refused(clip):
    for function, arrays, others in CALLS:
        if 'clip' in others or 'surrogate' in others:
            with pytest.raises(native.NativeError, match=f'clip={clip!r} must be a number'):
                _call(function, arrays, others, clip=clip)


def _words(*shape, kind=U64):
    return np.zeros(shape, kind)


@pytest.mark.parametrize(
    ('words', 'channels', 'message'),
    [
        (_words(1, 4, 4, 1, 1), 65, r'words has the shape \(1, 4, 4, 1, 1\)'),
        (_words(1, 4, 4, 1, 1, kind=np.uint8), 64, 'words is of uint8'),
        (_words(1, 4, 4, 1), 64, 'words has the shape'),
        (_words(1, 4, 4, 2, 1), 63, 'channels=63 must be a multiple of 2 groups'),
        (_words(1, 4, 4, 1, 1), 0, 'channels=0'),
        (_words(1, 4, 8, 1, 1)[:, :, ::2], 64, 'words must be contiguous'),
        ([0], 64, 'words is of list'),
    ],
)
def test_signs_whose_words_do_not_fit_are_refused(words, channels, message):
    with pytest.raises(native.NativeError, match=message):
        native.Packed(words, channels)


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        (dict(scales=np.ones(9, F)), 'words has the shape'),
        (dict(scales=np.ones((8, 1), F)), 'scales has the shape'),
        (dict(scales=np.ones(8)), 'scales is of float64'),
        (dict(kernel_size=(3, 4)), 'words has the shape'),
        (dict(kernel_size=3), 'kernel_size=3 must be two integers'),
        (dict(channels=65), 'words has the shape'),
        (dict(words=_words(1, 1, 9, 1, 8, kind=np.int64)), 'words is of int64'),
        (dict(words=_words(2, 1, 9, 1, 8), scales=np.ones(7, F)), 'scales has 7 entries for 2'),
    ],
)
def test_weights_whose_words_do_not_fit_are_refused(changes, message):
    good = dict(words=_words(1, 1, 9, 1, 8), scales=np.ones(8, F), kernel_size=(3, 3), channels=64)
    native.PackedWeights(**good)
    with pytest.raises(native.NativeError, match=message):
        native.PackedWeights(**{**good, **changes})


def test_operands_that_are_not_packed_are_refused():
    for call, message in [
        (lambda: native.convolve(3, _weights()), 'x is of int; it must be Packed'),
        (lambda: native.convolve(_packed(), 3), 'weights is of int; it must be PackedWeights'),
        (lambda: native.convolve_sums(_packed(), None), 'weights is of NoneType'),
        (lambda: native.convolve(_packed(), _weights(), stride=1), 'stride=1 must be two'),
        (lambda: native.input_gradient(_array(*MAP), 3, size=(6, 6)), 'weights is of int'),
        (lambda: native.weight_gradient(_array(*MAP), 3, kernel_size=(1, 1)), 'x is of int'),
    ]:
        with pytest.raises(native.NativeError, match=message):
            call()
