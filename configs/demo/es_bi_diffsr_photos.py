# A SMALL configuration: a narrow ES-BI-DiffSR that doubles the size of photographs,
# trained in minutes on one core. `make demo-sr` writes the photographs and runs it.
#
# Differences from the published recipe: the network predicts the details that bicubic
# upsampling loses, not the noise, and the noise schedule has four steps.
custom_imports = dict(imports=['mmesbnn'])
default_scope = 'mmengine'

scale = 2
max_iters = 800
data_root = 'data/photographs'

model = dict(
    type='SRDiffusion',
    scale=scale,
    unet=dict(
        type='BIDiffSRResidualUNet',
        base_channels=16,
        num_levels=3,
        blocks_per_level=1,
        norm_groups=8,
        dropout=0.0,
        fp_levels=(0,),
        total_steps=4,
        banks=2,
        tau=2,
    ),
    scheduler=dict(total_steps=4, beta_start=0.3, beta_end=0.9, prediction_type='sample'),
    sampling=dict(num_inference_steps=4),
    loss='l2',
)

train_dataloader = dict(
    batch_size=4,
    num_workers=0,
    sampler=dict(type='SeededInfiniteSampler', shuffle=True),
    collate_fn=dict(type='default_collate'),
    dataset=dict(
        type='PairedSRDataset',
        scale=scale,
        data_root=data_root,
        hr=['train/HR'],
        crop_size=48,
        augment=True,
    ),
)
val_dataloader = dict(
    batch_size=1,
    num_workers=0,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type='PairedSRDataset',
        scale=scale,
        data_root=data_root,
        hr=['test/HR'],
        lr=[f'test/LR_bicubic/X{scale}'],
    ),
)
test_dataloader = val_dataloader
val_evaluator = [
    dict(type='PSNR', crop_border=scale, convert_to='Y'),
    dict(type='SSIM', crop_border=scale, convert_to='Y'),
]
test_evaluator = val_evaluator

optim_wrapper = dict(
    type='OptimWrapper',
    # errors of the images are small, and so are gradients
    optimizer=dict(type='Adam', lr=3e-3, betas=(0.9, 0.99), eps=1e-12, fused=True),
)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.05, by_epoch=False, begin=0, end=20),
    dict(
        type='CosineAnnealingLR',
        T_max=max_iters,
        eta_min=3e-5,
        by_epoch=False,
        begin=0,
        end=max_iters,
    ),
]
train_cfg = dict(type='IterBasedTrainLoop', max_iters=max_iters, val_interval=max_iters // 2)
val_cfg = dict()
test_cfg = dict()

custom_hooks = [
    dict(type='EMAHook', momentum=0.01),
    dict(type='NaNGuardHook'),
    # compile=True compiles nothing around the network
    dict(type='CompileNetworkHook'),
    dict(type='IterSeedHook'),
]
default_hooks = dict(
    logger=dict(type='LoggerHook', interval=20, log_metric_by_epoch=False),
    checkpoint=dict(
        type='WholeCheckpointHook', by_epoch=False, interval=max_iters // 2, max_keep_ckpts=1
    ),
)
log_processor = dict(type='LogProcessor', by_epoch=False)
randomness = dict(seed=0)
