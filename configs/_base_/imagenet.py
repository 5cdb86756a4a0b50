# ImageNet as mmpretrain reads it, 8 GPUs with 64 images each; families add pipelines.
data_preprocessor = dict(
    num_classes=1000, mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], to_rgb=True
)

train_dataloader = dict(
    batch_size=64,
    num_workers=8,
    # new workers per epoch, so that EpochSeedHook can seed them
    persistent_workers=False,
    dataset=dict(type='ImageNet', data_root='data/imagenet', split='train'),
    sampler=dict(type='DefaultSampler', shuffle=True),
)
val_dataloader = dict(
    batch_size=128,
    num_workers=8,
    dataset=dict(type='ImageNet', data_root='data/imagenet', split='val'),
    sampler=dict(type='DefaultSampler', shuffle=False),
)
test_dataloader = val_dataloader
val_evaluator = dict(type='Accuracy', topk=(1, 5))
test_evaluator = val_evaluator

auto_scale_lr = dict(enable=False, base_batch_size=512)
