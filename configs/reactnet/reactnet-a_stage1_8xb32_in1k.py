# ReActNet-A on ImageNet, stage 1: real weights, binary activations.
_base_ = ['../_base_/reactnet_stage1_imagenet.py']

model = dict(backbone=dict(arch='A'), head=dict(in_channels=1024))

# the published batch of 256
train_dataloader = dict(batch_size=32)
auto_scale_lr = dict(enable=False, base_batch_size=256)
optim_wrapper = dict(optimizer=dict(lr=1.25e-3))
