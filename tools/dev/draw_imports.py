"""Draw the imports between the parts of the package, floor by floor.

    python tools/dev/draw_imports.py [docs/imports.png]

A room is a folder or file directly under mmesbnn/. An arrow points from a room to a room
that it imports. All arrows must point down. An arrow that does not is drawn in red, and the
exit status is 1. Imports inside functions count too.
"""

import argparse
import ast
from collections import defaultdict
from pathlib import Path

from mmesbnn import cli
from mmesbnn.whole_files import check_file

PACKAGE = Path(__file__).resolve().parents[2] / 'mmesbnn'

#: Floors from top to bottom. A room may only import rooms of lower floors.
FLOORS = (
    ('pretrained',),
    ('conversion', 'deploy'),
    ('engine',),
    ('analysis',),
    ('project',),
    ('models',),
    ('diffusion', 'evaluation'),
    ('datasets', 'registry'),
    ('binary', 'checkpoints', 'images', 'plots'),
    ('cli', 'native'),
    ('config_changes', 'options'),
    ('checks', 'plain_files', 'plain_values'),
    ('errors', 'old_forms', 'optional', 'seeded', 'version', 'whole_files'),
)
#: Number of floors at the bottom that all rooms use. Arrows to them are not drawn.
GROUND = 4


def imported(tree, package):
    """Yield the full names, split at the dots, of the modules that a file imports."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (tuple(alias.name.split('.')) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            name = base + (tuple(node.module.split('.')) if node.module else ())
            yield from ((*name, alias.name) for alias in node.names)


def rooms(package=PACKAGE):
    """Return all rooms: folders with Python files, and files except ``__init__``."""
    names = {path.stem for path in package.glob('*.py')}
    names |= {path.parent.name for path in package.glob('*/__init__.py')}
    return names - {'__init__'}


def imports(package=PACKAGE):
    """Map (room, imported room) to the files that import."""
    known, found = rooms(package), defaultdict(list)
    for path in sorted(package.rglob('*.py')):
        parts = path.relative_to(package.parent).with_suffix('').parts
        if parts[1] == '.mim' or parts[1] == '__init__':
            continue
        tree = ast.parse(path.read_text(encoding='utf-8'))
        for name in imported(tree, parts[:-1]):
            inside = name[0] == package.name and len(name) > 1
            if inside and name[1] in known - {parts[1]}:
                found[parts[1], name[1]].append(path.relative_to(package))
    return dict(found)


def floor_of():
    """Map each room to the number of its floor, 0 at the top."""
    return {room: i for i, floor in enumerate(FLOORS) for room in floor}


def upward(edges):
    """Return the edges that do not point down, with their files."""
    floor = floor_of()
    return {
        edge: sorted({str(file) for file in files})
        for edge, files in edges.items()
        if floor[edge[0]] >= floor[edge[1]]
    }


def draw(edges, path):
    """Draw the rooms and arrows as a PNG."""
    import matplotlib

    matplotlib.use('Agg')
    import matplotlib.pyplot as plt

    height = len(FLOORS)
    figure, axes = plt.subplots(figsize=(8, 1.1 * height))
    place, wrong = {}, upward(edges)
    for level, floor in enumerate(FLOORS[:-GROUND]):
        for i, room in enumerate(floor):
            place[room] = ((i + 0.5) / len(floor), height - level)
    colours = plt.get_cmap('tab10')
    for number, room in enumerate(place):
        shown = [edge for edge in edges if edge[0] == room and edge[1] in place]
        for source, target in shown:
            (x, y), (u, v) = place[source], place[target]
            colour = 'red' if (source, target) in wrong else colours(number % 10)
            bend = 0.12 if abs(y - v) > 1.5 else 0.0
            axes.annotate(
                '',
                (u, v + 0.2),
                (x, y - 0.2),
                arrowprops={
                    'arrowstyle': '-|>',
                    'color': colour,
                    'alpha': 0.75,
                    'connectionstyle': f'arc3,rad={bend}',
                },
            )
    # all rooms use the ground floors, so arrows to them would only hide the others
    for level, floor in enumerate(FLOORS[-GROUND:]):
        place[', '.join(floor)] = (0.5, GROUND - level)
    for room, (x, y) in place.items():
        axes.text(
            x,
            y,
            room,
            ha='center',
            va='center',
            fontsize=12,
            zorder=3,
            bbox={'boxstyle': 'round,pad=0.4', 'fc': 'white', 'ec': 'black'},
        )
    axes.set(xlim=(0, 1), ylim=(0.5, height + 0.5), title='mmesbnn: who imports whom')
    axes.axis('off')
    figure.tight_layout()
    figure.savefig(path, dpi=110, format='png')


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('out', nargs='?', default='docs/imports.png', help='a PNG')
    args = parser.parse_args()
    check_file(args.out, *PACKAGE.rglob('*.py'))
    edges = imports()
    draw(edges, args.out)
    wrong = upward(edges)
    for (room, other), files in wrong.items():
        print(f'{room} imports {other}, which is not below it: {", ".join(files)}')
    return 1 if wrong else 0


if __name__ == '__main__':
    cli.run(main)
