"""A super-resolution training of a few seconds: tiny UNet, PNG files and a runner."""

import uuid

from mmengine.runner import Runner

import mmesbnn  # noqa: F401  (registers)

UNET = dict(
    type='BIDiffSRUNet',
    base_channels=8,
    num_levels=2,
    blocks_per_level=1,
    norm_groups=4,
    total_steps=20,
    banks=2,
    tau=2,
)


def config(root, work_dir, iters=4, workers=0, **kwargs):
    """Return a config for :class:`Runner` with DF2K's and Set5's layouts."""
    data = dict(type='PairedSRDataset', scale=4, data_root=str(root))
    train = dict(
        data,
        hr=['DIV2K/DIV2K_train_HR', 'Flickr2K/Flickr2K_HR'],
        lr=['DIV2K/DIV2K_train_LR_bicubic/X4', 'Flickr2K/Flickr2K_LR_bicubic/X4'],
        crop_size=16,
        augment=True,
    )
    val = dict(
        batch_size=1,
        num_workers=0,
        sampler=dict(type='DefaultSampler', shuffle=False),
        dataset=dict(data, hr='Set5/HR', lr='Set5/LR_bicubic/X4'),
    )
    metrics = [dict(type=name, crop_border=4, convert_to='Y') for name in ('PSNR', 'SSIM')]
    options = dict(
        custom_imports=dict(imports=['mmesbnn']),
        default_scope='mmengine',
        work_dir=str(work_dir),
        log_level='WARNING',
        model=dict(
            type='SRDiffusion',
            scale=4,
            unet=UNET,
            scheduler=dict(total_steps=20, beta_start=1e-3, beta_end=0.5),
            sampling=dict(num_inference_steps=2),
        ),
        train_dataloader=dict(
            batch_size=2,
            num_workers=workers,
            persistent_workers=workers > 0,
            dataset=train,
            sampler=dict(type='SeededInfiniteSampler'),
            collate_fn=dict(type='default_collate'),
        ),
        val_dataloader=val,
        val_evaluator=metrics,
        val_cfg=dict(),
        test_dataloader=val,
        test_evaluator=metrics,
        test_cfg=dict(),
        train_cfg=dict(type='IterBasedTrainLoop', max_iters=iters, val_interval=2),
        optim_wrapper=dict(optimizer=dict(type='Adam', lr=1e-3, betas=(0.9, 0.99), weight_decay=0)),
        custom_hooks=[dict(type='IterSeedHook'), dict(type='EMAHook', momentum=0.1)],
        default_hooks=dict(
            logger=dict(type='LoggerHook', interval=1, log_metric_by_epoch=False),
            checkpoint=dict(type='WholeCheckpointHook', by_epoch=False, interval=2),
        ),
        log_processor=dict(type='LogProcessor', by_epoch=False),
        randomness=dict(seed=1),
    )
    return {**options, **kwargs}


def runner(*args, **kwargs):
    return Runner(
        **{key: value for key, value in config(*args, **kwargs).items() if key != 'custom_imports'},
        experiment_name=uuid.uuid4().hex,
    )
