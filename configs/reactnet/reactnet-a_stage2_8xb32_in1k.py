# ReActNet-A on ImageNet, stage 2: binary weights and activations.
_base_ = ['../_base_/reactnet_stage2_imagenet.py']

model = dict(backbone=dict(arch='A'), head=dict(in_channels=1024))
load_from = 'work_dirs/reactnet-a_stage1_8xb32_in1k/epoch_128.pth'

# the published batch of 256
train_dataloader = dict(batch_size=32)
auto_scale_lr = dict(enable=False, base_batch_size=256)
optim_wrapper = dict(optimizer=dict(lr=1.25e-3))
