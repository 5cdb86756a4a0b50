"""The hook trains with compiled blocks, and names what it cannot find."""

import pytest
import torch
from torch import nn

from mmesbnn.engine.hooks import CompileBlocksHook
from tests.engine import toy

pytestmark = pytest.mark.usefixtures('no_graphs')


def trained(work_dir, hooks, **options):
    torch.manual_seed(0)
    record = toy.Record(lambda runner: torch._dynamo.utils.counters['stats']['unique_graphs'])
    runner = toy.runner(work_dir, [*hooks, record], **options)
    torch._dynamo.utils.counters.clear()
    runner.train()
    return runner.model.state_dict(), record.seen


def test_it_trains_what_the_model_trains_without_it(tmp_path):
    expected, none = trained(tmp_path / 'eager', [], val=True)
    state, graphs = trained(tmp_path / 'compiled', [CompileBlocksHook(backend='eager')], val=True)
    assert set(none['after']) == {0}
    # the two blocks of the network are of two kinds, and evaluation has graphs of its own
    assert graphs['after'][0] == 2 and graphs['val'][-1] == 4
    for name, value in expected.items():
        torch.testing.assert_close(state[name], value, msg=name)


class Block(nn.Module):
    """A block of a network of another project."""

    def forward(self, x):
        return x.relu() + 1


class BlocksModel(toy.PlainModel):
    """Three such blocks before the full-precision layer."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Sequential(Block(), Block(), Block(), self.fc)


def test_it_compiles_classes_by_name(tmp_path):
    hook = CompileBlocksHook(blocks=['Block'], backend='eager')
    _, graphs = trained(tmp_path, [hook], model=BlocksModel())
    assert graphs['after'] == [1] * 4


@pytest.mark.parametrize(
    ('blocks', 'message'),
    [((), 'no backbone of mmesbnn'), (['BasicBlock'], "blocks='BasicBlock': the model has no")],
)
def test_a_model_without_blocks_is_an_error(tmp_path, blocks, message):
    runner = toy.runner(tmp_path, [CompileBlocksHook(blocks)], model=toy.PlainModel())
    with pytest.raises(ValueError, match=f'CompileBlocksHook: .*{message}'):
        runner.train()


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (dict(blocks='BasicBlock'), "blocks='BasicBlock'"),
        (dict(blocks=[1]), r'blocks=\[1\]'),
        (dict(backend=1), 'backend=1'),
        (dict(mode=0), 'mode=0'),
    ],
    ids=str,
)
def test_bad_arguments_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        CompileBlocksHook(**options)
