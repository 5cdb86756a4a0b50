"""Time and memory of training steps: our networks against the published style.

    python tools/benchmarks/training.py [--out DIR] [--networks ...] [--sizes ...] [--forms ...]

A step is forward pass, cross-entropy of 1000 classes, backward pass, AdamW and the clamping of
bounded parameters. The forms of a network run in turn in one process: as the published code
computes it, ours, ours on the native kernels, with recomputation (`with_cp`) and channels last,
each of them eager, compiled, and on a GPU also recorded as a CUDA graph (the mode
`reduce-overhead` of `torch.compile`), in float32 and under bfloat16 autocast. A real-valued
ResNet-18 stands beside them. For every form the script prints the least and the median seconds of
a step, the least seconds of processor time, in which waiting for other processes does not count,
images per second, the bytes that the forward pass saves for the backward pass, the rise of the
process's memory in a step, and the seconds of the first step, in which a compiled form is
compiled. Saves DIR/training.json, and DIR/cpu_4x224.png and so on, after every row; rows of other
settings that are there already stay, so a long benchmark can be run in pieces.

--avx2 saves DIR/training-avx2.json and DIR/cpu_4x224-avx2.png instead, without compiled forms. The
native kernels, torch and its libraries then use AVX2 only.

On a machine that is busy with other work only processor time and the ratios mean something.
``faster`` compares processor time on a CPU, and seconds on a GPU.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import gc
import json
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import Any

from mmesbnn import cli, options  # before what takes time to import

# isort: split

import torch
import torch.nn.functional as F
from published_style import published_style
from speed.names import NATIVE as NATIVE_FORM
from speed.names import check_avx2, native_forms, processor, use_avx2_only
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

import mmesbnn
from mmesbnn import native
from mmesbnn.analysis import save_json
from mmesbnn.binary import TemperatureWeight, recompute, use_native
from mmesbnn.binary.native_mode import bits_to_save
from mmesbnn.binary.recompute import is_kept, keeps_convolutions
from mmesbnn.checks import Rule
from mmesbnn.engine.hooks.parameter_bounds import bounded_parameters, clamp_parameters
from mmesbnn.models.backbones import BinaryViT, BNext, ReActNet
from mmesbnn.whole_files import whole_file

NARROW = [16, 32, 64, 64, 128]
NARROW_18 = dict(channels=[16, 16, 32, 64], depths=[2, 2, 2])
NARROW_VIT = dict(dims=[32, 64], depths=[2, 2], heads=[1, 2], ffn_dims=[128, 256], sr_ratios=[2, 1])
#: For images of 224 pixels, and narrow ones for 32.
WIDE: dict[str, Callable[..., nn.Module]] = {
    'BNext-T': lambda **more: BNext('tiny', **more),
    'ES-BNext-T': lambda **more: BNext('tiny', tau=2, **more),
    'ReActNet-18': lambda **more: ReActNet('18', **more),
    'BinaryViT': lambda **more: BinaryViT('small', **more),
}
SMALL: dict[str, Callable[..., nn.Module]] = {
    'BNext-T': lambda **more: BNext(dict(channels=NARROW), stem_stride=1, **more),
    'ES-BNext-T': lambda **more: BNext(dict(channels=NARROW), tau=2, stem_stride=1, **more),
    'ReActNet-18': lambda **more: ReActNet(NARROW_18, stem_stride=1, **more),
    'BinaryViT': lambda **more: BinaryViT(NARROW_VIT, img_size=32, **more),
}
REAL = 'ResNet-18'
NETWORKS = (*WIDE, REAL)
PUBLISHED, OURS, RECOMPUTING, LAST = 'published', 'ours', 'with_cp', 'channels_last'
NATIVE = 'native'
STYLES = (
    *(PUBLISHED, OURS, NATIVE, RECOMPUTING, f'{RECOMPUTING}+{NATIVE}'),
    *(LAST, f'{RECOMPUTING}+{LAST}'),
)
COMPILED = '+compiled'
#: Compiled, and recorded as a CUDA graph: one launch instead of thousands.
RECORDED = '+recorded'
FORMS = (*STYLES, *(style + way for way in (COMPILED, RECORDED) for style in STYLES))
DTYPES = {'float32': torch.float32, 'bfloat16': torch.bfloat16}
CLASSES = 1000


# ------------------------------------------------------------------ the contenders


class Classifier(nn.Module):
    """A backbone, the mean over positions, and a linear layer."""

    def __init__(self, backbone: nn.Module, channels: int) -> None:
        super().__init__()
        self.backbone, self.head = backbone, nn.Linear(channels, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        """Compute the logits."""
        y = self.backbone(x)
        return self.head((y[-1] if isinstance(y, tuple) else y).mean((2, 3)))


def classifier(network: str, size: int) -> nn.Module:
    """Build a network with weights that are signs, as for most of its training."""
    torch.manual_seed(0)
    if network == REAL:
        from torchvision.models import resnet18

        return Classifier(nn.Sequential(*list(resnet18().children())[:-2]), 512)
    backbone = (SMALL if size < 64 else WIDE)[network]()
    for module in backbone.modules():
        if isinstance(module, TemperatureWeight):
            module.temperature.zero_()
    return Classifier(backbone, backbone.out_channels[-1])


class Training:
    """One contender: a network, its optimizer, and a batch.

    Args:
        network: One of ``NETWORKS``.
        form: One of ``FORMS``.
        dtype: Of autocast; float32 means none.
        size: Height and width of the images.
        batch: Number of images.
        device: Where it runs.
    """

    def __init__(
        self, network: str, form: str, dtype: torch.dtype, size: int, batch: int, device: str
    ) -> None:
        way = next((way for way in (COMPILED, RECORDED) if form.endswith(way)), '')
        style, self.compiled, self.recorded = form.removesuffix(way), bool(way), way == RECORDED
        model = classifier(network, size).to(device)
        self.recomputes, self.native = RECOMPUTING in style, NATIVE in style
        if style == PUBLISHED:
            model = published_style(model)
        if self.recomputes:
            model.backbone.with_cp = True
        self.x = torch.randn(batch, 3, size, size, device=device)
        if LAST in style:
            model = model.to(memory_format=torch.channels_last)
            self.x = self.x.contiguous(memory_format=torch.channels_last)
        self.labels = torch.randint(CLASSES, (batch,), device=device)
        self.model, self.device, self.dtype = model, device, dtype
        # the published code takes torch's default
        self.optimizer = torch.optim.AdamW(
            model.parameters(), lr=1e-4, fused=True if style != PUBLISHED else None
        )
        self.bounded = bounded_parameters(model)
        mode = 'reduce-overhead' if self.recorded else None
        self.call = torch.compile(model, mode=mode) if self.compiled else model

    def forward(self) -> Tensor:
        """Compute the loss."""
        with self.settings():
            return F.cross_entropy(self.call(self.x), self.labels)

    def settings(self) -> torch.autocast:
        """Set kernels and autocast as this form has them."""
        use_native(self.native)
        return torch.autocast(self.device, torch.bfloat16, enabled=self.dtype != torch.float32)

    def stores_outputs(self) -> bool:
        """Return whether recomputation stores outputs of convolutions where no hook sees them."""
        with self.settings():
            return self.recomputes and not self.compiled and keeps_convolutions(self.x)

    def step(self) -> None:
        """Train for one step."""
        self.optimizer.zero_grad()
        self.forward().backward()
        self.optimizer.step()
        clamp_parameters(self.bounded)
        if self.device != 'cpu':
            torch.cuda.synchronize()


# ------------------------------------------------------------------ measuring


class _Kept(TorchDispatchMode):
    """Outputs of the operators that recomputation keeps; no hook sees them."""

    def __init__(self) -> None:
        super().__init__()
        self.outputs: list[Tensor] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        output = func(*args, **(kwargs or {}))
        if is_kept(func, args):
            self.outputs.append(output)
        return output


@contextlib.contextmanager
def _kept_results() -> Iterator[Callable[[], list[Any]]]:
    """Find what recomputation on the native kernels keeps, which no hook sees either."""
    kept: list[Any] = []
    kind = recompute.KeptResults

    class Recorded(kind):  # type: ignore[misc, valid-type]
        def __init__(self) -> None:
            super().__init__()
            kept.append(self)

    recompute.KeptResults = Recorded
    try:
        yield lambda: [step for one in kept for step in one.results if step is not None]
    finally:
        recompute.KeptResults = kind


def _tensors_of(result: Any) -> tuple[Tensor, ...]:
    if isinstance(result, Tensor):  # statistics of a norm
        return (result,)
    return (result.sums, *bits_to_save(result.signs, result.kernels))


def saved_bytes(training: Training) -> int:
    """Bytes that a forward pass saves for the backward pass, parameters and images aside."""
    known = {
        t.untyped_storage().data_ptr()
        for t in (*training.model.parameters(), *training.model.buffers(), training.x)
    }
    saved: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        if tensor.untyped_storage().data_ptr() not in known:
            saved[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    outside = training.stores_outputs()
    recorder = _Kept() if outside else contextlib.nullcontext()
    hooks = torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor)
    with hooks, recorder, _kept_results() as results:
        loss = training.forward()
    if outside:
        for output in recorder.outputs:
            keep(output)
    for result in results():
        for tensor in _tensors_of(result):
            keep(tensor)
    loss.backward()
    training.optimizer.zero_grad()
    return sum(t.untyped_storage().nbytes() for t in saved.values())


def _resident(name: str) -> int:
    text = Path('/proc/self/status').read_text()
    found = re.search(rf'{name}:\s+(\d+) kB', text)
    return 1024 * int(found[1]) if found else 0


def peak_bytes(training: Training) -> int | None:
    """Rise of the memory in use during a step; None where the system does not tell."""
    gc.collect()
    if training.device != 'cpu':
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        training.step()
        return torch.cuda.max_memory_allocated() - before
    try:
        ctypes.CDLL(None).malloc_trim(0)
        Path('/proc/self/clear_refs').write_text('5')  # the peak is now what is in use
    except (OSError, AttributeError):
        return None
    before = _resident('VmRSS')
    training.step()
    return _resident('VmHWM') - before


def measure(trainings: dict[str, Training], steps: int) -> dict[str, dict[str, Any]]:
    """Measure the contenders, in turn step by step.

    Args:
        trainings: The contenders by form.
        steps: How many steps of each are timed.
    """
    results: dict[str, dict[str, Any]] = {}
    for form, training in trainings.items():
        begin = time.perf_counter()
        training.step()
        first = time.perf_counter() - begin
        training.step()
        # a graph stores in memory of its own, and must not be replayed with other references
        saved = None if training.recorded else saved_bytes(training)
        results[form] = dict(first_s=first, saved_bytes=saved)
        results[form]['peak_bytes'] = peak_bytes(training)
    times: dict[str, list[float]] = {form: [] for form in trainings}
    processor: dict[str, list[float]] = {form: [] for form in trainings}
    for _ in range(steps):
        for form, training in trainings.items():
            begin, used = time.perf_counter(), time.process_time()
            training.step()
            times[form].append(time.perf_counter() - begin)
            processor[form].append(time.process_time() - used)
    for form, taken in times.items():
        batch = len(trainings[form].x)
        results[form].update(
            least_s=min(taken),
            processor_s=min(processor[form]),
            median_s=median(taken),
            images_per_s=batch / median(taken),
            times_s=taken,
        )
    return results


# ------------------------------------------------------------------ reporting


def key_of(row: dict[str, Any]) -> tuple[Any, ...]:
    """Return the settings that name a row."""
    return tuple(row[name] for name in ('network', 'batch', 'size', 'dtype', 'device'))


def saved_rows(path: Path) -> dict[tuple[Any, ...], dict[str, Any]]:
    """Read the rows of earlier runs."""
    if not path.exists():
        return {}
    rows = {key_of(row): row for row in json.loads(path.read_text())['rows']}
    for row in rows.values():
        for found in row['forms'].values():
            found.setdefault('processor_s', found['least_s'])  # older files have no such figure
    return rows


def _ratio(row: dict[str, Any], form: str, value: str) -> str:
    base, own = row['forms'].get(PUBLISHED), row['forms'][form]
    if base is None or not base[value] or own[value] is None:
        return ''
    ratio = base[value] / own[value] if value.endswith('_s') else own[value] / base[value]
    return f'{ratio:.2f}'


def table(row: dict[str, Any]) -> str:
    """Format one row: how many times faster than the published style, and its share of bytes."""
    clock = 'processor_s' if row['device'] == 'cpu' else 'least_s'
    lines = [
        f'{row["network"]}, {row["batch"]} x {row["size"]}x{row["size"]}, {row["dtype"]}',
        f'  {"":<32}{"least s":>9}{"median s":>10}{"CPU s":>8}{"images/s":>10}{"faster":>8}'
        f'{"saved MB":>10}{"share":>7}{"peak MB":>9}{"first s":>9}',
    ]
    for form, found in row['forms'].items():
        saved, peak = (
            '' if found[name] is None else f'{found[name] / 1e6:.{digits}f}'
            for name, digits in (('saved_bytes', 1), ('peak_bytes', 0))
        )
        lines.append(
            f'  {form:<32}{found["least_s"]:>9.3f}{found["median_s"]:>10.3f}'
            f'{found["processor_s"]:>8.3f}'
            f'{found["images_per_s"]:>10.1f}{_ratio(row, form, clock):>8}'
            f'{saved:>10}{_ratio(row, form, "saved_bytes"):>7}'
            f'{peak:>9}{found["first_s"]:>9.1f}'
        )
    return '\n'.join(lines)


def _bars(axis: Any, row: dict[str, Any], value: str, unit: str) -> None:
    """Draw one measurement of all forms of a row, per image."""
    forms = list(row['forms'])[::-1]
    colours = ['tab:gray' if form.startswith(PUBLISHED) else 'tab:red' for form in forms]
    factor = 1e-6 if value == 'saved_bytes' else 1e3
    values = [factor * (row['forms'][form][value] or 0) / row['batch'] for form in forms]
    bars = axis.barh(forms, values, color=colours)
    axis.bar_label(bars, [f'{x:.1f}' if x else '' for x in values], padding=2)
    axis.margins(x=0.3)  # room for the labels of the bars
    axis.set_title(f'{row["network"]}, {row["dtype"]}', fontsize=10)
    axis.set_xlabel(unit)


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    """Draw milliseconds and saved megabytes per image; a line for every network.

    Args:
        rows: Of one device, batch and size.
        path: The PNG file to write.
    """
    from matplotlib.figure import Figure

    clock = 'processor_s' if rows[0]['device'] == 'cpu' else 'least_s'
    columns = [
        (dtype, value, unit)
        for value, unit in ((clock, 'ms per image'), ('saved_bytes', 'saved MB per image'))
        for dtype in DTYPES
        if any(row['dtype'] == dtype for row in rows)
    ]
    networks = [name for name in NETWORKS if any(row['network'] == name for row in rows)]
    figure = Figure(figsize=(3.75 * len(columns), 0.6 + 1.8 * len(networks)), layout='constrained')
    axes: Any = figure.subplots(len(networks), len(columns), squeeze=False)
    found = {(row['network'], row['dtype']): row for row in rows}
    for line, network in zip(axes, networks):
        for axis, (dtype, value, unit) in zip(line, columns):
            if (network, dtype) in found:
                _bars(axis, found[network, dtype], value, unit)
            else:
                axis.set_axis_off()
    with whole_file(path) as partial:
        figure.savefig(partial, dpi=80, format='png')


def draw_all(rows: list[dict[str, Any]], folder: Path, ending: str) -> None:
    """Draw a picture for every device, batch and size: cpu_4x224.png, ..."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault(f'{row["device"]}_{row["batch"]}x{row["size"]}{ending}.png', []).append(
            row
        )
    for name, group in groups.items():
        draw(group, folder / name)


def _numbers(text: str) -> tuple[int, ...]:
    if re.fullmatch(r'[1-9]\d{0,4}x[1-9]\d{0,4}', text) is None:
        raise ValueError
    return tuple(map(int, text.split('x')))


_size = options.option(_numbers, Rule('BATCHxPIXELS, such as 4x224', bool))


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--out', type=options.path, default=Path('work_dirs/training_speed'))
    parser.add_argument('--networks', nargs='+', choices=NETWORKS, default=NETWORKS)
    parser.add_argument(
        '--sizes',
        nargs='+',
        type=_size,
        metavar='BATCHxPIXELS',
        default=[(4, 224), (32, 224), (32, 32)],
        help='below 64 pixels networks are narrow (4x224 32x224 32x32)',
    )
    parser.add_argument(
        '--forms', nargs='+', choices=FORMS, default=FORMS, metavar='FORM', help=', '.join(FORMS)
    )
    parser.add_argument('--dtypes', nargs='+', choices=DTYPES, default=list(DTYPES))
    parser.add_argument('--steps', type=options.count, default=5, help='timed per form (5)')
    parser.add_argument('--device', choices=('cpu', 'cuda'), default='cpu')
    parser.add_argument(
        '--avx2',
        action='store_true',
        help='AVX2 only, without compiled forms, which have no switch for it; saves '
        'training-avx2.json',
    )
    args = parser.parse_args()
    check_avx2(parser, args)
    return args


def _forms(network: str, args: argparse.Namespace) -> Iterator[str]:
    """The forms that a network has: a real one has no signs, and nothing to recompute."""
    binary_only = (RECOMPUTING, PUBLISHED, NATIVE)
    unsuited = [RECORDED] if args.device == 'cpu' else [NATIVE]
    if args.avx2:
        unsuited.append(COMPILED)
    if not native.available():
        unsuited.append(NATIVE)
    for form in args.forms:
        binary = any(word in form for word in binary_only)
        if (network != REAL or not binary) and not any(word in form for word in unsuited):
            yield form


def main() -> None:
    args = parse_args()
    if args.avx2:
        use_avx2_only()
        if native.available():
            native.use_instruction_set(native_forms(avx2=True)[NATIVE_FORM])
    args.out.mkdir(parents=True, exist_ok=True)
    path = args.out / f'training{"-avx2" * args.avx2}.json'
    machine = dict(
        device=args.device,
        avx2_only=args.avx2,
        processor=torch.cuda.get_device_name() if args.device == 'cuda' else processor(),
        threads=torch.get_num_threads(),
        mmesbnn=mmesbnn.__version__,
        torch=torch.__version__,
    )
    rows = saved_rows(path)
    for batch, size in args.sizes:
        for network in args.networks:
            for dtype in args.dtypes:
                torch._dynamo.reset()
                trainings = {
                    form: Training(network, form, DTYPES[dtype], size, batch, args.device)
                    for form in _forms(network, args)
                }
                results = measure(trainings, args.steps)
                row = dict(network=network, batch=batch, size=size, dtype=dtype, **machine)
                row['forms'] = results
                rows[key_of(row)] = row
                print(table(row), flush=True)
                save_json(path, dict(rows=list(rows.values())))
                draw_all(list(rows.values()), args.out, '-avx2' * args.avx2)
    print(f'\nwrote {path} and pictures beside it')


if __name__ == '__main__':
    cli.run(main)
