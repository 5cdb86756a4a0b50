"""Compare a checkpoint, its packed file and its export on all test images.

    python tools/compare_deployed.py CONFIG CHECKPOINT PACKED.safetensors EXPORT

Runs the export in the native engine and in OpenVINO. Prints the number of equal labels and the
time per image. Exit status 0: all labels are equal; 1: some differ; 2: the comparison failed,
and the message says why.
"""

import argparse
import warnings

from mmesbnn import cli, options  # before the slow imports

# isort: split

from mmesbnn.analysis import build_model, load_config, load_weights
from mmesbnn.deploy import load_packed
from mmesbnn.deploy.label_agreement import compare_forms, latency_line, runners_of


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('config', type=options.name, help='config of a classifier, with test data')
    parser.add_argument('checkpoint', type=options.name, help='weights of its model')
    parser.add_argument(
        'packed', type=options.name, help='packed file from tools/pack_checkpoint.py'
    )
    parser.add_argument('export', type=options.name, help='folder from tools/export.py')
    cli.add_cfg_options(parser, 'test_dataloader.dataset.data_root=x')
    cli.add_trust(parser)
    cli.add_max_bytes(parser)
    return parser.parse_args()


def main() -> int:
    warnings.simplefilter('ignore')
    args = parse_args()
    cfg = load_config(args.config, args.cfg_options)
    model = build_model(cfg)
    model.eval()
    load_weights(model, args.checkpoint, args.max_bytes)
    runners, left_out = runners_of(args.export)
    packed = load_packed(
        args.packed, trust_stored_config=args.trust_stored_config, max_bytes=args.max_bytes
    )
    packed.float()  # the images are float32, and so is the export
    forms = {'torch': model, 'packed': packed}
    agreement = compare_forms(cfg, forms, runners)
    print(agreement.table())
    for name, why in left_out.items():
        print(f'{name} is left out: {why}')
    print(latency_line(model, runners, agreement.files[0]))
    return 1 if any(agreement.different.values()) else 0


if __name__ == '__main__':
    cli.run(main)
