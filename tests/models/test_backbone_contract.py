"""The contract of all backbones; a line in tests/families.py adds a new one.

That every module is called, and that low precision is finite, is tested of these and other
networks in test_modules_are_called.py and test_low_precision.py.
"""

import copy

import numpy as np
import pytest
import torch
from mmengine.registry import MODELS
from torch import nn

from mmesbnn.analysis import check_binary, count_ops
from mmesbnn.binary import (
    InputForm,
    LearnedScaleWeight,
    SignWeight,
    SwishSign,
    TiledBatchNorm2d,
    binary_layers,
)
from mmesbnn.deploy import load_packed, pack
from mmesbnn.models.backbones import BiDetResNet, BiDetVGG, BinaryViT, BNext
from tests.families import BACKBONES
from tests.models.backbones import binary_convs, spread, step

STATISTICS = ('running_mean', 'running_var', 'num_batches_tracked')
every_backbone = pytest.mark.parametrize('row', BACKBONES.values(), ids=BACKBONES)


def norms(model):
    return [m for m in model.modules() if isinstance(m, TiledBatchNorm2d)]


def starts(model):
    """Return the initial gains of norms that make copies, one row per copy."""
    return [m.weight.detach().view(m.copies, -1) for m in norms(model) if m.copies > 1]


def are_balanced(gains):
    return bool(((gains < 0).sum(0) == len(gains) // 2).all())


def statistics(module):
    return {
        name: buffer.clone() for name, buffer in module.named_buffers() if name.endswith(STATISTICS)
    }


def check_same_state(model, other):
    """Compare gradients and buffers bit for bit."""
    for (name, p), q in zip(model.named_parameters(), other.parameters(), strict=True):
        assert (p.grad is None) == (q.grad is None), name
        assert p.grad is None or torch.equal(p.grad, q.grad), name
    for (name, a), b in zip(model.named_buffers(), other.buffers(), strict=True):
        assert torch.equal(a, b), name


def recomputing(model, row, **changes):
    """Return a network with recomputation and the weights of ``model``."""
    saving = row.build(**changes, with_cp=True).train(model.training)
    saving.load_state_dict(model.state_dict())
    return saving


@every_backbone
def test_it_is_registered(row):
    model = MODELS.build(dict(type=row.cls.__name__, **row.options))
    assert type(model) is row.cls


# outputs --------------------------------------------------------------------------


@every_backbone
@pytest.mark.parametrize('out_copies', ['first', 'all'])
def test_out_channels_are_those_of_the_outputs(row, out_copies):
    model = row.build(out_copies=out_copies).eval()
    outputs = model(*row.images())
    assert isinstance(outputs, tuple)
    assert [out.shape[1] for out in outputs] == model.out_channels


@every_backbone
@pytest.mark.parametrize(
    'out_indices', [(-1,), 0, np.int64(-1), [0, -1], (-1, 0), range(2)], ids=str
)
def test_out_indices(row, out_indices):
    count = len(row.build().stages)
    every = row.build(out_indices=range(count)).eval()
    model = row.build(out_indices=out_indices).eval()
    listed = np.atleast_1d(out_indices) % count
    assert model.out_indices == tuple(sorted(set(listed.tolist())))
    assert model.out_channels == [every.out_channels[i] for i in model.out_indices]
    model.load_state_dict(every.state_dict(), strict=False)
    outputs, stages = model(*row.images()), every(*row.images())
    for out, i in zip(outputs, model.out_indices, strict=True):
        assert torch.equal(out, stages[i])


@every_backbone
def test_later_stages_are_neither_computed_nor_trained(row):
    model = row.build(out_indices=(0,))
    called = []
    for stage in model.stages:
        stage.register_forward_hook(lambda stage, *_: called.append(stage))
    step(model, *row.images())
    assert called == [model.stages[0]]
    later = {id(p) for stage in model.stages[1:] for p in stage.parameters()}
    for name, parameter in model.named_parameters():
        assert parameter.requires_grad != (id(parameter) in later), name
        assert (parameter.grad is None) == (id(parameter) in later), name


@every_backbone
@pytest.mark.parametrize('training', [True, False])
def test_one_image_of_an_odd_size(row, training):
    model = row.build().train(training)
    multiple = getattr(model, 'stride', 1)
    height, width = (-(-length // multiple) * multiple for length in (33, 47))
    outputs = step(model, torch.randn(1, 3, height, width))
    assert all(torch.isfinite(out).all() for out in outputs)
    assert all(torch.isfinite(p.grad).all() for p in model.parameters())


@every_backbone
def test_an_image_does_not_depend_on_its_batch(row):
    model = spread(row.build()).double().eval()
    x = torch.randn(3, 3, row.size, row.size, dtype=torch.double)
    for one, out in zip(model(x[:1]), model(x), strict=True):
        torch.testing.assert_close(one, out[:1])


@every_backbone
def test_the_first_copies_are_the_first_channels_of_all(row):
    every, first = (
        row.build(out_indices=(0, 1), out_copies=copies).eval() for copies in ('all', 'first')
    )
    own = first.state_dict()
    state = {k: v for k, v in spread(every).state_dict().items() if v.shape == own[k].shape}
    first.load_state_dict(state, strict=False)  # the last output may pass a norm of its own
    some, full = (model(*row.images())[0] for model in (first, every))
    copies = full.split(some.shape[1], 1)
    assert torch.equal(some, copies[0])
    assert not any(torch.allclose(some, copy) for copy in copies[1:])


# ES -------------------------------------------------------------------------------


@every_backbone
@pytest.mark.parametrize(('tau', 'groups'), [(1, 1), (2, 1), (1, 2), (2, 2)])
def test_es_widens_and_adds_no_weight(row, tau, groups):
    groups = 1 if row.options.get('es_scope') == 'all' else groups
    # narrower gates of a small BNext cannot be split into groups
    options = dict(out_copies='first', **(dict(se_ratio=4) if row.cls is BNext else {}))
    plain, wide = (
        row.build(**options, tau=1, groups=1),
        row.build(**options, tau=tau, groups=groups),
    )
    before, after = (list(binary_layers(model).values()) for model in (plain, wide))
    for old, new in zip(before, after, strict=True):
        expansion = new.expansion
        out, width, *kernel = old.weight.shape
        shape = (out // expansion.tau, width * expansion.tau, *kernel)
        assert new.weight.shape == shape
    assert {(new.expansion.tau, new.expansion.groups) for new in after} >= {(tau, groups)}
    widened = {b.num_features / a.num_features for a, b in zip(norms(plain), norms(wide))}
    # only the feed-forwards of BinaryViT expand by default
    assert widened == {tau * groups} or (row.cls is BinaryViT and tau * groups in widened)
    for some, other in zip(plain(*row.images()), wide(*row.images()), strict=True):
        assert some.shape == other.shape


@every_backbone
@pytest.mark.parametrize('zero', [-1, 0])
@pytest.mark.parametrize('given', [{}, dict(sign='ede', weight_binarizer='balanced')], ids=str)
def test_sign_zero_reaches_every_sign(row, zero, given):
    model = row.build(sign_zero=zero, **given)
    assert {part.zero for part in (*signs(model), *binarizers(model))} == {zero}


# other signs and weight binarizers -------------------------------------------------


def signs(model):
    found = [m for m in model.modules() if isinstance(getattr(m, 'form', None), InputForm)]
    assert found
    return found


def binarizers(model):
    return [layer.weight_binarizer for layer in binary_layers(model).values()]


@every_backbone
def test_another_sign_and_weight_binarizer_train_count_and_pack(row, tmp_path):
    options = dict(sign=dict(type='swish', beta=3.0), weight_binarizer='learned_scale')
    config = dict(model=dict(type=row.cls.__name__, **row.options, **options, out_copies='all'))
    model = spread(MODELS.build(config['model']))
    assert {(type(sign), sign.beta) for sign in signs(model)} == {(SwishSign, 3.0)}
    assert {type(binarizer) for binarizer in binarizers(model)} == {LearnedScaleWeight}
    step(model, *row.images())
    assert all(layer.weight.grad.any() for layer in binary_layers(model).values())

    (x,) = row.images()
    shape = tuple(x.shape[1:])
    own, ours = (count_ops(net, shape).total for net in (row.build(), model))
    assert all(ours[name] == own[name] for name in ('bops', 'ops', 'binary_params'))
    assert check_binary(model.eval(), x) == []
    pack(model, tmp_path / 'net.safetensors', config=config)
    twin = load_packed(tmp_path / 'net.safetensors')  # its config is not trusted
    assert all(map(torch.equal, twin(x), model(x)))


@every_backbone
def test_layers_do_not_share_a_given_module(row):
    model = row.build(sign=SwishSign(), weight_binarizer=SignWeight())
    for parts, kind in ((signs(model), SwishSign), (binarizers(model), SignWeight)):
        assert len({id(part) for part in parts}) == len(parts)
        assert {type(part) for part in parts} == {kind}


@every_backbone
def test_several_bits_are_counted_or_refused(row):
    several = dict(sign=dict(type='dorefa', bits=2))
    if row.cls in (BiDetResNet, BiDetVGG):
        with pytest.raises(ValueError, match=r'sign=.*dorefa.* gives 4 values from 0 to 1: BiDet'):
            row.build(**several)
        return
    shape = (3, row.size, row.size)
    one, two = (count_ops(row.build(**options), shape) for options in ({}, several))
    pairs = [(a, b) for a, b in zip(one.layers, two.layers, strict=True) if a.bops]
    # scores of attention multiply two activations
    factors = {b.bops / a.bops for a, b in pairs}
    assert factors == ({2, 4} if row.cls is BinaryViT else {2})


@every_backbone
@pytest.mark.parametrize('name', ['sign', 'weight_binarizer'])
def test_unknown_signs_and_weight_binarizers_are_named(row, name):
    with pytest.raises(ValueError, match=f"{name}='none': the type must be one of"):
        row.build(**{name: 'none'})


# training -------------------------------------------------------------------------


@every_backbone
def test_every_parameter_learns(row):
    # the norm removes the shift of a bias before it
    still = ('stem.conv.bias', 'pointwise.bias')
    learns = set()
    for _ in range(4):  # a narrow gate can be closed by chance
        model = spread(row.build(out_copies='all'))
        step(model, torch.randn(4, 3, row.size, row.size))
        assert all(p.grad is not None for p in model.parameters())
        learns |= {name for name, p in model.named_parameters() if p.grad.any()}
    dead = {name for name, _ in model.named_parameters() if not name.endswith(still)} - learns
    assert not dead


@every_backbone
@pytest.mark.parametrize('frozen_stages', [-1, 0, 1, 2])
def test_frozen_stages(row, frozen_stages):
    model = row.build(frozen_stages=frozen_stages).train()
    parts = [model.stem, *model.stages]
    frozen, trained = parts[: frozen_stages + 1], parts[frozen_stages + 1 :]
    before = [statistics(part) for part in parts]
    if any(p.requires_grad for p in model.parameters()):
        step(model, *row.images())
    for part, old in zip(frozen, before):
        assert not any(m.training for m in part.modules())
        assert all(p.grad is None and not p.requires_grad for p in part.parameters())
        for name, buffer in statistics(part).items():
            assert torch.equal(buffer, old[name]), name
    for part, old in zip(trained, before[len(frozen) :]):
        assert all(m.training for m in part.modules())
        assert all(p.grad is not None for p in part.parameters())
        for name, buffer in statistics(part).items():
            assert not torch.equal(buffer, old[name]), name
    assert not any(m.training for m in model.eval().modules())


@every_backbone
def test_norm_eval(row):
    model = row.build(norm_eval=True).train()
    assert model.training
    assert norms(model)
    assert not any(norm.training for norm in norms(model))
    assert all(conv.training for conv in binary_convs(model))
    before = statistics(model)
    step(model, *row.images())
    for name, buffer in statistics(model).items():
        assert torch.equal(buffer, before[name]), name


@every_backbone
def test_norm_cfg_reaches_every_norm(row):
    cfg = dict(type='SyncBN', eps=0.01, momentum=0.3, requires_grad=False)
    given = copy.deepcopy(cfg)
    model = row.build(norm_cfg=cfg)
    assert cfg == given
    batch_norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    assert batch_norms == norms(model)
    for norm in batch_norms:
        assert (norm.eps, norm.momentum, norm.sync) == (0.01, 0.3, True)
        assert not norm.weight.requires_grad
        assert not norm.bias.requires_grad
    trained = [p for p in model.parameters() if p.requires_grad]
    assert len(trained) == len(list(model.parameters())) - 2 * len(batch_norms)
    for norm in norms(row.build()):
        assert not norm.sync
        assert norm.weight.requires_grad


@every_backbone
@pytest.mark.parametrize('training', [True, False])
def test_recomputation_changes_nothing(row, training):
    model = spread(row.build()).train(training)
    saving = recomputing(model, row)
    for _ in range(2):
        x = torch.randn(2, 3, row.size, row.size)
        assert all(map(torch.equal, step(saving, x), step(model, x)))
    check_same_state(model, saving)
    with torch.no_grad():
        assert all(map(torch.equal, saving.eval()(x), model.eval()(x)))


@every_backbone
@pytest.mark.parametrize('frozen_stages', [0, 1])
def test_recomputation_of_a_partly_frozen_network(row, frozen_stages):
    model = spread(row.build(frozen_stages=frozen_stages)).train()
    saving = recomputing(model, row, frozen_stages=frozen_stages)
    for one in (model, saving):
        step(one, *row.images())
    check_same_state(model, saving)
    assert any(p.grad is not None for p in saving.stages[frozen_stages].parameters())


@every_backbone
@pytest.mark.parametrize('with_cp', [False, True])
def test_it_trains_under_autocast(row, with_cp):
    model = row.build(with_cp=with_cp)
    with torch.autocast('cpu', torch.bfloat16):
        outputs = model(*row.images())
    sum(out.float().square().sum() for out in outputs).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad.dtype == torch.float32, name
        assert torch.isfinite(parameter.grad).all(), name


@pytest.mark.slow
@every_backbone
@pytest.mark.parametrize('mode', ['eval', 'training', 'recomputing'])
def test_it_compiles_as_one_graph(row, mode):
    torch._dynamo.reset()
    model = spread(row.build(with_cp=mode == 'recomputing')).double().train(mode != 'eval')
    eager = copy.deepcopy(model)
    # one of them through the tracer of gradients, which is slow
    backend = 'aot_eager' if mode == 'recomputing' else 'eager'
    compiled = torch.compile(model, backend=backend, fullgraph=True)
    (x,) = row.images()
    if mode == 'eval':
        with torch.no_grad():
            torch.testing.assert_close(compiled(x.double()), eager(x.double()))
        return
    torch.testing.assert_close(step(compiled, x.double()), step(eager, x.double()))
    for (name, p), q in zip(eager.named_parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(q.grad, p.grad, msg=name)
    torch.testing.assert_close(model.state_dict(), eager.state_dict())


# bad arguments --------------------------------------------------------------------


@every_backbone
@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (dict(arch='huge', widths='huge'), "='huge'"),
        (dict(tau=0), 'tau=0'),
        (dict(tau=1.5), 'tau=1.5'),
        (dict(tau=3), 'tau=3'),
        (dict(groups=0), 'groups=0'),
        (dict(sign_zero=1), 'sign_zero=1'),
        (dict(out_copies='mean'), "out_copies='mean'"),
        (dict(out_indices=(9,)), r'out_indices=\(9,\)'),
        (dict(out_indices=(0, -9)), r'out_indices=\(0, -9\)'),
        (dict(out_indices=9), 'out_indices=9'),
        (dict(out_indices=()), r'out_indices=\(\)'),
        (dict(frozen_stages=9), 'frozen_stages=9'),
        (dict(frozen_stages=-2), 'frozen_stages=-2'),
        (dict(norm_eval='no'), "norm_eval='no'"),
        (dict(with_cp=1), 'with_cp=1'),
        (dict(init_cfg='xavier'), "init_cfg='xavier'"),
        (dict(norm_cfg=dict(type='LN')), r"norm_cfg={'type': 'LN'}"),
        (dict(norm_cfg=dict(type='BN', ep=1)), r"norm_cfg=.*\['ep'\]"),
        (dict(norm_cfg=dict(eps=0.1)), r"norm_cfg={'eps': 0.1}.*\['type'\]"),
    ],
    ids=str,
)
def test_bad_arguments_are_named(row, options, message):
    given = {'arch', 'widths'} & set(row.options)
    changes = {k: v for k, v in options.items() if k in given or k not in ('arch', 'widths')}
    with pytest.raises(ValueError, match=message):
        row.build(**changes)


@every_backbone
def test_unknown_arguments_are_named_with_the_known_ones(row):
    name = type(row.build()).__name__
    with pytest.raises(TypeError, match=rf"{name}: unknown argument 'tua'; .*, in_channels.*, tau"):
        row.build(tua=2)


@every_backbone
def test_an_unknown_argument_is_named(row):
    with pytest.raises(TypeError, match='depht'):
        row.build(depht=3)


# how copies start ------------------------------------------------------------------


@every_backbone
@pytest.mark.parametrize('copy_init', ['signs', 'balanced'])
def test_copies_start_with_gains_of_plus_or_minus_one(row, copy_init):
    torch.manual_seed(8)
    alike = row.build()
    torch.manual_seed(8)
    model = row.build(copy_init=copy_init)
    found, plain = starts(model), starts(alike)
    assert all(gains.eq(1).all() for gains in plain)
    assert model.state_dict().keys() == alike.state_dict().keys()
    if not found:  # tau = groups = 1: bit for bit the baseline
        assert all(map(torch.equal, model.state_dict().values(), alike.state_dict().values()))
        return
    assert all(gains.abs().eq(1).all() for gains in found)
    assert any(gains.lt(0).any() for gains in found)
    if copy_init == 'balanced':
        assert all(map(are_balanced, found))
    others = [m for m in norms(model) if m.copies == 1]
    assert all(m.weight.eq(1).all() for m in others)


@every_backbone
def test_initialisers_of_norms_keep_the_signs_of_copies(row):
    init_cfg = dict(type='Constant', layer='TiledBatchNorm2d', val=0.5)
    model = row.build(copy_init='balanced', init_cfg=init_cfg)
    model.init_weights()
    assert all(m.weight.abs().eq(0.5).all() for m in norms(model))
    assert all(map(are_balanced, starts(model)))


@every_backbone
def test_pretrained_gains_are_left_alone(row, tmp_path):
    torch.save(row.build().state_dict(), tmp_path / 'alike.pth')
    init_cfg = dict(type='Pretrained', checkpoint=str(tmp_path / 'alike.pth'))
    model = row.build(copy_init='balanced', init_cfg=init_cfg)
    model.init_weights()
    assert all(m.weight.eq(1).all() for m in norms(model))


@every_backbone
def test_unknown_ways_to_start_are_named(row):
    with pytest.raises(ValueError, match="copy_init='both' must be"):
        row.build(copy_init='both')
