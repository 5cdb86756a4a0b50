"""Learning rates of a config's schedule."""

from mmengine.registry import PARAM_SCHEDULERS


def rates_of_epochs(cfg, wrapper):
    """Return the learning rate of every epoch; the config must have one scheduler."""
    (spec,) = cfg.param_scheduler
    scheduler = PARAM_SCHEDULERS.build(spec, default_args=dict(optimizer=wrapper))
    assert scheduler.by_epoch
    rates = []
    for _ in range(cfg.train_cfg.max_epochs):
        rates.append(wrapper.get_lr()['lr'][0])
        wrapper.optimizer.step()
        scheduler.step()
    return rates
