"""Measure the latency of binary networks and of their rivals in one process.

    python tools/benchmarks/latency.py [--out DIR] [--quick] [--config CONFIG]
    python tools/benchmarks/latency.py --networks [CONFIG ...] [--out DIR] [--quick]

The contenders run in turn, on one core and on all, with batches of 1 and 16: the network as
the published code computes it, the eager model, torch.compile, OpenVINO in full precision,
OpenVINO with 1-bit layers, the native engine with every instruction set of the processor, ONNX
Runtime, and MobileNetV3-Large and ResNet-18 of mmpretrain in OpenVINO, in full precision and in
int8 by NNCF. A turn has two runs, of which the second one counts. The time of the first one
depends on who ran before; its median is printed, too. The script prints medians and ratios, the
effect of batches and cores on both engines of a Runner, the time of every kind of operator in the
1-bit network, how much longer its binary kernels take than a loop of xor and popcount on this
machine, how long a cache line takes from core to core before and after a setting of several
cores, and a table in Markdown. Weights are random; thresholds, slopes and statistics are drawn so
that nothing is trivially equal. Saves DIR/latency.json and latency.png.

With --networks it measures several networks, published style, OpenVINO 1-bit and native only:
one image on one core and on all, and 16 images on one core. Detectors are measured from a
photograph to the boxes, and in the published style with one image only. Portable C++ is left out
with 16 images. Prints one table in Markdown and saves DIR/networks.json.

--avx2 saves latency-avx2.json or networks-avx2.json instead. The native kernels, torch, and the
real-valued convolutions and element-wise kernels of OpenVINO then use AVX2 only. OpenVINO's
binary convolutions, thresholds and means do not obey: they use registers of 512 bits where the
processor has them, without the instruction for popcount. Its times are then too short.

On a machine that is busy with other work, the ratios mean little.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmesbnn import cli, options  # before the slow imports

# isort: split

from speed.names import (
    BITS,
    COMPILED,
    NATIVE,
    PUBLISHED,
    check_avx2,
    contenders,
    missing,
    native_forms,
    use_avx2_only,
)

from mmesbnn.optional import require
from mmesbnn.whole_files import check_place, check_unread

if TYPE_CHECKING:
    from mmengine.config import Config
    from speed.measuring import Network, Setting

NETWORKS = [
    'configs/reactnet/reactnet-a_stage2_8xb32_in1k.py',
    'configs/reactnet/birealnet-18_8xb64_in1k.py',
    'configs/bnext/bnext-small_8xb64_in1k.py',
    'configs/bidet/bidet-ssd300_2xb16-300k_voc0712.py',
]


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    measured = parser.add_mutually_exclusive_group()
    measured.add_argument(
        '--config', type=options.name, default='configs/es_bnext_tiny.py', help='a classifier'
    )
    measured.add_argument(
        '--networks',
        type=options.name,
        nargs='*',
        metavar='CONFIG',
        help='classifiers and detectors to measure instead (without names: those of docs/speed.md)',
    )
    parser.add_argument('--out', type=options.path, default=Path('work_dirs/latency'))
    parser.add_argument('--quick', action='store_true', help='one core, batch 1, few runs')
    parser.add_argument(
        '--seconds', type=options.positive, default=3.0, help='per contender and setting (3)'
    )
    parser.add_argument(
        '--only',
        nargs='+',
        metavar='NAME',
        choices=contenders(),
        help=f'contenders besides {BITS!r}: {", ".join(contenders())}',
    )
    parser.add_argument(
        '--avx2',
        action='store_true',
        help='AVX2 only, without ONNX Runtime and torch.compile, which have no switch for it',
    )
    parser.add_argument(
        '--compile-batches',
        action='store_true',
        help='use torch.compile for batches of 16 too; compiling takes minutes',
    )
    args = parser.parse_args()
    check_avx2(parser, args)
    possible = possible_contenders(args)
    for name in args.only or ():
        if name not in possible:
            parser.error(f'--only {name!r}: is not measured with --networks, --avx2 or --quick')
    if args.compile_batches and COMPILED not in possible:
        parser.error('--compile-batches: must be without --networks, --avx2 and --quick')
    if args.quick:
        args.seconds = min(args.seconds, 1.0)
    return args


def possible_contenders(args: argparse.Namespace) -> list[str]:
    """Return the names of the contenders that can be measured with the other options."""
    names = contenders(args.avx2)
    if args.quick or args.avx2:
        names = [name for name in names if name != COMPILED]
    if args.networks is not None:
        names = [name for name in names if name in (PUBLISHED, BITS) or name.startswith(NATIVE)]
    return names


def chosen(args: argparse.Namespace) -> list[str]:
    """Return the contenders to measure; print why others are left out."""
    names = [name for name in possible_contenders(args) if name in (BITS, *(args.only or [name]))]
    why = {name: sentence for name in names if (sentence := missing(name))}
    for sentence in why.values():
        print(f'left out: {sentence}')
    return [name for name in names if name not in why]


def settings(args: argparse.Namespace) -> list[Setting]:
    """Return threads and batch of every setting."""
    from mmesbnn.deploy.runtime.engine import usable_cores

    if args.quick:
        return [(1, 1)]
    cores = sorted({1, usable_cores()})
    if args.networks is not None:
        return [*((count, 1) for count in cores), (1, 16)]
    return [(count, batch) for count in cores for batch in (1, 16)]


def check_kind(config: str, cfg: Config, detectors: bool) -> bool:
    """Return whether a config is that of a detector.

    Raises:
        ValueError: If it is, and ``detectors`` is false, or if it is not of a classifier either.
    """
    scope = cfg.get('default_scope')
    if scope == 'mmdet' and not detectors:
        raise ValueError(f'--config {config}: is a detector, use --networks {config}')
    if scope not in ('mmdet', 'mmpretrain'):
        raise ValueError(f'{config}: default_scope={scope!r} must be mmpretrain or mmdet')
    return scope == 'mmdet'


def measure_all(
    network: Network, names: list[str], args: argparse.Namespace
) -> list[dict[str, Any]]:
    """Measure a network in all settings, and print each table when it is complete."""
    from speed.handover import handover_ns
    from speed.measuring import measure_setting
    from speed.tables import setting_of, table

    results = []
    for setting in settings(args):
        # 16 images of a detector take a minute in portable C++
        tried = [name for name in names if setting[1] == 1 or not name.endswith('portable')]
        before = handover_ns() if setting[0] > 1 else None
        result = measure_setting(network, tried, setting, args.seconds)
        print(f'\n{setting_of(result)}')
        if before is not None and (after := handover_ns()) is not None:
            result['handover_ns'] = [before, after]
            print(
                f'  a cache line takes {before:.0f} ns from core to core, {after:.0f} ns afterwards'
            )
        print(table(result), flush=True)
        results.append(result)
    return results


def measure_one(args: argparse.Namespace, names: list[str], folder: Path) -> dict[str, Any]:
    """Measure one classifier and its rivals."""
    from speed.classifier import Classifier
    from speed.operators import report_kernels
    from speed.runner_ratios import report
    from speed.tables import markdown

    from mmesbnn.analysis import load_config

    print(f'preparing {args.config} ...', flush=True)
    cfg = load_config(args.config)
    check_kind(args.config, cfg, detectors=False)
    forms = native_forms(args.avx2)
    network = Classifier(cfg, names, folder, forms, args.compile_batches)
    results = measure_all(network, names, args)
    runner = report(network.export, 4 if args.quick else 16, 3 if args.quick else 10)
    # the machine's limit, which it compares with, is that of all instructions
    kernels = None if args.avx2 else report_kernels(network, folder, 10 if args.quick else 40, 1.0)
    print(f'\n{markdown({f"`{Path(args.config).stem}`": results})}')
    return dict(
        config=args.config, shape=network.shape, results=results, runner=runner, kernels=kernels
    )


def measure_network(
    args: argparse.Namespace, config: str, names: list[str], folder: Path
) -> dict[str, Any]:
    """Measure one of several networks."""
    from speed.classifier import Classifier
    from speed.detector import Detector

    from mmesbnn.analysis import load_config

    print(f'\npreparing {config} ...', flush=True)
    cfg, forms = load_config(config), native_forms(args.avx2)
    if check_kind(config, cfg, detectors=True):
        detector = Detector(cfg, folder, forms)
        found = dict(shape=detector.shape, boxes=detector.boxes)
        print(f'one photograph, {detector.boxes} boxes')
        return dict(config=config, **found, results=measure_all(detector, names, args))
    classifier = Classifier(cfg, names, folder, forms)
    results = measure_all(classifier, names, args)
    return dict(config=config, shape=classifier.shape, results=results)


def measure_several(args: argparse.Namespace, names: list[str], folder: Path) -> dict[str, Any]:
    """Measure several networks and print them in one table."""
    from speed.tables import markdown

    networks, rows = [], {}
    for i, config in enumerate(args.networks or NETWORKS):
        place = folder / str(i)
        place.mkdir()
        network = measure_network(args, config, names, place)
        _, height, width = network['shape']
        rows[f'`{Path(config).stem}`, {height}x{width}'] = network['results']
        networks.append(network)
    print(f'\n{markdown(rows)}')
    return dict(networks=networks)


def main() -> None:
    args = parse_args()
    if args.avx2:
        use_avx2_only()
    require('openvino', 'deploy', 'latency.py')
    from speed.drawing import draw
    from speed.machine import describe

    from mmesbnn import native
    from mmesbnn.analysis import save_json

    check_place(args.out)
    single = args.networks is None
    stem = args.out / f'{"latency" if single else "networks"}{"-avx2" * args.avx2}'
    written = [stem.with_suffix(ending) for ending in ('.json', '.png')[: 1 + single]]
    check_unread(written, [args.config] if single else args.networks)
    names = chosen(args)
    if native_forms(args.avx2):
        native.use_instruction_set(native_forms(args.avx2)[NATIVE])
    with tempfile.TemporaryDirectory() as name:
        content = (measure_one if single else measure_several)(args, names, Path(name))
    args.out.mkdir(parents=True, exist_ok=True)
    save_json(written[0], {**describe(args.avx2), **content})
    if single:
        draw(content['results'], written[1])
    print(f'\nwrote {" and ".join(map(str, written))}')


if __name__ == '__main__':
    cli.run(main)
