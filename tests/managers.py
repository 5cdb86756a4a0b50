"""mmengine's global loggers, message hubs, scopes and visualizers."""

from collections import OrderedDict

from mmengine.utils import ManagerMixin


def subclasses(cls):
    for child in cls.__subclasses__():
        yield child
        yield from subclasses(child)


def forget_runners(monkeypatch):
    """Let no runner built from here on share anything with one built before.

    mmengine names a runner, and what belongs to it, by the second: two of one second
    would share a logger, though the output of the first may be closed by then.
    """
    for cls in subclasses(ManagerMixin):
        monkeypatch.setattr(cls, '_instance_dict', OrderedDict())
