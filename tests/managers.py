"""mmengine's global loggers, message hubs, scopes, visualizers and registries."""

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


def forget_components(registries, modules):
    """Remove the classes of the given modules from registries.

    Those of a package that is imported meanwhile stay, because it registers them only once.
    """
    for registry in registries:
        for name, entry in list(registry.module_dict.items()):
            if entry.__module__ in modules:
                del registry.module_dict[name]
