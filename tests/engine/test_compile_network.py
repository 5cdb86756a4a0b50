"""With ``compile=True`` the hook leaves the data preprocessor and the update eager."""

import copy

import pytest
import torch
from mmengine.model import BaseDataPreprocessor
from mmengine.optim import OptimWrapper, OptimWrapperDict

from mmesbnn.engine.hooks import CompileNetworkHook
from tests.engine import toy

pytestmark = pytest.mark.usefixtures('no_graphs')
COMPILED = dict(compile=dict(backend='eager'))


class Preprocessor(BaseDataPreprocessor):
    """Data preprocessor that says how it ran."""

    def __init__(self, compiled):
        super().__init__()
        self.compiled = compiled

    def forward(self, data, training=False):
        self.compiled['data'] = torch.compiler.is_compiling()
        return super().forward(data, training)


class Model(toy.PlainModel):
    """Network that says how it ran."""

    def __init__(self):
        super().__init__()
        self.compiled = {}
        self.data_preprocessor = Preprocessor(self.compiled)

    def forward(self, inputs, labels=None, mode='tensor'):
        self.compiled['network'] = torch.compiler.is_compiling()
        return super().forward(inputs, labels, mode)


class Wrapper(OptimWrapper):
    """Update that says how it ran."""

    def __init__(self, model):
        super().__init__(torch.optim.SGD(model.parameters(), lr=0.1))
        self.compiled = model.compiled

    def update_params(self, loss, **kwargs):
        self.compiled['update'] = torch.compiler.is_compiling()
        super().update_params(loss, **kwargs)


def trained(work_dir, hooks, cfg=None):
    torch.manual_seed(0)
    model = Model()
    runner = toy.runner(work_dir, hooks, model=model, optim_wrapper=Wrapper(model), cfg=cfg)
    runner.train()
    return runner


def test_only_the_network_is_compiled(tmp_path):
    eager = trained(tmp_path / 'eager', [CompileNetworkHook()])
    whole = trained(tmp_path / 'whole', [], cfg=COMPILED)
    torch._dynamo.reset()
    hooked = trained(tmp_path / 'hooked', [CompileNetworkHook()], cfg=COMPILED)
    assert eager.model.compiled == dict(data=False, network=False, update=False)
    assert whole.model.compiled == dict(data=True, network=True, update=True)
    assert hooked.model.compiled == dict(data=False, network=True, update=False)
    for name, value in eager.model.state_dict().items():
        torch.testing.assert_close(hooked.model.state_dict()[name], value, msg=name)


def test_a_copy_of_a_trained_model_is_its_own(tmp_path):
    runner = trained(tmp_path, [CompileNetworkHook()], cfg=COMPILED)
    copied = copy.deepcopy(runner.model.data_preprocessor)
    copied.compiled.clear()
    copied(dict(inputs=torch.zeros(1, 3, 8, 8), labels=torch.zeros(1)))
    assert copied.compiled == dict(data=False)
    assert 'update_params' not in vars(runner.optim_wrapper)


def test_without_compile_nothing_is_wrapped(tmp_path):
    seen = []
    record = toy.Record(lambda runner: seen.append('update_params' in vars(runner.optim_wrapper)))
    trained(tmp_path, [CompileNetworkHook(), record])
    assert seen and not any(seen)


def test_a_model_without_a_data_preprocessor_is_trained(tmp_path):
    class Bare(Model):
        def train_step(self, data, optim_wrapper):
            loss = self(**data, mode='loss')['loss']
            optim_wrapper.update_params(loss)
            return dict(loss=loss)

    model = Bare()
    del model.data_preprocessor
    hooks = [CompileNetworkHook()]
    toy.runner(tmp_path, hooks, model=model, optim_wrapper=Wrapper(model), cfg=COMPILED).train()
    assert model.compiled == dict(network=True, update=False)


class TwoUpdates(Model):
    """Model with a wrapper for each of two optimizers."""

    def train_step(self, data, optim_wrapper):
        data = self.data_preprocessor(data, True)
        loss = self(**data, mode='loss')['loss']
        optim_wrapper['first'].update_params(loss)
        return dict(loss=loss)


def test_each_of_several_updates_is_left_out(tmp_path):
    model = TwoUpdates()
    updates = OptimWrapperDict(first=Wrapper(model), second=Wrapper(model))
    hooks = [CompileNetworkHook()]
    toy.runner(tmp_path, hooks, model=model, optim_wrapper=updates, cfg=COMPILED).train()
    assert model.compiled == dict(data=False, network=True, update=False)
