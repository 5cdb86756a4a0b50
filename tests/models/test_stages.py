"""Blocks of stages that are compiled one by one, each kind once."""

import copy
import pickle

import pytest
import torch

from mmesbnn.binary import recompute
from mmesbnn.models.backbones import BinaryViT, BNext, ReActNet, stages
from tests.models.backbones import spread, step

VIT = dict(dims=[16], depths=[3], heads=[2], ffn_dims=[32], sr_ratios=[2])
BUILDERS = {
    'es-bnext': lambda **more: BNext(
        dict(channels=[16, 32, 32, 32, 32, 32]), tau=2, stem_stride=1, **more
    ),
    'reactnet': lambda **more: ReActNet(
        dict(channels=[16, 16, 32], depths=[3, 2]), stem_stride=1, **more
    ),
    'binary-vit': lambda **more: BinaryViT(VIT, img_size=16, **more),
}
#: Blocks, and kinds of blocks, which differ in widths, strides, and gates of BNext. The linear
#: layers of BinaryViT's blocks differ in widths and in the number of tokens: those of queries and
#: of the output, of the reduction, keys and values, and the two of the feed-forward.
KINDS = {'es-bnext': (5, 3), 'reactnet': (5, 3), 'binary-vit': (3, 5)}

pytestmark = pytest.mark.usefixtures('no_graphs')


class Graphs:
    """A backend that counts graphs of fixed shapes and runs them as they are."""

    def __init__(self):
        self.count = 0

    def __call__(self, graph, inputs):
        assert not any(isinstance(x, torch.SymInt) for x in inputs)
        self.count += 1
        return graph.forward


@pytest.mark.parametrize('name', BUILDERS)
def test_each_kind_of_block_is_one_graph_and_computes_the_same(name):
    eager = spread(BUILDERS[name]()).double()
    model, graphs = copy.deepcopy(eager), Graphs()
    model.compile_blocks(backend=graphs)
    x = torch.randn(2, 3, 16, 16, dtype=torch.float64)
    torch.testing.assert_close(step(model, x), step(eager, x))
    for (key, p), q in zip(eager.named_parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(q.grad, p.grad, msg=key)
    torch.testing.assert_close(model.state_dict(), eager.state_dict())
    blocks, kinds = KINDS[name]
    assert (sum(map(len, model.stages)), graphs.count) == (blocks, kinds)
    with torch.no_grad():
        torch.testing.assert_close(model.eval()(x), eager.eval()(x))
    after = graphs.count
    step(model.train(), x)
    assert graphs.count == after  # those of before


def stored_bytes(run):
    """Return the results of ``run()``, and the bytes that it stores for the backward pass.

    The one of ``tests.binary.operators`` has a mode that sees operators, which compiled code lacks.
    """
    sizes = {}

    def note(x):
        sizes[x.data_ptr()] = x.untyped_storage().nbytes()
        return x

    with torch.autograd.graph.saved_tensors_hooks(note, lambda x: x):
        return run(), sum(sizes.values())


def test_compiled_blocks_are_recomputed():
    arch = dict(channels=[16, 32, 32, 32])
    eager = spread(BNext(arch, tau=2, stem_stride=1, with_cp=True)).double()
    model = copy.deepcopy(eager)
    model.compile_blocks(backend='aot_eager')
    x = torch.randn(2, 3, 16, 16, dtype=torch.float64)
    torch.testing.assert_close(step(model, x), step(eager, x))
    torch.testing.assert_close(model.state_dict(), eager.state_dict())
    for (key, p), q in zip(eager.named_parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(q.grad, p.grad, msg=key)
    if recompute._UPDATES_TWICE:
        return  # torch before 2.9 chooses itself what to store
    _, stored = stored_bytes(lambda: model(x))
    eager.with_cp = False
    assert stored < 0.7 * stored_bytes(lambda: eager(x))[1]


def test_blocks_with_parts_are_compiled_whole_where_they_are_recomputed():
    eager = spread(BUILDERS['binary-vit'](with_cp=True)).double()
    model, stats = copy.deepcopy(eager), torch._dynamo.utils.counters['stats']
    model.compile_blocks(backend='aot_eager')
    before, x = stats['unique_graphs'], torch.randn(2, 3, 16, 16, dtype=torch.float64)
    torch.testing.assert_close(step(model, x), step(eager, x))
    for (key, p), q in zip(eager.named_parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(q.grad, p.grad, msg=key)
    assert stats['unique_graphs'] == before + 1
    with torch.no_grad():
        torch.testing.assert_close(model.eval()(x), eager.eval()(x))
    assert stats['unique_graphs'] == before + 1 + KINDS['binary-vit'][1]


def test_parts_that_torch_does_not_compile_run_once(monkeypatch):
    model = BUILDERS['binary-vit']().eval()
    x = torch.randn(1, 3, 16, 16)
    expected, calls = model(x), []
    model.compile_blocks(backend='eager')

    def plain(run, *_):
        def call(*args):
            calls.append(run)
            return run(*args)

        return call

    monkeypatch.setattr(stages, '_compiled', plain)
    torch.testing.assert_close(model(x), expected, rtol=0, atol=0)
    assert len(calls) == 3 * 7  # the linear layers of three blocks


@pytest.mark.parametrize('compiled', [True, False])
def test_blocks_can_be_added_and_removed(compiled):
    model = BUILDERS['reactnet'](with_cp=True)
    stage, x = model.stages[0], torch.randn(2, 16, 8, 8, requires_grad=True)
    if compiled:
        model.compile_blocks(backend='eager')
    changes = [
        lambda: stage.append(copy.deepcopy(stage[1])),
        lambda: stage.insert(0, copy.deepcopy(stage[1])),
        lambda: stage.extend([copy.deepcopy(block) for block in stage]),
        lambda: stage.__delitem__(slice(2, None)),
        lambda: stage.__delitem__(slice(0, None)),
    ]
    for change in changes:
        change()
        found, expected = stage(x), x
        for block in stage:
            expected = block(expected)
        torch.testing.assert_close(found, expected)


def test_some_blocks_of_a_stage_are_a_stage():
    stage, x = BUILDERS['reactnet']().stages[0], torch.randn(2, 16, 8, 8)
    torch.testing.assert_close(stage[1:](stage[:1](x)), stage(x))


@pytest.mark.parametrize('name', ['reactnet', 'binary-vit'])
def test_a_compiled_backbone_can_be_copied_and_pickled(name):
    model = BUILDERS[name]().eval()
    x = torch.randn(1, 3, 16, 16)
    expected = model(x)
    model.compile_blocks(backend='eager')
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert list(other.state_dict()) == list(model.state_dict())
        torch.testing.assert_close(other(x), expected)


@pytest.mark.parametrize('name', ['reactnet', 'binary-vit'])
def test_a_compiled_backbone_can_be_traced(name):
    model = BUILDERS[name]().eval()
    x = torch.randn(1, 3, 16, 16)
    expected = model(x)
    model.compile_blocks(backend='eager')
    traced = torch.jit.trace(model, x, check_trace=False)  # as the exports do
    torch.testing.assert_close(traced(x), expected)


@pytest.mark.parametrize('options', [dict(backend='fast'), dict(mode='fast')], ids=str)
def test_an_unknown_way_to_compile_is_an_error_at_once(options):
    with pytest.raises(RuntimeError, match='fast'):
        BUILDERS['reactnet']().compile_blocks(**options)
