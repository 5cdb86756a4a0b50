"""Save a trained network as a folder for mmesbnn.from_pretrained, and share it on a hub.

    python tools/save_pretrained.py CHECKPOINT FOLDER [--config FILE] [--half]
        [--shape C H W] [--license NAME] [--dataset NAME --metric NAME=VALUE ...]
        [--push OWNER/NAME [--private] [--revision BRANCH] [--create-pr] [--endpoint URL]]

The folder holds model.safetensors (one bit per binary weight), config.json and a model card
README.md with the measured size, operations and signs. --push uploads these three files to a
Hugging Face hub in one commit, with the token of `hf auth login` or HF_TOKEN. Exit status 0:
done; 2: the input is wrong, the network cannot be packed or the hub refuses it.
"""

import argparse
from pathlib import Path

from mmesbnn import cli, options  # before the slow imports

# isort: split

from mmesbnn.deploy.packed.checkpoint_network import read_network
from mmesbnn.optional import require
from mmesbnn.pretrained import save_pretrained
from mmesbnn.pretrained.files import check_target
from mmesbnn.pretrained.hub import upload
from mmesbnn.pretrained.loading import ADDRESS


def metric(given):
    """Return name and number of ``NAME=VALUE``."""
    name, _, value = given.rpartition('=')
    try:
        return options.name(name), float(value)
    except (ValueError, argparse.ArgumentTypeError):
        raise argparse.ArgumentTypeError(
            f'{given[:100]!r} must be NAME=NUMBER, such as accuracy/top1=0.75'
        ) from None


def parse_args():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('checkpoint', type=options.name, help='weights of a trained network')
    parser.add_argument('folder', type=options.path, help='the folder to write')
    parser.add_argument(
        '--config',
        type=options.name,
        metavar='FILE',
        help='config of the network; default: the config in the checkpoint',
    )
    parser.add_argument(
        '--half', action='store_true', help='round all values except the bits to half precision'
    )
    parser.add_argument(
        '--shape',
        type=options.pixels,
        nargs=3,
        metavar=('C', 'H', 'W'),
        help="image on which the card's numbers are measured; default: that of the config",
    )
    parser.add_argument('--license', type=options.name, help='for the card, as apache-2.0')
    parser.add_argument('--dataset', type=options.name, help='data of the metrics, as cifar10')
    parser.add_argument(
        '--metric',
        type=metric,
        action='append',
        metavar='NAME=VALUE',
        help='number for the card that you measured, as accuracy/top1=0.75; can be repeated',
    )
    group = parser.add_argument_group('hub')
    group.add_argument(
        '--push', type=options.name, metavar='OWNER/NAME', help='also upload it under this name'
    )
    group.add_argument('--private', action='store_true', help='make a new repository private')
    group.add_argument(
        '--revision', type=options.name, metavar='BRANCH', help='branch to write; default: main'
    )
    group.add_argument('--create-pr', action='store_true', help='open a pull request instead')
    group.add_argument(
        '--endpoint', type=options.option(str, ADDRESS), metavar='URL', help='address of the hub'
    )
    cli.add_trust(parser)
    cli.add_max_bytes(parser)
    args = parser.parse_args()
    if not args.push and (args.private or args.revision or args.create_pr or args.endpoint):
        parser.error('--private, --revision, --create-pr and --endpoint need --push')
    if bool(args.metric) != bool(args.dataset):
        parser.error('--metric and --dataset need each other')
    return args


def main():
    args = parse_args()
    check_target(args.folder, args.checkpoint, args.config)
    if args.push:
        require('huggingface_hub', 'hub', '--push')
    model, config, meta = read_network(
        args.checkpoint,
        config=args.config,
        trust_stored_config=args.trust_stored_config,
        max_bytes=args.max_bytes,
    )
    report = save_pretrained(
        model,
        args.folder,
        config=config,
        dataset_meta=meta,
        half=args.half,
        input_shape=args.shape,
        metrics=dict(args.metric) if args.metric else None,
        dataset=args.dataset,
        license=args.license,
        name=args.push,
    )
    print(report.table())
    print(f'wrote {args.folder}')
    if args.push:
        address = upload(
            Path(args.folder),
            args.push,
            private=args.private or None,
            revision=args.revision,
            create_pr=args.create_pr,
            endpoint=args.endpoint,
        )
        print(f'uploaded to {address}')


if __name__ == '__main__':
    cli.run(main)
