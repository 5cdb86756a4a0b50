"""Tools restore the modes and switches that they change."""

import threading

import pytest
import torch
from torch import nn

from mmesbnn.binary.modes import inference, plain_defaults
from tests.defaults import torch_default, with_other_defaults


def test_the_last_thread_turns_fused_attention_on_again():
    """The second thread enters while the first is inside, and leaves after it."""
    entered, left = threading.Event(), threading.Event()

    def second():
        with inference(nn.Linear(2, 2)):
            entered.set()
            assert left.wait(60)

    thread = threading.Thread(target=second)
    with inference(nn.Linear(2, 2)):
        thread.start()
        assert entered.wait(60)
    assert not torch.backends.mha.get_fastpath_enabled()  # The second still needs it off.
    left.set()
    thread.join(60)
    assert torch.backends.mha.get_fastpath_enabled()


def test_a_switch_that_was_off_stays_off():
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with inference(nn.Linear(2, 2)):
            pass
        assert not torch.backends.mha.get_fastpath_enabled()
    finally:
        torch.backends.mha.set_fastpath_enabled(True)


def test_every_module_gets_its_mode_back():
    model = nn.Sequential(nn.Dropout(), nn.Dropout().eval())
    with inference(model):
        assert not any(module.training for module in model.modules())
        assert not torch.is_grad_enabled()
    assert [module.training for module in model.modules()] == [True, True, False]
    assert torch.is_grad_enabled()


@pytest.mark.usefixtures('no_graphs')
@pytest.mark.skipif(not hasattr(torch.compiler, 'set_stance'), reason='new in torch 2.6')
def test_compiled_code_is_off_inside_and_on_again_afterwards():
    layer, calls, seen = nn.Linear(2, 2).eval(), [], []

    def backend(graph, inputs):
        return lambda *args: calls.append(1) or graph(*args)

    compiled = torch.compile(layer, backend=backend)
    x = torch.ones(1, 2)
    with torch.no_grad():
        compiled(x)
    layer.register_forward_hook(lambda *args: seen.append(1))
    with inference(compiled):
        compiled(x)
    assert (calls, seen) == ([1], [1])
    with torch.no_grad():
        compiled(x)
    assert (calls, seen) == ([1, 1], [1])


def test_what_torch_exported_runs_inside():
    """Its ``eval()`` raises an error, and so does that of a module around it."""
    exported = torch.export.export(nn.Sequential(nn.Linear(2, 2)), (torch.zeros(1, 2),)).module()
    model = nn.Sequential(exported, nn.Dropout())
    modes = [module.training for module in model.modules()]
    with inference(model):
        assert not any(module.training for module in model.modules())
    assert [module.training for module in model.modules()] == modes
    assert model[1].training


@with_other_defaults
def test_plain_defaults_are_those_of_a_new_process_and_leave_the_others(default):
    with torch_default(default):
        before = torch.ones(1)
        with plain_defaults():
            assert torch.ones(1).is_cpu and torch.ones(1).dtype == torch.float32
        assert torch.ones(1).dtype == before.dtype and torch.ones(1).device == before.device


def test_the_last_thread_gives_the_default_dtype_back():
    entered, left = threading.Event(), threading.Event()

    def second():
        with plain_defaults():
            entered.set()
            assert left.wait(60)

    thread = threading.Thread(target=second)
    with torch_default(torch.float64):
        with plain_defaults():
            thread.start()
            assert entered.wait(60)
        assert torch.get_default_dtype() == torch.float32  # The second still needs it.
        left.set()
        thread.join(60)
        assert torch.get_default_dtype() == torch.float64
