"""Training steps of norms and signs are those of float64."""

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mmesbnn import native
from tests.native.signs import fastest_again, laid_out, needs_kernels  # noqa: F401

pytestmark = needs_kernels

NAMES = ('x', 'gain', 'bias', 'gate', 'residual', 'slope', 'shift')


def operands_at_random(
    rng,
    *,
    batch,
    channels,
    size,
    copies,
    gated,
    residual,
    multiplies,
    act,
    last=False,
    parts=1,
    sums=False,
):
    def some(*shape, mean=0.0):
        values = (rng.standard_normal(shape) + mean).astype(np.float32)
        return laid_out(values, last) if len(shape) == 4 else values

    wide = copies * channels
    x = some(batch, channels, *size, mean=rng.normal(scale=3.0))
    return native.NormOperands(
        x=np.round(100 * x).astype(np.int16) if sums else x,
        gain=some(wide),
        bias=some(wide),
        copies=copies,
        gate=some(batch, channels) if gated else None,
        residual=some(batch, wide // parts, *size) if residual or multiplies else None,
        multiplies=multiplies,
        slope=some(wide) if act else None,
        shift=some(wide) if act else None,
        channels_last=last,
        scales=np.abs(some(channels)) / 100 if sums else None,
    )


def in_float64(operands, eps=1e-5):
    """Return the operands as leaves of float64 by name, result and means, by torch's operations."""
    given = {name: getattr(operands, name) for name in NAMES}
    leaves = {
        # torch's gradient of a norm is wrong with the strides (1, 1, 2, 2) of a map of (1, 2, 1, 2)
        name: torch.from_numpy(np.ascontiguousarray(value)).double().requires_grad_()
        for name, value in given.items()
        if value is not None
    }
    ones = (1, -1, 1, 1)
    if operands.scales is not None:
        x = leaves['x'].detach() * torch.from_numpy(operands.scales).view(ones)
        leaves['x'] = x.requires_grad_()
    z, other = leaves['x'], leaves.get('residual')
    if 'gate' in leaves:
        z = z * leaves['gate'][..., None, None]
    if operands.multiplies:
        z = z * other
    z = torch.nn.functional.batch_norm(z, None, None, training=True, eps=eps)
    y = z.repeat(1, operands.copies, 1, 1) * leaves['gain'].view(ones) + leaves['bias'].view(ones)
    if other is not None:
        y = y + other.repeat(1, y.shape[1] // other.shape[1], 1, 1)
    if 'slope' in leaves:
        y = torch.where(y > 0, y, y * leaves['slope'].view(ones))
    if 'shift' in leaves:
        y = y + leaves['shift'].view(ones)
    return leaves, y, y.mean((2, 3))


def close(found, expected, scale=1.0):
    bound = 2e-5 * max(scale, expected.detach().abs().max().item())
    np.testing.assert_allclose(found, expected.detach().numpy(), rtol=0, atol=bound)


forms = st.sampled_from(['norm', 'residual', 'gated', 'multiplied', 'sums', 'sums, residual'])


@given(
    seed=st.integers(0, 10_000),
    batch=st.integers(1, 3),
    channels=st.integers(1, 5),
    size=st.sampled_from([(1, 2), (3, 3), (7, 7), (9, 31), (40, 60)]),
    copies=st.integers(1, 3),
    form=forms,
    act=st.booleans(),
    last=st.booleans(),
    data=st.data(),
)
def test_any_norm_is_that_of_float64(seed, batch, channels, size, copies, form, act, last, data):
    rng, gated = np.random.default_rng(seed), form in ('gated', 'multiplied')
    last = last and not gated
    divisors = [n for n in range(1, copies * channels + 1) if copies * channels % n == 0]
    operands = operands_at_random(
        rng,
        batch=batch,
        channels=channels,
        size=size,
        copies=1 if gated else copies,
        gated=gated,
        residual=form in ('residual', 'gated', 'sums, residual'),
        multiplies=form == 'multiplied',
        act=act and not gated,
        last=last,
        parts=data.draw(st.sampled_from(divisors)) if last else 1,
        sums=form.startswith('sums'),
    )
    # of two numbers the gradient is tiny beside its terms
    leaves, y, means = in_float64(operands, eps=0.1)
    grad = laid_out(rng.standard_normal(y.shape).astype(np.float32), last)
    of_means = (
        None
        if gated or operands.channels_last or (operands.residual is not None and not act)
        else rng.standard_normal(means.shape).astype(np.float32)
    )
    loss = (y * torch.from_numpy(grad)).sum()
    if of_means is not None:
        loss = loss + (means * torch.from_numpy(of_means)).sum()
    expected = dict(zip(leaves, torch.autograd.grad(loss, list(leaves.values()))))
    for name in native.instruction_sets():
        native.use_instruction_set(name)
        found, *others = (
            native.normalize(
                operands, eps=0.1, with_means=not operands.channels_last, threads=threads
            )
            for threads in (1, 3)
        )
        again = native.normalize(
            operands, eps=0.1, with_means=not last, stats=found.stats, threads=2
        )
        for other in (*others, again):
            np.testing.assert_array_equal(other.out, found.out)
        close(found.out, y)
        if found.means is not None:
            close(found.means, means)
        gradients = native.normalize_gradients(
            grad, operands, found.stats, of_means=of_means, threads=2
        )
        if operands.slope is not None:
            # a number whose rounding has another sign has another gradient
            inner = y - leaves['shift'].view(1, -1, 1, 1)
            if (inner.abs() < 1e-5).any():
                continue
        for name_, exact in expected.items():
            ours = getattr(gradients, name_)
            own = operands.multiplies or operands.repeats or operands.slope is not None
            if name_ == 'residual' and not own:
                assert ours is None
                continue
            close(ours, exact, scale=np.sqrt(grad.size))


@pytest.mark.parametrize('last', [False, True])
def test_statistics_of_numbers_far_from_0(last):
    """The variance is a millionth of the square of the mean."""
    rng = np.random.default_rng(0)
    x = (rng.standard_normal((3, 2, 50, 60)) + 1000).astype(np.float32)
    x[0] += 5  # images differ
    ones = np.ones(2, np.float32)
    found = native.normalize(native.NormOperands(laid_out(x, last), ones, ones, channels_last=last))
    exact = x.astype(np.float64).transpose(1, 0, 2, 3).reshape(2, -1)
    np.testing.assert_allclose(found.stats[0], exact.mean(1), rtol=1e-7)
    np.testing.assert_allclose(found.stats[2], exact.var(1), rtol=1e-5)
    np.testing.assert_allclose(found.stats[1], 1 / np.sqrt(exact.var(1) + 1e-5), rtol=1e-5)


@pytest.mark.parametrize('last', [False, True])
@pytest.mark.parametrize('act', [False, True])
def test_a_norm_of_sums_is_that_of_the_written_result(last, act):
    rng, shape = np.random.default_rng(0), (2, 70, 9, 31)
    operands = operands_at_random(
        rng,
        batch=2,
        channels=70,
        size=shape[2:],
        copies=2,
        gated=False,
        residual=True,
        multiplies=False,
        act=act,
        last=last,
        sums=True,
    )
    x = native.scale_sums(operands.x, operands.scales)
    written = dataclasses.replace(operands, x=x, scales=None)
    grad = laid_out(rng.standard_normal(operands.shape).astype(np.float32), last)
    found, expected = (native.normalize(one) for one in (operands, written))
    gradients = [native.normalize_gradients(grad, one, found.stats) for one in (operands, written)]
    for ours, theirs in ((found, expected), gradients):
        for field in dataclasses.fields(ours):
            np.testing.assert_array_equal(
                getattr(ours, field.name), getattr(theirs, field.name), strict=True
            )


@pytest.mark.parametrize('multiplies', [False, True])
@pytest.mark.parametrize('copies', [1, 4])
def test_a_result_that_is_not_written_is_read_as_if_it_were(copies, multiplies):
    rng, some = np.random.default_rng(0), dict(batch=2, size=(40, 31), residual=False)
    sums = operands_at_random(
        rng, **some, channels=3, copies=copies, gated=False, multiplies=False, act=True, sums=True
    )
    sums = dataclasses.replace(sums, shift=None)
    gated = operands_at_random(
        rng, **some, channels=3 * copies, copies=1, gated=True, multiplies=multiplies, act=False
    )
    grad = rng.standard_normal(gated.shape).astype(np.float32)
    for name in native.instruction_sets():
        native.use_instruction_set(name)
        written = native.normalize(sums, with_means=True)
        made = native.normalize(sums, with_means=True, writes=False, threads=2)
        assert made.out is None
        np.testing.assert_array_equal(made.means, written.means)
        expected = dataclasses.replace(gated, x=written.out)
        found = dataclasses.replace(gated, x=sums.x, scales=sums.scales, unwritten=made.unwritten)
        results = [native.normalize(one, threads=2) for one in (found, expected)]
        gradients = [
            native.normalize_gradients(grad, one, results[1].stats, threads=2)
            for one in (found, expected)
        ]
        for ours, theirs in (results, gradients):
            for field in dataclasses.fields(ours):
                np.testing.assert_array_equal(
                    getattr(ours, field.name), getattr(theirs, field.name), strict=True
                )


@pytest.mark.parametrize('last', [False, True])
def test_given_statistics_are_not_measured(last):
    rng = np.random.default_rng(0)
    x = laid_out(rng.standard_normal((2, 3, 5, 5)).astype(np.float32), last)
    ones, mean = np.ones(3, np.float32), np.array([1.0, -2.0, 0.5], np.float32)
    stats = np.stack([mean, 2 * ones, ones])
    operands = native.NormOperands(x, ones, ones, channels_last=last)
    found = native.normalize(operands, stats=stats)
    np.testing.assert_allclose(found.out, 2 * (x - mean[:, None, None]) + 1, atol=1e-5)
    np.testing.assert_array_equal(found.stats, stats)


def test_infinities_and_nan_stay_visible():
    x, ones = np.ones((1, 2, 4, 4), np.float32), np.ones(2, np.float32)
    x[0, 1, 2, 3] = np.nan
    operands = native.NormOperands(x, ones, ones, slope=ones)
    found = native.normalize(operands, with_means=True)
    assert np.isnan(found.out[:, 1]).all()
    assert np.isnan(found.means).tolist() == [[False, True]]
    gradients = native.normalize_gradients(np.ones_like(x), operands, found.stats)
    assert np.isnan(gradients.x).any(axis=(0, 2, 3)).tolist() == [False, True]


@given(
    seed=st.integers(0, 10_000),
    shape=st.tuples(*[st.integers(1, 3)] * 2, st.integers(1, 40), st.integers(1, 40)),
    surrogate=st.sampled_from(['window', 'triangle']),
    clip=st.sampled_from([0.5, 1.0, 1.5]),
    last=st.booleans(),
)
def test_any_gradient_of_a_sign(seed, shape, surrogate, clip, last):
    rng = np.random.default_rng(seed)
    grad, x = (rng.standard_normal(shape).astype(np.float32) for _ in range(2))
    x[rng.random(shape) < 0.2] = clip  # the bounds belong to the window
    shift = rng.choice([0.0, 0.25, -1.0], shape[1]).astype(np.float32)
    inner = x + shift[:, None, None]
    expected = grad * (
        np.abs(inner) <= clip if surrogate == 'window' else np.maximum(0, 2 - 2 * np.abs(inner))
    )
    for name in native.instruction_sets():
        native.use_instruction_set(name)
        of_x, of_shift = native.sign_gradient(
            laid_out(grad.copy(), last),
            laid_out(x, last),
            shift,
            surrogate=surrogate,
            clip=clip,
            threads=2,
        )
        np.testing.assert_array_equal(of_x, expected)
        sums = expected.astype(np.float64).sum((0, 2, 3))
        np.testing.assert_allclose(of_shift, sums, rtol=0, atol=1e-5 * np.sqrt(grad.size))
        if last:
            continue
        of_x, with_more = native.sign_gradient(
            grad.copy(), x, shift, surrogate=surrogate, clip=clip, more=grad, threads=2
        )
        np.testing.assert_array_equal(of_x, expected + grad)
        np.testing.assert_array_equal(with_more, of_shift)
        of_means = rng.standard_normal(shape[:2]).astype(np.float32)
        for more in (None, grad):
            of_x, with_means = native.sign_gradient(
                *(grad.copy(), x, shift),
                **dict(surrogate=surrogate, clip=clip, more=more, of_means=of_means, threads=2),
            )
            added = of_means[..., None, None] / (shape[2] * shape[3])
            whole = expected + added + (0 if more is None else more)
            np.testing.assert_allclose(of_x, whole, rtol=0, atol=1e-5)
            np.testing.assert_array_equal(with_means, of_shift)


@given(
    seed=st.integers(0, 10_000),
    shape=st.tuples(*[st.integers(1, 3)] * 2, st.integers(1, 40), st.integers(1, 40)),
)
def test_any_gradient_of_a_prelu(seed, shape):
    rng = np.random.default_rng(seed)
    grad, x = (rng.standard_normal(shape).astype(np.float32) for _ in range(2))
    x[rng.random(shape) < 0.2] = 0
    slope = rng.standard_normal(shape[1]).astype(np.float32)
    leaves = [torch.from_numpy(one).double().requires_grad_() for one in (x, slope)]
    expected = torch.autograd.grad(
        torch.nn.functional.prelu(*leaves), leaves, torch.from_numpy(grad).double()
    )
    for name in native.instruction_sets():
        native.use_instruction_set(name)
        of_x, of_slope = native.prelu_gradients(grad, x, slope, threads=2)
        np.testing.assert_allclose(of_x, expected[0].numpy(), rtol=1e-6)
        close(of_slope, expected[1], scale=np.sqrt(grad.size))


def test_wrong_arguments_are_named():
    x, ones = np.ones((2, 3, 4, 4), np.float32), np.ones(3, np.float32)
    sums, gates, table = x.astype(np.int16), x[..., 0, 0].copy(), np.ones((3, 3), np.float32)
    operands = native.NormOperands(x, ones, ones)
    found = native.normalize(operands)
    cases = [
        (lambda: native.NormOperands(x[0], ones, ones), 'x has the shape'),
        (lambda: native.NormOperands(x.astype(np.float64), ones, ones), 'x is of float64'),
        (
            lambda: native.NormOperands(x, ones, ones, scales=ones),
            'x is of float32; it must be a int',
        ),
        (lambda: native.NormOperands(sums, ones, ones), 'x is of int16'),
        (lambda: native.NormOperands(sums, ones, ones, scales=ones[:2]), 'scales has the shape'),
        (
            lambda: native.NormOperands(sums, ones, ones, gate=gates, scales=ones),
            'gate is for one copy without slope and scales',
        ),
        (
            lambda: native.NormOperands(sums, ones, ones, scales=ones, unwritten=table),
            'unwritten is for operands with a gate and scales',
        ),
        (
            lambda: native.NormOperands(x, ones, ones, gate=gates, unwritten=table),
            'unwritten is for operands with a gate and scales',
        ),
        (
            lambda: native.NormOperands(
                sums[:, :2].copy(), ones, ones, gate=gates, scales=ones[:2], unwritten=table
            ),
            'a multiple C of the 2 channels of x',
        ),
        (
            lambda: native.NormOperands(
                sums, ones, ones, gate=gates, scales=ones, unwritten=table[:2]
            ),
            'unwritten has the shape',
        ),
        (lambda: native.normalize(operands, writes=False), 'writes=False needs scales'),
        (
            lambda: native.normalize(
                native.NormOperands(sums, ones, ones, scales=ones, slope=ones, shift=ones),
                writes=False,
            ),
            'writes=False is not for a residual or a shift',
        ),
        (lambda: native.NormOperands(x, ones[:2], ones), 'gain has the shape'),
        (lambda: native.NormOperands(x, ones, ones, copies=2), 'gain has the shape'),
        (lambda: native.NormOperands(x, ones, ones, copies=0), 'copies=0'),
        (lambda: native.NormOperands(x, ones, ones, residual=x[:1]), 'residual has the shape'),
        (lambda: native.NormOperands(x, ones, ones, gate=ones[None]), 'gate has the shape'),
        (
            lambda: native.NormOperands(x, ones, ones, gate=gates, slope=ones),
            'gate is for one copy',
        ),
        (lambda: native.NormOperands(x, ones, ones, multiplies=True), 'needs gate and residual'),
        (
            lambda: native.NormOperands(x, ones, ones, residual=laid_out(x, True)),
            'residual has another layout',
        ),
        (
            lambda: native.normalize(
                native.NormOperands(laid_out(x, True), ones, ones, channels_last=True), eps=-1.0
            ),
            'normalize: its sizes do not fit',
        ),
        (
            lambda: native.normalize(
                native.NormOperands(laid_out(x, True), ones, ones, channels_last=True),
                with_means=True,
            ),
            'with_means=True is not',
        ),
        (
            lambda: native.NormOperands(
                laid_out(x, True), ones, ones, residual=laid_out(x[:, :2], True), channels_last=True
            ),
            'or have a divisor of its channels',
        ),
        (lambda: native.normalize(operands, stats=found.stats[:2]), 'stats has the shape'),
        (lambda: native.normalize(operands, eps=-1.0), 'normalize: its sizes do not fit'),
        (lambda: native.normalize(operands, threads=0), 'threads=0'),
        (lambda: native.normalize_gradients(x[:1], operands, found.stats), 'grad has the shape'),
        (lambda: native.normalize_gradients(x, operands, found.stats[:2]), 'stats has the shape'),
        (
            lambda: native.normalize_gradients(x, operands, found.stats, of_means=ones[None]),
            'of_means has the shape',
        ),
        (
            lambda: native.normalize_gradients(
                x, dataclasses.replace(operands, residual=x), found.stats, of_means=x.mean((2, 3))
            ),
            'without a residual that is only added',
        ),
        (lambda: native.sign_gradient(x, x, ones, surrogate='step'), "surrogate='step'"),
        (lambda: native.sign_gradient(x, x, ones[:2], surrogate='window'), 'shift has the shape'),
        (lambda: native.sign_gradient(x[:1], x, ones, surrogate='window'), 'grad has the shape'),
        (
            lambda: native.sign_gradient(x, x, ones, surrogate='window', more=x[:1]),
            'more has the shape',
        ),
        (
            lambda: native.sign_gradient(
                laid_out(x, True), laid_out(x, True), ones, surrogate='window', more=x
            ),
            'more and of_means are not for maps with channels last',
        ),
        (lambda: native.prelu_gradients(x[:1], x, ones), 'grad has the shape'),
        (lambda: native.prelu_gradients(x, x, ones[:2]), 'slope has the shape'),
    ]
    for call, message in cases:
        with pytest.raises(native.NativeError, match=message):
            call()
