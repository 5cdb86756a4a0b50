"""mmengine's global loggers, message hubs, scopes and visualizers."""

from collections import OrderedDict

from mmengine.utils import ManagerMixin


def subclasses(cls):
    for child in cls.__subclasses__():
        yield child
        yield from subclasses(child)


def forget_runners(monkeypatch):
    """Remove all shared state of earlier runners, so that new ones start fresh.

    mmengine names a runner and its logger by the time in seconds. Two runners of the same
    second would share a logger, whose output may already be closed.
    """
    for cls in subclasses(ManagerMixin):
        monkeypatch.setattr(cls, '_instance_dict', OrderedDict())
