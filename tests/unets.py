"""Arguments of small UNets of diffusers, for tests."""

#: One level with one block on each side.
ONE_LEVEL = dict(
    block_out_channels=(8,),
    norm_num_groups=4,
    layers_per_block=1,
    down_block_types=('DownBlock2D',),
    up_block_types=('UpBlock2D',),
)
