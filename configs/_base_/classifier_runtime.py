# Classifiers' runtime, checkpoints and checks. Families add `checks` to their hooks.
_base_ = ['mmpretrain::_base_/default_runtime.py']

custom_imports = dict(imports=['mmesbnn'])

# repeated here, because mmpretrain's tools fail with the entries that inheriting adds
visualizer = dict(
    _delete_=True, type='UniversalVisualizer', vis_backends=[dict(type='LocalVisBackend')]
)
val_cfg = dict()
test_cfg = dict()

checks = [
    # a tested checkpoint must match the network in every entry
    dict(type='FittingCheckpointHook'),
    dict(type='NaNGuardHook'),
    # compile=True compiles nothing around the network
    dict(type='CompileNetworkHook'),
    dict(type='ClassCountHook'),
    # a resumed training repeats the uninterrupted one
    dict(type='EpochSeedHook'),
]
randomness = dict(seed=0)

default_hooks = dict(
    checkpoint=dict(type='WholeCheckpointHook', max_keep_ckpts=3, save_best='auto')
)
