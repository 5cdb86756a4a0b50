# Images in folders, one per class: data_root/train/CLASS/* and data_root/val/CLASS/*.
# Who inherits it sets data_root and the pipelines. Workers that persist would not get the seeds of
# a resumed training (EpochSeedHook).
train_dataloader = dict(
    batch_size=64,
    num_workers=4,
    persistent_workers=False,
    dataset=dict(type='CustomDataset', data_prefix='train'),
    sampler=dict(type='DefaultSampler', shuffle=True),
)
val_dataloader = dict(
    batch_size=64,
    num_workers=4,
    persistent_workers=False,
    dataset=dict(type='CustomDataset', data_prefix='val'),
    sampler=dict(type='DefaultSampler', shuffle=False),
)
test_dataloader = val_dataloader
val_evaluator = dict(type='Accuracy', topk=1)
test_evaluator = val_evaluator

auto_scale_lr = dict(enable=False, base_batch_size=64)
